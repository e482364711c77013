"""Roles and playbooks of the template, as they lie: described completely, free of what must not be there, loadable."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools import generate_role_docs

TEMPLATE = Path(__file__).resolve().parents[2] / "template"
ROLES = sorted(path for path in (TEMPLATE / "roles").iterdir() if path.is_dir())
PLAYBOOKS = sorted((TEMPLATE / "playbooks").glob("*.yml"))
TASK_FILES = sorted(
    [*(TEMPLATE / "roles").glob("*/tasks/**/*.yml"), *(TEMPLATE / "roles").glob("*/handlers/*.yml"), *PLAYBOOKS]
)
BIN = Path(sys.executable).parent

role_test = pytest.mark.parametrize("role", ROLES, ids=lambda path: path.name)


class Loader(yaml.SafeLoader):
    """Accepts Ansible's own tags as what they stand on."""


Loader.add_multi_constructor("!", lambda loader, suffix, node: f"!{suffix}")


def load(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), Loader) if path.exists() else None


def specs(role: Path) -> dict[str, Any]:
    return load(role / "meta/argument_specs.yml")["argument_specs"]


def squeezed(value: Any) -> Any:
    return re.sub(r"\s+", " ", value).strip() if isinstance(value, str) else value


@role_test
def test_role_is_complete(role):
    for name in ("tasks/main.yml", "defaults/main.yml", "meta/main.yml", "meta/argument_specs.yml", "README.md"):
        assert (role / name).is_file(), f"{role.name} has no {name}"


@role_test
def test_every_default_is_specified_and_every_option_has_a_default(role):
    defaults = load(role / "defaults/main.yml") or {}
    options = {name: option for spec in specs(role).values() for name, option in (spec.get("options") or {}).items()}
    required = {name for name, option in options.items() if option.get("required")}
    assert set(defaults) - set(options) == set(), "defaults without an argument specification"
    assert set(options) - required - set(defaults) == set(), "specified options without a default"
    for name, option in options.items():
        assert option.get("description"), f"{name} has no description"
        if "default" in option and name in defaults:
            assert squeezed(option["default"]) == squeezed(defaults[name]), f"{name}: specification and default differ"


@role_test
def test_variables_carry_the_name_of_the_role(role):
    for name in load(role / "defaults/main.yml") or {}:
        assert name.startswith(f"{role.name}_"), f"{name} in defaults/main.yml"
    for path in (role / "vars").glob("*.yml"):
        for name in load(path) or {}:
            assert name.startswith((f"_{role.name}_", f"{role.name}_")), f"{name} in vars/{path.name}"


@role_test
def test_defaults_are_commented(role):
    text = (role / "defaults/main.yml").read_text(encoding="utf-8")
    assert len(re.findall(r"^# \S", text, re.MULTILINE)) * 3 >= len(load(role / "defaults/main.yml") or {})


@role_test
def test_readme_is_fresh(role):
    assert (role / "README.md").read_text(encoding="utf-8") == generate_role_docs.readme(role), (
        "run tools/generate_role_docs.py"
    )


FORBIDDEN = {
    "ignore_errors": r"^\s*(- )?ignore_errors:",
    "ignore_unreachable": r"^\s*(- )?ignore_unreachable:",
    "a failure that is always hidden": r"failed_when:\s*(false|no)\s*$",
    "a moving version": r"(state:\s*latest\b|image\w*:\s*\S+:latest\b|https?://\S+/(main|master)/)",
    "host keys that are not checked": r"StrictHostKeyChecking[= ]no|host_key_checking\s*[:=]\s*(false|no)",
    "certificates that are not checked": r"validate_certs:\s*(false|no)\b",
    "numeric modes": r"^\s*mode:\s*[\"']?0?[0-7]{3,4}[\"']?\s*$",
}


@pytest.mark.parametrize("path", TASK_FILES, ids=lambda path: str(path.relative_to(TEMPLATE)))
def test_nothing_forbidden(path):
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("#"):
            continue
        for what, pattern in FORBIDDEN.items():
            assert not re.search(pattern, line), f"{what}: {path.relative_to(TEMPLATE)}:{number}: {line.strip()}"


