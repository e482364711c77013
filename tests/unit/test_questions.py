"""The questionnaire: complete, answerable, and what it says about itself is true."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import copier
import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from santescaffold.template import Template  # noqa: E402
from tools import compile_catalog, generate_schema, render  # noqa: E402

PLANNED = {entry["id"]: entry for entry in json.loads((ROOT / "tests/unit/data/planning-answers.json").read_text())}
ESSENTIAL = [
    "project_name", "organization", "jurisdiction", "country_code", "vision_statement", "roles",
    "deployment_patterns", "hie_context", "offline", "offline_patterns", "stored_resources", "storage_mode",
    "matching_mode", "site_device_types", "jurisdiction_systems", "connected_systems", "standards",
    "concurrent_clients", "records_per_year", "custom_screens", "accountable_person", "tra", "pia",
    "tls_certificate_source", "applet_signing", "audit_events", "audit_dispatch", "audit_retention_days",
    "password_policy", "mfa", "device_authentication", "environments", "topology", "hosts", "domain_names",
]  # fmt: skip
MINIMAL = {
    "project_name": "Demoland Client Registry",
    "organization": "Ministry of Health of Demoland",
    "jurisdiction": "Republic of Demoland",
    "country_code": "XD",
    "vision_statement": "Every person is known once, wherever they seek care.",
}
SCALARS = [
    "text", "int", "number", "bool", "date", "cidr", "ip", "fqdn", "hostname", "hostport", "url", "email", "regex",
    "oid", "uuid", "duration", "choice", "multi", "list", "path",
]  # fmt: skip
KEYS = [
    "type", "multiselect", "multiline", "help", "choices", "options", "default", "usual", "placeholder", "ask", "validator", "form",
    "group", "essential", "required", "pattern", "pattern_help", "minimum", "maximum", "allowed", "refused", "unique",
    "distinct", "item", "fields", "secrets", "applies_when", "derive", "rules", "instead",
]  # fmt: skip
FIELD_KEYS = [
    "form", "required", "pattern", "pattern_help", "minimum", "maximum", "default", "default_from", "in_answer",
    "allowed", "refused",
]  # fmt: skip


def all_questions() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((ROOT / "questions").glob("*.yml")):
        for name, question in compile_catalog.load(path).items():
            if "form" in question:
                assert name not in found, f"{name} is asked twice"
                found[name] = question
    return found


QUESTIONS = all_questions()
ANSWERS = {name: question for name, question in QUESTIONS.items() if "group" in question}


def accepted(spec: dict[str, Any]) -> set[str]:
    offered = [value for value in values_of(spec.get("options", [])) if value and isinstance(value, str)]
    return {*spec.get("allowed", []), *spec.get("refused", {}), *offered}


def usual(question: dict[str, Any]) -> Any:
    """What is taken when nothing is said."""
    return question.get("usual", question["default"])


def values_of(choices: Any) -> list[Any]:
    return list(choices.values()) if isinstance(choices, dict) else list(choices)


def test_every_planned_answer_is_asked_once_and_nothing_else() -> None:
    assert set(ANSWERS) == set(PLANNED)
    assert len(ANSWERS) == 149
    assert next(iter(QUESTIONS)) == "interview"
    assert set(QUESTIONS) - set(ANSWERS) == {"interview"}


@pytest.mark.parametrize("name", ANSWERS)
def test_form_and_values_are_the_planned_ones(name: str) -> None:
    question, planned = ANSWERS[name], PLANNED[name]
    assert question["form"] == planned["form"]
    assert question["group"] == planned["group"]
    assert accepted(question) == set(planned.get("choices", []))
    assert set(question.get("item") or question.get("fields") or []) == set(planned.get("fields", []))


@pytest.mark.parametrize("name", QUESTIONS)
def test_specification_is_well_formed(name: str) -> None:
    question = QUESTIONS[name]
    assert set(question) <= set(KEYS)
    assert ("default" in question) is (name not in MINIMAL)
    only_in_full = "interview == 'full'" in str(question.get("ask"))
    assert ("usual" in question) is only_in_full
    if only_in_full:
        assert question["default"] == f"{{% set q = '{name}' %}}{{% include 'macros/usual.jinja' %}}"
    assert len(question["help"]) > 25
    for line in question["help"].splitlines():
        assert len(line) <= 130, line
    for field, spec in (question.get("item") or question.get("fields") or {}).items():
        assert set(spec) <= set(FIELD_KEYS), field
        assert spec["form"] in SCALARS, field
        assert ("allowed" in spec) == (spec["form"] in ("choice", "multi")), field
        if "pattern" in spec:
            re.compile(spec["pattern"])
            assert "pattern_help" in spec, field
        for key in ("default_from", "in_answer"):
            assert spec.get(key, name) in QUESTIONS, field
    for field in [*question.get("unique", []), *question.get("distinct", [])]:
        assert field in question["item"]
    if "pattern" in question:
        re.compile(question["pattern"])
        assert "pattern_help" in question


def shown(name: str, defaults: bool, answers: dict[str, Any] | None = None) -> list[Any]:
    """What Copier gets to choose from: with ``defaults`` nobody is asked."""
    template = Template(ROOT)
    values: list[Any] = json.loads(
        template.environment.get_template("macros/choices.jinja").render(
            catalog=template.catalog, q=name, _copier_conf={"defaults": defaults}, _copier_answers=answers or {}
        )
    )
    return values


@pytest.mark.parametrize("name", [name for name, question in QUESTIONS.items() if "options" in question])
def test_choices_are_the_options_and_refusals_say_why(name: str) -> None:
    question = QUESTIONS[name]
    assert question["choices"] == f"{{% set q = '{name}' %}}{{% include 'macros/choices.jinja' %}}"
    offered = values_of(question["options"])
    assert [value["value"] if isinstance(value, dict) else value for _, value in shown(name, False)] == offered
    if question["form"] == "bool":
        assert offered == ["", True, False]
        return
    assert ("" in offered) is (usual(question) is None)
    disabled = {value["value"]: value["validator"] for _, value in shown(name, False) if isinstance(value, dict)}
    assert set(disabled) == set(question.get("refused", {})) < set(offered)
    for value, message in disabled.items():
        assert message.startswith(f'"{value}" cannot be deployed; {name}; {question["refused"][value]}; choose one of ')
    if question["form"] == "choice":
        assert shown(name, True) == []


def test_who_is_not_asked_gets_only_what_was_answered() -> None:
    assert shown("standards", True) == []
    assert shown("roles", True) == ["mpi"]
    assert shown("standards", True, {"standards": ["hl7v2_sllp", "mistyped", "fhir_r4"]}) == [
        "fhir_r4", "hl7v2_sllp", "mistyped",
    ]  # fmt: skip


def test_values_repeated_in_fields_are_those_of_the_answer_they_repeat() -> None:
    systems = set(compile_catalog.load(ROOT / "catalog/system-types.yml"))
    team = set(compile_catalog.load(ROOT / "catalog/team-roles.yml")["team_roles"])
    same = [
        (("contacts", "team_role"), team),
        (("jurisdiction_systems", "type"), systems),
        (("connected_systems", "type"), systems),
        *(
            ((question, field), accepted(ANSWERS[answer]))
            for question, field, answer in [
                ("jurisdiction_systems", "standards", "standards"),
                ("connected_systems", "standards", "standards"),
                ("sites", "link", "link_profile"),
                ("sites", "pattern", "offline_patterns"),
                ("match_configurations", "resource", "mdm_resources"),
                ("privacy_resource_actions", "action", "privacy_default_action"),
                ("sensitive_identity_domains", "action", "privacy_default_action"),
                ("hosts", "environment", "environments"),
                ("hosts", "os", "server_os"),
                ("domain_names", "environment", "environments"),
            ]
        ),
    ]
    for (question, field), values in same:
        assert accepted(ANSWERS[question]["item"][field]) == values, (question, field)


def test_essential_interview_asks_the_agreed_questions_at_defaults() -> None:
    assert {name for name, question in ANSWERS.items() if question.get("essential")} == set(ESSENTIAL)
    for name, question in ANSWERS.items():
        asked = str(question.get("ask", "{{ true }}"))
        if name in ESSENTIAL:
            assert name == "offline_patterns" or "ask" not in question, name
        else:
            follow_up = ("audit_dispatch ==" in asked) or ("applet_signing ==" in asked)
            assert "interview == 'full'" in asked or follow_up, name


def test_every_answer_is_validated_the_same_way() -> None:
    for name, question in ANSWERS.items():
        assert (
            question["validator"] == f"{{% set q, v = '{name}', {name} %}}{{% include 'macros/check-answer.jinja' %}}"
        )


def test_conditions_and_rules_name_answers_and_roles_that_exist() -> None:
    catalog = compile_catalog.compile_catalog()

    def answers_in(node: Any) -> list[str]:
        if isinstance(node, dict):
            own = [node["answer"].split(".")[0]] if "answer" in node else []
            return own + [name for value in node.values() for name in answers_in(value)]
        return [name for value in node for name in answers_in(value)] if isinstance(node, list) else []

    for name, question in ANSWERS.items():
        for part in ("applies_when", "rules", "instead"):
            assert set(answers_in(question.get(part, []))) <= set(ANSWERS), name
        assert ("rules" not in question and "instead" not in question) or "derive" in question, name
        for rule in question.get("rules", []):
            for role in catalog["roles"]["roles"] if "roles" in rule else []:
                assert set(role[rule["roles"]]) <= accepted(question), (name, role["id"])
    assert {role["id"] for role in catalog["roles"]["roles"]} == accepted(ANSWERS["roles"])
    assert {name for group in catalog["question_groups"].values() for name in group["changes"]} == set(ANSWERS)
    for role in catalog["roles"]["roles"]:
        assert role["image"] in catalog["images"]["images"]
        assert role["source"]


def test_worked_examples_in_help_are_yaml_the_question_accepts() -> None:
    schema = generate_schema.build()
    for name, question in ANSWERS.items():
        lines = [line for line in question["help"].splitlines() if line.startswith("  ")]
        if question["form"] == "list":
            assert lines, f"{name} has no worked example"
        if question["form"] in ("list", "struct") and lines:
            value = yaml.safe_load("\n".join(lines))
            jsonschema.validate(value, schema["properties"][name])


def test_schema_is_current_and_accepts_defaults_and_the_named_plans() -> None:
    assert generate_schema.main(["--check"]) == 0
    schema = generate_schema.build()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    plans = sorted((ROOT / "tests/plans/valid").glob("*.yml"))
    assert plans
    defaults = {name: usual(question) for name, question in QUESTIONS.items() if name not in MINIMAL}
    for answers in [{**defaults, **MINIMAL}, *(yaml.safe_load(path.read_text()) for path in plans)]:
        assert [error.message for error in validator.iter_errors(answers)] == []


@pytest.mark.parametrize(
    ("answers", "where"),
    [
        ({"runtime": "kubernetes"}, "runtime"),
        ({"rolse": ["mpi"]}, ""),
        ({"roles": ["pacs"]}, "roles"),
        ({"offline": "yes please"}, "offline"),
        ({"concurrent_clients": 0}, "concurrent_clients"),
        ({"country_code": "Demoland"}, "country_code"),
        ({"hosts": [{"name": "a", "environment": "production", "groups": ["icdr"], "address": "ten"}]}, "hosts"),
        ({"hosts": [{"name": "a"}]}, "hosts"),
        ({"smtp": {"server": "smtp://m.example.org:25", "from": "a@example.org", "password": "x"}}, "smtp"),
        ({"image_versions": {"icdr": "latest"}}, "image_versions"),
        ({"storage_mode": "mim"}, "storage_mode"),
    ],
)
def test_schema_refuses(answers: dict[str, Any], where: str) -> None:
    errors = list(jsonschema.Draft202012Validator(generate_schema.build()).iter_errors({**MINIMAL, **answers}))
    assert errors
    assert {str(error.path[0]) if error.path else "" for error in errors} == {where}


def test_no_answer_is_a_secret() -> None:
    for name, question in ANSWERS.items():
        assert not question.get("secret"), name
        for field in question.get("item") or question.get("fields") or {}:
            assert "password" not in field, name


@pytest.fixture(scope="module")
def questionnaire(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template reduced to its questions: one rendered file, the answers."""
    root = render.snapshot(tmp_path_factory.mktemp("questionnaire") / "template")
    for path in (root / "template").iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif "answers_file" not in path.name:
            path.unlink()
    (root / "questions" / "90-derived.yml").unlink()
    settings = (root / "copier.yml").read_text().replace("---\n!include questions/90-derived.yml\n", "")
    (root / "copier.yml").write_text(re.sub(r"(?m)^_message_\w+: \|\n  .*\n", "", settings))
    return root


