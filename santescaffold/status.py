"""``santescaffold status``: where every phase stands, and what blocks which environment."""

from __future__ import annotations

import datetime
import json
import sys
from typing import Any

from santescaffold.records import assess, judge_gate, record_path, repeated_path, words
from santescaffold.repository import Repository

NARROW = 66
STATES = ("done", "waived", "void", "open")


def collect(repository: Repository, environment: str | None = None, now: str | None = None) -> dict[str, Any]:
    """Return the status as data: phases by environment, gates, waivers, and records nobody reads."""
    plan, records = repository.plan, repository.records
    moment = now or datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    today = moment[:10]
    names = [environment] if environment else repository.environments
    phases, waivers, void = [], [], []
    for phase in plan["phases"]:
        places = ["project"] if phase["scope"] == "project" else names
        counts: dict[str, dict[str, int]] = {}
        for task in plan["tasks"]:
            if task["phase"] != phase["id"]:
                continue
            for place in ["project"] if task["scope"] == "project" else names:
                path = record_path(task, place)
                state = assess(task, records.get(path), path, place, plan["gates"], today)
                count = counts.setdefault(place, dict.fromkeys(STATES, 0))
                count[state["state"]] += 1
                if state["state"] == "void":
                    void.append({**state["finding"], "environment": place})
                elif state["state"] == "waived":
                    record = records[path]
                    waivers.append(
                        {"task": task["id"], "title": task["title"], "place": place}
                        | {key: record.get(key) for key in ("expires", "reason", "by", "approved_by")}
                    )
        phases.append(
            {"id": phase["id"], "number": phase["number"], "name": phase["name"]}
            | {
                "places": [
                    {"name": place, **counts[place]} for place in dict.fromkeys([*places, *counts]) if place in counts
                ]
            }
        )
    gates = [_gate(repository, name, moment) for name in names]
    return {
        "project": plan["project"]["name"],
        "phases": phases,
        "environments": gates,
        "waivers": sorted(waivers, key=lambda waiver: (str(waiver["expires"]), str(waiver["task"]))),
        "void": void,
        "unread": judge_gate(plan, records, names[0], moment)["notes"] if names else [],
        "repeated": sum(repeated_path(path) for path in records),
        "ok": all(gate["blocked"] is None for gate in gates),
    }


def _gate(repository: Repository, environment: str, now: str) -> dict[str, Any]:
    judged = judge_gate(repository.plan, repository.records, environment, now)
    stages = []
    for stage in judged["stages"]:
        blocking = [
            {key: entry[key] for key in ("task", "owner", "state")}
            | {"title": repository.tasks[entry["task"]]["title"], "code": entry["finding"]["code"]}
            | {key: entry["finding"][key] for key in ("message", "where", "why", "todo")}
            for entry in stage["tasks"]
            if entry["finding"]
        ]
        stages.append({"name": stage["name"], "tasks": len(stage["tasks"]), "blocked_by": blocking})
    blocked = None
    if judged["refusals"]:
        blocked = "deployment"
    elif not judged["proxy_open"]:
        blocked = "use"
    return {
        "name": environment,
        "production": next(e["production"] for e in repository.plan["environments"] if e["name"] == environment),
        "in_use": judged["in_use"],
        "blocked": blocked,
        "refusals": len(judged["refusals"]),
        "stages": stages,
        "reviews": [found for found in judged["refusals"] if found["task"] is None]
        + [found for found in judged["notes"] if found["code"] in ("unreviewed", "self_reviewed")],
    }


STAGE_MEANS = {"before_install": "before installing", "before_use": "before the public may use it"}
BLOCKED = {
    "deployment": "a deployment is refused",
    "use": "may be deployed; the proxy stays closed to the public",
    None: "nothing blocks it",
}


def print_status(status: dict[str, Any]) -> None:
    """Print the status: tables on a terminal, else plain lines that are never folded."""
    if sys.stdout.isatty():
        _print_rich(status)
    else:
        _print_plain(status)


