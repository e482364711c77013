"""The environments that the lab deploys: Demoland's client registry on hosts of the lab, and what its people bring."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tools.lab import Lab, images
from tools.lab.namespaces import PROJECT
from tools.lab.partner import Partner
from tools.lab.settings import lab_dir
from tools.lab.sites import Done, Rested, Site

VAULT = "/mnt/santedb-backup/treasury-vault"  # where the plan's second backup target is mounted
SPLIT = {
    "edge": (41, ["proxy", "portal"]),
    "app": (42, ["icdr", "cache"]),
    "db": (43, ["database"]),
    "ops": (44, ["audit", "backup", "monitoring"]),
}
CLUSTERED = {
    "edge": (61, ["proxy", "portal"]),
    "app": (62, ["icdr"]),
    "app2": (63, ["icdr"]),
    "db": (64, ["database"]),
    "db2": (65, ["database"]),
    "ops": (66, ["cache", "queue", "audit", "backup", "monitoring"]),
}
SINGLE = {"one": (71, ["proxy", "portal", "icdr", "cache", "database", "audit", "backup", "monitoring"])}
DEPLOYER = "Samuel Adeyemi"


def demoland(environment: str, **changes: Any) -> dict[str, Any]:
    """Return the README's example, moved to the lab's network and an authority of its own; `environment` has no hosts yet."""
    path = PROJECT / "tests/plans/valid/demoland-mpi.yml"
    plan: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    plan["hosts"] = [host for host in plan["hosts"] if host["environment"] != environment]
    plan["networks"][0]["cidr"] = "10.77.0.1/32"  # administrators: the machine that runs Ansible
    plan["connected_systems"][0]["source_network"] = "10.77.0.0/24"
    return {
        **plan,
        "tls_certificate_source": "organization_ca",
        "client_certificate_scope": "oauth_only",
        "client_certificate_revocation": "none",
        # as many people as hosts of this size serve
        "concurrent_clients": 2,
        "initial_records": 1000,
        "records_per_year": 1000,
        **changes,
    }


def partner(site: Site) -> Partner:
    """Return the hospital that the plan names."""
    names = {
        one["purpose"]: one["fqdn"] for one in site.answers["domain_names"] if one["environment"] == site.environment
    }
    return Partner(site, names["api"], names["hl7"])


def prepare(site: Site) -> None:
    """Do what people do before they deploy: bring secrets of others, a key for backups, a time server, a partner's request."""
    done = site.make("secrets")
    assert done.code == 0, done.text
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "backups", "-f", str(site.folder / "backup.key")]
    subprocess.run(command, check=True)
    recipient = (site.folder / "backup.key.pub").read_text(encoding="ascii").strip()
    site.supply({"vault_smtp_password": "Not-a-real-one-1", "vault_backup_encryption_recipient": recipient})
    partner(site).request_certificate()
    clock = site.lab.host("clock", 49)  # the time server of the data centre, not of the plan
    site.lab.start(clock)
    clock.ssh("apt-get install -qy --no-install-recommends chrony >/dev/null 2>&1")
    clock.ssh("printf 'local stratum 8\nallow 10.77.0.0/24\n' >> /etc/chrony/chrony.conf && systemctl restart chrony")
    site.local("all", host_baseline_ntp_servers=["10.77.0.49"])


def sign(site: Site, verb: str, task: str, team_role: str, *more: str, by: str = "Amina Okello") -> None:
    """Sign or waive a task as people do."""
    words = (verb, task, "--by", by, "--team-role", team_role, *more)
    done = site.lab.ansible(*words, program="santescaffold", cwd=site.repository)
    assert done.returncode == 0, done.stderr


