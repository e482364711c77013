"""What is wrong, and the one way it is said: *what is wrong; where; why it matters; what to do*."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import IO, Any

SEVERITIES = ("error", "warn", "people", "note")
"""Most serious first. An error stops; a warn and what people must decide become lines of a checklist."""

_WORDS = {"error": "error", "warn": "warning", "people": "to decide", "note": "note"}
_STYLES = {"error": "bold red", "warn": "yellow", "people": "cyan", "note": "dim"}


@dataclass(frozen=True)
class Problem:
    """One finding about a file or an answer."""

    id: str
    severity: str
    message: str
    where: str
    why: str
    todo: str
    answers: tuple[str, ...] = ()
    file: str | None = None
    line: int | None = None
    column: int | None = None
    phase: str | None = None

    @property
    def sentence(self) -> str:
        """The finding in the error grammar, on one line."""
        return "; ".join(_flat(part) for part in (self.message, self.where, self.why, self.todo) if part)

    @property
    def place(self) -> str:
        """File, line and column as editors understand them, as far as they are known."""
        return ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)

    def plain(self) -> str:
        """The whole finding on one line that is never folded: place, severity, id, sentence."""
        place = f"{self.place}: " if self.place else ""
        return f"{place}{_WORDS[self.severity]} {self.id}: {self.sentence}"

    def as_dict(self) -> dict[str, Any]:
        """The finding as JSON data."""
        return {**asdict(self), "answers": list(self.answers)}


def worst_first(problems: Iterable[Problem]) -> list[Problem]:
    """Return the problems by severity, and within it by line."""
    return sorted(problems, key=lambda problem: (SEVERITIES.index(problem.severity), problem.line or 0, problem.id))


def errors(problems: Iterable[Problem]) -> list[Problem]:
    """Return the problems that stop a copy."""
    return [problem for problem in problems if problem.severity == "error"]


def summary(problems: Iterable[Problem]) -> str:
    """Return how many problems of each severity there are, such as "2 errors, 1 warning"; "no problems" for none."""
    found = list(problems)
    counts = {severity: sum(problem.severity == severity for problem in found) for severity in SEVERITIES}
    parts = []
    for severity, count in counts.items():
        if count:
            plural = "s" if count > 1 and severity != "people" else ""
            parts.append(f"{count} {_WORDS[severity]}{plural}")
    return ", ".join(parts) or "no problems"


def print_problems(problems: Iterable[Problem], stream: IO[str] | None = None) -> None:
    """Print findings: readable blocks on a terminal; off a terminal one finding a line, never folded."""
    target = stream or sys.stdout
    found = worst_first(problems)
    if not found:
        return
    if not target.isatty():
        for problem in found:
            print(problem.plain(), file=target)
        return
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    console = Console(file=target, highlight=False)
    for problem in found:
        head = Text.assemble(
            (f"{_WORDS[problem.severity]} {problem.id}", _STYLES[problem.severity]),
            "  ",
            (_flat(problem.message), "bold"),
        )
        console.print(head)
        where = f"{problem.where} ({problem.place})" if problem.place else problem.where
        for label, text in (("where", where), ("why", problem.why), ("do", problem.todo)):
            if text:
                console.print(Padding(Text.assemble((f"{label:<6}", "dim"), _flat(text)), (0, 0, 0, 2)))
        console.print()


def print_json(problems: Iterable[Problem], **more: Any) -> None:
    """Print findings as one JSON object on standard output, with ``ok`` and whatever else the verb has to say."""
    found = worst_first(problems)
    print(json.dumps({**more, "ok": not errors(found), "problems": [problem.as_dict() for problem in found]}, indent=2))


def _flat(text: str) -> str:
    return " ".join(text.split())
