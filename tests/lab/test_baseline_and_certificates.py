"""Baseline and certificates on real hosts: what is open, who can still log in, which certificates are there."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tools.lab import Host, Lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(2400)]
TEMPLATE = Path(__file__).resolve().parents[2] / "template"
ADDRESSES = {"db": 10, "app": 11, "app2": 12, "stranger": 13, "authority": 14}
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
ADMINISTRATORS = [
    {"name": "amina", "keys": [f"{KEY} amina"]},
    {"name": "ben", "keys": [f"{KEY} ben"], "sudo": False},
]
PORTS = [
    {"group": "all", "service": "ssh", "port": 22, "protocol": "tcp", "from": [{"cidr": "10.77.0.0/24"}]},
    {"group": "database", "service": "postgresql", "port": 5432, "protocol": "tcp", "from": [{"group": "icdr"}]},
    {"group": "icdr", "service": "rest", "port": 8080, "protocol": "tcp", "from": [{"group": "database"}]},
    {"group": "icdr", "service": "https", "port": 443, "protocol": "tcp", "from": [{"any": True}]},
    {"group": "icdr", "service": "http", "port": 80, "protocol": "tcp", "from": [{"any": True}]},
    {"group": "icdr", "service": "closed", "port": 8443, "protocol": "tcp", "from": []},
]


def entry(name: str, kind: str, hosts: list[str], issuer: str, *sans: str, **more: Any) -> dict[str, Any]:
    return {
        "id": name,
        "environment": "staging",
        "kind": kind,
        "owner": "Ann",
        "subject": {"cn": name, "o": "Ministry", "c": "XD"},
        "sans": list(sans),
        "issuer": issuer,
        "key_usage": ["digitalSignature", "keyEncipherment"],
        "extended_key_usage": ["serverAuth"],
        "key": {"type": "rsa", "size": 2048},
        "lifetime_days": 365,
        "renew_before_days": 30,
        "installed_on": hosts,
        "path_certificate": f"/etc/santedb/tls/{name}.crt",
        "path_key": f"/etc/santedb/tls/{name}.key",
        "format": "pem",
        "key_origin": "host",
        "reload": None,
        "automated": issuer == "environment_ca",
        "renewal": "make certificates",
        **more,
    }


def register(hosts: list[str]) -> list[dict[str, Any]]:
    icdr = [host for host in hosts if host.startswith("app")]
    pfx = {"format": "pfx", "path_key": "/santedb/.x509/<THUMBPRINT>.pfx", "reload": "icdr"}
    authority = {
        "path_key": None,
        "extended_key_usage": [],
        "key_usage": ["keyCertSign", "cRLSign"],
        "automated": False,
    }
    return [
        entry("ca", "ca", hosts, "self_signed", **authority, lifetime_days=3650),
        entry("database", "server", ["db"], "environment_ca", "DNS:db.staging.invalid", "IP:10.77.0.10"),
        entry(
            "replication",
            "client",
            ["db"],
            "environment_ca",
            extended_key_usage=["clientAuth"],
            key={"type": "ecdsa", "size": 256},
        ),
        entry(
            "signing",
            "signing",
            icdr,
            "environment_ca",
            key_usage=["digitalSignature"],
            extended_key_usage=[],
            key_origin="controller",
            **pfx,
        ),
        entry("proxy", "server", ["app"], "self_signed", "DNS:api.staging.invalid", lifetime_days=90),
        entry("shared", "server", icdr, "environment_ca", "DNS:shared.staging.invalid"),
        entry("clients_ca", "ca", ["app"], "environment_ca", **authority),
        entry(
            "partner-lab",
            "client",
            [],
            "environment_ca",
            subject={"cn": "lab", "o": None, "c": None},
            path_certificate=None,
            path_key=None,
        ),
    ]


class Repository:
    """A deployment repository with the roles and playbooks of the template and an inventory of this module."""

    def __init__(self, path: Path, lab: Lab) -> None:
        self.path, self.lab = path, lab
        for name in ("roles", "playbooks"):
            shutil.copytree(TEMPLATE / name, path / name)
        (path / "certificates/staging").mkdir(parents=True)
        (path / "inventories/staging").mkdir(parents=True)
        self.inventory()

    def inventory(self, hosts: tuple[str, ...] = ("db", "app"), **variables: Any) -> None:
        def group(prefix: str) -> dict[str, Any]:
            found = [host for host in hosts if host.startswith(prefix)]
            return {"hosts": {host: {"ansible_host": f"10.77.0.{ADDRESSES[host]}"} for host in found}}

        values = {
            "santedb_environment_name": "staging",
            "santedb_production": False,
            "santedb_project": "Test",
            "santedb_organization": "Ministry",
            "santedb_country_code": "XD",
            "santedb_time_zone": "Africa/Nairobi",
            "santedb_trusted_networks": ["10.77.0.0/24"],
            "santedb_networks": [{"name": "lab", "cidr": "10.77.0.0/24", "trusted": True}],
            "santedb_ports": PORTS,
            "santedb_certificates": register(list(hosts)),
            "vault_certificates_ca_passphrase": "a passphrase of the laboratory",
            "host_baseline_administrators": ADMINISTRATORS,
            "host_baseline_ntp_servers": ["10.77.0.1"],
            "host_baseline_firewall_trial_seconds": 40,
            **variables,
        }
        data = {"all": {"vars": values, "children": {"icdr": group("app"), "database": group("db")}}}
        (self.path / "inventories/staging/hosts.yml").write_text(json.dumps(data), encoding="utf-8")

    def play(self, playbook: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.lab.ansible(
            "-i",
            "inventories/staging",
            f"playbooks/{playbook}.yml",
            *arguments,
            cwd=self.path,
            env={"ANSIBLE_ROLES_PATH": str(self.path / "roles")},
        )

    def fine(self, playbook: str, *arguments: str) -> str:
        done = self.play(playbook, *arguments)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        return done.stdout

    def refused(self, playbook: str, *arguments: str) -> str:
        done = self.play(playbook, *arguments)
        assert done.returncode == 2, done.stdout[-6000:] + done.stderr[-2000:]
        return re.sub(r"\s+", " ", done.stdout + done.stderr)


def changes(output: str) -> set[str]:
    return set(re.findall(r"changed=(\d+)", output))


@pytest.fixture(scope="module")
def hosts(lab: Lab) -> dict[str, Host]:
    for name, number in ADDRESSES.items():
        lab.host(name, number)
    lab.start()
    return lab.hosts


@pytest.fixture(scope="module")
def repository(lab: Lab, hosts: dict[str, Host], tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return Repository(tmp_path_factory.mktemp("deployment") / "repository", lab)


@pytest.fixture(scope="module")
def dry_run(repository: Repository) -> dict[str, subprocess.CompletedProcess[str]]:
    """Both playbooks in check mode, on hosts that nothing was done to."""
    return {name: repository.play(name, "--check", "--diff") for name in ("baseline", "certificates")}


@pytest.fixture(scope="module")
def baseline(repository: Repository, dry_run: object) -> tuple[str, str]:
    """The output of the first and of the second run."""
    return repository.fine("baseline"), repository.fine("baseline")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with one package that no other source has."""
    folder = tmp_path_factory.mktemp("bundle")
    control = folder / "package/DEBIAN/control"
    control.parent.mkdir(parents=True)
    control.write_text(
        "Package: only-in-the-bundle\nVersion: 1\nArchitecture: all\n"
        "Maintainer: Test <test@example.org>\nDescription: test\n",
        encoding="utf-8",
    )
    (folder / "debian").mkdir()
    package = folder / "debian/only-in-the-bundle_1_all.deb"
    subprocess.run(["dpkg-deb", "--build", folder / "package", package], check=True, capture_output=True)
    shutil.rmtree(folder / "package")
    specification = importlib.util.spec_from_file_location(
        "artefacts_bundle", TEMPLATE / "roles/artefacts/library/artefacts_bundle.py"
    )
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    made = module.Bundle(str(folder))
    made.index(str(folder / "debian"))
    (folder / "SHA256SUMS").write_text(made.checksums()[0], encoding="utf-8")
    assert not made.problems
    return folder


