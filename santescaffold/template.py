"""The template as seen from Python: where it is, what its catalogue says, and its macros, run outside Copier.

The rules that shape a deployment repository live in the template's macros, versioned with it. This module runs the very same
macros in the very same Jinja environment Copier builds, so that a check or a preview can never disagree with a copy.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

PUBLIC_URL = "https://github.com/santescaffold/santescaffold"
"""Where ``santescaffold new`` takes the template from unless told otherwise."""


class TemplateError(Exception):
    """The template cannot be had or is not one of ours; the message follows the error grammar."""


class Template:
    """A template of this project in a directory of the file system."""

    def __init__(self, path: Path) -> None:
        """Take the template at ``path``; raises TemplateError when there is none."""
        self.path = path.resolve()
        if not (self.path / "copier.yml").is_file() or not (self.path / "catalog" / "catalog.json").is_file():
            raise TemplateError(
                f"{path} is not a santescaffold template; it has no copier.yml with a catalogue beside it; "
                "nothing can be checked or rendered from it; give the project's URL or a clone of it with --template"
            )

    @cached_property
    def catalog(self) -> dict[str, Any]:
        """The compiled catalogue: what is true of SanteDB, and the questions."""
        loaded: dict[str, Any] = json.loads((self.path / "catalog" / "catalog.json").read_text(encoding="utf-8"))
        return loaded

    @cached_property
    def environment(self) -> SandboxedEnvironment:
        """A Jinja environment with the settings of copier.yml and the filters Copier adds."""
        from jinja2 import FileSystemLoader, StrictUndefined  # here, because verbs that only read render nothing
        from jinja2.sandbox import SandboxedEnvironment

        environment = SandboxedEnvironment(
            loader=FileSystemLoader(self.path),
            extensions=["jinja2_ansible_filters.AnsibleCoreFiltersExtension"],
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            auto_reload=False,
            optimized=False,  # as in copier.yml: constants are few, and looking for them costs
        )
        to_json = environment.filters["to_json"]
        environment.filters["to_json"] = lambda value, **options: to_json(value, **{"default": str, **options})
        return environment

    def call(self, file: str, macro: str, *arguments: Any) -> str:
        """Return what ``macro`` of ``macros/<file>.jinja`` renders for ``arguments``, stripped."""
        module = self.environment.get_template(f"macros/{file}.jinja").module
        return str(getattr(module, macro)(*arguments)).strip()

    def effective(self, raw: dict[str, Any]) -> dict[str, Any]:
        """Return {answer id: value} with every blank of ``raw`` filled as the plan fills it."""
        values: dict[str, Any] = json.loads(self.call("answers", "effective", self.catalog, self.with_defaults(raw)))
        return values

    def findings(self, raw: dict[str, Any], effective: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Return every problem of the answers ``raw``: errors and warnings, as the template's checks see them."""
        complete = self.with_defaults(raw)
        found: list[dict[str, Any]] = json.loads(
            self.call(
                "checks",
                "problems",
                self.catalog,
                complete,
                effective if effective is not None else self.effective(raw),
            )
        )
        return found

    def resolve(self, raw: dict[str, Any]) -> dict[str, Any]:
        """Return the resolved plan (schema 1, and what the files need beside it) for valid answers ``raw``."""
        effective = self.effective(raw)
        findings = self.findings(raw, effective)
        plan: dict[str, Any] = json.loads(
            self.call("plan", "resolve", self.catalog, effective, findings, self.with_defaults(raw))
        )
        return plan

    def with_defaults(self, raw: dict[str, Any]) -> dict[str, Any]:
        """Return ``raw`` with the constant default of every question it leaves out (what Copier would store)."""
        complete = {name: question.get("default") for name, question in self.catalog["questions"].items()}
        complete.update(raw)
        for name, question in self.catalog["questions"].items():
            value = complete[name]
            if question.get("form") == "multi" and isinstance(value, list) and "item" not in question:
                # Copier puts the values of a multiselect into the order of its choices; what is no choice stays for the checks to name.
                order = {choice: place for place, choice in enumerate(question.get("allowed") or [])}
                complete[name] = sorted(
                    value, key=lambda item: order.get(item, len(order)) if isinstance(item, str) else len(order)
                )
        return complete


def located(location: str) -> str:
    """Return where a template is as git and Copier take it: a clone by its absolute path, all else by its URL.

    A bare clone has no files to take as they lie there: it is cloned like any other address.
    """
    path = Path(location).expanduser()
    if not path.is_dir():
        return location.removeprefix("git+")
    bare = not (path / ".git").exists() and (path / "HEAD").is_file() and (path / "objects").is_dir()
    return path.resolve().as_uri() if bare else str(path.resolve())


@contextlib.contextmanager
def obtain(location: str, ref: str | None = None) -> Iterator[Template]:
    """Yield the template at ``location`` (a directory, or anything ``git clone`` takes) at ``ref``.

    A directory is used as it is when no ref is asked for; a URL is cloned to a temporary place at its newest tag, as Copier
    does. Raises TemplateError when it cannot be had.
    """
    location = located(location)
    if Path(location).is_dir() and ref is None:
        yield Template(Path(location))
        return
    with tempfile.TemporaryDirectory(prefix="santescaffold-") as scratch:
        clone = Path(scratch) / "template"
        _git("clone", "--quiet", location, str(clone), place=location)
        wanted = ref or newest_tag(clone)
        if wanted:
            _git("-C", str(clone), "checkout", "--quiet", wanted, place=location)
        yield Template(clone)


def newest_tag(repository: Path) -> str | None:
    """Return the newest version tag of a Git repository, or None when it has none."""
    listed = subprocess.run(
        ["git", "-C", str(repository), "tag", "--list", "v*", "--sort=-version:refname"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    tags = listed.stdout.split()
    return tags[0] if tags else None


def _git(*arguments: str, place: str) -> None:
    done = subprocess.run(["git", *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["git said nothing"])[-1]
        raise TemplateError(
            f"the template cannot be had; {place}; git says: {last}; "
            "check the address and the link, or take a clone along and name its directory with --template"
        )
