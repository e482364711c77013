"""``santescaffold check``: everything a look at the repository alone can find, at once.

Nothing is changed and no machine is asked. A value that may be a secret is never shown.
"""

from __future__ import annotations

import contextlib
import datetime
import difflib
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from santescaffold.answers import KEPT_BY_COPIER
from santescaffold.explain import load_catalog
from santescaffold.problems import Problem
from santescaffold.records import RECORD_KEYS, assess, is_date, orphans, record_path, repeated_path, reviews
from santescaffold.repository import Repository

SKIPPED = {".git", ".venv", ".ansible", ".ca", ".cache", "bundle", "__pycache__", "roles", "playbooks"}
PUBLIC_FORGES = ("github.com", "gitlab.com", "bitbucket.org", "codeberg.org", "sr.ht", "gitea.com")


class _Loader(yaml.CSafeLoader):
    """YAML as inventories use it: values with Ansible's own tags stay what they are."""


class Tagged(str):
    """A value with a tag, such as !vault."""


def _tagged(loader: yaml.Loader, suffix: str, node: yaml.Node) -> Tagged:
    return Tagged(f"!{suffix}")


_Loader.add_multi_constructor("!", _tagged)


@dataclass
class Inspection:
    """A repository under inspection, and what several checks look at."""

    repository: Repository
    today: str
    unreadable: list[Problem] = field(default_factory=list)
    _texts: dict[str, str] = field(default_factory=dict, repr=False)

    @cached_property
    def root(self) -> Path:
        """The repository's directory."""
        return self.repository.path

    @cached_property
    def catalog(self) -> dict[str, Any]:
        """The catalogue, {} when it cannot be had."""
        return load_catalog(self.repository.answers)

    @cached_property
    def files(self) -> list[str]:
        """Every file people or the template put here, by path."""
        found = []
        for directory, names, files in os.walk(self.root):
            names[:] = sorted(name for name in names if name not in SKIPPED)
            below = os.path.relpath(directory, self.root)
            found += sorted(files) if below == "." else [os.path.join(below, name) for name in sorted(files)]
        return found

    def text(self, path: str) -> str:
        """The text of a file, "" for what is none or too large to be written by hand."""
        if path not in self._texts:
            self._texts[path] = ""
            with contextlib.suppress(OSError, UnicodeDecodeError), open(self.root / path, encoding="utf-8") as file:
                if os.fstat(file.fileno()).st_size <= 2_000_000:
                    self._texts[path] = file.read()
        return self._texts[path]

    @cached_property
    def variables(self) -> dict[str, dict[str, dict[str, Any]]]:
        """{environment: {file: its variables}} of group_vars and host_vars, vaults left alone."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for path in self.files:
            parts = path.split("/")
            if parts[0] != "inventories" or len(parts) < 4 or not path.endswith((".yml", ".yaml")) or _is_vault(path):
                continue
            if parts[2] not in ("group_vars", "host_vars"):
                continue
            try:
                loaded = yaml.load(self.text(path), Loader=_Loader)
            except yaml.YAMLError as error:
                mark = getattr(error, "problem_mark", None)
                self.unreadable.append(
                    Problem(
                        "K20",
                        "error",
                        f"the file is no YAML: {getattr(error, 'problem', None) or 'it cannot be read'}",
                        path,
                        "Ansible stops at it",
                        "correct the line",
                        file=path,
                        line=mark.line + 1 if mark else None,
                    )
                )
                continue
            if isinstance(loaded, dict):
                found.setdefault(parts[1], {})[path] = {str(name): value for name, value in loaded.items()}
        return found

    def merged(self, environment: str) -> dict[str, Any]:
        """All group variables of an environment in one mapping, what people wrote over what was rendered."""
        files = self.variables.get(environment, {})
        merged: dict[str, Any] = {}
        for path in sorted(files, key=lambda path: (not path.endswith("10-generated.yml"), path)):
            if "/group_vars/" in path:
                merged.update(files[path])
        settings = merged.get("santedb_environment")
        extra = merged.get("icdr_environment_extra")
        merged["santedb_environment"] = {
            **(settings if isinstance(settings, dict) else {}),
            **(extra if isinstance(extra, dict) else {}),
        }
        return merged

    def own(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Yield (environment, file, variables) of what people wrote themselves."""
        for environment, files in self.variables.items():
            for path, variables in files.items():
                if not path.endswith("10-generated.yml"):
                    yield environment, path, variables

    def line(self, path: str, name: str) -> int | None:
        """The line of a key in a file."""
        pattern = re.compile(rf"^\s*(- )?[\"']?{re.escape(name)}[\"']?\s*:")
        for number, line in enumerate(self.text(path).splitlines(), 1):
            if pattern.match(line):
                return number
        return None


