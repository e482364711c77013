"""``santescaffold check``: silent about a repository as rendered, and one finding for each fault put into it."""

from __future__ import annotations

import datetime
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from santescaffold.check import check
from santescaffold.cli import main
from santescaffold.problems import errors
from santescaffold.repository import Repository
from tests.support import PLAN_NAMES, ROOT, commit, git, load_plan, renderer

GROUPS = "inventories/production/group_vars"


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text, encoding="utf-8")


def render(name: str, root: Path) -> Path:
    """A repository as `santescaffold new` makes it, of what the check looks at."""
    rendering = renderer()
    for path, text in rendering.render(load_plan(name)).items():
        write(root, path, text)
    answers = {
        **rendering.template.with_defaults(load_plan(name)),
        "_commit": "v1.0.0",
        "_src_path": "https://example.org/t.git",
    }
    write(root, ".copier-answers.yml", yaml.safe_dump(answers, allow_unicode=True))
    roles = ROOT / "template" / "roles"
    for file in [*roles.glob("*/meta/argument_specs.yml"), *roles.glob("*/defaults/main.yml")]:
        write(root, file.relative_to(ROOT / "template").as_posix(), file.read_text(encoding="utf-8"))
    git(root, "init", "--quiet", "--initial-branch", "main")
    commit(root, "Deployment repository as planned")
    return root


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render("demoland-mpi", tmp_path_factory.mktemp("rendered") / "repository")


@pytest.fixture
def repository(rendered: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(rendered, tmp_path / "repository"))


def found(root: Path) -> list[tuple[str, str, str]]:
    return [(problem.id, problem.severity, problem.message) for problem in check(Repository(root))]


def new(root: Path, rendered: Path) -> list[tuple[str, str, str]]:
    """What is found beyond what the rendered repository has."""
    before = found(rendered)
    return [finding for finding in found(root) if finding not in before]


@pytest.mark.parametrize("name", PLAN_NAMES)
def test_rendered_repositories_have_no_errors(name: str, tmp_path: Path) -> None:
    root = render(name, tmp_path / "repository")
    assert not errors(check(Repository(root)))


def edit(path: str, old: str, text: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        before = (root / path).read_text(encoding="utf-8")
        assert old in before, f"{old} is not in {path}"
        (root / path).write_text(before.replace(old, text, 1), encoding="utf-8")

    return change


def add(path: str, text: str) -> Callable[[Path], None]:
    return lambda root: write(root, path, text)


def certificate(path: str) -> Callable[[Path], None]:
    """Put a certificate of 300 days there."""

    def make(root: Path) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "/dev/null"]
        made = ["openssl", "req", "-x509", *key, "-subj", "/CN=test", "-days", "300", "-out", str(root / path)]
        subprocess.run(made, check=True, capture_output=True)

    return make


def remote(url: str) -> Callable[[Path], None]:
    return lambda root: (git(root, "remote", "add", "origin", url), None)[1]


def both(*changes: Callable[[Path], None]) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        for one in changes:
            one(root)

    return change


def committed(change: Callable[[Path], None]) -> Callable[[Path], None]:
    return both(change, commit)


RECORD = "task: DEP-83\ndecision: done\nby: Ama\nteam_role: security_analyst\non: 2026-03-01\nevidence: docs/none.md\n"
VAULT = "$ANSIBLE_VAULT;1.1;AES256\n31323334\n"

