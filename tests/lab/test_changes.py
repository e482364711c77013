"""Options turned off on a deployed environment leave nothing of them, by the smallest commands `santescaffold plan` names."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from santescaffold import preview
from tests.lab.turned_off import Changed, TurnedOff, gone, without
from tools.lab import plans
from tools.lab.namespaces import PROJECT
from tools.lab.sites import Site

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1800)]
PLAN = "split"


def change(site: Site) -> list[dict[str, Any]]:
    """Turn portal, HL7, forwarding of audits and cache off, and move monitoring; return the commands that `plan` would name."""
    was = site.folder / "was"
    shutil.copytree(site.repository / "inventories", was / "inventories")
    # Hosts still list the groups of what is turned off; only monitoring is said to be elsewhere.
    moved = {"db": ["database", "monitoring"], "ops": ["audit", "backup"]}
    site.groups = {name: (number, moved.get(name, groups)) for name, (number, groups) in site.groups.items()}
    site.render(**without(site.answers), cache="memory")
    files = site.git("diff", "--name-only", "HEAD~1", "HEAD").splitlines()
    found = preview.commands(
        preview.read_inventories(was),
        preview.read_inventories(site.repository),
        dict.fromkeys(files, "changed"),
        json.loads((PROJECT / "catalog/catalog.json").read_text(encoding="utf-8")),
        site.repository / "playbooks",
    )
    print(*(command["command"] for command in found), sep="\n", flush=True)
    return [command for command in found if command["environment"] == site.environment]


def run(site: Site, command: dict[str, Any]) -> None:
    """Run a command as it is written, with the vault's password."""
    words = shlex.split(command["command"])
    assert words[:3] == ["ansible-playbook", "-i", "inventories/staging"]
    # SanteDB's console cannot give a second factor: hardening says so, waits for this, and turns it on again.
    paused = ("-e", "icdr_mfa_paused=true") if command["playbook"] == "icdr" else ()
    done = site.play(Path(words[3]).stem, *words[4:], *paused, label=f"change {command['playbook']}")
    assert done.code == 0, f"{command['command']}\n{done.text[-8000:]}"


@pytest.fixture(scope="module")
def commands() -> list[dict[str, Any]]:
    """The commands that were run for the change, in their order."""
    return []


@pytest.fixture(scope="module")
def changed(site: Site, commands: list[dict[str, Any]]) -> Changed:
    """The split plan with options turned off."""
    changed = Changed(site, watcher="db")
    commands += change(site)
    plans.open_the_gate(site, "--again")  # signatures given for other answers are void
    for command in commands:
        run(site, command)
    changed.look_again()
    return changed


@pytest.mark.usefixtures("changed")
def test_the_commands_are_the_smallest(commands: list[dict[str, Any]]) -> None:
    ran = {command["playbook"]: command["limit"] for command in commands}
    assert "site" not in ran
    assert "database" not in ran
    assert ran["portal"] == ["edge"]
    assert ran["cache"] == ["app"]
    assert ran["audit"] == ["ops"]


class TestTurnedOff(TurnedOff):
    """Staging, split."""


def test_the_cache_is_gone(changed: Changed) -> None:
    gone(changed, "app", r"redis|\b6379\b", "unit package user group port firewall text file")


def test_a_whole_deployment_finds_nothing_to_do(changed: Changed) -> None:
    opened = changed.site.play("proxy", label="proxy, proven")  # waited for what the last command, verify, has proved
    assert opened.code == 0, opened.text[-5000:]
    done = changed.site.deploy(label="deploy changed plan")
    assert set(done.recap.changed) <= {"localhost"}, done.changes()
