"""Every answer matters: flipped to every other accepted value, it changes a file that is not merely its echo."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import MINIMUM, renderer

FLIPS: dict[str, list[dict[str, Any]]] = yaml.safe_load(
    (Path(__file__).parent / "flips.yml").read_text(encoding="utf-8")
)


def flips() -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Yield (answer id, the plan it applies to, the other value)."""
    for name, question in renderer().template.catalog["questions"].items():
        if name == "interview":
            continue
        entries = FLIPS.get(name)
        if entries is None:
            entries = [{}]
        for entry in entries:
            base = {**MINIMUM, **entry.get("base", {})}
            values = entry.get("values")
            if values is None:
                values = list(accepted(name, question, base))
            for value in values:
                yield name, base, value


def accepted(name: str, question: dict[str, Any], base: dict[str, Any]) -> Iterator[Any]:
    """Yield every accepted value of an enumerable question other than the one of ``base``."""
    current = renderer().template.effective(base)[name]
    allowed = question.get("allowed") or []
    refused = question.get("refused") or {}
    if question["form"] == "bool":
        yield not current
    elif question["form"] == "choice":
        yield from (value for value in allowed if value != current and value not in refused)
    elif question["form"] == "multi":
        for value in allowed:
            if value in refused:
                continue
            if value == "none":  # stands alone
                toggled = [value]
            elif value in current:
                toggled = [item for item in current if item != value]
            else:
                toggled = [*(item for item in current if item != "none"), value]
            if toggled == current or (not toggled and question.get("required")):
                continue  # every other value takes its place in another case
            yield toggled
    else:
        raise AssertionError(f"flips.yml has no other value for the answer {name} of form {question['form']}")


@cache
def rendered(base: str) -> dict[str, str]:
    """The files of a base plan, rendered once."""
    return without_echo(renderer().render(yaml.safe_load(base)))


def without_echo(files: dict[str, str]) -> dict[str, str]:
    """Drop what repeats the answers or is a function of them all: the answers in plan.yml, and digests."""
    kept = dict(files)
    kept.pop(".copier-answers.yml", None)
    kept["plan.yml"] = re.sub(
        r'("?answers_digest"?: )"?[0-9a-f]{64}"?', r"\1-", kept["plan.yml"].split("\nanswers:")[0]
    )
    return kept


CASES = list(flips())


@pytest.mark.parametrize(
    ("name", "base", "value"), CASES, ids=[f"{name}={str(value)[:40]}" for name, _, value in CASES]
)
def test_answer_changes_a_file(name: str, base: dict[str, Any], value: Any) -> None:
    before = rendered(yaml.safe_dump(base, sort_keys=True))
    changed = copy.deepcopy(base)
    changed[name] = value
    after = without_echo(renderer().render(changed))
    assert any(before.get(path) != text for path, text in after.items()) or set(before) - set(after), (
        f"the answer {name}: {value!r} changes nothing"
    )
