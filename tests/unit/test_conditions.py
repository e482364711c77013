"""One table of cases holds the condition language equal in Jinja and in Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2 import FileSystemLoader, StrictUndefined, UndefinedError
from jinja2.sandbox import SandboxedEnvironment

from santescaffold.conditions import ConditionError, answers_named, applies

ROOT = Path(__file__).resolve().parents[2]
TABLE: dict[str, Any] = yaml.safe_load((ROOT / "tests" / "unit" / "conditions.yml").read_text(encoding="utf-8"))
CASES = [pytest.param(case["condition"], case["holds"], id=str(case["condition"])) for case in TABLE["cases"]]


@pytest.fixture(scope="module")
def macro() -> Any:
    environment = SandboxedEnvironment(
        loader=FileSystemLoader(ROOT),
        extensions=["jinja2_ansible_filters.AnsibleCoreFiltersExtension"],
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("macros/conditions.jinja").module


@pytest.mark.parametrize(("condition", "holds"), CASES)
def test_python(condition: Any, holds: bool | str) -> None:
    if holds == "error":
        with pytest.raises(ConditionError):
            applies(condition, TABLE["answers"])
    else:
        assert applies(condition, TABLE["answers"]) is holds


@pytest.mark.parametrize(("condition", "holds"), CASES)
def test_jinja(macro: Any, condition: Any, holds: bool | str) -> None:
    if holds == "error":
        with pytest.raises(UndefinedError):
            macro.applies(condition, TABLE["answers"])
    else:
        assert str(macro.applies(condition, TABLE["answers"])) == ("1" if holds else "")


def test_the_table_is_large_enough_and_has_no_case_twice() -> None:
    assert len(CASES) >= 80
    assert len({str(case["condition"]) for case in TABLE["cases"]}) == len(CASES)


def test_answers_named_follows_every_reference() -> None:
    condition = {
        "all": [
            {"answer": "tra.status", "is": "approved"},
            {"not": {"answer": "hosts", "some_item": {"field": "name", "is": "x"}}},
            {
                "any": [
                    {"answer": "rto_hours", "greater_than_answer": "mto_hours"},
                    {"answer": "tra.status", "is_set": True},
                ]
            },
        ]
    }
    assert answers_named(condition) == ["tra", "hosts", "rto_hours", "mto_hours"]
