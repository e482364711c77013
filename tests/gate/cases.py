"""The shared table of gate cases (cases.yml), laid out as small repositories."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from santescaffold.records import plan_section, plan_sections

HERE = Path(__file__).resolve().parent
NOW = "2026-03-31T08:00:00+00:00"
TABLE: list[dict[str, Any]] = yaml.load((HERE / "cases.yml").read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
SECTIONS = plan_sections((HERE / "plan.yml").read_text(encoding="utf-8"))
PLAN: dict[str, Any] = {name: plan_section(text) for name, text in SECTIONS.items()}
TASKS = {task["id"]: task for task in PLAN["tasks"]}


def valid_record(task_id: str) -> dict[str, Any]:
    """A record of a task that stands."""
    task = TASKS.get(task_id, TASKS["DEP-14"])
    second = {"approved_by": "Kofi"} if task_id in PLAN["gates"]["two_people"] else {}
    return {
        "task": task_id, "decision": "done", "by": "Ama", "team_role": task["owner"], "on": "2026-03-01",
        "evidence": "docs/x.md", "answers_digest": task["answers_digest"], **second,
    }  # fmt: skip


def lay_out(case: dict[str, Any], root: Path) -> Path:
    """Write the repository of a case."""
    root.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "plan.yml", root / "plan.yml")
    written: dict[str, Any] = {}
    wanted = case.get("valid", "all")
    for name, stages in PLAN["gates"]["environments"].items():
        for stage in stages["stages"]:
            for task_id in stages[stage] if wanted in ("all", stage) else ():
                place = "project" if TASKS[task_id]["scope"] == "project" else name
                written[f"records/{place}/{task_id}.yml"] = valid_record(task_id)
    environment = case.get("environment", "production")
    if case.get("in_use") or case.get("deployed"):
        written[f"records/{environment}/releases/20260301T080000Z.yml"] = {
            "at": "2026-03-01T08:00:00Z", "proxy_open": bool(case.get("in_use"))
        }  # fmt: skip
    for path, change in case.get("set", {}).items():
        if change is None:
            written.pop(path, None)
        elif isinstance(change, str):
            written[path] = change
        else:
            record = {**valid_record(Path(path).stem), **change}
            if record["answers_digest"] == "old":
                record["answers_digest"] = "0" * 64
            written[path] = {key: value for key, value in record.items() if value is not None}
    for path, content in written.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else "".join(f"{k}: {json.dumps(v)}\n" for k, v in content.items())
        (root / path).write_text(text, encoding="utf-8")
    return root
