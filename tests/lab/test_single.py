"""Everything on one host, with Podman instead of Docker: the smallest deployment there is."""

from __future__ import annotations

import json
import socket

import pytest

from tools.lab import plans
from tools.lab.partner import Partner
from tools.lab.sites import Site

pytestmark = [pytest.mark.lab, pytest.mark.timeout(3600)]
PLAN = "single"


def running(site: Site, container: str) -> dict[str, str]:
    """Return image and state of a container."""
    found = json.loads(site.host("one").inside(f"podman inspect {container}").stdout)[0]
    return {"image": found["ImageName"], "state": found["State"]["Status"]}


def test_check_mode_on_the_bare_host_does_not_fail(site: Site) -> None:
    done = site.runs["deploy --check, bare host"]
    assert done.code == 0, done.text[-8000:]


def test_it_serves_by_its_public_name_only(site: Site, partner: Partner) -> None:
    assert partner.call("/fhir/metadata").status == 200
    assert partner.token() == 403
    assert partner.token(certificate=True) == 200
    assert "MSA|AA|7" in partner.hl7()
    for port in (
        8080,
        2100,
        5432,
        6379,
    ):  # what containers publish and what they use; the host's own firewall keeps it in
        with pytest.raises(OSError, match=r"timed out|refused|unreachable"):
            socket.create_connection(("10.77.0.71", port), 3)
    assert not site.host("one").ssh("command -v docker", check=False).stdout


def test_a_second_run_changes_nothing(site: Site) -> None:
    done = site.deploy(label="deploy again")
    assert set(done.recap.changed) <= {"localhost"}, done.changes()


def test_verify_proves_it(site: Site) -> None:
    done = site.make("verify", "-e", "verified_by='Amina Okello'")
    assert done.code == 0, done.text[-8000:]


def test_it_comes_back_after_a_power_cut_and_when_it_is_killed(site: Site, partner: Partner) -> None:
    one = site.host("one")
    one.power_cut()
    one.start()
    site.wait_for(partner.answers, 180)
    one.ssh("kill -9 $(podman inspect --format '{{.State.Pid}}' santedb-icdr)")
    site.wait_for(lambda: running(site, "santedb-icdr")["state"] == "running" and partner.answers(), 90)


def test_an_upgrade_that_fails_is_taken_back_and_a_good_one_stays(site: Site, partner: Partner) -> None:
    before = running(site, "santedb-icdr")["image"]
    plans.offer_release(site, "one", "3.0.2105-alpha", broken=True, engine="podman")
    failed = site.make("upgrade", label="upgrade, failing")
    assert failed.code != 0
    assert "The upgrade failed and was taken back; on one:" in failed.line, failed.text[-6000:]
    assert running(site, "santedb-icdr")["image"] == before
    assert partner.token(certificate=True) == 200

    plans.offer_release(site, "one", "3.0.2110-alpha", engine="podman")
    done = site.make("upgrade", label="upgrade")
    assert done.code == 0, done.text[-6000:]
    assert running(site, "santedb-icdr")["image"].endswith(":3.0.2110-alpha")
    assert partner.token(certificate=True) == 200