@pytest.fixture(scope="module")
def certificates(repository: Repository, dry_run: object) -> tuple[str, str]:
    """The output of the first and of the second run."""
    return repository.fine("certificates"), repository.fine("certificates")


# -- baseline ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["baseline", "certificates"])
def test_check_mode_works_on_fresh_hosts(dry_run, name):
    assert dry_run[name].returncode == 0, dry_run[name].stdout[-5000:] + dry_run[name].stderr[-2000:]


def test_second_baseline_changes_nothing(baseline):
    assert changes(baseline[1]) == {"0"}, baseline[1][-5000:]


def test_hosts_are_well_after_the_baseline(baseline, hosts):
    for name in ("db", "app"):
        assert hosts[name].wait_until("systemctl is-system-running", 60).strip() == "running"
        assert hosts[name].ssh("date +%Z").stdout.strip() == "EAT"
        assert "10.77.0.1" in hosts[name].ssh("chronyc -n sources").stdout
        assert hosts[name].ssh("apt-config dump APT::Periodic::Unattended-Upgrade").stdout.strip().endswith('"1";')
        assert "m:30d" in hosts[name].read("/etc/tmpfiles.d/host-baseline.conf")


def listen(host: Host, *ports: int) -> None:
    text = "import socket,time\nkept=[]\n" + "".join(
        f"s=socket.create_server(('0.0.0.0',{port})); kept.append(s)\n" for port in ports
    )
    host.ssh(
        "cat > /run/listen.py; systemctl stop listen 2>/dev/null; systemd-run --unit=listen python3 /run/listen.py",
        input=f"{text}time.sleep(3600)\n",
    )
    host.wait_until(f"ss -Hltn 'sport = :{ports[-1]}' | grep -q .", 20)


