"""What people write into documents and checklists survives a change of the plan, without a conflict."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ReleasedTemplate
from tests.support import commit, load_plan

CHANGE: dict[str, Any] = {
    "lockout_attempts": 7,
    "mfa": "optional",
    "break_glass": True,
    "topology": "clustered",
    "custom_screens": False,
}


@pytest.mark.slow
def test_every_gap_filled_by_people_survives_a_change_of_the_plan(released: ReleasedTemplate, tmp_path: Path) -> None:
    repository = released.copy(tmp_path / "repository", load_plan("demoland-mpi"))
    number = itertools.count(1)
    for path in (repository / "docs").rglob("*.md"):
        text = re.sub(
            r"TODO\(people\): [^|;,.\n]*",
            lambda _: f"Written by people {next(number)}x",
            path.read_text(encoding="utf-8"),
        )
        path.write_text(text + "\nA note at the end.\n", encoding="utf-8")
    # DEP-60 leaves with the change; a remark on a task that leaves is a conflict, so that nobody loses it unseen.
    checklist = repository / "checklists" / "4-deployment.md"
    checklist.write_text(
        re.sub(
            r"^- (?!DEP-60 )(DEP-\d+) record:",
            r"- \1 remark: looked at\n- \1 record:",
            checklist.read_text(encoding="utf-8"),
            flags=re.M,
        ),
        encoding="utf-8",
    )
    commit(repository, "what people wrote")
    written = next(number) - 1
    assert written > 200

    assert released.update(repository, CHANGE, ref=None) == []

    texts = {path: path.read_text(encoding="utf-8") for path in (repository / "docs").rglob("*.md")}
    found = {match for text in texts.values() for match in re.findall(r"Written by people (\d+)x", text)}
    assert len(found) == written
    assert all(text.endswith("A note at the end.\n") for text in texts.values())
    # Every remark is still in the block of its task.
    task = ""
    remarks = 0
    for line in checklist.read_text(encoding="utf-8").splitlines():
        if line.startswith("### "):
            task = line.split()[1]
        if " remark: looked at" in line:
            assert line == f"- {task} remark: looked at"
            remarks += 1
    assert remarks > 60
