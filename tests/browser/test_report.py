"""The report in a real browser: opens without a network, on a phone and on paper, and shuts nobody out."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from santescaffold.report import gather, page
from santescaffold.repository import Repository
from tests.browser.browser import PHONE, SCREEN, needs_browser, resize, told, violations
from tests.support import commit, git, load_plan, renderer

pytestmark = [needs_browser, pytest.mark.slow]
NOW = "2026-11-22T10:00:00+00:00"
SIZES = pytest.mark.parametrize("size", [SCREEN, PHONE], ids=["screen", "phone"])


def planned(repository: Path, **changed: Any) -> None:
    answers = {**load_plan("demoland-mpi"), **changed}
    text = renderer().render(answers, ["plan.yml.jinja"])["plan.yml"]
    (repository / "plan.yml").write_text(text, encoding="utf-8")
    commit(repository, "planned")


def record(repository: Path, place: str, task: str, **more: Any) -> None:
    known = Repository(repository).tasks[task]
    text = {
        "task": task, "decision": "done", "by": "Lucia Ferreira", "team_role": known["owner"], "on": "2026-11-01",
        "approved_by": "Amina Okello", "evidence": "https://wiki.moh.example.org/" + "a-long-way/" * 12,
        "answers_digest": known["answers_digest"], **more,
    }  # fmt: skip
    file = repository / "records" / place / f"{task}.yml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(text), encoding="utf-8")
    commit(repository, f"sign {task}")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of a plan with sign-offs of every kind, and the same page with what changed since the plan before."""
    repository = tmp_path_factory.mktemp("report") / "repository"
    repository.mkdir()
    git(repository, "init", "--quiet", "--initial-branch", "main")
    planned(repository)
    record(repository, "project", "PLN-62")
    record(repository, "project", "PLN-66", decision="waived", reason="The law comes in June", expires="2026-12-15")
    record(repository, "project", "PLN-67", answers_digest="0" * 64)
    planned(repository, web_portal=False, cache="memory", read_replicas=1, lockout_attempts=7)
    written = {}
    for name, compared in (("single", None), ("comparison", "HEAD~1")):
        written[name] = repository.parent / f"{name}.html"
        written[name].write_text(page(gather(Repository(repository), compared, now=NOW)), encoding="utf-8")
    return written


@pytest.fixture
def opened(browser: Chrome, pages: dict[str, Path], request: pytest.FixtureRequest) -> Iterator[Chrome]:
    """The browser, showing the page of the test's ``name`` in its ``size``."""
    values = request.node.callspec.params
    resize(browser, *values.get("size", SCREEN))
    told(browser, "performance")
    browser.get(pages[values.get("name", "comparison")].as_uri())
    yield browser
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


NAMES = pytest.mark.parametrize("name", ["single", "comparison"])


@NAMES
@SIZES
def test_axe_finds_nothing(opened: Chrome, name: str, size: tuple[int, int]) -> None:
    assert violations(opened) == []
    opened.execute_script("document.querySelectorAll('details').forEach((node) => { node.open = true })")
    assert violations(opened) == []


@NAMES
@SIZES
def test_it_fits_and_complains_of_nothing(opened: Chrome, name: str, size: tuple[int, int]) -> None:
    opened.execute_script("document.querySelectorAll('details').forEach((node) => { node.open = true })")
    wide = opened.execute_script("""
      return [...document.querySelectorAll("body *")].filter((node) => !node.closest(".scroll, .skip, thead") &&
        node.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map((node) => node.outerHTML)""")
    assert wide == []
    assert opened.execute_script("return document.documentElement.scrollWidth") <= size[0]
    assert [entry for entry in told(opened, "browser") if entry["level"] == "SEVERE"] == []


@NAMES
def test_nothing_but_the_file_is_asked_for(opened: Chrome, name: str) -> None:
    messages = [json.loads(entry["message"])["message"] for entry in told(opened, "performance")]
    asked = [
        message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"
    ]
    assert asked, "the browser says what it asks for"
    assert [url for url in asked if not url.startswith("file://")] == []


def test_axe_finds_what_is_wrong(browser: Chrome, tmp_path: Path) -> None:
    """An accessible page and a test that sees nothing look the same; so here is one that is not."""
    (tmp_path / "bad.html").write_text("<html><body><img src='x.png'><p style='color:#ccc'>pale", encoding="utf-8")
    browser.get((tmp_path / "bad.html").as_uri())
    rules = {finding.split()[0] for finding in violations(browser)}
    assert {"html-has-lang", "image-alt", "color-contrast"} <= rules


@NAMES
def test_paper_shows_what_the_screen_folds_away(opened: Chrome, name: str) -> None:
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    opened.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    folded = opened.execute_script("""
      return [...document.querySelectorAll("details:not([open]) td, details:not([open]) li")].map((node) =>
        node.checkVisibility({contentVisibilityAuto: true}) && node.getBoundingClientRect().height > 0)""")
    assert len(folded) > 50
    assert all(folded)
    assert not opened.find_element(By.TAG_NAME, "nav").is_displayed()
    options = {"paperWidth": 8.27, "paperHeight": 11.69}
    paper = base64.b64decode(opened.execute_cdp_cmd("Page.printToPDF", options)["data"])
    assert paper.startswith(b"%PDF")
    assert paper.count(b"/Type /Page\n") > 3


@SIZES
def test_the_drawing_is_readable(opened: Chrome, size: tuple[int, int]) -> None:
    """Boxes stand apart, their texts lie inside them, and no text is tiny."""
    drawings = opened.find_elements(By.CSS_SELECTOR, "svg.topology")
    assert len(drawings) == 2
    for drawing in drawings:
        found = opened.execute_script("""
          const box = (node) => { const r = node.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
          return {boxes: [...arguments[0].querySelectorAll("rect")].map(box),
                  names: [...arguments[0].querySelectorAll("text.name")].map(box),
                  small: [...arguments[0].querySelectorAll("text")].map((node) => box(node)[3] - box(node)[1])}""",
            drawing)  # fmt: skip
        boxes = found["boxes"]
        assert len(boxes) == len(found["names"]) > 4
        for place, (left, top, right, bottom) in enumerate(boxes):
            for other in boxes[place + 1 :]:
                assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top, "boxes overlap"
            name = found["names"][place]
            assert left - 1 <= name[0], "a name leaves its box"
            assert name[2] <= right + 1, "a name leaves its box"
        assert min(found["small"]) > 8


@pytest.mark.parametrize("name", ["comparison"])
def test_the_comparison_says_it_in_words(opened: Chrome, name: str) -> None:
    changes = opened.find_element(By.CSS_SELECTOR, "section[aria-labelledby=changes]").text
    assert "lockout attempts 5 7" in changes
    assert "removed REDIS" in changes
    assert "web portal yes no" in changes
    assert "None" not in changes
    opened.find_element(By.LINK_TEXT, "What changed").click()
    top = opened.execute_script("return document.getElementById('changes').getBoundingClientRect().top")
    assert 0 <= top < 300
