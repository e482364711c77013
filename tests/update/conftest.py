"""pytest-copier's view of the template: only what Copier needs."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def copier_template_paths() -> list[str]:
    return ["copier.yml", "questions", "catalog", "macros", "template"]


@pytest.fixture
def edited() -> str:
    """A line nobody else writes."""
    return "Decided in the steering committee on the third of March."
