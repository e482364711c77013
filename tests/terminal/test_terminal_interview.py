"""The questionnaire as people meet it: Copier's questions in a terminal, answered with the keyboard."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pexpect
import pytest
import yaml

from santescaffold.template import Template
from tests.docs.pages import block, redirected
from tests.support import MINIMUM, ROOT, commit, git
from tools.render import snapshot

DOWN, ENTER, ESCAPE = "\x1b[B", "\r", "\x1b"
PROMPT, DRAWN = r"\?2004h", r"\?7h"  # how prompt_toolkit begins a question, and ends drawing it
SECONDS = 240


def first_words(text: str) -> str:
    return " ".join(text.split())[:40]


def settled(process: Any) -> str:
    """Return what is shown until the terminal is quiet: answers are checked while they are typed, in the background."""
    shown = ""
    with contextlib.suppress(pexpect.TIMEOUT):
        while True:
            shown += process.read_nonblocking(65536, timeout=1)
    return shown


def interview(answers: Mapping[str, str], directory: Path) -> list[str]:
    """Run the README's command; answer its questions with ``answers`` and Enter for the rest; return the ids asked."""
    template = snapshot(directory / "template")
    git(template, "init", "--quiet", "--initial-branch", "main")
    commit(template)
    git(template, "tag", "v1.0.0")
    catalog = Template(ROOT).catalog
    ids = {first_words(question["help"]): name for name, question in catalog["questions"].items()}
    assert len(ids) == len(catalog["questions"])
    process = pexpect.spawn(
        "bash",
        ["-c", block("README.md", "copier copy")],
        cwd=str(directory),
        encoding="utf-8",
        timeout=SECONDS,
        dimensions=(60, 200),
        env={
            **os.environ,
            "TERM": "xterm",
            "PROMPT_TOOLKIT_NO_CPR": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(directory),  # Copier keeps what it clones there
            **redirected(template),
        },
    )
    asked = []
    while process.expect([PROMPT, pexpect.EOF]) == 0:
        process.expect(DRAWN)
        shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", process.before)
        words = " ".join(shown.split("🎤", 1)[1].split())
        asked.append(next(name for start, name in ids.items() if words.startswith(start)))
        screen = ""
        for keys in answers.get(asked[-1], "").split("|"):
            if keys == "refused":
                # What was typed is not accepted: the reason is on the screen, and the question still open.
                process.send(ENTER)
                while "Validation error for question" not in screen:
                    screen += process.read_nonblocking(65536, timeout=SECONDS)
                screen += settled(process)
                assert f"; {asked[-1]}; " in screen
                process.send("\x15")  # empties the line
                settled(process)
            elif keys:
                process.send(keys)
                screen = settled(process)
        process.send(ESCAPE + ENTER if "Alt+Enter" in shown else ENTER)
    process.close()
    assert process.exitstatus == 0, process.before
    return asked


def plan_of(repository: Path) -> dict[str, Any]:
    plan: dict[str, Any] = yaml.safe_load((repository / "plan.yml").read_text(encoding="utf-8"))
    return plan


@pytest.fixture(scope="module")
def essential(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    directory = tmp_path_factory.mktemp("essential")
    typed = {name: str(value) for name, value in MINIMUM.items()}
    typed["country_code"] = f"Testland|refused|{MINIMUM['country_code']}"
    return directory / "registry", interview(typed, directory)


def test_the_essential_interview_asks_what_it_must_and_takes_enter_for_the_rest(
    essential: tuple[Path, list[str]],
) -> None:
    repository, asked = essential
    questions = Template(ROOT).catalog["questions"]
    essentials = [name for name, question in questions.items() if question.get("essential")]
    only_then = {"offline_patterns", "audit_atna", "audit_fhir", "publisher_certificate"}
    assert asked == ["interview", *(name for name in essentials if name not in only_then)]
    answers = yaml.safe_load((repository / ".copier-answers.yml").read_text(encoding="utf-8"))
    assert {name: answers[name] for name in MINIMUM} == MINIMUM
    assert {name for name in answers if not name.startswith("_")} == {*asked, *only_then, "plan_is_valid"}


@pytest.mark.slow
def test_enter_to_every_question_of_the_full_interview_makes_the_same_plan(
    essential: tuple[Path, list[str]], tmp_path: Path
) -> None:
    asked = interview({"interview": DOWN, **{name: str(value) for name, value in MINIMUM.items()}}, tmp_path)
    assert len(asked) > 120
    assert set(essential[1]) < set(asked)
    assert plan_of(tmp_path / "registry") == plan_of(essential[0])
