"""The answers file behind the form: opened once, written whole or not at all, never over somebody else's change."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from santescaffold import answers as answers_files
from santescaffold.conditions import applies
from santescaffold.problems import Problem, errors
from santescaffold.template import Template

LEAST_PRIVATE = 0o600
"""Mode of a new answers file: it names people and machines."""


class CannotOpen(Exception):
    """The file cannot be filled in by the form; ``problems`` says why."""

    def __init__(self, problems: list[Problem]) -> None:
        """Keep what is to be said."""
        super().__init__(problems[0].sentence)
        self.problems = problems


class Changed(Exception):
    """The file is no longer what the form has read: somebody else wrote to it."""


class _Dumper(yaml.SafeDumper):
    """Writes lists indented below their key, as people do, and no anchors."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indent lists too."""
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        """Write equal values out instead of naming one."""
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value and not any(line != line.rstrip() for line in value.split("\n")) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(values: Mapping[str, Any]) -> str:
    """Return answers as the text of an answers file."""
    if not values:
        return "{}\n"
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


class Session:
    """One answers file, filled in against one template."""

    def __init__(self, file: Path, template: Template) -> None:
        """Open ``file`` or begin a new one; raises CannotOpen when writing it back would lose something."""
        self.file = file
        self.template = template
        self.values: dict[str, Any] = {}
        self._others: dict[str, Any] = {}
        self._kept = False
        if file.name.startswith(".copier-answers"):
            raise CannotOpen([_problem(
                "the file belongs to a deployment repository", str(file),
                "Copier alone may write it, and edits in it are misread at the next update",
                "answer into a file of its own, and carry it over with `santescaffold update`",
            )])  # fmt: skip
        if file.exists():
            self._open()
        elif not file.absolute().parent.is_dir():
            raise CannotOpen([_problem(
                "the directory of the answers file does not exist", str(file.parent),
                "nothing could be saved", "create it first, or name another file",
            )])  # fmt: skip

    def _open(self) -> None:
        if self.file.is_file() and self.file.stat().st_size == 0:
            return
        read = answers_files.read(self.file, self.template)
        unreadable = [problem for problem in errors(read.problems) if problem.id != "Y07"]
        if unreadable:
            raise CannotOpen(unreadable)
        self.values = read.values
        loaded = yaml.load(self.file.read_text(encoding="utf-8-sig"), Loader=answers_files._Loader)
        self._others = {name: value for name, value in loaded.items() if name not in self.values}

    @property
    def others(self) -> list[str]:
        """What stands in the file and is no answer; kept when it is written."""
        return [name for name in self._others if name not in answers_files.KEPT_BY_COPIER]

    @property
    def revision(self) -> str:
        """A digest of the file as it is on disk; empty while there is none."""
        try:
            return hashlib.sha256(self.file.read_bytes()).hexdigest()
        except FileNotFoundError:
            return ""

    def ordered(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answers in the order they are asked, and only answers."""
        return {name: values[name] for name in self.template.catalog["questions"] if name in values}

    def save(self, values: Mapping[str, Any], revision: str) -> str:
        """Write the answers at once or not at all and return the new revision; raises Changed and OSError."""
        if revision != self.revision:
            raise Changed
        self._keep_comments()
        self.values = self.ordered(values)
        target = self.file.resolve()
        mode = target.stat().st_mode & 0o777 if target.exists() else LEAST_PRIVATE
        text = to_yaml({**self.values, **self._others})
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).chmod(mode)
            Path(name).replace(target)
        finally:
            with contextlib.suppress(FileNotFoundError):
                Path(name).unlink()
        return self.revision

    def _keep_comments(self) -> None:
        """Before a file with comments is written for the first time, keep a copy: the form writes none."""
        if self._kept or not self.file.exists():
            return
        self._kept = True
        text = self.file.read_text(encoding="utf-8")
        if any(line.lstrip().startswith("#") or " #" in line for line in text.splitlines()):
            copy = self.file.with_name(f"{self.file.name}.before-interview")
            if not copy.exists():
                copy.write_text(text, encoding="utf-8")
                copy.chmod(self.file.stat().st_mode & 0o777)

    def check(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``findings``, ``effective`` answers, and which questions are ``applicable``."""
        template = self.template
        given = self.ordered(values)
        sound = self._sound(given)
        effective = template.effective(sound)
        read = answers_files.Answers(file=str(self.file), values=given)
        findings = []
        for finding in template.findings(given, effective):
            problem = answers_files.problem_of(finding, read)
            findings.append({**problem.as_dict(), "item": finding.get("item"), "field": finding.get("field")})
        applicable = [
            name
            for name, question in template.catalog["questions"].items()
            if applies(question.get("applies_when", "always"), effective)
        ]
        return {"findings": findings, "effective": effective, "applicable": applicable}

    def _sound(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return the answers without those that are wrong by themselves: the rest can still be planned with."""
        template = self.template
        single = json.loads(template.call("checks", "problems_raw", template.catalog, template.with_defaults(given)))
        wrong = {name for finding in single for name in finding["answers"]}
        return {name: value for name, value in given.items() if name not in wrong}

    def plan(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the plan becomes: a summary of features, hosts, tasks, certificates and warnings.

        Answers that are wrong by themselves are left out, so that there is something to see from the first answer on.
        """
        plan = self.template.resolve(self._sound(self.ordered(values)))
        tasks = plan["tasks"]
        return {
            "roles": [role["name"] for role in plan["roles"]],
            "release": {"line": plan["release"]["line"], "runtime": plan["release"]["runtime"]},
            "features": [{"id": feature["id"], "why": feature["why"]} for feature in plan["features"]],
            "hosts": [
                {key: host[key] for key in ("environment", "name", "groups", "placeholder")} for host in plan["hosts"]
            ],
            "gateways": plan["gateway_count"],
            "databases": len(plan["databases"]),
            "certificates": len(plan["certificates"]),
            "tasks": {
                "all": len(tasks),
                "gates": sum(bool(task["gate"]) for task in tasks),
                "phases": [
                    {"name": phase["name"], "tasks": sum(task["phase"] == phase["id"] for task in tasks)}
                    for phase in plan["phases"]
                ],
            },
            "warnings": [{key: str(w.get(key) or "") for key in ("id", "message", "todo")} for w in plan["warnings"]],
        }

    def take_over(self, text: str) -> tuple[dict[str, Any], list[Problem]]:
        """Return the answers of an answers file's ``text``, and what was wrong with it; secrets are left out."""
        with tempfile.TemporaryDirectory(prefix="santescaffold-") as scratch:
            path = Path(scratch) / "imported.yml"
            path.write_text(text, encoding="utf-8")
            read = answers_files.read(path, self.template)
        problems = list(read.problems)
        for name, value in read.values.items():
            secrets = self.template.catalog["questions"][name].get("secrets") or {}
            for entry in value if isinstance(value, list) else [value]:
                for field in secrets:
                    if isinstance(entry, dict) and entry.pop(field, None) is not None:
                        problems.append(_problem(
                            "a secret was left out", f"{name}, field {field}", "answers are committed to Git",
                            f"put it into the vault of the deployment repository ({secrets[field]})",
                        ))  # fmt: skip
        return read.values, problems


def _problem(message: str, where: str, why: str, todo: str) -> Problem:
    return Problem(id="I01", severity="error", message=message, where=where, why=why, todo=todo)
