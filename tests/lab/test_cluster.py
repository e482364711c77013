"""A cluster from bare hosts on: what callers meet, one server less; then its plan changes: a server joins, standby and options leave."""

from __future__ import annotations

import pytest

from tests.lab.cluster import Cluster, applications
from tests.lab.graded import Graded
from tests.lab.turned_off import Changed, TurnedOff, without
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


class TestTheCluster(Cluster):
    """Staging, from bare hosts."""


class TestGraded(Graded):
    """Staging, from bare hosts."""


@pytest.fixture(scope="module")
def before(site: Site) -> dict[str, str]:
    """The certificates before anything changes."""
    return fingerprints(site)


@pytest.fixture(scope="module")
def changed(site: Site, before: dict[str, str]) -> Changed:
    """The same site: a third application server joins; the standby leaves and its machine has other work; options are off."""
    changed = Changed(site, watcher="db2")
    site.groups |= {
        "app3": (67, ["icdr"]),
        "db2": (65, ["monitoring"]),
        "ops": (66, ["cache", "queue", "audit", "backup"]),
    }
    site.lab.host("app3", 67, docker=True)
    site.lab.start(site.host("app3"))
    site.render(**without(site.answers), database_failover="none", read_replicas=0)
    images.install_docker(site.host("app3"), compose=False)
    images.load(site.host("app3"), images.standin_archive(image="mpi"))
    plans.open_the_gate(site, "--again")  # signatures given for other answers are void
    # SanteDB's console, where the portal's application is locked, cannot give a second factor: it is turned on again after that
    site.deploy("-e", "icdr_mfa_paused=true", label="deploy, changed")
    again = site.play("hardening", label="second factor")
    assert again.code == 0, again.text[-5000:]
    changed.look_again()
    return changed


def test_a_server_that_joins_changes_no_certificate(changed: Changed, before: dict[str, str], partner: Partner) -> None:
    site = changed.site
    after = fingerprints(site)
    stays = {path: digest for path, digest in before.items() if path in after}
    assert {path: after[path] for path in stays} == stays
    assert f".ca/{site.environment}/ca.crt" in stays
    more = {path for path in after if path not in before}
    assert "app3:/etc/santedb/tls/ca.crt" in more
    assert all(path.startswith("app3:") for path in more), more
    site.wait_for(lambda: upstreams(site, partner) == set(applications(site).values()), 60)


@pytest.mark.usefixtures("changed")
def test_a_standby_that_leaves_leaves_nothing(site: Site) -> None:
    assert standby_left(site) == []


class TestTurnedOff(TurnedOff):
    """Portal, HL7 and forwarding are off, monitoring moved."""