def check(repository: Repository, today: str | None = None) -> list[Problem]:
    """Return all findings."""
    inspection = Inspection(repository, today or str(datetime.date.today()))
    found = [problem for finder in FINDERS for problem in finder(inspection)]
    return [*found, *inspection.unreadable]


def _near(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, [str(one) for one in known], 2, 0.7)
    return f"did you mean {' or '.join(close)}?" if close else ""


def _is_vault(path: str) -> bool:
    return path.rsplit("/", 1)[-1].startswith("vault.")


def _blank(value: Any) -> bool:
    return value in (None, "", [], {}, False)


def answers_known(look: Inspection) -> Iterator[Problem]:
    """Unknown or misspelt answers, and answers that were changed without an update."""
    stored, planned = look.repository.answers, look.repository.plan["answers"]
    file = ".copier-answers.yml"
    if not stored:
        yield Problem(
            "K01",
            "error",
            "the answers file is missing",
            file,
            "without it the repository cannot be updated",
            f"restore it: git checkout {file}",
            file=file,
        )
    known = {*planned, *look.catalog.get("questions", {}), *KEPT_BY_COPIER, "interview"}
    for name, value in stored.items():
        if name not in known and not name.startswith("_"):
            near = _near(name, known)
            yield Problem(
                "K02",
                "error",
                f"there is no answer {name}",
                file,
                "nothing reads it; what it was meant to say is not planned",
                f"{near or 'remove it.'} Give answers with `copier update --data`, never by hand",
                answers=(name,),
                file=file,
                line=look.line(file, name),
            )
        elif (
            name in planned
            and not _blank(value)
            and not _blank(planned[name])
            and isinstance(value, (str, int))
            and value != planned[name]
        ):
            yield Problem(
                "K03",
                "error",
                f"the answer {name} is {value}, but the plan was made with {planned[name]}",
                file,
                "the file was edited by hand; nothing was rendered anew, and the next update mistakes the difference",
                f"undo it (git checkout {file}), then change the answer with `copier update --data {name}=…`",
                answers=(name,),
                file=file,
                line=look.line(file, name),
            )


def placeholders(look: Inspection) -> Iterator[Problem]:
    """Stand-ins that nobody replaced yet, and gaps only people can close."""
    plan = look.repository.plan
    for environment in plan["environments"]:
        name = environment["name"]
        hosts = [h["name"] for h in plan["hosts"] if h["environment"] == name and h.get("placeholder")]
        names = [entry["fqdn"] for entry in environment["domain_names"].values() if entry.get("placeholder")]
        for what, listed, answer in (("machines", hosts, "hosts"), ("names", names, "domain_names")):
            if listed:
                yield Problem(
                    "K04",
                    "warn",
                    f"{name} has stand-ins for {what}: {', '.join(listed)}",
                    "plan.yml",
                    "they lead nowhere; the environment cannot be deployed",
                    f"fill the answer {answer} for {name} and update",
                    answers=(answer,),
                    file="plan.yml",
                )
    for _, path, _ in look.own():
        for number, line in enumerate(look.text(path).splitlines(), 1):
            if re.search(
                r"\b192\.0\.2\.\d+|\.invalid\b|\bCHANGE_?ME\b|\bTODO\b", line
            ) and not line.lstrip().startswith("#"):
                yield Problem(
                    "K05",
                    "warn",
                    "a stand-in is left",
                    path,
                    "it leads nowhere",
                    "put the real value",
                    file=path,
                    line=number,
                )
    gaps = {
        path: count for path in look.files if path.endswith(".md") and (count := look.text(path).count("TODO(people)"))
    }
    if gaps:
        most = sorted(gaps, key=lambda path: (-gaps[path], path))[:3]
        yield Problem(
            "K06",
            "note",
            f"{sum(gaps.values())} gaps are left for people in {len(gaps)} documents",
            f"most of them in {', '.join(most)}",
            "the plan cannot know them",
            "list them: grep -rn 'TODO(people)' README.md docs checklists",
        )