def reaches(source: Host, target: Host, port: int) -> bool:
    command = f"import socket; socket.create_connection(('{target.ip}',{port}),1)"
    return source.inside(f'python3 -c "{command}"', check=False).returncode == 0


def test_only_the_planned_ports_are_open_and_only_to_the_planned_hosts(baseline, hosts):
    db, app, stranger = hosts["db"], hosts["app"], hosts["stranger"]
    listen(db, 5432, 9999)
    listen(app, 443, 8080, 8443, 9999)
    seen = {
        (source.name, target.name, port): reaches(source, target, port)
        for target, ports in ((db, (22, 5432, 9999)), (app, (22, 443, 8080, 8443, 9999)))
        for source in (db, app, stranger)
        if source is not target
        for port in ports
    }
    opened = {way for way, through in seen.items() if through}
    assert opened == {
        ("app", "db", 22),
        ("stranger", "db", 22),
        ("app", "db", 5432),
        ("db", "app", 22),
        ("stranger", "app", 22),
        ("db", "app", 443),
        ("stranger", "app", 443),
        ("db", "app", 8080),
    }


def test_ports_that_containers_publish_are_filtered_too(baseline, hosts):
    app = hosts["app"]
    app.ssh("systemctl stop listen")
    # What a container engine does: an own network behind an interface, and destinations translated to it.
    app.ssh(
        """set -e
        systemd-run --unit=container -p PrivateNetwork=yes python3 -m http.server 8080
        sleep 1; pid=$(systemctl show -P MainPID container)
        ip link add docker9 type veth peer name inside0; ip link set inside0 netns $pid
        ip addr add 172.30.0.1/24 dev docker9; ip link set docker9 up
        inside="nsenter -t $pid -n ip"
        $inside addr add 172.30.0.2/24 dev inside0; $inside link set inside0 up
        $inside route add default via 172.30.0.1
        sysctl -qw net.ipv4.ip_forward=1
        nft 'add table ip engine; add chain ip engine pre { type nat hook prerouting priority dstnat; }'
        nft 'add rule ip engine pre iifname eth0 tcp dport {8080, 8090} dnat to 172.30.0.2:8080'
        """
    )
    app.wait_until("python3 -c \"import socket; socket.create_connection(('172.30.0.2',8080),1)\"", 20)
    try:
        assert reaches(hosts["db"], app, 8080)
        assert not reaches(hosts["stranger"], app, 8080)
        assert not reaches(hosts["db"], app, 8090), "published, but not in the plan"
    finally:
        app.ssh("nft delete table ip engine; systemctl stop container; ip link del docker9", check=False)


def test_rules_that_shut_the_administrator_out_are_taken_back(baseline, repository, hosts):
    before = hosts["db"].ssh("nft -s list table inet host_baseline").stdout
    rules = json.dumps({"host_baseline_firewall_extra_rules": ["tcp dport 22 ct state new drop"]})
    said = repository.refused("baseline", "--limit", "db", "-e", rules)
    assert "shut this session out and have been taken back" in said
    assert hosts["db"].ssh("nft -s list table inet host_baseline").stdout == before
    assert "taken back" in hosts["db"].ssh("journalctl -t host-baseline-guard -o cat").stdout
    repository.fine("baseline", "--limit", "db")
    assert changes(repository.fine("baseline", "--limit", "db")) == {"0"}


