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
        "root": str(tmp_path),
        "environment": "production",
        "production": True,
        "cannot": {},
        "groups": {**groups, "all": hosts},
        "hosts": hosts,
        "seen": {},
        "trouble": {},
        "scanned": {},
        "scan_trouble": {},
        "identities": {},
        "icdr_roles": {},
        "ports": [],
        "certificates": [],
        "certificate_days": 30,
        "names": {"api": "a.invalid"},
        "resolved": {},
        "outside": {},
        "arrived": {},
        "event": "x",
        "audit_seconds": 1,
        "secrets_missing": [],
        "secrets_count": 0,
        "secrets_unreadable": "no vault",
    }
    tasks = [{**task, "verify_how": task.get("verify_how")} for task in automatic.values()]
    found = {result["task"]: result["status"] for result in verify.verify_check(given, tasks)}
    may_hold = {"PLN-03", "PLN-14", "PLN-34", "PLN-39", "DEP-14", "DEP-24", "DEP-29", "DEP-75"}
    assert {task for task, status in found.items() if status == "done"} <= may_hold


@pytest.fixture
def repository(tmp_path):
    """A small repository with one environment that holds every rule of the rendered files."""
    icdr = {
        "santedb_image": "santesuite/santedb-icdr:3.0.2098-alpha",
        "santedb_environment": {
            "SDB_FEATURE": "LOG;SEC",
            "SDB_SEC_SIG_default": "rs256:{{ icdr_signing_thumbprints.default }}",
            "SDB_SEC_SIG_jwsdefault": "rs256:{{ icdr_signing_thumbprints.jwsdefault }}",
            "SDB_DB_MAIN": "server=db;database=santedb;user id=x;password={{ vault_database_main_password }}",
        },
    }
    (tmp_path / "inventories/production/group_vars/icdr").mkdir(parents=True)
    (tmp_path / "inventories/production/group_vars/icdr/10-generated.yml").write_text(json.dumps(icdr))
    (tmp_path / "santedb/production/config").mkdir(parents=True)
    (tmp_path / "santedb/production/config/applets.xml").write_text('<a allowUnsignedApplets="false"/>')
    plan = {
        "answers": {"sample_data": False, "identity_domains": []},
        "features": [{"id": "LOG"}, {"id": "SEC"}],
        "environments": [{"name": "production", "production": True}, {"name": "staging", "production": False}],
        "hosts": [{"environment": "production", "name": "a", "address": "192.0.2.1"}],
        "backup": {
            "targets": [
                {"name": "x", "media": "nas", "location": "offsite"},
                {"name": "y", "media": "local_disk", "location": "onsite"},
            ]
        },
        "sizing": {"shortfalls": []},
    }
    (tmp_path / "plan.yml").write_text(json.dumps(plan))
    return tmp_path


def judge(verify, repository, task, **more):
    given = {
        "root": str(repository),
        "environment": "production",
        "production": True,
        "cannot": {},
        "groups": {"icdr": ["a"], "all": ["a"]},
        "hosts": ["a"],
        "seen": {},
        "trouble": {},
        "scanned": {},
        "scan_trouble": {},
        "ports": [],
        "identities": {},
        **more,
    }
    return verify.verify_check(given, [{"id": task}])[0]


RENDERED = ["PLN-03", "PLN-14", "PLN-39", "DEP-14", "DEP-24", "DEP-25", "DEP-29", "DEP-57", "DEP-58", "DEP-75"]


@pytest.mark.parametrize("task", RENDERED)
def test_a_good_repository_holds(verify, repository, task):
    assert judge(verify, repository, task) == {
        "task": task,
        "status": "done",
        "problems": [],
        "reason": "",
        "details": ANY,
    }


class Anything:
    def __eq__(self, other):
        return True


ANY = Anything()


def own(repository, **values):
    (repository / "inventories/production/group_vars/icdr/90-local.yml").write_text(json.dumps(values))


def planned(repository, **values):
    plan = json.loads((repository / "plan.yml").read_text())
    (repository / "plan.yml").write_text(json.dumps({**plan, **values}))


