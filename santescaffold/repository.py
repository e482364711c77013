"""A deployment repository as people and machines left it: the plan, the records, the answers.

Reading verbs must answer at once, so a section of plan.yml is read only when somebody looks at it.
"""

from __future__ import annotations

import subprocess
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from santescaffold.records import load_yaml, plan_section, plan_sections, read_records


class NoRepository(Exception):
    """The directory is no deployment repository; the message follows the error grammar."""


class Plan(dict[str, Any]):
    """The resolved plan; a section is read when it is asked for."""

    def __init__(self, text: str) -> None:
        """Take the text of a plan.yml."""
        super().__init__()
        self._unread = plan_sections(text)

    def __missing__(self, name: str) -> Any:
        """Read a section."""
        value = plan_section(self._unread[name])
        self[name] = value
        return value

    def __contains__(self, name: object) -> bool:
        """Whether the plan has such a section."""
        return name in self._unread


class Repository:
    """A deployment repository in a directory."""

    def __init__(self, path: Path) -> None:
        """Take the repository at ``path``; raises NoRepository when there is none."""
        self.path = path.resolve()
        if not (self.path / "plan.yml").is_file():
            raise NoRepository(
                f"{path} is no deployment repository; it has no plan.yml; there is nothing to read; "
                "change into one, name its directory, or make one with `santescaffold new`"
            )

    @cached_property
    def plan(self) -> Plan:
        """The resolved plan."""
        try:
            plan = Plan((self.path / "plan.yml").read_text(encoding="utf-8"))
            if plan["schema"] != 1:
                raise NoRepository(
                    f"the plan has schema {plan['schema']}; {self.path / 'plan.yml'}; this version reads schema 1; "
                    "install the santescaffold that goes with the template"
                )
            for name in ("project", "environments", "phases", "gates", "tasks"):
                plan[name]
        except (KeyError, ValueError, OSError) as error:
            raise NoRepository(
                f"the plan cannot be read ({error}); {self.path / 'plan.yml'}; every verb rests on it; "
                "restore it with `git checkout plan.yml`, or update the repository to a newer template version"
            ) from error
        except Exception as error:
            if isinstance(error, NoRepository):
                raise
            raise NoRepository(
                f"the plan is no YAML; {self.path / 'plan.yml'}; every verb rests on it; "
                "restore it with `git checkout plan.yml`"
            ) from error
        return plan

    @cached_property
    def records(self) -> dict[str, dict[str, Any]]:
        """Every file below records/, by path."""
        return read_records(str(self.path))

    @cached_property
    def environments(self) -> list[str]:
        """The names of the plan's environments."""
        return [environment["name"] for environment in self.plan["environments"]]

    @cached_property
    def tasks(self) -> dict[str, dict[str, Any]]:
        """The tasks that apply, by id."""
        return {task["id"]: task for task in self.plan["tasks"]}

    @cached_property
    def answers(self) -> dict[str, Any]:
        """The stored answers, with what Copier keeps beside them."""
        path = self.path / ".copier-answers.yml"
        if not path.is_file():
            return {}
        try:
            loaded = load_yaml(path.read_text(encoding="utf-8"), typed=True)
        except (ValueError, yaml.YAMLError) as error:
            raise NoRepository(
                f"the stored answers are no YAML; {path}; Copier and every check of the answers rest on them; "
                "restore them with `git checkout .copier-answers.yml`"
            ) from error
        return loaded if isinstance(loaded, dict) else {}

    def git(self, *arguments: str) -> str | None:
        """Return what git prints, None when it fails or the directory is under no version control."""
        try:
            done = subprocess.run(
                ["git", "-C", str(self.path), *arguments], check=False, capture_output=True, text=True, errors="replace"
            )
        except OSError:
            return None
        return done.stdout if done.returncode == 0 else None
