"""Production on a cluster: refused until its people have signed, opened by two of them; then what callers meet, and one server less."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.lab.cluster import Cluster
from tools.lab.sites import Site

pytestmark = [pytest.mark.lab, pytest.mark.timeout(5400)]
PLAN = "clustered"


def records(site: Site, kind: str) -> list[dict[str, Any]]:
    """Return the records below a folder of the environment, oldest first."""
    paths = sorted((site.repository / "records/production" / kind).glob("*.yml"))
    return [yaml.safe_load(path.read_text(encoding="utf-8")) for path in paths]


def test_production_is_refused_until_its_people_have_signed(site: Site) -> None:
    refused = site.runs["deploy, refused"]
    assert refused.code != 0
    assert "production is not deployed; 26 findings:" in refused.line
    assert set(refused.recap.hosts) == {"localhost"}, "hosts were touched"
    assert site.runs["verify preflight"].code == 0
    owners = {task["id"]: task["owner"] for task in yaml.safe_load((site.repository / "plan.yml").read_text())["tasks"]}
    signed = {}
    for path in (*site.repository.glob("records/project/*.yml"), *site.repository.glob("records/production/*.yml")):
        signed[path.stem] = yaml.safe_load(path.read_text(encoding="utf-8"))
    machines = {task for task, record in signed.items() if record["by"].startswith("verify playbook")}
    assert {"DEP-02", "DEP-06", "DEP-07", "DEP-11", "DEP-14", "DEP-24", "DEP-25", "DEP-58", "DEP-75"} <= machines
    assert all(record["team_role"] == owners[task] for task, record in signed.items())
    assert len({record["by"] for record in signed.values()}) >= 5


def test_signed_it_deploys_and_its_proxy_stays_closed(site: Site) -> None:
    done = site.runs["deploy, closed"]
    assert done.code == 0
    assert "The proxy admits trusted networks only until this is closed" in done.line
    assert site.runs["stranger, closed"].text.split() == ["403", "403"]
    assert not records(site, "releases")[0]["proxy_open"]


def test_who_deploys_does_not_approve_the_go_live_alone(site: Site) -> None:
    assert site.runs["verify, closed"].code == 0, site.runs["verify, closed"].text[-5000:]
    held = site.runs["gate, approved by who deploys"]
    assert (
        "DEP-106 (Take the go-live decision) is approved by Samuel Adeyemi alone, who runs this deployment" in held.line
    )
    waiting = held.line.split("until this is closed:")[1]
    assert set(re.findall(r"(?:INF|PLN|DEV|DEP|ROL)-\d+ \(", waiting)) == {"DEP-106 ("}


def test_approved_the_proxy_opens_and_the_release_is_on_record(site: Site) -> None:
    done = site.runs["deploy, open"]
    assert set(done.recap.changed) <= {"localhost", "edge"}, done.changes()
    assert site.runs["stranger, open"].text.split() == ["200", "200"]
    record = next(one for one in records(site, "releases") if one["proxy_open"])
    assert re.fullmatch(r"[0-9a-f]{40}", record["commit"])
    assert record["uncommitted"] == 0
    assert record["deployed_by"] == "Samuel Adeyemi"
    for host, group in (("app", "icdr"), ("app2", "icdr"), ("edge", "portal")):
        assert re.search(r"sha256:[0-9a-f]{64}", record["images"][host][group])
    approved = {one["task"]: one for one in record["approvals"]}
    assert approved["DEP-106"]["by"] == "Amina Okello"
    assert approved["DEP-106"]["approved_by"] == "Ruth Banda"
    assert {one["task"] for one in record["waivers"]} == {"DEP-21", "PLN-34"}


def test_a_second_run_changes_nothing_on_any_host(site: Site) -> None:
    done = site.deploy(label="deploy again")
    assert set(done.recap.changed) <= {"localhost"}, done.changes()  # where each deployment leaves its record


class TestTheCluster(Cluster):
    """Production."""