def named_tasks(items: Any) -> Any:
    for item in items or []:
        if isinstance(item, dict):
            yield item
            for key in ("block", "rescue", "always", "tasks", "pre_tasks", "post_tasks", "handlers"):
                yield from named_tasks(item.get(key))


SECRET_WORDS = re.compile(r"passphrase|vault_|_password|_secret\b")


@pytest.mark.parametrize("path", TASK_FILES, ids=lambda path: str(path.relative_to(TEMPLATE)))
def test_loops_over_secrets_are_not_shown(path):
    for task in named_tasks(load(path)):
        loop = str(task.get("loop", ""))
        if SECRET_WORDS.search(loop):
            assert task.get("no_log") is True, f"{path.relative_to(TEMPLATE)}: {task.get('name')}"


@pytest.fixture(scope="module")
def inventory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inventory")
    groups = ["icdr", "database", "cache", "queue", "proxy", "portal", "gateway", "audit", "backup", "monitoring"]
    (folder / "hosts.yml").write_text(
        yaml.safe_dump({"all": {"children": {group: {"hosts": {"one": None}} for group in groups}}}), encoding="utf-8"
    )
    return folder / "hosts.yml"


@pytest.mark.parametrize("path", PLAYBOOKS, ids=lambda path: path.name)
def test_playbook_loads(path, inventory):
    done = subprocess.run(
        [BIN / "ansible-playbook", "--syntax-check", "-i", inventory, path],
        cwd=TEMPLATE,
        env={
            **os.environ,
            "ANSIBLE_ROLES_PATH": str(TEMPLATE / "roles"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_HOME": str(inventory.parent),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout


def test_yaml_is_tidy():
    configuration = TEMPLATE / ".yamllint"
    done = subprocess.run(
        [BIN / "yamllint", "-s", "-c", configuration, "roles", "playbooks"],
        cwd=TEMPLATE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_ansible_lint_passes(tmp_path):
    work = tmp_path / "repository"
    work.mkdir()
    for name in ("roles", "playbooks"):
        shutil.copytree(TEMPLATE / name, work / name)
    for name in (".ansible-lint", ".yamllint", "ansible.cfg", "requirements.yml"):
        if (TEMPLATE / name).exists():
            shutil.copy(TEMPLATE / name, work / name)
    done = subprocess.run(
        [BIN / "ansible-lint", "--offline", "--profile", "production", "-q", "roles", "playbooks"],
        cwd=work,
        env={
            **os.environ,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "ANSIBLE_HOME": str(tmp_path / "home"),
            "NO_COLOR": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def scalars(node: yaml.Node | None) -> Any:
    """Every scalar below a node."""
    if isinstance(node, yaml.ScalarNode):
        yield node
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from scalars(item)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from scalars(key)
            yield from scalars(value)


def test_no_control_character_stays_a_backslash():
    """Ansible keeps backslashes in Jinja's strings: '\\n' is a new line in YAML's double quotes only (regexes aside)."""
    escape, pattern = re.compile(r"'[^'\n]*\\[nrtx][^'\n]*'"), re.compile(r"regex|search|match")
    found = []
    for path in sorted(
        {*TASK_FILES, *(TEMPLATE / "roles").glob("*/vars/*.yml"), *(TEMPLATE / "roles").glob("*/defaults/*.yml")}
    ):
        for node in scalars(yaml.compose(path.read_text(encoding="utf-8"), Loader)):
            if node.style == '"' or not ("{{" in node.value or "{%" in node.value):
                continue
            for hit in escape.finditer(node.value):
                if not pattern.search(node.value[max(0, hit.start() - 60) : hit.start()]):
                    found.append(f"{path.relative_to(TEMPLATE)}:{node.start_mark.line + 1}: {hit.group()}")
    assert found == []


def test_no_module_returns_a_key_that_ansible_takes_for_itself():
    """`results` means a loop: since 2.19 Ansible renames it, and what reads it fails."""
    modules = [*(TEMPLATE / "roles").glob("*/library/*.py"), *(TEMPLATE / "roles").glob("*/action_plugins/*.py")]
    assert modules
    assert [path.name for path in modules if re.search(r"exit_json\([^)]*\bresults=", path.read_text("utf-8"))] == []
