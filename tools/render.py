"""Render a plan with the working tree's template, without Git and without trust, for a quick look.

Usage: python tools/render.py ANSWERS.yml DESTINATION [--set id=value ...]
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import copier
import yaml

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE_PATHS = ("copier.yml", "questions", "catalog/catalog.json", "macros", "template")
"""What of this repository Copier needs to render."""


def snapshot(destination: Path, root: Path = ROOT, *, roles: bool = True) -> Path:
    """Copy what the template consists of to ``destination`` (no Git, no tests) and return it.

    Without ``roles`` the static Ansible roles and playbooks stay behind: no answer changes them, and a copy is several times faster.
    """
    for name in TEMPLATE_PATHS:
        source, target = root / name, destination / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(
                source,
                target,
                symlinks=True,
                dirs_exist_ok=True,
                ignore=shutil.ignore_patterns(".ansible", "__pycache__"),
            )
        else:
            shutil.copy2(source, target)
    if not roles:
        for name in ("roles", "playbooks"):
            shutil.rmtree(destination / "template" / name, ignore_errors=True)
    return destination


def render(destination: Path, answers: dict[str, Any], template: Path) -> Path:
    """Render ``answers`` into ``destination`` as a plain untrusted ``copier copy`` would; returns ``destination``."""
    copier.run_copy(str(template), destination, data=answers, defaults=True, overwrite=True, quiet=True, unsafe=False)
    return destination


def main(argv: list[str] | None = None) -> int:
    """Command line of this module; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("answers", type=Path)
    parser.add_argument("destination", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="ID=VALUE", help="VALUE is YAML")
    arguments = parser.parse_args(argv)
    answers: dict[str, Any] = yaml.safe_load(arguments.answers.read_text(encoding="utf-8"))
    for setting in arguments.set:
        name, _, value = setting.partition("=")
        answers[name] = yaml.safe_load(value)
    with tempfile.TemporaryDirectory(prefix="santescaffold-") as scratch:
        render(arguments.destination, answers, snapshot(Path(scratch) / "template"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
