"""A split plan on four bare hosts, as its README says: `make secrets`, `make deploy`, `make verify`; then what callers meet."""

from __future__ import annotations

import base64
import json
import re
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.lab import Lab
from tools.lab.sites import Site

pytestmark = [pytest.mark.lab, pytest.mark.timeout(3600)]
ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = "staging"
HOSTS = {
    "edge": (41, ["proxy", "portal"]),
    "app": (42, ["icdr", "cache"]),
    "db": (43, ["database"]),
    "ops": (44, ["audit", "backup", "monitoring"]),
}
API, HL7 = "cr.staging.demoland.example.org", "hl7.cr.staging.demoland.example.org"
VAULT = "/mnt/santedb-backup/treasury-vault"


def answers() -> dict[str, Any]:
    """The README's example, Demoland's client registry, moved to the lab's network and its own authority."""
    plan: dict[str, Any] = yaml.safe_load((ROOT / "tests/plans/valid/demoland-mpi.yml").read_text(encoding="utf-8"))
    plan["hosts"] = [host for host in plan["hosts"] if host["environment"] != ENVIRONMENT]
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
    }


def partner_request(site: Site) -> None:
    """Ask for the hospital's client certificate as the hospital would: its key stays with it."""
    name = "staging-partner-openmrs-central-hospital"
    folder = site.repository / f"certificates/{ENVIRONMENT}"
    folder.mkdir(parents=True, exist_ok=True)
    entry = next(one for one in site.facts["santedb_certificates"] if one["id"] == name)
    command = ["openssl", "req", "-new", "-newkey", "rsa:3072", "-nodes", "-subj", f"/CN={entry['subject']['cn']}"]
    command += ["-keyout", str(site.folder / "partner.key"), "-out", str(folder / f"{name}.csr")]
    subprocess.run(command, check=True, capture_output=True)


def prepare(site: Site) -> None:
    """What people bring: secrets of others, whom backups are for, the network disk, their signatures."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "backups", "-f", str(site.folder / "backup.key")],
        check=True,
    )
    recipient = (site.folder / "backup.key.pub").read_text(encoding="ascii").strip()
    site.supply({"vault_smtp_password": "Not-a-real-one-1", "vault_backup_encryption_recipient": recipient})
    site.host("ops").ssh(f"mkdir -p {VAULT} && mount -t tmpfs -o size=1G tmpfs {VAULT}")
    partner_request(site)
    clock = site.lab.host("clock", 49)  # the time server of the data centre, not of the plan
    site.lab.start(clock)
    clock.ssh("apt-get install -qy --no-install-recommends chrony >/dev/null 2>&1")
    clock.ssh("printf 'local stratum 8\nallow 10.77.0.0/24\n' >> /etc/chrony/chrony.conf && systemctl restart chrony")
    site.local("all", host_baseline_ntp_servers=["10.77.0.49"])


def santescaffold(site: Site, verb: str, task: str, team_role: str, *more: str) -> None:
    """Sign or waive a task as people do."""
    done = site.lab.ansible(
        verb,
        task,
        "--by",
        "Amina Okello",
        "--team-role",
        team_role,
        *more,
        program="santescaffold",
        cwd=site.repository,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def site(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Bare hosts, a rendered repository, its secrets."""
    site = Site(lab, tmp_path_factory.mktemp("split"), ENVIRONMENT, HOSTS, answers())
    done = site.make("secrets")
    assert done.code == 0, done.text
    prepare(site)
    return site


class Answer:
    """What an HTTP caller got."""

    def __init__(self, status: int, body: str, headers: dict[str, str]) -> None:
        """Keep it."""
        self.status, self.body, self.headers = status, body, headers


class Stay(urllib.request.HTTPRedirectHandler):
    """Shows a redirection instead of following it."""

    def redirect_request(self, *_: Any) -> None:
        """Follow nothing."""
        return


