"""Staging grows from one server of each kind to a cluster: the plan changes, two bare machines join, nothing that was there is lost."""

from __future__ import annotations

import pytest
import yaml

from tests.lab.cluster import Cluster
from tools.lab import images, plans
from tools.lab.shown import fingerprints
from tools.lab.sites import Site

pytestmark = [pytest.mark.lab, pytest.mark.timeout(3600)]
PLAN = "split"
JOINING = {"app2": (45, ["icdr"]), "db2": (46, ["database"])}


@pytest.fixture(scope="module")
def before(site: Site) -> dict[str, str]:
    """The certificates before anything joins."""
    return fingerprints(site)


@pytest.fixture(scope="module")
def cluster(site: Site, before: dict[str, str]) -> Site:
    """The site after the change, with the same repository and authority."""
    site.groups |= {**JOINING, "ops": (44, ["queue", "audit", "backup", "monitoring"])}
    for name, (number, groups) in JOINING.items():
        site.lab.host(name, number, docker="icdr" in groups)
    site.lab.start(*(site.host(name) for name in JOINING))
    site.render(topology="clustered", database_failover="streaming_replication", read_replicas=1)
    assert site.make("secrets", label="secrets, cluster").code == 0
    images.install_docker(site.host("app2"), compose=False)
    images.load(site.host("app2"), images.standin_archive(image="mpi"))
    plans.open_the_gate(site, "--again")  # signatures given for other answers are void
    site.deploy(label="deploy, cluster")
    return site


def test_nothing_that_was_there_got_another_certificate(cluster: Site, before: dict[str, str]) -> None:
    after = fingerprints(cluster)
    same = {path for path in before if not path.startswith(("app:", "db:"))}
    assert {path: after.get(path) for path in same} == {path: before[path] for path in same}
    authority = f".ca/{cluster.environment}/ca.crt"
    assert after[authority] == before[authority]
    for host in JOINING:
        known = cluster.host(host).ssh("sha256sum < /etc/santedb/tls/ca.crt").stdout.split()[0]
        assert known == before[authority]


def test_a_second_run_changes_nothing_on_any_host(cluster: Site) -> None:
    done = cluster.deploy(label="deploy, cluster, again")
    assert set(done.recap.changed) <= {"localhost"}, done.changes()  # where each deployment leaves its record


def test_verify_proves_it(cluster: Site) -> None:
    done = cluster.make("verify", "-e", "verified_by='Amina Okello'", label="verify, cluster")
    assert done.code == 0, done.text[-8000:]
    evidence = sorted((cluster.repository / "records/staging/evidence").glob("verify-*.yml"))[-1]
    report = yaml.safe_load(evidence.read_text(encoding="utf-8"))
    assert report["failed"] == []
    assert {"DEP-50", "DEP-51", "DEP-53", "DEP-68", "DEP-99"} <= set(report["done"])


@pytest.mark.usefixtures("cluster")
class TestTheCluster(Cluster):
    """Staging, after it has grown."""
