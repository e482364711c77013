"""The rules between answers: well-formed, in the error grammar, and each one shown to work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from santescaffold.conditions import answers_named, applies
from santescaffold.template import Template
from tests.support import MINIMUM
from tools.compile_catalog import compile_catalog

ROOT = Path(__file__).resolve().parents[2]
CATALOG: dict[str, Any] = compile_catalog()
RULES: list[dict[str, Any]] = CATALOG["constraints"]
QUESTIONS: dict[str, Any] = CATALOG["questions"]
WARNINGS: dict[str, Any] = yaml.safe_load((ROOT / "tests" / "unit" / "warnings.yml").read_text(encoding="utf-8"))
BY_ID = [pytest.param(rule, id=rule["id"]) for rule in RULES]


@pytest.fixture(scope="module")
def template() -> Template:
    return Template(ROOT)


def condition(rule: dict[str, Any]) -> Any:
    return rule["applies_when"] if rule["kind"] == "generator" else rule["violated_when"]


def test_ids_are_unique_and_complete() -> None:
    ids = [rule["id"] for rule in RULES]
    assert len(set(ids)) == len(ids)
    elsewhere = {"C09", "C23", "C24", "C36"}  # refused values, and the one that is dropped
    assert {f"C{number:02}" for number in range(1, 45)} - set(ids) == elsewhere


@pytest.mark.parametrize("rule", BY_ID)
def test_a_rule_is_well_formed(rule: dict[str, Any]) -> None:
    common = {"id", "kind", "severity", "answers", "message", "why", "todo", "phase", "source"}
    own = {
        "generator": {"applies_when", "proved_by"},
        "people": {"violated_when", "task"},
        "answers": {"violated_when"},
    }
    assert set(rule) - {"as_written"} == common | own[rule["kind"]]
    assert rule["severity"] in ("error", "warn")
    assert rule["phase"] in {phase["id"] for phase in CATALOG["phases"]}
    assert all(isinstance(source, str) and source for source in rule["source"])
    for part in ("message", "why", "todo"):
        assert ";" not in rule[part], "the semicolon separates the parts of the error grammar"
        assert not rule[part].endswith(".")
        assert set(re.findall(r"\{(\w+)\}", rule[part])) <= set(rule["answers"])


@pytest.mark.parametrize("rule", BY_ID)
def test_answers_are_those_looked_at_in_the_order_they_are_asked(rule: dict[str, Any]) -> None:
    order = list(QUESTIONS)
    assert rule["answers"] == sorted(rule["answers"], key=order.index)
    assert set(answers_named(condition(rule))) <= set(rule["answers"])
    assert set(rule.get("as_written", [])) <= set(rule["answers"])


def clauses(part: Any, answer: str = "") -> list[tuple[str, str, Any]]:
    """(answer, field, value) of every comparison with a value in a condition."""
    found: list[tuple[str, str, Any]] = []
    if isinstance(part, list):
        for entry in part:
            found += clauses(entry, answer)
    elif isinstance(part, dict):
        name = part.get("answer", answer)
        for key, value in part.items():
            if key in ("is", "is_not", "has", "lacks"):
                found.append((name, part.get("field", ""), value))
            elif key in ("one_of", "has_any", "has_all"):
                found += [(name, part.get("field", ""), entry) for entry in value]
            elif isinstance(value, dict | list):
                found += clauses(value, name)
    return found


@pytest.mark.parametrize("rule", BY_ID)
def test_every_value_a_rule_compares_with_exists(rule: dict[str, Any]) -> None:
    for path, field, value in clauses(condition(rule)):
        name, _, inner = path.partition(".")
        spec = QUESTIONS[name]
        if field or inner:
            spec = (spec.get("item") or spec.get("fields"))[field or inner]
        if spec.get("allowed"):
            assert value in spec["allowed"] or value == [], f"{path} {field}: {value}"
        elif spec["form"] == "bool":
            assert isinstance(value, bool), f"{path} {field}: {value}"


def test_people_find_their_decisions_in_a_task() -> None:
    tasks = {
        task["id"]: (phase["id"], task)
        for phase in CATALOG["phases"]
        for group in phase["groups"]
        for task in group["tasks"]
    }
    for rule in RULES:
        if rule["kind"] == "people":
            phase, _ = tasks[rule["task"]]
            assert phase == rule["phase"], rule["id"]


def test_every_promise_of_the_generator_is_proved() -> None:
    for rule in RULES:
        if rule["kind"] == "generator":
            file, _, test = rule["proved_by"].partition("::")
            assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), rule["id"]


@pytest.mark.parametrize("rule_id", WARNINGS)
def test_a_warning_is_given(rule_id: str, template: Template) -> None:
    answers = {**MINIMUM, **WARNINGS[rule_id]}
    found = {finding["id"]: finding for finding in template.findings(answers)}
    assert rule_id in found
    assert found[rule_id]["severity"] in ("warn", "people")
    assert len({len(finding) for finding in found.values()}) == 1, "every finding has the same keys"


def test_every_warning_has_its_example() -> None:
    wanted = {
        rule["id"]
        for rule in RULES
        if rule["kind"] == "people" or (rule["kind"], rule["severity"]) == ("answers", "warn")
    }
    wanted |= {code for code, text in CATALOG["findings"].items() if text.get("severity") == "warn"}
    assert set(WARNINGS) == wanted


def test_python_and_jinja_see_the_same_violations(template: Template) -> None:
    for rule_id, more in WARNINGS.items():
        raw = {**MINIMUM, **more}
        effective = template.effective(raw)
        seen = {finding["id"] for finding in template.findings(raw, effective) if finding["id"][0] in "CD"}
        rules = [rule for rule in RULES if rule["kind"] != "generator" and "as_written" not in rule]
        wanted = {rule["id"] for rule in rules if applies(rule["violated_when"], effective)}
        assert seen - {"D03", "D34"} == wanted, rule_id


def test_the_person_at_the_terminal_is_asked_again_at_the_last_answer(template: Template) -> None:
    raw = template.with_defaults({**MINIMUM, "storage_mode": "mdm"})
    said = template.call("validate", "validate", template.catalog, "matching_mode", "none", raw)
    assert said.startswith("records are kept per source under a master")
    assert template.call("validate", "validate", template.catalog, "matching_mode", "weighted", raw) == ""
    early = template.with_defaults({**MINIMUM, "matching_mode": "none"})
    assert template.call("validate", "validate", template.catalog, "storage_mode", "mdm", early) == ""
    assert template.call("validate", "validate", template.catalog, "matching_mode", "none") == ""


def test_items_are_compared_at_the_terminal_too(template: Template) -> None:
    raw = template.with_defaults(MINIMUM)
    twice = [{"name": "a", "cidr": "10.0.0.0/8"}, {"name": "a", "cidr": "192.168.0.0/16"}]
    assert "has the same name" in template.call("validate", "validate", template.catalog, "networks", twice, raw)


def test_every_default_is_acceptable(template: Template) -> None:
    required = {"project_name", "organization", "jurisdiction", "country_code", "vision_statement"}
    for name, question in template.catalog["questions"].items():
        said = template.call("validate", "validate", template.catalog, name, question.get("default"))
        assert bool(said) == (name in required), f"{name}: {said}"
