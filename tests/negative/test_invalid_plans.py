"""Every rule has a plan that breaks it, and `santescaffold new` says exactly what is wrong and creates nothing.

The first line of a file in tests/plans/invalid/ is the message: `# LINE: error ID: what; where; why; what to do`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import copier
import pytest
import yaml
from click.testing import CliRunner

from santescaffold import cli, new
from santescaffold.template import Template
from tools.compile_catalog import compile_catalog

ROOT = Path(__file__).resolve().parents[2]
INVALID = sorted((ROOT / "tests" / "plans" / "invalid").glob("*.yml"))


def expected(path: Path) -> str:
    """The line a reader is to see for this file."""
    message = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
    return f"{path}:{message}" if message[0].isdigit() else f"{path}: {message}"


def error_id(path: Path) -> str:
    found = re.search(r"error ([A-Z]\d\d): ", expected(path))
    assert found, f"{path.name}: the first line is not `# LINE: error ID: …`"
    return found.group(1)


@pytest.fixture(scope="module")
def template() -> Template:
    return Template(ROOT)


@pytest.fixture
def shared_template(template: Template, monkeypatch: pytest.MonkeyPatch) -> None:
    """All plans are checked with one template whose macros are compiled once."""

    @contextlib.contextmanager
    def obtain(location: str, ref: str | None = None) -> Iterator[Template]:
        assert Path(location) == ROOT
        yield template

    monkeypatch.setattr(new, "obtain", obtain)


@pytest.mark.usefixtures("shared_template")
@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_an_invalid_plan_is_refused_with_its_message(path: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    arguments = ["new", str(place / "demo"), "--answers", str(path), "--template", str(ROOT)]
    result = CliRunner().invoke(cli.main, arguments)

    assert result.exit_code == 1, result.output
    assert [line for line in result.stderr.splitlines() if " error " in line] == [expected(path)]
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert list(place.iterdir()) == [], "something was left behind"


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_a_message_has_the_four_parts_of_the_error_grammar(path: Path) -> None:
    message = expected(path).split(f"error {error_id(path)}: ", maxsplit=1)[1]
    parts = message.split("; ")
    assert len(parts) == 4, parts
    assert all(parts)
    assert len(message) < 700, "a value is echoed whole"


def test_every_error_between_answers_has_a_plan_that_breaks_it() -> None:
    shown = {error_id(path) for path in INVALID}
    wanted = {
        rule["id"]
        for rule in compile_catalog()["constraints"]
        if rule["kind"] == "answers" and rule["severity"] == "error"
    }
    assert wanted - shown == set()


def test_every_check_of_values_and_files_has_a_plan_that_breaks_it() -> None:
    shown = {error_id(path) for path in INVALID}
    reader = (ROOT / "santescaffold" / "answers.py").read_text(encoding="utf-8")
    findings: dict[str, Any] = compile_catalog()["findings"]
    errors = {code.split(".")[0] for code, text in findings.items() if text.get("severity") != "warn"}
    wanted = errors | set(re.findall(r'"(Y\d\d)"', reader))
    assert wanted - shown == {"Y01"}, "Y01 is about files that cannot be kept here, see test_check_answers.py"


def test_every_refused_value_has_a_plan_that_uses_it() -> None:
    questions: dict[str, Any] = compile_catalog()["questions"]
    wanted = {(name, value) for name, question in questions.items() for value in question.get("refused") or {}}
    shown = set()
    for path in INVALID:
        if error_id(path) == "V03":
            answers = yaml.safe_load(path.read_text(encoding="utf-8"))
            for name, value in answers.items():
                values = value if isinstance(value, list) else [value]
                shown |= {(name, entry) for entry in values if isinstance(entry, str)}
    assert wanted - shown == set()


PLAIN = [
    "c01-masters-without-matching",
    "c37-self-signed-production",
    "d05-sample-data-in-production",
    "hosts-address-twice",
    "networks-overlap-with-other-trust",
    "refused-runtime-kubernetes",
    "list-item-field-missing",
]


@pytest.mark.parametrize("name", PLAIN)
def test_plain_copier_stops_before_a_file_is_written(name: str, template_dir: Path, tmp_path: Path) -> None:
    path = ROOT / "tests" / "plans" / "invalid" / f"{name}.yml"
    answers = yaml.safe_load(path.read_text(encoding="utf-8"))
    what = expected(path).split(f"error {error_id(path)}: ", maxsplit=1)[1].split("; ")[0]
    with pytest.raises(ValueError, match=r".") as raised:
        copier.run_copy(str(template_dir), tmp_path / "demo", data=answers, defaults=True, quiet=True, unsafe=False)
    if not name.startswith("refused"):  # Copier itself refuses a value its choices do not offer, in its own words
        assert what in str(raised.value)
    assert not (tmp_path / "demo").exists() or not list((tmp_path / "demo").iterdir())


def test_plain_copier_names_all_errors_at_once(template_dir: Path, tmp_path: Path) -> None:
    answers = yaml.safe_load(
        (ROOT / "tests/plans/invalid/c01-masters-without-matching.yml").read_text(encoding="utf-8")
    )
    answers |= {"sample_data": True, "tls_certificate_source": "self_signed"}
    with pytest.raises(ValueError, match=r"3 errors") as raised:
        copier.run_copy(str(template_dir), tmp_path / "demo", data=answers, defaults=True, quiet=True, unsafe=False)
    said = str(raised.value).splitlines()
    assert [line[:5] for line in said if re.match(r"[CD]\d\d: ", line)] == ["C01: ", "C37: ", "D05: "]
    assert "santescaffold check-answers" in said[-1]
