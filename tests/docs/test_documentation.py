"""The documentation does what it says: its commands run, its links lead somewhere, what it names exists."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from santescaffold.cli import VERBS
from tests.docs.pages import DOCS, PAGES, WRITTEN, blocks, name_of, others, runnable, shell, without_blocks
from tests.support import ROOT, git
from tools.mkdocs_hooks import on_page_markdown

STARTS_EMPTY = {"tutorial.md"}
RUN = [page for page in PAGES if runnable(page) and page.name != "resolve-a-conflict.md"]  # has its own test


def shell_words(page: Path) -> str:
    """Return what a page shows as commands: its blocks of shell and its inline code."""
    return "\n".join([*runnable(page), *others(page), *re.findall(r"`([^`\n]+)`", without_blocks(page))])


# ---- commands


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_commands_run_in_order(
    page: Path, surroundings: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    script = "\n".join(runnable(page))
    start = tmp_path / "work"
    if page.name in STARTS_EMPTY:
        start.mkdir()
    else:
        start = start / "registry"
        start.parent.mkdir()
        shutil.copy(ROOT / "tests/plans/valid/demoland-mpi.yml", start.parent / "demoland.yml")
        shutil.copytree(request.getfixturevalue("demoland"), start)
    said = shell(script, start, surroundings)
    assert "Traceback" not in said
    repository = start if start.name == "registry" else start / "registry"
    assert git(repository, "status", "--porcelain") == "", "the page leaves something uncommitted"


def test_the_conflict_of_the_how_to_is_one(surroundings: dict[str, str], demoland: Path, tmp_path: Path) -> None:
    """Resolving a conflict is shown on a real one."""
    first, second, third = runnable(DOCS / "how-to/resolve-a-conflict.md")
    shutil.copytree(demoland, tmp_path / "registry")
    said = shell(f"{first}\n{second}", tmp_path / "registry", surroundings)
    assert "docs/current-state.md" in said.splitlines()
    assert "<<<<<<<" in (tmp_path / "registry/docs/current-state.md").read_text(encoding="utf-8")
    shell(third, tmp_path / "registry", surroundings)
    text = (tmp_path / "registry/docs/current-state.md").read_text(encoding="utf-8")
    assert "- Organization: the Ministry, Directorate of Registries\n" in text
    assert not re.search("^(<<<<<<<|=======|>>>>>>>)", text, re.MULTILINE)


def test_enough_is_run() -> None:
    assert len(RUN) >= 9
    for page in WRITTEN:
        assert {kind for kind, _ in blocks(page)} <= {"sh", "sh run", "text", "yaml", "markdown"}, name_of(page)


# ---- what is named exists


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_verbs_and_their_options_exist(page: Path) -> None:
    from santescaffold.cli import Verbs, main

    shown = shell_words(page)
    assert isinstance(main, Verbs)
    for line in re.sub(r"\\\n\s*", " ", shown).splitlines():
        for verb, rest in re.findall(r"(?<![\w/.-])santescaffold ([a-z-]+)([^|;&]*)", line):
            assert verb in VERBS, f"santescaffold {verb}"
            command: Any = main.get_command(click.Context(main), verb)
            known = {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]}
            for option in re.findall(r"(?<!\S)(--[a-z][a-z-]*)", rest):
                assert option in known | {"--help"}, f"santescaffold {verb} {option}"


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_make_targets_exist(page: Path) -> None:
    ours = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    theirs = re.findall(r"^([a-z-]+):", (ROOT / "template/Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    shown = shell_words(page)
    for words in re.findall(r"(?:^|\s)make((?: [a-z-]+)+)(?=\s|$)", shown, re.MULTILINE):
        for target in words.split():
            known = {*ours, *theirs} if page.parent == ROOT else set(theirs)
            assert target in known, f"make {target}"


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_files_of_the_repository_that_are_named_exist(page: Path, template_dir: Path) -> None:
    for path in re.findall(
        r"`((?:docs|checklists|certificates|playbooks)/[\w./-]+\.\w+)`", page.read_text(encoding="utf-8")
    ):
        rendered = template_dir / "template" / path
        assert (ROOT / path).exists() or rendered.exists() or rendered.with_name(f"{rendered.name}.jinja").exists(), (
            path
        )


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_ids_that_are_named_exist(page: Path) -> None:
    import json

    catalog = json.loads((ROOT / "catalog/catalog.json").read_text(encoding="utf-8"))
    tasks = {task["id"] for phase in catalog["phases"] for group in phase["groups"] for task in group["tasks"]}
    constraints = {constraint["id"] for constraint in catalog["constraints"]}
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"\b(?:INF|PLN|DEV|DEP|ROL)-\d+\b", text)) <= tasks
    assert set(re.findall(r"\bexplain (C\d\d)\b", text)) <= constraints
    for name in re.findall(r"--set '?([a-z_]+)=", text):
        assert name in catalog["questions"], name


# ---- links and the site


def anchors(page: Path) -> Iterator[str]:
    for title in re.findall(r"^#+ (.+)$", without_blocks(page), re.MULTILINE):
        yield re.sub(r"[\s_]+", "-", re.sub(r"[^\w\s-]", "", title.lower())).strip("-")


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_blocks(page)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def test_every_page_is_in_the_navigation() -> None:
    listed: list[str] = []

    def collect(entry: Any) -> None:
        for value in entry if isinstance(entry, list) else entry.values():
            collect(value) if isinstance(value, list | dict) else listed.append(value)

    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    collect(settings["nav"])
    assert sorted(listed) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


def test_the_mark_of_run_blocks_is_not_shown() -> None:
    assert on_page_markdown("```sh run\nls\n```") == "```sh\nls\n```"
