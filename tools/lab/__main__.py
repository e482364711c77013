"""Command line of the lab: run, doctor, install, build, sweep."""

from __future__ import annotations

import argparse
import sys
import time

from tools.lab import namespaces, needs
from tools.lab.base import SUITES, base_image


def main(arguments: list[str]) -> int:
    """Do what the arguments say; return the exit code (0 fine, 1 the lab cannot run here, 2 wrong use)."""
    if arguments[:1] == ["_inside"]:
        return namespaces.live_inside(int(arguments[1]), arguments[2:])
    parser = argparse.ArgumentParser(prog="python -m tools.lab", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="run COMMAND inside a new lab: python -m tools.lab run -- pytest -m lab")
    run.add_argument("--memory", default="12G", help="limit of what all hosts together may write (default 12G)")
    run.add_argument("command", nargs=argparse.REMAINDER)
    verbs.add_parser("doctor", help="try every prerequisite and say what fails")
    verbs.add_parser("install", help="apt-get install what is missing (root)")
    build = verbs.add_parser("build", help="build the base images ahead of time")
    build.add_argument(
        "suite", nargs="*", default=["bookworm"], help=f"{', '.join(SUITES.values())}, standin, compose, wheels"
    )
    verbs.add_parser("sweep", help="remove what killed runs left behind")
    options = parser.parse_args(arguments)
    if options.verb == "doctor":
        for note in needs.notes():
            print(f"lab: {note}")
        return report(needs.why_not())
    if options.verb == "install":
        missing = needs.install()
        if missing:
            print(f"not installed: {' '.join(missing)}; run as root: apt-get install {' '.join(missing)}")
        return report(needs.why_not()) if not missing else 1
    if options.verb == "sweep":
        print("\n".join(namespaces.sweep()) or "nothing left behind")
        return 0
    if options.verb == "build":
        from tools.lab import images  # needs PyYAML, which doctor and install must do without

        for suite in options.suite:
            begun = time.monotonic()
            if suite == "standin":
                path = images.standin_archive()
            elif suite == "compose":
                path = images.compose_plugin()
            elif suite == "wheels":
                path = images.wheels()
            else:
                path = base_image(suite)
            print(f"{path} ({time.monotonic() - begun:.1f} s)")
        return 0
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser.error("run needs a command: python -m tools.lab run -- COMMAND")
    reasons = needs.why_not()
    if reasons:
        report(reasons)
        return 1
    return namespaces.run(command, memory=options.memory)


def report(reasons: list[str]) -> int:
    """Print the reasons, one a line, or that there are none; return 1 or 0."""
    for reason in reasons:
        print(f"lab: {reason}")
    if not reasons:
        print("lab: can run here")
    return 1 if reasons else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
