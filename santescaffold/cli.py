"""The command line. Verbs are loaded when they are called, so that none waits for the imports of another."""

from __future__ import annotations

import errno
import importlib
import sys
from pathlib import Path
from typing import Any

import click

FINE, PROBLEMS, WRONG_USE = 0, 1, 2
"""The exit codes of every verb."""

VERBS = {
    "check-answers": "santescaffold.cli:check_answers",
    "interview": "santescaffold.interview.command:interview",
    "new": "santescaffold.cli:new",
    "check": "santescaffold.cli:check",
    "status": "santescaffold.cli:status",
    "adopt": "santescaffold.adopt:adopt",
    "plan": "santescaffold.preview:plan",
    "update": "santescaffold.update:update",
    "report": "santescaffold.report:report",
    "sign": "santescaffold.cli:sign",
    "waive": "santescaffold.cli:waive",
    "explain": "santescaffold.cli:explain",
}
"""Every verb and where its click command is: ``module:attribute``."""


class Verbs(click.Group):
    """A group whose commands are imported only when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all verbs."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one verb."""
        if cmd_name not in VERBS:
            return None
        module, _, attribute = VERBS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb somebody typed, or say which one may have been meant."""
        if args[0] not in VERBS and not args[0].startswith("-"):
            import difflib

            meant = difflib.get_close_matches(args[0], VERBS, 1, 0.5)
            raise click.UsageError(
                f"there is no command {args[0][:40]}; nothing was done; "
                + (f"did you mean {meant[0]}?" if meant else "see `santescaffold --help`"),
                ctx,
            )
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; a repository or a disk that cannot be used is told in one sentence, whichever verb met it."""
        try:
            return super().invoke(ctx)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # somebody has read enough; click knows
            click.echo(
                f"Error: {error.strerror or error}; {error.filename or ctx.invoked_subcommand}; the command could not "
                "finish; see that the file is there, that you may use it and that the disk has space",
                err=True,
            )
            ctx.exit(PROBLEMS)
        except Exception as error:
            from santescaffold.repository import NoRepository

            if not isinstance(error, NoRepository):
                raise
            click.echo(f"Error: {error}", err=True)
            ctx.exit(WRONG_USE)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs with their whole first sentence, however narrow the terminal."""
        rows = []
        for name in VERBS:
            command = self.get_command(ctx, name)
            assert command is not None
            rows.append((name, " ".join((command.help or "").split("\n\n")[0].split())))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def known_tasks(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Complete the id of a task from the plan."""
    return [name for name in _completing(ctx, "tasks") if name.startswith(incomplete.upper())]


def known_environments(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Complete the name of an environment from the plan."""
    return [name for name in _completing(ctx, "environments") if name.startswith(incomplete)]


def known_ids(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Complete whatever can be explained."""
    from santescaffold import explain as explaining

    names = {*explaining.everything(explaining.load_catalog()), *_completing(ctx, "tasks")}
    return sorted(name for name in names if name.casefold().startswith(incomplete.casefold()))


def _completing(ctx: click.Context, what: str) -> list[str]:
    from santescaffold.repository import NoRepository, Repository

    try:
        return list(getattr(Repository(Path(ctx.params.get("repo") or ".")), what))
    except NoRepository:
        return []  # outside a repository there is nothing to offer


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="santescaffold")
def main() -> None:
    """Plan a SanteDB deployment, and keep its repository in step with the plan.

    Every verb ends with 0 when all is well, 1 when it found problems, 2 when it was called wrongly.
    """


TEMPLATE_HELP = "Where the template is: a URL, or the directory of a clone."


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--template", metavar="PATH|URL", help=TEMPLATE_HELP)
@click.option("--vcs-ref", metavar="REF", help="Tag, branch or commit of the template.")
@click.option("--json", "as_json", is_flag=True, help="Write the findings as JSON.")
def check_answers(file: Path, template: str | None, vcs_ref: str | None, as_json: bool) -> None:
    """List every problem of the answers in FILE, before anything is rendered.

    Exits with 1 when there are errors; warnings alone do not stop a plan.

    \b
    Examples:
      santescaffold check-answers plan.yml
      santescaffold check-answers plan.yml --template ~/santescaffold --json
    """
    from santescaffold import answers, problems
    from santescaffold.template import PUBLIC_URL, TemplateError, obtain

    try:
        with obtain(template or PUBLIC_URL, vcs_ref) as found:
            listed = answers.check(answers.read(file, found), found)
    except TemplateError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(PROBLEMS)
    if as_json:
        problems.print_json(listed, file=str(file))
    else:
        problems.print_problems(listed)
        click.echo(f"{file}: {problems.summary(listed)}", err=bool(listed))
    sys.exit(PROBLEMS if problems.errors(listed) else FINE)


