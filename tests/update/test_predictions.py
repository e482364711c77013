"""What `santescaffold plan` says of the real template is what `santescaffold update` then does.

Minutes of processor time for one test: `make long`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from santescaffold.cli import main
from santescaffold.repository import Repository
from santescaffold.status import collect
from tests.conftest import ReleasedTemplate
from tests.support import commit, git, load_plan
from tests.update.small_template import state
from tests.update.test_series import ANSWER_CHANGES, STEP, registry, release, resolve, write

pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.timeout(7200)]
SECTIONS = {
    "features": ("id",),
    "hosts": ("environment", "name"),
    "certificates": ("environment", "id"),
    "databases": ("name",),
    "tasks": ("id",),
}


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def sign(repository: Path, answer: str, scope: str = "project", place: str = "project") -> str:
    """Sign the first task of a scope that rests on an answer; return its id."""
    task = next(
        task for task in Repository(repository).plan["tasks"]
        if answer in task["depends_on"] and task["scope"] == scope
    )  # fmt: skip
    record = {
        "task": task["id"], "decision": "done", "by": "A", "approved_by": "B", "team_role": task["owner"],
        "on": "2026-11-01", "evidence": "x", "answers_digest": task["answers_digest"],
    }  # fmt: skip
    if scope != "project":
        record["environment"] = place
    file = repository / "records" / place / f"{task['id']}.yml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record), encoding="utf-8")
    commit(repository, f"sign {task['id']}")
    return str(task["id"])


def standing(repository: Path) -> set[str]:
    """The records that stand, by their path."""
    void = {entry["where"] for entry in collect(Repository(repository))["void"]}
    listed = {path for path in Repository(repository).records if path.count("/") == 2}
    known = Repository(repository).tasks
    places = {"project", *Repository(repository).environments}
    return {
        path for path in listed - void
        if path.split("/")[1] in places and path.rsplit("/", 1)[1].removesuffix(".yml") in known
    }  # fmt: skip


def foretold(repository: Path, *change: str | Path) -> dict[str, Any]:
    """Ask what a change would do, do it, and compare; what is left is not committed."""
    before, old_plan, stood = state(repository), dict_of(repository), standing(repository)
    said = run("plan", repository, *change, "--json")
    assert said.exit_code == 0, said.output
    assert state(repository) == before, "plan touches nothing"
    predicted: dict[str, Any] = json.loads(said.stdout)
    done = run("update", repository, *change)
    assert done.exit_code == (1 if predicted["conflicts"] else 0), done.output
    old, new = before["files"], state(repository)["files"]
    assert predicted["files"] == {
        "added": sorted(set(new) - set(old)),
        "removed": sorted(set(old) - set(new)),
        "changed": sorted(name for name in set(old) & set(new) if old[name] != new[name]),
    }
    conflicts = git(repository, "diff", "--name-only", "--diff-filter=U").split()
    assert [entry["file"] for entry in predicted["conflicts"]] == conflicts
    if not conflicts:
        commands = re.findall(r"(?m)^  (ansible-playbook .*)$", done.stdout)
        assert [entry["command"] for entry in predicted["commands"]] == commands
    for name in conflicts:
        resolve(repository / name)
    plan = dict_of(repository)
    for section, keys in SECTIONS.items():
        sides = [{tuple(entry[key] for key in keys) for entry in side[section]} for side in (old_plan, plan)]
        told = {
            word: {tuple(entry[key] for key in keys) for entry in predicted[section][word]}
            for word in ("added", "removed")
        }
        assert told == {"added": sides[1] - sides[0], "removed": sides[0] - sides[1]}, section
    changed = {name for name in plan["answers"] if plan["answers"][name] != old_plan["answers"].get(name)}
    gone = set(old_plan["answers"]) - set(plan["answers"])
    assert {entry["id"] for entry in predicted["answers"]} == changed | gone
    assert {entry["record"] for entry in predicted["records_void"]} == stood - standing(repository)
    return predicted


def dict_of(repository: Path) -> dict[str, Any]:
    plan = Repository(repository).plan
    return {name: plan[name] for name in (*SECTIONS, "answers")}


def test_records_hosts_and_commands(released: ReleasedTemplate, tmp_path: Path) -> None:
    repository = released.copy(tmp_path / "repository", load_plan("demoland-mpi"))
    task = sign(repository, "rpo_hours")
    predicted = foretold(repository, "--set", "web_portal=false", "--set", "rpo_hours=6")
    assert {entry["task"] for entry in predicted["records_void"]} == {task}
    commit(repository)
    predicted = foretold(repository, "--set", "environments=[training, staging, production]")
    assert predicted["records_void"] == []
    assert predicted["hosts"]["added"]


@seed(20261122)
@settings(
    max_examples=4, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(steps=st.lists(STEP, min_size=4, max_size=6))
def test_a_series_of_changes(steps: list[tuple[Any, ...]]) -> None:
    """The series of the generator's update tests: answers, people's edits, records and new versions, in any order."""
    with registry() as (template, repository):
        for answer in ("rpo_hours", "mfa", "topology", "roles"):
            sign(repository, answer)
        sign(repository, "environments", "environment", "staging")
        for number, step in enumerate(steps, 1):
            if step[0] == "version":
                release(template, step, number)
                foretold(repository, "--to", "latest")
            elif not write(repository, step, f"Edit {number} by the people of the registry."):
                answers = repository.with_name("answers.yml")
                answers.write_text(yaml.safe_dump(ANSWER_CHANGES[step[1]]), encoding="utf-8")
                foretold(repository, "--answers", answers)
            commit(repository, f"step {number}")
