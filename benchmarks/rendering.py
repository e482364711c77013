"""Measure how long a plan takes to render.

1. demoland-mpi against a trivial template with the same number of files and bytes (a file that depends on the plan in ours
   is a template there too, one that is static is static there), both by the ``copier`` command, alternating in one run.
   Budget: at most twice the time.
2. 1,000 clinics in ``sites`` against 10. Budget: at most three times the time.

Usage: python benchmarks/rendering.py [--runs N] [--check]     (--check fails when a budget is exceeded)
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tools.render import ROOT, snapshot

COPIER = Path(sys.executable).parent / "copier"
PLANS = ROOT / "tests" / "plans" / "valid"
TRIVIAL_BUDGET = 2.0
SITES_BUDGET = 3.0


def copier(template: Path, destination: Path, answers: Path | None) -> float:
    """Render once with the copier command; return the seconds it took."""
    command = [str(COPIER), "copy", "--quiet", "--defaults"]
    if answers:
        command += ["--data-file", str(answers)]
    started = time.perf_counter()
    subprocess.run(
        [*command, str(template), str(destination)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return time.perf_counter() - started


def trivial_template(rendered: Path, ours: Path, destination: Path) -> tuple[int, int]:
    """Write a template of the same files and bytes as ``rendered``; return (files, bytes)."""
    files = size = 0
    (destination / "template").mkdir(parents=True)
    (destination / "copier.yml").write_text(
        "_subdirectory: template\nproject_name:\n  type: str\n  default: x\n", encoding="utf-8"
    )
    for path in sorted(rendered.rglob("*")):
        if not path.is_file():
            continue
        name = path.relative_to(rendered)
        text = path.read_text(encoding="utf-8")
        files, size = files + 1, size + len(text.encode())
        target = destination / "template" / name
        if not (ours / "template" / name).is_file():
            target = target.with_name(target.name + ".jinja")
            text = "{% raw %}" + text + "{% endraw %}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return files, size


def with_sites(number: int, target: Path) -> Path:
    """Write the plan of the offline district with ``number`` clinics; return its path."""
    answers: dict[str, Any] = yaml.safe_load((PLANS / "district-ims-offline.yml").read_text(encoding="utf-8"))
    answers["sites"] = [
        {
            "name": f"Clinic {n}",
            "code": f"C-{n:04}",
            "users": 4,
            "link": "slow",
            "pattern": "dcdr_gateway",
            "responsible_person": f"Nurse {n}",
        }
        for n in range(number)
    ]
    target.write_text(yaml.safe_dump(answers), encoding="utf-8")
    return target


def compare(
    scratch: Path, runs: int, one: tuple[Path, Path | None], other: tuple[Path, Path | None]
) -> tuple[float, float, float]:
    """Render two things alternately ``runs`` times; return the median seconds of each, and the median of how they compare.

    Each run is compared with the one beside it, so that a machine that is slow for a while slows both.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for run in range(runs + 1):
        for index, (template, answers) in enumerate((one, other)):
            seconds = copier(template, scratch / f"out-{run}-{index}", answers)
            if run:  # the first run warms the caches
                times[index].append(seconds)
    ratios = [mine / its for mine, its in zip(*times, strict=True)]
    return statistics.median(times[0]), statistics.median(times[1]), statistics.median(ratios)


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and with ``--check`` compare with the budgets; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args(argv)
    within = True
    with tempfile.TemporaryDirectory(prefix="santescaffold-") as directory:
        scratch = Path(directory)
        template = snapshot(scratch / "template")
        plan = PLANS / "demoland-mpi.yml"
        copier(template, scratch / "sample", plan)
        files, size = trivial_template(scratch / "sample", template, scratch / "trivial")
        ours, theirs, ratio = compare(scratch / "a", arguments.runs, (template, plan), (scratch / "trivial", None))
        within &= ratio <= TRIVIAL_BUDGET
        print(
            f"demoland-mpi: {files} files, {size / 1024:.0f} KiB: {ours:.2f} s; "
            f"trivial template of the same files: {theirs:.2f} s; ratio {ratio:.2f}"
        )
        few, many = with_sites(10, scratch / "few.yml"), with_sites(1000, scratch / "many.yml")
        thousand, ten, ratio = compare(scratch / "b", arguments.runs, (template, many), (template, few))
        within &= ratio <= SITES_BUDGET
        print(f"sites: 10 clinics {ten:.2f} s; 1,000 clinics {thousand:.2f} s; ratio {ratio:.2f}")
    if arguments.check and not within:
        print("a budget is exceeded", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
