"""Answers files: reading them, and finding everything that is wrong with them at once.

Whether values are acceptable is decided by the template's own macros (``macros/checks.jinja``). This module adds what
only a reader of the file can know: faults of the YAML, lines, and names that were meant differently.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from santescaffold.conditions import applies
from santescaffold.problems import Problem
from santescaffold.template import Template

KEPT_BY_COPIER = ("_commit", "_src_path", "plan_is_valid")
"""What stands in a repository's .copier-answers.yml beside the answers, and is none."""

MOST_BYTES = 8_000_000
MOST_NODES = 1_000_000


class _Loader(yaml.SafeLoader):
    """YAML without dates: what looks like one stays the text that was written."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, expression) for tag, expression in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


@dataclass
class Answers:
    """An answers file as read: the values, what was wrong on the way, and where everything stands."""

    file: str
    values: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    root: yaml.MappingNode | None = None

    def line(self, answer: str, item: int | None = None, name: str | None = None) -> int | None:
        """Return the line of an answer, of one of its items, or of a field; the nearest that stands in the file."""
        if self.root is None:
            return None
        found = _entry(self.root, answer)
        if found is None:
            return None
        key, value = found
        line: int = key.start_mark.line
        if item is not None and isinstance(value, yaml.SequenceNode) and item < len(value.value):
            value = value.value[item]
            line = value.start_mark.line
        if name is not None and isinstance(value, yaml.MappingNode):
            inner = _entry(value, name)
            if inner is not None:
                line = inner[0].start_mark.line
        return line + 1


def read(path: Path, template: Template) -> Answers:
    """Read an answers file. Never raises for what the file holds: what is wrong stands in ``problems``."""
    answers = Answers(file=str(path))
    try:
        if path.stat().st_size > MOST_BYTES:
            return _stop(
                answers,
                "Y01",
                "the file is too large to be answers",
                f"it has more than {MOST_BYTES} bytes",
                "name the answers file",
            )
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        return _stop(
            answers,
            "Y01",
            f"the file cannot be read ({error.strerror})",
            "without it there is no plan",
            "check the name and its permissions",
        )
    except UnicodeDecodeError:
        return _stop(
            answers, "Y01", "the file is not UTF-8 text", "names would be garbled in every document", "save it as UTF-8"
        )
    try:
        root = yaml.compose(text, Loader=_Loader)
        if root is None:
            return _stop(
                answers,
                "Y05",
                "the file is empty",
                "without answers there is no plan",
                "write at least project_name, organization, jurisdiction, country_code and vision_statement",
            )
        if not isinstance(root, yaml.MappingNode):
            return _stop(
                answers,
                "Y04",
                "the file is not a list of answers by id",
                "every answer belongs to a question",
                "write one line for each: id: value",
                root,
            )
        if _expanded(root) > MOST_NODES:
            return _stop(
                answers,
                "Y02",
                "the YAML refers to itself, or repeats itself without end",
                "it cannot be written out",
                "write the values out instead of using anchors",
            )
        answers.problems += _key_problems(root, answers.file)
        loaded = _construct(root)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        said = getattr(error, "problem", None) or getattr(error, "reason", None) or "it is not YAML"
        if said.startswith("but "):
            said = f"{getattr(error, 'context', None) or 'it goes on'} {said}"
        return _stop(
            answers,
            "Y02",
            f"the YAML cannot be read: {said}",
            "nothing from there on can be understood",
            "correct the line, and put texts with a colon, # or quotes in them in quotes",
            mark=mark,
        )
    except (ValueError, RecursionError) as error:
        return _stop(
            answers,
            "Y02",
            f"the YAML cannot be read: {error}",
            "a value in it is none",
            "correct the value, or put it in quotes",
        )
    answers.root = root
    answers.problems += _unknown(loaded, template.catalog, answers)
    answers.values = {
        name: value for name, value in loaded.items() if isinstance(name, str) and name in template.catalog["questions"]
    }
    return answers


def check(answers: Answers, template: Template) -> list[Problem]:
    """Return every problem of the answers: of the file, of values, between values, and notes on what has no effect."""
    if answers.root is None:
        return answers.problems
    found = list(answers.problems)
    raw = template.with_defaults(answers.values)
    single: list[dict[str, Any]] = json.loads(template.call("checks", "problems_raw", template.catalog, raw))
    wrong = {name for finding in single for name in finding["answers"]}
    sound = {name: value for name, value in answers.values.items() if name not in wrong}
    effective = template.effective(sound)
    for finding in template.findings(answers.values, effective):
        found.append(problem_of(finding, answers))
    for name, value in answers.values.items():
        question = template.catalog["questions"][name]
        condition = question.get("applies_when", "always")
        if (
            value in (None, "", [])
            or value == question.get("default")
            or name in wrong
            or applies(condition, effective)
        ):
            continue
        found.append(
            Problem(
                id="N01",
                severity="note",
                message="the answer has no effect in this plan",
                where=name,
                why="it belongs to something the plan does not have",
                todo="nothing, or delete it",
                answers=(name,),
                file=answers.file,
                line=answers.line(name),
            )
        )
    return found


def problem_of(finding: Mapping[str, Any], answers: Answers) -> Problem:
    """Return a finding of the template's checks as a problem with file and line, and a guess at what was meant."""
    todo = finding["todo"]
    if finding.get("given") and finding.get("allowed"):
        cutoff = 0.8 if finding["id"].startswith("L") else 0.6
        meant = difflib.get_close_matches(
            str(finding["given"]), [str(value) for value in finding["allowed"]], 1, cutoff
        )
        if meant:
            todo = f'did you mean "{meant[0]}"? {todo}'
    lines = [answers.line(name, finding.get("item"), finding.get("field")) for name in finding["answers"]]
    given = [line for line in lines if line is not None]
    return Problem(
        id=finding["id"],
        severity=finding["severity"],
        message=finding["message"],
        where=finding["where"],
        why=finding["why"],
        todo=todo,
        answers=tuple(finding["answers"]),
        file=answers.file,
        line=given[-1] if given else None,
        phase=finding.get("phase"),
    )


