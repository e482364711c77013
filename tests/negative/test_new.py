"""`santescaffold new` makes a committed repository, or leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from santescaffold import cli
from tests.support import MINIMUM, ROOT, commit, git


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    path = tmp_path / "answers.yml"
    path.write_text(yaml.safe_dump(MINIMUM), encoding="utf-8")
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = tmp_path / "place"
    path.mkdir()
    return path


def run(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(cli.main, ["new", *map(str, arguments)])
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_a_valid_plan_becomes_a_committed_repository(
    answers: Path, place: Path, template_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    result = run("demo", "--answers", answers, "--template", template_dir)
    assert result.exit_code == 0, result.output
    assert (place / "demo" / "plan.yml").is_file()
    assert git(place / "demo", "status", "--porcelain") == ""
    assert len(git(place / "demo", "log", "--oneline").splitlines()) == 1
    assert [path.name for path in place.iterdir()] == ["demo"]


def test_a_clone_is_used_as_it_lies_there_and_remembered_by_its_absolute_path(
    answers: Path, place: Path, released: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = released.path / "macros" / "message-before-copy.jinja"
    message.write_text(message.read_text(encoding="utf-8") + "Changed, not committed.\n", encoding="utf-8")
    monkeypatch.chdir(released.path.parent)
    result = run(place / "demo", "--answers", answers, "--template", released.path.name)
    assert result.exit_code == 0, result.output
    kept = yaml.safe_load((place / "demo" / ".copier-answers.yml").read_text(encoding="utf-8"))
    assert kept["_src_path"] == str(released.path)
    assert kept["_commit"]
    assert "warning R08: the template has changes that are not committed, and they were used" in result.output


def test_a_clean_clone_is_taken_without_a_word(answers: Path, place: Path, released: Any) -> None:
    result = run(place / "demo", "--answers", answers, "--template", released.path)
    assert result.exit_code == 0, result.output
    assert "R08" not in result.output


def test_a_bare_clone_is_cloned_like_any_address(answers: Path, place: Path, released: Any) -> None:
    git(place, "clone", "--quiet", "--bare", str(released.path), "bare")
    result = run(place / "demo", "--answers", answers, "--template", place / "bare")
    assert result.exit_code == 0, result.output
    stored = yaml.safe_load((place / "demo" / ".copier-answers.yml").read_text(encoding="utf-8"))
    assert stored["_src_path"].endswith(f"file://{place}/bare")
    assert stored["_commit"] == "v1.0.0"
    done = CliRunner().invoke(cli.main, ["update", str(place / "demo"), "--set", "web_portal=false"])
    assert done.exit_code == 0, done.output
    checked = CliRunner().invoke(cli.main, ["check-answers", str(answers), "--template", str(place / "bare")])
    assert checked.exit_code == 0, checked.output


def test_a_tag_can_be_asked_for(answers: Path, place: Path, released: Any) -> None:
    (released.path / "macros" / "message-after-copy.jinja").write_text("Newer.\n", encoding="utf-8")
    commit(released.path, "newer")
    git(released.path, "tag", "v1.1.0")
    result = run(place / "demo", "--answers", answers, "--template", released.path, "--vcs-ref", "v1.0.0")
    assert result.exit_code == 0, result.output
    kept = yaml.safe_load((place / "demo" / ".copier-answers.yml").read_text(encoding="utf-8"))
    assert kept["_commit"] == "v1.0.0"


def test_a_url_is_taken_at_its_newest_tag(answers: Path, place: Path, released: Any) -> None:
    (released.path / "macros" / "message-after-copy.jinja").write_text("Not released.\n", encoding="utf-8")
    commit(released.path, "not released")
    result = run(place / "demo", "--answers", answers, "--template", released.path.as_uri())
    assert result.exit_code == 0, result.output
    kept = yaml.safe_load((place / "demo" / ".copier-answers.yml").read_text(encoding="utf-8"))
    assert kept["_commit"] == "v1.0.0"
    assert kept["_src_path"] == f"git+{released.path.as_uri()}"


def test_an_existing_empty_directory_is_filled(answers: Path, place: Path, template_dir: Path) -> None:
    (place / "demo").mkdir()
    assert run(place / "demo", "--answers", answers, "--template", template_dir).exit_code == 0
    assert (place / "demo" / "plan.yml").is_file()


def test_a_directory_with_something_in_it_is_left_alone(answers: Path, place: Path) -> None:
    (place / "demo").mkdir()
    (place / "demo" / "notes.txt").write_text("mine", encoding="utf-8")
    result = run(place / "demo", "--answers", answers, "--template", ROOT)
    assert result.exit_code == 2
    assert "error R01: the destination is not empty" in result.stderr
    assert [path.name for path in (place / "demo").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("kind", ["file", "missing parent"])
def test_a_destination_that_cannot_be_is_wrong_use(kind: str, answers: Path, place: Path) -> None:
    (place / "taken").write_text("mine", encoding="utf-8")
    dest = place / "taken" if kind == "file" else place / "a" / "b"
    result = run(dest, "--answers", answers, "--template", ROOT)
    assert result.exit_code == 2
    assert "error R01: " in result.stderr
    assert [path.name for path in place.iterdir()] == ["taken"]


def test_without_answers_somebody_must_be_there_to_be_asked(place: Path) -> None:
    result = run(place / "demo", "--template", ROOT)
    assert result.exit_code == 2
    assert "--answers FILE" in result.stderr


def test_no_such_answers_file_is_wrong_use(place: Path) -> None:
    assert run(place / "demo", "--answers", place / "none.yml", "--template", ROOT).exit_code == 2


def test_a_template_that_cannot_be_had(answers: Path, place: Path) -> None:
    (place / "not-a-template").mkdir()
    result = run(place / "demo", "--answers", answers, "--template", place / "not-a-template")
    assert result.exit_code == 1
    assert "is not a santescaffold template" in result.stderr
    assert not (place / "demo").exists()


def test_git_must_know_who_commits(answers: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.delenv(f"GIT_{role}_NAME")
        monkeypatch.delenv(f"GIT_{role}_EMAIL")
    monkeypatch.delenv("EMAIL", raising=False)
    result = run(place / "demo", "--answers", answers, "--template", ROOT)
    assert result.exit_code == 1
    assert "error R04: git does not know who you are" in result.stderr
    assert "git config --global user.name" in result.stderr
    assert list(place.iterdir()) == []


def test_git_must_be_there(answers: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(place))
    result = run(place / "demo", "--answers", answers, "--template", ROOT)
    assert result.exit_code == 1
    assert "error R03: git is not installed" in result.stderr


@pytest.mark.parametrize("failure", [RuntimeError("a fault\nof the template"), KeyboardInterrupt()])
def test_what_stops_copier_leaves_nothing_and_no_traceback(
    failure: BaseException, answers: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_copy(_source: str, made: Path, **_options: Any) -> None:
        made.mkdir()
        (made / "half").write_text("half", encoding="utf-8")
        raise failure

    monkeypatch.setattr("copier.run_copy", run_copy)
    result = run(place / "demo", "--answers", answers, "--template", ROOT)
    assert result.exit_code == 1
    said = (
        "error R05: Copier stopped: a fault / of the template"
        if isinstance(failure, RuntimeError)
        else "error R07: interrupted"
    )
    assert said in result.stderr
    assert list(place.iterdir()) == []


def test_a_commit_that_fails_leaves_nothing(answers: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_copy(_source: str, made: Path, **_options: Any) -> None:
        made.mkdir()

    monkeypatch.setattr("copier.run_copy", run_copy)
    result = run(place / "demo", "--answers", answers, "--template", ROOT)
    assert result.exit_code == 1
    assert "error R06: git commit failed" in result.stderr
    assert list(place.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_behind(sent: signal.Signals, answers: Path, place: Path, template_dir: Path) -> None:
    # a shell's background jobs ignore an interrupt, and so would what they start
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [sys.executable, "-c", f"{heed}; from santescaffold.cli import main; main()", "new", str(place / "demo")]
    child = subprocess.Popen(
        [*command, "--answers", str(answers), "--template", str(template_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    deadline = time.monotonic() + 60
    while not list(place.glob(".demo.*/demo/*")):  # until Copier writes
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(sent)
    _, stderr = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "interrupted" in stderr
    assert "Traceback" not in stderr
    assert list(place.iterdir()) == []