def blocking(site: Site, stage: str) -> list[dict[str, Any]]:
    """Return what still blocks a stage of the environment, as `santescaffold status --json` lists it."""
    words = ("status", "--environment", site.environment, "--json")
    done = site.lab.ansible(*words, program="santescaffold", cwd=site.repository)
    assert done.returncode == 0, done.stderr
    stages = json.loads(done.stdout)["environments"][0]["stages"]
    found: list[dict[str, Any]] = next(one for one in stages if one["name"] == stage)["blocked_by"]
    return found


def sign_stage(site: Site, stage: str, second: str = "Ruth Banda", *, proven: bool = False) -> None:
    """Let the people of the plan sign what still blocks a stage, each in the owner's role; `second` approves with them.

    What machines can prove is left to them; once they had their say (`proven`), people sign what remains of it.
    """
    everybody = {one["team_role"]: one["name"] for one in site.answers["contacts"]}
    for task in blocking(site, stage):
        if task["todo"].startswith("run `make verify") and not proven:
            continue
        by = everybody.get(task["owner"], "Joseph Mensah")
        where = () if task["where"].startswith("records/project/") else ("--environment", site.environment)
        approved = ("--approved-by", second) if "--approved-by" in task["todo"] else ()
        sign(site, "sign", task["task"], task["owner"], "--evidence", "minutes 7", *where, *approved, by=by)


STRANGER = """
import socket, ssl, sys
proxy, *calls = sys.argv[1:]
for call in calls:
    name, _, path = call.partition("/")
    try:
        with socket.create_connection((proxy, 443), 20) as raw:
            with ssl._create_unverified_context().wrap_socket(raw, server_hostname=name) as link:
                link.sendall(f"GET /{path} HTTP/1.0\\r\\nHost: {name}\\r\\n\\r\\n".encode())
                print(link.recv(100).split()[1].decode())
    except OSError as error:
        print(error)
"""


def stranger(site: Site, label: str) -> None:
    """Call API and portal from a host of no trusted network; the run says the statuses, or why there is no answer."""
    names = {
        one["purpose"]: one["fqdn"] for one in site.answers["domain_names"] if one["environment"] == site.environment
    }
    proxy = next(number for number, groups in site.groups.values() if "proxy" in groups)
    command = f"python3 - 10.77.0.{proxy} {names['api']}/fhir/metadata {names['portal']}/"
    done = site.host("clock").ssh(command, input=STRANGER, check=False)
    site.runs[label] = Done(done.returncode, done.stdout + done.stderr, 0)


def waive_what_no_lab_has(site: Site, *more: str) -> None:
    """Waive disk encryption and host sizes: the lab has small machines without a device mapper."""
    waiver = (*more, "--reason", "a laboratory", "--expires", "2099-12-31", "--approved-by", "Ruth Banda")
    sign(site, "waive", "DEP-21", "network_administrator", "--environment", site.environment, *waiver)
    sign(site, "waive", "PLN-34", "solutions_architect", *waiver)


def open_the_gate(site: Site, *more: str) -> None:
    """Let a machine prove what it can prove before anything is installed; sign and waive the rest, as people do.

    `more` are options of `santescaffold sign`: --again where the answers have changed since.
    """
    site.make("verify", "--tags", "preflight", "-e", "verified_by='Amina Okello'", label="verify preflight")
    sign(site, "sign", "DEV-04", "security_analyst", "--evidence", "minutes 7", *more)
    waive_what_no_lab_has(site, *more)
    site.make("gate")


def offer_release(site: Site, host: str, tag: str, *, broken: bool = False, engine: str = "docker") -> None:
    """Plan another version of SanteDB, approve it, and put its image where a registry would have it."""
    images.load(site.host(host), images.standin_archive(tag, image="mpi", fail_migration=broken), engine)
    site.render(image_versions={**(site.answers.get("image_versions") or {}), "mpi": tag})
    # the approval was of other versions
    sign(site, "sign", "DEP-24", "network_administrator", "--environment", site.environment, "--evidence", tag)
    site.commit(f"Version {tag}")


