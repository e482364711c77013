"""A value of the wrong type stops each role before its first task, and the message names the variable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

TEMPLATE = Path(__file__).resolve().parents[2] / "template"
SPECS: dict[str, dict[str, Any]] = {
    path.parents[1].name: yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"]["main"].get("options", {})
    for path in sorted((TEMPLATE / "roles").glob("*/meta/argument_specs.yml"))
}
# Text is what everything can become, and a single text is a list of one: Ansible takes those.
WRONG: dict[str, Any] = {
    "bool": "perhaps",
    "int": "many",
    "float": "many",
    "dict": "no mapping",
    "list": {"no": "list"},
}


def wrong(option: dict[str, Any]) -> Any:
    """Return a value that the option must refuse, or None when its type takes anything."""
    return WRONG.get(option.get("type", "str"))


def wrong_inside(option: dict[str, Any]) -> Any:
    """Return a value of the right type that must be refused for what is in it, or None."""
    if option.get("choices"):
        return (
            ["no choice"] if option["type"] == "list" else "no choice" if option.get("type", "str") == "str" else None
        )
    if option.get("type") == "list" and option.get("elements") in WRONG:
        return [WRONG[option["elements"]]]
    return None


CASES: dict[str, dict[str, dict[str, Any]]] = {
    kind: {
        role: {name: value for name, option in options.items() if (value := choose(option)) is not None}
        for role, options in SPECS.items()
    }
    for kind, choose in (("type", wrong), ("content", wrong_inside))
}


def play() -> list[dict[str, Any]]:
    """Return a play that starts every role once per kind, with every value wrong, and keeps what was said."""
    tasks: list[dict[str, Any]] = []
    failed = (
        "{{ {'task': ansible_failed_task.name,"
        " 'errors': ansible_failed_result.argument_errors | default([ansible_failed_result.msg])} }}"
    )
    for kind, roles in CASES.items():
        for role, values in roles.items():
            texts = {
                name: "text" for name, option in SPECS[role].items() if option.get("type", "str") in {"str", "path"}
            }
            start = {"name": "Start it", "include_role": {"name": role}, "vars": {**texts, **values}}
            keep = {"name": "Keep what was said", "set_fact": {f"said_{kind}_{role}": failed}}
            tasks.append({"name": f"{kind} {role}", "block": [start], "rescue": [keep]})
    name = "{{ lookup('varnames', '^said_', wantlist=True) }}"
    said = "{{ dict(said_names | zip(said_names | map('extract', vars))) | to_json }}"
    copy = {"content": said, "dest": "{{ playbook_dir }}/said.json", "mode": "u=rw"}
    tasks.append({"name": "Write it down", "copy": copy, "vars": {"said_names": name}})
    known = {"santedb_environment_name": "staging", "ansible_python_interpreter": sys.executable}
    return [{"name": "Wrong values", "hosts": "localhost", "gather_facts": False, "vars": known, "tasks": tasks}]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Ansible said of each role: the task that failed and its complaints."""
    folder = tmp_path_factory.mktemp("specs")
    (folder / "play.yml").write_text(json.dumps(play()), encoding="utf-8")
    done = subprocess.run(
        [Path(sys.executable).parent / "ansible-playbook", "-i", "localhost,", "-c", "local", "play.yml"],
        cwd=folder,
        env={
            **os.environ,
            "ANSIBLE_ROLES_PATH": str(TEMPLATE / "roles"),
            "ANSIBLE_HOME": str(folder / "home"),
            "ANSIBLE_NOCOLOR": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert (folder / "said.json").exists(), done.stdout[-4000:] + done.stderr[-2000:]
    found: dict[str, Any] = json.loads((folder / "said.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize(
    ("kind", "role"), [(kind, role) for kind, roles in CASES.items() for role in roles if roles[role]]
)
def test_wrong_values_are_refused_by_name(said: dict[str, Any], kind: str, role: str) -> None:
    found = said[f"said_{kind}_{role}"]
    assert found["task"].startswith("Validating arguments against arg spec"), found
    assert [name for name in CASES[kind][role] if not any(name in error for error in found["errors"])] == []


def test_every_role_has_something_to_refuse() -> None:
    assert [role for role, values in CASES["type"].items() if not values] == []