def test_rules_on_trial_do_not_survive_a_power_cut(baseline, repository, hosts):
    db = hosts["db"]
    db.ssh("sed -i 's/iif lo accept/tcp dport 22 drop; iif lo accept/' /etc/host-baseline/firewall.wanted")
    db.ssh("systemd-run --wait --quiet /usr/local/sbin/host-baseline-guard try firewall 600", check=False, timeout=30)
    assert not reaches(hosts["stranger"], db, 22)
    db.restart(hard=True)
    assert reaches(hosts["stranger"], db, 22)
    table = db.ssh("nft list table inet host_baseline").stdout
    assert "policy drop" in table
    assert "tcp dport 22 drop" not in table
    repository.fine("baseline", "--limit", "db")


def test_a_session_from_elsewhere_is_refused_before_anything_is_tried(baseline, repository):
    sources = json.dumps({"host_baseline_ssh_sources": ["192.0.2.0/24"]})
    said = repository.refused("baseline", "--limit", "db", "-e", sources)
    assert "this session comes from 10.77.0.1" in said
    assert "changed=0" in said


def test_passwords_are_off_where_a_key_was_proven(baseline, hosts):
    settings = hosts["db"].ssh("sshd -T").stdout
    assert "passwordauthentication no" in settings
    assert "permitrootlogin without-password" in settings
    tried = hosts["stranger"].ssh(
        "ssh -o StrictHostKeyChecking=accept-new -o PreferredAuthentications=password,keyboard-interactive "
        f"-o BatchMode=yes root@{hosts['db'].ip} true",
        check=False,
    )
    assert "Permission denied (publickey)" in tried.stderr


def test_passwords_stay_where_no_key_is_proven(baseline, repository, hosts):
    app = hosts["app"]
    rest = json.dumps({"ansible_password": "unused, the key lets us in"})
    output = repository.fine("baseline", "--limit", "app", "-e", rest)
    assert "still takes passwords" in re.sub(r"\s+", " ", output)
    assert "passwordauthentication yes" in app.ssh("sshd -T").stdout
    repository.fine("baseline", "--limit", "app")
    assert "passwordauthentication no" in app.ssh("sshd -T").stdout


def test_leavers_lose_their_accounts(baseline, repository, hosts):
    db = hosts["db"]
    assert db.ssh("id -un amina && id -un ben").stdout.split() == ["amina", "ben"]
    assert (
        db.ssh("sudo -n -u amina sudo -n true && ! sudo -n -u ben sudo -n true 2>/dev/null && echo right").stdout
        == "right\n"
    )
    repository.inventory(host_baseline_administrators=ADMINISTRATORS[1:])
    try:
        repository.fine("baseline", "--limit", "db")
    finally:
        repository.inventory()
    assert db.ssh("id amina", check=False).returncode == 1
    assert db.ssh("ls /etc/sudoers.d").stdout.split() == ["README", "deploy"]
    assert db.ssh("id -un ben").stdout == "ben\n"


class LogServer:
    """A log server with TLS in the test itself."""

    def __init__(self, folder: Path) -> None:
        self.received = ""
        self.certificate = folder / "siem.pem"
        subprocess.run(
            [
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-keyout",
                folder / "siem.key",
                "-out",
                self.certificate,
                "-days",
                "2",
                "-subj",
                "/CN=siem.invalid",
                "-addext",
                "subjectAltName=DNS:siem.invalid",
            ],
            check=True,
            capture_output=True,
        )
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(self.certificate, folder / "siem.key")

    def serve(self) -> None:
        listener = socket.create_server(("10.77.0.1", 6514))
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=self._read, args=(connection,), daemon=True).start()

    def _read(self, connection: socket.socket) -> None:
        try:
            with self.context.wrap_socket(connection, server_side=True) as stream:
                while data := stream.recv(65536):
                    self.received += data.decode(errors="replace")
        except OSError:
            return

    def wait_for(self, text: str, seconds: float = 90) -> bool:
        end = time.monotonic() + seconds
        while text not in self.received and time.monotonic() < end:
            time.sleep(0.2)
        return text in self.received


