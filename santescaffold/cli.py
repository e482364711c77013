"""The command line. Verbs are loaded when they are called, so that none waits for the imports of another."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import click

FINE, PROBLEMS, WRONG_USE = 0, 1, 2
"""The exit codes of every verb."""

VERBS = {
    "check-answers": "santescaffold.cli:check_answers",
    "new": "santescaffold.cli:new",
    "status": "santescaffold.cli:status",
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


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="santescaffold")
def main() -> None:
    """Plan a SanteDB deployment, and keep its repository in step with the plan."""


TEMPLATE_HELP = "Where the template is: a URL, or the directory of a clone."


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--template", metavar="PATH|URL", help=TEMPLATE_HELP)
@click.option("--vcs-ref", metavar="REF", help="Tag, branch or commit of the template.")
@click.option("--json", "as_json", is_flag=True, help="Write the findings as JSON.")
def check_answers(file: Path, template: str | None, vcs_ref: str | None, as_json: bool) -> None:
    """List every problem of the answers in FILE, before anything is rendered.

    Exits with 1 when there are errors; warnings alone do not stop a plan.
    """
    from santescaffold import answers, problems
    from santescaffold.template import PUBLIC_URL, TemplateError, obtain

    try:
        with obtain((template or PUBLIC_URL).removeprefix("git+"), vcs_ref) as found:
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
@click.option("--environment", metavar="E", help="Only this environment.")
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


def _repository(path: Path, environment: str | None = None) -> Any:
    """Open a repository, and refuse an environment it does not have."""
    from santescaffold.repository import NoRepository, Repository

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
