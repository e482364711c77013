"""The chrome of a rendered repository: its README, Makefile, pins, ignore rules and continuous integration."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import copier
import pytest
import yaml

from tests.support import GIT_ENVIRONMENT, MINIMUM, PLAN_NAMES, ROOT, commit, git, load_plan, renderer

NAMES = ["demoland-mpi", "district-ims-offline", "hospital-cdr-single-host"]


@pytest.fixture(scope="module", params=NAMES)
def repository(request: pytest.FixtureRequest, template_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A named plan as a committed repository. Never written to."""
    path: Path = tmp_path_factory.mktemp("repository") / request.param
    copier.run_copy(str(template_dir), path, data=load_plan(request.param), defaults=True, quiet=True, unsafe=False)
    git(path, "init", "--quiet", "--initial-branch", "main")
    commit(path)
    return path


def make(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make in the repository, with the tools of this environment and nobody's vault."""
    tools = Path(sys.executable).parent
    environment = {**GIT_ENVIRONMENT, "PATH": f"{tools}:{os.environ['PATH']}", "HOME": str(repository.parent)}
    return subprocess.run(
        ["make", *arguments], cwd=repository, env=environment, check=False, capture_output=True, text=True
    )


def targets(repository: Path) -> set[str]:
    text = (repository / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][a-z-]*):", text, re.MULTILINE))


def test_readme_and_documents_name_only_commands_that_exist(repository: Path) -> None:
    known = targets(repository)
    named: set[str] = set()
    for path in [repository / "README.md", repository / "certificates" / "README.md"]:
        named |= set(re.findall(r"`make ([a-z-]+)", path.read_text(encoding="utf-8")))
    assert named <= known, f"no such target: {sorted(named - known)}"
    assert {"setup", "check", "secrets", "artefacts", "deploy", "verify", "status"} <= known


def test_every_listed_target_can_be_planned(repository: Path) -> None:
    help_text = make(repository)
    assert help_text.returncode == 0, help_text.stderr
    listed = re.findall(r"^  make ([a-z-]+) ", help_text.stdout, re.MULTILINE)
    assert len(listed) > 8
    environment = next((repository / "inventories").iterdir()).name
    for target in listed:
        planned = make(repository, "-n", target, f"ENV={environment}")
        assert planned.returncode == 0, planned.stderr


def test_a_target_that_needs_an_environment_says_so(repository: Path) -> None:
    for arguments in (["deploy"], ["deploy", "ENV=nowhere"]):
        done = make(repository, *arguments)
        assert done.returncode != 0
        assert "is no environment of this plan; nothing was run" in done.stderr
        assert next((repository / "inventories").iterdir()).name in done.stderr


def test_a_wrong_vault_password_stops_before_anything_runs(repository: Path, tmp_path: Path) -> None:
    """The right password goes on (to the next complaint); nothing of what is inside is ever shown."""
    (tmp_path / "Makefile").write_text((repository / "Makefile").read_text(encoding="utf-8"), encoding="utf-8")
    vault = tmp_path / "inventories/staging/group_vars/all/vault.yml"
    vault.parent.mkdir(parents=True)
    vault.write_text("vault_password: tell-nobody\n", encoding="utf-8")
    password = tmp_path / "home/.santedb/staging.vault"
    password.parent.mkdir(parents=True)
    password.write_text("right\n", encoding="utf-8")
    command = [Path(sys.executable).parent / "ansible-vault", "encrypt", "--vault-id", f"staging@{password}", vault]
    subprocess.run(command, check=True, capture_output=True)
    for word, message in (
        ("right", "does not ship it"),
        ("wrong", f"{vault.relative_to(tmp_path)} cannot be decrypted"),
    ):
        password.write_text(word, encoding="utf-8")
        done = make(tmp_path, "deploy", "ENV=staging", f"HOME={tmp_path / 'home'}")
        assert done.returncode != 0
        assert message in done.stderr
        assert "tell-nobody" not in done.stdout + done.stderr
    assert str(password) in done.stderr, "whose password it was"


def test_a_playbook_that_is_not_shipped_is_no_riddle(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "inventories" / "staging").mkdir(parents=True)
    (tmp_path / "Makefile").write_text((repository / "Makefile").read_text(encoding="utf-8"), encoding="utf-8")
    for target in ("secrets", "artefacts", "certificates", "deploy", "verify", "gate"):
        done = make(tmp_path, target, "ENV=staging")
        assert done.returncode != 0
        assert "this version of the template does not ship it" in done.stderr


