"""Two audit collectors in a row on bare hosts: who may send, what is kept and passed on, what a cut network and a full disk do to it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tools.lab import Host, Lab

pytestmark = pytest.mark.lab
ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "template"
GOLDEN = ROOT / "tests/golden/demoland-mpi"
CENTRAL = "audit.hie.demoland.example.org"
NUMBERS = {"app": 30, "collector": 31, "centre": 32}
NAMES = {"app": "app.staging.invalid", "collector": "collector.staging.invalid", "centre": CENTRAL}
PORTS = [
    {"group": "all", "service": "ssh", "port": 22, "protocol": "tcp", "from": [{"cidr": "10.77.0.0/24"}]},
    {
        "group": "audit",
        "service": "audit-collector",
        "port": 6514,
        "protocol": "tcp",
        "from": [{"group": "icdr"}, {"cidr": "10.77.0.1/32"}],
    },
]
SENDER = """
import socket, ssl, sys
host, port, name, count, first = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
context = ssl.create_default_context(cafile="/etc/santedb/tls/ca.crt")
context.check_hostname = False
if name != "-":
    context.load_cert_chain(f"/root/{name}.crt", f"/root/{name}.key")
with context.wrap_socket(socket.create_connection((host, port), 5)) as link:
    for number in range(first, first + count):
        body = f"<85>1 2026-11-21T10:00:00.000Z app mono 12 DICOM+RFC3881 - <AuditMessage n='{name}-{number}'/>"
        link.sendall(f"{len(body)} {body}".encode())
    link.settimeout(1)
    try:
        link.recv(1)
    except TimeoutError:
        pass
"""


def openssl(*arguments: str, cwd: Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=cwd, check=True, capture_output=True)


def authority(folder: Path, name: str) -> None:
    subject = ["-subj", f"/CN={name}", "-days", "30", "-keyout", f"{name}.key", "-out", f"{name}.crt"]
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", *subject, cwd=folder)


def issue(folder: Path, name: str, fqdn: str, ca: str = "ca") -> None:
    (folder / "ext").write_text(f"subjectAltName=DNS:{fqdn}\nextendedKeyUsage=serverAuth,clientAuth\n")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-keyout", f"{name}.key"]
    openssl("req", *key, "-subj", f"/CN={fqdn}", "-out", f"{name}.csr", cwd=folder)
    sign = ["-CA", f"{ca}.crt", "-CAkey", f"{ca}.key", "-CAcreateserial", "-days", "30", "-extfile", "ext"]
    openssl("x509", "-req", "-in", f"{name}.csr", *sign, "-out", f"{name}.crt", cwd=folder)


class Repository:
    """A deployment repository with the template's own roles and the rendered collectors of the first named plan."""

    def __init__(self, path: Path, lab: Lab) -> None:
        self.path, self.lab = path, lab
        for name in ("roles", "playbooks"):
            shutil.copytree(TEMPLATE / name, path / name)
        shutil.copy(TEMPLATE / "ansible.cfg", path)
        # whether a deployment may happen is proved elsewhere
        (path / "playbooks/gate.yml").write_text(
            "---\n- name: Gate\n  hosts: localhost\n  gather_facts: false\n  tasks: []\n"
        )
        rendered = (GOLDEN / "audit/staging/collector.conf.j2").read_text()
        end = re.sub(r"  # What the other side.*?\n  \)\n(?=  stop)", "", rendered, flags=re.DOTALL)
        assert "omfwd" in rendered
        assert "omfwd" not in end
        for environment, text in (("staging", rendered), ("central", end)):
            (path / "audit" / environment).mkdir(parents=True)
            (path / "audit" / environment / "collector.conf.j2").write_text(text)
        self.inventory()

    def inventory(self, **variables: Any) -> None:
        for environment, groups in (
            ("staging", {"icdr": ["app"], "audit": ["collector"]}),
            ("central", {"audit": ["centre"]}),
        ):
            values = {
                "santedb_ports": PORTS,
                "santedb_environment_name": environment,
                "santedb_production": False,
                "audit_allowed_peers": [NAMES["app" if environment == "staging" else "collector"]],
                "audit_forward": {"host": CENTRAL, "port": 6514, "transport": "stcp"}
                if environment == "staging"
                else None,
                "audit_queue_max_mb": 64,
                **variables,
            }
            children = {
                group: {"hosts": {host: {"ansible_host": f"10.77.0.{NUMBERS[host]}"} for host in hosts}}
                for group, hosts in {"gateway": [], "monitoring": [], "icdr": [], **groups}.items()
            }
            folder = self.path / "inventories" / environment
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "hosts.yml").write_text(json.dumps({"all": {"vars": values, "children": children}}))

    def play(self, playbook: str, environment: str, *more: str) -> subprocess.CompletedProcess[str]:
        return self.lab.ansible(f"playbooks/{playbook}.yml", "-i", f"inventories/{environment}", *more, cwd=self.path)


