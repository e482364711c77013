"""santescaffold update: whatever happens to it, the repository is as before, or completely updated."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from santescaffold import journal
from santescaffold.cli import main
from tests.support import ROOT, commit, git
from tests.update.small_template import make_repository, make_template, state

CHANGE = ("--set", "servers=5", "--set", "portal=false", "--set", "name=two")


@pytest.fixture(scope="module")
def _quiet_git() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AUTHOR", "COMMITTER"):
            patch.setenv(f"GIT_{name}_NAME", "Test")
            patch.setenv(f"GIT_{name}_EMAIL", "test@example.org")
        yield


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, _quiet_git: None) -> Path:
    return make_template(tmp_path_factory.mktemp("small") / "template")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Path:
    return make_repository(tmp_path_factory.mktemp("pristine") / "repository", template)


@pytest.fixture
def repository(pristine: Path, tmp_path: Path) -> Path:
    shutil.copytree(pristine, tmp_path / "repository", symlinks=True)
    return tmp_path / "repository"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def write(path: Path, text: str, message: str = "edit") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    commit(next(parent for parent in path.parents if (parent / ".git").is_dir()), message)


def leftovers(repository: Path) -> list[str]:
    return [path.name for path in (repository / ".git").glob("santescaffold*") if path.is_dir()]


def test_changes_files_and_commits_nothing(repository: Path) -> None:
    head = git(repository, "rev-parse", "HEAD")
    done = run("update", repository, *CHANGE)
    assert done.exit_code == 0, done.output
    assert "3 files added, 5 files changed, 1 files removed." in done.output
    assert git(repository, "rev-parse", "HEAD") == head
    assert (repository / "many" / "4.txt").read_text() == "4 of 5 for two\n"
    assert not (repository / "portal").exists()
    assert (repository / "vault.secret").read_text() == "kept\n"
    assert "playbooks/icdr.yml --limit localhost,app" in done.output
    assert not leftovers(repository)


def test_every_problem_of_the_answers_is_told_before_anything_is_tried(repository: Path) -> None:
    before = state(repository)
    done = run("update", repository, "--set", "servers=12", "--set", "sevrers=2")
    assert done.exit_code == 1
    assert "V01: the number of servers is no number up to 9; servers; nobody has more; give fewer" in done.output
    assert (
        'Y07: "sevrers" is not the id of an answer; --set; it would be ignored without a word; did you mean "servers"?'
        in done.output
    )
    assert state(repository) == before


def test_answers_from_a_file(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "new.yml").write_text("servers: 3\n", encoding="utf-8")
    assert run("update", repository, "--answers", tmp_path / "new.yml").exit_code == 0
    assert (repository / "many" / "2.txt").is_file()
    commit(repository)
    (tmp_path / "new.yml").write_text("servers: 4\nserver: 4\n", encoding="utf-8")
    refused = run("update", repository, "--answers", tmp_path / "new.yml")
    assert refused.exit_code == 1
    assert "new.yml:2: error Y07" in refused.output


@pytest.mark.parametrize("name", ["README.md", "new-file"])
def test_refuses_what_is_not_committed(repository: Path, name: str) -> None:
    (repository / name).write_text("mine\n", encoding="utf-8")
    before = state(repository)
    done = run("update", repository, *CHANGE)
    assert done.exit_code == 1
    assert f"error U05: there are changes that are not committed; {name};" in done.output
    assert state(repository) == before


def test_refuses_what_is_no_repository(tmp_path: Path, repository: Path) -> None:
    assert run("update", tmp_path).exit_code == 2
    shutil.rmtree(repository / ".git")
    assert "U02" in run("update", repository).output


def test_refuses_a_version_that_cannot_be_had(repository: Path) -> None:
    answers = repository / ".copier-answers.yml"
    write(answers, answers.read_text().replace("v1.0.0", "v0.9.9"))
    before = state(repository)
    done = run("update", repository, *CHANGE)
    assert done.exit_code == 1
    assert "U06: version v0.9.9 of the template cannot be had" in done.output
    assert state(repository) == before


def test_edits_that_would_vanish_are_named_and_kept(repository: Path) -> None:
    write(repository / "portal" / "portal.conf", "ours\n")
    before = state(repository)
    done = run("update", repository, *CHANGE)
    assert done.exit_code == 1
    assert "U13: the plan no longer has this file, and it was edited by hand; portal/portal.conf" in done.output
    assert state(repository) == before
    assert run("update", repository, *CHANGE, "--accept-loss").exit_code == 0
    assert not (repository / "portal").exists()


def test_conflicts_are_explained_file_by_file(repository: Path) -> None:
    write(repository / "README.md", "# Our title\n\nA text.\n\n## Your notes\n\nNote.\n")
    local = repository / "inventories" / "production" / "group_vars" / "icdr" / "90-local.yml"
    write(local, "---\nicdr_ram_limit_gb: 24\n")
    done = run("update", repository, *CHANGE)
    assert done.exit_code == 1
    assert "conflict: README.md; line 1; people and the update changed the same lines;" in done.output
    assert "yours # Our title" in done.output
    assert "new   # two" in done.output
    assert "1 files with conflicts" in done.output
    text = (repository / "README.md").read_text()
    assert "<<<<<<< before updating" in text
    assert text.endswith("Note.\n")
    assert git(repository, "diff", "--name-only", "--diff-filter=U") == "README.md\n"
    assert git(repository, "show", ":2:README.md").startswith("# Our title")
    assert git(repository, "show", ":3:README.md").startswith("# two")
    assert local.read_text() == "---\nicdr_ram_limit_gb: 24\n"
    assert git(repository, "fsck", "--no-dangling") == ""


def test_goes_to_a_newer_version_only_when_asked(template: Path, tmp_path: Path) -> None:
    moved = tmp_path / "template"
    shutil.copytree(template, moved)
    repository = make_repository(tmp_path / "repository", moved)
    readme = moved / "template" / "README.md.jinja"
    readme.write_text(readme.read_text().replace("A text.", "A better text."), encoding="utf-8")
    commit(moved)
    git(moved, "tag", "v1.1.0")
    assert "Nothing changes" in run("update", repository).output
    assert run("update", repository, "--to", "latest").exit_code == 0
    assert "A better text." in (repository / "README.md").read_text()
    assert "_commit: v1.1.0" in (repository / ".copier-answers.yml").read_text()


def test_template_moved_elsewhere(template: Path, repository: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(template, elsewhere)
    done = run("update", repository, "--set", "servers=3", "--template", elsewhere)
    assert done.exit_code == 0, done.output
    assert f"_src_path: {elsewhere}" in (repository / ".copier-answers.yml").read_text()
    assert (repository / "many" / "2.txt").is_file()


def test_an_ignored_file_in_the_way_is_not_overwritten(repository: Path) -> None:
    (repository / ".gitignore").write_text("*.secret\nmany/4.txt\n", encoding="utf-8")
    commit(repository)
    (repository / "many" / "4.txt").write_text("precious\n", encoding="utf-8")
    before = state(repository)
    done = run("update", repository, *CHANGE)
    assert done.exit_code == 1
    assert "U10: a file that Git ignores is where a new one belongs; many/4.txt" in done.output
    assert state(repository) == before


def test_only_one_update_at_a_time(repository: Path) -> None:
    lock = journal.Lock(repository / ".git")
    try:
        assert "U12: another update of this repository is running" in run("update", repository, *CHANGE).output
    finally:
        lock.release()


def test_repository_below_the_top_of_a_larger_one(template: Path, tmp_path: Path) -> None:
    make_repository(tmp_path / "larger", template)
    inner = tmp_path / "larger" / "registries" / "one"
    shutil.copytree(tmp_path / "larger", inner, ignore=shutil.ignore_patterns(".git", "registries"))
    commit(tmp_path / "larger")
    assert run("update", inner, *CHANGE).exit_code == 0
    assert (inner / "many" / "4.txt").is_file()
    assert not (tmp_path / "larger" / "many" / "4.txt").exists()


# --- killed


def start(repository: Path, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", "from santescaffold.cli import main; main()", "update", str(repository), *CHANGE],
        cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options,
    )  # fmt: skip


def settle(repository: Path) -> None:
    """Wait until nobody holds the lock: what puts the files in place outlives whoever started it."""
    for _ in range(600):
        try:
            journal.Lock(repository / ".git").release()
        except journal.Busy:
            time.sleep(0.02)
        else:
            return
    raise AssertionError("the lock is never given back")


@pytest.mark.slow
def test_killed_at_thirty_random_moments(pristine: Path, tmp_path: Path) -> None:
    before = state(pristine)
    complete = tmp_path / "complete"
    shutil.copytree(pristine, complete, symlinks=True)
    started = time.monotonic()
    assert start(complete).wait() == 0
    duration = time.monotonic() - started
    after = state(complete)
    assert after != before
    moments = random.Random(20261121)
    repository = tmp_path / "killed"
    seen = {"before": 0, "after": 0}
    for _ in range(30):
        if not repository.exists():
            shutil.copytree(pristine, repository, symlinks=True)
        process = start(repository)
        time.sleep(moments.uniform(0, duration))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        settle(repository)
        now = state(repository)
        assert now in (before, after)
        seen["before" if now == before else "after"] += 1
        if now == after:
            shutil.rmtree(repository)
    assert seen["before"], seen
    if repository.exists():
        assert start(repository).wait() == 0
        assert state(repository) == after
        assert not leftovers(repository)


def prepared(root: Path) -> tuple[Path, dict[str, bytes]]:
    """A directory with a prepared change of every kind, and what is in it before."""
    (root / "deep").mkdir(parents=True)
    (root / ".git").mkdir()
    for name in ("changed", "removed", "deep/removed", "untouched"):
        (root / name).write_text(f"old {name}\n", encoding="utf-8")
    scratch = root / ".git" / journal.SCRATCH
    scratch.mkdir()
    for name in ("new-1", "new-2", "new-3"):
        (scratch / name).write_text(f"{name}\n", encoding="utf-8")
    before = {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and ".git" not in path.parts
    }
    journal.prepare(
        scratch,
        root,
        {
            "changed": scratch / "new-1",
            "removed": None,
            "deep/removed": None,
            "far/below/added": scratch / "new-2",
            "added": scratch / "new-3",
        },
    )
    return scratch, before


def content(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and ".git" not in path.parts
    }


CALLS = ("rename", "replace", "link", "mkdir")


def die_at(number: int, scratch: Path) -> int:
    """Apply in a process that kills itself before its ``number``-th change of the disk; returns its wait status."""
    child = os.fork()
    if child == 0:
        count = 0

        def counted(real: Any) -> Any:
            def call(*arguments: Any, **options: Any) -> Any:
                nonlocal count
                count += 1
                if count > number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **options)

            return call

        for name in CALLS:
            setattr(os, name, counted(getattr(os, name)))
        journal.apply(scratch)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def test_a_power_cut_at_any_step_is_taken_back(tmp_path: Path) -> None:
    """Even when the process that puts files in place is killed, whoever comes next takes everything back."""
    for number in range(100):
        root = tmp_path / str(number)
        scratch, before = prepared(root)
        status = die_at(number, scratch)
        if status == 0:
            break
        done = (scratch / "done.json").exists()
        assert journal.recover(scratch) == (not done and number > 0)
        assert not scratch.exists()
        if done:
            assert (root / "added").read_text() == "new-3\n"
        else:
            assert content(root) == before, number
            assert not (root / "far").exists()
    assert number > 7
    journal.recover(scratch)
    assert content(root) == {
        "changed": b"new-1\n", "untouched": b"old untouched\n", "far/below/added": b"new-2\n", "added": b"new-3\n",
    }  # fmt: skip
    assert not (root / "deep").exists()


@pytest.mark.parametrize("number", range(1, 8))
def test_a_step_that_fails_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    scratch, before = prepared(tmp_path / "root")
    count = 0
    failed = False

    def failing(real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal count, failed
            count += 1
            if count == number + 1 and not failed:
                failed = True
                raise OSError(28, "No space left on device")
            return real(*arguments, **options)

        return call

    for name in CALLS:
        monkeypatch.setattr(os, name, failing(getattr(os, name)))
    with pytest.raises(OSError, match="No space"):
        journal.apply(scratch)
    monkeypatch.undo()
    assert content(tmp_path / "root") == before
    assert not journal.recover(scratch)


def test_an_interruption_waits_for_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while files are put in place comes too late, and does not stop half-way."""
    scratch, _ = prepared(tmp_path / "root")
    real = subprocess.run

    def interrupted(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **options)

    monkeypatch.setattr(subprocess, "run", interrupted)
    journal.carry_out(scratch)
    assert (scratch / "done.json").is_file()
    assert (tmp_path / "root" / "added").read_text() == "new-3\n"


