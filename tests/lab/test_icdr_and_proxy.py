"""SanteDB's application servers (the stand-in), their hardening and the proxy, deployed from a rendered plan onto bare hosts."""

from __future__ import annotations

import base64
import json
import re
import secrets
import shlex
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools import render
from tools.lab import Host, Lab, images

pytestmark = [pytest.mark.lab, pytest.mark.timeout(3600)]

ENVIRONMENT = "production"
HOSTS = {"edge": 41, "app1": 42, "app2": 43, "db": 44}
GROUPS = {"edge": ["proxy"], "app1": ["icdr"], "app2": ["icdr"], "db": ["database", "cache", "queue", "backup"]}
API, HL7 = "mpi.lab.example.org", "hl7.lab.example.org"
PARTNER = {
    "name": "Clinic",
    "type": "emr",
    "owner": "Clinic",
    "standards": ["fhir_r4", "hl7v2_sllp"],
    "direction": "inbound",
    "source_network": "10.77.0.0/24",
    "application_name": "CLINIC",
    "device_name": "CLINIC|ONE",
    "authentication": "client_certificate",
    "agreement_reference": "A1",
}
PLAN: dict[str, Any] = {
    "project_name": "Lab Registry",
    "organization": "Lab Ministry",
    "jurisdiction": "Labland",
    "country_code": "XL",
    "vision_statement": "Nobody comes in who was not let in.",
    "roles": ["mpi"],
    "standards": ["fhir_r4", "hl7v2_sllp", "openid_connect", "hdsi", "ami"],
    "environments": [ENVIRONMENT],
    "topology": "clustered",
    "tls_certificate_source": "organization_ca",
    "client_certificate_scope": "oauth_only",
    "client_certificate_revocation": "none",
    "hl7_client_certificates": True,
    "server_os": "debian",
    "mfa": "required",
    "mfa_method": "authenticator",
    "networks": [{"name": "lab", "cidr": "10.77.0.0/24", "purpose": "the lab", "trusted": True}],
    "connected_systems": [PARTNER],
    "identity_domains": [
        {
            "name": "Clinic number",
            "issuer": "Clinic",
            "namespace_id": "CLINIC_ID",
            "oid": "2.16.840.1.113883.3.9999.7",
            "url": "https://lab.example.org/clinic",
            "purpose": "identification",
            "scope": ["Patient"],
            "unique": True,
            "uniqueness": "global",
            "assigning_applications": ["CLINIC"],
        }
    ],
    "domain_names": [
        {"environment": ENVIRONMENT, "purpose": "api", "fqdn": API, "public": True},
        {"environment": ENVIRONMENT, "purpose": "hl7", "fqdn": HL7, "public": False},
    ],
}


class Site:
    """A rendered deployment repository and the hosts it deploys to."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.folder, self.repository = lab, folder, folder / "repository"
        self.values: dict[str, str] = {}
        self.times: dict[str, float] = {}

    def render(self, **answers: Any) -> None:
        """Render the plan over the repository, fill the vault, leave the gate (tested elsewhere) open."""
        hosts = [
            {
                "name": name,
                "environment": ENVIRONMENT,
                "groups": GROUPS[name],
                "address": f"10.77.0.{number}",
                "internal_fqdn": f"{name}.lab.example.org",
                "vcpu": 2,
                "ram_gb": 2,
                "disk_gb": 20,
                "os": "debian",
            }
            for name, number in HOSTS.items()
        ]
        if not (self.folder / "template").exists():
            render.snapshot(self.folder / "template")
        render.render(self.repository, {**PLAN, "hosts": hosts, **answers}, self.folder / "template")
        vault = self.repository / f"inventories/{ENVIRONMENT}/group_vars/all/vault.yml"
        facts = yaml.safe_load((vault.parent / "10-generated.yml").read_text(encoding="utf-8"))
        for secret in facts["santedb_required_secrets"]:
            text = f"Aa1{secrets.token_hex(14)}" + ("-" if "password" in secret["name"] else "")
            self.values.setdefault(secret["name"], text)
        vault.write_text(json.dumps(self.values), encoding="utf-8")
        gate = "- name: Gate\n  hosts: localhost\n  gather_facts: false\n  tasks: []\n"
        for name in ("gate", "release"):
            (self.repository / f"playbooks/{name}.yml").write_text(gate, encoding="utf-8")
        self.partner = next(one for one in facts["santedb_certificates"] if one["purpose"] == "partner")

    def request(self) -> None:
        """Ask for the partner's client certificate as the partner would."""
        folder = self.repository / f"certificates/{ENVIRONMENT}"
        folder.mkdir(parents=True, exist_ok=True)
        command = [
            "openssl",
            "req",
            "-new",
            "-newkey",
            "rsa:3072",
            "-nodes",
            "-keyout",
            str(self.folder / "partner.key"),
        ]
        command += ["-out", str(folder / f"{self.partner['id']}.csr"), "-subj", f"/CN={self.partner['subject']['cn']}"]
        subprocess.run(command, check=True, capture_output=True)

    def play(self, name: str, *arguments: str, label: str | None = None) -> tuple[int, str]:
        """Run playbooks (names with blanks between them); return the exit code and the output."""
        begun = time.monotonic()
        playbooks = [f"playbooks/{one}.yml" for one in name.split()]
        done = self.lab.ansible("-i", f"inventories/{ENVIRONMENT}", *arguments, *playbooks, cwd=self.repository)
        self.times[label or name] = round(time.monotonic() - begun, 1)
        print(f"{label or name}: {self.times[label or name]} s", flush=True)
        return done.returncode, done.stdout + done.stderr

    def deploy(self, name: str, *arguments: str, label: str | None = None) -> int:
        """Run a playbook that must succeed; return how many tasks changed something."""
        code, text = self.play(name, *arguments, label=label)
        assert code == 0, text[-8000:]
        return sum(int(found) for found in re.findall(r"changed=(\d+)", text))

    def refused(self, name: str, *arguments: str) -> str:
        """Run a playbook that must fail; return its output on one line."""
        code, text = self.play(name, *arguments)
        assert code == 2, text[-8000:]
        return re.sub(r"\s+", " ", text)