def test_logs_wait_for_the_log_server_and_reach_it(baseline, repository, hosts, tmp_path):
    db, server = hosts["db"], LogServer(tmp_path)
    db.put(server.certificate, "/etc/ssl/siem.pem")
    siem = {"host": "10.77.0.1", "permitted_peer": "siem.invalid", "ca_certificate": "/etc/ssl/siem.pem"}
    setting = json.dumps({"host_baseline_siem": siem})
    repository.fine("baseline", "--limit", "db", "-e", setting)
    db.ssh("logger while-nobody-listens")
    server.serve()
    db.ssh("logger somebody-listens")
    assert server.wait_for("somebody-listens")
    assert server.wait_for("while-nobody-listens")
    assert changes(repository.fine("baseline", "--limit", "db", "-e", setting)) == {"0"}
    repository.fine("baseline", "--limit", "db")
    assert db.ssh("ls /etc/rsyslog.d").stdout.split() == []


def test_encrypted_volumes_are_refused_where_the_kernel_cannot_open_them(baseline, repository, hosts):
    if hosts["db"].ssh("test -e /dev/mapper/control", check=False).returncode == 0:
        pytest.skip("this kernel has a device mapper")
    volume = {
        "name": "data",
        "device": "/dev/vdx",
        "mount_point": "/srv/data",
        "passphrase": "nobody will ever guess this",
    }
    said = repository.refused(
        "baseline",
        "--limit",
        "db",
        "--tags",
        "disk_encryption",
        "-e",
        json.dumps({"disk_encryption_enabled": True, "disk_encryption_volumes": [volume]}),
    )
    assert "has no device mapper" in said
    assert volume["passphrase"] not in said


# -- certificates ------------------------------------------------------------------------------------------------------


def test_second_run_of_certificates_changes_nothing(certificates, repository):
    assert changes(certificates[1]) == {"0"}, certificates[1][-5000:]
    assert changes(repository.fine("certificates", "--check")) == {"0"}


def test_certificates_chain_to_the_authority_and_carry_their_names(certificates, hosts):
    for host in ("db", "app"):
        found = hosts[host].ssh("cd /etc/santedb/tls; for f in *.crt; do openssl verify -CAfile ca.crt $f; done").stdout
        assert found
        assert all(line.endswith(": OK") for line in found.splitlines()), found
    text = hosts["db"].ssh("openssl x509 -noout -text -in /etc/santedb/tls/database.crt").stdout
    assert "DNS:db.staging.invalid, IP Address:10.77.0.10" in text
    assert "TLS Web Server Authentication" in text
    assert "CA:FALSE" in text
    assert hosts["db"].ssh("stat -c '%U:%G %a' /etc/santedb/tls/database.key").stdout == "root:ssl-cert 640\n"


def test_keys_are_only_where_they_are_used(certificates, repository, hosts):
    private = list((repository.path / ".ca/staging").rglob("*.key"))
    assert sorted(path.name for path in private) == ["ca.key", "signing.key"]
    for path in private:
        assert "BEGIN ENCRYPTED PRIVATE KEY" in path.read_text(encoding="utf-8")
        assert path.stat().st_mode & 0o077 == 0
    assert "PRIVATE KEY" not in "".join(certificates)


def test_signing_key_opens_with_the_password_santedb_computes(certificates, hosts):
    found = (
        hosts["app"]
        .ssh(
            """set -e; cd /santedb/.x509; file=$(ls)
        password=$(printf %s "/santedb/.x509/$file" | sha1sum | cut -d' ' -f1 | tr a-f A-F)
        openssl x509 -noout -fingerprint -sha1 -in /etc/santedb/tls/signing.crt | cut -d= -f2 | tr -d :
        echo "${file%.pfx}"; stat -c %a "$file"
        openssl pkcs12 -legacy -in "$file" -passin "pass:$password" -nodes -nocerts 2>/dev/null > /run/key
        openssl pkey -check -noout -in /run/key; rm /run/key"""
        )
        .stdout.split("\n")
    )
    assert found[0] == found[1]
    assert found[2:4] == ["600", "Key is valid"]


def test_a_new_host_gets_the_same_authority_and_the_shared_keys(certificates, repository, hosts):
    authority = (repository.path / ".ca/staging/ca.crt").read_bytes()
    before = hosts["app"].ssh("sha256sum /etc/santedb/tls/*.crt").stdout
    repository.inventory(("db", "app", "app2"))
    repository.fine("certificates", "--limit", "app2")
    assert (repository.path / ".ca/staging/ca.crt").read_bytes() == authority
    assert hosts["app"].ssh("sha256sum /etc/santedb/tls/*.crt").stdout == before
    same = (
        "cd /etc/santedb/tls; sha256sum ca.crt shared.crt shared.key signing.crt private/signing.key; ls /santedb/.x509"
    )
    assert hosts["app"].ssh(same).stdout == hosts["app2"].ssh(same).stdout
    assert changes(repository.fine("certificates")) == {"0"}