def call(
    site: Site,
    url: str,
    *,
    certificate: bool = False,
    form: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    """Call the environment by its public name as a partner does; the chain is checked against the environment's authority."""
    context = ssl.create_default_context(cafile=str(site.repository / f".ca/{ENVIRONMENT}/ca.crt"))
    if certificate:
        found = site.repository / f"certificates/{ENVIRONMENT}/staging-partner-openmrs-central-hospital.crt"
        context.load_cert_chain(found, site.folder / "partner.key")
    opener = urllib.request.build_opener(
        Stay, urllib.request.HTTPSHandler(context=context), urllib.request.ProxyHandler({})
    )
    data = urllib.parse.urlencode(form).encode() if form else None
    try:
        with opener.open(urllib.request.Request(url, data=data, headers=headers or {}), timeout=20) as found_:
            return Answer(found_.status, found_.read().decode(errors="replace"), dict(found_.headers))
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.read().decode(errors="replace"), dict(error.headers))


def test_the_gate_names_what_is_missing_and_opens_when_it_is_there(site: Site) -> None:
    refused = site.make("deploy", label="deploy, refused")
    assert refused.code != 0
    assert "staging is not deployed; 7 findings:" in refused.line
    assert set(refused.recap.hosts) == {"localhost"}, "hosts were touched"
    # what a machine can prove before anything is installed, it proves; the rest people sign
    preflight = site.make("verify", "--tags", "preflight", "-e", "verified_by=Amina Okello", label="verify preflight")
    assert not preflight.recap.changed.keys() - {"localhost"}
    santescaffold(site, "sign", "DEV-04", "security_analyst", "--evidence", "minutes 7")
    # the lab has small machines without a device mapper, and its people take that on themselves
    waiver = ("--reason", "a laboratory", "--expires", "2099-12-31", "--approved-by", "Ruth Banda")
    santescaffold(site, "waive", "DEP-21", "network_administrator", "--environment", ENVIRONMENT, *waiver)
    santescaffold(site, "waive", "PLN-34", "solutions_architect", *waiver)
    done = site.make("gate")
    assert done.code == 0, done.text[-3000:]


def test_check_mode_on_bare_hosts_changes_nothing(site: Site) -> None:
    done = site.deploy("--check", label="deploy --check, bare hosts")
    assert not done.recap.failed
    assert site.host("db").ssh("ls /etc/postgresql /etc/santedb", check=False).stdout == ""


def test_deploys_from_bare_hosts(site: Site) -> None:
    site.bring_images()
    done = site.deploy()
    assert not done.recap.failed
    assert all(done.recap.hosts[name]["changed"] for name in HOSTS)


def test_a_second_run_changes_nothing_on_any_host(site: Site) -> None:
    done = site.deploy(label="deploy again")
    assert set(done.recap.changed) <= {"localhost"}, done.changes()  # where each deployment leaves its record


def test_verify_proves_it_and_writes_the_records(site: Site) -> None:
    done = site.make("verify", "-e", "verified_by=Amina Okello")
    assert done.code == 0, done.text[-8000:]
    records = site.repository / "records/staging"
    report = yaml.safe_load(sorted((records / "evidence").glob("verify-*.yml"))[-1].read_text(encoding="utf-8"))
    # the published passwords tried, the test audit arrived intact, only planned ports answer from other hosts
    for task in ("DEP-50", "DEP-51", "DEP-53", "DEP-68", "DEP-99"):
        record = yaml.safe_load((records / f"{task}.yml").read_text(encoding="utf-8"))
        assert record["decision"] == "done", task
    assert {entry["task"] for entry in report["waived"]} == {"DEP-21", "PLN-34"}
    assert all(entry["why"] for entry in report["cannot"])
    assert len(report["done"]) >= 45


