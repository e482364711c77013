"""The checklists: exactly the tasks of the plan, each phase's warnings, and text that merges safely."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from functools import cache
from typing import Any

import pytest

from tests.support import MINIMUM, PLAN_NAMES, load_plan, renderer

FILES = {
    "information-gathering": "checklists/1-information-gathering.md",
    "planning": "checklists/2-planning.md",
    "development-integration": "checklists/3-development-integration.md",
    "deployment": "checklists/4-deployment.md",
    "rollout": "checklists/5-rollout.md",
}
NAMES = ("minimum", *PLAN_NAMES)
SOURCES = [source for source in renderer().sources if source.startswith("checklists/")]


def answers(name: str) -> dict[str, Any]:
    return dict(MINIMUM) if name == "minimum" else load_plan(name)


@cache
def checklists(name: str) -> dict[str, str]:
    return renderer().render(answers(name), only=SOURCES)


@cache
def plan(name: str) -> dict[str, Any]:
    return renderer().template.resolve(answers(name))


@pytest.mark.parametrize("name", NAMES)
def test_lists_exactly_the_tasks_of_the_plan(name: str) -> None:
    assert set(checklists(name)) == set(FILES.values())
    for phase, path in FILES.items():
        listed = re.findall(r"^### ([A-Z]+-\d+) ", checklists(name)[path], re.M)
        assert listed == [task["id"] for task in plan(name)["tasks"] if task["phase"] == phase]


@pytest.mark.parametrize("name", NAMES)
def test_each_line_of_a_task_carries_its_id(name: str) -> None:
    for path, text in checklists(name).items():
        task = ""
        for before, line in zip(["", *text.splitlines()], text.splitlines(), strict=False):
            if line.startswith("#"):
                found = re.match(r"### ([A-Z]+-\d+) ", line)
                task = found[1] if found else ""
                assert before == "", f"{path}: no empty line before {line}"
            elif task and line:
                assert line.startswith(f"- {task} "), f"{path}: {line}"
        assert "- [ ]" not in text, path


@pytest.mark.parametrize("name", NAMES)
def test_tasks_say_who_what_and_where(name: str) -> None:
    two_people = renderer().template.catalog["gates"]["two_people"]
    everything = "\n".join(checklists(name).values())
    for task in plan(name)["tasks"]:
        mark = task["id"]
        assert f"- {mark} owner: {task['owner'].replace('_', ' ')}" in everything
        assert f"- {mark} deliverable: {task['deliverable']} " in everything
        place = "records/project" if task["scope"] == "project" else "records/<environment>"
        assert (
            f"- {mark} record: `{place}/{mark}.yml`{', with `approved_by`' if mark in two_people else ''}" in everything
        )
        assert (f"- {mark} **gate**: " in everything) == task["gate"]
        if task["gate"]:
            assert re.search(rf"- {mark} \*\*gate\*\*: .*`{task['gate_stage']}`", everything)
        for repeated, folder in (("site", "sites/<code>"), ("partner", "partners/<name>")):
            assert (f"`{place}/{folder}/{mark}.yml`" in everything) == (repeated in task["also_gates"])


@pytest.mark.parametrize("name", NAMES)
def test_every_warning_is_in_the_checklist_of_its_phase(name: str) -> None:
    for warning in plan(name)["warnings"]:
        path = FILES.get(warning["phase"], FILES["information-gathering"])
        assert f"- **{warning['id']}** {warning['message']}" in checklists(name)[path], warning["id"]
        if warning["todo"]:
            assert f"  - {warning['id']} to do: {warning['todo']}" in checklists(name)[path]


@pytest.mark.parametrize("name", NAMES)
def test_purpose_conditions_and_exit_are_printed(name: str) -> None:
    for phase in plan(name)["phases"]:
        text = checklists(name)[FILES[phase["id"]]]
        assert phase["purpose"] in text
        assert (
            text.index("## Entry conditions")
            < text.index("## Warnings of the plan")
            < text.index("## Exit")
            < text.index("## Your notes")
        )
        assert phase["exit"] in text
        for condition in phase["entry_conditions"]:
            assert f"- {condition['item']}\n" in text


@pytest.mark.parametrize("name", NAMES)
def test_a_task_carries_the_digest_of_the_answers_it_rests_on(name: str) -> None:
    resolved = plan(name)
    ids = [task["id"] for task in resolved["tasks"]]
    assert max(Counter(ids).values()) == 1
    for task in resolved["tasks"]:
        values = {answer: resolved["answers"][answer] for answer in task["depends_on"]}
        digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
        assert task["answers_digest"] == digest, task["id"]


def test_a_task_without_answers_has_the_digest_of_nothing_and_the_last_decision_rests_on_all() -> None:
    tasks = {task["id"]: task for task in plan("minimum")["tasks"]}
    assert tasks["INF-25"]["answers_digest"] == hashlib.sha256(b"{}").hexdigest() or tasks["INF-25"]["depends_on"]
    assert set(tasks["DEP-106"]["depends_on"]) == set(plan("minimum")["answers"])


def test_only_dependent_tasks_change_their_digest() -> None:
    before = {task["id"]: task for task in plan("demoland-mpi")["tasks"]}
    changed = renderer().template.resolve({**load_plan("demoland-mpi"), "lockout_attempts": 7})
    for task in changed["tasks"]:
        same = task["answers_digest"] == before[task["id"]]["answers_digest"]
        assert same != ("lockout_attempts" in task["depends_on"]), task["id"]
