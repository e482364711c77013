"""santescaffold report: one page without the network, accessible, true to the plan and the records."""

from __future__ import annotations

import html.parser
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from santescaffold.cli import main
from santescaffold.report import gather, page
from santescaffold.repository import Repository
from santescaffold.topology import connections, draw
from tests.support import PLAN_NAMES, commit, git, load_plan, renderer

NOW = "2026-11-22T10:00:00+00:00"


class Page(html.parser.HTMLParser):
    """What is to be known of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "img", "link", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}>"

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def repository_of(path: Path, name: str) -> Path:
    path.mkdir()
    (path / "plan.yml").write_text(renderer().render(load_plan(name), ["plan.yml.jinja"])["plan.yml"], encoding="utf-8")
    git(path, "init", "--quiet", "--initial-branch", "main")
    commit(path, "planned")
    return path


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return repository_of(tmp_path / "repository", "demoland-mpi")


def sign(repository: Path, place: str, task: str, **more: Any) -> None:
    known = Repository(repository).tasks[task]
    record = {
        "task": task, "decision": "done", "by": "Lucia Ferreira", "team_role": known["owner"], "on": "2026-11-01",
        "evidence": "docs/evidence.pdf", "answers_digest": known["answers_digest"], **more,
    }  # fmt: skip
    file = repository / "records" / place / f"{task}.yml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record), encoding="utf-8")
    commit(repository, f"sign {task}")


@pytest.mark.parametrize("name", PLAN_NAMES)
def test_every_named_plan_has_a_page(tmp_path: Path, name: str) -> None:
    data = gather(Repository(repository_of(tmp_path / "repository", name)), now=NOW)
    shown = Page(page(data))
    for environment in data["environments"]:
        for host in environment["hosts"]:
            assert host["name"] in shown.text
    for warning in data["plan"]["warnings"]:
        assert " ".join(warning["message"].split()).rstrip(".")[1:].replace("`", "") in shown.text
    assert not re.search(r".{30}\bNone\b[^.].{20}", shown.text)


def test_the_page_needs_no_network_and_is_accessible(repository: Path) -> None:
    shown = Page(page(gather(Repository(repository), now=NOW)))
    tags = [tag for tag, _ in shown.tags]
    assert not {"script", "link", "img", "iframe"} & set(tags)
    assert not [value for _, attributes in shown.tags for name, value in attributes.items() if name == "src"]
    assert next(attributes for tag, attributes in shown.tags if tag == "html")["lang"] == "en"
    for landmark in ("header", "nav", "main", "footer"):
        assert tags.count(landmark) == 1
    assert tags.count("h1") == 1
    levels = [int(tag[1]) for tag in tags if tag in ("h1", "h2", "h3", "h4")]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in shown.tags if tag == "th")
    identifiers = [attributes["id"] for _, attributes in shown.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    for tag, attributes in shown.tags:
        if tag == "a":
            assert (attributes["href"] or "").removeprefix("#") in identifiers
        if tag == "svg":
            assert attributes["role"] == "img"
            assert attributes["aria-labelledby"] in identifiers


def test_progress_blocks_waivers_and_history(repository: Path) -> None:
    sign(repository, "project", "PLN-62", by="Lucia <b>Ferreira</b>")
    sign(
        repository, "project", "PLN-66", decision="waived", reason="The law comes into force in June",
        expires="2026-12-15",        approved_by="Amina Okello",
    )  # fmt: skip
    sign(repository, "project", "PLN-67", answers_digest="0" * 64)
    data = gather(Repository(repository), now=NOW)
    planning = next(phase for phase in data["phases"] if phase["id"] == "planning")["places"][0]
    assert (planning["done"], planning["waived"], planning["void"]) == (1, 1, 1)
    production = next(entry for entry in data["status"]["environments"] if entry["name"] == "production")
    analyst = next(owner for owner in production["owners"] if owner["role"] == "security analyst")
    assert analyst["people"] == ["Lucia Ferreira"]
    listed = [task["task"] for task in analyst["tasks"]]
    assert "PLN-67" in listed
    assert "PLN-62" not in listed
    assert data["waivers"][0]["soon"]
    assert [(entry["task"], entry["did"]) for entry in data["history"]] == [
        ("PLN-67", "signed"), ("PLN-66", "signed"), ("PLN-62", "signed"),
    ]  # fmt: skip
    text = page(data)
    assert "Lucia <b>" not in text, "what people write is text, never markup"
    assert "The law comes into force in June" in Page(text).text


def test_comparison_with_an_earlier_plan(repository: Path) -> None:
    changed = {**load_plan("demoland-mpi"), "web_portal": False, "cache": "memory"}
    text = renderer().render(changed, ["plan.yml.jinja"])["plan.yml"]
    (repository / "plan.yml").write_text(text, encoding="utf-8")
    commit(repository, "without portal")
    data = gather(Repository(repository), "HEAD~1", now=NOW)
    shown = Page(page(data)).text
    assert "web portal yes no" in shown
    assert "removed REDIS" in shown
    done = CliRunner().invoke(
        main, ["report", str(repository), "--compare", "nowhere", "-o", str(repository / "x.html")]
    )
    assert done.exit_code == 2
    assert "revision nowhere" in done.output


def test_the_command_writes_one_file(repository: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    done = CliRunner().invoke(main, ["report", str(repository), "-o", str(target)])
    assert done.exit_code == 0, done.output
    assert target.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert CliRunner().invoke(main, ["report", str(tmp_path), "-o", str(target)]).exit_code == 2
    refused = CliRunner().invoke(main, ["report", str(repository), "-o", str(tmp_path / "no" / "report.html")])
    assert refused.exit_code == 1
    assert "the page cannot be written" in refused.output


@pytest.mark.parametrize("name", PLAN_NAMES)
def test_the_drawing_shows_every_machine_once(name: str) -> None:
    plan = renderer().template.resolve(load_plan(name))
    for environment in plan["environment_names"]:
        drawing = draw(plan, environment)
        Page(drawing)
        hosts = [host["name"] for host in plan["hosts"] if host["environment"] == environment]
        assert drawing.count('class="host"') == len(hosts)
        rows = connections(plan, environment)
        assert rows
        assert all(row["from"] != "?" for row in rows)
