"""The documents: complete, well-formed Markdown, filled from every answer, at paths no answer changes."""

from __future__ import annotations

import copy
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import MINIMUM, PLAN_NAMES, load_plan, renderer

DOCUMENTS = yaml.safe_load((renderer().files.parent / "catalog" / "documents.yml").read_text(encoding="utf-8"))
SOURCES = [source for source in renderer().sources if source.startswith(("docs/", "checklists/"))]
LAST_LINE = "Everything below this line is yours: no update writes here.\n"
NAMES = ("minimum", *PLAN_NAMES)


def answers(name: str) -> dict[str, Any]:
    return dict(MINIMUM) if name == "minimum" else load_plan(name)


def render(values: dict[str, Any]) -> dict[str, str]:
    return renderer().render(values, only=SOURCES)


@cache
def documents(name: str) -> dict[str, str]:
    return render(answers(name))


@cache
def plan(name: str) -> dict[str, Any]:
    return renderer().template.resolve(answers(name))


def tables(text: str) -> list[list[str]]:
    """Return the tables of a Markdown text as lists of lines."""
    found: list[list[str]] = []
    fenced = False
    current: list[str] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("```"):
            fenced = not fenced
        if not fenced and line.startswith("|"):
            current.append(line)
        elif current:
            found.append(current)
            current = []
    return found


def columns(row: str) -> int:
    return len(re.findall(r"(?<!\\)\|", row)) - 1


@pytest.mark.parametrize("name", NAMES)
def test_paths_are_those_of_the_catalogue_whatever_the_plan(name: str) -> None:
    wanted = {document["path"] for document in DOCUMENTS["documents"]}
    assert {path for path in documents(name) if path.startswith("docs/")} == wanted


@pytest.mark.parametrize("name", NAMES)
def test_no_template_syntax_is_left(name: str) -> None:
    for path, text in documents(name).items():
        for mark in ("{{", "}}", "{%", "%}", "{#"):
            assert mark not in text, f"{path}: {mark}"
        assert not re.search(r"\b(None|True|False|Undefined)\b", text), path


@pytest.mark.parametrize("name", NAMES)
def test_every_gap_is_marked_the_same_way(name: str) -> None:
    for path, text in documents(name).items():
        for line in text.splitlines():
            for mark in re.finditer("TODO", line):
                assert line[mark.start() :].startswith("TODO(people): "), f"{path}: {line}"


@pytest.mark.parametrize("name", NAMES)
def test_every_document_begins_with_the_project_and_ends_with_the_notes(name: str) -> None:
    for path, text in documents(name).items():
        assert text.startswith("# "), path
        assert f"- Project: {plan(name)['project']['name']}\n" in text, path
        assert text.endswith(f"## Your notes\n\n{LAST_LINE}"), path
        assert text.count("## Your notes") == 1, path


@pytest.mark.parametrize("name", NAMES)
def test_markdown_is_well_formed(name: str) -> None:
    for path, text in documents(name).items():
        lines = text.splitlines()
        assert "\t" not in text, path
        assert not any(line != line.rstrip() for line in lines), f"{path}: space at the end of a line"
        assert "\n\n\n" not in text, f"{path}: two empty lines"
        assert text.count("```") % 2 == 0, path
        for table in tables(text):
            assert {columns(row) for row in table} == {columns(table[0])}, f"{path}: {table[0]}"
            assert len(table) > 1, f"{path}: {table[0]}"
            assert re.fullmatch(r"\|( --- \|)+", table[1]), f"{path}: {table[1]}"
        fenced = False
        for before, line, after in zip(["", *lines], lines, [*lines[1:], ""], strict=False):
            if line.startswith("```"):
                fenced = not fenced
            elif line.startswith("#") and not fenced:
                assert before == "", f"{path}: {line}"
                assert after == "", f"{path}: {line}"
            elif line.startswith("|") and not fenced and not before.startswith("|"):
                assert before == "", f"{path}: {line}"
        headings = [line for line in lines if re.match(r"#{2,} ", line)]
        assert len(headings) == len(set(headings)) or path.startswith("checklists/"), f"{path}: a heading twice"


@pytest.mark.parametrize("name", NAMES)
def test_links_between_documents_lead_somewhere(name: str) -> None:
    for path, text in documents(name).items():
        folder = path.rsplit("/", 1)[0]
        for link in re.findall(r"\]\(([^)]+\.md)\)", text):
            parts = folder.split("/")
            for part in link.split("/"):
                parts = parts[:-1] if part == ".." else [*parts, part]
            assert "/".join(parts) in documents(name), f"{path}: {link}"
        for mention in re.findall(r"`?(docs/[a-z0-9/-]+\.md)", text):
            assert mention in documents(name), f"{path}: {mention}"
        for mention in re.findall(r"`([a-z0-9-]+\.md)`", text):
            assert f"{folder}/{mention}" in documents(name), f"{path}: {mention}"


