"""The gate: a table of cases with their exact refusals, judged alike by the package and by plain Ansible."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from santescaffold import records
from tests.gate.cases import HERE, NOW, TABLE, lay_out
from tests.support import ROOT

PLUGIN = ROOT / "template" / "roles" / "gate" / "filter_plugins" / "santedb_gate.py"
ANSIBLE = Path(sys.executable).with_name("ansible-playbook")
BEGIN = "# --- begin of what the gate of a repository has as well ---\n"
END = "# --- end of what the gate of a repository has as well ---\n"
STAGES = ["environments", "gates", "tasks"]


@pytest.fixture(scope="module")
def plugin() -> ModuleType:
    pytest.importorskip("ansible")
    specification = importlib.util.spec_from_file_location("santedb_gate", PLUGIN)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def judge(root: Path, case: dict[str, Any]) -> dict[str, Any]:
    plan = records.read_plan(str(root / "plan.yml"), STAGES)
    environment = case.get("environment", "production")
    found = records.read_records(str(root))
    return records.judge_gate(plan, found, environment, NOW, case.get("deployed_by", ""), case.get("emergency", ""))


@pytest.mark.parametrize("case", TABLE, ids=[case["name"] for case in TABLE])
def test_outcome(case: dict[str, Any], tmp_path: Path) -> None:
    judged = judge(lay_out(case, tmp_path), case)
    assert [records.sentence(found) for found in judged["refusals"]] == case["refusals"]
    for part in ("proxy_waits_for", "notes", "overridden"):
        if part in case:
            assert [records.sentence(found) for found in judged[part]] == case[part]
    assert (judged["passed"], judged["proxy_open"]) == (case["passed"], case["proxy_open"])


@pytest.mark.parametrize("case", TABLE, ids=[case["name"] for case in TABLE])
def test_ansible_says_the_same(case: dict[str, Any], tmp_path: Path, plugin: ModuleType) -> None:
    root = lay_out(case, tmp_path)
    gate = plugin.FilterModule().filters()["santedb_gate"]
    said = gate(
        str(root), case.get("environment", "production"), NOW, case.get("deployed_by", ""), case.get("emergency", "")
    )
    assert said["refusals_said"] == case["refusals"]
    expected = judge(root, case)
    assert {key: said[key] for key in expected} == expected


def test_table_is_large_and_refusals_follow_the_grammar() -> None:
    assert len(TABLE) >= 40
    assert len({case["name"] for case in TABLE}) == len(TABLE)
    for case in TABLE:
        for refusal in case["refusals"]:
            assert len(refusal.split("; ")) == 4, refusal


def test_both_evaluations_are_one_text() -> None:
    core = (ROOT / "santescaffold" / "records.py").read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0].strip()
    assert core in PLUGIN.read_text(encoding="utf-8"), "santescaffold/records.py and the gate's filter differ"


def test_environment_that_is_none(tmp_path: Path, plugin: ModuleType) -> None:
    root = lay_out({}, tmp_path)
    with pytest.raises(Exception, match=r"the plan has no environment 'qa'; .*development, staging, production"):
        plugin.santedb_gate(str(root), "qa", NOW)


def test_plan_that_cannot_be_read(tmp_path: Path, plugin: ModuleType) -> None:
    with pytest.raises(Exception, match=r"the plan cannot be read .* lets nothing pass"):
        plugin.santedb_gate(str(tmp_path), "production", NOW)


# Through Ansible itself.

PROXY_PLAY = """---
- name: What a proxy is told
  hosts: proxy
  connection: local
  gather_facts: false
  tasks:
    - name: Show
      ansible.builtin.debug:
        msg: "proxy_open={{ proxy_open }}"
