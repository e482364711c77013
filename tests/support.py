"""What several tests share: plans, rendering with Copier and without it, Git in a clean environment."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Template as JinjaTemplate

from santescaffold.template import Template

ROOT = Path(__file__).resolve().parents[1]
PLANS = ROOT / "tests" / "plans" / "valid"
PLAN_NAMES = tuple(path.stem for path in sorted(PLANS.glob("*.yml")))

GIT_ENVIRONMENT = {
    **{key: value for key, value in os.environ.items() if not key.startswith("GIT_")},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    **{
        f"GIT_{role}_{key}": value
        for role in ("AUTHOR", "COMMITTER")
        for key, value in (("NAME", "Test"), ("EMAIL", "test@example.org"))
    },
}

# The five answers that have no default: with them alone, a plan is complete.
MINIMUM: dict[str, Any] = {
    "project_name": "Test Registry",
    "organization": "Ministry of Tests",
    "jurisdiction": "Testland",
    "country_code": "XT",
    "vision_statement": "Everything is tested before anybody depends on it.",
}


@cache
def _plan_text(name: str) -> str:
    return (PLANS / f"{name}.yml").read_text(encoding="utf-8")


def load_plan(name: str) -> dict[str, Any]:
    """Return the answers of one of the named plans."""
    answers: dict[str, Any] = yaml.load(_plan_text(name), Loader=yaml.CSafeLoader)
    return answers


def git(directory: Path, *arguments: str) -> str:
    """Run git without any user's configuration; raises CalledProcessError."""
    done = subprocess.run(
        ("git", *arguments), cwd=directory, env=GIT_ENVIRONMENT, check=False, text=True, capture_output=True
    )
    if done.returncode:
        raise AssertionError(f"git {' '.join(arguments)}: {done.stdout}{done.stderr}")
    return done.stdout


def commit(directory: Path, message: str = "change") -> None:
    """Commit everything in ``directory``, also when nothing changed."""
    git(directory, "add", "--all")
    git(directory, "commit", "--quiet", "--allow-empty", "--message", message)


def tree(directory: Path) -> dict[str, str]:
    """Return {relative path: text} of every file below ``directory`` but Git's own."""
    return {
        path.relative_to(directory).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(directory.rglob("*"))
        if path.is_file() and ".git" not in path.relative_to(directory).parts
    }


_YIELD = re.compile(r"\{%-? *yield (\w+) from (.+?) *-?%\}(.*?)\{%-? *endyield *-?%\}")


class Renderer:
    """Renders the files that depend on the plan, in process and without Copier, several times faster.

    That it gives byte for byte what Copier gives is itself a test (tests/render/test_golden.py).
    """

    def __init__(self, root: Path = ROOT) -> None:
        self.template = Template(root)
        self.files = root / "template"
        self.sources = [path.relative_to(self.files).as_posix() for path in sorted(self.files.rglob("*.jinja"))]
        self._compiled: dict[str, JinjaTemplate] = {}
        environment = self.template.environment
        environment.globals["pathjoin"] = lambda *parts: "/".join(parts)

    def _compile(self, source: str) -> JinjaTemplate:
        if source not in self._compiled:
            self._compiled[source] = self.template.environment.from_string(source)
        return self._compiled[source]

    def _paths(self, source: str, context: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (rendered path, loop variables) of one template file; a part that renders empty skips the file."""
        paths: list[tuple[list[str], dict[str, Any]]] = [([], {})]
        for part in source.removesuffix(".jinja").split("/"):
            found = _YIELD.search(part)
            grown: list[tuple[list[str], dict[str, Any]]] = []
            for parts, variables in paths:
                if found is None:
                    grown.append(([*parts, self._compile(part).render(**context, **variables)], variables))
                    continue
                name, expression, _ = found.groups()
                inner = part[: found.start()] + found.group(3) + part[found.end() :]
                values = self.template.environment.compile_expression(expression)(**context, **variables)
                for value in values or []:
                    loop = {**variables, name: value}
                    grown.append(([*parts, self._compile(inner).render(**context, **loop)], loop))
            paths = grown
        for parts, variables in paths:
            if all(parts):
                yield "/".join(parts), variables

    def render(self, answers: dict[str, Any], only: Iterable[str] | None = None) -> dict[str, str]:
        """Return {path: text} of all files that depend on the plan; raises on an undefined name."""
        raw = self.template.with_defaults(answers)
        effective = self.template.effective(answers)
        findings = self.template.findings(answers, effective)
        errors = [finding for finding in findings if finding["severity"] == "error"]
        if errors:
            raise AssertionError(f"not a valid plan: {errors}")
        plan = self.template.resolve(answers)
        context = {
            "plan": plan,
            "catalog": self.template.catalog,
            "effective": effective,
            "findings": findings,
            "_copier_answers": raw,
        }
        rendered: dict[str, str] = {}
        for source in only or self.sources:
            if "_copier_conf" in source:
                continue
            body: JinjaTemplate | None = None
            for path, variables in self._paths(source, context):
                if body is None:
                    body = self.template.environment.get_template(f"template/{source}")
                assert path not in rendered, f"two templates render {path}"
                rendered[path] = body.render(**context, **variables)
        return rendered


@cache
def renderer() -> Renderer:
    """The renderer of the working tree; one for the whole process."""
    return Renderer()


def pairs(items: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield every two of ``items`` once."""
    return itertools.combinations(items, 2)
