"""The gate's judgement: whether records stand, and whether an environment may be deployed.

Needs nothing but Ansible itself. The package santescaffold makes the same judgement in Python; both are held equal by tests.
"""

from __future__ import annotations

import datetime
import json
import os
import re
from collections.abc import Iterable
from typing import Any

from ansible.errors import AnsibleFilterError

DOCUMENTATION = """
name: santedb_gate
short_description: Whether an environment may be deployed
description: Reads plan.yml and records/ of a deployment repository and judges them.
positional: _input
options:
  _input:
    description: The directory of the repository.
    type: path
    required: true
  environment:
    description: The environment's name.
    type: str
    required: true
  now:
    description: The time, ISO 8601 with its zone.
    type: str
    required: true
  deployed_by:
    description: Who runs the deployment.
    type: str
  emergency_reason:
    description: Why the gate is passed although it refuses.
    type: str
"""

EXAMPLES = """
judged: "{{ '.' | santedb_gate('production', now='2026-03-31T08:00:00Z', deployed_by='Ama') }}"
"""

RETURN = """
_value:
  description: The judgement; passed, refusals, proxy_open and more.
  type: dict
"""

STANDS, OPEN, VOID = ("done", "waived"), "open", "void"
PLAIN_DATE = re.compile(r"\d{4}-\d{2}-\d{2}$")
TOP_LEVEL = re.compile(r"^([a-z_]+):(.*)$")
RECORD_KEYS = (
    "task", "decision", "by", "team_role", "on", "evidence", "note", "reason", "expires", "approved_by",
    "answers_digest", "environment", "site", "partner", "details",
)  # fmt: skip


def load_yaml(text: str, typed: bool = False) -> Any:
    """Read YAML; untyped, every scalar stays the text that was written (`on` is no switch, a date no object)."""
    import yaml

    if typed:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return yaml.load(text, Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader))


def plan_sections(text: str) -> dict[str, str]:
    """Return {top-level key of plan.yml: its text, unread}."""
    sections: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        found = TOP_LEVEL.match(line)
        if found:
            lines = sections.setdefault(found.group(1), [])
        lines.append(line)
    return {name: "\n".join(body) for name, body in sections.items()}


def plan_section(text: str) -> Any:
    """Read one section of plan.yml. One entry stands on a line as JSON, which is read much faster than YAML."""
    head, *body = text.splitlines() or [""]
    name, _, value = head.partition(":")
    body = [line for line in body if line and not line.startswith("#")]
    try:
        if not body:
            return json.loads(value)
        if all(line.startswith("  - {") for line in body):
            return [json.loads(line[4:]) for line in body]
        pairs = [line.strip().partition(": ") for line in body]
        if all(line.startswith("  ") and line[2:3].isalpha() for line in body):
            return {key: json.loads(entry) for key, _, entry in pairs}
    except ValueError:
        pass
    loaded = load_yaml(text, typed=True)
    return loaded[name] if isinstance(loaded, dict) else None


def read_plan(path: str, wanted: Iterable[str]) -> dict[str, Any]:
    """Return the wanted sections of a plan.yml."""
    with open(path, encoding="utf-8") as file:
        sections = plan_sections(file.read())
    return {name: plan_section(sections[name]) for name in wanted if name in sections}


def read_record(path: str) -> dict[str, Any]:
    """Read one record; what is wrong with the file itself stands under ``unreadable``."""
    try:
        with open(path, encoding="utf-8") as file:
            loaded = load_yaml(file.read())
    except (OSError, ValueError) as error:
        return {"unreadable": " ".join(str(error).split())}
    except Exception as error:  # every fault of the YAML, whatever parser is there
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or type(error).__name__
        return {"unreadable": f"{problem} (line {mark.line + 1})" if mark else str(problem)}
    if not isinstance(loaded, dict):
        return {"unreadable": "it is no mapping of names to values"}
    return {str(key): value for key, value in loaded.items() if value not in ("", "null", "~", [], {})}


def read_records(root: str) -> dict[str, dict[str, Any]]:
    """Return {path relative to the repository: record} of everything below records/."""
    found = {}
    for directory, names, files in os.walk(os.path.join(root, "records")):
        names.sort()
        below = os.path.relpath(directory, root).replace(os.sep, "/")
        for name in sorted(files):
            if name.endswith((".yml", ".yaml")) and not name.startswith("."):
                found[f"{below}/{name}"] = read_record(os.path.join(directory, name))
    return found


