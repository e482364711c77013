"""The playbooks that run on the control machine alone, for real: secrets and the list of artefacts; and filters."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyrage
import pytest
import yaml

TEMPLATE = Path(__file__).resolve().parents[2] / "template"
BIN = Path(sys.executable).parent
REQUIRED = [
    {"name": "vault_cache_password", "kind": "password", "length": 40, "alphabet": "A-Za-z0-9_-", "purpose": "cache"},
    {"name": "vault_hl7_secret", "kind": "hl7", "length": 32, "alphabet": "A-Za-z0-9", "purpose": "HL7"},
    {"name": "vault_smtp_password", "kind": "supplied", "length": None, "alphabet": "as issued", "purpose": "mail"},
]


def plugin(path: str) -> Any:
    spec = importlib.util.spec_from_file_location(Path(path).stem, TEMPLATE / "roles" / path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Repository:
    """A deployment repository with two environments, of which nothing is deployed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in ("roles", "playbooks"):
            shutil.copytree(TEMPLATE / name, path / name)
        for name in ("requirements.yml", "requirements.txt"):
            shutil.copy(TEMPLATE / name, path / name)
        for name in ("staging", "production"):
            folder = path / "inventories" / name / "group_vars/all"
            folder.mkdir(parents=True)
            groups = {"database": {"hosts": {"one": {"ansible_host": "192.0.2.1"}}}, "cache": {"hosts": {}}}
            hosts = {"all": {"children": groups}}
            (path / "inventories" / name / "hosts.yml").write_text(yaml.safe_dump(hosts), encoding="utf-8")
            self.variables(name, santedb_environment_name=name, santedb_required_secrets=REQUIRED)
        for name in ("right", "wrong"):
            (path / name).write_text(f"{name} password\n", encoding="utf-8")

    def variables(self, environment: str, **values: Any) -> None:
        path = self.path / f"inventories/{environment}/group_vars/all/10-generated.yml"
        path.write_text(yaml.safe_dump({"santedb_environment_name": environment, **values}), encoding="utf-8")

    def vault(self, environment: str) -> Path:
        return self.path / f"inventories/{environment}/group_vars/all/vault.yml"

    def run(
        self, program: str, *arguments: str | Path, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "ANSIBLE_ROLES_PATH": str(self.path / "roles"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_HOME": str(self.path / ".ansible"),
            **(env or {}),
        }
        return subprocess.run(
            [BIN / program, *arguments], cwd=self.path, env=environment, capture_output=True, text=True, check=False
        )

    def play(self, playbook: str, environment: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("ansible-playbook", "-i", f"inventories/{environment}", f"playbooks/{playbook}.yml", *arguments)

    def secrets(self, environment: str, password: str = "right") -> dict[str, Any]:
        done = self.run("ansible-vault", "view", "--vault-password-file", password, self.vault(environment))
        assert done.returncode == 0, done.stderr
        values = yaml.safe_load(done.stdout)
        assert isinstance(values, dict)
        return values


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path / "repository")


def test_secrets_are_made_once_encrypted_and_never_shown(repository):
    first = repository.play("secrets", "staging", "--vault-password-file", "right", "-vvv")
    assert first.returncode == 0, first.stdout + first.stderr
    content = repository.vault("staging").read_text(encoding="utf-8")
    assert content.startswith("$ANSIBLE_VAULT;")
    assert repository.vault("staging").stat().st_mode & 0o777 == 0o600
    values = repository.secrets("staging")
    assert set(values) == {"vault_cache_password", "vault_hl7_secret"}
    assert len(values["vault_cache_password"]) == 40
    assert len(values["vault_hl7_secret"]) == 32
    assert values["vault_hl7_secret"].isalnum()
    assert "vault_smtp_password: mail" in first.stdout
    second = repository.play("secrets", "staging", "--vault-password-file", "right", "-vvv")
    assert "changed=0" in second.stdout
    assert repository.vault("staging").read_text(encoding="utf-8") == content
    for text in (first.stdout, first.stderr, second.stdout, second.stderr):
        for value in values.values():
            assert value not in text
    # a later plan needs one more: the others stay
    more = [
        *REQUIRED,
        {"name": "vault_new", "kind": "password", "length": 20, "alphabet": "A-Za-z0-9", "purpose": "new"},
    ]
    repository.variables("staging", santedb_required_secrets=more)
    assert "changed=1" in repository.play("secrets", "staging", "--vault-password-file", "right").stdout
    grown = repository.secrets("staging")
    assert {**grown, "vault_new": None} == {**values, "vault_new": None}
    leftovers = [path.name for path in repository.vault("staging").parent.iterdir()]
    assert sorted(leftovers) == ["10-generated.yml", "vault.yml"]


def test_check_mode_writes_no_secret(repository):
    done = repository.play("secrets", "staging", "--vault-password-file", "right", "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not repository.vault("staging").exists()


def test_no_vault_password_is_a_clear_error(repository):
    done = repository.play("secrets", "staging")
    assert done.returncode == 2
    assert "There is no vault password" in done.stdout + done.stderr
    assert "--ask-vault-pass" in done.stdout + done.stderr
    assert not repository.vault("staging").exists()


def test_a_wrong_vault_password_changes_nothing(repository):
    repository.play("secrets", "staging", "--vault-password-file", "right")
    before = repository.vault("staging").read_bytes()
    done = repository.play("secrets", "staging", "--vault-password-file", "wrong")
    assert done.returncode != 0
    assert "Decryption failed" in done.stdout + done.stderr
    assert repository.vault("staging").read_bytes() == before


def test_a_file_in_clear_is_refused(repository):
    repository.vault("staging").write_text("vault_cache_password: known to everybody\n", encoding="utf-8")
    done = repository.play("secrets", "staging", "--vault-password-file", "right")
    assert done.returncode == 2
    assert "is not encrypted" in done.stdout + done.stderr
    assert "known to everybody" not in done.stdout + done.stderr


def test_the_same_secret_in_two_environments_is_refused(repository):
    repository.play("secrets", "staging", "--vault-password-file", "right")
    shutil.copy(repository.vault("staging"), repository.vault("production"))
    done = repository.play("secrets", "production", "--vault-password-file", "right")
    assert done.returncode == 2
    assert "Two environments have the same secret: vault_cache_password" in done.stdout + done.stderr
    repository.vault("production").unlink()
    done = repository.play("secrets", "production", "--vault-password-file", "wrong")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not compared, another password" in done.stdout


class Sops:
    """A repository whose secrets are encrypted by sops for age keys, one of which is held here."""

    def __init__(self, repository: Repository, folder: Path) -> None:
        """Make a key, and name its public half as the recipient in both environments."""
        self.repository, self.folder = repository, folder
        shutil.copy(TEMPLATE / "ansible.cfg", repository.path)
        self.public = self.key("mine")
        for environment in ("staging", "production"):
            repository.variables(
                environment,
                santedb_required_secrets=REQUIRED,
                santedb_secrets_backend="sops",
                secrets_sops_age_recipients=[self.public],
            )

    def key(self, name: str) -> str:
        """Make a private key in a file of that name; return its public half."""
        identity = pyrage.x25519.Identity.generate()
        (self.folder / name).write_text(f"{identity}\n", encoding="ascii")
        return str(identity.to_public())

    def file(self, environment: str) -> Path:
        """Where the secrets of an environment are."""
        return self.repository.vault(environment).with_name("vault.sops.yml")

    def run(self, program: str, *arguments: str | Path, key: str = "mine") -> subprocess.CompletedProcess[str]:
        """Run a program with a private key."""
        return self.repository.run(program, *arguments, env={"SOPS_AGE_KEY_FILE": str(self.folder / key)})

    def play(self, environment: str, key: str = "mine") -> subprocess.CompletedProcess[str]:
        """Run the playbook of the secrets."""
        return self.run(
            "ansible-playbook", "-i", f"inventories/{environment}", "playbooks/secrets.yml", "-vvv", key=key
        )


@pytest.fixture
def sops(repository, tmp_path):
    return Sops(repository, tmp_path)


def test_sops_encrypts_the_same_secrets_for_age_keys(sops):
    first = sops.play("staging")
    assert first.returncode == 0, first.stdout + first.stderr
    content = sops.file("staging").read_text(encoding="utf-8")
    assert sops.public in content
    assert sops.file("staging").stat().st_mode & 0o777 == 0o600
    values = yaml.safe_load(sops.run("sops", "--decrypt", sops.file("staging")).stdout)
    assert set(values) == {"vault_cache_password", "vault_hl7_secret"}
    second = sops.play("staging")
    assert "changed=0" in second.stdout
    assert sops.file("staging").read_text(encoding="utf-8") == content
    for text in (content, first.stdout, first.stderr, second.stdout, second.stderr):
        for value in values.values():
            assert value not in text
    assert not sops.repository.vault("staging").exists()
    # and every playbook has them, by ansible.cfg alone
    shown = sops.run("ansible", "-i", "inventories/staging", "one", "-m", "debug", "-a", "var=vault_hl7_secret")
    assert values["vault_hl7_secret"] in shown.stdout, shown.stdout + shown.stderr


def test_sops_with_another_key_changes_nothing(sops):
    sops.play("staging")
    before = sops.file("staging").read_bytes()
    sops.key("theirs")
    done = sops.play("staging", key="theirs")
    assert done.returncode != 0
    assert re.search(r"error with file .*/staging/group_vars/all/vault\.sops\.yml", done.stderr), done.stderr
    assert "at least one key has to be successful" in done.stderr.replace("\n", " ")
    assert sops.file("staging").read_bytes() == before


def test_sops_refuses_the_same_secret_in_two_environments_and_secrets_in_clear(sops):
    sops.play("staging")
    shutil.copy(sops.file("staging"), sops.file("production"))
    done = sops.play("production")
    assert done.returncode == 2
    assert "Two environments have the same secret: vault_cache_password" in done.stdout + done.stderr
    sops.file("production").write_text("vault_cache_password: in the clear\n", encoding="utf-8")
    done = sops.play("production")
    assert done.returncode != 0
    assert "production/group_vars/all/vault.sops.yml is not encrypted" in done.stderr


def test_every_vault_id_encrypts_for_its_own_environment(repository):
    arguments = ("--vault-id", "production@wrong", "--vault-id", "staging@right")
    assert repository.play("secrets", "staging", *arguments).returncode == 0
    assert repository.vault("staging").read_text(encoding="utf-8").startswith("$ANSIBLE_VAULT;1.2;AES256;staging\n")
    assert repository.secrets("staging", "right")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"length": 8}, "it could be guessed"),
        ({"alphabet": "as issued by others"}, "is no list of characters"),
        ({"alphabet": "0-1"}, "is no list of characters"),
    ],
)
def test_secrets_that_cannot_be_strong_are_refused(repository, entry, said):
    repository.variables("staging", santedb_required_secrets=[{**REQUIRED[0], **entry}])
    done = repository.play("secrets", "staging", "--vault-password-file", "right")
    assert done.returncode == 2
    assert said in done.stdout + done.stderr


