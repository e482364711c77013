"""The documentation site: it builds, asks for nothing from elsewhere, and shuts nobody out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By

from tests.browser.browser import PHONE, SCREEN, needs_browser, resize, violations
from tests.support import ROOT

pytestmark = pytest.mark.slow
PAGES = ["index", "tutorial", "how-to/adopt", "explanation/design", "reference/roles"]
SIZES = pytest.mark.parametrize("size", [SCREEN, PHONE], ids=["screen", "phone"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="MkDocs is missing: pip install '.[docs]'")
    built = tmp_path_factory.mktemp("documentation") / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(built)],
        cwd=ROOT, check=False, text=True, capture_output=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    return built


def test_it_needs_no_network(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(list((ROOT / "docs").rglob("*.md")))  # and the page that is not found
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert "sh run" not in text
        assert not re.search(r"""<(?:script|img|iframe)[^>]*\bsrc=["']?(?:https?:)?//""", text), page
        assert not re.search(r"""<link[^>]*rel=["']?stylesheet[^>]*href=["']?(?:https?:)?//""", text), page


@pytest.fixture
def sized(browser: Chrome, request: pytest.FixtureRequest) -> Iterator[Chrome]:
    resize(browser, *request.node.callspec.params["size"])
    yield browser
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def opened(browser: Chrome, page: Path) -> None:
    """Open a page, and wait until its scripts have mended what they mend in the next frame."""
    browser.get(page.as_uri())
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")


@needs_browser
@SIZES
def test_axe_finds_nothing(sized: Chrome, site: Path, size: tuple[int, int]) -> None:
    found = []
    for name in PAGES:
        opened(sized, site / f"{name}.html")
        found += [f"{name}: {finding}" for finding in violations(sized)]
    assert found == []


@needs_browser
@pytest.mark.parametrize("size", [PHONE], ids=["phone"])
@pytest.mark.parametrize("name", ["questions", "features"])
def test_axe_finds_nothing_on_the_longest_pages(sized: Chrome, site: Path, name: str, size: tuple[int, int]) -> None:
    opened(sized, site / f"reference/{name}.html")
    assert violations(sized, "color-contrast") == []  # slow with a thousand texts; the colours are those of other pages


@needs_browser
@SIZES
def test_what_scrolls_can_be_scrolled_with_the_keyboard(sized: Chrome, site: Path, size: tuple[int, int]) -> None:
    for page, selector in (("tutorial", "pre > code"), ("reference/features", ".md-typeset__scrollwrap")):
        opened(sized, site / f"{page}.html")
        wide = [
            box for box in sized.find_elements(By.CSS_SELECTOR, f".md-typeset {selector}")
            if sized.execute_script("return arguments[0].scrollWidth > arguments[0].clientWidth", box)
        ]  # fmt: skip
        assert wide, page
        wide[0].send_keys(Keys.ARROW_RIGHT)
        sized.execute_async_script("setTimeout(arguments[0], 400)")  # scrolling is smooth
        assert sized.execute_script("return arguments[0].scrollLeft", wide[0]) > 0, page
