"""What a host measures of its own services."""

from __future__ import annotations

import importlib.util
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "template/roles/monitoring/files/santedb-checks"
END = '10.2.0.7:11514 TLSv1.3 "CN=EMR"'
LOG = f"""10.1.0.9 - [2026-03-10T10:00:00+00:00] port 11515 200 812/4096 12.000 {END}
10.1.0.9 - [2026-03-10T11:00:00+00:00] port 11515 500 0/0 0.001 {END}
127.0.0.1 - [2026-03-10T12:00:00+00:00] port 11515 200 5/0 0.000 {END}
10.1.0.9 - [2026-03-10T13:00:00+00:00] port 2200 200 900/100 3.000 {END}
"""


@pytest.fixture(scope="module")
def checks() -> Any:
    loader = SourceFileLoader("santedb_checks", str(PROGRAM))
    spec = importlib.util.spec_from_loader("santedb_checks", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def newest(checks: Any, *logs: Path) -> float:
    lines: list[str] = []
    checks.received(lines, 11515, [str(log) for log in logs])
    (line,) = lines
    name, _, value = line.partition(" ")
    assert name == "santedb_audit_received_seconds"
    return float(value)


def test_the_newest_audit_is_a_finished_session_of_another_machine(
    checks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failed handshakes, the host's own probe and HL7 sessions do not count; what logrotate moved does."""
    monkeypatch.setattr(checks, "run", lambda argv, timeout=20: "")
    log, older = tmp_path / "stream.log", tmp_path / "stream.log.1"
    assert newest(checks, log, older) == 0
    older.write_text(LOG, encoding="utf-8")
    assert newest(checks, log, older) == 1773136800  # 2026-03-10T10:00:00Z
    log.write_text("", encoding="utf-8")
    assert newest(checks, log, older) == 1773136800


def test_an_open_connection_counts_as_now(checks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "run", lambda argv, timeout=20: "0 0 10.2.0.1:11515 10.1.0.9:40000\n")
    monkeypatch.setattr(checks.time, "time", lambda: 1773140000.0)
    assert newest(checks, tmp_path / "none.log") == 1773140000
