"""Plain copy and update through pytest-copier. It always trusts, so that no trust is needed is shown elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support import commit, git, load_plan, tree


def test_copy_writes_the_repository(copier: Any, tmp_path: Path) -> None:
    project = copier.copy(tmp_path / "repository", **load_plan("demoland-mpi"))
    assert (project.path / "plan.yml").is_file()
    assert project.answers["project_name"] == "Demoland Client Registry"


def test_update_without_change_changes_nothing(copier: Any, tmp_path: Path) -> None:
    project = copier.copy(tmp_path / "repository", **load_plan("facility-registry"))
    git(project.path, "init", "--quiet")
    commit(project.path)
    before = tree(project.path)
    project.update()
    assert tree(project.path) == before


def test_update_with_another_answer_equals_a_fresh_copy(copier: Any, tmp_path: Path) -> None:
    answers = load_plan("facility-registry")
    project = copier.copy(tmp_path / "repository", **answers)
    git(project.path, "init", "--quiet")
    commit(project.path)
    changed = {**answers, "environments": ["production"], "web_portal": False}
    copier.update(project.path, **changed)
    fresh = copier.copy(tmp_path / "fresh", **changed)
    assert tree(project.path) == tree(fresh.path)