def test_certificates_are_renewed_when_due_or_when_the_register_changes(certificates, repository, hosts):
    serial = "openssl x509 -noout -serial -in /etc/santedb/tls/{}.crt"
    old = {name: hosts["db"].ssh(serial.format(name)).stdout for name in ("database", "replication")}
    key = hosts["db"].ssh("sha256sum /etc/santedb/tls/database.key").stdout
    changed = register(["db", "app", "app2"])
    changed[1]["sans"].append("DNS:new.staging.invalid")
    changed[2]["renew_before_days"] = 366
    repository.inventory(("db", "app", "app2"), santedb_certificates=changed)
    try:
        output = repository.fine("certificates")
    finally:
        repository.inventory(("db", "app", "app2"))
    assert "app                        : ok" not in output or "changed=0" in output
    assert hosts["db"].ssh(serial.format("database")).stdout != old["database"]
    assert hosts["db"].ssh(serial.format("replication")).stdout != old["replication"]
    assert (
        "new.staging.invalid" in hosts["db"].ssh("openssl x509 -noout -text -in /etc/santedb/tls/database.crt").stdout
    )
    assert hosts["db"].ssh("sha256sum /etc/santedb/tls/database.key").stdout == key


def test_another_passphrase_does_not_make_another_authority(certificates, repository):
    repository.inventory(("db", "app", "app2"), vault_certificates_ca_passphrase="another passphrase entirely")
    try:
        said = repository.refused("certificates", "-e", '{"certificates_force_renewal": ["database"]}')
    finally:
        repository.inventory(("db", "app", "app2"))
    assert "The authority of staging cannot be opened" in said
    assert "vault_certificates_ca_passphrase" in said


@pytest.mark.parametrize("limit", [(), ("--limit", "stranger")], ids=["all", "limited"])
def test_a_control_machine_without_the_authority_makes_no_second_one(certificates, repository, limit):
    authority, away = repository.path / ".ca", repository.path / ".ca-away"
    authority.rename(away)
    repository.inventory(("db", "app", "app2"))
    try:
        said = repository.refused("certificates", *(("--limit", "app2") if limit else ()))
        assert not (authority / "staging/ca.key").exists()
    finally:
        shutil.rmtree(authority, ignore_errors=True)
        away.rename(authority)
    assert "copy that directory from the control machine" in said


def request(path: Path, name: str) -> None:
    subprocess.run(
        [
            "openssl",
            "req",
            "-new",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            path.with_suffix(".secret"),
            "-subj",
            f"/CN={name}",
            "-out",
            path,
        ],
        check=True,
        capture_output=True,
    )
    path.with_suffix(".secret").unlink()


def test_requests_of_partners_are_signed_only_as_registered(certificates, repository):
    asked = repository.path / "certificates/staging/partner-lab.csr"
    issued = asked.with_suffix(".crt")
    repository.inventory(("db", "app", "app2"))
    try:
        request(asked, "somebody else")
        assert "asks for something else than the register" in repository.refused("certificates", "--limit", "db")
        assert not issued.exists()
        request(asked, "lab")
        repository.fine("certificates", "--limit", "db")
        authority = repository.path / ".ca/staging/ca.crt"
        subprocess.run(["openssl", "verify", "-CAfile", authority, issued], check=True, capture_output=True)
        assert changes(repository.fine("certificates", "--limit", "db")) == {"0"}
    finally:
        for path in (asked, issued):
            path.unlink(missing_ok=True)