def changes(done: subprocess.CompletedProcess[str]) -> int:
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return sum(int(found) for found in re.findall(r"changed=(\d+)", done.stdout))


def send(app: Host, name: str, count: int, first: int = 0, to: str = "10.77.0.31") -> int:
    return app.ssh(f"python3 /root/send.py {to} 6514 {name} {count} {first} 2>&1", check=False).returncode


def stored(host: Host, name: str) -> list[int]:
    text = host.ssh("cat /var/log/santedb-audit/*/*.log 2>/dev/null", check=False).stdout
    return [int(number) for number in re.findall(rf"n='{name}-(\d+)'", text)]


def wait_for(host: Host, name: str, numbers: range, timeout: float = 60) -> None:
    end = time.monotonic() + timeout
    while set(stored(host, name)) < set(numbers):
        if time.monotonic() > end:
            missing = sorted(set(numbers) - set(stored(host, name)))
            pytest.fail(f"{len(missing)} of {len(numbers)} audits never came: {missing[:5]} …\n" + host.said())
        time.sleep(0.5)


@pytest.fixture(scope="module")
def deployed(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, Repository]]:
    keys = tmp_path_factory.mktemp("keys")
    authority(keys, "ca")
    authority(keys, "other")
    for name, fqdn in NAMES.items():
        issue(keys, name, fqdn)
    issue(keys, "stranger", "stranger.staging.invalid")
    issue(keys, "forged", NAMES["app"], ca="other")
    for name, number in NUMBERS.items():
        lab.host(name, number)
    lab.start()
    for name in NUMBERS:
        host = lab[name]
        host.ssh("mkdir -p /etc/santedb/tls")
        host.put(keys / "ca.crt", "/etc/santedb/tls/ca.crt")
        host.ssh(f"echo 10.77.0.{NUMBERS['centre']} {CENTRAL} >> /etc/hosts")
    for name in ("app", "stranger", "forged"):
        for end in ("crt", "key"):
            lab["app"].put(keys / f"{name}.{end}", f"/root/{name}.{end}")
    lab["app"].ssh("cat > /root/send.py; command -v python3", input=SENDER)
    for name, roles in (("collector", ("audit_collector", "audit_forward")), ("centre", ("audit_collector",))):
        for role in roles:
            for end in ("crt", "key"):
                lab[name].put(keys / f"{name}.{end}", f"/etc/santedb/tls/{role}.{end}")
    repository = Repository(tmp_path_factory.mktemp("repository"), lab)
    for environment in ("central", "staging"):
        done = repository.play("audit", environment)
        assert changes(done) > 0, done.stdout + done.stderr
    yield lab, repository
    lab.discard()


def test_a_known_sender_is_stored_and_passed_on(deployed: tuple[Lab, Repository]) -> None:
    lab, _ = deployed
    assert send(lab["app"], "app", 200) == 0
    wait_for(lab["collector"], "app", range(200))
    wait_for(lab["centre"], "app", range(200))
    assert len(stored(lab["centre"], "app")) == 200, "passed on more than once"


