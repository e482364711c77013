"""``santescaffold explain``: what an answer, task, feature, constraint, warning or quirk is, and what it changes."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

from santescaffold.records import words


def load_catalog(answers: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the catalogue: that of the package or its clone, else that of a local template; {} when there is none."""
    here = Path(__file__).resolve().parent
    places = [here / "catalog.json", here.parent / "catalog" / "catalog.json"]
    source = str((answers or {}).get("_src_path") or "")
    if source.startswith(("/", "~")):
        places.append(Path(source).expanduser() / "catalog" / "catalog.json")
    for place in places:
        if place.is_file():
            loaded: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
            return loaded
    return {}


def everything(catalog: dict[str, Any], plan: Any = None) -> dict[str, dict[str, Any]]:
    """Return {id: {kind, …}} of all that can be explained; what the plan says comes before what the catalogue says."""
    known: dict[str, dict[str, Any]] = {}
    for quirk in (catalog.get("quirks") or {}).get("quirks", []):
        known[quirk["id"]] = {**quirk, "kind": "quirk"}
    for constraint in catalog.get("constraints", []):
        known[constraint["id"]] = {**constraint, "kind": "constraint"}
    features = (catalog.get("features") or {}).get("features", {})
    for feature in features.values() if isinstance(features, dict) else features:
        known[str(feature.get("id") or feature.get("token"))] = {**feature, "kind": "feature"}
    for phase in catalog.get("phases", []):
        for group in phase["groups"]:
            for task in group["tasks"]:
                known[task["id"]] = {"kind": "task", "phase": phase["name"], "applies": None, **task}
    for name, question in (catalog.get("questions") or {}).items():
        known[name] = {"kind": "answer", "id": name, **question}
    for role, duty in ((catalog.get("team_roles") or {}).get("team_roles") or {}).items():
        known[role] = {"kind": "team role", "id": role, "title": duty}
    if plan is not None:
        for task_id, entry in list(known.items()):
            if entry["kind"] == "task":
                known[task_id] = {**entry, "applies": False}
        for task in plan["tasks"]:
            known[task["id"]] = {**known.get(task["id"], {}), **task, "kind": "task", "applies": True}
        for feature in plan["features"]:
            known[feature["id"]] = {**known.get(feature["id"], {}), **feature, "kind": "feature", "applies": True}
        for warning in plan["warnings"]:
            known[warning["id"]] = {"kind": "warning", **known.get(warning["id"], {}), **warning, "applies": True}
        for name, value in plan["answers"].items():
            entry = known.setdefault(name, {"kind": "answer", "id": name})
            entry["value"] = value
            entry["tasks"] = [
                task["id"] for task in plan["tasks"] if name in task["depends_on"] and len(task["depends_on"]) <= 40
            ]
            entry["features_and_warnings"] = [w["id"] for w in plan["warnings"] if name in w["answers"]]
    return known


def near(known: dict[str, Any], wanted: str) -> list[str]:
    """Return the ids somebody may have meant."""
    folded = {name.casefold().replace("-", "_"): name for name in known}
    close = difflib.get_close_matches(wanted.casefold().replace("-", "_"), folded, 4, 0.6)
    return [folded[name] for name in close]


def find(known: dict[str, dict[str, Any]], wanted: str) -> dict[str, Any] | None:
    """Return the entry of an id, whatever its case."""
    if wanted in known:
        return known[wanted]
    same = [name for name in known if name.casefold() == wanted.casefold()]
    return known[same[0]] if len(same) == 1 else None


def lines(entry: dict[str, Any]) -> list[str]:
    """Return the explanation, a heading and one fact a line."""
    kind = entry["kind"]
    title = entry.get("title") or entry.get("message") or ""
    out = [f"{entry.get('id', '')}: {kind}{', ' + ' '.join(str(title).split()) if title else ''}"]

    def add(label: str, value: Any) -> None:
        if value in (None, "", [], {}):
            return
        if isinstance(value, list):
            text = ", ".join(str(item) for item in value)
        elif isinstance(value, (dict, bool, int, float)):
            text = json.dumps(value, ensure_ascii=False)
        else:
            text = " ".join(str(value).split())
        out.append(f"{label}: {text}")

    if kind == "answer":
        add("question", entry.get("help"))
        add("why", entry.get("why"))
        add("changes", entry.get("changes"))
        add("this plan", entry.get("value"))
        add("default", entry.get("default"))
        add("when left blank", entry.get("derive"))
        add("allowed", entry.get("allowed"))
        add("refused", entry.get("refused"))
        add("asked when", entry.get("applies_when"))
        add("records it voids when changed", entry.get("tasks"))
        add("warnings about it", entry.get("features_and_warnings"))
        add("asked in", entry.get("file"))
    elif kind == "task":
        if entry.get("applies") is not None:
            add("this plan", "it applies" if entry["applies"] else "it does not apply")
        add("phase", entry.get("phase"))
        add("owner", words(str(entry.get("owner", ""))))
        add("helps", [words(role) for role in entry.get("helps") or []])
        add("deliverable", entry.get("deliverable"))
        add("evidence", words(str(entry.get("evidence", ""))))
        add("gate", f"{entry['gate_stage']}: {entry.get('gate_why', '')}" if entry.get("gate") else "none")
        add("verified", entry.get("verify"))
        add("verified how", entry.get("verify_how"))
        add("applies when", entry.get("applies_when"))
        depends = entry.get("depends_on") or []
        add("a record holds for", "all answers" if depends == "all" or len(depends) > 100 else depends)
        add("note", entry.get("note"))
    else:
        if entry.get("applies"):
            add("this plan", "it is in it")
        for label in ("severity", "why", "applies_when", "violated_when", "answers", "todo", "advice", "note", "notes"):
            add({"todo": "what to do"}.get(label, words(label)), entry.get(label))
        settings = entry.get("settings")
        names = settings if isinstance(settings, dict) else [item.get("name") for item in settings or []]
        add("settings", list(names))
    add("source", entry.get("source"))
    return out
