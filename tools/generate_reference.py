"""Write docs/reference/ from the catalogue, so that a page never says what the data does not.

``--check`` fails when a page differs from what the data gives.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tools.compile_catalog import ROOT, compile_catalog

TARGET = ROOT / "docs" / "reference"
GENERATED = "<!-- Generated from the catalogue by tools/generate_reference.py: do not edit. -->"


def cell(value: Any) -> str:
    """Return ``value`` as the text of one table cell."""
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple | set):
        return ", ".join(cell(item) for item in value)
    if isinstance(value, dict):
        return "; ".join(f"{key}: {cell(item)}" for key, item in value.items())
    return " ".join(str(value).split()).replace("|", "\\|")


def table(headings: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return a Markdown table."""
    names = list(headings)
    lines = ["| " + " | ".join(names) + " |", "| " + " | ".join("---" for _ in names) + " |"]
    lines += ["| " + " | ".join(cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines)


def condition(applies: Any) -> str:
    """Return a condition of the catalogue in words."""
    if applies is None or applies == "always":
        return "always"
    if "not" in applies:
        return f"not ({condition(applies['not'])})"
    for word, joint in (("all", " and "), ("any", " or ")):
        if word in applies:
            parts = [condition(part) for part in applies[word]]
            return joint.join(f"({part})" if " or " in part or " and " in part else part for part in parts)
    operator, value = next((key, item) for key, item in applies.items() if key != "answer")
    return f"`{applies['answer']}` {operator.replace('_', ' ')} {cell(value)}"


def default_of(question: dict[str, Any]) -> str:
    """Return the line that says what holds when a question is not answered."""
    if question.get("derive"):
        return f"* Left blank: {cell(question['derive'])}"
    if "default" not in question:
        return "* No default: it must be answered"
    return f"* Default: `{json.dumps(question['default'], ensure_ascii=False)}`"


def questions_page(catalog: dict[str, Any]) -> str:
    """Every question: what it asks, what is accepted, what its answer changes."""
    parts = [
        "# Questions and answers",
        GENERATED,
        "Every answer id, in the order asked. *Essential* ones are asked in the short interview; all are accepted from a file. A blank "
        "answer (`null`, or `[]` where several values can be chosen) lets the plan decide.",
    ]
    for name, question in catalog["questions"].items():
        facts = [
            f"* Form: {question.get('form')}{' (essential)' if question.get('essential') else ''}"
            + (f"; planning question {question['group']}" if question.get("group") else ""),
            default_of(question),
        ]
        if question.get("allowed"):
            facts.append("* Accepted: " + ", ".join(f"`{value}`" for value in question["allowed"]))
        for value, reason in (question.get("refused") or {}).items():
            facts.append(f"* Refused: `{value}`: {cell(reason)}")
        if question.get("applies_when") not in (None, "always"):
            facts.append(f"* Applies when {condition(question['applies_when'])}")
        group = catalog["question_groups"].get(question.get("group"), {})
        if group.get("changes", {}).get(name):
            facts.append(f"* Changes: {cell(group['changes'][name])}")
        if group:
            facts.append(f"* Why: {cell(group.get('why'))} Source: {cell(group.get('source'))}")
        fields = question.get("item") or question.get("fields")
        section = [f"## {name}", "```text\n" + str(question.get("help", "")).strip() + "\n```", "\n".join(facts)]
        if fields:
            rows = (
                (f"`{key}`", spec.get("form"), spec.get("required"), spec.get("choices") or spec.get("choices_from"))
                for key, spec in fields.items()
            )
            section.append(table(("Field", "Form", "Required", "Values"), rows))
        parts += section
    return "\n\n".join(parts) + "\n"


def features_page(catalog: dict[str, Any]) -> str:
    """Every feature and variable of SanteDB, and what this project does with it."""
    parts = [
        "# Features and variables of SanteDB",
        GENERATED,
        "Read from SanteDB's source; the paths are named with each feature.",
    ]
    for feature in catalog["features"]["features"]:
        verdict = (
            f"**Never emitted** ({cell(feature['never'])})"
            if feature.get("never")
            else f"Emitted when {condition(feature.get('applies_when'))}"
        )
        parts += [
            f"## {feature['id']}: {feature['title']}",
            f"{verdict}. Release lines: {cell(feature.get('lines'))}. {cell(feature.get('notes'))}",
        ]
        if feature.get("settings"):
            parts.append(
                table(
                    ("Variable", "Type", "Accepted", "Default", "A bad value", "Emitted"),
                    (
                        (
                            f"`{setting['name']}`",
                            setting.get("type"),
                            setting.get("allowed") or setting.get("format"),
                            setting.get("default"),
                            setting.get("on_bad"),
                            f"never: {cell(setting['never'])}"
                            if setting.get("never")
                            else ("yes" if setting.get("emit") else "left at its default"),
                        )
                        for setting in feature["settings"]
                    ),
                )
            )
        parts.append("Source: " + "; ".join(f"`{cell(path)}`" for path in feature.get("source", [])))
    return "\n\n".join(parts) + "\n"


def tasks_page(catalog: dict[str, Any]) -> str:
    """All tasks of the five phases."""
    parts = ["# Tasks of the five phases", GENERATED]
    for phase in catalog["phases"]:
        parts += [f"## {phase['name']}", cell(phase["purpose"])]
        for group in phase["groups"]:
            parts += [
                f"### {group['title']}",
                table(
                    ("Task", "What", "Owner", "Gate", "Verified", "Applies when", "A sign-off rests on"),
                    (
                        (
                            task["id"],
                            task["title"],
                            task["owner"].replace("_", " "),
                            task.get("gate_stage", ""),
                            task["verify"],
                            condition(task["applies_when"]),
                            task["depends_on"],
                        )
                        for task in group["tasks"]
                    ),
                ),
            ]
    return "\n\n".join(parts) + "\n"


def constraints_page(catalog: dict[str, Any]) -> str:
    """All constraints between answers."""
    rows = (
        (
            item["id"],
            item["severity"],
            item["kind"],
            item.get("answers"),
            item.get("message"),
            item.get("why"),
            item.get("todo"),
        )
        for item in catalog["constraints"]
    )
    return (
        "\n\n".join(
            (
                "# Constraints between answers",
                GENERATED,
                "An *error* of kind *answers* stops the copy. Kind *generator*: the template makes it true and a test proves it. Kind "
                "*people*: a line in a checklist.",
                table(("Id", "Severity", "Kind", "Answers", "What is wrong", "Why it matters", "What to do"), rows),
            )
        )
        + "\n"
    )


def roles_page(catalog: dict[str, Any]) -> str:
    """The roles SanteDB can play and what each brings."""
    parts = ["# Roles", GENERATED]
    for role in catalog["roles"]["roles"]:
        parts += [
            f"## {role['id']}: {role['name']}",
            table(
                ("What", "Value"),
                (
                    ("Image", role.get("image")),
                    ("Features beyond the base", role.get("features")),
                    ("Storage", role.get("storage")),
                    ("Managed resources", role.get("mdm_resources")),
                    ("Standards by default", role.get("standards")),
                    ("Stored resources by default", role.get("stored_resources")),
                    ("FHIR resources by default", role.get("fhir_resources")),
                    ("Interfaces", role.get("interfaces")),
                    ("Source", role.get("source")),
                ),
            ),
        ]
    return "\n\n".join(parts) + "\n"


def ports_page(catalog: dict[str, Any]) -> str:
    """The port table."""
    rows = (
        (
            port["group"],
            port["port"],
            port["protocol"],
            port["service"],
            port["tls"],
            port.get("purpose"),
            condition(port.get("applies_when")),
            port.get("source"),
        )
        for port in catalog["ports"]["ports"]
    )
    heading = table(("Group", "Port", "Protocol", "Service", "TLS", "Purpose", "Open when", "Source"), rows)
    return f"# Ports\n\n{GENERATED}\n\nWhat is not listed is closed.\n\n{heading}\n"


SCHEMAS = (
    (
        "answers",
        "Answers file",
        "What `santescaffold new --answers FILE` and `copier copy --data-file FILE` take; what each answer means stands in "
        "[Questions and answers](questions.md). It knows types and values; what answers say against each other is found by "
        "`santescaffold check-answers FILE`.",
    ),
    ("plan", "Resolved plan", "`plan.yml` of a deployment repository."),
    ("record", "Record", "`records/project/TASK.yml`, `records/ENVIRONMENT/TASK.yml`: a sign-off or a waiver."),
)


def form_of(schema: dict[str, Any]) -> str:
    """Return what a schema allows, in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(form_of(one) for one in schema["anyOf"])
    kinds = schema.get("type", "anything")
    words = [kinds] if isinstance(kinds, str) else kinds
    inner = schema.get("items")
    if "array" in words and isinstance(inner, dict) and "properties" not in inner:
        return f"list of {form_of(inner)}"
    return " or ".join({"array": "list", "object": "structure", "null": "nothing"}.get(word, word) for word in words)


def fields_of(schema: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Yield (path, form, whether it must be there, meaning) of every field of a schema, depth first."""
    for name, part in schema.get("properties", {}).items():
        must = "yes" if name in schema.get("required", []) else ""
        yield f"`{prefix}{name}`", form_of(part), must, part.get("description", "")
        inner, more = part.get("items"), part.get("additionalProperties")
        yield from fields_of(part, f"{prefix}{name}.")
        if isinstance(inner, dict):
            yield from fields_of(inner, f"{prefix}{name}[].")
        if isinstance(more, dict):
            yield from fields_of(more, f"{prefix}{name}.*.")


def schemas_page(_: dict[str, Any]) -> str:
    """The JSON Schemas that ship with the package."""
    parts = [
        "# Files and their schemas",
        GENERATED,
        "Three files are read by people and programs alike, and each has a JSON Schema (draft 2020-12). They ship with the "
        "package, in `santescaffold/schemas/`. An editor with a YAML language server completes and checks an answers file "
        "whose first line names its schema:",
        "```yaml\n# yaml-language-server: $schema=/path/to/santescaffold/schemas/answers.schema.json\n```",
    ]
    for name, title, about in SCHEMAS:
        schema = json.loads((ROOT / "santescaffold" / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8"))
        parts += [f"## {title}", f"{about} Schema: [{name}.schema.json](../schemas/{name}.schema.json)."]
        if name != "answers":
            parts += [cell(schema["description"]), table(("Field", "Form", "Required", "Meaning"), fields_of(schema))]
    return "\n\n".join(parts) + "\n"


PAGES: dict[str, Callable[[dict[str, Any]], str]] = {
    "questions.md": questions_page,
    "features.md": features_page,
    "tasks.md": tasks_page,
    "constraints.md": constraints_page,
    "ports.md": ports_page,
    "roles.md": roles_page,
    "schemas.md": schemas_page,
}


def main(argv: list[str] | None = None) -> int:
    """Write or check the pages; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail when a page is stale; write nothing")
    arguments = parser.parse_args(argv)
    catalog = compile_catalog()
    stale = []
    for name, page in PAGES.items():
        text, path = page(catalog), TARGET / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not arguments.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if arguments.check and stale:
        print(f"docs/reference is stale ({', '.join(stale)}); run: make reference", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