@pytest.mark.parametrize("name", ["stranger", "forged", "-"])
def test_nobody_else_can_send(deployed: tuple[Lab, Repository], name: str) -> None:
    lab, _ = deployed
    send(lab["app"], name, 5)
    time.sleep(1)
    assert stored(lab["collector"], name) == []


def test_central_cut_off_gets_everything_once_it_is_back(deployed: tuple[Lab, Repository]) -> None:
    lab, _ = deployed
    lab["centre"].cut()
    try:
        assert send(lab["app"], "app", 300, 1000) == 0
        wait_for(lab["collector"], "app", range(1000, 1300))
        lab["collector"].ssh("systemctl restart rsyslog")  # what waits survives a restart
    finally:
        lab["centre"].heal()
    wait_for(lab["centre"], "app", range(1000, 1300), 120)


def test_sealed_audits_are_proved_and_tampering_is_found(deployed: tuple[Lab, Repository]) -> None:
    lab, _ = deployed
    audit = lab["collector"]
    audit.ssh("systemctl start santedb-audit-seal")
    assert "intact" in audit.ssh("audit-chain-verify").stdout
    path = audit.ssh("ls /var/log/santedb-audit/*/*.log | tail -n 1").stdout.strip()
    audit.ssh(f"cp {path} /root/kept && chattr -a {path} 2>/dev/null; sed -i s/app-7/app-8/ {path}")
    found = audit.ssh("audit-chain-verify", check=False)
    assert found.returncode == 1
    assert "were changed after they were sealed" in found.stdout
    audit.ssh(f"cat /root/kept > {path} && systemctl restart rsyslog && audit-chain-verify")


def test_a_full_disk_says_so_and_no_audit_is_lost(deployed: tuple[Lab, Repository]) -> None:
    lab, _ = deployed
    audit = lab["collector"]
    audit.ssh("systemctl stop rsyslog && mount -t tmpfs -o size=2m,mode=750 tmpfs /var/log/santedb-audit")
    audit.ssh("mkdir /var/log/santedb-audit/$(date +%Y) && systemctl start rsyslog")
    audit.ssh("head -c 2090000 /dev/zero > /var/log/santedb-audit/filler", check=False)
    assert send(lab["app"], "app", 500, 2000) == 0
    time.sleep(3)
    assert len(stored(audit, "app")) < 500
    said = audit.ssh("systemctl start santedb-audit-seal; journalctl -u santedb-audit-seal -o cat", check=False).stdout
    assert "full" in said
    assert "Audits cannot be stored" in audit.ssh("journalctl -t santedb-audit-store -o cat").stdout
    wait_for(lab["centre"], "app", range(2000, 2500), 120)
    audit.ssh("systemctl restart rsyslog && rm /var/log/santedb-audit/filler")  # what waits survives a restart
    audit.ssh("systemctl start santedb-audit-seal")
    assert sorted(number for number in stored(audit, "app") if number >= 2000) == list(range(2000, 2500))
    audit.ssh("systemctl stop rsyslog && umount /var/log/santedb-audit && systemctl start rsyslog")


def test_leaving_the_group_removes_the_collector_and_keeps_the_audits(deployed: tuple[Lab, Repository]) -> None:
    lab, repository = deployed
    done = repository.play("audit", "staging", "-e", "audit_enabled=false")
    assert changes(done) > 0
    audit = lab["collector"]
    assert stored(audit, "app")
    assert audit.ssh("ls /etc/rsyslog.d/20-santedb-audit.conf /etc/santedb/roles/audit", check=False).stdout == ""
    assert audit.ssh("ss -ltn | grep -c :6514", check=False).stdout.strip() == "0"
    assert changes(repository.play("audit", "staging", "-e", "audit_enabled=false")) == 0
