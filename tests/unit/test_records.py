"""Records: written, judged, voided by exactly the answers they rest on."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from santescaffold.cli import main
from santescaffold.records import assess, faults, load_yaml, plan_section, plan_sections, record_path
from santescaffold.repository import Repository
from tests.support import MINIMUM, PLAN_NAMES, ROOT, load_plan, renderer

SCHEMAS = ROOT / "santescaffold" / "schemas"
RECORD = Draft202012Validator(json.loads((SCHEMAS / "record.schema.json").read_text(encoding="utf-8")))
PLAN = Draft202012Validator(json.loads((SCHEMAS / "plan.schema.json").read_text(encoding="utf-8")))
QUESTIONS = renderer().template.catalog["questions"]
TODAY = "2026-03-31"


@cache
def resolved(name: str) -> dict[str, Any]:
    return renderer().template.resolve(load_plan(name))


@cache
def plan_text(name: str) -> str:
    return renderer().render(load_plan(name), ["plan.yml.jinja"])["plan.yml"]


def valid_record(task: dict[str, Any]) -> dict[str, Any]:
    return {
        "task": task["id"], "decision": "done", "by": "Ama", "team_role": task["owner"], "on": "2026-03-01",
        "evidence": "docs/x.md", "approved_by": "Kofi", "answers_digest": task["answers_digest"],
    }  # fmt: skip


def states(tasks: list[dict[str, Any]], old: dict[str, dict[str, Any]], rules: dict[str, Any]) -> dict[str, str]:
    """{task id: code of what is wrong with its old record, "" when it stands} of the tasks that were there before."""
    found = {}
    for task in tasks:
        if task["id"] in old:
            record = valid_record(old[task["id"]])
            finding = assess(task, record, record_path(task, "production"), "production", rules, TODAY)["finding"]
            found[task["id"]] = finding["code"] if finding else ""
    return found


def other(value: Any) -> Any:
    """Another value of the same form."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, list):
        return [*value, copy.deepcopy(value[0]) if value else "another"]
    if isinstance(value, dict):
        return {**value, "note": "changed"}
    return f"{value or ''} changed".strip()


@pytest.mark.parametrize("answer", sorted(set(resolved("demoland-mpi")["answers"])))
def test_an_edited_answer_voids_exactly_what_rests_on_it(answer: str) -> None:
    plan = resolved("demoland-mpi")
    old = {task["id"]: task for task in plan["tasks"]}
    edited = {**plan["answers"], answer: other(plan["answers"][answer])}
    # The conditions of tasks are of no interest here: with the answers as they were, the same tasks apply.
    template = renderer().template
    changed = []
    for task in plan["tasks"]:
        digest = template.environment.filters["hash"](
            json.dumps({name: edited[name] for name in sorted(task["depends_on"])}, sort_keys=True), "sha256"
        )
        changed.append({**task, "answers_digest": digest})
    found = states(changed, old, plan["gates"])
    assert {task_id for task_id, code in found.items() if code} == {
        task["id"] for task in plan["tasks"] if answer in task["depends_on"]
    }
    assert set(found.values()) <= {"", "changed"}


def flips() -> list[tuple[str, Any]]:
    """Every answer with few values, and each of its values that a plan accepts."""
    plan = load_plan("demoland-mpi")
    effective = resolved("demoland-mpi")["answers"]
    found: list[tuple[str, Any]] = []
    for name, question in QUESTIONS.items():
        if name == "interview" or name not in effective:
            continue
        refused = set(question.get("refused") or {})
        if question.get("form") == "bool":
            found.append((name, not effective[name]))
        elif question.get("form") == "choice":
            allowed = [
                value for value in question.get("allowed") or [] if value not in refused and value != effective[name]
            ]
            found += [(name, value) for value in allowed[:1]]
        elif question.get("form") == "int" and isinstance(effective[name], int):
            found.append((name, effective[name] + 1))
    return [(name, value) for name, value in found if plan.get(name) != value]


@pytest.mark.slow
def test_a_real_change_voids_what_rests_on_what_it_changed() -> None:
    """Through the template itself: one answer may move others that follow from it, and no record beyond those falls."""
    plan = resolved("demoland-mpi")
    old = {task["id"]: task for task in plan["tasks"]}
    template = renderer().template
    tried = 0
    for name, value in flips()[::3]:
        raw = {**load_plan("demoland-mpi"), name: value}
        if any(finding["severity"] == "error" for finding in template.findings(raw)):
            continue
        effective = template.effective(raw)
        moved = {answer for answer, now in effective.items() if now != plan["answers"][answer]}
        after = json.loads(template.call("tasks", "tasks", template.catalog, effective, plan))
        found = states(after["tasks"], old, plan["gates"])
        expected = {task["id"] for task in after["tasks"] if task["id"] in found and moved & set(task["depends_on"])}
        assert {task_id for task_id, code in found.items() if code} == expected, name
        tried += 1
    assert tried >= 8