def _phase_lines(status: dict[str, Any]) -> list[str]:
    return [
        f"phase {phase['number']} {phase['name']}, {place['name']}: "
        + ", ".join(f"{place[state]} {state}" for state in STATES)
        for phase in status["phases"]
        for place in phase["places"]
    ]


def _print_plain(status: dict[str, Any]) -> None:
    for line in _phase_lines(status):
        print(line)
    for environment in status["environments"]:
        print(f"{environment['name']}: {BLOCKED[environment['blocked']]}")
        for found in environment["reviews"]:
            print(
                f"{environment['name']} review: {found['message']}; {found['where']}; {found['why']}; {found['todo']}"
            )
        for stage in environment["stages"]:
            done = stage["tasks"] - len(stage["blocked_by"])
            print(f"{environment['name']} {stage['name']}: {done} of {stage['tasks']} gate tasks closed")
            for entry in stage["blocked_by"]:
                print(
                    f"{environment['name']} {stage['name']} {entry['task']} {entry['state']}: "
                    f"{entry['title']}; owner {words(entry['owner'])}; {entry['code']}"
                )
    for waiver in status["waivers"]:
        print(f"waiver {waiver['task']} {waiver['place']}: until {waiver['expires']}; {waiver['reason']}")
    for found in status["void"]:
        print(f"void {found['task']} {found['environment']}: {found['message']}; {found['where']}; {found['todo']}")
    for found in status["unread"]:
        if found["code"] in ("gone", "misplaced"):
            print(f"unread {found['where']}: {found['message']}; {found['why']}; {found['todo']}")


def _print_rich(status: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(title=status["project"], title_justify="left", box=None, pad_edge=False)
    for heading in ("Phase", "Where"):
        table.add_column(heading)
    for heading, style in zip(("Done", "Waived", "Void", "Open"), ("green", "cyan", "red", ""), strict=True):
        table.add_column(heading, justify="right", style=style)
    for phase in status["phases"]:
        for number, place in enumerate(phase["places"]):
            label = f"{phase['number']} {phase['name']}" if number == 0 else ""
            table.add_row(label, place["name"], *(str(place[state] or "·") for state in STATES))
    if console.width < NARROW:  # the columns of a table would be cut
        for line in _phase_lines(status):
            console.print(line, markup=False)
    else:
        console.print(table)
    for environment in status["environments"]:
        style = {"deployment": "bold red", "use": "yellow", None: "green"}[environment["blocked"]]
        console.print(f"\n[bold]{environment['name']}[/bold]: [{style}]{BLOCKED[environment['blocked']]}[/{style}]")
        for found in environment["reviews"]:
            console.print(f"  {found['message']}; {found['why']}; {found['todo']}", markup=False)
        for stage in environment["stages"]:
            done = stage["tasks"] - len(stage["blocked_by"])
            console.print(f"  {STAGE_MEANS[stage['name']]}: {done} of {stage['tasks']} gate tasks closed")
            owners: dict[str, list[str]] = {}
            for entry in stage["blocked_by"]:
                mark = "" if entry["state"] == "open" else f" ({entry['code']})"
                owners.setdefault(entry["owner"], []).append(entry["task"] + mark)
            for owner, tasks in sorted(owners.items()):
                console.print(f"    {words(owner)}: {', '.join(tasks)}", markup=False)
    for waiver in status["waivers"]:
        console.print(
            f"waived until {waiver['expires']}: {waiver['task']} ({waiver['place']}): {waiver['reason']}", markup=False
        )
    for found in status["void"]:
        console.print(f"void: {found['message']}; {found['where']}; {found['todo']}", style="red", markup=False)
    console.print("\nWhat a task is: santescaffold explain TASK. What to do for each: checklists/.", style="dim")


def print_status_json(status: dict[str, Any]) -> None:
    """Print the status as one JSON object."""
    print(json.dumps(status, indent=2, ensure_ascii=False))