def split(lab: Lab, folder: Path) -> Rested:
    """Deploy the split plan from bare hosts, in check mode first, then interrupted half-way, then to the end."""
    site = Site(lab, folder, "staging", SPLIT, demoland("staging")).build({"ops": [VAULT]})
    prepare(site)
    site.make("deploy", label="deploy, refused")
    open_the_gate(site)
    site.make("deploy", "--check", label="deploy --check, bare hosts")
    site.bring_images()
    site.interrupt("deploy", at="TASK [database : Make the extensions", label="deploy, interrupted")
    site.deploy()
    return site.rest()


def cluster(lab: Lab, folder: Path) -> Rested:
    """Deploy staging on a cluster of bare hosts, at once and in one piece."""
    answers = demoland("staging", topology="clustered", database_failover="streaming_replication", read_replicas=1)
    site = Site(lab, folder, "staging", CLUSTERED, answers).build({"ops": [VAULT]})
    prepare(site)
    open_the_gate(site)
    site.bring_images()
    site.deploy()
    return site.rest()


def single(lab: Lab, folder: Path) -> Rested:
    """Deploy everything on one bare host, with Podman."""
    answers = demoland("staging", topology="single_host", database_placement="same_server", environments=["staging"])
    for question in ("hosts", "domain_names"):
        answers[question] = [one for one in answers[question] if one["environment"] == "staging"]
    site = Site(lab, folder, "staging", SINGLE, answers).build({"one": [VAULT, "/var/lib/containers"]})
    prepare(site)
    site.local("icdr", icdr_container_engine="podman")
    site.local("portal", portal_container_engine="podman")
    open_the_gate(site)
    site.make("deploy", "--check", label="deploy --check, bare host")
    site.bring_images("podman")
    site.deploy()
    return site.rest()


def clustered(lab: Lab, folder: Path) -> Rested:
    """Deploy production on a cluster: refused, signed, deployed with its proxy closed, proven, approved, opened."""
    answers = demoland("production", topology="clustered", database_failover="streaming_replication", read_replicas=1)
    site = Site(lab, folder, "production", CLUSTERED, answers).build({"ops": [VAULT]})
    site.git("config", "user.name", DEPLOYER)
    prepare(site)
    site.make("deploy", label="deploy, refused")
    # no gate stops what makes machines ready; then they prove what machines can, and people sign the rest
    for target in ("baseline", "certificates"):
        assert site.make(target).code == 0, site.runs[target].text[-8000:]
    site.make("verify", "--tags", "preflight", "-e", "verified_by='Grace Wanjiru'", label="verify preflight")
    waive_what_no_lab_has(site)
    sign_stage(site, "before_install")
    site.commit("Signed: deployment")
    site.bring_images()
    site.deploy(label="deploy, closed")
    stranger(site, "stranger, closed")
    site.make("verify", "-e", "verified_by='Grace Wanjiru'", label="verify, closed")
    sign_stage(site, "before_use", second=DEPLOYER, proven=True)
    site.make("gate", label="gate, approved by who deploys")
    sign(site, "sign", "DEP-106", "project_sponsor", "--environment", "production", "--evidence", "minutes 8",
         "--approved-by", "Ruth Banda", "--again")  # fmt: skip
    site.commit("Signed: go-live")
    site.deploy(label="deploy, open")
    stranger(site, "stranger, open")
    return site.rest()


def at_rest(name: str, keep: str | None, lab: Lab, folder: Path) -> Rested:
    """Return the named deployment at rest; kept ones (LAB_KEEP=NAME) are made once and used again until removed."""
    kept = lab_dir() / "sites" / f"{keep}-{name}" if keep else None
    if kept and (kept / "rested.pickle").exists():
        return Rested.kept(kept)
    rested = DEPLOYMENTS[name](lab, folder)
    if kept:
        rested.keep(kept)
    return rested


DEPLOYMENTS = {"split": split, "cluster": cluster, "clustered": clustered, "single": single}