@pytest.mark.parametrize("name", NAMES)
def test_the_diagrams_show_every_host(name: str) -> None:
    text = documents(name)["docs/operational-architecture.md"]
    for environment in plan(name)["environments"]:
        section = (
            text.split(f"#### Diagram: {environment['name']}\n", 1)[1].split("```mermaid\n", 1)[1].split("```", 1)[0]
        )
        nodes = {}
        for host in plan(name)["hosts"]:
            if host["environment"] == environment["name"]:
                found = re.search(rf'^ +(h\d+)\["{re.escape(host["name"])}<br/>', section, re.M)
                assert found, host["name"]
                nodes[found[1]] = host["name"]
        drawn = set(re.findall(r"^ +(\w+)(?:\[|\()", section, re.M)) | {"env"}
        for source, target in re.findall(r"^ +(\w+) -->\|[^|]+\| (\w+)$", section, re.M):
            assert source in drawn, source
            assert target in nodes, target


@pytest.mark.parametrize("name", NAMES)
def test_the_sign_off_sheet_has_exactly_the_gates(name: str) -> None:
    text = documents(name)["docs/sign-off-sheet.md"]
    for stage in ("before_install", "before_use"):
        listed = [
            row.split("|")[1].strip()
            for table in tables(text)
            if table[0].startswith(f"| {stage} |")
            for row in table[2:]
        ]  # fmt: skip
        gates = [task["id"] for task in plan(name)["tasks"] if task["gate"] and task["gate_stage"] == stage]
        assert listed == gates


@pytest.mark.parametrize("name", NAMES)
def test_registers_are_complete(name: str) -> None:
    text = documents(name)["docs/operational-architecture.md"]
    resolved = plan(name)
    for certificate in resolved["certificates"]:
        assert f"| {certificate['id']} |" in text
        assert f"| {certificate['id']} |" in documents(name)["docs/runbooks/certificate-renewal.md"]
    for feature in resolved["features"]:
        assert f"| {feature['id']} |" in text
    for host in resolved["hosts"]:
        assert f"| {host['environment']} | {host['name']} |" in text
    for port in resolved["ports"]:
        assert f"| {port['group']} | {port['service']} | {port['port']}/{port['protocol']} |" in text
    for variable in resolved["vault_variables"]:
        assert f"| {variable['name']} |" in documents(name)["docs/runbooks/secret-rotation.md"]
    for warning in resolved["warnings"]:
        assert f"- {warning['id']}: " in text


def test_hostile_text_stays_in_its_cell() -> None:
    nasty = 'a | b "quoted"\n# not a heading'
    values = copy.deepcopy(load_plan("demoland-mpi"))
    values["connected_systems"][0]["data_shared"] = nasty
    values["jurisdiction_systems"][0]["data_collected"] = nasty
    values["contacts"][0]["raci"] = nasty
    for path, text in render(values).items():
        for table in tables(text):
            assert {columns(row) for row in table} == {columns(table[0])}, f"{path}: {table[0]}"
        assert "\n# not a heading" not in text, path


# Values whose every field can be recognised, and the plan each is put into.
MARKED: dict[str, dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parent / "document_fields.yml").read_text(encoding="utf-8")
)


# How documents word a standard: as the questionnaire does, without its remarks; a kind of system, a permission, a class.
LABELS = {
    "local_only": "its own records only",
    "write_master": "it may write master records",
    "class_c": "class C",
    **renderer().template.catalog["system_types"],
    **{
        value: re.sub(r" - .*| \(.*", "", label)
        for label, value in renderer().template.catalog["questions"]["standards"]["choices"].items()
    },
}

WORDED = ("standards", "type", "merge_permission", "information_class")


@pytest.mark.parametrize("answer", sorted(MARKED))
def test_every_field_of_a_structure_lands_in_a_document(answer: str) -> None:
    name, value = MARKED[answer]["plan"], MARKED[answer]["value"]
    base = {**load_plan(name), answer: value}
    if answer == "hosts":
        base.pop("domain_names", None)
    everything = "\n".join(render(base).values())
    item = value[0] if isinstance(value, list) else value
    specified = renderer().template.catalog["questions"][answer]
    fields = specified.get("item") or specified.get("fields") or {}
    for field, content in item.items():
        if isinstance(content, bool):
            continue
        words = [str(part) for part in (content if isinstance(content, list) else [content])]
        for word in words:
            escaped = (LABELS.get(word, word) if field in WORDED else word).replace("|", "\\|")
            assert escaped in everything or escaped.replace("_", " ") in everything, f"{answer}.{field}: {word}"
    for field in set(fields) - set(item) if isinstance(fields, dict) else ():
        assert field in _OPTIONAL.get(answer, ()), f"{answer}.{field} is tested by nobody"
    for field, content in item.items():
        if isinstance(content, bool):
            other = copy.deepcopy(value)
            (other[0] if isinstance(other, list) else other)[field] = not content
            assert render({**base, answer: other}) != render(base), f"{answer}.{field}"


_OPTIONAL: dict[str, tuple[str, ...]] = {
    "audit_atna": ("client_certificate", "server_certificate"),
    "audit_fhir": ("user", "password", "authenticator"),
    "smtp": ("password",),
    "image_versions": ("icdr", "postgres", "redis", "proxy"),
}

