"""copier update, as the README documents it: without trust, ``-c 100``, the same template or a newer one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ReleasedTemplate
from tests.support import commit, git, load_plan, tree

# (name of the plan, what changes): each update of an unedited repository must equal a fresh copy.
CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("demoland-mpi", {"web_portal": False}),
    ("demoland-mpi", {"standards": ["fhir_r4", "openid_connect", "hdsi", "ami", "bis"]}),
    ("demoland-mpi", {"environments": ["training", "staging", "production"]}),
    ("demoland-mpi", {"roles": ["mpi", "shr"], "stored_resources": [], "topology": "clustered"}),
    ("demoland-mpi", {"audit_dispatch": "none", "audit_store": "santeguard"}),
    ("hospital-cdr-single-host", {"topology": "split", "hosts": [], "cache": "redis"}),
    ("island-shr-clustered", {"read_replicas": 0, "database_failover": "none", "environments": ["production"]}),
    ("district-ims-offline", {"offline": False}),
    ("product-registry", {"runtime": "containers", "encryption_at_rest": ["full_disk"], "ale_fields": []}),
]


@pytest.mark.parametrize(("name", "change"), CHANGES, ids=[f"{name}-{'-'.join(change)}" for name, change in CHANGES])
def test_changed_answers_equal_a_fresh_copy(
    released: ReleasedTemplate, tmp_path: Path, name: str, change: dict[str, Any]
) -> None:
    answers = load_plan(name)
    repository = released.copy(tmp_path / "repository", answers)
    assert released.update(repository, change) == []
    fresh = released.copy(tmp_path / "fresh", {**answers, **change})
    assert tree(repository) == tree(fresh)


def test_derived_answers_follow_the_roles(released: ReleasedTemplate, tmp_path: Path) -> None:
    """A blank is derived anew at each update; it does not freeze at the first copy."""
    answers = load_plan("facility-registry")
    repository = released.copy(tmp_path / "repository", answers)
    released.update(repository, {"roles": ["cdr"], "mdm_resources": None})
    plan = yaml.safe_load((repository / "plan.yml").read_text(encoding="utf-8"))
    assert plan["answers"]["storage_mode"] == "default"
    assert not {"MDM", "MATCHING"} & {feature["id"] for feature in plan["features"]}


def test_edits_and_records_survive(released: ReleasedTemplate, tmp_path: Path, edited: str) -> None:
    repository = released.copy(tmp_path / "repository", load_plan("demoland-mpi"))
    document = repository / "docs" / "operational-architecture.md"
    document.write_text(document.read_text(encoding="utf-8") + f"\n{edited}\n", encoding="utf-8")
    readme = repository / "README.md"
    readme.write_text(readme.read_text(encoding="utf-8") + f"\n{edited}\n", encoding="utf-8")
    mine = {
        "inventories/production/group_vars/icdr/90-local.yml": "---\nicdr_ram_limit_gb: 24\n",
        "records/project/PLN-46.yml": "task: PLN-46\ndecision: done\n",
        "records/production/DEP-106.yml": "task: DEP-106\ndecision: done\n",
    }
    for name, text in mine.items():
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text(text, encoding="utf-8")
    commit(repository, "our edits")

    assert (
        released.update(
            repository,
            {"web_portal": False, "concurrent_clients": 80, "environments": ["training", "staging", "production"]},
        )
        == []
    )

    assert edited in document.read_text(encoding="utf-8")
    assert edited in readme.read_text(encoding="utf-8")
    for name, text in mine.items():
        assert (repository / name).read_text(encoding="utf-8") == text


def test_option_off_removes_its_files_and_on_again_restores_sub_answers(
    released: ReleasedTemplate, tmp_path: Path
) -> None:
    answers = load_plan("district-ims-offline")
    repository = released.copy(tmp_path / "repository", answers)
    before = tree(repository)
    released.update(repository, {"offline": False})
    commit(repository, "online only")
    gone = set(before) - set(tree(repository))
    assert any("gateway" in name for name in gone)
    released.update(repository, {"offline": True})
    commit(repository, "offline again")
    assert tree(repository) == before


def test_removing_an_environment_keeps_its_records(released: ReleasedTemplate, tmp_path: Path) -> None:
    repository = released.copy(tmp_path / "repository", load_plan("facility-registry"))
    record = repository / "records" / "staging" / "DEP-01.yml"
    local = repository / "inventories" / "staging" / "group_vars" / "all" / "90-local.yml"
    for path in (record, local):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("kept: true\n", encoding="utf-8")
    commit(repository, "records")
    released.update(repository, {"environments": ["production"]})
    assert record.is_file()
    assert local.is_file()
    assert not (repository / "inventories" / "staging" / "hosts.yml").exists()


def test_edit_of_one_host_does_not_drift_to_another(released: ReleasedTemplate, tmp_path: Path) -> None:
    """Look-alike blocks: an edit at one host stays there when another host is added before it, or it is a conflict."""
    answers = load_plan("demoland-mpi")
    repository = released.copy(tmp_path / "repository", answers)
    inventory = repository / "inventories" / "production" / "hosts.yml"
    text = inventory.read_text(encoding="utf-8")
    changed = text.replace("10.20.2.20", "10.20.2.99")
    assert changed != text
    inventory.write_text(changed, encoding="utf-8")
    commit(repository, "moved the application server")
    first = {
        "name": "aaa-app",
        "environment": "production",
        "groups": ["icdr"],
        "address": "10.20.2.19",
        "internal_fqdn": "aaa.example.org",
    }
    conflicts = released.update(repository, {"hosts": [first, *answers["hosts"]]})
    now = inventory.read_text(encoding="utf-8")
    if not conflicts:
        hosts = yaml.safe_load(now)
        found = re.findall(r'"address": "10\.20\.2\.99"|ansible_host: "?10\.20\.2\.99', now)
        assert found, "the edit is gone without a conflict"
        listed = hosts["all"]["hosts"] if "hosts" in hosts.get("all", {}) else hosts["all"]["children"]["icdr"]["hosts"]
        assert listed["prd-app"]["ansible_host"] == "10.20.2.99"
    else:
        assert "10.20.2.99" in now


NEW_TEXT = "\nA paragraph that a later version of the template brings.\n"


def test_newer_template_version_keeps_edits(released: ReleasedTemplate, tmp_path: Path, edited: str) -> None:
    repository = released.copy(tmp_path / "repository", load_plan("emr-clinic"))
    document = repository / "docs" / "business-continuity.md"
    document.write_text(document.read_text(encoding="utf-8") + f"\n{edited}\n", encoding="utf-8")
    commit(repository, "our edit")

    source = released.path / "template" / "docs" / "business-continuity.md.jinja"
    text = source.read_text(encoding="utf-8")
    head, separator, tail = text.partition("\n## ")
    released.release("v1.1.0", {"template/docs/business-continuity.md.jinja": f"{head}\n{NEW_TEXT}{separator}{tail}"})

    assert released.update(repository, ref=None) == []
    now = document.read_text(encoding="utf-8")
    assert edited in now
    assert NEW_TEXT in now
    assert yaml.safe_load((repository / ".copier-answers.yml").read_text(encoding="utf-8"))["_commit"] == "v1.1.0"


def test_same_line_edited_by_both_is_an_inline_conflict(
    released: ReleasedTemplate, tmp_path: Path, edited: str
) -> None:
    repository = released.copy(tmp_path / "repository", load_plan("emr-clinic"))
    document = repository / "docs" / "business-continuity.md"
    lines = document.read_text(encoding="utf-8").splitlines()
    lines[0] = f"# {edited}"
    document.write_text("\n".join(lines) + "\n", encoding="utf-8")
    commit(repository, "our title")
    source = released.path / "template" / "docs" / "business-continuity.md.jinja"
    text = source.read_text(encoding="utf-8")
    assert "Business continuity plan" in text
    renamed = text.replace("Business continuity plan", "Another title", 1)
    released.release("v1.1.0", {"template/docs/business-continuity.md.jinja": renamed})
    assert released.update(repository, ref=None) == ["docs/business-continuity.md"]
    now = document.read_text(encoding="utf-8")
    assert "<<<<<<<" in now
    assert edited in now


def test_answers_file_holds_no_hidden_value(released: ReleasedTemplate, tmp_path: Path) -> None:
    repository = released.copy(tmp_path / "repository", load_plan("audit-repository"))
    stored = yaml.safe_load((repository / ".copier-answers.yml").read_text(encoding="utf-8"))
    assert not {"catalog", "effective", "findings", "plan"} & set(stored)
    assert stored["_commit"] == "v1.0.0"


def test_nothing_rendered_is_ignored_by_git(released: ReleasedTemplate, tmp_path: Path) -> None:
    repository = released.copy(tmp_path / "repository", load_plan("demoland-mpi"))
    assert git(repository, "status", "--porcelain", "--ignored") == ""