FAULTS: dict[str, tuple[Callable[[Path], None], str, str, str]] = {
    "misspelt answer": (
        edit(".copier-answers.yml", "lockout_attempts: ", "lockout_atempts: "),
        "K02",
        "error",
        "there is no answer lockout_atempts",
    ),
    "answer edited by hand": (
        edit(".copier-answers.yml", "lockout_attempts: 5", "lockout_attempts: 50"),
        "K03",
        "error",
        "the answer lockout_attempts is 50, but the plan was made with 5",
    ),
    "answers file gone": (
        lambda root: (root / ".copier-answers.yml").unlink(),
        "K01",
        "error",
        "the answers file is missing",
    ),
    "placeholder in own values": (
        add(f"{GROUPS}/proxy/90-local.yml", "proxy_real_ip_from: [192.0.2.7]\n"),
        "K05",
        "warn",
        "a stand-in is left",
    ),
    "unread setting": (
        add(f"{GROUPS}/icdr/90-local.yml", "icdr_environment_extra:\n  SDB_LOG_LEVL: Warning\n"),
        "K08",
        "error",
        "SanteDB does not read SDB_LOG_LEVL",
    ),
    "setting of the documentation only": (
        add(f"{GROUPS}/icdr/90-local.yml", "icdr_environment_extra:\n  SDB_CACHE_EXPIRE: '5'\n"),
        "K08",
        "error",
        "SanteDB does not read SDB_CACHE_EXPIRE",
    ),
    "setting without effect": (
        add(f"{GROUPS}/icdr/90-local.yml", "icdr_environment_extra:\n  SDB_DATA_POLICY_FORBID: x\n"),
        "K08",
        "error",
        "SDB_DATA_POLICY_FORBID has no use: Parsed, then dropped; fields are refused by application settings and XML.",
    ),
    "unknown feature": (
        add(f"{GROUPS}/icdr/90-local.yml", "icdr_environment_extra:\n  SDB_FEATURE: LOG;SECC\n"),
        "K07",
        "error",
        "SanteDB has no feature SECC",
    ),
    "latest image": (
        add(f"{GROUPS}/icdr/90-local.yml", "santedb_image: santesuite/santedb-mpi:latest\n"),
        "K09",
        "error",
        "the image has no fixed version",
    ),
    "misspelt variable": (
        add(f"{GROUPS}/proxy/90-local.yml", "proxy_request_burts: 5\n"),
        "K10",
        "warn",
        "no role reads proxy_request_burts",
    ),
    "plain-text password": (
        add(f"{GROUPS}/all/90-local.yml", "vault_smtp_password: hunter2hunter2\n"),
        "K11",
        "error",
        "vault_smtp_password holds a secret in clear",
    ),
    "password in a connection string": (
        add(
            f"{GROUPS}/icdr/90-local.yml",
            "icdr_environment_extra:\n  SDB_DB_MAIN: server=x;database=y;password=hunter2\n",
        ),
        "K11",
        "error",
        "SDB_DB_MAIN holds a secret in clear",
    ),
    "open vault": (
        add(f"{GROUPS}/all/vault.yml", "vault_smtp_password: hunter2\n"),
        "K11",
        "error",
        "the vault is not encrypted",
    ),
    "private key": (
        add("docs/key.txt", "-----BEGIN RSA PRIVATE KEY-----\nMII\n"),
        "K11",
        "error",
        "the file holds a private key",
    ),
    "environments share a secret": (
        both(
            add(f"{GROUPS}/all/90-local.yml", "smtp_password: hunter2hunter2\n"),
            add("inventories/staging/group_vars/all/90-local.yml", "smtp_password: hunter2hunter2\n"),
        ),
        "K12",
        "error",
        "staging and production share a secret (smtp_password)",
    ),
    "environments share a vault": (
        both(add(f"{GROUPS}/all/vault.yml", VAULT), add("inventories/staging/group_vars/all/vault.yml", VAULT)),
        "K12",
        "error",
        "two environments have the same vault",
    ),
    "production laxer": (
        add(f"{GROUPS}/icdr/90-local.yml", "icdr_environment_extra:\n  SDB_SEC_POL_LOCK: '50'\n"),
        "K13",
        "error",
        "production is laxer than staging: failed log-ins before an account is locked (SDB_SEC_POL_LOCK)",
    ),
    "production without disk encryption": (
        add(f"{GROUPS}/all/90-local.yml", "disk_encryption_enabled: false\n"),
        "K13",
        "error",
        "production is laxer than staging: encrypted disks (disk_encryption_enabled)",
    ),
    "production loads unsigned applets": (
        edit(
            "santedb/production/config/santedb.applets.config.xml", 'UnsignedApplets="false"', 'UnsignedApplets="true"'
        ),
        "K13",
        "error",
        "production loads unsigned applets",
    ),
    "environments share a machine": (
        edit("inventories/staging/hosts.yml", "10.20.1.30", "10.20.2.30"),
        "K14",
        "error",
        "production and staging share the machine 10.20.2.30",
    ),
    "environments share a database": (
        add(
            f"{GROUPS}/icdr/90-local.yml",
            'icdr_environment_extra:\n  SDB_DB_MAIN: "server=stg-db.ndc.example.org;database=santedb;user id=x"\n',
        ),
        "K14",
        "error",
        "production and staging share the database santedb on stg-db.ndc.example.org",
    ),
    "certificate not in the register": (
        certificate("certificates/production/mystery.crt"),
        "K15",
        "warn",
        "the certificate is not in the register",
    ),
    "certificate that is none": (
        add("certificates/production/production-proxy.crt", "hello\n"),
        "K15",
        "error",
        "the certificate production-proxy cannot be read",
    ),
    "memory below the rule": (
        add(f"{GROUPS}/icdr/90-local.yml", "icdr_ram_limit_gb: 2\n"),
        "K18",
        "warn",
        "icdr_ram_limit_gb is 2, the rule asks 8",
    ),
    "generated file edited": (
        edit(f"{GROUPS}/proxy/10-generated.yml", "proxy_open: false", "proxy_open: true"),
        "K19",
        "error",
        "a generated file was edited by hand",
    ),
    "generated file edited and committed": (
        committed(edit(f"{GROUPS}/proxy/10-generated.yml", "proxy_open: false", "proxy_open: true")),
        "K19",
        "error",
        "a generated file was edited by hand",
    ),
    "own values that are no YAML": (
        add(f"{GROUPS}/proxy/90-local.yml", "proxy_x: [1\n"),
        "K20",
        "error",
        "the file is no YAML: did not find expected ',' or ']'",
    ),
    "record for other answers": (
        add("records/production/DEP-83.yml", RECORD + f"answers_digest: {'0' * 64}\n"),
        "K21",
        "warn",
        "the record of DEP-83 (Run the administration panel security tests "
        "(users, groups, policies, devices, applications)) "
        "was given for other answers than the plan has now",
    ),
    "record with an unknown field": (
        add("records/production/DEP-83.yml", RECORD + f"answers_digest: {'0' * 64}\naproved_by: K\n"),
        "K22",
        "warn",
        "a record has no field aproved_by",
    ),
    "evidence that is not there": (
        add("records/production/DEP-83.yml", RECORD + f"answers_digest: {'0' * 64}\n"),
        "K23",
        "warn",
        "the evidence of DEP-83 is not in the repository: docs/none.md",
    ),
    "record in the wrong place": (
        add("records/project/DEP-83.yml", RECORD),
        "K24",
        "warn",
        "the record of DEP-83 is in the wrong place",
    ),
    "emergency without review": (
        add("records/production/emergency/1.yml", "at: 2020-01-01T00:00:00Z\nby: E\nreason: r\n"),
        "K25",
        "error",
        "the emergency deployment 1 is not reviewed",
    ),
    "data": (add("patients.csv", "name,born\n"), "K26", "warn", "the file looks like data"),
    "data and a public remote": (
        both(add("patients.csv", "name,born\n"), remote("git@github.com:moh/registry.git")),
        "K26",
        "error",
        "the file looks like data",
    ),
    "public remote": (
        remote("https://gitlab.com/moh/registry.git"),
        "K27",
        "warn",
        "names and addresses of people go to gitlab.com",
    ),
    "conflict": (
        add("docs/raci.md", "a\n<<<<<<< before\nb\n=======\nc\n>>>>>>> after\n"),
        "K30",
        "error",
        "an update left a conflict",
    ),
    "tampered plan": (
        edit("plan.yml", "  lockout_attempts: 5", "  lockout_attempts: 6"),
        "K19",
        "error",
        "the digests of the plan do not fit its answers (tasks ",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_found(fault: str, repository: Path, rendered: Path) -> None:
    change, code, severity, message = FAULTS[fault]
    change(repository)
    findings = new(repository, rendered)
    assert any(
        (found_code, found_severity) == (code, severity) and found_message.startswith(message)
        for found_code, found_severity, found_message in findings
    ), findings


def test_certificates_expire(repository: Path) -> None:
    certificate("certificates/production/production-proxy.crt")(repository)
    today = datetime.date.today()
    for days, severity, word in ((200, None, ""), (280, "warn", "expires"), (301, "error", "expired")):
        listed = check(Repository(repository), str(today + datetime.timedelta(days=days)))
        about = [problem for problem in listed if problem.id == "K17"]
        assert [problem.severity for problem in about] == ([severity] if severity else [])
        assert all(problem.message.startswith(f"the certificate production-proxy {word} on ") for problem in about)


def test_secrets_are_never_shown(repository: Path) -> None:
    write(repository, f"{GROUPS}/all/90-local.yml", "smtp_password: hunter2hunter2\nx: 'a;password=hunter2hunter2'\n")
    write(repository, "docs/key.txt", "-----BEGIN PRIVATE KEY-----\nhunter2hunter2\n")
    for arguments in ((), ("--json",)):
        done = CliRunner().invoke(main, ["check", str(repository), *arguments])
        assert done.exit_code == 1
        assert "hunter2" not in done.output


def test_allowed_values_are_left_alone(repository: Path, rendered: Path) -> None:
    write(
        repository,
        f"{GROUPS}/icdr/90-local.yml",
        'icdr_environment_extra:\n  SDB_SEC_SIG_extra: "hs256:{{ vault_signing_extra }}"\n  my.own.setting: "1"\n'
        "site_password: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  3132\n",
    )
    write(repository, f"{GROUPS}/all/vault.yml", VAULT)
    assert not new(repository, rendered)


def test_an_update_may_change_generated_files(repository: Path, rendered: Path) -> None:
    edit(f"{GROUPS}/proxy/10-generated.yml", "proxy_open: false", "proxy_open: false\n")(repository)
    edit(".copier-answers.yml", "_commit: v1.0.0", "_commit: v1.1.0")(repository)
    assert not new(repository, rendered)
    commit(repository, "Update")
    assert not new(repository, rendered)


def test_shortfalls_and_placeholders_of_the_plan(tmp_path: Path) -> None:
    root = render("district-ims-offline", tmp_path / "repository")
    assert any(code == "K04" and "training has stand-ins for machines" in message for code, _, message in found(root))


def test_exit_codes_and_forms(rendered: Path, repository: Path) -> None:
    fine = CliRunner().invoke(main, ["check", str(rendered)])
    assert fine.exit_code == 0
    assert fine.output.splitlines()[-1].startswith(f"{rendered}: ")
    write(repository, f"{GROUPS}/all/vault.yml", "x: y\n")
    wrong = CliRunner().invoke(main, ["check", str(repository), "--json"])
    assert wrong.exit_code == 1
    listed: dict[str, Any] = json.loads(wrong.output)
    assert listed["ok"] is False
    assert listed["problems"][0]["id"] == "K11"
    assert CliRunner().invoke(main, ["check", str(rendered / "docs")]).exit_code == 2
