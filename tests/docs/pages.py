"""What the tests of the documentation share: its pages, their blocks of commands, and a shell that stops at an error."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.support import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if "reference" not in page.relative_to(DOCS).parts)
WRITTEN = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
URL = "https://github.com/santescaffold/santescaffold"
_FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return (kind, text) of every block of a page, without the indent of a list around it."""
    return [
        (kind, re.sub(f"^{indent}", "", text, flags=re.MULTILINE))
        for indent, kind, text in _FENCE.findall(page.read_text(encoding="utf-8"))
    ]


def without_blocks(page: Path) -> str:
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def runnable(page: Path) -> list[str]:
    """Return the blocks of a page that are run as one script, in order."""
    return [text for kind, text in blocks(page) if kind == "sh run"]


def others(page: Path) -> list[str]:
    """Return the blocks of commands of a page that need something a script lacks: a person, a network, hosts."""
    return [text for kind, text in blocks(page) if kind == "sh"]


def block(name: str, start: str) -> str:
    """Return the one of those of the page ``name`` that begins with ``start``."""
    found = [text for text in others(ROOT / name) if text.startswith(start)]
    assert len(found) == 1, f"{name} has {len(found)} blocks that begin with {start!r}"
    return found[0]


def commands(text: str) -> list[str]:
    """Return the commands of a block, one a line, without comments."""
    lines = [line.split(" #")[0].strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def redirected(project: Path) -> dict[str, str]:
    """Return the variables with which Git finds the project's public address in a directory."""
    return {
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": f"url.{project}.insteadOf",
        "GIT_CONFIG_VALUE_0": URL,
        "GIT_CONFIG_KEY_1": f"url.{project}.insteadOf",
        "GIT_CONFIG_VALUE_1": f"{URL}.git",
    }


def shell(script: str, directory: Path, environment: dict[str, str]) -> str:
    """Run a script as one shell that stops at the first command that fails."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=directory, env=environment, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=850,
    )  # fmt: skip
    assert done.returncode == 0, f"{script}\nends with {done.returncode}:\n{done.stdout}"
    return done.stdout
