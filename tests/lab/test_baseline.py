"""The baseline on bare hosts: what is open, who can still log in, and that nobody is shut out by it."""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.lab import Host
from tools.lab.bare import ADMINISTRATORS, Repository, changes

pytestmark = [pytest.mark.lab, pytest.mark.timeout(2400)]
HOSTS = ("db", "app", "stranger")


@pytest.fixture(scope="module")
def baseline(repository: Repository) -> tuple[str, str]:
    """The output of the first and of the second run."""
    return repository.fine("baseline"), repository.fine("baseline")


def test_second_baseline_changes_nothing(baseline: tuple[str, str]) -> None:
    assert changes(baseline[1]) == {"0"}, baseline[1][-5000:]


def test_hosts_are_well_after_the_baseline(baseline: tuple[str, str], hosts: dict[str, Host]) -> None:
    for name in ("db", "app"):
        assert hosts[name].wait_until("systemctl is-system-running", 60).strip() == "running"
        assert hosts[name].ssh("date +%Z").stdout.strip() == "EAT"
        assert "10.77.0.1" in hosts[name].ssh("chronyc -n sources").stdout
        assert hosts[name].ssh("apt-config dump APT::Periodic::Unattended-Upgrade").stdout.strip().endswith('"1";')
        assert "m:30d" in hosts[name].read("/etc/tmpfiles.d/host-baseline.conf")


def test_a_second_firewall_is_named(baseline: tuple[str, str], repository: Repository, hosts: dict[str, Host]) -> None:
    app = hosts["app"]
    app.ssh("systemd-run --unit=firewalld sleep 600")
    try:
        assert "firewalld filters too; on app" in repository.refused("baseline")
    finally:
        app.ssh("systemctl stop firewalld")


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


def test_only_the_planned_ports_are_open_and_only_to_the_planned_hosts(
    baseline: tuple[str, str], hosts: dict[str, Host]
) -> None:
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


def test_ports_that_containers_publish_are_filtered_too(baseline: tuple[str, str], hosts: dict[str, Host]) -> None:
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


def test_rules_that_shut_the_administrator_out_are_taken_back(
    baseline: tuple[str, str], repository: Repository, hosts: dict[str, Host]
) -> None:
    before = hosts["db"].ssh("nft -s list table inet host_baseline").stdout
    rules = json.dumps({"host_baseline_firewall_extra_rules": ["tcp dport 22 ct state new drop"]})
    said = repository.refused("baseline", "--limit", "db", "-e", rules)
    assert "shut Ansible out and have been taken back" in said
    assert hosts["db"].ssh("nft -s list table inet host_baseline").stdout == before
    assert "taken back" in hosts["db"].ssh("journalctl -t host-baseline-guard -o cat").stdout
    repository.fine("baseline", "--limit", "db")
    assert changes(repository.fine("baseline", "--limit", "db")) == {"0"}


def test_rules_on_trial_do_not_survive_a_power_cut(
    baseline: tuple[str, str], repository: Repository, hosts: dict[str, Host]
) -> None:
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


def test_a_session_from_elsewhere_is_refused_before_anything_is_tried(
    baseline: tuple[str, str], repository: Repository
) -> None:
    sources = json.dumps({"host_baseline_ssh_sources": ["192.0.2.0/24"]})
    said = repository.refused("baseline", "--limit", "db", "-e", sources)
    assert "Ansible comes from 10.77.0.1" in said
    assert "changed=0" in said


def test_passwords_are_off_where_a_key_was_proven(baseline: tuple[str, str], hosts: dict[str, Host]) -> None:
    settings = hosts["db"].ssh("sshd -T").stdout
    assert "passwordauthentication no" in settings
    assert "permitrootlogin without-password" in settings
    tried = hosts["stranger"].ssh(
        "ssh -o StrictHostKeyChecking=accept-new -o PreferredAuthentications=password,keyboard-interactive "
        f"-o BatchMode=yes root@{hosts['db'].ip} true",
        check=False,
    )
    assert "Permission denied (publickey)" in tried.stderr


def test_passwords_stay_where_no_key_is_proven(
    baseline: tuple[str, str], repository: Repository, hosts: dict[str, Host]
) -> None:
    app = hosts["app"]
    rest = json.dumps({"ansible_password": "unused, the key lets us in"})
    output = repository.fine("baseline", "--limit", "app", "-e", rest)
    assert "still takes passwords" in re.sub(r"\s+", " ", output)
    assert "passwordauthentication yes" in app.ssh("sshd -T").stdout
    repository.fine("baseline", "--limit", "app")
    assert "passwordauthentication no" in app.ssh("sshd -T").stdout


def test_leavers_lose_their_accounts(baseline: tuple[str, str], repository: Repository, hosts: dict[str, Host]) -> None:
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


def test_logs_wait_for_the_log_server_and_reach_it(
    baseline: tuple[str, str], repository: Repository, hosts: dict[str, Host], tmp_path: Path
) -> None:
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


def test_encrypted_volumes_are_refused_where_the_kernel_cannot_open_them(
    baseline: tuple[str, str], repository: Repository, hosts: dict[str, Host]
) -> None:
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
