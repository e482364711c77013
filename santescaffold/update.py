"""``santescaffold update``: Copier's update on a scratch clone; the repository moves only when it succeeded.

Three things are added to what Copier does: changed answers are checked first; edits that would vanish without a word
are named, and nothing is done before they are accepted; and the files are put in place all at once (``journal``), so
that neither a kill nor a full disk leaves half an update behind.
"""

from __future__ import annotations

import contextlib
import difflib
import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import yaml

from santescaffold import answers as answers_files
from santescaffold import journal, preview
from santescaffold.answers import Answers
from santescaffold.new import PROBLEMS, WRONG_USE, Refused, _for_copier, terminable
from santescaffold.problems import Problem, errors, print_problems, summary
from santescaffold.speed import work_done_once
from santescaffold.template import Template, TemplateError, located, newest_tag, obtain

ANSWERS_FILE = ".copier-answers.yml"
LATEST = "latest"
UNCHANGED = ("the repository is as before", "run the command again")
BEFORE, LAST, AFTER = b"<<<<<<< before updating", b"||||||| last update", b">>>>>>> after updating"


def refusal(code: str, message: str, where: str, why: str, todo: str, exit_code: int = PROBLEMS) -> Refused:
    """Return a refusal of one sentence in the error grammar."""
    return Refused([Problem(id=code, severity="error", message=message, where=where, why=why, todo=todo)], exit_code)


@dataclass
class Source:
    """A repository to be changed: where it is, what it was made from, and its answers."""

    path: Path
    top: Path
    git_directory: Path
    stored: dict[str, Any]
    location: str
    commit: str

    @property
    def answers(self) -> dict[str, Any]:
        """The stored answers, without what Copier keeps beside them."""
        return {name: value for name, value in self.stored.items() if name not in answers_files.KEPT_BY_COPIER}

    @property
    def below(self) -> str:
        """Where in the Git repository the deployment repository is; "." for its top."""
        return self.path.relative_to(self.top).as_posix()


@dataclass
class Outcome:
    """What an update does to the files, found out on a scratch clone."""

    clone: Path
    files: dict[str, str] = field(default_factory=dict)
    conflicts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    losses: list[str] = field(default_factory=list)
    unmerged: str = ""
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)

    def inside(self, source: Source) -> dict[str, str]:
        """The changed files by their path in the deployment repository."""
        below = "" if source.below == "." else f"{source.below}/"
        return {name.removeprefix(below): state for name, state in self.files.items()}


def git(*arguments: str, cwd: Path, text: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run git away from the variables a hook sets, and from the hooks themselves."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")
    }
    return subprocess.run(
        ["git", "-c", f"core.hooksPath={os.devnull}", *arguments],
        check=False, capture_output=True, text=True, errors="surrogateescape", input=text, cwd=cwd,
        env={**environment, **variables},
    )  # fmt: skip


