"""A cluster from bare hosts on: what callers meet, one server less; then its plan changes: a server joins, the standby leaves."""

from __future__ import annotations

import urllib.parse

import pytest
import yaml

from tests.lab.cluster import Cluster, applications
from tools.lab import images, plans
from tools.lab.partner import Partner
from tools.lab.shown import fingerprints, standby_left, upstreams
from tools.lab.sites import Site

pytestmark = [pytest.mark.lab, pytest.mark.timeout(3600)]
PLAN = "cluster"


def test_a_second_run_changes_nothing_on_any_host(site: Site) -> None:
    assert set(site.groups) <= set(site.runs["deploy"].recap.changed)
    done = site.deploy(label="deploy again")
    assert set(done.recap.changed) <= {"localhost"}, done.changes()  # where each deployment leaves its record


def test_verify_proves_it(site: Site) -> None:
    done = site.make("verify", "-e", "verified_by='Amina Okello'")
    assert done.code == 0, done.text[-8000:]
    evidence = sorted((site.repository / "records/staging/evidence").glob("verify-*.yml"))[-1]
    report = yaml.safe_load(evidence.read_text(encoding="utf-8"))
    assert report["failed"] == []
    assert {"DEP-50", "DEP-51", "DEP-53", "DEP-68", "DEP-99"} <= set(report["done"])


def test_a_token_needs_a_certificate_and_no_header_stands_in_for_it(partner: Partner) -> None:
    assert partner.token() == 403
    assert partner.token(forged=urllib.parse.quote(partner.certificate.read_text(encoding="ascii"))) == 403
    assert partner.token(certificate=True) == 200


def test_hl7_over_tls_reaches_the_application(partner: Partner) -> None:
    assert "MSA|AA|7" in partner.hl7()
    assert "MSA" not in partner.hl7(certificate=False)


class TestTheCluster(Cluster):
    """Staging, from bare hosts."""


@pytest.fixture(scope="module")
def before(site: Site) -> dict[str, str]:
    """The certificates before anything changes."""
    return fingerprints(site)


@pytest.fixture(scope="module")
def changed(site: Site, before: dict[str, str]) -> Site:
    """The same site, with a third application server; the standby's machine has other work."""
    site.groups |= {
        "app3": (67, ["icdr"]),
        "db2": (65, ["monitoring"]),
        "ops": (66, ["cache", "queue", "audit", "backup"]),
    }
    site.lab.host("app3", 67, docker=True)
    site.lab.start(site.host("app3"))
    site.render(database_failover="none", read_replicas=0)
    images.install_docker(site.host("app3"), compose=False)
    images.load(site.host("app3"), images.standin_archive(image="mpi"))
    plans.open_the_gate(site, "--again")  # signatures given for other answers are void
    site.deploy(label="deploy, changed")
    return site


def test_a_server_that_joins_changes_no_certificate(changed: Site, before: dict[str, str], partner: Partner) -> None:
    after = fingerprints(changed)
    gone = {path for path in before if path not in after}
    assert all(path.startswith("db2:") for path in gone), gone
    assert {path: after[path] for path in before if path in after} == {
        path: digest for path, digest in before.items() if path not in gone
    }
    assert f".ca/{changed.environment}/ca.crt" in before
    more = {path for path in after if path not in before}
    assert "app3:/etc/santedb/tls/audit_sender.crt" in more
    assert all(path.startswith("app3:") for path in more), more
    changed.wait_for(lambda: upstreams(changed, partner) == set(applications(changed).values()), 60)


def test_a_standby_that_leaves_leaves_nothing(changed: Site, partner: Partner) -> None:
    assert standby_left(changed) == []
    assert partner.token(certificate=True) == 200
    for host in changed.groups:
        assert changed.host(host).ssh("systemctl --failed --no-legend --plain").stdout == "", host