def test_https_by_the_public_name_only(site: Site) -> None:
    assert call(site, f"https://{API}/fhir/metadata").status == 200
    plain = call(site, f"http://{API}/fhir/metadata")
    assert plain.status == 301
    assert plain.headers["Location"].startswith(f"https://{API}/")
    assert call(site, f"https://{API}/fhir/metadata").headers["Strict-Transport-Security"]
    assert call(site, f"https://{API}/api-docs/").status == 404
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:  # no answer for a name nobody knows: the handshake is refused, or the connection closed without a word
        with (
            socket.create_connection(("10.77.0.41", 443), 5) as raw,
            context.wrap_socket(raw, server_hostname="other.example.org") as link,
        ):
            link.sendall(b"GET /fhir/metadata HTTP/1.1\r\nHost: other.example.org\r\n\r\n")
            answer = link.recv(100)
    except (ssl.SSLError, ConnectionResetError):
        answer = b""
    assert answer == b""


def token(
    site: Site, *, secret: str = "", path: str = "/auth/oauth2_token", forged: str = "", certificate: bool = False
) -> int:
    """Ask for a token as the hospital's system does; return the status."""
    secrets, prefix = site.secrets, "vault_partner_openmrs_central_hospital"
    form = {"grant_type": "client_credentials", "client_id": "OPENMRS"}
    form["client_secret"] = secret or secrets[f"{prefix}_application_secret"]
    device = f"OPENMRS|CENTRAL_HOSPITAL:{secrets[f'{prefix}_device_secret']}"
    headers = {"X-Device-Authorization": f"BASIC {base64.b64encode(device.encode()).decode()}"}
    if forged:
        headers["X-SSL-ClientCert"] = forged
    return call(site, f"https://{API}{path}", form=form, headers=headers, certificate=certificate).status


def test_a_token_needs_a_certificate_and_no_header_stands_in_for_it(site: Site) -> None:
    assert token(site) == 403
    assert token(site, path="//AUTH/oauth2_token") == 403
    mine = site.repository / f"certificates/{ENVIRONMENT}/staging-partner-openmrs-central-hospital.crt"
    assert token(site, forged=urllib.parse.quote(mine.read_text(encoding="ascii"))) == 403
    assert token(site, certificate=True) == 200
    assert token(site, certificate=True, secret="wrong") in {400, 401}


def hl7(site: Site, *, certificate: bool, secret: str) -> str:
    """Send a message over TLS as the hospital does; return the answer, or why there is none."""
    context = ssl.create_default_context(cafile=str(site.repository / f".ca/{ENVIRONMENT}/ca.crt"))
    if certificate:
        found = site.repository / f"certificates/{ENVIRONMENT}/staging-partner-openmrs-central-hospital.crt"
        context.load_cert_chain(found, site.folder / "partner.key")
    text = (
        f"MSH|^~\\&|OPENMRS|CENTRAL_HOSPITAL|MPI|MOH|20260101|{secret}|ADT^A01|7|P|2.5\r"
        "PID|||77^^^CENTRAL_HOSPITAL_MRN\r"
    )
    port = site.group("proxy")["proxy_hl7_stream"]["port"]
    try:
        with (
            socket.create_connection(("10.77.0.41", port), 10) as raw,
            context.wrap_socket(raw, server_hostname=HL7) as link,
        ):
            link.settimeout(10)
            link.sendall(f"\x0b{text}\x1c\r".encode())
            return link.recv(9999).decode().replace("\r", "\n")
    except OSError as error:
        return f"refused: {error}"


def test_hl7_over_tls_reaches_the_application(site: Site) -> None:
    secrets, prefix = site.secrets, "vault_partner_openmrs_central_hospital"
    secret = f"{secrets[f'{prefix}_device_secret']}+{secrets[f'{prefix}_application_secret']}"
    assert "MSA|AA|7" in hl7(site, certificate=True, secret=secret)
    assert "MSA|AR|7" in hl7(site, certificate=True, secret="wrong+wrong")
    assert "MSA" not in hl7(site, certificate=False, secret=secret)
    with pytest.raises(OSError, match=r"timed out|refused|unreachable"):  # in clear only behind the proxy
        socket.create_connection(("10.77.0.42", 2100), 3)


