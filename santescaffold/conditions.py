"""The condition language of the catalogue, in Python.

``macros/conditions.jinja`` is the same in Jinja and says what the operators mean. One table of
cases holds the two together, ``tests/unit/conditions.yml``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Condition = str | Mapping[str, Any]
"""``always``, a clause over one answer, or ``all``, ``any`` and ``not`` of conditions."""


class ConditionError(Exception):
    """A condition is malformed, or names an answer or operator that does not exist."""


def applies(condition: Condition, answers: Mapping[str, Any], item: Any = None) -> bool:
    """Return whether ``condition`` holds for the effective ``answers``.

    ``item`` is the list item that clauses with ``field`` look at. Raises ConditionError for what the language has not.
    """
    if isinstance(condition, str):
        if condition == "always":
            return True
        raise ConditionError(f'a condition that is one word must be "always", not "{condition}"')
    if not isinstance(condition, Mapping) or not condition:
        raise ConditionError("a condition is empty")
    if "answer" in condition or "field" in condition:
        return _clause(condition, answers, item)
    results = [_part(part, wanted, answers, item) for part, wanted in condition.items()]
    return all(results)


def answers_named(condition: Condition) -> list[str]:
    """Return the ids of the answers a condition looks at, each once, in the order they appear."""
    found: list[str] = []

    def walk(part: Any) -> None:
        if isinstance(part, Mapping):
            for name, value in part.items():
                if name in ("answer", "greater_than_answer", "accepts_shorter_than_answer"):
                    found.append(str(value).split(".", maxsplit=1)[0])
                else:
                    walk(value)
        elif isinstance(part, list):
            for value in part:
                walk(value)

    walk(condition)
    return list(dict.fromkeys(found))


def accepts_shorter(expression: str, length: int) -> bool:
    """Return whether a password expression accepts some text shorter than ``length``.

    Only expressions of lookaheads, character classes and counts are judged (what ``_judged`` lets through); the answer
    is False for all others, since they may be slow or not be Python's.
    """
    if not _judged(expression) or not 1 < length <= 64:
        return False
    short = length - 1
    samples = [("Aa1!" * length)[:short], ("Aa1" * length)[:short], "a" * short, "1" * short, "Aa1!", "Aa1", "a"]
    return any(len(sample) < length and re.search(expression, sample) for sample in samples)


_CLASS = r"\[\^?(?:\\[dDwWsS\\\]\[^$.|?*+(){}/-]|[A-Za-z0-9]-[A-Za-z0-9]|[^\]\\\[-])+\]"
_ATOM = r"\\[dDwWsS\\\]\[^$.|?*+(){}/@#!%&-]|" + _CLASS + r"|[^\\()\[\]{}*+?|^$]"
_PIECE = rf"(?:{_ATOM})(?:[*+?]|\{{[0-9]{{1,3}}(?:,[0-9]{{0,3}})?\}})?"
_SHAPE = re.compile(rf"^\^?(?:\(\?[=!](?:{_PIECE})*\)|{_PIECE})*\$?$")


def _judged(expression: str) -> bool:
    return (
        len(expression) <= 200
        and all(span[0] <= span[2] for span in re.findall("[A-Za-z0-9]-[A-Za-z0-9]", expression))
        and all(int(low) <= int(high) for low, high in re.findall(r"\{([0-9]+),([0-9]+)\}", expression))
        and all(sum(map(part.count, "*+,?")) <= 4 for part in expression.split("("))
        and _SHAPE.search(expression) is not None
    )


def _part(part: str, wanted: Any, answers: Mapping[str, Any], item: Any) -> bool:
    if part == "all":
        return all(applies(condition, answers, item) for condition in wanted)
    if part == "any":
        return any(applies(condition, answers, item) for condition in wanted)
    if part == "not":
        return not applies(wanted, answers, item)
    raise ConditionError(f'a condition has no part "{part}"')


def _reach(path: str, values: Any) -> Any:
    name, _, field = path.partition(".")
    value = values.get(name) if isinstance(values, Mapping) else None
    if not field:
        return value
    return value.get(field) if isinstance(value, Mapping) else None


def _answer(path: str, answers: Mapping[str, Any]) -> Any:
    name = path.split(".", maxsplit=1)[0]
    if name not in answers:
        raise ConditionError(f'a condition names the unknown answer "{name}"')
    return _reach(path, answers)


def _clause(clause: Mapping[str, Any], answers: Mapping[str, Any], item: Any) -> bool:
    value = _answer(clause["answer"], answers) if "answer" in clause else _reach(clause["field"], item)
    operators = [name for name in clause if name not in ("answer", "field")]
    if not operators:
        raise ConditionError("a clause needs an operator")
    results = [_holds(operator, value, clause[operator], answers) for operator in operators]
    return all(results)


def _counted(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _holds(operator: str, value: Any, wanted: Any, answers: Mapping[str, Any]) -> bool:
    items = value if isinstance(value, list) else []
    match operator:
        case "is":
            return bool(value == wanted)
        case "is_not":
            return bool(value != wanted)
        case "one_of":
            return value in wanted
        case "has":
            return wanted in items
        case "has_any":
            return any(entry in wanted for entry in items)
        case "has_all":
            return isinstance(value, list) and all(entry in items for entry in wanted)
        case "lacks":
            return wanted not in items
        case "is_set":
            return bool((value is not None and value != "" and value != [] and value != {}) == wanted)
        case "greater_than":
            return _counted(value) and bool(value > wanted)
        case "less_than":
            return _counted(value) and bool(value < wanted)
        case "greater_than_answer":
            other = _answer(wanted, answers)
            return _counted(value) and _counted(other) and bool(value > other)
        case "accepts_shorter_than_answer":
            other = _answer(wanted, answers)
            return isinstance(value, str) and _counted(other) and accepts_shorter(value, int(other))
        case "matches":
            return isinstance(value, str) and re.search(wanted, value) is not None
        case "some_item":
            return any(applies(wanted, answers, entry) for entry in items)
        case "no_item":
            return not any(applies(wanted, answers, entry) for entry in items)
        case "every_item":
            return all(applies(wanted, answers, entry) for entry in items)
    raise ConditionError(f'a clause has no operator "{operator}"')
