"""Write the golden trees: what each named plan renders to, kept so that a change of the template shows in review.

Only files that depend on the plan are kept; static ones are the template's own. ``--check`` compares instead of writing.
"""

from __future__ import annotations

import argparse
import difflib
import shutil
import sys
import tempfile
from pathlib import Path

import yaml

from tools.render import ROOT, render, snapshot

GOLDEN = ROOT / "tests" / "golden"
PLANS = ROOT / "tests" / "plans" / "valid"


def rendered_tree(answers_file: Path, template: Path, scratch: Path) -> dict[str, str]:
    """Return {path: text} of what Copier renders from ``answers_file`` that is not a static file of the template."""
    destination = render(
        scratch / answers_file.stem, yaml.safe_load(answers_file.read_text(encoding="utf-8")), template
    )
    found: dict[str, str] = {}
    for path in sorted(destination.rglob("*")):
        name = path.relative_to(destination).as_posix()
        if not path.is_file() or (template / "template" / name).is_file():
            continue
        text = path.read_text(encoding="utf-8")
        if name == ".copier-answers.yml":
            # Where the template lay is this run's accident.
            text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("_src_path"))
        found[name] = text
    return found


def stored_tree(plan: str) -> dict[str, str]:
    """Return {path: text} of the golden tree of ``plan``; empty when there is none yet."""
    directory = GOLDEN / plan
    return {
        path.relative_to(directory).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def differences(golden: dict[str, str], now: dict[str, str]) -> list[str]:
    """Return unified diffs of everything that is not the same in the two trees."""
    found: list[str] = []
    for name in sorted({*golden, *now}):
        before, after = golden.get(name), now.get(name)
        if before == after:
            continue
        lines = difflib.unified_diff(
            (before or "").splitlines(), (after or "").splitlines(), f"golden/{name}", f"now/{name}", lineterm="", n=1
        )
        found.append("\n".join(list(lines)[:60]))
    return found


def main(argv: list[str] | None = None) -> int:
    """Write or check the golden trees of all plans, or of those named; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plans", nargs="*", help="names of plans; all when none is given")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    arguments = parser.parse_args(argv)
    status = 0
    with tempfile.TemporaryDirectory(prefix="santescaffold-") as scratch:
        template = snapshot(Path(scratch) / "template", roles=False)
        for answers_file in sorted(PLANS.glob("*.yml")):
            if arguments.plans and answers_file.stem not in arguments.plans:
                continue
            now = rendered_tree(answers_file, template, Path(scratch))
            if arguments.check:
                for difference in differences(stored_tree(answers_file.stem), now):
                    print(difference)
                    status = 1
                continue
            shutil.rmtree(GOLDEN / answers_file.stem, ignore_errors=True)
            for name, text in now.items():
                target = GOLDEN / answers_file.stem / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text, encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main())
