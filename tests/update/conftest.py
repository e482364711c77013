"""pytest-copier's view of the template: only what Copier needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import ROOT
from tools.render import snapshot


@pytest.fixture(scope="session")
def copier_template_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return snapshot(tmp_path_factory.mktemp("pytest-copier") / "template", ROOT, roles=False)


@pytest.fixture
def edited() -> str:
    """A line nobody else writes."""
    return "Decided in the steering committee on the third of March."