def finding(code: str, message: str, where: str, why: str, todo: str, **more: Any) -> dict[str, Any]:
    """Return a finding in the error grammar: what is wrong; where; why it matters; what to do."""
    return {"code": code, "message": message, "where": where, "why": why, "todo": todo, **more}


def sentence(found: dict[str, Any]) -> str:
    """Return a finding on one line; semicolons stand between its four parts only."""
    parts = [" ".join(str(found[part]).split()).replace("; ", ", ") for part in ("message", "where", "why", "todo")]
    return "; ".join(part for part in parts if part)


def words(name: str) -> str:
    """Return an identifier as people write it."""
    return name.replace("_", " ")


def person(name: Any) -> str:
    """Return a person's name for comparison: no mail address, one kind of space, no capitals."""
    return " ".join(re.sub(r"<[^>]*>", " ", str(name)).casefold().split())


def people(value: Any) -> list[str]:
    """Return the names in a field that holds one person or a list of them."""
    return [str(name) for name in (value if isinstance(value, list) else [value]) if name not in (None, "")]


def is_date(value: Any) -> bool:
    """Whether a value is a day of the calendar, such as 2026-03-31."""
    try:
        return bool(PLAIN_DATE.match(str(value))) and bool(datetime.date.fromisoformat(str(value)))
    except ValueError:
        return False


def record_path(task: dict[str, Any], environment: str) -> str:
    """Return where the record of a task belongs."""
    place = "project" if task["scope"] == "project" else environment
    return f"records/{place}/{task['id']}.yml"


def sign_command(task: dict[str, Any], environment: str, rules: dict[str, Any]) -> str:
    """Return the command that signs a task."""
    place = "" if task["scope"] == "project" else f" --environment {environment}"
    second = " --approved-by NAME" if task["id"] in rules["two_people"] else ""
    return f"santescaffold sign {task['id']}{place} --by NAME --team-role {task['owner']} --evidence REF{second}"


def how_to_close(task: dict[str, Any], environment: str, rules: dict[str, Any]) -> str:
    """Return what to do for a task that has no valid record."""
    command = sign_command(task, environment, rules)
    if task["verify"] == "auto" and task["scope"] != "project":
        arguments = " ARGS='--tags preflight'" if task["gate_stage"] == "before_install" else ""
        return f"run `make verify ENV={environment}{arguments}`, which proves it and writes the record, or `{command}`"
    return f"{words(task['owner'])}: do it, then `{command}`"


def faults(record: dict[str, Any], task_id: str, today: str) -> list[str]:
    """Return what makes a record unusable whatever the plan says."""
    if "unreadable" in record:
        return [str(record["unreadable"])]
    wrong = []
    decision = record.get("decision")
    needed = ["task", "decision", "by", "team_role", "on", "answers_digest"]
    needed += ["reason", "expires"] if decision == "waived" else ["evidence"]
    lacking = [name for name in needed if name not in record]
    if lacking:
        wrong.append(f"it does not say {', '.join(lacking)}")
    if "task" in record and record["task"] != task_id:
        wrong.append(f"it is about {record['task']}, not {task_id}")
    if decision is not None and decision not in STANDS:
        wrong.append(f"its decision is {decision}, not done or waived")
    for name in ("on", "expires"):
        if name in record and not is_date(record[name]):
            wrong.append(f"{name} is {record[name]}, not a date such as 2026-03-31")
    tomorrow = str(datetime.date.fromisoformat(today) + datetime.timedelta(days=1))
    if is_date(record.get("on")) and str(record["on"]) > tomorrow:
        wrong.append(f"it is dated {record['on']}, which is to come")
    return wrong