"""


def repository(case: dict[str, Any], tmp_path: Path) -> Path:
    """A repository of a case with the gate, a vault nobody has the password of, and a site that deploys nothing."""
    root = lay_out(case, tmp_path / "repository")
    shutil.copytree(
        ROOT / "template" / "roles" / "gate", root / "roles" / "gate", ignore=shutil.ignore_patterns("__pycache__")
    )
    (root / "playbooks").mkdir()
    for name in ("gate.yml", "release.yml"):
        shutil.copy(ROOT / "template" / "playbooks" / name, root / "playbooks" / name)
    (root / "playbooks" / "proxy.yml").write_text(PROXY_PLAY, encoding="utf-8")
    imported = "\n".join(f"- import_playbook: {name}.yml" for name in ("gate", "gate", "proxy", "release"))
    (root / "playbooks" / "site.yml").write_text(f"---\n{imported}\n", encoding="utf-8")
    (root / "ansible.cfg").write_text("[defaults]\ninventory = /dev/null\nroles_path = roles\n", encoding="utf-8")
    inventory = root / "inventories" / "production"
    (inventory / "group_vars" / "proxy").mkdir(parents=True)
    (inventory / "hosts.yml").write_text(
        "all:\n  children:\n    proxy:\n      hosts:\n        p1: {}\n", encoding="utf-8"
    )
    (inventory / "group_vars" / "proxy" / "10-generated.yml").write_text("proxy_open: false\n", encoding="utf-8")
    return root


def play(root: Path, playbook: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    if not ANSIBLE.exists():
        pytest.skip("Ansible is not installed")
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOCAL_TEMP": str(root / ".tmp"), "USER": "nobody"}
    return subprocess.run(
        [str(ANSIBLE), f"playbooks/{playbook}.yml", *arguments],
        cwd=root,
        env=environment,
        check=False,
        text=True,
        capture_output=True,
    )


@pytest.mark.slow
def test_play_refuses_and_lists_everything(tmp_path: Path) -> None:
    case = next(case for case in TABLE if case["name"] == "nothing signed")
    root = repository(case, tmp_path)
    (root / "inventories/production/group_vars/all").mkdir()
    (root / "inventories/production/group_vars/all/vault.yml").write_text(
        "$ANSIBLE_VAULT;1.1;AES256\n3132\n", encoding="utf-8"
    )
    done = play(root, "gate", "-e", "environment_name=production", "-e", "deployed_by=Efua")
    assert done.returncode != 0
    assert "production is not deployed; 2 findings:" in done.stdout
    for refusal in case["refusals"]:
        assert refusal in done.stdout
    assert not (root / "records" / "production").exists()


@pytest.mark.slow
def test_play_passes_opens_the_proxy_and_records_the_release(tmp_path: Path) -> None:
    root = repository({}, tmp_path)
    done = play(
        root, "site", "-i", "inventories/production", "-e", "environment_name=production", "-e", "deployed_by=Efua"
    )
    assert done.returncode == 0, done.stdout
    assert "proxy_open=True" in done.stdout
    assert done.stdout.count("Compare the records with the plan") == 1
    (release,) = (root / "records" / "production" / "releases").glob("*.yml")
    loaded = yaml.safe_load(release.read_text(encoding="utf-8"))
    assert loaded["deployed_by"] == "Efua"
    assert loaded["proxy_open"] is True
    assert loaded["planned_images"]["icdr"]["digest"] == "sha256:0123"
    assert loaded["restore_drill_on"] == "2026-03-01"
    assert {entry["task"] for entry in loaded["approvals"]} == {"PLN-10", "DEP-106"}
    assert loaded["waivers"] == []
    assert loaded["answers_digest"] == "c" * 64


@pytest.mark.slow
def test_play_keeps_the_proxy_closed(tmp_path: Path) -> None:
    root = repository({"valid": "before_install"}, tmp_path)
    done = play(
        root, "site", "-i", "inventories/production", "-e", "environment_name=production", "-e", "deployed_by=Efua"
    )
    assert done.returncode == 0, done.stdout
    assert "proxy_open=False" in done.stdout
    assert "The proxy admits trusted networks only until this is closed:" in done.stdout


@pytest.mark.slow
def test_play_records_an_emergency(tmp_path: Path) -> None:
    root = repository({"valid": "none"}, tmp_path)
    reason = '{"emergency_reason": "leak in the proxy: \\"X\\"", "deployed_by": "Efua"}'
    done = play(root, "site", "-i", "inventories/production", "-e", "environment_name=production", "-e", reason)
    assert done.returncode == 0, done.stdout
    assert "proxy_open=False" in done.stdout
    (emergency,) = (root / "records" / "production" / "emergency").glob("*.yml")
    loaded = yaml.safe_load(emergency.read_text(encoding="utf-8"))
    assert (loaded["by"], loaded["reason"], len(loaded["overridden"])) == ("Efua", 'leak in the proxy: "X"', 2)
    (release,) = (root / "records" / "production" / "releases").glob("*.yml")
    assert yaml.safe_load(release.read_text(encoding="utf-8"))["emergency"] == emergency.relative_to(root).as_posix()


@pytest.mark.slow
def test_play_lets_preflight_and_dry_runs_leave_no_trace(tmp_path: Path) -> None:
    root = repository({"valid": "none"}, tmp_path)
    before = sorted(root.rglob("records/**/*"))
    done = play(
        root, "site", "-i", "inventories/production", "-e", "environment_name=production", "--tags", "preflight"
    )
    assert done.returncode == 0, done.stdout
    refused = play(root, "site", "-i", "inventories/production", "-e", "environment_name=production", "--tags", "proxy")
    assert refused.returncode != 0
    assert "production is not deployed; 2 findings:" in refused.stdout
    emergency = ("-e", "emergency_reason=x", "-e", "deployed_by=E", "--check")
    assert (
        play(root, "site", "-i", "inventories/production", "-e", "environment_name=production", *emergency).returncode
        == 0
    )
    assert sorted(root.rglob("records/**/*")) == before


def test_plan_of_the_table_has_the_shape_of_a_plan() -> None:
    schema = yaml.safe_load((ROOT / "santescaffold" / "schemas" / "plan.schema.json").read_text(encoding="utf-8"))
    import jsonschema

    plan = records.read_plan(str(HERE / "plan.yml"), ["gates"])
    jsonschema.validate(plan["gates"], schema["properties"]["gates"])


@pytest.mark.slow
@pytest.mark.parametrize("given", ["deployed_by=Ama Mensah", "emergency_reason=leak in the proxy"])
def test_what_breaks_at_a_blank_is_refused(tmp_path: Path, given: str) -> None:
    root = repository({}, tmp_path)
    broken = play(root, "gate", "-e", "environment_name=production", "-e", given)
    assert broken.returncode != 0
    assert "an extra variable broke at a blank" in broken.stdout
    name, _, value = given.partition("=")
    whole = play(root, "gate", "-e", "environment_name=production", "-e", "deployed_by=Efua", "-e", f"{name}='{value}'")
    assert whole.returncode == 0, whole.stdout


@pytest.mark.slow
def test_limit_does_not_leave_the_gate_out(tmp_path: Path) -> None:
    root = repository({"valid": "none"}, tmp_path)
    arguments = (
        "-i",
        "inventories/production",
        "-e",
        "environment_name=production",
        "-e",
        "deployed_by=Efua",
        "--limit",
        "p1",
    )
    refused = play(root, "site", *arguments)
    assert refused.returncode != 0
    assert "production is not deployed; 2 findings:" in refused.stdout
    assert "proxy_open=" not in refused.stdout
    lay_out({}, root)
    done = play(root, "site", *arguments)
    assert done.returncode == 0, done.stdout
    assert "proxy_open=True" in done.stdout
    assert len(list((root / "records" / "production" / "releases").glob("*.yml"))) == 1
