"""Fixtures of all tests: a template without Git, a released template, Copier that is never trusted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import copier
import pytest

from tests.support import GIT_ENVIRONMENT, ROOT, commit, git
from tools.render import snapshot


@pytest.fixture(autouse=True)
def _clean_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nobody's own Git configuration, trust list or answer defaults reach a test."""
    settings = tmp_path_factory.mktemp("settings") / "settings.yml"
    settings.write_text("{}\n", encoding="utf-8")
    monkeypatch.setenv("COPIER_SETTINGS_PATH", str(settings))
    for key, value in GIT_ENVIRONMENT.items():
        if key.startswith("GIT_"):
            monkeypatch.setenv(key, value)


@pytest.fixture(scope="session")
def template_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as a plain directory without Git and without static roles: the fastest source. Never written to."""
    return snapshot(tmp_path_factory.mktemp("plain") / "template", ROOT, roles=False)


@pytest.fixture(scope="session")
def whole_template_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as a plain directory without Git, complete. Never written to."""
    return snapshot(tmp_path_factory.mktemp("whole") / "template", ROOT)


@pytest.fixture
def copy(template_dir: Path, tmp_path: Path) -> Callable[..., Path]:
    """A function that copies answers to a new directory with Copier, without trust, and returns the directory."""
    counter = iter(range(10_000))

    def run(answers: dict[str, Any], destination: Path | None = None) -> Path:
        target = destination or tmp_path / f"repository-{next(counter)}"
        copier.run_copy(str(template_dir), target, data=answers, defaults=True, quiet=True, unsafe=False)
        return target

    return run


@dataclass
class ReleasedTemplate:
    """A Git repository that holds the template under version tags, to copy and to update from."""

    path: Path

    def release(self, tag: str, files: dict[str, str] | None = None) -> None:
        """Write ``files`` into the template, commit and tag."""
        for name, text in (files or {}).items():
            target = self.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        commit(self.path, tag)
        git(self.path, "tag", tag)

    def copy(self, destination: Path, answers: dict[str, Any]) -> Path:
        """Copy at the newest tag and make the first commit, as the README tells."""
        copier.run_copy(str(self.path), destination, data=answers, defaults=True, quiet=True, unsafe=False)
        git(destination, "init", "--quiet", "--initial-branch", "main")
        commit(destination, "Deployment repository as planned")
        return destination

    def update(
        self, repository: Path, answers: dict[str, Any] | None = None, ref: str | None = ":current:"
    ) -> list[str]:
        """Update as documented (``-c 100``) and return the paths with conflicts, since Copier exits 0 on them."""
        wanted = copier.VcsRef.CURRENT if ref == ":current:" else ref
        copier.run_update(
            repository, data=answers or {}, vcs_ref=wanted, defaults=True, overwrite=True, quiet=True, unsafe=False, context_lines=100,
        )  # fmt: skip
        return git(repository, "diff", "--name-only", "--diff-filter=U").split()


@pytest.fixture
def released(tmp_path: Path) -> ReleasedTemplate:
    """The working tree's template, without its static roles, released as v1.0.0."""
    path = snapshot(tmp_path / "released-template", ROOT, roles=False)
    git(path, "init", "--quiet", "--initial-branch", "main")
    template = ReleasedTemplate(path)
    template.release("v1.0.0")
    return template