def settings_read(look: Inspection) -> Iterator[Problem]:
    """Settings SanteDB does not read, unknown features, and variables no role reads."""
    catalog = look.catalog.get("features") or {}
    known: dict[str, dict[str, Any]] = {item["name"]: item for item in catalog.get("host_settings", [])}
    tokens = {"CORE"}
    for feature in catalog.get("features", []):
        tokens.add(feature["id"])
        known.update({item["name"]: item for item in feature.get("settings", [])})
    absent = {item["name"]: item["use"] for item in (catalog.get("documented_but_absent") or {}).get("variables", [])}
    free = re.compile(r"SDB_(DB_.+|SEC_SIG_.+|FEATURE)$")
    for environment, path, variables in look.own():
        settings: dict[str, Any] = {}
        for name in ("santedb_environment", "icdr_environment_extra", "icdr_host_environment"):
            if isinstance(variables.get(name), dict):
                settings.update(variables[name])
        for name, value in settings.items() if catalog else ():
            where = f"{path} ({environment})"
            line = look.line(path, str(name))
            if name == "SDB_FEATURE":
                for token in str(value).split(";"):
                    if token not in tokens:
                        yield Problem(
                            "K07",
                            "error",
                            f"SanteDB has no feature {token or '(empty)'}",
                            where,
                            "the server stops at an unknown one",
                            _near(token, tokens) or "remove it",
                            file=path,
                            line=line,
                        )
            elif name in absent and name not in known:
                yield Problem(
                    "K08",
                    "error",
                    f"SanteDB does not read {name}",
                    where,
                    "its documentation names it, its source does not",
                    f"use {absent[name]}",
                    file=path,
                    line=line,
                )
            elif name in known and (known[name].get("never") or known[name].get("effective") is False):
                never = known[name].get("never")
                reason = never["reason"] if isinstance(never, dict) else "It has no effect."
                quirk = known[name].get("quirk") or (never.get("quirk") if isinstance(never, dict) else None)
                todo = "remove it" + (f"; see santescaffold explain {quirk}" if quirk else "")
                yield Problem(
                    "K08", "error", f"{name} has no use: {reason}", where, "it misleads", todo, file=path, line=line
                )
            elif str(name).startswith("SDB_") and name not in known and not free.match(str(name)):
                yield Problem(
                    "K08",
                    "error",
                    f"SanteDB does not read {name}",
                    where,
                    "unknown settings are ignored without a word",
                    _near(str(name), known) or "remove it",
                    file=path,
                    line=line,
                )
        image = variables.get("santedb_image")
        if isinstance(image, str) and (image.endswith(":latest") or ":" not in image.rsplit("/", 1)[-1]):
            yield Problem(
                "K09",
                "error",
                "the image has no fixed version",
                path,
                "it changes under the running system",
                "name a tag, better a digest, through the answer image_versions",
                file=path,
                line=look.line(path, "santedb_image"),
            )
    yield from _variables_read(look)


def _variables_read(look: Inspection) -> Iterator[Problem]:
    read = {
        name
        for files in look.variables.values()
        for path, names in files.items()
        if path.endswith("10-generated.yml")
        for name in names
    }
    roles = look.root / "roles"
    prefixes = {"santedb"}
    for specification in sorted(roles.glob("*/meta/argument_specs.yml")):
        prefixes.add(specification.parts[-3])
        read.update(re.findall(r"^ {6}([a-z][a-z0-9_]+):", specification.read_text(encoding="utf-8"), re.MULTILINE))
        defaults = specification.parents[1] / "defaults" / "main.yml"
        if defaults.is_file():
            read.update(re.findall(r"^([a-z][a-z0-9_]+):", defaults.read_text(encoding="utf-8"), re.MULTILINE))
    for _, path, variables in look.own():
        for name in variables:
            if name in read or not name.startswith(tuple(f"{prefix}_" for prefix in prefixes)):
                continue
            near = _near(name, read)
            yield Problem(
                "K10",
                "warn",
                f"no role reads {name}",
                path,
                "the value has no effect",
                near or "remove it, or keep it if a playbook of your own reads it",
                file=path,
                line=look.line(path, name),
            )


SECRET_NAME = re.compile(r"(password|passwd|passphrase|secret|token|api_?key|private_?key|_pass)$", re.IGNORECASE)
SECRET_PART = re.compile(r"(?:password|pwd|secret)\s*=\s*([^;\"'\s&]+)", re.IGNORECASE)
PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")


