"""Filters of the role icdr_hardening: what to tell SanteDB's console, and what it answered."""

from __future__ import annotations

import hashlib
import re
import secrets
import string
from typing import Any

# What the console accepts as one word. Its own way of cutting lines loses values in quotes inside quotes, and '>' redirects.
_NAME = re.compile(r"[^\s\"'>]+")
_VALUE = re.compile(r"[^\"'>\r\n]+")
_TROUBLE = re.compile(r"^\s*(ERR|FATAL|ERROR)\b", re.IGNORECASE)
_EXISTS = r"duplicate|already exists|conflict|unique constraint"
_MISSING = r"not found|does not exist|unknown"
# What a partner's application may do with master records. SanteDB asks for the first policy when a record is merged into a master,
# for the second when a master is merged away; a denial of the application binds whoever works through it.
# Source: santedb/santedb-mdm SanteDB.Persistence.MDM/MdmPermissionPolicyIdentifiers.cs, Services/Resources/MdmEntityMerger.cs
_MASTERS = {"write": "1.3.6.1.4.1.33349.3.1.5.9.2.6.1", "merge": "1.3.6.1.4.1.33349.3.1.5.9.2.6.3"}
_MAY = {"local_only": (), "write_master": ("write",), "merge_master": ("write", "merge")}


def _random() -> str:
    """Return a password that meets any rule, for accounts nobody is to use."""
    letters = string.ascii_letters + string.digits
    return "Aa1-" + "".join(secrets.choice(letters) for _ in range(40))


def _quoted(value: Any) -> str:
    text = str(value)
    if not _VALUE.fullmatch(text):
        raise ValueError("a value has quotation marks, '>' or line ends, which SanteDB's console cannot take")
    return f'"{text}"'


def _name(value: Any) -> str:
    text = str(value)
    if not _NAME.fullmatch(text):
        raise ValueError(f"the name '{text}' has blanks, quotation marks or '>', which SanteDB's console cannot take")
    return f'"{text}"'


class _Commands:
    """Collects commands. `key` is what a command is compared by; random parts are left out of it."""

    def __init__(self) -> None:
        self.all: list[dict[str, str]] = []

    def add(self, name: str, line: str, accept: str = "", key: str = "") -> None:
        """Add one line; `accept` are answers that mean nothing was left to do."""
        digest = hashlib.sha256((key or line).encode()).hexdigest()
        self.all.append({"id": name, "line": line, "accept": accept, "digest": digest})


def icdr_hardening_commands(wanted: dict[str, Any]) -> list[dict[str, str]]:
    """Return every command, in order: {id, line, accept, digest}.

    Applications not used are shut, used ones get new secrets, then groups, partners, domains, users, and last what the
    console itself signs in with. Raises ValueError for what the console cannot be told.
    """
    commands = _Commands()
    used = {str(item["name"]): str(item["secret"]) for item in wanted["used"]}
    denied = wanted["denied_policy"]
    for name in [
        *wanted["published_applications"],
        *(name for name in used if name not in wanted["published_applications"]),
    ]:
        who = _name(name)
        if name == wanted["console_application"]:
            continue
        secret = used.get(name)
        if secret:
            commands.add(f"secret of {name}", f"application.secret {who} -s {_quoted(secret)}")
        else:
            commands.add(
                f"secret of {name}", f"application.secret {who} -s {_quoted(_random())}", _MISSING, f"shut {name}"
            )
        missing = "" if secret else _MISSING
        commands.add(f"grant of {name}", f"application.grant {who} -p {_quoted(denied)} -g DENY", missing)
        if not secret:
            commands.add(f"lock of {name}", f"application.lock {who} -l", missing)
    for name in wanted["locked_users"]:
        commands.add(
            f"password of {name}", f"user.password {_name(name)} -p {_quoted(_random())}", _MISSING, f"shut {name}"
        )
        commands.add(f"lock of {name}", f"user.lock {_name(name)} -l", _MISSING)
    for group in wanted["groups"]:
        grants = "".join(f" -g {_quoted(oid)}" for oid in group.get("policies") or [])
        if group["name"] in wanted["published_roles"]:
            for oid in group.get("policies") or []:
                commands.add(
                    f"policy {oid} of group {group['name']}",
                    f"policy.assign -r {_name(group['name'])} -p {_quoted(oid)} -e 2",
                )
            continue
        title = group.get("title") or group["name"]
        commands.add(
            f"group {group['name']}", f"role.add -r {_name(group['name'])} -n {_quoted(title)}{grants}", _EXISTS
        )
    for partner in wanted["partners"]:
        for kind in ("application", "device"):
            name, secret = partner.get(kind), partner.get(f"{kind}_secret")
            if name and secret:
                who = f"{kind} {name} of {partner['name']}"
                commands.add(who, f"{kind}.add {_name(name)} -s {_quoted(secret)}", _EXISTS, f"{kind}.add {name}")
                commands.add(f"secret of {who}", f"{kind}.secret {_name(name)} -s {_quoted(secret)}")
        # Null: the plan keeps no masters.
        if partner.get("application") and partner.get("merge_permission"):
            for kind, oid in _MASTERS.items():
                may = kind in _MAY[partner["merge_permission"]]
                commands.add(
                    f"{kind} masters by application {partner['application']} of {partner['name']}",
                    f"application.grant {_name(partner['application'])} -p {_quoted(oid)} -g {'GRANT' if may else 'DENY'}",
                    # A policy that is not there permits nothing.
                    "" if may else "Policy having OID",
                )
    for domain in wanted["domains"]:
        line = f"id.add -n {_name(domain['namespace_id'])}"
        for option, field in (("o", "oid"), ("u", "url"), ("d", "name")):
            if domain.get(field):
                line += f" -{option} {_quoted(domain[field])}"
        # The console fails without an assigner.
        for application in domain.get("assigning_applications") or [wanted["console_application"]]:
            line += f" -a {_quoted(application)}"
        for scope in domain.get("scope") or []:
            line += f" -s {_quoted(scope)}"
        # The flag stands last: followed by a word, the console would take that for its value.
        commands.add(
            f"identity domain {domain['namespace_id']}", line + (" -q" if domain.get("unique") else ""), _EXISTS
        )
    for user in wanted["users"]:
        name = _name(user["username"])
        line = f"user.add {name} -r {_quoted(user.get('group') or 'USERS')} -p {_quoted(_random())}"
        line += f" -e {_quoted(user['email'])}" if user.get("email") else ""
        commands.add(f"user {user['username']}", line, _EXISTS, f"user.add {user['username']}")
        commands.add(f"lock of user {user['username']}", f"user.lock {name} -l", "", f"first lock {user['username']}")
    password = wanted["administrator_password"]
    commands.add("password of Administrator", f'user.password "Administrator" -p {_quoted(password)}')
    console = _name(wanted["console_application"])
    commands.add("grant of the console", f"application.grant {console} -p {_quoted(denied)} -g DENY")
    commands.add(
        "secret of the console", f"application.secret {console} -s {_quoted(used[wanted['console_application']])}"
    )
    return commands.all


