"""Puts a prepared set of files in place of others: all of them, or none.

Everything that can fail for want of space or rights is done beforehand: the new files lie complete beside the
repository's own, on the same file system. What remains is one rename a file. A journal tells how to take each one back;
a process of its own carries it out, so that killing the command that started it changes nothing; and whoever comes next
takes back what a power cut left half done (``recover``). Only the standard library is used, so that it starts at once.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRATCH = "santescaffold-update"
"""Name of the scratch directory inside Git's own directory."""


class Busy(Exception):
    """Another update of the same repository is running."""


class Failed(Exception):
    """The files could not be put in place; the repository is as before."""


class Lock:
    """Only one update at a time; the lock ends with the last process that holds it, however it ends."""

    def __init__(self, git_directory: Path) -> None:
        """Take the lock of the repository whose Git directory this is; raises Busy."""
        self.descriptor = os.open(git_directory / f"{SCRATCH}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self.descriptor)
            raise Busy from error

    def release(self) -> None:
        """Give the lock back."""
        os.close(self.descriptor)


def prepare(scratch: Path, root: Path, changes: dict[str, Path | None]) -> None:
    """Stage ``changes`` ({path: prepared file, or None to remove it}) and write the journal.

    Relative paths lie below ``root``. Prepared files are moved, so they have to be on the same file system. Nothing of
    the repository is touched. Raises Failed when a file is in the way.
    """
    staged, kept = scratch / "staged", scratch / "kept"
    staged.mkdir()
    kept.mkdir()
    steps: list[dict[str, Any]] = []
    for number, (name, source) in enumerate(sorted(changes.items())):
        target = root / name
        there = os.path.lexists(target)
        if source is None and not there:
            continue
        if source is not None:
            if there and target.is_dir() and not target.is_symlink():
                raise Failed(f"{name} is a directory")
            new = staged / str(number)
            os.rename(source, new)
            if there and not new.is_symlink() and not target.is_symlink():
                mode, wanted = stat.S_IMODE(target.stat().st_mode), stat.S_IMODE(new.stat().st_mode)
                os.chmod(new, mode | 0o111 & wanted if wanted & 0o100 else mode & ~0o111)
            _flush(new)
        steps.append({"path": str(target), "number": number, "new": source is not None, "there": there})
    text = scratch / "journal.new"
    text.write_text(json.dumps(steps), encoding="utf-8")
    _flush(text)
    _flush(staged)
    os.rename(text, scratch / "ready.json")
    _flush(scratch)


def carry_out(scratch: Path, lock: Lock | None = None) -> None:
    """Put the staged files in place in a process of their own; raises Failed when it had to take everything back.

    An interruption waits until it is over: it takes a moment, and half of it must never be seen.
    """
    waiting = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waiting)
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", __file__, str(scratch)],
            check=False,
            capture_output=True,
            text=True,
            start_new_session=True,
            pass_fds=(lock.descriptor,) if lock else (),
        )
        if done.returncode and not (scratch / "done.json").is_file():
            if (scratch / "journal.json").is_file():
                take_back(scratch)
            raise Failed((done.stderr.strip().splitlines() or ["the process was killed"])[-1])
        while signal.sigpending() & waiting:
            signal.sigwait(waiting)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def apply(scratch: Path) -> None:
    """Put the staged files in place, or take everything back and raise OSError."""
    journal = scratch / "journal.json"
    os.rename(scratch / "ready.json", journal)
    _flush(scratch)
    try:
        for step in json.loads(journal.read_text(encoding="utf-8")):
            target, kept, new = (
                step["path"],
                scratch / "kept" / str(step["number"]),
                scratch / "staged" / str(step["number"]),
            )
            if not step["new"]:
                os.rename(target, kept)
                continue
            if step["there"]:
                os.link(target, kept, follow_symlinks=False)
            else:
                _make_parents(Path(target).parent, scratch)
            os.replace(new, target)
        _flush(scratch / "kept")
        os.rename(journal, scratch / "done.json")  # from here on the update has happened
    except OSError:
        take_back(scratch)
        raise
    _flush(scratch)


def take_back(scratch: Path) -> None:
    """Undo what ``apply`` did before it was stopped; needs no space."""
    journal = scratch / "journal.json"
    for step in reversed(json.loads(journal.read_text(encoding="utf-8"))):
        target, kept, new = (
            step["path"],
            scratch / "kept" / str(step["number"]),
            scratch / "staged" / str(step["number"]),
        )
        if step["there"]:
            if os.path.lexists(kept):
                os.replace(kept, target)
        elif not os.path.lexists(new) and os.path.lexists(target):
            os.unlink(target)
    made = scratch / "made"
    for line in reversed(made.read_text(encoding="utf-8").splitlines() if made.exists() else []):
        directory = Path(json.loads(line))
        if directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()
    os.unlink(journal)


def recover(scratch: Path) -> bool:
    """Take back what an interrupted update left, and sweep its scratch; True when files had to be taken back.

    To be called with the lock held, by everything that reads or changes the repository's files.
    """
    if not scratch.is_dir():
        return False
    broken = (scratch / "journal.json").is_file()
    if broken:
        take_back(scratch)
    elif (scratch / "done.json").is_file():
        sweep_directories(scratch)
    shutil.rmtree(scratch)
    return broken


def attend(root: Path) -> str | None:
    """Take back what an interrupted update left in the repository at ``root``; returns what people must know of it.

    For verbs that only read: without an update that was cut short this looks at two names and returns.
    """
    directory = git_directory(root)
    scratch = directory / SCRATCH if directory else None
    if scratch is None or not any((scratch / name).is_file() for name in ("journal.json", "done.json")):
        return None
    assert directory is not None
    try:
        lock = Lock(directory)
    except Busy:
        return "an update is running; what is shown may be half of it; wait until it has ended, and look again"
    except OSError as error:
        return (
            f"an update was interrupted, and cannot be taken back ({error.strerror}); {scratch}; files of two plans "
            "are mixed; run the command as somebody who may write there"
        )
    try:
        if recover(scratch):
            return "an earlier update was interrupted; its files were taken back, the repository is as before it"
    except OSError as error:
        return (
            f"an update was interrupted, and cannot be taken back ({error.strerror}); {scratch}; files of two plans "
            "are mixed; see that you may write there, and run the command again"
        )
    finally:
        lock.release()
    return None


def git_directory(root: Path) -> Path | None:
    """Return Git's own directory of what is at or above ``root``, without asking git; None when there is none."""
    for directory in (root.resolve(), *root.resolve().parents):
        git = directory / ".git"
        if git.is_dir():
            return git
        if git.is_file():
            said = git.read_text(encoding="utf-8", errors="replace").partition("gitdir:")[2].strip()
            return (directory / said).resolve() if said else None
    return None


def sweep_directories(scratch: Path) -> None:
    """After an update that happened: remove the directories it left empty."""
    for step in json.loads((scratch / "done.json").read_text(encoding="utf-8")):
        if not step["new"]:
            directory = Path(step["path"]).parent
            while directory.is_dir() and not any(directory.iterdir()):
                directory.rmdir()
                directory = directory.parent


def _make_parents(directory: Path, scratch: Path) -> None:
    if directory.is_dir():
        return
    _make_parents(directory.parent, scratch)
    with (scratch / "made").open("a", encoding="utf-8") as made:
        made.write(json.dumps(str(directory)) + "\n")
    directory.mkdir()


def _flush(path: Path) -> None:
    if path.is_symlink():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    try:
        apply(Path(sys.argv[1]))
    except OSError as problem:
        sys.exit(str(problem))