def _secrets(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield (key, literal) of every value that looks like a secret in clear."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _secrets(inner, str(key))
    elif isinstance(value, list):
        for inner in value:
            yield from _secrets(inner, name)
    elif isinstance(value, str) and not isinstance(value, Tagged) and value:
        if SECRET_NAME.search(name) and "{{" not in value and not value.startswith("$ANSIBLE_VAULT"):
            yield name, value
        else:
            for part in SECRET_PART.findall(value):
                if "{{" not in part:
                    yield name, part


def secrets(look: Inspection) -> Iterator[Problem]:
    """Secrets in clear, and secrets that two environments share. Their values are never shown."""
    why = "everybody who can read the repository has it"
    todo = (
        "move it to vault.yml (ansible-vault edit), name it there vault_…, and give it a new value: this one is known"
    )
    seen: dict[str, tuple[str, str]] = {}
    for environment, files in look.variables.items():
        for path, variables in files.items():
            for name, literal in _secrets(variables):
                yield Problem(
                    "K11",
                    "error",
                    f"{name or 'a value'} holds a secret in clear",
                    path,
                    why,
                    todo,
                    file=path,
                    line=look.line(path, name),
                )
                first = seen.setdefault(literal, (environment, path))
                if first[0] != environment:
                    yield Problem(
                        "K12",
                        "error",
                        f"{environment} and {first[0]} share a secret ({name})",
                        f"{path}, {first[1]}",
                        "who has it in one has it in the other",
                        "give each its own",
                        file=path,
                        line=look.line(path, name),
                    )
    for path in look.files:
        if path.startswith("inventories/") and _is_vault(path):
            text = look.text(path)
            sops = path.endswith(".sops.yml")
            if not (re.search(r"^sops:", text, re.MULTILINE) if sops else text.startswith("$ANSIBLE_VAULT")):
                yield Problem(
                    "K11",
                    "error",
                    "the vault is not encrypted",
                    path,
                    why,
                    "encrypt it (ansible-vault encrypt); give every secret in it a new value if it was ever committed",
                    file=path,
                )
        elif path.endswith(
            (".key", ".pem", ".yml", ".yaml", ".md", ".txt", ".cnf", ".xml", ".json", ".env", ".conf", ".crt")
        ):
            match = PRIVATE_KEY.search(look.text(path))
            if match:
                yield Problem(
                    "K11",
                    "error",
                    "the file holds a private key",
                    path,
                    why,
                    "take it out of the repository and of its history, and issue the certificate anew",
                    file=path,
                    line=look.text(path)[: match.start()].count("\n") + 1,
                )
        if path.endswith(".env"):
            for number, line in enumerate(look.text(path).splitlines(), 1):
                name, equals, value = line.partition("=")
                if equals and SECRET_NAME.search(name.strip()) and value.strip():
                    yield Problem(
                        "K11",
                        "error",
                        f"{name.strip()} holds a secret in clear",
                        path,
                        why,
                        todo,
                        file=path,
                        line=number,
                    )
    vaults: dict[str, str] = {}
    for path in look.files:
        if path.startswith("inventories/") and _is_vault(path) and look.text(path).strip():
            digest = hashlib.sha256(look.text(path).encode()).hexdigest()
            if digest in vaults and vaults[digest].split("/")[1] != path.split("/")[1]:
                yield Problem(
                    "K12",
                    "error",
                    "two environments have the same vault",
                    f"{path}, {vaults[digest]}",
                    "who has the secrets of one has those of the other",
                    "delete the copy and run make secrets for it",
                    file=path,
                )
            vaults.setdefault(digest, path)


def _rank(*values: str) -> Callable[[Any], int | None]:
    return lambda value: values.index(str(value).lower()) if str(value).lower() in values else None


def _number(value: Any) -> int | None:
    return int(value) if str(value).isdigit() else None


def _fewer(value: Any) -> int | None:
    number = _number(value)
    return None if number is None else -number


def _shortest(value: Any) -> int | None:
    found = re.search(r"\{(\d+),", str(value))
    return int(found.group(1)) if found else None


STRICTNESS: dict[str, tuple[str, Callable[[Any], int | None]]] = {
    "SDB_SEC_POL_LOCK": ("failed log-ins before an account is locked", _fewer),
    "SDB_SEC_PWD_REGEX": ("shortest password", _shortest),
    "SDB_OPENID_INSECURE_CLIENT_AUTH": ("sign-in of applications without a device", _rank("true", "false")),
    "SDB_DATA_POLICY_ACTION": (
        "what the privacy filter does",
        _rank("none", "audit", "nullify", "redact", "hash", "hide", "error"),
    ),
    "SDB_HL7_AUTHENTICATION": ("how HL7 v2 senders are authenticated", _rank("none", "msh8")),
    "proxy_client_certificates": ("client certificates at the proxy", _rank("none", "oauth_only", "all_rest_apis")),
    "proxy_revocation": ("revocation of client certificates", _rank("none", "offline", "online")),
    "proxy_block_api_docs": ("interface documentation closed to the public", _rank("false", "true")),
    "icdr_sample_data": ("sample data", _rank("true", "false")),
    "icdr_hardening_lock_demo_users": ("sample users locked", _rank("false", "true")),
    "icdr_signing": ("signing keys", _rank("hmac", "certificate")),
    "disk_encryption_enabled": ("encrypted disks", _rank("false", "true")),
    "audit_enabled": ("audit collector", _rank("false", "true")),
    "audit_retention_days": ("days audits are kept", _number),
    "backup_enabled": ("backups", _rank("false", "true")),
    "backup_interval_hours": ("hours between backups", _fewer),
    "icdr_container_privileged": ("privileged containers", _rank("true", "false")),
}
"""What must not be laxer in production than elsewhere: what it is, and how strict a value is (None: cannot tell)."""


def laxer(look: Inspection) -> Iterator[Problem]:
    """A production that is laxer than another environment."""
    environments = look.repository.plan["environments"]
    strict = [environment["name"] for environment in environments if environment["production"]]
    others = [environment["name"] for environment in environments if not environment["production"]]
    for production in strict:
        mine = look.merged(production)
        for other in others:
            theirs = look.merged(other)
            for name, (what, rank) in STRICTNESS.items():
                here, there = mine, theirs
                if name.startswith("SDB_"):
                    here, there = mine["santedb_environment"], theirs["santedb_environment"]
                if name not in here or name not in there:
                    continue
                a, b = rank(here[name]), rank(there[name])
                if a is not None and b is not None and a < b:
                    path = next(
                        (p for e, p, v in look.own() if e == production and (name in v or name in str(v))),
                        f"inventories/{production}",
                    )
                    yield Problem(
                        "K13",
                        "error",
                        f"{production} is laxer than {other}: {what} ({name})",
                        path,
                        "real patients are protected less than made-up ones, and what was tested is not what runs",
                        f"make it as strict in {production}: take the line out of 90-local.yml, or change the answer",
                        file=path if path.endswith(".yml") else None,
                    )
    unsigned = re.compile(r'allowUnsignedApplets="(true|false)"')
    for production in strict:
        for path in look.files:
            if path.startswith(f"santedb/{production}/") and "true" in unsigned.findall(look.text(path)):
                yield Problem(
                    "K13",
                    "error",
                    f"{production} loads unsigned applets",
                    path,
                    "they may run any code on any data",
                    "set allowUnsignedApplets to false, and have applets signed",
                    file=path,
                )


def shared(look: Inspection) -> Iterator[Problem]:
    """Hosts, addresses, databases and keys that two environments share."""
    seen: dict[tuple[str, str], tuple[str, str]] = {}

    def owned(kind: str, value: str, environment: str, path: str) -> Iterator[Problem]:
        first = seen.setdefault((kind, value), (environment, path))
        if first[0] != environment:
            yield Problem(
                "K14",
                "error",
                f"{environment} and {first[0]} share {kind} {value}".rstrip(),
                f"{path}, {first[1]}",
                "a test in one reaches the data of the other",
                "give each environment its own",
                file=path,
            )

    for environment in look.repository.environments:
        path = f"inventories/{environment}/hosts.yml"
        with contextlib.suppress(yaml.YAMLError, AttributeError):
            loaded = yaml.load(look.text(path), Loader=_Loader)
            for name, variables in ((loaded or {}).get("all", {}).get("hosts") or {}).items():
                address = (variables or {}).get("ansible_host")
                yield from owned("the machine", str(address or name), environment, path)
        settings = look.merged(environment)["santedb_environment"]
        for name, value in settings.items():
            if not re.match(r"SDB_DB_[A-Z]+$", str(name)):
                continue
            parts = {part.partition("=")[0].strip().lower(): part.partition("=")[2] for part in str(value).split(";")}
            if parts.get("server") and parts.get("database") and "{{" not in parts["server"]:
                kind = f"the database {parts['database']} on"
                yield from owned(kind, parts["server"], environment, f"inventories/{environment}/group_vars/icdr")
    for path in look.files:
        parts2 = path.split("/")
        if parts2[0] == "certificates" and len(parts2) == 3 and path.endswith((".crt", ".pem")):
            entry = _register(look).get(Path(path).stem)
            if entry is None or entry["kind"] != "ca":
                digest = hashlib.sha256(look.text(path).encode()).hexdigest()[:12]
                yield from owned("the certificate", digest, parts2[1], path)


def _register(look: Inspection) -> dict[str, dict[str, Any]]:
    return {entry["id"]: entry for entry in look.repository.plan["certificates"]}


def _not_after(path: Path) -> str | None:
    """The last day of a certificate, None when OpenSSL is not there or cannot tell."""
    if shutil.which("openssl") is None:
        return None
    done = subprocess.run(
        ["openssl", "x509", "-noout", "-enddate", "-in", str(path)], check=False, capture_output=True, text=True
    )
    try:
        ends = datetime.datetime.strptime(done.stdout.strip().partition("=")[2], "%b %d %H:%M:%S %Y GMT")
    except ValueError:
        return None
    return str(ends.date())


def certificates(look: Inspection) -> Iterator[Problem]:
    """Certificates that are missing, expiring, expired or not in the register."""
    register = _register(look)
    present = {}
    for path in look.files:
        parts = path.split("/")
        if parts[0] == "certificates" and len(parts) == 3 and path.endswith((".crt", ".pem")):
            present[Path(path).stem] = path
            if Path(path).stem not in register and not Path(path).stem.endswith(("-chain", ".chain")):
                yield Problem(
                    "K15",
                    "warn",
                    "the certificate is not in the register",
                    path,
                    "nobody is told before it expires",
                    "name the file after its entry in certificates/register.yml, or remove it",
                    file=path,
                )
    for name, entry in register.items():
        found = present.get(name)
        ends = _not_after(look.root / found) if found else entry.get("not_after")
        if found and ends is None and shutil.which("openssl"):
            yield Problem(
                "K15",
                "error",
                f"the certificate {name} cannot be read",
                found,
                "it would be installed as it is",
                "put it there in PEM format",
                file=found,
            )
        if not found and entry["issuer"] in ("national_ca", "supplied") and not entry.get("automated") and not ends:
            yield Problem(
                "K16",
                "warn",
                f"the certificate {name} is not there yet",
                f"certificates/{entry['environment']}/{name}.crt",
                "others issue it, which can take weeks",
                "request it (certificates/README.md) and put it there",
                phase="deployment",
            )
        if not is_date(ends):
            continue
        where = found or "certificates/register.yml"
        last = datetime.date.fromisoformat(str(ends))
        today = datetime.date.fromisoformat(look.today)
        if last < today:
            yield Problem(
                "K17",
                "error",
                f"the certificate {name} expired on {ends}",
                where,
                "whoever checks it refuses the connection",
                f"renew it now: {entry['renewal']}",
                file=found,
            )
        elif last - today <= datetime.timedelta(days=int(entry.get("renew_before_days") or 30)):
            yield Problem(
                "K17",
                "warn",
                f"the certificate {name} expires on {ends}",
                where,
                "it is time to renew it",
                f"renew it: {entry['renewal']}",
                file=found,
            )


def sizing(look: Inspection) -> Iterator[Problem]:
    """Machines smaller than the sizing rule asks."""
    rule = look.repository.plan["sizing"]
    for short in rule.get("shortfalls") or []:
        yield Problem(
            "K18",
            "warn",
            f"{short['host']} ({short['environment']}) has {short['what']} {short['has']}, not {short['needs']}",
            "plan.yml, sizing",
            "it will be slow, or stop, under the load that was planned",
            "give the machine more, or correct concurrent_clients or hosts",
            file="plan.yml",
        )
    wanted = rule.get("icdr_ram_gb")
    for _, path, variables in look.own():
        limit = variables.get("icdr_ram_limit_gb")
        if isinstance(limit, int) and isinstance(wanted, int) and limit < wanted:
            yield Problem(
                "K18",
                "warn",
                f"icdr_ram_limit_gb is {limit}, the rule asks {wanted}",
                path,
                "the server is stopped when it reaches the limit",
                "raise it",
                file=path,
                line=look.line(path, "icdr_ram_limit_gb"),
            )


def generated(look: Inspection) -> Iterator[Problem]:
    """Hand edits in generated files.

    A file that says so in its first line changes only together with the answers file, which every update writes. So an
    uncommitted change, or a commit that changed it alone, was made by hand. The plan's own digests are computed again.
    """
    plan = look.repository.plan
    answers = plan["answers"]

    def digest(value: Any) -> str:
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()

    wrong = [
        task["id"]
        for task in plan["tasks"]
        if digest({name: answers.get(name) for name in task["depends_on"]}) != task["answers_digest"]
    ]
    if digest(answers) != plan["answers_digest"] or wrong:
        listed = f" (tasks {', '.join(wrong[:8])})" if wrong else ""
        yield Problem(
            "K19",
            "error",
            f"the digests of the plan do not fit its answers{listed}",
            "plan.yml",
            "somebody edited the file; records would be judged by what was never planned",
            "restore it: git checkout plan.yml, or `copier recopy`",
            file="plan.yml",
        )
    marked = {path for path in look.files if "do not edit" in look.text(path)[:400].split("\n\n")[0]}
    marked = {path for path in marked if not path.startswith("records/")}
    log = look.repository.git("log", "--no-merges", "--format=%x00%h", "--name-status", "--relative", "-n", "200")
    if log is None:
        return
    status = look.repository.git("status", "--porcelain", "--untracked-files=no", "-z") or ""
    dirty = {entry[3:] for entry in status.split("\0") if entry[:2].strip() and len(entry) > 3}
    edited: dict[str, str] = {}
    if ".copier-answers.yml" not in dirty:
        edited.update(dict.fromkeys(dirty & marked, "not committed"))
    for commit in log.split("\0")[1:]:
        name, _, body = commit.partition("\n")
        changes = [line.split("\t") for line in body.splitlines() if "\t" in line]
        touched = {change[-1]: change[0] for change in changes}
        if ".copier-answers.yml" in touched:
            break  # what an update wrote replaces whatever was edited before it, or kept it in the open
        for path, how in touched.items():
            if how.startswith("M") and path in marked:
                edited.setdefault(path, f"commit {name.strip()}")
    for path, when in sorted(edited.items()):
        yield Problem(
            "K19",
            "error",
            "a generated file was edited by hand",
            f"{path} ({when})",
            "the next update overwrites it or stops at it",
            "undo it; put values into 90-local.yml beside it, or change the answer",
            file=path,
        )


def records(look: Inspection) -> Iterator[Problem]:
    """Records with errors, and emergency deployments nobody reviewed."""
    repository = look.repository
    plan = repository.plan
    rules = plan["gates"]
    places = {record_path(task, name): (task, name) for task in plan["tasks"] for name in repository.environments}
    for path, record in repository.records.items():
        task, environment = places.get(path, (None, ""))
        if repeated_path(path):
            parts = path.split("/")
            task, environment = repository.tasks.get(Path(path).stem), parts[1]
        if task is None:
            if "unreadable" in record:
                yield Problem(
                    "K21",
                    "error",
                    f"the record cannot be read: {record['unreadable']}",
                    path,
                    "what it says counts for nothing",
                    "correct it",
                    file=path,
                )
            continue
        found = assess(task, record, path, environment, rules, look.today)["finding"]
        if found:
            severity = "warn" if found["code"] in ("expired", "changed") else "error"
            yield Problem("K21", severity, found["message"], path, found["why"], found["todo"], file=path)
        for name in record:
            if name not in RECORD_KEYS and name != "unreadable":
                yield Problem(
                    "K22",
                    "warn",
                    f"a record has no field {name}",
                    path,
                    "nothing reads it",
                    _near(name, RECORD_KEYS) or "put it into note",
                    file=path,
                    line=look.line(path, name),
                )
        evidence = record.get("evidence")
        if isinstance(evidence, str) and re.fullmatch(r"[\w./-]+", evidence) and not (look.root / evidence).exists():
            yield Problem(
                "K23",
                "warn",
                f"the evidence of {task['id']} is not in the repository: {evidence}",
                path,
                "whoever looks for it finds nothing",
                "add the file, or give its URL",
                file=path,
            )
    for found in orphans(plan, repository.records):
        yield Problem("K24", "warn", found["message"], found["where"], found["why"], found["todo"], file=found["where"])
    now = datetime.datetime.now(datetime.UTC).isoformat()
    for environment in repository.environments:
        overdue, pending = reviews(environment, repository.records, rules, now)
        for severity, listed in (("error", overdue), ("warn", pending)):
            for found in listed:
                yield Problem(
                    "K25", severity, found["message"], found["where"], found["why"], found["todo"], file=found["where"]
                )


DATA_FILES = re.compile(
    r"\.(csv|tsv|sql|dump|bak|hl7|ndjson|xlsx|parquet|backup|sqlite|db)(\.(gz|xz|zst|bz2))?$", re.IGNORECASE
)


def personal_data(look: Inspection) -> Iterator[Problem]:
    """Personal data that is about to reach a public remote."""
    listed = look.repository.git("remote", "-v") or ""
    remotes = {line.split()[1] for line in listed.splitlines() if len(line.split()) > 1}
    public = sorted(
        {forge for forge in PUBLIC_FORGES for remote in remotes if f"{forge}/" in remote or f"{forge}:" in remote}
    )
    data = [path for path in look.files if DATA_FILES.search(path)]
    for path in data:
        yield Problem(
            "K26",
            "error" if public else "warn",
            "the file looks like data",
            path,
            "records of people do not belong into a repository"
            + (f", least of all one pushed to {public[0]}" if public else ""),
            "move it elsewhere; if it was committed, take it out of the history and treat it as a breach",
            file=path,
        )
    if public:
        named = [
            name
            for name, value in look.repository.plan["answers"].items()
            if re.search(r"[\w.+-]+@[\w-]+\.\w+", json.dumps(value))
            or (name in ("accountable_person", "contacts") and value)
        ]
        if named:
            yield Problem(
                "K27",
                "warn",
                f"names and addresses of people go to {', '.join(public)}",
                ".copier-answers.yml, plan.yml, docs/",
                f"the answers {', '.join(named)} hold them; whether the repository is private cannot be seen here",
                "make sure that it is private, or keep the repository on a server of your own",
                answers=tuple(named),
            )


def images(look: Inspection) -> Iterator[Problem]:
    """Images nobody has seen in the registry, and versions that are no releases."""
    release = look.repository.plan["release"]
    if release.get("runtime") != "containers":
        return
    used = {release.get("icdr_image", "icdr"), "www"}
    if look.repository.plan["answers"].get("offline"):
        used.add("dcg")
    for name, image in (release.get("images") or {}).items():
        if name not in used or not image.get("repository"):
            continue
        shown = f"{image['repository']}:{image.get('tag')}"
        if not image.get("confirmed"):
            yield Problem(
                "K28",
                "warn",
                f"the image {shown} is unconfirmed in the registry",
                "plan.yml, release",
                "a tag may not exist, or move",
                "look it up and pin its digest with the answer image_versions",
                answers=("image_versions",),
                file="plan.yml",
                phase="deployment",
            )
        if image.get("alpha"):
            yield Problem(
                "K29",
                "warn",
                f"the image {shown} is an alpha version",
                "plan.yml, release",
                "its makers do not call it ready for use",
                "decide it knowingly (task DEP-24), or plan the 2.x line",
                answers=("santedb_line",),
                file="plan.yml",
                phase="deployment",
            )


def conflicts(look: Inspection) -> Iterator[Problem]:
    """What an update could not merge."""
    for path in look.files:
        text = look.text(path)
        marked = "<<<<<<< " in text or ">>>>>>> " in text  # found at once; the expression below takes its time
        match = re.search(r"^(<<<<<<< |>>>>>>> )", text, re.MULTILINE) if marked else None
        if path.endswith(".rej") or match:
            yield Problem(
                "K30",
                "error",
                "an update left a conflict",
                path,
                "Ansible reads the markers as data",
                "keep what is right, take the markers out" if match else "apply what is right, and delete the file",
                file=path,
                line=text[: match.start()].count("\n") + 1 if match else None,
            )


FINDERS: tuple[Callable[[Inspection], Iterator[Problem]], ...] = (
    answers_known,
    placeholders,
    settings_read,
    secrets,
    laxer,
    shared,
    certificates,
    sizing,
    generated,
    records,
    personal_data,
    images,
    conflicts,
)
