"""What Copier alone would take without a word stops the copy as well: before a file is written, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import MINIMUM

CASES: list[tuple[dict[str, Any], str]] = [
    ({"topolgy": "clustered"}, '"topolgy" is not the id of an answer'),
    ({"standards": ["fhir_r4", "fhir_r5", "openid_connect", "hdsi", "ami"]}, "fhir_r5"),
    ({"cache": "memory", "topology": "clustered"}, "C02"),
    ({"tls_certificate_source": "self_signed"}, "C37"),
    ({"country_code": "xx"}, "country_code"),
]


@pytest.mark.parametrize(("answers", "expected"), CASES, ids=[expected for _, expected in CASES])
def test_plain_copy_is_stopped(
    answers: dict[str, Any], expected: str, copy: Callable[..., Path], tmp_path: Path
) -> None:
    destination = tmp_path / "repository"
    with pytest.raises(ValueError, match="(?s)" + expected):
        copy({**MINIMUM, **answers}, destination)
    assert not destination.exists() or not list(destination.iterdir())


def test_all_contradictions_are_named_at_once(copy: Callable[..., Path], tmp_path: Path) -> None:
    answers = {
        **MINIMUM,
        "cache": "memory",
        "topology": "clustered",
        "tls_certificate_source": "self_signed",
        "sample_data": True,
    }
    with pytest.raises(ValueError, match=r"(?s)C02.*") as caught:
        copy(answers, tmp_path / "repository")
    assert all(code in str(caught.value) for code in ("C02", "C37", "D05"))


def test_minimum_is_a_plan(copy: Callable[..., Path]) -> None:
    """The five answers without default are enough, without trust."""
    assert (copy(MINIMUM) / "plan.yml").is_file()