def test_generated_secrets_keep_to_their_alphabet():
    action = plugin("secrets/action_plugins/vault_secrets.py")
    characters = action.alphabet("A-Za-z0-9_-")
    assert len(characters) == 64
    made = {action.strong(characters, 24) for _ in range(300)}
    assert len(made) == 300
    for text in made:
        assert set(text) <= set(characters)
        assert text[0].isalnum()
        assert any(map(str.isdigit, text))
        assert any(map(str.isupper, text))


def test_artefacts_lists_what_this_plan_needs(repository):
    repository.variables("staging", santedb_image="santesuite/santedb-icdr:3.0.2098-alpha", host_baseline_siem=False)
    done = repository.play("artefacts", "staging")
    assert done.returncode == 0, done.stdout + done.stderr
    found = yaml.safe_load((repository.path / "artefacts.yml").read_text(encoding="utf-8"))
    assert found["environment"] == "staging"
    assert found["images"] == [
        {"image": "santesuite/santedb-icdr:3.0.2098-alpha", "digest": "unconfirmed", "confirmed": False}
    ]
    assert "nftables" in found["packages"]["host_baseline"]
    assert "cache" not in found["packages"], "no host, no packages"
    assert {"name": "community.crypto", "version": "3.0.5"} in found["collections"]
    assert any(line.startswith("ansible-core==") for line in found["python"])
    assert "Not confirmed by a digest" in done.stdout
    assert "changed=0" in repository.play("artefacts", "staging").stdout