FAULTS = {
    "PLN-03": lambda it: planned(
        it, hosts=[{"environment": name, "name": name, "address": "192.0.2.1"} for name in ("production", "staging")]
    ),
    "PLN-39": lambda it: planned(it, backup={"targets": [{"name": "x", "media": "nas", "location": "onsite"}]}),
    "DEP-14": lambda it: own(it, santedb_environment={"SDB_DB_MAIN": "server=db;password=abc123"}),
    "DEP-24": lambda it: own(it, santedb_image="santesuite/santedb-icdr:latest"),
    "DEP-25": lambda it: own(it, santedb_environment={"SDB_FEATURE": "LOG;SEC;FHIR"}),
    "DEP-29": lambda it: (
        (it / "inventories/production/group_vars/all").mkdir()
        or (it / "inventories/production/group_vars/all/vault.yml").write_text("vault_x: open\n")
    ),
    "DEP-57": lambda it: (it / "santedb/production/config/applets.xml").write_text('<a allowUnsignedApplets="true"/>'),
    "DEP-58": lambda it: own(it, icdr_environment_extra={"SDB_SEC_SIG_default": "hs256:{{ vault_x }}"}),
    "DEP-75": lambda it: (it / "santedb/production/elbonia.dataset").write_text("<x/>"),
}


@pytest.mark.parametrize("task", FAULTS)
def test_a_fault_is_found_and_told_in_four_parts(verify, repository, task):
    FAULTS[task](repository)
    found = judge(verify, repository, task)
    assert found["status"] == "failed", found
    assert all(problem.count(";") >= 3 and problem.endswith(".") for problem in found["problems"])


def test_ports_are_judged_by_who_tries(verify, repository):
    ports = [{"group": "icdr", "service": "rest", "port": 8080, "protocol": "tcp", "from": [{"group": "proxy"}]}]
    common = {"ports": ports, "groups": {"icdr": ["a"], "proxy": ["p"], "all": ["a"]}, "hosts": ["a"]}
    seen = {"a": {"commands": {"listening_udp": {"rc": 0, "out": "", "err": ""}}}}
    scan = {"open": {"a": [8080]}, "from": {"a": "192.0.2.9"}}
    assert judge(verify, repository, "DEP-99", seen=seen, scanned={"p": scan}, **common)["status"] == "done"
    found = judge(verify, repository, "DEP-99", seen=seen, scanned={"x": scan}, **common)
    assert found["status"] == "failed"
    assert "Port 8080 of a answers x" in found["problems"][0]
    assert judge(verify, repository, "DEP-99", seen=seen, scanned={}, **common)["status"] == "cannot"


def test_identities_are_judged_by_what_was_tried(verify, repository):
    tried = {
        "tried": ["user Administrator by new", "application fiddler"],
        "unclear": [],
        "new_works": True,
        "answers": {},
        "alive": [],
    }
    assert judge(verify, repository, "DEP-50", identities=tried)["status"] == "done"
    assert (
        judge(verify, repository, "DEP-53", identities={**tried, "alive": ["application fiddler"]})["status"]
        == "failed"
    )
    assert judge(verify, repository, "DEP-50", identities={**tried, "new_works": False})["status"] == "cannot"
    assert judge(verify, repository, "DEP-50", identities={**tried, "unclear": ["down"]})["status"] == "cannot"


@pytest.mark.parametrize(
    ("record", "status"),
    [
        ("decision: waived\nexpires: 2099-12-31\n", "waived"),
        ("decision: waived\nexpires: 2020-01-01\n", "failed"),
        ("decision: waived\nexpires: 2099-12-31\nanswers_digest: of-other-answers\n", "failed"),
        ("decision: done\n", "failed"),
    ],
)
def test_what_people_waived_does_not_fail_while_the_waiver_stands(verify, repository, record, status):
    FAULTS["DEP-57"](repository)
    path = repository / "records/production/DEP-57.yml"
    path.parent.mkdir(parents=True)
    path.write_text(record)
    found = judge(verify, repository, "DEP-57")
    assert found["status"] == status
    assert found["problems"]


@pytest.mark.parametrize(
    ("started", "fatal", "held"),
    [
        # one second, Docker: the failed start, then the one that runs
        ("2026-11-22T09:05:40.91Z", "2026-11-22T09:05:40.899999999Z", True),
        ("2026-11-22T09:05:40.91Z", "2026-11-22T09:05:40.911Z", False),
        ("2026-11-22T09:05:41Z", "2026-11-22T09:05:40.911Z", True),
        # Podman
        ("2026-11-22 09:05:40.91 +0000 UTC", "2026-11-22T09:05:40.899999999+00:00", True),
        ("2026-11-22 09:05:40.91 +0000 UTC", "2026-11-22T09:05:40.92+00:00", False),
    ],
)
def test_only_the_log_since_the_last_start_counts(verify, started, fatal, held):
    seen = verify.Context.__new__(verify.Context)
    seen.output = lambda host, what: (
        json.dumps([{"Config": {}, "State": {"StartedAt": started}}])
        if what == "container"
        else f"{fatal} FATAL ERROR\n"
    )
    assert ("FATAL ERROR" not in seen.said_since_start("app")) == held
