"""Where the commands of the documentation run: the project at its public address, and the repository of the tutorial."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.docs.pages import redirected, shell
from tests.support import GIT_ENVIRONMENT, ROOT, commit, git


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as a clone has it, released as v1.0.0. Never written to."""
    path = tmp_path_factory.mktemp("documentation") / "project"
    for name in git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0"):
        source = ROOT / name
        if source.is_file() and (not name.startswith("tests/") or name.startswith("tests/plans/valid/")):
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, path / name)
    git(path, "init", "--quiet", "--initial-branch", "main")
    commit(path, "v1.0.0")
    git(path, "tag", "v1.0.0")
    return path


@pytest.fixture(scope="session")
def surroundings(project: Path) -> dict[str, str]:
    """An environment in which the project's public address leads to a release of the working tree."""
    settings = project.parent / "settings.yml"
    settings.write_text("{}\n", encoding="utf-8")
    return {
        **GIT_ENVIRONMENT,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(project.parent),
        "COPIER_SETTINGS_PATH": str(settings),
        **redirected(project),
        "COLUMNS": "120",
    }


@pytest.fixture(scope="session")
def demoland(surroundings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Demoland's deployment repository, as a reader has it after the tutorial's first half. Copied, never written to."""
    home = tmp_path_factory.mktemp("demoland")
    answers = ROOT / "tests/plans/valid/demoland-mpi.yml"
    shell(f"santescaffold new registry --answers {answers}", home, surroundings)
    return home / "registry"
