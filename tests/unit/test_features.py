"""The catalogue of features and settings: whole, without clashes, and what it decides it may decide."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.support import renderer

CATALOG: dict[str, Any] = renderer().template.catalog
DATA: dict[str, Any] = CATALOG["features"]
FEATURES: list[dict[str, Any]] = DATA["features"]
SETTINGS = [(feature, setting) for feature in FEATURES for setting in feature["settings"]]
ON_BAD = ("fatal", "runtime", "ignored")


def test_ids_and_order_are_unique_enough() -> None:
    assert len({feature["id"] for feature in FEATURES}) == len(FEATURES)
    for line in ("2.x", "3.x"):
        orders = [feature["order"] for feature in FEATURES if line in feature["lines"] and "never" not in feature]
        shared = {order for order in orders if orders.count(order) > 1}
        named = {
            feature["id"]
            for feature in FEATURES
            if feature["order"] in shared and line in feature["lines"] and "never" not in feature
        }
        assert named <= {"RAMCACHE", "REDIS"}, "only features that exclude each other may share a place"


def test_q27_no_two_settings_share_a_variable() -> None:
    names = [(setting["name"], feature["id"]) for feature, setting in SETTINGS]
    by_name: dict[str, list[str]] = {}
    for name, feature in names:
        by_name.setdefault(name, []).append(feature)
    assert {name: found for name, found in by_name.items() if len(found) > 1} == {}


def test_q27_no_name_holds_its_own_prefix_twice() -> None:
    for feature, setting in SETTINGS:
        prefix = f"SDB_{feature['id']}_"
        assert setting["name"].startswith(prefix), setting["name"]
        assert prefix not in setting["name"][len(prefix) :]


def test_every_feature_is_decided_once() -> None:
    for feature in FEATURES:
        assert ("never" in feature) != ("applies_when" in feature), feature["id"]
        assert feature["source"], feature["id"]
        if "applies_when" in feature:
            assert feature["why"].endswith("."), feature["id"]
        else:
            assert feature["never"]["quirk"].startswith("Q")
            assert feature["never"]["reason"].endswith(".")


def test_what_has_no_effect_is_never_emitted() -> None:
    for feature, setting in SETTINGS:
        ineffective = setting.get("effective") is False or feature.get("effective") is False
        if ineffective:
            assert "never" in setting or "never" in feature, setting["name"]
        if "never" in setting or "never" in feature:
            assert "emit" not in setting, setting["name"]


def test_required_settings_are_emitted() -> None:
    for feature, setting in SETTINGS:
        if setting.get("required") and "never" not in feature and "never" not in setting:
            assert "emit" in setting, setting["name"]


def test_every_emission_names_one_origin() -> None:
    origins = {"value", "answer", "fact", "vault", "reference"}
    for setting in [item for _, item in SETTINGS] + DATA["host_settings"]:
        for choice in setting.get("emit", []):
            assert len(origins & choice.keys()) == 1, setting["name"]
            assert choice.keys() <= origins | {"when", "map", "default", "prefix"}, setting["name"]
            if "answer" in choice:
                assert choice["answer"].split(".")[0] in CATALOG["questions"], setting["name"]
            if "vault" in choice:
                assert choice["vault"] in {item["name"] for item in DATA["vault_variables"]}, setting["name"]


def test_literals_and_maps_are_values_the_feature_accepts() -> None:
    for _, setting in SETTINGS:
        allowed = setting.get("allowed")
        if setting["type"] not in ("enum", "bool") or not isinstance(allowed, list):
            continue
        fold = str.lower if setting.get("case") == "ignore" else str
        accepted = {fold(item) for item in allowed}
        for choice in setting.get("emit", []):
            for value in [choice[key] for key in ("value", "default") if key in choice] + list(
                choice.get("map", {}).values()
            ):
                assert fold(value) in accepted, setting["name"]


def test_answers_of_choice_form_reach_exactly_accepted_values() -> None:
    for _, setting in SETTINGS:
        if setting["type"] != "enum":
            continue
        fold = str.lower if setting.get("case") == "ignore" else str
        for choice in setting.get("emit", []):
            if "answer" not in choice or "." in choice["answer"]:
                continue
            question = CATALOG["questions"][choice["answer"]]
            refused = question.get("refused") or {}
            for value in question.get("allowed") or []:
                if value in refused or value is None:
                    continue
                given = choice["map"].get(value, choice.get("default")) if "map" in choice else value
                assert given is not None, (setting["name"], value)
                assert fold(given) in {fold(item) for item in setting["allowed"]}, (setting["name"], value)


def test_order_rules_of_the_features_hold() -> None:
    place = {feature["id"]: feature["order"] for feature in FEATURES}
    for feature in FEATURES:
        for other in feature.get("requires", {}).get("order", []):
            assert place[other] < place[feature["id"]], feature["id"]


def test_bad_values_have_a_known_consequence() -> None:
    for _, setting in SETTINGS:
        assert setting["on_bad"].startswith(ON_BAD), setting["name"]


@pytest.mark.parametrize("name", [item["name"] for item in DATA["documented_but_absent"]["variables"]])
def test_documented_but_absent_variables_are_never_emitted(name: str) -> None:
    emitted = {setting["name"] for _, setting in SETTINGS if "emit" in setting}
    assert name not in emitted


def test_databases_have_distinct_names_and_lawful_connections() -> None:
    databases = CATALOG["databases"]["databases"]
    for key in ("id", "name", "owner"):
        values = [item[key] for item in databases]
        assert len(set(values)) == len(values)
    for item in databases:
        connection = item["connection"]
        if item["environment_variable"]:
            # Q07: undotted upper-case names only, and never one that ends like a provider variable.
            assert connection == connection.upper()
            assert not set(connection) - set("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
            assert not connection.endswith("_PROVIDER")
        assert sorted(item["extensions"]) == ["fuzzystrmatch", "pg_trgm", "pgcrypto", "uuid-ossp"]
    assert [item["id"] for item in databases if item["create_databases"]] == ["marts"]


def test_configuration_files_are_those_the_template_holds() -> None:
    held = {
        source.rsplit("/", 1)[1].replace("{% endif %}.jinja", "").split("%}")[1]
        for source in renderer().sources
        if source.startswith("santedb/") and "/config/" in source
    }
    assert held == set(DATA["configuration_files"])


def test_policies_named_in_rules_are_policies_of_santedb() -> None:
    assert len(set(CATALOG["santedb_xml"]["policies"]["names"])) == len(CATALOG["santedb_xml"]["policies"]["names"])
    for section, spec in CATALOG["santedb_xml"]["sections"].items():
        assert spec["source"], section
        for type_name in spec["types"].values():
            assert type_name.split(",")[0].strip().rsplit(".", 1)[1].startswith(section[:4]), section


def test_alternatives_without_condition_come_last() -> None:
    for _, setting in SETTINGS:
        choices = setting.get("emit", [])
        for earlier, _later in itertools.pairwise(choices):
            assert "when" in earlier, setting["name"]
