"""Random series of answer changes, people's edits and template versions: no edit is ever silently gone.

The series are drawn by hypothesis from a fixed seed, so every run tries the same ones.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.conftest import ReleasedTemplate
from tests.support import ROOT, commit, git, load_plan
from tools.render import snapshot

ANSWER_CHANGES: list[dict[str, Any]] = [
    {"web_portal": False},
    {"web_portal": True},
    {"topology": "clustered", "cache": "redis"},
    {"topology": "single_host"},
    {"concurrent_clients": 90},
    {"environments": ["production"]},
    {"environments": ["training", "staging", "production"]},
    {"break_glass": True},
    {"roles": ["mfr", "mpr"], "mdm_resources": None},
    {"roles": ["mfr"]},
    {"offline": True},
    {"mfa": "optional"},
    {
        "identity_domains": [
            {
                "name": "Licence",
                "namespace_id": "LIC",
                "oid": "2.16.840.1.113883.3.9.4",
                "url": "https://id.example.org/lic",
                "purpose": "licensing",
                "scope": ["Place"],
            }
        ]
    },
    {"languages": ["en", "fr"]},
]
EDITABLE = [
    "README.md",
    "docs/operational-architecture.md",
    "docs/threat-risk-assessment.md",
    "docs/privacy-impact-assessment.md",
    "docs/raci.md",
    "docs/business-continuity.md",
    "docs/runbooks/backup-and-restore.md",
    "checklists/4-deployment.md",
]
OWN = [
    "records/project/PLN-10.yml",
    "records/production/DEP-79.yml",
    "inventories/production/group_vars/all/90-local.yml",
]

STEP = st.one_of(
    st.tuples(st.just("answers"), st.integers(0, len(ANSWER_CHANGES) - 1)),
    st.tuples(st.just("edit"), st.sampled_from(EDITABLE), st.integers(0, 10_000)),
    st.tuples(st.just("append"), st.sampled_from(EDITABLE)),
    st.tuples(st.just("own"), st.sampled_from(OWN)),
    st.tuples(st.just("version"), st.sampled_from(EDITABLE), st.integers(0, 10_000)),
)


def insert_line(path: Path, line: str, place: int) -> None:
    """Insert ``line`` as a paragraph after one of the blank lines of ``path``, outside tables and code."""
    lines = path.read_text(encoding="utf-8").splitlines()
    fenced = False
    places = []
    for number, text in enumerate(lines):
        fenced ^= text.startswith("```")
        if not text and not fenced:
            places.append(number)
    at = places[place % len(places)] if places else len(lines)
    lines[at:at] = ["", line]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def resolve(path: Path) -> None:
    """Settle conflicts as a careful person would who keeps both sides."""
    kept = [
        line for line in path.read_text(encoding="utf-8").splitlines() if not re.match(r"(<{7}|={7}|>{7})( |$)", line)
    ]
    path.write_text("\n".join(kept) + "\n", encoding="utf-8")


@contextlib.contextmanager
def registry() -> Iterator[tuple[ReleasedTemplate, Path]]:
    """Yield a released template and a facility registry made from it; examples of hypothesis share no fixture."""
    with tempfile.TemporaryDirectory(prefix="santescaffold-series-") as scratch:
        template = ReleasedTemplate(snapshot(Path(scratch) / "template", ROOT, roles=False))
        git(template.path, "init", "--quiet", "--initial-branch", "main")
        template.release("v1.0.0")
        yield template, template.copy(Path(scratch) / "repository", load_plan("facility-registry"))


def write(repository: Path, step: tuple[Any, ...], mark: str) -> bool:
    """Write ``mark`` as people do, when the step is one of theirs."""
    path = repository / step[1] if step[0] in ("edit", "append", "own") else repository
    if step[0] == "edit":
        insert_line(path, mark, step[2])
    elif step[0] == "append":
        path.write_text(path.read_text(encoding="utf-8") + f"\n{mark}\n", encoding="utf-8")
    elif step[0] == "own":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {mark}\n---\nkept: true\n", encoding="utf-8")
    return path != repository


def release(template: ReleasedTemplate, step: tuple[Any, ...], version: int) -> None:
    """Release a version with another text in the page of the step."""
    insert_line(template.path / "template" / f"{step[1]}.jinja", f"Text of version {version} of the template.", step[2])
    template.release(f"v1.{version}.0")


@pytest.mark.slow
@seed(20261121)
@settings(
    max_examples=6, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(steps=st.lists(STEP, min_size=4, max_size=7))
def test_no_edit_is_silently_gone(steps: list[tuple[Any, ...]]) -> None:
    with registry() as (template, repository):
        edits: dict[str, str] = {}
        for number, step in enumerate(steps, 1):
            mark = f"Edit {number} by the people of the registry."
            if write(repository, step, mark):
                if step[0] == "own":  # replaces the file
                    edits = {old: name for old, name in edits.items() if name != step[1]}
                edits[mark] = step[1]
                commit(repository, mark)
                continue
            if step[0] == "version":
                release(template, step, number)
                conflicts = template.update(repository, ref=None)
            else:
                conflicts = template.update(repository, ANSWER_CHANGES[step[1]])
            for old, name in edits.items():
                text = (repository / name).read_text(encoding="utf-8")
                assert old in text, f"{old!r} of {name} is gone after {step}; conflicts: {conflicts}"
            for name in conflicts:
                resolve(repository / name)
            assert not list(repository.rglob("*.rej"))
            commit(repository, f"update {number}")
