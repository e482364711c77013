"""ansible-lint (production profile) and yamllint on the ten named plans, with the rendered repository's own configuration.

Roles and playbooks are static, the same bytes in every repository: `make demo` lints them whole (tests/docs/test_commands.py), and
here the other plans lint what differs from it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import PLAN_NAMES, load_plan

TOOLS = Path(sys.executable).parent
WHOLE = "demoland-mpi"  # by `make demo`


def run(directory: Path, *command: str) -> None:
    """Run one of the tools of this virtual environment in ``directory``; fail with what it printed."""
    environment = {**os.environ, "PATH": f"{TOOLS}:{os.environ['PATH']}", "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=directory, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PLAN_NAMES if name != WHOLE])
def test_rendered_repository_is_clean(name: str, copy: Callable[..., Path]) -> None:
    repository = copy(load_plan(name))
    run(repository, "yamllint", "--strict", "inventories", "certificates", "audit", "plan.yml")
    run(repository, "ansible-lint", "--offline")
