"""Write the JSON Schema of an answers file from questions/, for editors, for checks and for the documentation.

The schema knows types, values and single fields; contradictions between answers are for the template's own checks.
``--check`` fails when the committed schema is not what the questions give.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tools.compile_catalog import questions, text_forms

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "santescaffold" / "schemas" / "answers.schema.json"

Schema = dict[str, Any]
Forms = dict[str, dict[str, str]]


def nullable(schema: Schema) -> Schema:
    """Return ``schema`` widened by null."""
    if "enum" in schema:
        return {**schema, "enum": [*schema["enum"], None]}
    return {**schema, "type": [schema["type"], "null"]}


def value_of(spec: dict[str, Any], forms: Forms, *, blank: bool) -> Schema:
    """Return the schema of one scalar or list of words; ``blank`` says that an empty text counts as no answer."""
    form = spec["form"]
    if form == "bool":
        return {"type": "boolean"}
    if form in ("int", "number"):
        schema: Schema = {"type": "integer" if form == "int" else "number", "minimum": spec.get("minimum", 0)}
        if "maximum" in spec:
            schema["maximum"] = spec["maximum"]
        return schema
    if form == "choice":
        return {"enum": list(spec["allowed"])}
    if form in ("multi", "list"):
        items: Schema = {"enum": list(spec["allowed"])} if form == "multi" else {"type": "string"}
        schema = {"type": "array", "items": items, "uniqueItems": True}
        return {**schema, "minItems": 1} if spec.get("required") else schema
    pattern = spec.get("pattern") or forms.get(form, {}).get("pattern")
    schema = {"type": "string"}
    if spec.get("required") and not pattern:
        return {**schema, "minLength": 1}
    if not pattern:
        return schema
    return {**schema, "anyOf": [{"const": ""}, {"pattern": pattern}]} if blank else {**schema, "pattern": pattern}


def fields_of(fields: dict[str, dict[str, Any]], forms: Forms) -> Schema:
    """Return the schema of a structure with ``fields``: others are refused, optional ones may be null."""
    properties: dict[str, Schema] = {}
    for name, spec in fields.items():
        required = bool(spec.get("required"))
        schema = value_of(spec, forms, blank=not required)
        if spec.get("refused"):
            schema["description"] = refusals(spec["refused"])
        if "default" in spec:
            schema["default"] = spec["default"]
        properties[name] = schema if required else nullable(schema)
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    required_names = [name for name, spec in fields.items() if spec.get("required")]
    return {**schema, "required": required_names} if required_names else schema


def refusals(refused: dict[str, str]) -> str:
    """Return the sentence that tells which known values are not accepted, and why."""
    return "Refused: " + "; ".join(f"{value} ({reason})" for value, reason in refused.items()) + "."


def answer_of(name: str, question: dict[str, Any], forms: Forms) -> Schema:
    """Return the schema of the answer ``name``."""
    form = question["form"]
    if form == "struct":
        schema = fields_of(question["fields"], forms)
    elif form == "list":
        schema = {"type": "array", "items": fields_of(question["item"], forms)}
    else:
        schema = value_of(question, forms, blank=not question.get("required"))
    if question.get("default") is None and not question.get("required"):
        schema = nullable(schema)
    help_text = question["help"].strip()
    if question.get("refused"):
        help_text += "\n" + refusals(question["refused"])
    if question.get("derive"):
        help_text += f"\nLeft blank: {question['derive']}."
    default = {"default": question["default"]} if "default" in question else {}
    return {"title": name.replace("_", " ").capitalize(), "description": help_text, **schema, **default}


def build(root: Path = ROOT) -> Schema:
    """Return the schema of the questionnaire under ``root``."""
    forms = text_forms(root)
    properties: dict[str, Schema] = {}
    required: list[str] = []
    for name, question in questions(root).items():
        properties[name] = answer_of(name, question, forms)
        if question.get("required") and "default" not in question:
            required.append(name)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Answers to the planning questionnaire",
        "description": "What people answer; everything left out takes its default or follows from the roles.",
        "type": "object",
        "properties": properties,
        "patternProperties": {"^_": {"description": "Written by Copier."}},
        "additionalProperties": False,
        "required": required,
    }


def dump(schema: Schema) -> str:
    """Return the text of the schema file."""
    return json.dumps(schema, ensure_ascii=False, indent=1, default=str) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Write the schema, or with ``--check`` compare it; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail when the schema is not what the questions give")
    arguments = parser.parse_args(argv)
    text = dump(build())
    current = TARGET.read_text(encoding="utf-8") if TARGET.exists() else None
    if arguments.check:
        if current != text:
            print(
                "santescaffold/schemas/answers.schema.json is stale; run: make reference",
                file=sys.stderr,
            )
            return 1
        return 0
    if current != text:
        TARGET.parent.mkdir(parents=True, exist_ok=True)
        TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