def _stop(
    answers: Answers, code: str, message: str, why: str, todo: str, node: yaml.Node | None = None, mark: Any = None
) -> Answers:
    mark = mark or (node.start_mark if node is not None else None)
    answers.problems.append(
        Problem(
            id=code,
            severity="error",
            message=message,
            where="answers file",
            why=why,
            todo=todo,
            file=answers.file,
            line=mark.line + 1 if mark else None,
            column=mark.column + 1 if mark else None,
        )
    )
    return answers


def _construct(root: yaml.MappingNode) -> dict[Any, Any]:
    loader = _Loader("")
    try:
        loaded: dict[Any, Any] = loader.construct_document(root)
        return loaded
    finally:
        loader.dispose()


def _entry(mapping: yaml.MappingNode, name: str) -> tuple[yaml.Node, yaml.Node] | None:
    found = None
    for key, value in mapping.value:
        if isinstance(key, yaml.ScalarNode) and key.value == name:
            found = (key, value)
    return found


def _expanded(root: yaml.Node) -> int:
    """Return how many nodes the document has once anchors are written out; more than MOST_NODES when it never ends."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: yaml.Node) -> int:
        if id(node) in open_nodes:
            return MOST_NODES + 1
        if id(node) in sizes:
            return sizes[id(node)]
        open_nodes.add(id(node))
        total = 1
        if isinstance(node, yaml.SequenceNode):
            total += sum(size(child) for child in node.value)
        elif isinstance(node, yaml.MappingNode):
            total += sum(size(key) + size(value) for key, value in node.value)
        open_nodes.discard(id(node))
        sizes[id(node)] = total
        return total

    return size(root)


def _mappings(
    node: yaml.Node, path: str = "", seen: frozenset[int] = frozenset()
) -> Iterator[tuple[yaml.MappingNode, str]]:
    if id(node) in seen:
        return
    seen |= {id(node)}
    if isinstance(node, yaml.MappingNode):
        yield node, path
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else "?"
            yield from _mappings(value, f"{path}, field {name}" if path else str(name), seen)
    elif isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            yield from _mappings(child, f"{path}, item {index + 1}", seen)


def _key_problems(root: yaml.MappingNode, file: str) -> list[Problem]:
    problems = []
    for mapping, path in _mappings(root):
        first: dict[str, int] = {}
        for key, _ in mapping.value:
            line = key.start_mark.line + 1
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                written = key.value[:40] if isinstance(key, yaml.ScalarNode) else "a list or structure"
                problems.append(
                    Problem(
                        id="Y06",
                        severity="error",
                        message=f'"{written}" cannot be a name',
                        where=path or "answers file",
                        why="YAML reads it as a number, a switch or a structure",
                        todo="write the name of an answer or field",
                        file=file,
                        line=line,
                    )
                )
            elif key.value in first:
                problems.append(
                    Problem(
                        id="Y03",
                        severity="error",
                        message=f'"{key.value[:40]}" is written twice',
                        where=path or key.value[:40],
                        why=f"only the last counts, and line {first[key.value]} is lost without a word",
                        todo="keep one of the two",
                        file=file,
                        line=line,
                    )
                )
            else:
                first[key.value] = line
    return problems


def _unknown(loaded: Mapping[Any, Any], catalog: Mapping[str, Any], answers: Answers) -> list[Problem]:
    problems = []
    known = list(catalog["questions"])
    retired: Mapping[str, str] = catalog.get("retired_answers") or {}
    for name in loaded:
        if not isinstance(name, str) or name in known or name in KEPT_BY_COPIER:
            continue
        shown = name if len(name) <= 40 else name[:39] + "…"
        if name in retired:
            message, todo = f'"{shown}" is no longer asked', retired[name]
        else:
            meant = difflib.get_close_matches(name, known, 1, 0.6)
            message = f'"{shown}" is not the id of an answer'
            todo = (
                f'did you mean "{meant[0]}"?'
                if meant
                else "delete the line (`santescaffold explain ID` explains an id)"
            )
        problems.append(
            Problem(
                id="Y07",
                severity="error",
                message=message,
                where=shown,
                why="it would be ignored without a word",
                todo=todo,
                file=answers.file,
                line=answers.line(name),
            )
        )
    return problems