def assess(
    task: dict[str, Any], record: dict[str, Any] | None, path: str, environment: str, rules: dict[str, Any], today: str
) -> dict[str, Any]:
    """Return the state of a task (done, waived, open, void), and the finding that says why no record stands."""
    name = f"{task['id']} ({task['title']})"
    again = how_to_close(task, environment, rules)

    def void(code: str, message: str, why: str, todo: str) -> dict[str, Any]:
        return {"state": VOID, "finding": finding(code, message, path, why, todo, task=task["id"])}

    if record is None:
        why = task["gate_why"] or "it is part of the plan"
        return {
            "state": OPEN,
            "finding": finding("missing", f"{name} has no record", path, why, again, task=task["id"]),
        }
    wrong = faults(record, task["id"], today)
    if wrong:
        return void(
            "malformed",
            f"the record of {name} cannot be used: {'; '.join(wrong)}".replace("; ", ", and "),
            "a record that cannot be read approves nothing",
            f"correct the file (docs/sign-off-sheet.md), or {again}",
        )
    if record["team_role"] not in (task["owner"], *task["helps"]):
        belongs = " or ".join(words(role) for role in (task["owner"], *task["helps"]))
        return void(
            "wrong_role",
            f"{name} was signed as {words(record['team_role'])}",
            f"it belongs to {belongs}",
            f"have somebody sign who holds that role: {again}",
        )
    if "expires" in record and str(record["expires"]) < today:
        what = "waiver" if record["decision"] == "waived" else "record"
        todo = (
            f"close the task, or waive it anew with a reason and a second person: {again}"
            if what == "waiver"
            else again
        )
        return void(
            "expired",
            f"the {what} of {name} expired on {record['expires']}",
            "it was given for a time, which is over",
            todo,
        )
    if record["answers_digest"] != task["answers_digest"]:
        listed = task["depends_on"]
        names = "any answer" if len(listed) > 12 else ", ".join(listed) or "nothing"
        return void(
            "changed",
            f"the record of {name} was given for other answers than the plan has now",
            f"an approval holds for exactly the answers it was given for (here: {names})",
            again.replace(": do it, then", ": look at what changed, then", 1),
        )
    waiver = record["decision"] == "waived"
    if (waiver and "waiver" in rules["two_people_records"]) or task["id"] in rules["two_people"]:
        what = "the waiver" if waiver else "the record"
        others = people(record.get("approved_by"))
        if not others:
            return void(
                "unapproved",
                f"{what} of {name} names no second person",
                "it needs two people, so that nobody decides it alone",
                "have a second person agree and add `approved_by: NAME`",
            )
        if all(person(other) == person(record["by"]) for other in others):
            return void(
                "self_approved",
                f"{what} of {name} is approved by {record['by']}, who signed it",
                "it needs two people, so that nobody decides it alone",
                "have another person agree and put that name into `approved_by`",
            )
    return {"state": record["decision"], "finding": None}


def repeated_path(path: str) -> bool:
    """Whether a record is one of those repeated for each site or partner."""
    parts = path.split("/")
    return len(parts) == 5 and parts[2] in ("sites", "partners")


