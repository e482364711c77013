"""Every task that the plan calls automatic has a check, or a reason why no machine can do it; neither is forgotten."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "template/roles/verify"


@pytest.fixture(scope="module")
def automatic() -> dict[str, dict]:
    catalog = json.loads((ROOT / "catalog/catalog.json").read_text())
    tasks = [task for phase in catalog["phases"] for group in phase["groups"] for task in group["tasks"]]
    return {task["id"]: task for task in tasks if task["verify"] == "auto"}


@pytest.fixture(scope="module")
def table() -> dict[str, dict[str, str]]:
    return yaml.safe_load((ROLE / "vars/checks.yml").read_text())


@pytest.fixture(scope="module")
def verify():
    spec = importlib.util.spec_from_file_location("verify_filter", ROLE / "filter_plugins/verify.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_automatic_task_is_in_the_table_and_nothing_else(automatic, table):
    assert set(automatic) - set(table["verify_checks"]) == set()
    assert set(table["verify_checks"]) - set(automatic) == set()


def test_every_file_of_the_table_exists_and_is_used(table):
    there = {path.name for path in (ROLE / "tasks/checks").glob("*.yml")}
    assert there == set(table["verify_checks"].values())


def test_a_task_has_either_a_check_or_a_reason(table, verify):
    checked, excused = set(verify.CHECKS), set(table["verify_cannot"])
    assert checked & excused == set(), "a check that is never made"
    assert set(table["verify_checks"]) - checked - excused == set()
    assert checked - set(table["verify_checks"]) == set()
    by_people = {task for task, name in table["verify_checks"].items() if name == "people.yml"}
    assert by_people == excused


def test_reasons_say_something(table):
    for task, reason in table["verify_cannot"].items():
        assert len(reason.split()) >= 8, f"{task}: {reason}"


def test_what_was_not_seen_is_never_passed(automatic, verify, tmp_path):
    """With hosts that did not answer, no check of hosts holds."""
    (tmp_path / "plan.yml").write_text((ROOT / "tests/golden/demoland-mpi/plan.yml").read_text())
    plan = yaml.safe_load((tmp_path / "plan.yml").read_text())
    groups = {name: list(hosts) for name, hosts in plan["environments"][1]["groups"].items()}
    hosts = sorted({host for found in groups.values() for host in found})
    given = {
        "root": str(tmp_path), "environment": "production", "production": True, "cannot": {}, "groups": {**groups, "all": hosts},
        "hosts": hosts, "seen": {}, "trouble": {}, "scanned": {}, "scan_trouble": {}, "identities": {}, "icdr_roles": {}, "ports": [],
        "certificates": [], "certificate_days": 30, "names": {"api": "a.invalid"}, "resolved": {}, "outside": {}, "arrived": {},
        "event": "x", "audit_seconds": 1, "secrets_missing": [], "secrets_count": 0, "secrets_unreadable": "no vault",
    }  # fmt: skip
    tasks = [{**task, "verify_how": task.get("verify_how")} for task in automatic.values()]
    found = {result["task"]: result["status"] for result in verify.verify_check(given, tasks)}
    may_hold = {"PLN-03", "PLN-14", "PLN-34", "PLN-39", "DEP-14", "DEP-24", "DEP-29", "DEP-75"}
    assert {task for task, status in found.items() if status == "done"} <= may_hold