def copy(questionnaire: Path, destination: Path, answers: dict[str, Any]) -> dict[str, Any]:
    copier.run_copy(str(questionnaire), destination, data=answers, defaults=True, quiet=True, unsafe=False)
    stored: dict[str, Any] = yaml.safe_load((destination / ".copier-answers.yml").read_text())
    return {name: value for name, value in stored.items() if not name.startswith("_")}


@pytest.mark.parametrize("interview", ["essential", "full"])
def test_plain_copier_stores_what_was_asked_with_its_default(
    questionnaire: Path, tmp_path: Path, interview: str
) -> None:
    stored = copy(questionnaire, tmp_path / "out", {**MINIMAL, "interview": interview})
    defaults = {
        name: usual(question)
        for name, question in QUESTIONS.items()
        if name not in MINIMAL and (interview == "full" or "usual" not in question)
    }
    assert stored == {**defaults, **MINIMAL, "interview": interview}


@pytest.mark.parametrize("plan", ["demoland-mpi", "district-ims-offline", "island-shr-clustered"])
def test_plain_copier_stores_named_plans_as_they_are(questionnaire: Path, tmp_path: Path, plan: str) -> None:
    answers = yaml.safe_load((ROOT / "tests/plans/valid" / f"{plan}.yml").read_text())
    stored = copy(questionnaire, tmp_path / "out", answers)
    for name, value in answers.items():
        same = sorted(stored[name]) == sorted(value) if QUESTIONS[name]["form"] == "multi" else stored[name] == value
        assert same, name