def test_the_database_refuses_clear_text_and_strangers(site: Site) -> None:
    password = site.secrets["vault_database_main_password"]
    program = "import sys, psycopg2; c = psycopg2.connect(sys.stdin.read()); print(c.info.ssl_in_use)"
    trusted = "sslmode=verify-full sslrootcert=/etc/santedb/tls/ca.crt"

    def connect(host: str, parameters: str, word: str = password) -> subprocess.CompletedProcess[str]:
        site.host(host).ssh(
            "python3 -c 'import psycopg2' 2>/dev/null || apt-get install -qy python3-psycopg2 >/dev/null"
        )
        target = (
            f"host=db.lab.example.org hostaddr=10.77.0.43 user=santedb dbname=santedb connect_timeout=4 {parameters}"
        )
        command = f"python3 -c {json.dumps(program)}"
        return site.host(host).ssh(command, input=f"{target} password={word}", check=False)

    assert connect("app", trusted).stdout.strip() == "True"
    assert "no encryption" in connect("app", "sslmode=disable").stderr
    assert "password authentication failed" in connect("app", trusted, "wrong").stderr
    assert "no pg_hba.conf entry" in connect("app", f"{trusted} dbname=santedb_audit").stderr
    stranger = connect("edge", trusted).stderr  # the firewall already
    assert re.search(r"timeout expired|refused|No route", stranger), stranger


def test_what_is_killed_comes_back(site: Site) -> None:
    app = site.host("app")
    app.ssh("kill -9 $(docker inspect --format '{{.State.Pid}}' santedb-icdr)")
    site.wait_for(lambda: call(site, f"https://{API}/fhir/metadata").status == 200, 60)
    db = site.host("db")
    db.ssh("systemctl stop postgresql@15-main")
    site.wait_for(lambda: token(site, certificate=True) != 200, 60)
    db.ssh("systemctl start postgresql@15-main")
    site.wait_for(lambda: token(site, certificate=True) == 200, 120)


def test_a_wrong_vault_password_stops_before_any_host(site: Site) -> None:
    key = site.folder / f".santedb/{ENVIRONMENT}.vault"
    right = key.read_text(encoding="ascii")
    key.write_text("another password", encoding="ascii")
    try:
        done = site.make("deploy", label="deploy, wrong vault password")
    finally:
        key.write_text(right, encoding="ascii")
    assert done.code != 0
    assert "vault.yml cannot be decrypted" in done.line
    assert not set(done.recap.hosts) & set(HOSTS)


def test_an_unreachable_host_is_named_and_fails_the_run(site: Site) -> None:
    site.host("ops").cut()
    try:
        done = site.make("certificates", "-e", "ansible_ssh_timeout=5", "-T", "5", label="certificates, host away")
    finally:
        site.host("ops").heal()
    assert done.code != 0
    assert done.recap.failed == {"ops": 1}


def test_production_waits_for_its_gate(site: Site) -> None:
    done = site.make("gate", environment="production", label="gate production")
    assert done.code != 0
    assert "production is not deployed" in done.line
    shutil.rmtree(site.repository / "records/production", ignore_errors=True)


def test_restored_database_equals_the_source(site: Site) -> None:
    db = site.host("db")
    fill = "CREATE TABLE lab AS SELECT n, md5(n::text) AS word FROM generate_series(1, 20000) n"
    db.ssh(f'runuser -u postgres -- psql -XAtqd santedb -c "{fill}"')
    backup = site.make("backup")
    assert backup.code == 0, backup.text[-5000:]
    begun = time.monotonic()
    key = ("-e", f"restore_drill_identity_file={site.folder / 'backup.key'}")
    drill = site.make("restore-drill", *key)
    assert drill.code == 0, drill.text[-5000:]
    print("restore drill", round(time.monotonic() - begun, 1), "s")
    evidence = sorted((site.repository / "records/staging/evidence").glob("restore-drill-*.yml"))[-1]
    found = yaml.safe_load(evidence.read_text(encoding="utf-8"))
    assert found["passed"]
    assert found["within_rto"]
    restored = found["servers"][0]
    assert restored["databases"]["santedb"]["rows"] >= 20000
    assert all(database["equal"] for database in restored["databases"].values())