def test_certificates_of_others_are_requested_then_checked(certificates, repository, hosts, tmp_path):
    planned = register(["db", "app", "app2"])
    planned.append(entry("national", "server", ["db"], "national_ca", "DNS:national.staging.invalid"))
    repository.inventory(("db", "app", "app2"), santedb_certificates=planned)
    folder = repository.path / "certificates/staging"
    try:
        said = repository.refused("certificates", "--limit", "db")
        assert "Certificate 'national' has not arrived" in said
        asked = folder / "national.csr"
        kept = asked.read_text(encoding="utf-8")
        repository.refused("certificates", "--limit", "db")
        assert asked.read_text(encoding="utf-8") == kept, "a request that was handed out stays"

        def sign(days: int, sans: str) -> None:
            extension = tmp_path / "extension"
            extension.write_text(
                f"subjectAltName={sans}\nkeyUsage=digitalSignature,keyEncipherment\nextendedKeyUsage=serverAuth\n"
            )
            authority = ["-newkey", "rsa:2048", "-nodes", "-keyout", tmp_path / "n.key", "-out", tmp_path / "n.crt"]
            subprocess.run(
                ["openssl", "req", "-x509", *authority, "-subj", "/CN=National CA"], check=True, capture_output=True
            )
            subprocess.run(
                [
                    "openssl",
                    "x509",
                    "-req",
                    "-in",
                    asked,
                    "-CA",
                    tmp_path / "n.crt",
                    "-CAkey",
                    tmp_path / "n.key",
                    "-days",
                    str(days),
                    "-CAcreateserial",
                    "-extfile",
                    extension,
                    "-out",
                    tmp_path / "leaf.crt",
                ],
                check=True,
                capture_output=True,
            )
            both = (tmp_path / "leaf.crt").read_text() + (tmp_path / "n.crt").read_text()
            (folder / "national.crt").write_text(both, encoding="utf-8")

        sign(1000, "DNS:wrong.staging.invalid")
        said = repository.refused("certificates", "--limit", "db")
        assert "it lacks the names DNS:national.staging.invalid" in said
        assert "it is valid for 1000 days, the register allows 365" in said
        sign(20, "DNS:national.staging.invalid")
        output = re.sub(r"\s+", " ", repository.fine("certificates", "--limit", "db"))
        assert "'national' of db expires in 19 days and does not renew itself" in output
        assert "BEGIN CERTIFICATE" in hosts["db"].read("/etc/santedb/tls/national.crt")
    finally:
        repository.inventory(("db", "app", "app2"))


def test_a_replaced_certificate_is_noticed(certificates, repository, hosts):
    hosts["db"].ssh(
        "cp -p /etc/santedb/tls/database.crt /root/; openssl req -x509 -newkey rsa:1024 -nodes -keyout /dev/null "
        "-out /etc/santedb/tls/database.crt -subj /CN=intruder -days 4000"
    )
    try:
        said = repository.refused("certificates", "--limit", "db", "--tags", "certificates_verify")
    finally:
        hosts["db"].ssh("cp -p /root/database.crt /etc/santedb/tls/")
    for problem in (
        "lacks the names",
        "valid for 4000 days",
        "1024 bits only",
        "authority did not issue it",
        "private key beside it is another",
    ):
        assert problem in said


PEBBLE = {
    "pebble": {
        "listenAddress": "0.0.0.0:14000",
        "managementListenAddress": "127.0.0.1:15000",
        "certificate": "/etc/pebble/own.pem",
        "privateKey": "/etc/pebble/own.key",
        "httpPort": 80,
        "tlsPort": 443,
        "ocspResponderURL": "",
        "externalAccountBindingRequired": False,
    }
}


@pytest.fixture(scope="module")
def acme_service(hosts: dict[str, Host]) -> Host:
    """A host with an ACME service for tests, which finds the names in its /etc/hosts."""
    host = hosts["authority"]
    host.ssh("apt-get -qq update; DEBIAN_FRONTEND=noninteractive apt-get -qq install -y pebble openssl")
    host.ssh(
        """set -e; mkdir -p /etc/pebble; cat > /etc/pebble/config.json
        openssl req -x509 -newkey rsa:2048 -nodes -keyout /etc/pebble/own.key -out /etc/pebble/own.pem -days 2 \
          -subj /CN=authority -addext subjectAltName=IP:10.77.0.14 2>/dev/null
        echo 10.77.0.11 api.staging.test >> /etc/hosts
        systemd-run --unit=pebble-test --setenv=PEBBLE_VA_NOSLEEP=1 --setenv=PEBBLE_WFE_NONCEREJECT=0 \
          "$(command -v pebble)" -config /etc/pebble/config.json""",
        input=json.dumps(PEBBLE),
    )
    host.wait_until("ss -Hltn 'sport = :14000' | grep -q .", 30)
    return host


