"""``santescaffold new``: a plain Copier copy, made safe.

Everything is checked before anything is rendered; the repository is made in a temporary directory beside its
destination and moved into place when it is complete, so a refusal or an interruption leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from santescaffold import answers as answers_files
from santescaffold.problems import Problem, errors, summary
from santescaffold.speed import work_done_once
from santescaffold.template import Template, located, newest_tag, obtain

PROBLEMS, WRONG_USE = 1, 2


class Refused(Exception):
    """No repository was made; ``problems`` and ``summary`` say why, ``code`` is the exit code."""

    def __init__(self, problems: list[Problem], code: int = PROBLEMS, summary: str = "") -> None:
        """Keep what is to be said."""
        super().__init__(summary or (problems[0].sentence if problems else ""))
        self.problems, self.code, self.summary = problems, code, summary


@dataclass
class Created:
    """A repository that was made, and the warnings of its plan."""

    path: Path
    problems: list[Problem] = field(default_factory=list)


def create(dest: Path, file: Path | None, location: str, ref: str | None) -> Created:
    """Make the deployment repository ``dest`` from the answers in ``file``, or by asking when there is none.

    ``location`` is a URL or a local directory of the template, ``ref`` what of it to use. Raises Refused when
    anything is wrong, and TemplateError when the template cannot be had.
    """
    target = dest.absolute()
    _check_destination(target, dest)
    if file is None and not sys.stdin.isatty():
        raise _refusal(
            "R02", "there are no answers", "nobody can be asked without a terminal", "give --answers FILE", WRONG_USE
        )
    source = located(location)
    with terminable(*NOTHING_MADE):
        with obtain(source, ref) as template:
            found: list[Problem] = []
            values: dict[str, Any] = {}
            if file is not None:
                read = answers_files.read(file, template)
                found = answers_files.check(read, template)
                if errors(found):
                    raise Refused(found, summary=f"{file}: {summary(found)}; {dest} is not created")
                values = read.values
            _check_git()
            if ref is None and _uncommitted(source):
                found.append(_mixed_template(source))
            _render(template, source, ref, values, file is None, target)
        return Created(dest, [problem for problem in found if problem.severity != "note"])


def _uncommitted(source: str) -> bool:
    """Whether the template is a clone with changes that are not committed; Copier takes them along."""
    if not (Path(source) / ".git").exists():
        return False
    return bool(_git("status", "--porcelain", cwd=Path(source)).stdout.strip())


def _mixed_template(source: str) -> Problem:
    return Problem(
        id="R08", severity="warn", message="the template has changes that are not committed, and they were used",
        where=source,
        why="no version names what the repository was made from, so it cannot be updated later",
        todo="before anybody works with the repository: commit them (or `git stash`), and make it again",
    )  # fmt: skip


def _refusal(code: str, message: str, why: str, todo: str, exit_code: int = PROBLEMS, where: str = "") -> Refused:
    return Refused([Problem(id=code, severity="error", message=message, where=where, why=why, todo=todo)], exit_code)


def _check_destination(target: Path, shown: Path) -> None:
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise _refusal(
            "R01",
            "the destination is not a directory",
            "it would be overwritten",
            "name another",
            WRONG_USE,
            str(shown),
        )
    if target.is_dir() and any(target.iterdir()):
        raise _refusal(
            "R01",
            "the destination is not empty",
            "what is in it would be mixed up with the repository",
            "name a directory that does not exist, or change an existing repository with `santescaffold update`",
            WRONG_USE,
            str(shown),
        )
    if not target.parent.is_dir():
        raise _refusal(
            "R01",
            "the directory above the destination does not exist",
            "the name may be mistyped",
            "create it first",
            WRONG_USE,
            str(shown.parent),
        )
    if not os.access(target.parent, os.W_OK):
        raise _refusal(
            "R01",
            "the directory above the destination cannot be written to",
            "the repository has to go there",
            "choose another place",
            WRONG_USE,
            str(shown.parent),
        )


def _check_git() -> None:
    if shutil.which("git") is None:
        raise _refusal(
            "R03", "git is not installed", "the repository is kept and updated with it", "install git", where="PATH"
        )
    asked = _git("-c", "user.useConfigOnly=true", "var", "GIT_COMMITTER_IDENT", cwd=Path.cwd())
    author = _git("-c", "user.useConfigOnly=true", "var", "GIT_AUTHOR_IDENT", cwd=Path.cwd())
    if asked.returncode or author.returncode:
        raise _refusal(
            "R04",
            "git does not know who you are",
            "every change of a deployment is recorded with a name",
            'run: git config --global user.name "Your Name" && git config --global user.email you@example.org',
            where="git configuration",
        )


def _render(template: Template, source: str, ref: str | None, values: dict[str, Any], ask: bool, target: Path) -> None:
    """Render into a directory beside ``target``, commit there, and move the result into place."""
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".new", dir=target.parent))
    made = scratch / target.name
    try:
        _copy(source, made, values, ask, ref or _default_ref(template, source))
        _commit(made)
        made.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _default_ref(template: Template, source: str) -> str | None:
    """A local clone is taken as it lies there, uncommitted changes included; a URL at the version that was checked."""
    if Path(source).is_dir():
        return "HEAD" if (Path(source) / ".git").exists() else None
    return newest_tag(template.path)


def _for_copier(source: str) -> str:
    """Return the source as Copier takes it: it has to be told that a URL it does not know is a Git repository."""
    known = ("git@", "git://", "git+", "https://github.com/", "https://gitlab.com/")
    return source if Path(source).is_dir() or source.startswith(known) or source.endswith(".git") else f"git+{source}"


def _copy(source: str, made: Path, values: dict[str, Any], ask: bool, ref: str | None) -> None:
    import copier
    import copier.errors

    try:
        with warnings.catch_warnings(), work_done_once():
            warnings.simplefilter("ignore")
            copier.run_copy(
                _for_copier(source), made, data=values, defaults=not ask, vcs_ref=ref, quiet=not ask, unsafe=False
            )
    except (KeyboardInterrupt, copier.errors.CopierAnswersInterrupt):
        raise KeyboardInterrupt from None
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        said = " / ".join(line.strip() for line in lines)[:1000]
        raise _refusal(
            "R05",
            f"Copier stopped: {said}",
            "the repository would not be what the answers say",
            "correct the answers if it names one, otherwise report it with the answers file",
            where="template",
        ) from error


def _commit(made: Path) -> None:
    message = "Deployment repository as planned"
    for arguments in (
        ["init", "--quiet", "--initial-branch=main"],
        ["add", "--all"],
        ["commit", "--quiet", "--no-verify", "-m", message],
    ):
        done = _git(*arguments, cwd=made)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise _refusal(
                "R06",
                f"git {arguments[0]} failed: {said}",
                "updates need a repository with a first commit",
                "correct git's settings and run the command again",
                where="git",
            )


def _git(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    # Git's own variables would point it at another repository when we are called from a hook.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
    }
    return subprocess.run(["git", *arguments], check=False, capture_output=True, text=True, cwd=cwd, env=environment)


NOTHING_MADE = ("the repository was not complete", "run the command again, since nothing was left behind")


@contextlib.contextmanager
def terminable(why: str, todo: str, where: str = "") -> Iterator[None]:
    """Let a termination or an interruption clean up and end in a plain sentence: why it matters, what to do."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread
        before = None
    try:
        yield
    except KeyboardInterrupt:
        raise _refusal("R07", "interrupted", why, todo, where=where) from None
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