def test_an_unresolved_conflict_stops_the_check(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text((repository / "Makefile").read_text(encoding="utf-8"), encoding="utf-8")
    assert make(tmp_path, "conflicts").returncode == 0
    (tmp_path / "notes.md").write_text(
        "<<<<<<< before updating\na\n=======\nb\n>>>>>>> after updating\n", encoding="utf-8"
    )
    done = make(tmp_path, "conflicts")
    assert done.returncode != 0
    assert "notes.md" in done.stderr
    (tmp_path / "notes.md").unlink()
    (tmp_path / "plan.yml.rej").write_text("x\n", encoding="utf-8")
    assert "plan.yml.rej" in make(tmp_path, "conflicts").stderr


def test_nothing_rendered_is_ignored_and_secrets_are(repository: Path) -> None:
    """Whatever .gitignore covers is overwritten at an update, so nothing rendered may be."""
    ignored = git(repository, "ls-files", "--others", "--ignored", "--exclude-standard")
    assert ignored == ""
    for path in (
        ".venv/x",
        "production.vault",
        "certificates/production/production-proxy.key",
        ".ca/production/ca.crt",
        "bundle/x",
    ):
        assert git(repository, "check-ignore", "--no-index", path).strip() == path
    for path in ("inventories/production/group_vars/all/vault.yml", "certificates/production/production-proxy.crt"):
        done = subprocess.run(
            ["git", "check-ignore", "--no-index", path], cwd=repository, env=GIT_ENVIRONMENT, check=False
        )
        assert done.returncode == 1, f"{path} must be committed"


def test_rendered_yaml_passes_the_repository_s_own_linter(repository: Path) -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "yamllint", "--strict", "."],
        cwd=repository,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_readme_ends_with_the_reader_s_notes(repository: Path) -> None:
    text = (repository / "README.md").read_text(encoding="utf-8")
    assert text.endswith("## Your notes\n\nEverything below this line is yours: no update writes here.\n")
    assert "{{" not in text
    assert "{%" not in text
    assert "None" not in text
    assert "copier update --vcs-ref=:current: --defaults -c 100 --data-file" in text
    assert "git diff --name-only --diff-filter=U" in text


@pytest.mark.parametrize("name", PLAN_NAMES)
def test_readme_shows_every_machine_and_every_stand_in(name: str) -> None:
    plan = renderer().template.resolve(load_plan(name))
    text = renderer().render(load_plan(name), ["README.md.jinja"])["README.md"]
    for host in plan["hosts"]:
        assert f"| {host['name']} | {host['address']} |" in text
    assert text.count("**These machines are stand-ins.**") == sum(
        environment["placeholders"] for environment in plan["environments"]
    )
    numbers = [int(number) for number in re.findall(r"^(\d+)\. ", text, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_readme_asks_for_the_people_nobody_named() -> None:
    text = renderer().render(MINIMUM, ["README.md.jinja"])["README.md"]
    for answer in ("accountable_person", "support_tiers", "ticketing_url"):
        assert re.search(rf"TODO\(people\):.*`{answer}`", text)


def test_what_a_cell_holds_cannot_break_its_table() -> None:
    contact = {"team_role": "developer", "name": "A | B", "organization": "two\nlines", "email": "a@example.org"}
    text = renderer().render({**MINIMUM, "contacts": [contact]}, ["README.md.jinja"])["README.md"]
    assert r"| developer | A \| B | two lines | a@example.org | — |" in text


def test_tools_are_pinned_to_the_versions_the_tests_use() -> None:
    lines = [
        line
        for line in (ROOT / "template" / "requirements.txt").read_text(encoding="utf-8").splitlines()
        if line[:1].isalpha()
    ]
    assert all(re.fullmatch(r"[a-z-]+==[0-9.]+", line) for line in lines)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(project["optional-dependencies"]["ansible"]) <= set(lines)


def test_collections_are_those_of_the_bundle() -> None:
    listed = yaml.safe_load((ROOT / "template" / "requirements.yml").read_text(encoding="utf-8"))["collections"]
    assert all(re.fullmatch(r"[0-9.]+", collection["version"]) for collection in listed)
    bundle = (
        Path(sys.executable).parents[1]
        / "lib"
        / f"python3.{sys.version_info.minor}"
        / "site-packages"
        / "ansible_collections"
    )
    for collection in listed:
        manifest = bundle / collection["name"].replace(".", "/") / "MANIFEST.json"
        if manifest.exists():
            version = yaml.safe_load(manifest.read_text(encoding="utf-8"))["collection_info"]["version"]
            assert version == collection["version"], collection["name"]


def test_both_pipelines_run_what_people_run() -> None:
    github = yaml.safe_load((ROOT / "template" / ".github" / "workflows" / "check.yml").read_text(encoding="utf-8"))
    steps = github["jobs"]["check"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == ["make setup", "make check"]
    assert github["permissions"] == {"contents": "read"}
    for step in steps:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step.get("uses", "a/b@" + "0" * 40)), (
            "an action is pinned by its commit"
        )
    gitlab = yaml.safe_load((ROOT / "template" / ".gitlab-ci.yml").read_text(encoding="utf-8"))
    assert gitlab["check"]["script"] == ["make setup", "make check"]


def test_line_ends_are_fixed() -> None:
    assert (ROOT / "template" / ".gitattributes").read_text(encoding="utf-8").startswith("* text=auto eol=lf\n")