def test_the_process_that_puts_files_in_place_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch, before = prepared(tmp_path / "root")

    def killed(*arguments: Any, **options: Any) -> Any:
        die_at(4, scratch)
        return subprocess.CompletedProcess(arguments, -9, "", "")

    monkeypatch.setattr(subprocess, "run", killed)
    with pytest.raises(journal.Failed, match="killed"):
        journal.carry_out(scratch)
    assert content(tmp_path / "root") == before


READING = (("status",), ("check",), ("plan",), ("report", "-o", "report.html"), ("explain", "name", "--repo"))


@pytest.mark.parametrize("verb", READING, ids=[verb[0] for verb in READING])
def test_who_only_reads_takes_an_interrupted_update_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: tuple[str, ...]
) -> None:
    scratch, before = prepared(tmp_path / "root")
    die_at(4, scratch)
    assert content(tmp_path / "root") != before
    monkeypatch.chdir(tmp_path)
    running = journal.Lock(tmp_path / "root" / ".git")
    assert "Note: an update is running;" in run(*verb, tmp_path / "root").output
    running.release()
    assert "Note: an earlier update was interrupted; its files were taken back" in run(*verb, tmp_path / "root").output
    assert content(tmp_path / "root") == before
    assert "interrupted" not in run(*verb, tmp_path / "root").output