def icdr_hardening_results(said: str, commands: list[dict[str, str]]) -> dict[str, Any]:
    """Sort what the console said under the commands it repeats: {done: [ids], failed: [messages], refused_login: text}.

    The console always ends with exit code 0, so a command is done only when its line was repeated and no trouble follows.
    """
    done: list[str] = []
    failed: list[str] = []
    troubles: dict[int, list[str]] = {}
    position = -1
    login = ""
    for line in said.splitlines():
        if position + 1 < len(commands) and line.strip() == commands[position + 1]["line"]:
            position += 1
            troubles[position] = []
        elif _TROUBLE.match(line):
            if position < 0:
                login = login or _masked(line)
            else:
                troubles[position].append(line)
    for number, command in enumerate(commands):
        if number not in troubles:
            failed.append(f"{command['id']}: the console never came to it")
            continue
        left = [
            line
            for line in troubles[number]
            if not (command["accept"] and re.search(command["accept"], line, re.IGNORECASE))
        ]
        if left:
            failed.append(f"{command['id']}: {_masked(left[0])}")
        else:
            done.append(command["id"])
    return {"done": done, "failed": failed, "refused_login": login}


def icdr_hardening_pending(commands: list[dict[str, str]], applied: dict[str, str]) -> list[dict[str, str]]:
    """Return the commands that were not carried out before in the same form."""
    return [command for command in commands if applied.get(command["id"]) != command["digest"]]


def icdr_hardening_attempts(
    published: dict[str, Any], console: dict[str, str], users: list[str], password: str
) -> list[dict[str, str]]:
    """Return what to try: published applications, the console, published users, the administrator with the new password.

    Users need an application that is let in, so each is tried with both of the console's secrets, one of which is right.
    What is right comes last: it resets SanteDB's count of wrong ones.
    """
    found = [
        {"name": f"application {name}", "client_id": name, "client_secret": secret}
        for name, secret in published["applications"].items()
    ]
    client = {"client_id": console["name"]}
    found.append({"name": "console", **client, "client_secret": console["secret"]})
    secrets_of_console = {"old": published["applications"][console["name"]], "new": console["secret"]}
    people = [(f"user {name}", name, published["users"][name]) for name in users]
    for label, name, word in [*people, ("administrator", "Administrator", password)]:
        for which, secret in secrets_of_console.items():
            user = {"username": name, "password": word}
            found.append({"name": f"{label} by {which}", **client, "client_secret": secret, **user})
    return found


def _masked(text: str) -> str:
    return re.sub(r"\"[^\"]*\"", '"…"', text.strip())[:300]


class FilterModule:
    """The filters by name."""

    def filters(self) -> dict[str, Any]:
        """Return the filters of this role."""
        return {
            "icdr_hardening_commands": icdr_hardening_commands,
            "icdr_hardening_pending": icdr_hardening_pending,
            "icdr_hardening_attempts": icdr_hardening_attempts,
            "icdr_hardening_results": icdr_hardening_results,
        }
