"""The command line. Verbs are loaded when they are called, so that none waits for the imports of another."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import click

FINE, PROBLEMS, WRONG_USE = 0, 1, 2
"""The exit codes of every verb."""

VERBS = {
    "check-answers": "santescaffold.cli:check_answers",
    "new": "santescaffold.cli:new",
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