def open_source(path: Path, template: str | None = None) -> Source:
    """Look at the repository; raises Refused when it is none that can be updated."""
    root = path.resolve()
    if not (root / ANSWERS_FILE).is_file():
        raise refusal(
            "U01", f"the directory has no {ANSWERS_FILE}", str(path), "without answers there is nothing to update",
            "name the deployment repository, or make one with `santescaffold new`", WRONG_USE,
        )  # fmt: skip
    top = git("rev-parse", "--show-toplevel", cwd=root)
    head = git("rev-parse", "--verify", "HEAD", cwd=root)
    if top.returncode or head.returncode:
        raise refusal(
            "U02", "the directory is not under Git, or has no commit yet", str(path),
            "an update merges with what was committed", "run: git init && git add --all && git commit -m 'As planned'",
        )  # fmt: skip
    directory = git("rev-parse", "--absolute-git-dir", cwd=root).stdout.strip()
    try:
        stored = yaml.load((root / ANSWERS_FILE).read_text(encoding="utf-8"), Loader=answers_files._Loader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise refusal(
            "U03", f"the stored answers cannot be read ({type(error).__name__})", f"{path}/{ANSWERS_FILE}",
            "Copier keeps them there", f"restore the file: git checkout -- {ANSWERS_FILE}",
        ) from error  # fmt: skip
    if not isinstance(stored, dict) or not stored.get("_src_path") or not stored.get("_commit"):
        raise refusal(
            "U04", "the repository does not say which version of the template it was made from",
            f"{path}/{ANSWERS_FILE}", "what the template changed since cannot be told from what people changed",
            "make it anew from a template under Git (`santescaffold new`), and bring your own files over",
        )  # fmt: skip
    location = str(stored["_src_path"])
    if template:
        location = located(template)
    return Source(root, Path(top.stdout.strip()), Path(directory), stored, location, str(stored["_commit"]))


def refuse_uncommitted(source: Source) -> None:
    """Raise Refused when there is anything that is not committed."""
    status = git("status", "--porcelain", "-z", "--untracked-files=all", cwd=source.top).stdout
    names = [entry[3:] for entry in status.split("\0") if len(entry) > 3]
    if names:
        listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise refusal(
            "U05", "there are changes that are not committed", listed,
            "they would be mixed up with the update, and could not be told apart afterwards",
            "commit them first, or remove them",
        )  # fmt: skip


def checked_ref(source: Source, to: str | None) -> str | None:
    """Return which version of the template is asked for."""
    if to is None:
        return source.commit
    if to != LATEST:
        return to
    place = Path(source.location).expanduser()
    return (newest_tag(place) or "HEAD") if place.is_dir() else None


@contextlib.contextmanager
def templates(source: Source, to: str | None) -> Iterator[tuple[Template, Template]]:
    """Yield the template the repository was made from and the one it goes to; the same when no other is asked for."""
    place = source.location.removeprefix("git+")
    with contextlib.ExitStack() as stack:
        try:
            old = stack.enter_context(obtain(place, source.commit.rpartition("-g")[2] or source.commit))
        except TemplateError as error:
            raise refusal(
                "U06", f"version {source.commit} of the template cannot be had", source.location,
                f"an update compares with what the repository was made from ({error})",
                "check the address and the link; a copy made from a clone with uncommitted changes cannot be updated",
            ) from error  # fmt: skip
        wanted = checked_ref(source, to)
        yield old, old if wanted == source.commit else stack.enter_context(obtain(place, wanted))


def changed_answers(
    source: Source, template: Template, file: Path | None, settings: Sequence[str]
) -> tuple[dict[str, Any], list[Problem]]:
    """Return the answers that are given anew, and every problem of all answers together; raises Refused on errors."""
    if file is not None:
        read = answers_files.read(file, template)
    else:
        read = Answers(file="--set" if settings else ANSWERS_FILE, root=yaml.MappingNode("tag:yaml.org,2002:map", []))
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise refusal(
                "U07", f'"{setting[:60]}" sets nothing', "--set", "it has no =", "write --set ID=VALUE", WRONG_USE
            )
        try:
            value = yaml.load(text, Loader=answers_files._Loader)
        except yaml.YAMLError as error:
            raise refusal(
                "U07", f'the value of "{name}" cannot be read', "--set",
                f"it is no YAML ({getattr(error, 'problem', '')})",
                "put texts in quotes, and lists in brackets: --set 'roles=[mpi, shr]'", WRONG_USE,
            ) from error  # fmt: skip
        known = template.catalog["questions"]
        if name not in known:
            meant = difflib.get_close_matches(name, list(known), 1, 0.6)
            read.problems.append(
                Problem(
                    id="Y07", severity="error", message=f'"{name[:40]}" is not the id of an answer', where="--set",
                    why="it would be ignored without a word",
                    todo=f'did you mean "{meant[0]}"?' if meant else "look it up: `santescaffold explain ID`",
                )
            )  # fmt: skip
            continue
        read.values[name] = value
    given = dict(read.values)
    complete = {name: value for name, value in source.answers.items() if name in template.catalog["questions"]}
    read.values = {**complete, **given}
    found = answers_files.check(read, template)
    if errors(found):
        raise Refused(found, summary=f"{read.file}: {summary(found)}; {source.path} is not changed")
    return given, [problem for problem in found if problem.severity != "note"]


@contextlib.contextmanager
def _surroundings(scratch: Path) -> Iterator[None]:
    """Have Copier and git keep everything temporary in the scratch directory, and look for no repository above it."""
    temporary = scratch / "temporary"
    temporary.mkdir()
    wanted = {"GIT_CEILING_DIRECTORIES": os.pathsep.join((str(scratch), str(temporary))), "TMPDIR": str(temporary)}
    removed = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")
    before = {name: os.environ.get(name) for name in (*wanted, *removed)}
    directory = tempfile.tempdir
    os.environ.update(wanted)
    for name in removed:
        os.environ.pop(name, None)
    tempfile.tempdir = str(temporary)
    try:
        with warnings.catch_warnings(), open(os.devnull, "w", encoding="utf-8") as silence:
            warnings.simplefilter("ignore")
            with contextlib.redirect_stderr(silence):
                yield
    finally:
        tempfile.tempdir = directory
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def simulate(source: Source, scratch: Path, given: dict[str, Any], to: str | None) -> Outcome:
    """Update a clone of the last commit in ``scratch`` and return what became of it; raises Refused when it fails."""
    clone = scratch / "clone"
    settings = []
    for name in ("core.autocrlf", "core.eol", "core.fileMode", "core.symlinks"):
        value = git("config", "--get", name, cwd=source.top).stdout.strip()
        settings += ["-c", f"{name}={value}"] if value else []
    _must(git("clone", "--quiet", "--shared", "--no-tags", *settings, str(source.top), str(clone), cwd=scratch))
    target = clone / source.below
    if source.location != source.stored["_src_path"]:
        _move_template(target, clone, source)
    _must(git("update-index", "-q", "--refresh", cwd=clone))
    before = preview.read_inventories(target)
    _copier_update(source, target, scratch, given, to)
    outcome = _look(source, clone, scratch)
    outcome.before, outcome.after = before, preview.read_inventories(target)
    return outcome


def version_of(source: Source, outcome: Outcome | None = None) -> str:
    """Return the version of the template a repository was made from, or will have been."""
    if outcome is None:
        return source.commit
    text = (outcome.clone / source.below / ANSWERS_FILE).read_text(encoding="utf-8")
    return next((line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("_commit:")), "")


def _move_template(target: Path, clone: Path, source: Source) -> None:
    """Have the clone say that its template is elsewhere: the repository will say so too."""
    file = target / ANSWERS_FILE
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    new = yaml.safe_dump({"_src_path": _for_copier(source.location)}, width=4096)
    file.write_text("".join(new if line.startswith("_src_path:") else line for line in lines), encoding="utf-8")
    _must(git("-c", "user.name=x", "-c", "user.email=x", "commit", "-qam", "Template moved", "--no-verify", cwd=clone))


def _copier_update(source: Source, target: Path, scratch: Path, given: dict[str, Any], to: str | None) -> None:
    import copier

    ref = copier.VcsRef.CURRENT if to is None else checked_ref(source, to)
    try:
        with _surroundings(scratch), work_done_once():
            copier.run_update(
                target, data=given, vcs_ref=ref, defaults=True, overwrite=True, quiet=True, unsafe=False,
                conflict="inline", context_lines=100,
            )  # fmt: skip
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise refusal(
            "U08", f"the update failed: {' / '.join(lines)[:1000]}", str(source.path),
            "it was tried on a scratch copy; the repository is as before",
            _advice(error),
        ) from error  # fmt: skip


def _advice(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno in (27, 28, 122):
        return "make space on the disk and run the command again"
    text = str(error).lower()
    if "no space" in text or "file too large" in text or "quota" in text:
        return "make space on the disk and run the command again"
    return "correct the answer if it names one, otherwise report it with .copier-answers.yml"


def _must(done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"git stopped ({done.returncode})"])[-1]
        raise refusal(
            "U09", f"git failed: {said}", "scratch copy", "the update cannot be tried; the repository is as before",
            "make space if the disk is full, correct git's settings, and run the command again",
        )  # fmt: skip


def _look(source: Source, clone: Path, scratch: Path) -> Outcome:
    """Compare the updated clone with the repository's last commit."""
    outcome = Outcome(clone)
    outcome.unmerged = git("ls-files", "-u", "-z", cwd=clone).stdout
    unmerged = {entry.partition("\t")[2] for entry in outcome.unmerged.split("\0") if entry}
    index = scratch / "index"
    shutil.copyfile(clone / ".git" / "index", index)
    here = {"GIT_INDEX_FILE": str(index)}
    _must(git("add", "--all", "--force", cwd=clone, **here))
    base = git("rev-parse", "HEAD", cwd=source.top).stdout.strip()
    compared = git("diff", "--cached", "--name-status", "--no-renames", "-z", base, cwd=clone, **here)
    _must(compared)
    parts = compared.stdout.split("\0")
    words = {"A": "added", "D": "removed"}
    for state, name in zip(parts[0::2], parts[1::2], strict=False):
        if name:
            outcome.files[name] = words.get(state, "changed")
    for name in sorted(unmerged | {name for name in outcome.files if name.endswith(".rej")}):
        outcome.conflicts[name] = _hunks(clone / name)
    removed = [name for name, state in outcome.files.items() if state == "removed"]
    if removed:
        outcome.losses = _edited(source, removed, scratch)
    return outcome


def _hunks(path: Path) -> list[dict[str, Any]]:
    """Return every conflict marked in a file: its line, what people wrote and what the update brings."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return []
    hunks: list[dict[str, Any]] = []
    side = ""
    for number, line in enumerate(lines, 1):
        bare = line.rstrip()
        if bare == BEFORE:
            hunks.append({"line": number, "yours": [], "new": []})
            side = "yours"
        elif side and bare == LAST:
            side = "last"
        elif side and bare == b"=======":
            side = "new"
        elif side and bare == AFTER:
            side = ""
        elif side in ("yours", "new"):
            hunks[-1][side].append(line.decode("utf-8", "replace"))
    return hunks


def render_old(source: Source, scratch: Path) -> Path:
    """Render what the template made of the stored answers, untouched by people."""
    import copier

    target = scratch / "as-rendered"
    if not target.exists():
        place = scratch / "old"
        place.mkdir()
        ref = source.commit.rpartition("-g")[2]
        try:
            with _surroundings(place), work_done_once():
                copier.run_copy(
                    _for_copier(source.location), target, data=source.answers, vcs_ref=ref,
                    defaults=True, quiet=True, unsafe=False,
                )  # fmt: skip
        except Exception as error:
            raise refusal(
                "U08", f"the last version cannot be rendered again: {str(error)[:500]}", str(source.path),
                "without it edits cannot be told from what was rendered; the repository is as before", _advice(error),
            ) from error  # fmt: skip
    return target


def _edited(source: Source, names: list[str], scratch: Path) -> list[str]:
    """Return those of the files that people have edited, by their path in the Git repository."""
    rendered = render_old(source, scratch)
    edited = []
    for name in names:
        inside = Path(name).relative_to(source.below)
        before = rendered / inside
        if not before.is_file() or not filecmp.cmp(before, source.top / name, shallow=False):
            edited.append(name)
    return edited


def apply(source: Source, outcome: Outcome, scratch: Path, lock: journal.Lock) -> None:
    """Put the result in place of the repository's files, all or none; raises Refused when it cannot."""
    changes: dict[str, Path | None] = {}
    for name, state in outcome.files.items():
        changes[name] = None if state == "removed" else outcome.clone / name
        if state == "added" and os.path.lexists(source.top / name):
            raise refusal(
                "U10", "a file that Git ignores is where a new one belongs", name, "it would be overwritten",
                "move it away, and run the command again",
            )  # fmt: skip
    if outcome.unmerged:
        changes[git("rev-parse", "--git-path", "index", cwd=source.top).stdout.strip()] = _index(
            source, outcome, scratch
        )
    try:
        journal.prepare(scratch, source.top, changes)
        refuse_uncommitted(source)
        journal.carry_out(scratch, lock)
    except (journal.Failed, OSError) as error:
        raise refusal(
            "U11", f"the new files could not be put in place: {error}", str(source.path), "the repository is as before",
            "make space, see that you may write there, and run the command again",
        ) from error  # fmt: skip


def _index(source: Source, outcome: Outcome, scratch: Path) -> Path:
    """Return the repository's index with the conflicts marked in it, as Git does after a merge."""
    current = source.top / git("rev-parse", "--git-path", "index", cwd=source.top).stdout.strip()
    made = scratch / "index.marked"
    shutil.copyfile(current, made)
    lines = []
    for entry in filter(None, outcome.unmerged.split("\0")):
        facts, _, name = entry.partition("\t")
        mode, blob, stage = facts.split()
        lines.append(f"0 {'0' * 40}\t{name}\n")
        content = subprocess.run(
            ["git", "cat-file", "blob", blob], cwd=outcome.clone, check=True, capture_output=True
        ).stdout
        subprocess.run(
            ["git", "hash-object", "-w", "--stdin"], cwd=source.top, check=True, capture_output=True, input=content
        )
        lines.append(f"{mode} {blob} {stage}\t{name}\n")
    removals = [line for line in dict.fromkeys(lines) if line.startswith("0 0")]
    entries = [line for line in lines if not line.startswith("0 0")]
    _must(
        git("update-index", "--index-info", cwd=source.top, text="".join(removals + entries), GIT_INDEX_FILE=str(made))
    )
    return made


@contextlib.contextmanager
def exclusive(source: Source) -> Iterator[tuple[Path, journal.Lock]]:
    """Yield a scratch directory on the repository's own disk and the lock; sweeps what an earlier run left."""
    try:
        lock = journal.Lock(source.git_directory)
    except journal.Busy:
        raise refusal(
            "U12", "another update of this repository is running", str(source.path), "two would undo each other",
            "wait until it has ended",
        ) from None  # fmt: skip
    scratch = source.git_directory / journal.SCRATCH
    try:
        if journal.recover(scratch):
            click.echo("An earlier update was interrupted; its files were taken back.", err=True)
        scratch.mkdir()
        yield scratch, lock
    except OSError as error:
        raise refusal(
            "U09", f"the scratch copy cannot be written ({error.strerror})", str(scratch),
            "the repository is as before", "make space, see that you may write there, and run the command again",
        ) from error  # fmt: skip
    finally:
        with contextlib.suppress(OSError):
            if (scratch / "done.json").is_file():
                journal.sweep_directories(scratch)
            if not (scratch / "journal.json").is_file():
                shutil.rmtree(scratch, ignore_errors=True)
        lock.release()


@dataclass
class Updated:
    """What an update did."""

    outcome: Outcome
    problems: list[Problem]
    commands: list[dict[str, Any]]


def run(
    path: Path, file: Path | None, settings: Sequence[str], to: str | None, template: str | None, accept_loss: bool
) -> Updated:
    """Update the repository; raises Refused, with the repository as before."""
    source = open_source(path, template)
    with terminable(*UNCHANGED, str(path)), exclusive(source) as (scratch, lock):
        source = open_source(path, template)
        refuse_uncommitted(source)
        with templates(source, to) as (_, new):
            given, problems = changed_answers(source, new, file, settings)
            outcome = simulate(source, scratch, given, to)
            if outcome.losses and not accept_loss:
                raise Refused(
                    [loss(name) for name in outcome.losses],
                    summary=f"{path} is not changed; with --accept-loss these edits are given up (Git keeps them)",
                )
            commands = preview.commands(
                outcome.before,
                outcome.after,
                outcome.inside(source),
                new.catalog,
                outcome.clone / source.below / "playbooks",
            )
            apply(source, outcome, scratch, lock)
        return Updated(outcome, problems, commands)


def loss(name: str) -> Problem:
    """Return the finding about a file that was edited and that the new plan does not have."""
    return Problem(
        id="U13", severity="error", message="the plan no longer has this file, and it was edited by hand", where=name,
        why="the edit would vanish without a word",
        todo="move what you need into a file of your own (90-local.yml, Your notes), or add --accept-loss",
    )  # fmt: skip


def conflict_advice(name: str) -> str:
    """Return what to do about a conflict in a file."""
    if name.endswith("10-generated.yml"):
        return "keep the new side; your own values belong in 90-local.yml beside the file"
    if name.endswith("plan.yml") or name.startswith(("checklists/", "certificates/register")):
        return "keep the new side; the file is made from the answers"
    return "edit the file: keep what is right of both sides and delete the marker lines; then git add it"


def explain_conflicts(conflicts: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return the conflicts as lines of text, file by file."""
    lines = []
    for name, hunks in conflicts.items():
        if name.endswith(".rej"):
            lines.append(f"conflict: {name}; a change could not be placed; apply it by hand and delete the file")
            continue
        at = ", ".join(str(hunk["line"]) for hunk in hunks)
        where = f"line {at}" if len(hunks) == 1 else f"lines {at}" if hunks else "the whole file"
        lines.append(
            f"conflict: {name}; {where}; people and the update changed the same lines; {conflict_advice(name)}"
        )
        for hunk in hunks:
            for side, word in (("yours", "yours"), ("new", "new  ")):
                shown = [line.strip()[:110] for line in hunk[side] if line.strip()][:3]
                lines += [f"    {word} {line}" for line in shown or ["(nothing)"]]
    return lines


@click.command()
@click.argument("repo", type=click.Path(file_okay=False, path_type=Path), default=".")
@click.option(
    "--answers", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Answers that change; those left out stay as they are.",
)  # fmt: skip
@click.option("--set", "settings", multiple=True, metavar="ID=VALUE", help="One answer that changes; may be repeated.")
@click.option("--to", metavar="VERSION", help="Go to this version of the template, or to the latest.")
@click.option("--template", metavar="PATH|URL", help="Where the template is now, if it moved.")
@click.option("--accept-loss", is_flag=True, help="Give up edits in files that the new plan does not have.")
def update(
    repo: Path, file: Path | None, settings: tuple[str, ...], to: str | None, template: str | None, accept_loss: bool
) -> None:
    """Change the plan of REPO, or go to another version of the template.

    Nothing is committed: look at the result with `git diff`, then commit it. See what it would do first with
    `santescaffold plan` and the same options.

    \b
    Examples:
      santescaffold update --set web_portal=false
      santescaffold update --answers changed.yml
      santescaffold update --to latest
    """
    try:
        with progress("Updating a scratch copy"):
            done = run(repo, file, settings, to, template, accept_loss)
    except Refused as refused:
        print_problems(refused.problems, sys.stderr)
        if refused.summary:
            click.echo(refused.summary, err=True)
        sys.exit(refused.code)
    except TemplateError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(PROBLEMS)
    print_problems(done.problems, sys.stderr)
    outcome = done.outcome
    if not outcome.files:
        click.echo("Nothing changes: the repository is as the answers say.")
        return
    counts = {word: list(outcome.files.values()).count(word) for word in ("added", "changed", "removed")}
    click.echo(", ".join(f"{count} files {word}" for word, count in counts.items() if count) + ".")
    for line in explain_conflicts(outcome.conflicts):
        click.echo(line, err=True)
    if outcome.conflicts:
        click.echo(
            f"{len(outcome.conflicts)} files with conflicts; resolve them before anything is deployed.", err=True
        )
        sys.exit(PROBLEMS)
    click.echo(
        "Look at it (git diff), commit it, then run:" if done.commands else "Look at it (git diff) and commit it."
    )
    for command in done.commands:
        click.echo(f"  {command['command']}")


@contextlib.contextmanager
def progress(text: str) -> Iterator[None]:
    """Show on a terminal that something goes on."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield
