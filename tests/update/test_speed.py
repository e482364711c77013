"""What Copier is spared changes nothing of what it writes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import copier
import copier._template
import pytest

from santescaffold.speed import work_done_once
from tests.conftest import ReleasedTemplate
from tests.support import commit, git, load_plan
from tests.update.small_template import make_repository, make_template, state


def compared(repository: Path, template: ReleasedTemplate, answers: dict[str, Any], ref: str | None) -> dict[str, Any]:
    """Update a repository and a copy of it, spared and not; return the one state both are in."""
    plain = repository.with_name("plain")
    shutil.copytree(repository, plain, symlinks=True)
    conflicts = template.update(plain, answers, ref)
    with work_done_once():
        assert template.update(repository, answers, ref) == conflicts
    found = state(repository)
    assert found == state(plain)
    assert git(repository, "status", "--porcelain") == git(plain, "status", "--porcelain")
    return found


@pytest.mark.slow
def test_another_version_other_answers_and_a_conflict(released: ReleasedTemplate, tmp_path: Path) -> None:
    repository = released.copy(tmp_path / "repository", load_plan("facility-registry"))
    readme = repository / "README.md"
    readme.write_text(readme.read_text(encoding="utf-8").replace("\n", " (ours)\n", 1), encoding="utf-8")
    commit(repository)
    page = released.path / "template/docs/raci.md.jinja"
    released.release("v1.1.0", {"template/docs/raci.md.jinja": page.read_text(encoding="utf-8") + "\nNew.\n"})
    before = state(repository)["files"]
    after = compared(repository, released, {"project_name": "Another Registry", "web_portal": False}, None)["files"]
    assert after["README.md"][0].count(b"<<<<<<<") == 1
    assert after["docs/raci.md"] != before["docs/raci.md"]
    assert set(before) - set(after), "turning the portal off removes files"


@pytest.mark.parametrize("heeded", ["true", "false"])
def test_the_executable_bit(heeded: str, tmp_path: Path) -> None:
    template = ReleasedTemplate(make_template(tmp_path / "template"))
    repository = make_repository(tmp_path / "repository", template.path)
    git(repository, "config", "core.fileMode", heeded)
    (template.path / "template/playbooks/site.yml").chmod(0o755)
    template.release("v1.1.0", {"template/playbooks/icdr.yml": "---\n# new\n"})
    found = compared(repository, template, {}, None)
    staged = next(line for line in found["index"].splitlines() if line.endswith("\tplaybooks/site.yml"))
    assert found["files"]["playbooks/site.yml"][1] & 0o111
    assert staged.startswith("100644" if heeded == "true" else "100755")


def test_each_version_is_cloned_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    template = ReleasedTemplate(make_template(tmp_path / "template"))
    repository = make_repository(tmp_path / "repository", template.path)
    template.release("v1.1.0", {"template/playbooks/icdr.yml": "---\n# new\n"})
    real, asked = vars(copier._template)["clone"], []

    def clone(url: str, ref: str = "HEAD", location: str | None = None) -> str:
        asked.append(ref)
        return str(real(url, ref, location))

    monkeypatch.setattr("copier._template.clone", clone)
    with work_done_once():
        template.update(repository, {"servers": 3}, None)
    assert sorted(asked) == ["v1.0.0", "v1.1.0"]
    assert vars(copier._template)["clone"] is clone, "Copier is as before"
    assert (repository / "many/2.txt").is_file()


def test_a_copier_with_other_insides_is_slower_not_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    template = ReleasedTemplate(make_template(tmp_path / "template"))
    repository = make_repository(tmp_path / "repository", template.path)
    template.release("v1.1.0", {"template/playbooks/icdr.yml": "---\n# new\n"})

    def moved() -> None:
        raise AttributeError("type object 'Worker' has no attribute '_answers_to_remember'")

    monkeypatch.setattr("santescaffold.speed._answers_gathered_once", moved)
    compared(repository, template, {"servers": 3}, None)
    assert (repository / "many/2.txt").is_file()