def test_below_the_top_and_in_a_worktree_the_journal_is_found(tmp_path: Path) -> None:
    scratch, before = prepared(tmp_path / "root")
    assert journal.attend(tmp_path / "root") is None, "prepared, but nothing was touched"
    die_at(4, scratch)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / ".git").write_text("gitdir: ../root/.git\n", encoding="utf-8")
    (tmp_path / "elsewhere" / "inner").mkdir()
    assert "taken back" in str(journal.attend(tmp_path / "elsewhere" / "inner"))
    assert content(tmp_path / "root") == before
    assert journal.attend(Path("/")) is None


@pytest.mark.parametrize("verb", ["plan", "update"])
def test_an_interruption_says_what_became_of_the_repository(
    repository: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    before = state(repository)
    monkeypatch.setattr("santescaffold.update.simulate", interrupted)
    done = run(verb, repository, *CHANGE)
    assert done.exit_code == 1
    assert "error R07: interrupted; " in done.output
    assert "not complete" not in done.output
    assert state(repository) == before
    assert not leftovers(repository)


# --- no space


@pytest.mark.parametrize("limit", [1, 40, 200, 500, 2000, 20_000])
def test_files_that_cannot_grow(repository: Path, limit: int) -> None:
    """A limit on the size of files stands for every way of not being able to write."""
    before = state(repository)

    def restrict() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    code = start(repository, preexec_fn=restrict).wait()
    settle(repository)
    if code == 0:
        assert limit == 20_000
        assert state(repository) != before
    else:
        assert state(repository) == before


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="mounting a small disk needs root")
@pytest.mark.parametrize("spare", [8, 64, 160])
def test_full_disk(pristine: Path, tmp_path: Path, spare: int) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], check=False, capture_output=True
    ).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        repository = disk / "repository"
        shutil.copytree(pristine, repository, symlinks=True)
        before = state(repository)
        free = shutil.disk_usage(disk).free
        (disk / "filler").write_bytes(b"\0" * max(0, free - spare * 1024))
        done = run("update", repository, *CHANGE)
        assert done.exit_code == 1, done.output
        assert "as before" in done.output
        assert state(repository) == before
        (disk / "filler").unlink()
        assert run("update", repository, *CHANGE).exit_code == 0
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


