"""``santescaffold sign`` and ``waive``: write a record where the gate looks for it.

Nothing is committed: whoever signs looks at the file, and commits it under the own name.
"""

from __future__ import annotations

import datetime
import difflib
import json
import os
import re
from pathlib import Path
from typing import Any

from santescaffold.records import assess, is_date, people, person, read_record, record_path, words
from santescaffold.repository import Repository


class Refused(Exception):
    """Nothing was written; the message follows the error grammar."""


def _refuse(message: str, where: str, why: str, todo: str) -> Refused:
    return Refused("; ".join((message, where, why, todo)))


def slug(name: str) -> str:
    """Return a name as a directory name: lower case, other characters as dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def find_task(repository: Repository, task_id: str) -> dict[str, Any]:
    """Return a task that applies to the plan, by id in any case; raises Refused."""
    wanted = task_id.upper()
    if wanted in repository.tasks:
        return repository.tasks[wanted]
    near = difflib.get_close_matches(wanted, repository.tasks, 3)
    raise _refuse(
        f"the plan has no task {task_id}",
        "plan.yml",
        "a record of it would count for nothing",
        f"did you mean {' or '.join(near)}?" if near else "look the id up in checklists/",
    )


def write(
    repository: Repository,
    task_id: str,
    values: dict[str, Any],
    environment: str | None = None,
    site: str | None = None,
    partner: str | None = None,
    again: bool = False,
) -> Path:
    """Write the record of a task and return its path relative to the repository; raises Refused."""
    task = find_task(repository, task_id)
    path = _place(repository, task, environment, site, partner)
    place = environment or (repository.environments[0] if repository.environments else "project")
    today = str(datetime.date.today())
    record: dict[str, Any] = {"task": task["id"], **values}
    record.setdefault("on", today)
    if task["scope"] != "project" or site or partner:
        record["environment"] = environment
    if site:
        record["site"] = site
    if partner:
        record["partner"] = partner
    record["answers_digest"] = task["answers_digest"]
    record = {key: value for key, value in record.items() if value not in (None, "", [], ())}
    if isinstance(record.get("approved_by"), (list, tuple)) and len(record["approved_by"]) == 1:
        record["approved_by"] = record["approved_by"][0]
    _check(task, record, today, path)
    rules = repository.plan["gates"]
    state = assess(task, record, path, place, rules, today)
    if state["finding"]:
        found = state["finding"]
        raise _refuse(found["message"], path, found["why"], found["todo"])
    existing = repository.records.get(path)
    if existing is not None and not again and assess(task, existing, path, place, rules, today)["finding"] is None:
        raise _refuse(
            f"{task['id']} is {existing['decision']} already, by {existing['by']} on {existing['on']}",
            path,
            "a sign-off that stands is not replaced by accident",
            "add --again to replace it (Git keeps the former one)",
        )
    head = f"# {'Waiver' if record['decision'] == 'waived' else 'Sign-off'} of {task['id']}: {task['title']}"
    _write(repository.path / path, head, record)
    return Path(path)


def review(repository: Repository, name: str, environment: str | None, by: str, conclusion: str | None) -> Path:
    """Write the review of an emergency deployment into its record; raises Refused."""
    stem = name.rsplit("/", 1)[-1].removesuffix(".yml")
    found = [
        path
        for path in repository.records
        if path.endswith(f"/emergency/{stem}.yml")
        and (environment is None or path.startswith(f"records/{environment}/"))
    ]
    if len(found) != 1:
        listed = ", ".join(path for path in repository.records if "/emergency/" in path) or "none"
        raise _refuse(
            f"there is no emergency deployment {stem}" if not found else f"{stem} is in several environments",
            "records/<environment>/emergency/",
            "there is nothing to review" if not found else "it must be clear which is reviewed",
            f"name one of: {listed}" if not found else "add --environment",
        )
    path = found[0]
    record = read_record(str(repository.path / path))
    if person(record.get("by", "")) == person(by):
        raise _refuse(
            f"{by} deployed",
            path,
            "who deployed does not review it",
            "have somebody else review the emergency deployment",
        )
    if not conclusion:
        raise _refuse("the review says nothing", path, "it is the point of it", "add --note 'what you found'")
    text = (repository.path / path).read_text(encoding="utf-8").rstrip("\n")
    added = {"reviewed_by": by, "reviewed_on": str(datetime.date.today()), "review": conclusion}
    kept = [line for line in text.splitlines() if line.partition(":")[0] not in added]
    lines = [*kept, *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in added.items())]
    _replace(repository.path / path, "\n".join(lines) + "\n")
    return Path(path)


def _check(task: dict[str, Any], record: dict[str, Any], today: str, path: str) -> None:
    for name in ("on", "expires"):
        if name in record and not is_date(record[name]):
            raise _refuse(
                f"--{name} {record[name]} is no date", path, "records are compared by date", "write it as 2026-03-31"
            )
    if record["decision"] == "waived" and str(record.get("expires")) < today:
        raise _refuse(
            f"the waiver would have expired on {record['expires']}",
            path,
            "it would be void at once",
            "name a day to come",
        )
    if record["team_role"] not in (task["owner"], *task["helps"]):
        belongs = " or ".join((task["owner"], *task["helps"]))
        raise _refuse(
            f"{task['id']} cannot be signed as {record['team_role']}",
            path,
            f"it belongs to {', '.join(words(role) for role in (task['owner'], *task['helps']))}",
            f"sign with --team-role {belongs} if you hold that role, else ask who does",
        )
    others = people(record.get("approved_by"))
    if others and all(person(name) == person(record["by"]) for name in others):
        raise _refuse(
            f"{record['by']} cannot approve the own record",
            path,
            "it needs two people, so that nobody decides it alone",
            "name another person with --approved-by",
        )


def _place(
    repository: Repository, task: dict[str, Any], environment: str | None, site: str | None, partner: str | None
) -> str:
    names = ", ".join(repository.environments)
    if environment is None and (task["scope"] != "project" or site or partner):
        raise _refuse(
            "the environment is not said",
            task["id"],
            "each environment has a record of its own",
            f"add --environment with one of: {names}",
        )
    if site is None and partner is None:
        return record_path(task, environment or "project")
    kind, name = ("site", site) if site is not None else ("partner", partner)
    if kind not in task["also_gates"]:
        raise _refuse(
            f"{task['id']} is not repeated for each {kind}",
            f"--{kind} {name}",
            "nothing would read the record",
            f"sign it without --{kind}",
        )
    answers = repository.plan["answers"]
    entries = answers.get("sites" if kind == "site" else "connected_systems") or []
    known = [str(entry.get("code" if kind == "site" else "name")) for entry in entries]
    if known and str(name) not in known:
        near = difflib.get_close_matches(str(name), known, 3) or known[:8]
        raise _refuse(
            f"the plan has no {kind} {name}",
            "plan.yml",
            "nothing would read the record",
            f"did you mean {' or '.join(near)}?",
        )
    directory = slug(str(name)) if kind == "partner" else str(name)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", directory):
        raise _refuse(
            f"{name} cannot be a directory name", f"--{kind}", "records are files", "use letters, digits and dashes"
        )
    return f"records/{environment}/{kind}s/{directory}/{task['id']}.yml"


ORDER = (
    "task",
    "environment",
    "site",
    "partner",
    "decision",
    "by",
    "team_role",
    "approved_by",
    "on",
    "expires",
    "reason",
)


def _write(path: Path, head: str, record: dict[str, Any]) -> None:
    names = [*(name for name in ORDER if name in record), *(name for name in record if name not in ORDER)]
    lines = [head, "---"]
    for name in names:
        # A bare `on` is a switch to many readers of YAML.
        key = '"on"' if name == "on" else name
        plain = (
            isinstance(record[name], str)
            and re.fullmatch(r"[A-Za-z]+(-\d+)?", record[name])
            and name in ("task", "decision")
        )
        lines.append(f"{key}: {record[name] if plain else json.dumps(record[name], ensure_ascii=False)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, "\n".join(lines) + "\n")


def _replace(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    scratch = path.with_name(f".{path.name}.new")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, path)