@pytest.fixture(scope="module")
def site(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Bare hosts, brought up to a database and certificates; the stand-in's image is on the application servers."""
    for name, number in HOSTS.items():
        lab.host(name, number, docker=name.startswith("app"))
    lab.start()
    site = Site(lab, tmp_path_factory.mktemp("site"))
    site.render()
    site.request()
    prepare(site)
    return site


def prepare(site: Site) -> None:
    """Everything before the application servers, and what no registry in reach has: the image."""
    site.deploy("baseline certificates database cache queue")
    site.deploy("icdr", "--tags", "icdr_install", label="icdr install")
    archive = images.standin_archive(image="mpi")
    for name in ("app1", "app2"):
        images.load(site.lab[name], archive)
    for name in ("partner.key", "ca.crt", "partner.crt"):
        source = {
            "partner.key": site.folder / name,
            "ca.crt": site.repository / f".ca/{ENVIRONMENT}/ca.crt",
            "partner.crt": site.repository / f"certificates/{ENVIRONMENT}/{site.partner['id']}.crt",
        }[name]
        site.lab["db"].put(source, f"/root/{name}")
    site.lab["db"].ssh("apt-get install -qy --no-install-recommends curl openssl >/dev/null")


def curl(site: Site, path: str, *options: str, host: str = API, address: str = "10.77.0.41") -> str:
    """Return the HTTP status that a caller on the database host gets from the proxy."""
    command = ["curl", "-s", "-o", "/root/body", "-w", "%{http_code}", "--cacert", "/root/ca.crt"]
    command += ["--resolve", f"{host}:443:{address}", "--resolve", f"{host}:80:{address}", *options]
    url = path if path.startswith("http") else f"https://{host}{path}"
    return site.lab["db"].ssh(shlex.join([*command, url]), check=False).stdout


CERTIFICATE = ("--cert", "/root/partner.crt", "--key", "/root/partner.key")


def healthy(host: Host) -> bool:
    probe = "curl -s -o /dev/null -w %{http_code} -X PING http://127.0.0.1:8080/hdsi/"
    python = "import urllib.request as u; print(u.urlopen(u.Request('http://127.0.0.1:8080/hdsi/', method='PING'), timeout=3).status)"
    return "204" in host.ssh(f"{probe} 2>/dev/null || python3 -c {shlex.quote(python)}", check=False).stdout


def test_deploys_and_a_second_run_changes_nothing(site: Site) -> None:
    site.deploy("icdr hardening proxy")
    assert all(healthy(site.lab[name]) for name in ("app1", "app2"))
    assert site.deploy("icdr hardening proxy", label="again") == 0


def test_secrets_are_where_root_alone_reads_them(site: Site) -> None:
    host = site.lab["app1"]
    modes = host.ssh("stat -c '%a %n' /etc/santedb/icdr /etc/santedb/icdr/environment /santedb/.x509/*.pfx").stdout
    assert {line.split()[0] for line in modes.splitlines()} <= {"700", "600"}, modes
    assert "rs256:" in host.ssh("cat /etc/santedb/icdr/environment").stdout


def test_published_defaults_are_dead_and_the_second_factor_is_on(site: Site) -> None:
    known = images.identities()
    token = "curl -s http://127.0.0.1:8080/auth/oauth2_token "
    host = site.lab["app2"]
    host.ssh("command -v curl >/dev/null || apt-get install -qy --no-install-recommends curl >/dev/null")
    for name, secret in known["applications"].items():
        form = f"--data-urlencode client_id={shlex.quote(name)} --data-urlencode client_secret={shlex.quote(secret)}"
        answer = json.loads(host.ssh(f"{token} -d grant_type=client_credentials {form}").stdout)
        assert answer["error"] == "invalid_client", name
    console = site.values["vault_application_org_santedb_administration_secret"]
    form = f"-d grant_type=password -d client_id=org.santedb.administration -d client_secret={console}"
    for name in known["users"]:
        password = shlex.quote(known["users"][name]["password"])
        answer = json.loads(host.ssh(f"{token} {form} -d username={name} --data-urlencode password={password}").stdout)
        assert answer["error"] == "invalid_grant", name
    password = shlex.quote(site.values["vault_santedb_administrator_password"])
    answer = json.loads(
        host.ssh(f"{token} {form} -d username=Administrator --data-urlencode password={password}").stdout
    )
    assert answer["error"] == "mfa_required"


def test_who_comes_in_by_https(site: Site) -> None:
    assert curl(site, "/fhir/metadata") == "200"
    assert curl(site, "http://mpi.lab.example.org/fhir/metadata") == "301"
    assert curl(site, "/api-docs/") == "404"
    assert curl(site, "/API-Docs/") == "404"
    # no answer for a name nobody knows
    assert curl(site, "/fhir/metadata", "--insecure", host="other.example.org") == "000"
    # a token only with a certificate of the authorities accepted
    form = ("-d", "grant_type=client_credentials", "-d", "client_id=CLINIC", "-d", "client_secret=x")
    assert curl(site, "/auth/oauth2_token", *form) == "403"
    assert curl(site, "//AUTH/oauth2_token", *form) == "403"
    assert curl(site, "/auth/oauth2_token", *form, "-H", "X-SSL-ClientCert: forged") == "403"
    assert curl(site, "/auth/oauth2_token", *form, *CERTIFICATE) == "401"
    secret = site.values["vault_partner_clinic_application_secret"]
    device = f"CLINIC|ONE:{site.values['vault_partner_clinic_device_secret']}"
    header = f"X-Device-Authorization: BASIC {base64.b64encode(device.encode()).decode()}"
    form = ("-d", "grant_type=client_credentials", "-d", "client_id=CLINIC", "-d", f"client_secret={secret}")
    assert curl(site, "/auth/oauth2_token", *form, *CERTIFICATE, "-H", header) == "200"
    old = site.lab["db"].ssh(
        "openssl s_client -connect 10.77.0.41:443 -servername mpi.lab.example.org -tls1_1 </dev/null 2>&1", check=False
    )
    assert "Cipher is (NONE)" in old.stdout


def test_a_forged_certificate_header_does_not_reach_the_application(site: Site) -> None:
    sink = (
        "import socket\ns = socket.create_server(('', 8080))\nwhile True:\n c, _ = s.accept()\n"
        " open('/root/heads', 'ab').write(c.recv(65536))\n c.sendall(b'HTTP/1.1 204 No Content\\r\\n"
        "Connection: close\\r\\n\\r\\n')\n c.close()\n"
    )
    for name in ("app1", "app2"):
        host = site.lab[name]
        host.ssh("docker stop santedb-icdr && cat > /root/sink.py", input=sink)
        host.ssh("systemd-run --unit sink python3 /root/sink.py")
    time.sleep(1)
    headers = (
        "-H",
        "X-SSL-ClientCert: forged",
        "-H",
        "x-ssl-clientcert: forged2",
        "-H",
        "X-Forwarded-For: 1.2.3.4",
        "-H",
        "X-Real-IP: 1.2.3.4",
    )
    assert curl(site, "/hdsi/Patient", *headers) == "204"
    heads = "".join(site.lab[name].ssh("cat /root/heads 2>/dev/null", check=False).stdout for name in ("app1", "app2"))
    for name in ("app1", "app2"):
        site.lab[name].ssh("systemctl stop sink; docker start santedb-icdr")
        site.lab[name].wait_until("docker logs --since 60s santedb-icdr 2>&1 | grep -q 'startup completed'", 60)
    assert "GET /hdsi/Patient" in heads
    assert "forged" not in heads
    assert "1.2.3.4" not in heads
    assert "10.77.0.44" in heads


def test_closed_proxy_admits_trusted_networks_only(site: Site) -> None:
    site.deploy("proxy", "-e", '{"proxy_trusted_networks": ["10.99.0.0/24"]}', label="proxy closed")
    assert curl(site, "/fhir/metadata") == "403"
    site.deploy("proxy", "-e", '{"proxy_trusted_networks": ["10.99.0.0/24"], "proxy_open": true}', label="proxy open")
    assert curl(site, "/fhir/metadata") == "200"
    site.deploy("proxy", label="proxy as planned")


def hl7(site: Site, certificate: bool, secret: str) -> str:
    program = (
        "import socket, ssl, sys\nc = ssl.create_default_context(cafile='/root/ca.crt')\n"
        + ("c.load_cert_chain('/root/partner.crt', '/root/partner.key')\n" if certificate else "")
        + f"s = c.wrap_socket(socket.create_connection(('10.77.0.41', 2200), 10), server_hostname='{HL7}')\n"
        f"s.sendall(b'\\x0bMSH|^~\\\\&|CLINIC|ONE|MPI|MOH|20260101|{secret}|ADT^A01|7|P|2.5\\rPID|||77^^^CLINIC_ID\\r\\x1c\\r')\n"
        "print(s.recv(9999).decode().replace(chr(13), chr(10)))\n"
    )
    done = site.lab["db"].ssh("python3 -", input=program, check=False)
    return done.stdout + done.stderr


def test_hl7_over_tls_reaches_the_application(site: Site) -> None:
    secret = (
        f"{site.values['vault_partner_clinic_device_secret']}+{site.values['vault_partner_clinic_application_secret']}"
    )
    assert "MSA|AA|7" in hl7(site, True, secret)
    assert "MSA|AR|7" in hl7(site, True, "wrong+wrong")
    assert "MSA" not in hl7(site, False, secret)
    direct = "import socket; socket.create_connection(('10.77.0.42', 2100), 3)"
    assert site.lab["db"].ssh(f"python3 -c {shlex.quote(direct)}", check=False).returncode != 0


def test_a_cluster_is_replaced_one_server_after_the_other(site: Site) -> None:
    stop = threading.Event()
    answers: list[str] = []

    def call() -> None:
        while not stop.is_set():
            answers.append(curl(site, "/fhir/metadata"))
            time.sleep(0.2)

    caller = threading.Thread(target=call)
    caller.start()
    try:
        site.deploy("icdr", "-e", '{"icdr_environment_extra": {"SDB_DELAY_START": "500"}}', label="icdr rolling")
    finally:
        stop.set()
        caller.join()
    assert set(answers) == {"200"}, {one: answers.count(one) for one in set(answers)}


def test_what_is_killed_comes_back(site: Site) -> None:
    host = site.lab["app1"]
    host.ssh("kill -9 $(docker inspect --format '{{.State.Pid}}' santedb-icdr)")
    host.wait_until("curl -s -o /dev/null -w %{http_code} -X PING http://127.0.0.1:8080/hdsi/ | grep -q 204", 60)


def test_a_start_that_fails_is_noticed_and_the_other_server_left_alone(site: Site) -> None:
    text = site.refused("icdr", "-e", '{"icdr_environment_extra": {"SDB_FEATURE": "LOG;NO_SUCH_FEATURE"}}')
    assert "SanteDB did not start; on app1; its log says: " in text
    assert "NO_SUCH_FEATURE" in text
    assert healthy(site.lab["app2"])
    assert curl(site, "/fhir/metadata") == "200"
    site.deploy("icdr", label="icdr repaired")
    assert healthy(site.lab["app1"])


def test_a_server_that_leaves_takes_its_secrets_along(site: Site) -> None:
    inventory = site.repository / f"inventories/{ENVIRONMENT}/hosts.yml"
    before = inventory.read_text(encoding="utf-8")
    inventory.write_text(before.replace("        app2: {}\n", ""), encoding="utf-8")
    site.deploy("icdr", label="icdr without app2")
    inventory.write_text(before, encoding="utf-8")
    assert site.lab["app2"].ssh("docker ps -q").stdout == ""
    assert site.lab["app2"].ssh("ls /etc/santedb/icdr", check=False).returncode != 0
    assert curl(site, "/fhir/metadata") == "200"
