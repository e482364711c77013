"""What the tests in a real browser share: where Chromium is, and axe, which finds what shuts people out."""

from __future__ import annotations

import importlib.util
import os
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome

DRIVER, BROWSER = shutil.which("chromedriver"), shutil.which("chromium")
MISSING = DRIVER is None or BROWSER is None
if MISSING and os.environ.get("CI") == "true":
    raise RuntimeError("CI runs the browser tests: install chromium and chromium-driver (tools/setup-test-packages)")

# In CI its absence is an error, above.
needs_browser = pytest.mark.skipif(MISSING, reason="Chromium is missing: apt-get install chromium chromium-driver")

SCREEN, PHONE = (1440, 1000), (390, 844)


@cache
def axe() -> str:
    """Return the text of axe.min.js."""
    package = importlib.util.find_spec("axe_playwright_python")
    if package is None or package.origin is None:
        raise RuntimeError("axe is missing; run: tools/setup-python .venv")
    return (Path(package.origin).parent / "axe.min.js").read_text(encoding="utf-8")


def violations(browser: Chrome, *left_out: str) -> list[str]:
    """Return what axe finds wrong with the page that is shown, one finding a line; it looks at what is visible.

    ``left_out`` names rules that are not looked at.
    """
    if not browser.execute_script("return typeof axe === 'object'"):
        browser.execute_script(axe())
    found = browser.execute_async_script(
        "axe.run(document, arguments[0]).then(arguments[1], (error) => arguments[1](String(error)))",
        {"rules": {rule: {"enabled": False} for rule in left_out}},
    )
    assert isinstance(found, dict), found
    assert found["passes"], "axe looked at nothing"
    return [
        f"{rule['id']} ({rule['impact']}): {rule['help']}: {node['html'][:160]} {node['failureSummary'][:200]}"
        for rule in found["violations"]
        for node in rule["nodes"]
    ]


def told(browser: Chrome, kind: str = "browser") -> list[dict[str, Any]]:
    """Return what the browser has logged of a kind since it was last asked."""
    entries: list[dict[str, Any]] = browser.get_log(kind)  # type: ignore[no-untyped-call]  # selenium has no type for it
    return entries


def resize(browser: Chrome, width: int, height: int) -> None:
    """Show pages as a screen of this size does: narrower than any window, too."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
    )
