"""What verify and monitoring see on a deployed environment when something is wrong with it."""

from __future__ import annotations

import re

import pytest
import yaml

from tools.lab.sites import Done, Site

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1800)]
PLAN = "split"
FETCH = "python3 -c 'import urllib.request as u; print(u.urlopen(\"{}\").read().decode())'"


def verify(site: Site, *tasks: str, label: str) -> Done:
    """Verify some tasks of the plan."""
    return site.make("verify", "-e", "verified_by='Amina Okello'", "-e", f'{{"verify_only": {list(tasks)}}}'.replace("'", '"'),
                     label=label)  # fmt: skip


def test_a_port_nobody_planned_is_found(site: Site) -> None:
    record = site.repository / "records/staging/DEP-99.yml"
    fine = verify(site, "DEP-99", label="verify ports")
    assert fine.code == 0, fine.text[-5000:]
    assert yaml.safe_load(record.read_text(encoding="utf-8"))["decision"] == "done"
    record.unlink()
    app = site.host("app")
    app.ssh("nft insert rule inet host_baseline input tcp dport 7777 accept")
    app.ssh("systemd-run --unit planted python3 -m http.server 7777")
    app.wait_until("ss -Hltn sport = :7777 | grep -q 7777")
    try:
        found = verify(site, "DEP-99", label="verify ports, one planted")
    finally:
        app.ssh("systemctl stop planted; systemctl restart host-baseline-firewall")
    assert found.code != 0
    assert re.search(r"Port 7777 of app answers (db|edge|ops)", found.line)
    assert not record.exists()


def test_a_host_that_is_away_is_no_success(site: Site) -> None:
    record = site.repository / "records/staging/DEP-01.yml"
    record.unlink(missing_ok=True)
    site.host("app").cut()
    try:
        done = verify(site, "DEP-01", label="verify, host away")
    finally:
        site.host("app").heal()
    assert done.code != 0
    assert not record.exists()
    reports = sorted((site.repository / "records/staging/evidence").glob("verify-*.yml"))
    assert "app did not answer" in reports[-1].read_text(encoding="utf-8")


def test_monitoring_sees_services_certificates_and_the_chain_of_audits(site: Site) -> None:
    ops = site.host("ops")
    ops.ssh("systemctl start santedb-audit-seal santedb-checks")
    figures = ops.ssh(FETCH.format("http://10.77.0.44:9100/metrics")).stdout
    assert "santedb_audit_chain_intact 1" in figures
    assert 'santedb_probe_up{probe="audit"} 1' in figures
    assert re.search(r'santedb_certificate_days_left\{certificate="staging-audit-collector-ops"\} 36[45]', figures)
    rules = ops.wait_until(FETCH.format("http://127.0.0.1:9090/api/v1/rules"), 60)
    assert "ServiceDown" in rules
    refused = "python3 -c 'import socket; socket.create_connection((\"10.77.0.44\", 9090), 3)'"
    assert site.host("db").ssh(refused, check=False).returncode != 0


def test_an_alert_is_raised_for_a_service_that_died(site: Site) -> None:
    site.host("app").ssh("docker stop santedb-icdr; systemctl start santedb-checks")
    try:
        alerts = FETCH.format("http://127.0.0.1:9090/api/v1/query?query=ALERTS")
        site.host("ops").wait_until(f"{alerts} | grep -q ServiceDown", 240)
    finally:
        site.host("app").ssh("docker start santedb-icdr")
