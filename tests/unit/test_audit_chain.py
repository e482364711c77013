"""The chain of audit files: whatever is changed, cut, moved or taken away after sealing is found."""

from __future__ import annotations

import datetime
import importlib.util
import json
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "template/roles/audit/files/santedb-audit-chain"
TODAY = datetime.date(2026, 3, 10)


@pytest.fixture(scope="module")
def chain():
    loader = SourceFileLoader("audit_chain", str(PROGRAM))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("audit_chain", loader))
    loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def unprotected(chain, monkeypatch):
    monkeypatch.setattr(chain, "protect", lambda path, flag: False)


@pytest.fixture
def store(chain, tmp_path):
    (tmp_path / "2026").mkdir()
    for day in ("2026-03-07", "2026-03-08", "2026-03-10"):  # nothing came in on the ninth
        (tmp_path / f"2026/{day}.log").write_text(f"{day} one\n{day} two\n")
    found = chain.Store(str(tmp_path), TODAY)
    chain.seal(found)
    return found


def day(store, name="2026-03-08"):
    return Path(store.path(name))


def only(chain, store, **more):
    problems, _ = chain.verify(store, **more)
    assert len(problems) == 1, problems
    assert problems[0].count(";") >= 3, "four parts: what, where, why, what to do"
    return problems[0]


def test_untouched_is_intact_and_sealing_again_adds_nothing(chain, store):
    assert chain.verify(store)[0] == []
    assert [(link["kind"], link["day"]) for link in store.links()] == [
        ("day", "2026-03-07"),
        ("day", "2026-03-08"),
        ("day", "2026-03-09"),
        ("mark", "2026-03-10"),
    ]
    assert chain.seal(store) == []


def test_today_may_grow_and_is_marked_again(chain, store):
    with day(store, "2026-03-10").open("a") as stream:
        stream.write("three\n")
    assert chain.verify(store)[0] == []
    assert [link["kind"] for link in chain.seal(store)] == ["mark"]
    assert chain.verify(store)[0] == []


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("one", "ONE"),
        lambda text: text[:-3],
        lambda text: text + "more\n",
        lambda text: "",
    ],
    ids=["changed", "cut", "added", "emptied"],
)
def test_a_changed_day_is_found(chain, store, change):
    path = day(store)
    path.write_text(change(path.read_text()))
    assert "2026-03-08 were changed" in only(chain, store)


def test_a_change_of_the_marked_part_of_today_is_found(chain, store):
    path = day(store, "2026-03-10")
    path.write_text(path.read_text().replace("one", "ONE") + "three\n")
    assert "2026-03-10 were changed" in only(chain, store)


def test_a_missing_day_and_a_made_up_day_are_found(chain, store):
    day(store).unlink()
    assert "2026-03-08 are gone" in only(chain, store)
    day(store).write_text("2026-03-08 one\n2026-03-08 two\n")
    day(store, "2026-03-09").write_text("made up\n")
    assert "turned up" in only(chain, store)


def test_a_changed_link_a_missing_link_and_an_unreadable_line_are_found(chain, store):
    path = Path(store.chain)
    lines = path.read_text().splitlines()
    changed = json.loads(lines[1])
    path.write_text("\n".join([lines[0], json.dumps({**changed, "lines": 9}), *lines[2:], ""]))
    assert "was changed" in only(chain, store)
    path.write_text("\n".join([lines[0], *lines[2:], ""]))
    assert any("taken out" in problem for problem in chain.verify(store)[0])
    path.write_text("\n".join([*lines, "{", ""]))
    assert "cannot be read" in only(chain, store)
    with pytest.raises(chain.Problem, match="cannot be read"):
        chain.seal(store)


def test_a_chain_made_anew_is_found_by_a_hash_kept_elsewhere(chain, store):
    kept = store.links()[-1]["hash"]
    assert chain.verify(store, [kept])[0] == []
    day(store).write_text("another story\n")
    Path(store.chain).unlink()
    chain.seal(store)
    assert chain.verify(store)[0] == []
    assert "rewritten" in only(chain, store, expected=[kept])


def test_finished_days_that_were_not_sealed_are_found(chain, store):
    later = chain.Store(store.directory, TODAY + datetime.timedelta(3))
    assert "not sealed" in only(chain, later)
    chain.seal(later)
    assert chain.verify(later)[0] == []


def test_expiring_deletes_old_sealed_days_only_and_is_chained(chain, store):
    assert chain.expire(store, 30) == []
    later = chain.Store(store.directory, TODAY + datetime.timedelta(30))
    chain.seal(later)
    assert chain.expire(later, 31) == ["2026-03-07", "2026-03-08"]
    assert not day(store).exists()
    assert day(store, "2026-03-10").exists()
    assert chain.verify(later)[0] == []
    assert chain.expire(later, 31) == []


def test_commands(chain, store, capsys):
    options = ["--directory", store.directory, "--today", TODAY.isoformat()]
    assert chain.main(["verify", *options]) == 0
    assert "intact: 3 sealed days" in capsys.readouterr().out
    day(store).unlink()
    assert chain.main(["verify", "--json", *options]) == 1
    assert json.loads(capsys.readouterr().out)["intact"] is False
    assert chain.main(["expire", *options]) == 2
    assert chain.main(["status", *options]) == 0
    assert chain.main(["seal", "--directory", "/nowhere"]) == 2