@click.command()
@click.argument("dest", type=click.Path(path_type=Path))
@click.option(
    "--answers",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Answers file; asks without.",
)
@click.option("--template", metavar="PATH|URL", help=TEMPLATE_HELP)
@click.option("--vcs-ref", metavar="REF", help="Tag, branch or commit of the template.")
def new(dest: Path, file: Path | None, template: str | None, vcs_ref: str | None) -> None:
    """Check the answers, write the deployment repository to DEST, and commit it.

    Nothing is left behind when it refuses or is interrupted.

    \b
    Examples:
      santescaffold new registry --answers plan.yml
      santescaffold new registry                       asks the questions here
      santescaffold new registry --answers plan.yml --template ~/santescaffold --vcs-ref v1.0.0
    """
    from santescaffold.new import Refused, create
    from santescaffold.problems import print_problems
    from santescaffold.template import PUBLIC_URL, TemplateError

    try:
        created = create(dest, file, template or PUBLIC_URL, vcs_ref)
    except Refused as refused:
        print_problems(refused.problems, sys.stderr)
        if refused.summary:
            click.echo(refused.summary, err=True)
        sys.exit(refused.code)
    except TemplateError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(PROBLEMS)
    print_problems(created.problems, sys.stderr)
    click.echo(f"{dest} is written and committed. Next: read {dest / 'README.md'}.")


REPO = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("repo", type=REPO, default=".")
@click.option("--environment", metavar="E", shell_complete=known_environments, help="Only this environment.")
@click.option("--json", "as_json", is_flag=True, help="Write the status as JSON.")
@click.option("--exit-code", is_flag=True, help="Exit with 1 while an environment is blocked (for CI).")
def status(repo: Path, environment: str | None, as_json: bool, exit_code: bool) -> None:
    """Show where each phase stands and what blocks which environment.

    A task is open (no record), done, waived, or void (its record holds no longer).

    \b
    Examples:
      santescaffold status
      santescaffold status --environment production --exit-code
      santescaffold status demo --json
    """
    from santescaffold import status as shown

    repository = _repository(repo, environment)
    found = shown.collect(repository, environment)
    (shown.print_status_json if as_json else shown.print_status)(found)
    sys.exit(PROBLEMS if exit_code and not found["ok"] else FINE)


def tell_interrupted(path: Path) -> None:
    """Take back what an interrupted update left behind, and say so; nobody reads half of an update."""
    from santescaffold.journal import attend

    found = attend(path)
    if found:
        click.echo(f"Note: {found}", err=True)


def _repository(path: Path, environment: str | None = None) -> Any:
    """Open a repository, and refuse an environment it does not have."""
    from santescaffold.repository import NoRepository, Repository

    tell_interrupted(path)
    try:
        repository = Repository(path)
        if environment is not None and environment not in repository.environments:
            raise click.UsageError(
                f"the plan has no environment {environment}; {path}; nothing was read or written; "
                f"name one of {', '.join(repository.environments)}"
            )
    except NoRepository as error:
        raise click.UsageError(str(error)) from None
    return repository


@click.command()
@click.argument("task", shell_complete=known_tasks)
@click.option("--repo", type=REPO, default=".", help="The deployment repository.")
@click.option(
    "--environment", metavar="E", shell_complete=known_environments, help="Needed for tasks of deployment and rollout."
)
@click.option("--by", required=True, metavar="NAME", help="Who signs.")
@click.option("--team-role", required=True, metavar="ROLE", help="In which team role, such as security_analyst.")
@click.option("--evidence", metavar="PATH|URL", help="What shows that it is done.")
@click.option("--approved-by", multiple=True, metavar="NAME", help="The second person; may be repeated.")
@click.option("--on", "on", metavar="DATE", help="The day; today unless said.")
@click.option("--expires", metavar="DATE", help="Until when it holds, when it does so for a time.")
@click.option("--note", metavar="TEXT", help="A remark; the conclusion of a review.")
@click.option("--site", metavar="CODE", help="Of which site, for a task repeated for each.")
@click.option("--partner", metavar="NAME", help="Of which partner, for a task repeated for each.")
@click.option("--again", is_flag=True, help="Replace a record that stands.")
def sign(
    task: str,
    repo: Path,
    environment: str | None,
    by: str,
    team_role: str,
    evidence: str | None,
    approved_by: tuple[str, ...],
    on: str | None,
    expires: str | None,
    note: str | None,
    site: str | None,
    partner: str | None,
    again: bool,
) -> None:
    """Sign off TASK: write its record, which holds as long as the answers it rests on stay the same.

    A sign-off that opens a phase needs a second person (--approved-by). TASK may also be an emergency deployment,
    emergency/<time>: then it is reviewed, and --note is the conclusion. Nothing is committed.

    \b
    Examples:
      santescaffold sign PLN-10 --by "Ama Mensah" --team-role project_sponsor --approved-by "Kofi Boateng" \\
        --evidence docs/minutes/2026-03-31.md
      santescaffold sign DEP-83 --environment production --by "Ama Mensah" --team-role security_analyst --evidence URL
      santescaffold sign emergency/20260331T080000Z --by Ama --team-role security_analyst --note "needed"
    """
    from santescaffold import sign as signing

    repository = _repository(repo, environment)
    try:
        if task.startswith(("emergency/", "records/")):
            path = signing.review(repository, task, environment, by, note)
        else:
            if not evidence:
                raise click.UsageError("Missing option '--evidence'.")
            values = {
                "decision": "done", "by": by, "team_role": team_role, "approved_by": list(approved_by), "on": on,
                "expires": expires, "evidence": evidence, "note": note,
            }  # fmt: skip
            path = signing.write(repository, task, _said(values), environment, site, partner, again)
    except signing.Refused as refused:
        raise click.UsageError(str(refused)) from None
    click.echo(f"{path} is written. Not committed yet: git add {path} && git commit")