@pytest.mark.parametrize("name", PLAN_NAMES)
def test_plan_fits_its_schema_and_reads_as_yaml_does(name: str) -> None:
    text = plan_text(name)
    loaded = yaml.load(text, Loader=yaml.CSafeLoader)
    PLAN.validate(loaded)
    assert {key: plan_section(section) for key, section in plan_sections(text).items()} == loaded


@pytest.mark.parametrize("name", PLAN_NAMES)
def test_gates_of_the_plan(name: str) -> None:
    plan = resolved(name)
    gate_tasks = {task["id"]: task for task in plan["tasks"] if task["gate"]}
    assert set(plan["gates"]["environments"]) == set(plan["environment_names"])
    for environment, rules in plan["gates"]["environments"].items():
        assert {*rules["before_install"], *rules["before_use"]} <= set(gate_tasks)
        if environment == "production":
            for stage in rules["stages"]:
                assert rules[stage] == [task_id for task_id, task in gate_tasks.items() if task["gate_stage"] == stage]


def test_plan_of_the_smallest_answers_can_be_judged() -> None:
    plan = renderer().template.resolve(MINIMUM)
    assert plan["gates"]["go_live"] in {task["id"] for task in plan["tasks"]}


# sign and waive


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "plan.yml").write_text(plan_text("demoland-mpi"), encoding="utf-8")
    return tmp_path


def run(*arguments: str) -> Any:
    return CliRunner().invoke(main, list(arguments))


SIGNED = ("--by", "Ama Mensah", "--evidence", "https://example.org/minutes/7")


def load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = load_yaml(path.read_text(encoding="utf-8"))
    RECORD.validate(loaded)
    return loaded


def test_sign_writes_a_record_that_stands(repository: Path) -> None:
    done = run(
        "sign",
        "dep-83",
        "--repo",
        str(repository),
        "--environment",
        "production",
        "--team-role",
        "security_analyst",
        *SIGNED,
    )
    assert done.exit_code == 0, done.output
    assert "records/production/DEP-83.yml is written. Not committed yet" in done.output
    record = load(repository / "records/production/DEP-83.yml")
    opened = Repository(repository)
    assert (
        assess(opened.tasks["DEP-83"], record, "x", "production", opened.plan["gates"], record["on"])["state"] == "done"
    )
    # Readers of YAML 1.1 take a bare `on` for a switch.
    assert "on" in yaml.safe_load((repository / "records/production/DEP-83.yml").read_text(encoding="utf-8"))


def test_sign_files_project_tasks_under_project(repository: Path) -> None:
    arguments = ("--environment", "production", "--team-role", "project_sponsor", "--approved-by", "Kofi", *SIGNED)
    assert run("sign", "PLN-10", "--repo", str(repository), *arguments).exit_code == 0
    assert load(repository / "records/project/PLN-10.yml")["approved_by"] == "Kofi"


def test_several_approvers(repository: Path) -> None:
    arguments = ("--team-role", "project_sponsor", "--approved-by", "Kofi", "--approved-by", "Yaw", *SIGNED)
    assert run("sign", "PLN-10", "--repo", str(repository), *arguments).exit_code == 0
    assert load(repository / "records/project/PLN-10.yml")["approved_by"] == ["Kofi", "Yaw"]


def test_waive_writes_a_record_that_stands_until_it_expires(repository: Path) -> None:
    done = run(
        "waive", "DEP-98", "--repo", str(repository), "--environment", "production", "--by", "Ama", "--team-role",
        "security_analyst", "--approved-by", "Kofi", "--reason", "scanner comes: later", "--expires", "2099-05-31",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    record = load(repository / "records/production/DEP-98.yml")
    opened = Repository(repository)
    task, rules = opened.tasks["DEP-98"], opened.plan["gates"]
    assert assess(task, record, "x", "production", rules, record["on"])["state"] == "waived"
    assert assess(task, record, "x", "production", rules, "2099-06-01")["finding"]["code"] == "expired"


def test_records_of_sites_and_partners(repository: Path) -> None:
    arguments = ("--environment", "production", "--team-role", "legal_counsel", *SIGNED)
    assert run("sign", "PLN-09", "--repo", str(repository), "--partner", "OpenHIM", *arguments).exit_code == 0
    assert load(repository / "records/production/partners/openhim/PLN-09.yml")["partner"] == "OpenHIM"
    wrong = run("sign", "PLN-09", "--repo", str(repository), "--partner", "OpenHIN", *arguments)
    assert wrong.exit_code == 2
    assert (
        "the plan has no partner OpenHIN; plan.yml; nothing would read the record; did you mean OpenHIM?"
        in wrong.output
    )
    assert run("sign", "PLN-09", "--repo", str(repository), "--site", "H1", *arguments).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("sign", "DEP-8", "--team-role", "security_analyst", *SIGNED), "the plan has no task DEP-8; plan.yml; "),
        (("sign", "DEP-83", "--team-role", "security_analyst", *SIGNED), "the environment is not said; DEP-83; "),
        (
            ("sign", "DEP-83", "--environment", "qa", "--team-role", "security_analyst", *SIGNED),
            "the plan has no environment qa; ",
        ),
        (
            ("sign", "DEP-83", "--environment", "production", "--team-role", "developer", *SIGNED),
            "DEP-83 cannot be signed as developer; records/production/DEP-83.yml; it belongs to security analyst; ",
        ),
        (
            ("sign", "PLN-10", "--team-role", "project_sponsor", *SIGNED),
            "the record of PLN-10 (Sign off the business architecture) names no second person; ",
        ),
        (
            ("sign", "PLN-10", "--team-role", "project_sponsor", "--approved-by", "AMA  mensah", *SIGNED),
            "Ama Mensah cannot approve the own record; ",
        ),
        (
            ("sign", "PLN-10", "--team-role", "project_sponsor", "--approved-by", "Kofi", "--on", "yesterday", *SIGNED),
            "--on yesterday is no date; ",
        ),
        (
            ("sign", "PLN-10", "--team-role", "project_sponsor", "--approved-by", "Kofi", "--by", "Ama"),
            "Missing option '--evidence'",
        ),
        (
            (
                "waive", "PLN-10", "--team-role", "project_sponsor", "--by", "Ama", "--approved-by", "Kofi",
                "--reason", "r", "--expires", "2020-01-01",
            ),
            "the waiver would have expired on 2020-01-01; ",
        ),
    ],
)  # fmt: skip
def test_refused_signatures_write_nothing(repository: Path, arguments: tuple[str, ...], said: str) -> None:
    done = run(*arguments, "--repo", str(repository))
    assert done.exit_code == 2
    assert said in done.output.replace("\n", " ")
    assert not (repository / "records").exists()


def test_a_sign_off_that_stands_is_not_replaced_by_accident(repository: Path) -> None:
    arguments = (
        "sign",
        "DEP-83",
        "--repo",
        str(repository),
        "--environment",
        "production",
        "--team-role",
        "security_analyst",
    )
    assert run(*arguments, *SIGNED).exit_code == 0
    refused = run(*arguments, *SIGNED)
    assert refused.exit_code == 2
    assert "DEP-83 is done already, by Ama Mensah on " in refused.output
    assert run(*arguments, *SIGNED, "--again", "--note", "second look").exit_code == 0
    assert load(repository / "records/production/DEP-83.yml")["note"] == "second look"


def test_review_of_an_emergency(repository: Path) -> None:
    place = repository / "records/production/emergency/20260327T090000Z.yml"
    place.parent.mkdir(parents=True)
    place.write_text("---\nat: '2026-03-27T09:00:00Z'\nby: Efua\nreason: leak\n", encoding="utf-8")
    arguments = ("sign", "emergency/20260327T090000Z", "--repo", str(repository), "--team-role", "security_analyst")
    assert "who deployed does not review it" in run(*arguments, "--by", "efua", "--note", "fine").output
    assert "the review says nothing" in run(*arguments, "--by", "Yaw").output
    assert run(*arguments, "--by", "Yaw", "--note", "needed: closed").exit_code == 0
    loaded = yaml.safe_load(place.read_text(encoding="utf-8"))
    assert (loaded["reviewed_by"], loaded["review"], loaded["reason"]) == ("Yaw", "needed: closed", "leak")


def test_directory_that_is_no_repository(tmp_path: Path) -> None:
    done = run("status", str(tmp_path))
    assert done.exit_code == 2
    assert "is no deployment repository; it has no plan.yml; " in done.output


def test_faults_of_records_agree_with_the_schema() -> None:
    task = {task["id"]: task for task in resolved("demoland-mpi")["tasks"]}["DEP-83"]
    good = valid_record(task)
    assert RECORD.is_valid(good)
    assert not faults(good, "DEP-83", TODAY)
    for name in ("task", "decision", "by", "team_role", "on", "answers_digest", "evidence"):
        bad = {key: value for key, value in good.items() if key != name}
        assert not RECORD.is_valid(bad), name
        assert faults(bad, "DEP-83", TODAY), name
