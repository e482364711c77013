"""The ten named plans: each renders, without trust, to exactly its golden tree; the test renderer gives the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import PLAN_NAMES, PLANS, load_plan, renderer
from tools.golden import differences, rendered_tree, stored_tree


def test_there_are_ten_named_plans() -> None:
    assert len(PLAN_NAMES) == 10


@pytest.mark.parametrize("name", PLAN_NAMES)
def test_plan_renders_its_golden_tree(name: str, template_dir: Path, tmp_path: Path) -> None:
    """An intended change is written with ``make golden`` and reviewed in the diff."""
    now = rendered_tree(PLANS / f"{name}.yml", template_dir, tmp_path)
    found = differences(stored_tree(name), now)
    assert not found, "\n".join(["run `make golden` and review the diff if this is intended:", *found[:5]])

    in_process = renderer().render(load_plan(name))
    now.pop(".copier-answers.yml")
    assert not differences(now, in_process), "tests/support.py no longer renders what Copier renders"
