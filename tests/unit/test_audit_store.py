"""The program that stores audits: nothing is thrown away while the disk is full, and nothing is stored twice."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "template/roles/audit/files/santedb-audit-store"
MB = 1 << 20


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    loader = SourceFileLoader("audit_store", str(PROGRAM))
    spec = importlib.util.spec_from_loader("audit_store", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    monkeypatch.setattr(module, "STATE", str(tmp_path / "state"))
    return module


@pytest.fixture
def store(program: Any, tmp_path: Path) -> Any:
    for name in ("audits", "spool"):
        (tmp_path / name).mkdir()
    return program.Store(str(tmp_path / "audits"), str(tmp_path / "spool"), 1000)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Say how many bytes the disk has left."""
    return lambda count: monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=count, f_frsize=1))


def stored(tmp_path: Path) -> str:
    return "".join(path.read_text() for path in (tmp_path / "audits").rglob("*.log"))


def test_what_a_full_disk_does_not_take_waits_and_is_stored_in_order(
    program: Any, store: Any, tmp_path: Path, free: Callable[[int], None]
) -> None:
    store.put(b"one\n")
    free(MB)  # left for what waits and for the chain
    store.put(b"two\n")
    store.put(b"three\n")
    assert stored(tmp_path) == "one\n"
    assert "full" in (tmp_path / "state").read_text()
    free(4 * MB)
    store.put(b"four\n")
    assert stored(tmp_path) == "one\ntwo\nthree\nfour\n"
    assert not (tmp_path / "state").exists()
    assert store.waiting() == []


def test_when_the_waiting_room_is_full_too_it_is_refused(store: Any, free: Callable[[int], None]) -> None:
    free(MB)
    store.put(b"x" * 900 + b"\n")
    with pytest.raises(OSError, match="as much as it may"):
        store.put(b"y" * 900 + b"\n")


def test_half_a_line_of_a_power_cut_does_not_swallow_the_next(store: Any, tmp_path: Path) -> None:
    store.put(b"one\n")
    path = next((tmp_path / "audits").rglob("*.log"))
    path.write_text("one\nhal")
    store.put(b"two\n")
    assert path.read_text() == "one\nhal\ntwo\n"


def test_it_answers_rsyslog_as_omprog_wants(tmp_path: Path) -> None:
    for name in ("audits", "spool"):
        (tmp_path / name).mkdir()
    command = [
        sys.executable,
        str(PROGRAM),
        "--directory",
        str(tmp_path / "audits"),
        "--spool",
        str(tmp_path / "spool"),
    ]
    text = "BEGIN TRANSACTION\none\ntwo\nCOMMIT TRANSACTION\n"
    done = subprocess.run([*command, "--spool-mb", "1"], input=text, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["OK", "OK", "DEFER_COMMIT", "DEFER_COMMIT", "OK"]
    assert stored(tmp_path) == "one\ntwo\n"
