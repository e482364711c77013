"""What the proxy passes on and to whom, and how a start of SanteDB that fails is noticed."""

from __future__ import annotations

import json

import pytest

from tools.lab.partner import Partner
from tools.lab.sites import Site

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1800)]
PLAN = "split"
# Stands where SanteDB stood, and writes down what reaches it.
SINK = """
import socket
server = socket.create_server(("", 8080))
while True:
    caller, _ = server.accept()
    with open("/root/heads", "ab") as file:
        file.write(caller.recv(65536))
    caller.sendall(b"HTTP/1.1 204 No Content\\r\\nConnection: close\\r\\n\\r\\n")
    caller.close()
"""


def test_secrets_are_where_root_alone_reads_them(site: Site) -> None:
    shown = "stat -c '%a %n' /etc/santedb/icdr /etc/santedb/icdr/environment /santedb/.x509/*.pfx"
    modes = site.host("app").ssh(shown).stdout.splitlines()
    assert {line.split()[0] for line in modes} <= {"700", "600"}, modes


def test_what_a_caller_claims_about_itself_does_not_reach_the_application(site: Site, partner: Partner) -> None:
    app = site.host("app")
    app.ssh("docker stop santedb-icdr && cat > /root/sink.py", input=SINK)
    app.ssh("systemd-run --unit sink python3 /root/sink.py")
    app.wait_until("ss -Hltn 'sport = :8080' | grep -q .")
    headers = {"X-SSL-ClientCert": "forged", "X-Forwarded-For": "1.2.3.4", "X-Real-IP": "1.2.3.4"}
    try:
        assert partner.call("/hdsi/Patient", headers=headers).status == 204
        heads = app.ssh("cat /root/heads").stdout
    finally:
        app.ssh("systemctl stop sink; docker start santedb-icdr")
        site.wait_for(partner.answers, 120)
    assert "GET /hdsi/Patient" in heads
    assert "forged" not in heads
    assert "1.2.3.4" not in heads
    assert "10.77.0.1" in heads


def test_a_closed_proxy_admits_trusted_networks_only(site: Site, partner: Partner) -> None:
    elsewhere = {"proxy_trusted_networks": ["10.99.0.0/24"]}
    closed = site.play("proxy", "-e", json.dumps({**elsewhere, "proxy_open": False}), label="proxy closed")
    assert closed.code == 0, closed.text[-5000:]
    assert partner.call("/fhir/metadata").status == 403
    planned = site.play("proxy", label="proxy as planned")
    assert planned.code == 0, planned.text[-5000:]
    assert partner.call("/fhir/metadata").status == 200


def test_a_start_that_fails_is_noticed(site: Site, partner: Partner) -> None:
    broken = {"icdr_environment_extra": {"SDB_FEATURE": "LOG;NO_SUCH_FEATURE"}, "icdr_start_seconds": 60}
    refused = site.play("icdr", "-e", json.dumps(broken), label="icdr that cannot start")
    assert refused.code != 0
    assert "SanteDB did not start; on app; its log says: " in refused.line
    assert "NO_SUCH_FEATURE" in refused.line
    repaired = site.play("icdr", label="icdr repaired")
    assert repaired.code == 0, repaired.text[-5000:]
    assert partner.answers()
