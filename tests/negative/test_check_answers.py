"""`santescaffold check-answers`: all problems at once, with their places; never a traceback, never a whole value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from santescaffold import answers as answers_files
from santescaffold import cli
from santescaffold.problems import Problem, print_problems, summary
from santescaffold.template import Template
from tests.support import MINIMUM, PLAN_NAMES, PLANS, ROOT


@pytest.fixture(scope="module")
def template() -> Template:
    return Template(ROOT)


def run(path: Path, *options: str) -> Result:
    result = CliRunner().invoke(cli.main, ["check-answers", str(path), "--template", str(ROOT), *options])
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def written(tmp_path: Path, **more: Any) -> Path:
    path = tmp_path / "answers.yml"
    path.write_text(yaml.safe_dump({**MINIMUM, **more}, sort_keys=False), encoding="utf-8")
    return path


def found(template: Template, path: Path) -> list[Problem]:
    return answers_files.check(answers_files.read(path, template), template)


@pytest.mark.parametrize("name", PLAN_NAMES)
def test_the_named_plans_are_valid(name: str, template: Template) -> None:
    problems = found(template, PLANS / f"{name}.yml")
    assert [problem.plain() for problem in problems if problem.severity in ("error", "note")] == []


@pytest.mark.parametrize("role", Template(ROOT).catalog["questions"]["roles"]["allowed"])
def test_the_shortest_plan_of_every_role_is_valid(role: str, template: Template, tmp_path: Path) -> None:
    problems = found(template, written(tmp_path, roles=[role]))
    assert [problem.plain() for problem in problems if problem.severity == "error"] == []


def test_exit_codes(tmp_path: Path) -> None:
    assert run(written(tmp_path)).exit_code == 0
    assert run(written(tmp_path, sample_data=True)).exit_code == 1
    assert run(tmp_path / "none.yml").exit_code == 2
    assert run(tmp_path).exit_code == 2
    assert CliRunner().invoke(cli.main, ["check-answers"]).exit_code == 2
    assert CliRunner().invoke(cli.main, ["check-answer", "x"]).exit_code == 2


def test_warnings_alone_are_shown_and_do_not_fail(tmp_path: Path) -> None:
    result = run(written(tmp_path, rto_hours=72))
    assert result.exit_code == 0
    assert "warning C29: " in result.stdout


def test_all_problems_at_once_even_when_some_answers_are_of_the_wrong_type(tmp_path: Path) -> None:
    path = written(tmp_path, hosts="app1", rolez=["mpi"], sample_data=True, web_portal="yes", networks=[5])
    lines = run(path).stdout.splitlines()
    errors = [line.split(" error ")[1][:3] for line in lines if " error " in line]
    assert sorted(errors) == ["D05", "V01", "V01", "V05", "Y07"]
    text = path.read_text(encoding="utf-8").splitlines()
    places = [text[int(line.split(":")[1]) - 1].split(":")[0] for line in lines if " error " in line]
    assert places == ["hosts", "rolez", "sample_data", "web_portal", "- 5"]


def test_json_has_everything_a_program_needs(tmp_path: Path) -> None:
    result = run(written(tmp_path, networks=[{"name": "vpn", "cidr": "10.0.0.1/8"}]), "--json")
    assert result.exit_code == 1
    data = json.loads(result.stdout)
    assert data["ok"] is False
    error = next(problem for problem in data["problems"] if problem["severity"] == "error")
    assert error["id"] == "V09"
    assert error["answers"] == ["networks"]
    assert error["where"] == "networks, item 1, field cidr"
    assert error["line"] == 8
    assert {"message", "why", "todo", "file", "phase"} <= set(error)
    assert json.loads(run(written(tmp_path), "--json").stdout)["ok"] is True


def test_fields_of_items_are_found_by_their_line(template: Template, tmp_path: Path) -> None:
    path = written(
        tmp_path,
        hosts=[
            {"name": "a", "environment": "staging", "groups": ["icdr"], "address": "10.0.0.1"},
            {"name": "b", "environment": "staging", "groups": ["database"], "address": "10.0.0.300"},
        ],
    )
    text = path.read_text(encoding="utf-8").splitlines()
    (error,) = [problem for problem in found(template, path) if problem.severity == "error"]
    assert error.line
    assert "10.0.0.300" in text[error.line - 1]


def test_files_that_cannot_be_read(template: Template, tmp_path: Path) -> None:
    path = tmp_path / "answers.yml"
    path.write_bytes(b"project_name: \xff\xfe\x00")
    assert [problem.id for problem in found(template, path)] == ["Y01"]
    assert [problem.id for problem in found(template, tmp_path / "none.yml")] == ["Y01"]
    path.write_text("a: " + "x" * (answers_files.MOST_BYTES + 1), encoding="utf-8")
    assert [problem.id for problem in found(template, path)] == ["Y01"]


def test_anchors_cannot_blow_up(template: Template, tmp_path: Path) -> None:
    path = tmp_path / "answers.yml"
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    path.write_text("\n".join(lines), encoding="utf-8")
    assert [problem.id for problem in found(template, path)] == ["Y02"]


def test_a_windows_file_with_a_byte_order_mark_is_read(template: Template, tmp_path: Path) -> None:
    path = tmp_path / "answers.yml"
    path.write_bytes(b"\xef\xbb\xbf" + yaml.safe_dump(MINIMUM).replace("\n", "\r\n").encode())
    assert [problem for problem in found(template, path) if problem.severity == "error"] == []


def test_dates_may_stand_unquoted(template: Template, tmp_path: Path) -> None:
    path = tmp_path / "answers.yml"
    path.write_text(yaml.safe_dump(MINIMUM) + "tra: {status: approved, approved_on: 2026-09-30}\n", encoding="utf-8")
    assert [problem for problem in found(template, path) if problem.severity == "error"] == []
    assert answers_files.read(path, template).values["tra"]["approved_on"] == "2026-09-30"


def test_the_answers_file_of_a_repository_can_be_checked(template: Template, tmp_path: Path) -> None:
    path = written(tmp_path, _src_path="/template", _commit="v1.0.0", plan_is_valid=True)
    assert [problem for problem in found(template, path) if problem.severity == "error"] == []


def test_an_answer_without_effect_is_noted(template: Template, tmp_path: Path) -> None:
    problems = found(template, written(tmp_path, offline=False, sync_subscription="all"))
    assert [(problem.id, problem.where) for problem in problems if problem.severity == "note"] == [
        ("N01", "sync_subscription")
    ]


def test_no_secret_and_no_long_value_is_echoed(tmp_path: Path) -> None:
    long = "x" * 5000
    path = written(
        tmp_path,
        blueprint_fit="{{" + long,
        topology=long,
        networks=[{"name": "vpn", "cidr": long, long: 1}],
        smtp={"server": "smtp://u:hunter2@example.org:25", "from": "a@example.org", "password": "hunter2"},
    )
    result = run(path)
    assert "hunter2" not in result.output
    assert "x" * 100 not in result.output


def test_one_wrong_item_hides_nothing_of_the_others(tmp_path: Path) -> None:
    """All problems in one run: what is right in a list is compared, whatever else is wrong in it."""
    host = {"environment": "production", "groups": ["icdr"], "address": "10.0.0.1"}
    path = written(
        tmp_path,
        hosts=[
            {**host, "name": "one", "vcpu": "many"},
            {**host, "name": "one", "groups": ["nonsense"]},
            {**host, "name": "three", "environment": "paradise"},
            "no host at all",
        ],
        networks=[
            {"name": "first", "cidr": "10.0.0.0/8", "trusted": True},
            {"name": "second", "cidr": "everywhere"},
            {"name": "third", "cidr": "10.1.0.0/16", "trusted": False},
        ],
        identity_domains=[{"name": "One", "namespace_id": 7}],
        sensitive_identity_domains=[{"domain": 5}, {"policy": "x"}],
    )
    said = run(path).output
    for line in (
        'V01: "many" is not a whole number; hosts, item 1, field vcpu',
        'L01: item 1 has the same environment and name, "production / one"; hosts, item 2',
        'L03: item 1 has the same address, "10.0.0.1"; hosts, item 2',
        'L03: item 1 has the same address, "10.0.0.1"; hosts, item 3',
        'V05: "no host at all" is not an entry with fields; hosts, item 4',
        'L07: "10.1.0.0/16" overlaps 10.0.0.0/8 of item 1; networks, item 3',
    ):
        assert line in said, said


def test_on_a_terminal_problems_are_blocks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem("C01", "error", "what", "where", "why", "what to do", file="a.yml", line=3)
    print_problems([problem])
    assert capsys.readouterr().out == "a.yml:3: error C01: what; where; why; what to do\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    print_problems([problem])
    shown = capsys.readouterr().out
    assert [word for word in ("error C01", "what", "where", "a.yml:3", "why", "what to do") if word not in shown] == []
    assert summary([problem, problem]) == "2 errors"


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-10, 10**12),
    st.floats(allow_nan=True),
    st.text(max_size=12),
    st.sampled_from(["none", "mpi", "10.0.0.0/24", "10.0.0.1", "a.example.org", "2027-01-01", "{{ x }}", "^(", "PT5M"]),
)
VALUES = st.recursive(
    ODD,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["name", "environment", "cidr", "address", "groups", "fqdn", "status", "regex", "code", "odd"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
IDS = sorted(Template(ROOT).catalog["questions"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.dictionaries(st.sampled_from(IDS), VALUES, min_size=1, max_size=6))
def test_no_value_whatever_crashes_the_checks(values: dict[str, Any], template: Template, tmp_path: Path) -> None:
    empty = yaml.MappingNode("tag:yaml.org,2002:map", [])
    answers = answers_files.Answers("answers.yml", {**MINIMUM, **values}, root=empty)
    for problem in answers_files.check(answers, template):
        assert all((problem.message, problem.where, problem.why, problem.todo)), problem.sentence
        assert len(problem.sentence) < 900