def test_public_certificates_come_by_acme_and_are_renewed(certificates, acme_service, repository, hosts):
    app = hosts["app"]
    planned = register(["db", "app", "app2"])
    subject = {"cn": "api.staging.test", "o": None, "c": None}
    more = {"automated": True, "lifetime_days": 2000, "reload": "nginx", "subject": subject}
    planned.append(entry("public", "server", ["app"], "public_ca", "DNS:api.staging.test", **more))
    settings = {
        "certificates_acme_directory": "https://10.77.0.14:14000/dir",
        "certificates_acme_validate_certs": False,
    }
    repository.inventory(("db", "app", "app2"), santedb_certificates=planned, **settings)
    try:
        assert "terms nobody has accepted" in repository.refused("certificates", "--limit", "app")
        settings["certificates_acme_terms_agreed"] = True
        repository.inventory(("db", "app", "app2"), santedb_certificates=planned, **settings)
        repository.fine("certificates", "--limit", "app")
        text = app.ssh("openssl x509 -noout -text -in /etc/santedb/tls/public.crt").stdout
        assert "Pebble" in text
        assert "DNS:api.staging.test" in text
        assert changes(repository.fine("certificates", "--limit", "app")) == {"0"}
        assert app.ssh("ss -Hltn 'sport = :80'").stdout == "", "the small server is gone"
        # renewal while nginx answers on port 80, as the proxy sets it up
        app.ssh(
            """set -e; DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends nginx-light
            cat > /etc/nginx/sites-enabled/default; systemctl restart nginx""",
            input="server { listen 80; location /.well-known/acme-challenge/ { root /var/www/acme; } }\n"
            "server { listen 443 ssl; ssl_certificate /etc/santedb/tls/public.crt;"
            " ssl_certificate_key /etc/santedb/tls/public.key; }\n",
        )
        shown = "openssl s_client -connect 127.0.0.1:443 </dev/null 2>/dev/null | openssl x509 -noout -serial"
        old, started = app.ssh(shown).stdout, app.ssh("systemctl show -P MainPID nginx").stdout
        repository.fine("certificates", "--limit", "app", "-e", '{"certificates_force_renewal": ["public"]}')
        assert app.ssh(shown).stdout not in ("", old), "nginx shows the new certificate"
        assert app.ssh("systemctl show -P MainPID nginx").stdout == started, "reloaded, not restarted"
    finally:
        app.ssh("systemctl disable --now nginx", check=False)
        repository.inventory(("db", "app", "app2"))


# -- offline -----------------------------------------------------------------------------------------------------------


def test_hosts_install_from_the_bundle_alone(baseline, bundle, repository, hosts):
    app = hosts["app"]
    setting = json.dumps({"artefacts_bundle": str(bundle)})
    repository.fine("baseline", "--limit", "app", "--tags", "artefacts", "-e", setting)
    assert changes(repository.fine("baseline", "--limit", "app", "--tags", "artefacts", "-e", setting)) == {"0"}
    app.ssh("apt-get install -y only-in-the-bundle")
    app.ssh("apt-get update")
    assert app.ssh("apt-cache show nginx", check=False).returncode != 0, "other sources are not asked"
    (bundle / "debian/Packages").open("a").write("\n")
    said = repository.refused("baseline", "--limit", "app", "--tags", "artefacts", "-e", setting)
    assert "debian/Packages: FAILED" in said
    repository.fine("baseline", "--limit", "app", "--tags", "artefacts")
    assert app.ssh("ls /etc/apt/sources.list.d /etc/apt/apt.conf.d | grep -c bundle", check=False).stdout == "0\n"
    app.ssh("apt-get update")


# -- the way back ------------------------------------------------------------------------------------------------------


@pytest.fixture
def _with_baseline_again(repository: Repository) -> Iterator[None]:
    yield
    repository.fine("baseline", "--limit", "db")


@pytest.mark.usefixtures("_with_baseline_again")
def test_turning_the_baseline_off_takes_it_off(
    baseline: tuple[str, str], repository: Repository, hosts: dict[str, Host]
) -> None:
    off = '{"host_baseline_enabled": false}'
    repository.fine("baseline", "--limit", "db", "-e", off)
    assert "host_baseline" not in hosts["db"].ssh("nft list ruleset").stdout
    left = hosts["db"].ssh("find /etc /usr/local/sbin -name '*host-baseline*' -not -path '/etc/sudoers.d/*'")
    assert left.stdout == ""
    assert hosts["db"].ssh("id -un ben").stdout == "ben\n", "accounts and what they may do stay"
    assert changes(repository.fine("baseline", "--limit", "db", "-e", off)) == {"0"}
