"""The verb ``interview``."""

from __future__ import annotations

import sys
import webbrowser
from pathlib import Path
from typing import Any

import click

from santescaffold.problems import errors, print_problems, summary
from santescaffold.template import PUBLIC_URL, TemplateError, obtain

FINE, PROBLEMS = 0, 1


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), default="answers.yml")
@click.option("--template", metavar="PATH|URL", help="Where the template is: a URL, or the directory of a clone.")
@click.option("--vcs-ref", metavar="REF", help="Tag, branch or commit of the template.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default="any free one")
@click.option("--no-browser", is_flag=True, help="Print the address only.")
def interview(file: Path, template: str | None, vcs_ref: str | None, port: int, no_browser: bool) -> None:
    """Fill in the questionnaire as a form in the browser, into FILE (answers.yml).

    The form is served to this machine only, and only under the address printed. Every change is checked and saved at
    once; run the command again to go on later.

    \b
    Examples:
      santescaffold interview
      santescaffold interview registry.yml --template ~/santescaffold
      ssh -L 8123:127.0.0.1:8123 planner.example.org santescaffold interview --port 8123 --no-browser
    """
    try:
        from santescaffold.interview.server import Server
    except ModuleNotFoundError as error:
        if error.name not in ("flask", "werkzeug"):
            raise
        click.echo(
            "Error: Flask is not installed; the form; it is served with it; "
            "install it with: pip install 'santescaffold[interview]'",
            err=True,
        )
        sys.exit(PROBLEMS)
    from santescaffold.interview.session import CannotOpen, Session

    try:
        with obtain(template or PUBLIC_URL, vcs_ref) as found:
            session = Session(file, found)
            try:
                server = Server(session, port)
            except (OSError, SystemExit) as error:
                click.echo(
                    f"Error: port {port} cannot be listened on ({getattr(error, 'strerror', None) or 'it is taken'}); "
                    "127.0.0.1; the form needs one; leave --port out to take any free one",
                    err=True,
                )
                sys.exit(PROBLEMS)
            _run(server, no_browser)
            _report(session, template)
    except TemplateError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(PROBLEMS)
    except CannotOpen as refused:
        print_problems(refused.problems, sys.stderr)
        sys.exit(PROBLEMS)


def _run(server: Any, no_browser: bool) -> None:
    """Serve until the form is finished or Ctrl-C."""
    click.echo(f"The form is at {server.url}")
    click.echo(f"Answers are saved to {server.session.file} at every change. End with Finish, or Ctrl-C here.")
    if not no_browser:
        webbrowser.open(server.url)
    try:
        server.serve()
    except KeyboardInterrupt:
        click.echo()


def _report(session: Any, template: str | None) -> None:
    """Say what the file is good for now."""
    from santescaffold import answers

    file = session.file
    if not file.exists():
        click.echo("Nothing was answered; no file was written.")
        return
    listed = answers.check(answers.read(file, session.template), session.template)
    where = f" --template {template}" if template else ""
    click.echo(f"{file}: {summary(listed)}")
    if errors(listed):
        click.echo(f"Next: santescaffold interview {file}{where}")
    else:
        click.echo(f"Next: santescaffold new DEST --answers {file}{where}")