@click.command()
@click.argument("task", shell_complete=known_tasks)
@click.option("--repo", type=REPO, default=".", help="The deployment repository.")
@click.option(
    "--environment", metavar="E", shell_complete=known_environments, help="Needed for tasks of deployment and rollout."
)
@click.option("--reason", required=True, metavar="TEXT", help="Why going on without it is acceptable.")
@click.option("--expires", required=True, metavar="DATE", help="The last day it holds.")
@click.option("--by", required=True, metavar="NAME", help="Who waives.")
@click.option("--team-role", required=True, metavar="ROLE", help="In which team role.")
@click.option("--approved-by", required=True, multiple=True, metavar="NAME", help="The second person.")
@click.option("--evidence", metavar="PATH|URL", help="Where the decision is written down.")
@click.option("--note", metavar="TEXT", help="A remark.")
@click.option("--site", metavar="CODE", help="Of which site, for a task repeated for each.")
@click.option("--partner", metavar="NAME", help="Of which partner, for a task repeated for each.")
@click.option("--again", is_flag=True, help="Replace a record that stands.")
def waive(
    task: str,
    repo: Path,
    environment: str | None,
    reason: str,
    expires: str,
    by: str,
    team_role: str,
    approved_by: tuple[str, ...],
    evidence: str | None,
    note: str | None,
    site: str | None,
    partner: str | None,
    again: bool,
) -> None:
    """Waive TASK for a time: a reason, a last day and a second person are needed.

    \b
    Example:
      santescaffold waive DEP-98 --environment production --reason "scanner arrives in May" --expires 2026-05-31 \\
        --by "Ama Mensah" --team-role security_analyst --approved-by "Kofi Boateng"
    """
    from santescaffold import sign as signing

    repository = _repository(repo, environment)
    values = {
        "decision": "waived", "by": by, "team_role": team_role, "approved_by": list(approved_by), "expires": expires,
        "reason": reason, "evidence": evidence, "note": note,
    }  # fmt: skip
    try:
        path = signing.write(repository, task, _said(values), environment, site, partner, again)
    except signing.Refused as refused:
        raise click.UsageError(str(refused)) from None
    click.echo(f"{path} is written. Not committed yet: git add {path} && git commit")


def _said(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value}


@click.command()
@click.argument("id", metavar="ID", shell_complete=known_ids)
@click.option("--repo", type=REPO, default=".", help="The deployment repository, if there is one.")
@click.option("--json", "as_json", is_flag=True, help="Write what is known as JSON.")
def explain(id: str, repo: Path, as_json: bool) -> None:
    """Explain an answer, task, feature, constraint, warning or quirk: what it is, what it changes, its source.

    Inside a deployment repository it says what this plan makes of it, too.

    \b
    Examples:
      santescaffold explain storage_mode
      santescaffold explain DEP-50 --repo demo
      santescaffold explain C01 --json
    """
    import json

    from santescaffold import explain as explaining
    from santescaffold.repository import Repository

    tell_interrupted(repo)
    repository = Repository(repo) if (repo / "plan.yml").is_file() else None
    catalog = explaining.load_catalog(repository.answers if repository and not as_json else None)
    known = explaining.everything(catalog, repository.plan if repository else None)
    entry = explaining.find(known, id)
    if entry is None:
        near = explaining.near(known, id)
        raise click.UsageError(
            f"nothing is called {id}; {len(known)} ids are known; there is nothing to explain; "
            + (f"did you mean {' or '.join(near)}?" if near else "look in checklists/ or plan.yml for ids")
        )
    if as_json:
        click.echo(json.dumps(entry, indent=2, ensure_ascii=False))
        return
    head, *rest = explaining.lines(entry)
    click.secho(head, bold=True)
    for line in rest:
        label, _, text = line.partition(": ")
        click.echo(f"{click.style(label, dim=True)}: {text}")


@click.command()
@click.argument("repo", type=REPO, default=".")
@click.option("--json", "as_json", is_flag=True, help="Write the findings as JSON.")
def check(repo: Path, as_json: bool) -> None:
    """Look for what is wrong in a deployment repository, without asking any machine.

    Answers, placeholders, settings SanteDB does not read, secrets in clear, what environments share, certificates,
    sizing, hand edits of generated files, records, personal data, images. Exits with 1 when there are errors.

    \b
    Examples:
      santescaffold check
      santescaffold check demo --json
    """
    from santescaffold import check as checking
    from santescaffold import problems

    found = checking.check(_repository(repo))
    if as_json:
        problems.print_json(found, repository=str(repo))
    else:
        problems.print_problems(found)
        click.echo(f"{repo}: {problems.summary(found)}")
    sys.exit(PROBLEMS if problems.errors(found) else FINE)
