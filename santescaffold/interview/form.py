"""The form as data: sections, questions and fields, made from the template's catalogue and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

_CAPITALS = {
    "ami", "api", "atna", "bis", "cidr", "cpu", "emr", "fhir", "fqdn", "hdsi", "hie", "his", "hl7", "hmis", "id",
    "ihe", "ims", "lis", "lmis", "mdm", "mfa", "mto", "nas", "oid", "os", "pacs", "pep", "phr", "pia", "raci",
    "ram", "rpo", "rto", "smtp", "ssn", "tls", "tra", "ui", "uri", "url", "uuid",
}  # fmt: skip
_SPELLED = {
    "dcdr": "dCDR",
    "gb": "(GB)",
    "icdr": "iCDR",
    "openid": "OpenID",
    "pubsub": "Pub/sub",
    "santedb": "SanteDB",
    "vcpu": "vCPU",
}
_SECTIONS = {
    "project": "The project",
    "role": "Role and data",
    "jurisdiction": "What exists already",
    "interoperability": "Partners and standards",
    "size": "Size and own parts",
    "privacy": "Privacy, assessments, audit",
    "security": "Security",
    "operations": "Machines and operations",
}


def label_of(name: str) -> str:
    """Return an id as words: ``rpo_hours`` is "RPO hours"."""
    words = [
        _SPELLED.get(word, word.upper() if word in _CAPITALS else word) for word in re.split(r"[_.]", name) if word
    ]
    text = " ".join(words)
    return text[:1].upper() + text[1:] if words and words[0] not in _SPELLED.values() else text


def split_help(text: str) -> tuple[str, str, str]:
    """Return the question, what is said about it, and the worked example (indented lines) of a help text."""
    lines = re.sub(r"(?<=\w)\n(?=It )", ".\n", text.rstrip()).splitlines()
    prose = " ".join(line.strip() for line in lines if not line.startswith("  "))
    example = "\n".join(line[2:] for line in lines if line.startswith("  "))
    end = prose.find("? ")
    if end < 0 and prose.endswith("?"):
        return prose, "", example
    return (prose[: end + 1], prose[end + 2 :], example) if end >= 0 else ("", prose, example)


def examples_of(example: str) -> dict[str, str]:
    """Return {field: example} from the worked example of a list or structure, for use as placeholders."""
    try:
        loaded = yaml.load(example, Loader=yaml.BaseLoader)
    except yaml.YAMLError:
        return {}
    first = loaded[0] if isinstance(loaded, list) and loaded else loaded
    if not isinstance(first, dict):
        return {}
    return {str(key): value for key, value in first.items() if isinstance(value, str)}


def choices_of(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return [{value, label}] of what can be chosen; refused values and the blank are left out."""
    labels = {value: label for label, value in (spec.get("choices") or {}).items()}
    return [{"value": value, "label": labels.get(value) or label_of(value)} for value in spec.get("allowed") or []]


def _field(name: str, spec: Mapping[str, Any], example: str, catalog: Mapping[str, Any]) -> dict[str, Any]:
    # Where a question offers the same values, its words for them are used.
    kin = catalog["questions"].get(spec.get("default_from") or spec.get("in_answer") or name) or {}
    known = {choice["value"]: choice["label"] for choice in choices_of(kin)}
    return {
        "name": name,
        "label": label_of(name),
        "form": spec.get("form", "text"),
        "required": bool(spec.get("required")),
        "choices": [{**choice, "label": known.get(choice["value"], choice["label"])} for choice in choices_of(spec)],
        "in_answer": spec.get("in_answer"),
        "follows": spec.get("default_from"),
        "help": spec.get("pattern_help", ""),
        "example": example,
    }


def describe(catalog: Mapping[str, Any]) -> dict[str, Any]:
    """Return the whole form: ``sections`` in the order of the questionnaire, and ``questions`` by id."""
    groups = catalog.get("question_groups") or {}
    sections: dict[str, dict[str, Any]] = {}
    questions: dict[str, Any] = {}
    for name, spec in catalog["questions"].items():
        group = groups.get(spec.get("group"))
        if group is None:
            continue
        question, more, example = split_help(spec["help"])
        fields = spec.get("item") or spec.get("fields") or {}
        shown = examples_of(example)
        questions[name] = {
            "id": name,
            "label": label_of(name),
            "question": question or f"{label_of(name)}?",
            "more": more,
            "example": example if not fields else "",
            "form": spec["form"],
            "essential": bool(spec.get("essential")),
            "required": bool(spec.get("required")),
            "long": spec["form"] == "text" and "pattern" not in spec,
            "choices": choices_of(spec),
            "fields": [_field(field, inner, shown.get(field, ""), catalog) for field, inner in fields.items()],
            "default": spec.get("default"),
            "follows": spec.get("derive", ""),
            "clears": spec.get("default") == [] and "rules" in spec,
            "help": spec.get("pattern_help", ""),
            "why": group["why"],
            "changes": (group.get("changes") or {}).get(name) or [],
        }
        stem = re.sub(r"^\d+-", "", spec["file"].rsplit("/", 1)[-1].removesuffix(".yml"))
        section = sections.setdefault(stem, {"id": stem, "title": _SECTIONS.get(stem, label_of(stem)), "groups": []})
        listed = {entry["id"]: entry for entry in section["groups"]}
        entry = listed.get(spec["group"])
        if entry is None:
            entry = {"id": spec["group"], "title": group["ask"], "why": group["why"], "questions": []}
            section["groups"].append(entry)
        entry["questions"].append(name)
    return {"sections": list(sections.values()), "questions": questions}