def orphans(plan: dict[str, Any], records: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return findings about records that no task reads: they are listed, never deleted."""
    tasks = {task["id"]: task for task in plan["tasks"]}
    environments = [environment["name"] for environment in plan["environments"]]
    found = []
    for path in records:
        parts = path.split("/")
        name = parts[-1].rsplit(".", 1)[0]
        if len(parts) > 3 and not repeated_path(path):
            continue  # releases, emergencies, and whatever evidence lies there
        if len(parts) < 3:
            found.append(
                finding(
                    "misplaced",
                    f"{path} is in no place of records",
                    path,
                    "nothing reads it",
                    "move or delete it",
                    task=name,
                )
            )
        elif name not in tasks:
            why = "the plan changed since, or the name is misspelt"
            todo = "keep it as history; correct the file's name if it is meant for another task"
            found.append(finding("gone", f"the plan has no task {name}", path, why, todo, task=name))
        elif parts[1] not in ("project", *environments):
            why = "nothing reads it; the environments of the plan are " + ", ".join(environments)
            found.append(
                finding(
                    "misplaced", f"the plan has no environment {parts[1]}", path, why, "keep it as history", task=name
                )
            )
        elif not repeated_path(path) and (parts[1] == "project") != (tasks[name]["scope"] == "project"):
            place = "project" if tasks[name]["scope"] == "project" else "the environment's directory"
            why = f"nothing reads it: the record of {name} belongs to {place}"
            target = record_path(tasks[name], environments[0] if parts[1] == "project" else parts[1])
            found.append(
                finding(
                    "misplaced",
                    f"the record of {name} is in the wrong place",
                    path,
                    why,
                    f"move it to {target}",
                    task=name,
                )
            )
    return found


def moment(value: Any) -> datetime.datetime | None:
    """Return the time of a release or emergency record, None when it is not one."""
    try:
        found = datetime.datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=datetime.UTC)


def reviews(
    environment: str, records: dict[str, dict[str, Any]], rules: dict[str, Any], now: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return findings about emergency deployments nobody reviewed: those overdue, and those still in time."""
    overdue: list[dict[str, Any]] = []
    pending: list[dict[str, Any]] = []
    days = int(rules["emergency_review_days"])
    for path, record in records.items():
        if not path.startswith(f"records/{environment}/emergency/"):
            continue
        name = path.rsplit("/", 1)[1].rsplit(".", 1)[0]
        at = moment(record.get("at"))
        reviewer = people(record.get("reviewed_by"))
        if at and reviewer and any(person(one) != person(record.get("by")) for one in reviewer) and "review" in record:
            continue
        if at is None:
            code, message = "malformed", f"the record of the emergency deployment {name} cannot be used: at is no time"
        elif not reviewer:
            code, message = "unreviewed", f"the emergency deployment {name} is not reviewed"
        elif "review" not in record:
            code, message = "unreviewed", f"the review of the emergency deployment {name} says nothing"
        else:
            code, message = (
                "self_reviewed",
                f"the emergency deployment {name} was reviewed by {reviewer[0]}, who deployed",
            )
        last = at + datetime.timedelta(days=days) if at else None
        current = moment(now)
        late = last is None or current is None or current > last
        due = f"it {'was' if late else 'is'} due on {last.date()}" if last else "when it is due cannot be told"
        found = finding(
            code,
            message,
            path,
            f"what passed the gate has to be looked at by somebody else within {days} days, and {due}",
            "have somebody who did not deploy read docs/runbooks/emergency-deployment.md and add `reviewed_by: NAME`, "
            "`reviewed_on: DATE` and `review: CONCLUSION` to the file",
            task=None,
        )
        (overdue if late else pending).append(found)
    return overdue, pending


def rules_of(plan: dict[str, Any], environment: str) -> dict[str, Any]:
    """Return the gate's stages of one environment of the plan: the task ids each waits for."""
    rules: dict[str, Any] = plan["gates"]["environments"][environment]
    return rules


def judge_gate(
    plan: dict[str, Any],
    records: dict[str, dict[str, Any]],
    environment: str,
    now: str,
    deployed_by: str = "",
    emergency_reason: str = "",
) -> dict[str, Any]:
    """Decide whether an environment may be deployed, and whether its proxy may admit everybody.

    ``plan`` needs its sections environments, gates and tasks; ``now`` is the time with its zone. The answer says what
    refuses the deployment (``refusals``), what only keeps the proxy closed (``proxy_waits_for``), and what is good to
    know (``notes``).
    """
    rules = plan["gates"]
    own = rules_of(plan, environment)
    tasks = {task["id"]: task for task in plan["tasks"]}
    today = str(datetime.datetime.fromisoformat(now).date())
    releases = [record for path, record in records.items() if path.startswith(f"records/{environment}/releases/")]
    in_use = any(str(release.get("proxy_open")).lower() == "true" for release in releases)

    stages: list[dict[str, Any]] = []
    for stage in own["stages"]:
        entries = []
        for task_id in own[stage]:
            if task_id not in tasks:
                continue
            task = tasks[task_id]
            path = record_path(task, environment)
            record = records.get(path)
            state = assess(task, record, path, environment, rules, today)
            if state["finding"] is None and record is not None and task_id == rules["go_live"] and deployed_by:
                others = [name for name in people(record.get("approved_by")) if person(name) != person(record["by"])]
                if all(person(name) == person(deployed_by) for name in others):
                    state = {
                        "state": VOID,
                        "finding": finding(
                            "deployer_approved",
                            f"{task_id} ({task['title']}) is approved by {deployed_by} alone, who runs this deployment",
                            path,
                            "who deploys must not be the only one who approved the go-live",
                            "have another person approve and add that name to `approved_by`, or deploy",
                            task=task_id,
                        ),
                    }
            entries.append(
                {"task": task_id, "owner": task["owner"], "verify": task["verify"], "scope": task["scope"], **state}
            )
        stages.append({"name": stage, "passed": all(entry["finding"] is None for entry in entries), "tasks": entries})

    overdue, pending = reviews(environment, records, rules, now)
    refusals: list[dict[str, Any]] = []
    waits: list[dict[str, Any]] = []
    for stage in stages:
        for entry in stage["tasks"]:
            if entry["finding"] is None:
                continue
            found = {**entry["finding"], "stage": stage["name"], "owner": entry["owner"]}
            # Only the changed system can prove it: a deployment that waited for the proof would never come.
            automatic = entry["verify"] == "auto" and entry["scope"] != "project"
            provable = automatic and found["code"] in ("changed", "missing")
            if stage["name"] == "before_use":
                waits.append(found)
            if stage["name"] == "before_install" or (in_use and not provable):
                refusals.append(found)
    emergency = emergency_reason.strip()
    notes = list(pending)
    if emergency and not deployed_by:
        overdue.append(
            finding(
                "unnamed",
                "nobody says who makes this emergency deployment",
                f"records/{environment}/emergency/",
                "somebody else has to review it",
                "add -e \"deployed_by='your name'\"",
                task=None,
            )
        )
    closes = in_use and bool(waits)
    opens = not waits and not refusals
    return {
        "environment": environment,
        "in_use": in_use,
        "first": not releases,
        "stages": stages,
        "passed": not overdue and (bool(emergency) or not refusals),
        "refusals": [*overdue, *([] if emergency else refusals)],
        "overridden": refusals if emergency else [],
        "emergency": emergency,
        "proxy_open": opens or bool(emergency and in_use),
        "proxy_closes": closes and not emergency,
        "proxy_waits_for": waits,
        "notes": [*notes, *orphans(plan, records)],
    }


def approvals(plan: dict[str, Any], records: dict[str, dict[str, Any]], environment: str) -> dict[str, Any]:
    """Return what a release record keeps: who approved, what is waived, and when a restore was last practised."""
    rules = plan["gates"]
    tasks = {task["id"]: task for task in plan["tasks"]}
    approved: list[dict[str, Any]] = []
    waived: list[dict[str, Any]] = []
    drills: list[str] = []
    for path, record in records.items():
        task = tasks.get(path.rsplit("/", 1)[1].rsplit(".", 1)[0])
        if task is None or path != record_path(task, environment) or "unreadable" in record:
            continue
        entry: dict[str, Any] = {"task": task["id"]}
        entry.update((key, record[key]) for key in ("by", "approved_by", "on", "expires") if key in record)
        if record.get("decision") == "waived":
            waived.append(entry)
        elif task["id"] in rules["two_people"]:
            approved.append(entry)
        if task["id"] in rules["restore_drills"] and record.get("decision") == "done" and is_date(record.get("on")):
            drills.append(str(record["on"]))
    return {"approvals": approved, "waivers": waived, "restore_drill_on": max(drills) if drills else None}


def open_repository(repository: str, environment: str, wanted: list[str]) -> dict[str, Any]:
    """Read the plan, and refuse an environment it does not have."""
    path = os.path.join(repository, "plan.yml")
    try:
        plan = read_plan(path, wanted)
        names = [entry["name"] for entry in plan["environments"]]
        gates = plan["gates"]["environments"]
    except Exception as error:
        raise AnsibleFilterError(
            f"the plan cannot be read ({' '.join(str(error).split())}); {path}; the gate rests on it and lets nothing pass "
            "without; restore it with `git checkout plan.yml`, or update the repository"
        ) from error
    if environment not in names or environment not in gates:
        raise AnsibleFilterError(
            f"the plan has no environment '{environment}'; {path}; the gate does not know what to ask for; "
            f"name the inventory of one (-i inventories/NAME) or add -e environment_name=NAME: {', '.join(names)}"
        )
    return plan


def santedb_gate(
    repository: str, environment: str, now: str, deployed_by: str = "", emergency_reason: str = ""
) -> dict[str, Any]:
    """Judge an environment of the repository."""
    plan = open_repository(str(repository), str(environment), ["environments", "gates", "tasks"])
    records = read_records(str(repository))
    judged = judge_gate(plan, records, str(environment), str(now), str(deployed_by), str(emergency_reason))
    for name in ("refusals", "overridden", "proxy_waits_for", "notes"):
        judged[f"{name}_said"] = [sentence(found) for found in judged[name]]
    return judged


def santedb_release(repository: str, environment: str) -> dict[str, Any]:
    """Return what the plan and the records tell a release record."""
    wanted = ["environments", "gates", "tasks", "release", "template_version", "answers_digest"]
    plan = open_repository(str(repository), str(environment), wanted)
    return {
        "template_version": plan.get("template_version"),
        "answers_digest": str(plan.get("answers_digest")),
        "images": plan["release"].get("images", {}),
        **approvals(plan, read_records(str(repository)), str(environment)),
    }


class FilterModule:
    """The filters of the gate."""

    def filters(self) -> dict[str, Any]:
        """Return them by name."""
        return {"santedb_gate": santedb_gate, "santedb_release": santedb_release}