# --- what plan said, update did


SERIES = [
    ("--set", "servers=5"),
    ("--set", "portal=false", "--set", "name=two"),
    ("--set", "servers=1", "--set", "portal=true"),
    ("--set", "name=three", "--set", "servers=0"),
]


def test_what_plan_says_is_what_update_does(repository: Path) -> None:
    write(repository / "README.md", "# Our title\n\nA text.\n\n## Your notes\n")
    for change in SERIES:
        before = state(repository)
        said = run("plan", repository, *change, "--json")
        assert said.exit_code == 0, said.output
        assert state(repository) == before, "plan touches nothing"
        predicted = json.loads(said.stdout)
        done = run("update", repository, *change)
        assert done.exit_code == (1 if predicted["conflicts"] else 0)
        after = state(repository)
        old, new = before["files"], after["files"]
        assert predicted["files"]["added"] == sorted(set(new) - set(old))
        assert predicted["files"]["removed"] == sorted(set(old) - set(new))
        assert predicted["files"]["changed"] == sorted(name for name in set(old) & set(new) if old[name] != new[name])
        assert [entry["file"] for entry in predicted["conflicts"]] == git(
            repository, "diff", "--name-only", "--diff-filter=U"
        ).split()
        for command in predicted["commands"]:
            assert command["command"] in done.output or predicted["conflicts"]
        git(repository, "checkout", "--ours", ".") if predicted["conflicts"] else None
        commit(repository)