def test_an_image_by_digest_is_confirmed():
    images = plugin("artefacts/filter_plugins/artefacts.py").artefacts_images
    pinned = "santesuite/santedb-icdr@sha256:" + "0" * 64
    assert images([pinned, None, pinned]) == [{"image": pinned, "digest": pinned.partition("@")[2], "confirmed": True}]


def test_firewall_rules_follow_the_plan():
    rules = plugin("host_baseline/filter_plugins/host_baseline.py").host_baseline_rules
    hosts = {"a": {"ansible_host": "10.0.0.1"}, "b": {"ansible_host": "10.0.0.2"}, "c": {"ansible_host": "2001:db8::1"}}
    groups = {"icdr": ["a", "b", "c"], "database": ["a"], "proxy": []}
    networks = [{"name": "office", "cidr": "10.1.0.0/16"}]
    found = rules(
        [
            {"service": "db", "port": 5432, "from": [{"group": "icdr"}, {"network": "office"}]},
            {"service": "web", "port": 443, "from": [{"any": True}]},
            {
                "service": "hl7",
                "port": 2100,
                "from": [{"partner": "lab", "cidr": "192.0.2.7/32"}, {"cidr": "10.1.2.0/24"}],
            },
            {"service": "shut", "port": 1, "from": []},
            {"service": "none", "port": 2, "from": [{"group": "proxy"}]},
            {"service": "odd", "port": 3, "from": ["nowhere", {"cidr": "not an address"}]},
        ],
        groups,
        hosts,
        networks,
        "a",
    )
    by_name = {rule["service"]: rule for rule in found}
    assert [rule["port"] for rule in found] == ["1", "2", "3", "443", "2100", "5432"]
    assert by_name["db"]["v4"] == ["10.0.0.1/32", "10.0.0.2/32", "10.1.0.0/16"]
    assert by_name["db"]["v6"] == ["2001:db8::1/128"]
    assert by_name["db"]["local"] is True
    assert (by_name["web"]["v4"], by_name["web"]["v6"]) == (["0.0.0.0/0"], ["::/0"])
    assert by_name["hl7"]["v4"] == ["10.1.2.0/24", "192.0.2.7/32"]
    assert by_name["hl7"]["local"] is False
    assert by_name["shut"]["v4"] == by_name["none"]["v4"] == by_name["odd"]["v4"] == []
    assert len(by_name["odd"]["problems"]) == 2


def test_the_pfx_password_is_the_one_santedb_computes():
    password = plugin("certificates/filter_plugins/certificates.py").certificates_pfx_password
    # printf %s /santedb/.x509/A.pfx | sha1sum
    assert password("/santedb/.x509/A.pfx") == "278E55E10E90EB665E5DAB0ACC9C787D92ED8925"