# Answers whose text people read: a marker must come back word for word.
TEXTS = {
    "blueprint_fit": "demoland-mpi", "technical_capacity": "demoland-mpi", "username_format": "demoland-mpi",
    "identity_proofing": "demoland-mpi", "device_naming": "demoland-mpi", "vision_statement": "demoland-mpi",
    "continuity_fallback": "demoland-mpi", "maintenance_window": "demoland-mpi", "monitoring_stack": "demoland-mpi",
    "organization": "demoland-mpi", "jurisdiction": "demoland-mpi", "project_name": "demoland-mpi",
}  # fmt: skip


@pytest.mark.parametrize("answer", sorted(TEXTS))
def test_text_comes_back_word_for_word(answer: str) -> None:
    assert "Xylophone seven" in "\n".join(render({**load_plan(TEXTS[answer]), answer: "Xylophone seven"}).values())


# What a registry without patients may still say: SanteDB's own names, and that there are none.
PATIENT_FACTS = re.compile(
    r"searching-patients|no patients? |Person hits Patient|## Patient|SanteDB ships one for patients"
)


@pytest.mark.parametrize("name", ["facility-registry", "product-registry"])
def test_registries_without_patients_do_not_speak_of_them(name: str) -> None:
    for path, text in documents(name).items():
        for line in text.splitlines():
            assert not re.search("patient", PATIENT_FACTS.sub("", line), re.I), f"{path}: {line}"


@pytest.mark.parametrize("name", ["audit-repository", "hospital-cdr-single-host"])
def test_nobody_is_sent_to_an_environment_the_plan_does_not_have(name: str) -> None:
    for path, text in documents(name).items():
        for line in text.splitlines():
            assert "staging" not in line or "D38" in line, f"{path}: {line}"


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_value_leaves_no_dash_in_a_sentence(name: str) -> None:
    for path, text in documents(name).items():
        for line in text.splitlines():
            assert line.startswith("|") or "—" not in line, f"{path}: {line}"


def test_a_thousand_sites_stay_one_row_each() -> None:
    values = load_plan("district-ims-offline")
    values["sites"] = [
        {"name": f"Clinic {n:04}", "code": f"C{n:04}", "users": 3, "link": "slow", "pattern": "dcdr_gateway"}
        for n in range(1000)
    ]
    rendered = render(values)
    for path in ("docs/operational-architecture.md", "docs/readiness-assessment.md"):
        assert len(re.findall(r"^\| Clinic \d{4} \|", rendered[path], re.M)) == 1000, path
    few = render({**values, "sites": values["sites"][:10]})
    for path, text in rendered.items():
        grown = text.count("\n") - few[path].count("\n")
        assert grown <= 990 + 5, f"{path} grows by {grown} lines"
        if path.startswith("checklists/"):
            assert grown == 0, path


def test_catalogue_of_documents() -> None:
    tasks = {
        task["id"]
        for phase in renderer().template.catalog["phases"]
        for group in phase["groups"]
        for task in group["tasks"]
    }
    for document in DOCUMENTS["documents"]:
        assert set(document["tasks"]) <= tasks, document["path"]
    vulnerabilities = [entry["id"] for entry in DOCUMENTS["vulnerabilities"]]
    assert len(vulnerabilities) == len(set(vulnerabilities))
    used = {identifier for threat in DOCUMENTS["threats"] for identifier in threat["by"]}
    assert used == set(vulnerabilities)
    roles = set(renderer().template.catalog["team_roles"]["team_roles"])
    for row in DOCUMENTS["raci"]:
        assert {row["responsible"], *row["consulted"], *row["informed"]} <= roles
    headings = {row["row"] for row in DOCUMENTS["raci"]}
    for phase in renderer().template.catalog["phases"][:4]:
        assert set(phase["raci_rows"]) <= headings, phase["id"]


def test_every_condition_of_the_assessment_holds_somewhere() -> None:
    """Each proposed vulnerability appears for the answers it is meant for, and not for others."""
    always = [
        entry["id"]
        for entry in DOCUMENTS["vulnerabilities"]
        if entry["applies_when"] == "always" and "apart" not in entry
    ]
    for name in NAMES:
        text = documents(name)["docs/threat-risk-assessment.md"]
        assert all(f"#### {identifier}\n" in text for identifier in always)
    for name, apart in (("demoland-mpi", True), ("hospital-cdr-single-host", False)):
        assert ("#### V35\n" in documents(name)["docs/threat-risk-assessment.md"]) is apart, (
            "the hop to the iCDR in clear"
        )
    relaxed = render(
        {**MINIMUM, "mfa": "none", "audit_dispatch": "none", "encryption_at_rest": [], "environments": ["development"]}
    )
    text = relaxed["docs/threat-risk-assessment.md"]
    assert all(f"#### {identifier}\n" in text for identifier in ("V06", "V07", "V11", "V27"))
    strict = documents("demoland-mpi")["docs/threat-risk-assessment.md"]
    assert not any(f"#### {identifier}\n" in strict for identifier in ("V06", "V07", "V11", "V27", "V13", "V16", "V19"))