@pytest.mark.parametrize("missing", ["project_name", "vision_statement"])
def test_without_a_plain_answer_nothing_is_made(questionnaire: Path, tmp_path: Path, missing: str) -> None:
    answers = {name: value for name, value in MINIMAL.items() if name != missing}
    with pytest.raises(ValueError, match=missing):
        copy(questionnaire, tmp_path / "out", answers)
    assert not (tmp_path / "out" / ".copier-answers.yml").exists()


def test_everything_wrong_stops_a_plain_copy_in_one_run(tmp_path: Path) -> None:
    wrong = {
        "runtime": "kubernetes",
        "encryption_at_rest": ["tde"],
        "roles": ["mpi", "mistyped"],
        "concurrent_clients": 0,
    }
    with pytest.raises(ValueError, match="The plan has 4 errors, and nothing was written") as refusal:
        copy(render.snapshot(tmp_path / "template"), tmp_path / "out", {**MINIMAL, **wrong})
    for name, value in (("runtime", "kubernetes"), ("encryption_at_rest", "tde")):
        assert f'"{value}" cannot be deployed; {name}; {ANSWERS[name]["refused"][value]}; ' in str(refusal.value)
    assert '"mistyped" is not a known value; roles; ' in str(refusal.value)
    assert "0 is too small; concurrent_clients; " in str(refusal.value)
    assert not (tmp_path / "out").exists()
