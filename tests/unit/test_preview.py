"""What plan says about a change of answers, and the commands it proposes."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from santescaffold import preview
from tests.support import ROOT, load_plan, renderer

COMMANDS = renderer().template.catalog["commands"]["commands"]


def compared(name: str, change: dict[str, Any]) -> dict[str, Any]:
    answers, template = load_plan(name), renderer().template
    return preview.compare(template.resolve(answers), template.resolve({**answers, **change}))


def test_nothing_changes() -> None:
    found = compared("demoland-mpi", {})
    assert preview.lines({**preview.nothing(), **found}) == ["Nothing would change."]


def test_a_feature_goes_with_its_answer() -> None:
    found = compared("demoland-mpi", {"cache": "memory"})
    assert [entry["id"] for entry in found["features"]["removed"]] == ["REDIS"]
    assert [entry["id"] for entry in found["features"]["added"]] == ["RAMCACHE"]
    assert {entry["id"] for entry in found["answers"]} == {"cache"}
    changed = {(entry["environment"], entry["id"]) for entry in found["variables"]}
    assert {("production", "SDB_FEATURE"), ("staging", "SDB_REDIS_SERVER")} <= changed
    assert not found["ports"]["added"]
    assert {entry["service"] for entry in found["ports"]["removed"]} == {"redis"}


def test_a_new_environment_brings_hosts_certificates_and_secrets() -> None:
    found = compared("demoland-mpi", {"environments": ["training", "staging", "production"]})
    assert [entry["name"] for entry in found["environments"]["added"]] == ["training"]
    assert {entry["environment"] for entry in found["hosts"]["added"]} == {"training"}
    assert {entry["environment"] for entry in found["certificates"]["added"]} == {"training"}
    text = "\n".join(preview.lines({**preview.nothing(), **found}))
    assert "+ training" in text


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    """A repository whose every task is signed for the plan of Demoland."""
    plan = renderer().template.resolve(load_plan("demoland-mpi"))
    for task in plan["tasks"]:
        for place in ["project"] if task["scope"] == "project" else plan["environment_names"]:
            file = tmp_path / "records" / place / f"{task['id']}.yml"
            file.parent.mkdir(parents=True, exist_ok=True)
            record = {
                "task": task["id"], "decision": "done", "by": "A", "approved_by": "B", "team_role": task["owner"],
                "on": "2026-11-01", "evidence": "x", "answers_digest": task["answers_digest"],
            }  # fmt: skip
            file.write_text(json.dumps(record), encoding="utf-8")
    return tmp_path


def test_records_become_void_exactly_where_their_answers_changed(signed: Path) -> None:
    template = renderer().template
    answers = load_plan("demoland-mpi")
    old = template.resolve(answers)
    for change in ({"rpo_hours": 6}, {"mfa": "optional"}, {"vision_statement": "Another one, which is long enough."}):
        new = template.resolve({**answers, **change})
        changed = {entry["id"] for entry in preview.compare(old, new)["answers"]}
        void = preview.void_records(signed, old, new, changed, "2026-11-22")
        kept = {task["id"] for task in new["tasks"]}
        expected = {task["id"] for task in old["tasks"] if task["id"] not in kept or changed & set(task["depends_on"])}
        assert {entry["task"] for entry in void} == expected
        assert all(changed & set(re.findall(r"\w+", entry["why"])) for entry in void if entry["task"] in kept)
    assert preview.void_records(signed, old, old, [], "2026-11-22") == []


def test_records_of_an_environment_that_goes(signed: Path) -> None:
    template = renderer().template
    old = template.resolve(load_plan("demoland-mpi"))
    new = copy.deepcopy(old)
    new["environments"] = [entry for entry in new["environments"] if entry["name"] == "production"]
    void = preview.void_records(signed, old, new, [], "2026-11-22")
    assert void
    assert all(entry["why"] == "the plan no longer has the environment staging" for entry in void)


# --- commands


def inventory(**changes: Any) -> preview.Inventories:
    values: dict[str, Any] = {
        "group_vars": {
            "all": {"santedb_ports": [1], "santedb_required_secrets": [1]},
            "icdr": {"santedb_environment": {"A": "1"}, "santedb_image": "x:1", "icdr_hardening_users": []},
            "cache": {"cache_max_memory_mb": 1, "cache_enabled": True},
            "database": {"database_settings": {}, "database_replicas": 0},
        },
        "hosts": {"app": {}, "db": {}},
        "groups": {"icdr": ["app"], "cache": ["app"], "database": ["db"], "proxy": ["app"]},
    }
    for group, variables in changes.items():
        if group in ("hosts", "groups"):
            values[group] = variables
        else:
            values["group_vars"][group] = {**values["group_vars"].get(group, {}), **variables}
    return {"production": values}


@pytest.fixture
def playbooks(tmp_path: Path) -> Path:
    for entry in [*COMMANDS, {"playbook": "site"}, {"playbook": "verify"}]:
        (tmp_path / f"{entry['playbook']}.yml").write_text("---\n")
    return tmp_path


def proposed(
    before: preview.Inventories, after: preview.Inventories, playbooks: Path, *files: str
) -> list[tuple[str, str, str]]:
    found = preview.commands(
        before, after, dict.fromkeys(files, "changed"), {"commands": {"commands": COMMANDS}}, playbooks
    )
    for entry in found:
        assert entry["command"].startswith("ansible-playbook -i inventories/production playbooks/")
        if entry["limit"]:
            assert "--limit localhost," in entry["command"], "the gate runs on localhost"
    return [(entry["playbook"], ",".join(entry["limit"]), ",".join(entry["tags"])) for entry in found]


CASES: list[tuple[dict[str, Any], list[str], list[tuple[str, str, str]]]] = [
    ({}, [], []),
    ({}, ["docs/risk.md", "plan.yml"], []),
    ({"icdr": {"santedb_environment": {"A": "2"}}}, [], [("icdr", "app", "")]),
    ({"icdr": {"santedb_image": "x:2"}}, [], [("upgrade", "app", "")]),
    ({"icdr": {"icdr_hardening_users": ["x"]}}, [], [("hardening", "app", "")]),
    ({"cache": {"cache_max_memory_mb": 2}}, [], [("cache", "app", "cache_configure")]),
    ({"cache": {"cache_enabled": False}}, [], [("cache", "app", "")]),
    ({"database": {"database_settings": {"a": 1}}}, [], [("database", "db", "database_configure")]),
    ({"database": {"database_replicas": 1}}, [], [("database", "db", "")]),
    ({"all": {"santedb_ports": [2]}}, [], [("baseline", "", "host_baseline_firewall")]),
    ({"all": {"santedb_required_secrets": [2]}}, [], [("secrets", "", "")]),
    ({}, ["santedb/production/santedb.config.xml"], [("icdr", "app", "")]),
    ({}, ["santedb/staging/santedb.config.xml"], []),
    ({}, ["roles/cache/tasks/main.yml"], [("cache", "app", "")]),
    ({"cache": {"cache_max_memory_mb": 2}}, ["roles/cache/tasks/main.yml"], [("cache", "app", "")]),
    (
        {
            "hosts": {"app": {}, "db": {}, "app2": {}},
            "groups": {"icdr": ["app", "app2"], "cache": ["app"], "database": ["db"], "proxy": ["app"]},
        },
        [],
        [("baseline", "", ""), ("certificates", "app2", ""), ("database", "db", "database_configure"), ("icdr", "app,app2", ""),
         ("hardening", "app2", ""), ("monitoring", "", ""), ("backup", "", "")],
    ),
    (
        {"groups": {"icdr": ["app"], "cache": ["db"], "database": ["db"], "proxy": ["app"]}},
        [],
        [("baseline", "", "host_baseline_firewall"), ("cache", "db,app", ""), ("monitoring", "", ""), ("backup", "", "")],
    ),
    (
        {"hosts": {"app": {"ansible_host": "10.0.0.9"}, "db": {}}},
        [],
        [("baseline", "", "host_baseline_firewall"), ("database", "db", "database_configure"), ("icdr", "app", ""),
         ("monitoring", "", ""), ("backup", "", "")],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "files", "expected"), CASES)
def test_smallest_commands(
    playbooks: Path, changes: dict[str, Any], files: list[str], expected: list[tuple[str, str, str]]
) -> None:
    found = proposed(inventory(), inventory(**changes), playbooks, *files)
    assert found[:-1] == expected
    assert found[-1:] in ([], [("verify", "", "")])


def test_a_new_environment_is_deployed_whole(playbooks: Path) -> None:
    assert proposed({}, inventory(), playbooks) == [("site", "", ""), ("verify", "", "")]


def test_production_comes_last(playbooks: Path) -> None:
    before = {"production": inventory()["production"], "staging": inventory()["production"]}
    changed = inventory(cache={"cache_enabled": False})["production"]
    found = preview.commands(
        before, {"production": changed, "staging": changed}, {}, {"commands": {"commands": COMMANDS}}, playbooks
    )
    assert [entry["environment"] for entry in found] == ["staging", "staging", "production", "production"]


def test_playbooks_this_version_lacks_are_not_proposed(playbooks: Path) -> None:
    (playbooks / "cache.yml").unlink()
    assert proposed(inventory(), inventory(cache={"cache_enabled": False}), playbooks) == []


def test_every_rendered_group_variable_belongs_to_a_playbook() -> None:
    """A variable nobody's rule knows would change machines without a command that says so."""
    import fnmatch

    quiet = re.compile(
        r"santedb_(project|project_slug|organization|country_code|environment_name|production|topology|hosting|"
        r"role_ids|public_url|existing_services|maintenance_window|outbound)$"
    )
    patterns = [pattern for entry in COMMANDS for rule in entry["rules"] for pattern in rule.get("variables", [])]
    rendered = renderer().render(load_plan("island-shr-clustered"))
    names = {
        name
        for path, text in rendered.items()
        if path.endswith("10-generated.yml")
        for name in (yaml.safe_load(text) or {})
    }
    orphans = {
        name for name in names if not quiet.match(name) and not any(fnmatch.fnmatchcase(name, p) for p in patterns)
    }
    assert not orphans


def test_playbooks_and_tags_exist() -> None:
    """What the data names is there, as far as this version of the template has the playbook."""
    for entry in COMMANDS:
        if not (ROOT / "template" / "playbooks" / f"{entry['playbook']}.yml").is_file():
            continue
        for rule in entry["rules"]:
            for tag in rule.get("tags", []):
                roles = (ROOT / "template" / "roles").rglob("tasks/*.yml")
                assert any(re.search(rf"(?m)^\s+- {tag}$|tags: \[?.*\b{tag}\b", path.read_text()) for path in roles), (
                    tag
                )
                # what the preflight learns about a host, the tasks behind the tag rely on
                main = yaml.safe_load(
                    next((ROOT / "template/roles").rglob(f"{tag.rsplit('_', 1)[0]}/tasks/main.yml")).read_text()
                )
                preflight = [task for task in main if task.get("ansible.builtin.import_tasks") == "preflight.yml"]
                assert preflight, tag
                assert tag in preflight[0]["tags"], f"a run with --tags {tag} would leave the preflight out"
