"""The administration console's commands, with its own way of cutting a line into words (Q36)."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping

from .store import POLICY_ROOT, Store, scramble

# The console's own expression: an option takes a quoted text or word characters only; so a value with '.', '-' or '+'
# that is not quoted falls apart, and '>' redirects.
_WORDS = re.compile(r"""((?:-\w+\s|--\w+=)("[^"]+"|'[^']+'|\w+)|([^\s]+))""")


class CommandError(Exception):
    """The command was refused; the console prints ERR and goes on."""


def cut(line: str) -> list[str]:
    """Cut a line into words as the real console does."""
    words: list[str] = []
    for found in _WORDS.finditer(line.split(">")[0]):
        text = found.group(0)
        words += [text] if text.startswith("--") or not text.startswith("-") else text.split(" ", 1)
    return [word.replace('"', "").replace("'", "") for word in words]


class Arguments:
    """Options and names of one command; `flags` are the letters that take no value."""

    def __init__(self, words: list[str], flags: str = "") -> None:
        """Sort words into options (each may repeat), flags and names."""
        self.names: list[str] = []
        self.options: dict[str, list[str]] = {}
        rest = iter(words)
        for word in rest:
            if word.startswith("--") and "=" in word:
                name, _, value = word[2:].partition("=")
                self.options.setdefault(name, []).append(value)
            elif re.fullmatch(r"-\w+", word):
                name = word[1:]
                if name in flags:
                    self.options[name] = ["true"]
                else:
                    self.options.setdefault(name, []).append(next(rest, ""))
            else:
                self.names.append(word)

    def one(self, name: str) -> str | None:
        """Return an option's last value, None when it was not given."""
        return self.options[name][-1] if name in self.options else None

    def all(self, *names: str) -> list[str]:
        """Return all values of options that mean the same."""
        return [value for name in names for value in self.options.get(name, [])]


def _known(store: Store, kind: str, name: str) -> None:
    table = {"app": "sec_app_tbl", "user": "sec_usr_tbl", "device": "sec_dev_tbl"}[kind]
    if not store.main.rows(f"select 1 from {table} where lower(name) = lower(%s)", name):
        raise CommandError(f"{ {'app': 'Application', 'user': 'User', 'device': 'Device'}[kind] } {name} not found")


def _names(arguments: Arguments, what: str, *options: str) -> list[str]:
    names = [*arguments.names, *arguments.all(*options)]
    if not names:
        raise CommandError(f"Must specify {what}")
    return names


def _policies(arguments: Arguments, *options: str) -> list[str]:
    found = arguments.all(*options)
    for oid in found:
        if not oid.startswith(POLICY_ROOT):
            raise CommandError("Could not find one or more policies")
    return found


def _grant(store: Store, kind: str, name: str, oid: str, grant: str) -> None:
    store.main.rows(
        "insert into sec_pol_grant_tbl values (%s, %s, %s, %s) on conflict (kind, name, oid) do update set grant_cd = "
        "excluded.grant_cd",
        kind,
        name,
        oid,
        grant,
    )


class Console:
    """Runs commands against the store; `strong` tells whether a new password meets the host's rules."""

    def __init__(self, store: Store, strong: Callable[[str], bool], default_password: str) -> None:
        """`default_password` is what user.add takes when none is given, as the real console does."""
        self.store, self.strong, self.default_password = store, strong, default_password
        self.table: Mapping[str, tuple[Callable[[Arguments], list[str]], str]] = {
            "application.add": (self.application_add, ""),
            "application.secret": (self.application_secret, ""),
            "application.lock": (self.application_lock, "l"),
            "application.grant": (self.application_grant, ""),
            "application.list": (self.application_list, "la"),
            "device.add": (self.device_add, ""),
            "device.secret": (self.device_secret, ""),
            "device.lock": (self.device_lock, "l"),
            "device.list": (self.device_list, "la"),
            "user.add": (self.user_add, ""),
            "user.password": (self.user_password, ""),
            "user.lock": (self.user_lock, "l"),
            "user.list": (self.user_list, "lahs"),
            "role.add": (self.role_add, ""),
            "role.list": (self.role_list, "a"),
            "id.add": (self.id_add, "q"),
            "id.list": (self.id_list, ""),
        }

    def run(self, line: str) -> list[str]:
        """Run one line; return what it prints. Raises CommandError."""
        words = cut(line)
        if not words:
            return []
        if words[0] not in self.table:
            raise CommandError(f"Command {words[0]} with {len(words) - 1} parms not found")
        command, flags = self.table[words[0]]
        return command(Arguments(words[1:], flags))

    def application_add(self, given: Arguments) -> list[str]:
        """Make an application; invents and prints a secret of 12 characters when none is given."""
        name = _names(given, "an application")[0]
        said = []
        secret = given.one("s")
        if not secret:
            secret = secrets.token_hex(6).upper()
            said.append(f"Application secret: {secret}")
        if self.store.main.rows("select 1 from sec_app_tbl where name = %s", name):
            raise CommandError(f"Duplicate application {name}")
        grants, denials = _policies(given, "g"), _policies(given, "d")
        self.store.main.rows("insert into sec_app_tbl (name, hash) values (%s, %s)", name, scramble(secret))
        for oid in grants:
            _grant(self.store, "app", name, oid, "GRANT")
        for oid in denials:
            _grant(self.store, "app", name, oid, "DENY")
        return [*said, f"CREATE {name}"]

    def application_secret(self, given: Arguments) -> list[str]:
        """Change secrets; invents and prints one of 12 characters when none is given."""
        said = []
        for name in _names(given, "an application"):
            _known(self.store, "app", name)
            secret = given.one("s")
            if not secret:
                secret = secrets.token_hex(6).upper()
                said.append(f"Application secret: {secret}")
            self.store.main.rows("update sec_app_tbl set hash = %s where name = %s", scramble(secret), name)
        return said

    def application_lock(self, given: Arguments) -> list[str]:
        """Lock (-l) or unlock applications."""
        for name in _names(given, "an application"):
            _known(self.store, "app", name)
            self.store.main.rows("update sec_app_tbl set locked = %s where name = %s", given.one("l") is not None, name)
        return []

    def application_grant(self, given: Arguments) -> list[str]:
        """Grant, deny or elevate policies (-p) of applications (-g GRANT, DENY, ELEVATE)."""
        grant = (given.one("g") or "").upper()
        if grant not in {"GRANT", "DENY", "ELEVATE"}:
            raise CommandError("grant type must be GRANT, DENY or ELEVATE")
        policies = _policies(given, "p")
        if not policies:
            raise CommandError("Could not find one or more policies")
        for name in _names(given, "an application"):
            _known(self.store, "app", name)
            for oid in policies:
                _grant(self.store, "app", name, oid, grant)
        return []

    def application_list(self, given: Arguments) -> list[str]:
        """List applications, with -l the locked ones."""
        return self._list("sec_app_tbl", "app_id", given, "last_auth")

    def _list(self, table: str, key: str, given: Arguments, last: str) -> list[str]:
        where = " where locked" if given.one("l") is not None else ""
        rows = self.store.main.rows(f"select {key}, name, {last}, locked from {table}{where} order by name")
        said = [f"{'SID':38}{'Name':40}{'Last Auth.':26}{'Lockout':9}A"]
        return [*said, *(f"{sid!s:38}{name:40}{when!s:26}{'*' if lock else '':9}*" for sid, name, when, lock in rows)]

    def device_add(self, given: Arguments) -> list[str]:
        """Make a device; invents and prints a secret when none is given."""
        name = _names(given, "a device")[0]
        said = []
        secret = given.one("s")
        if not secret:
            secret = secrets.token_hex(16).upper()
            said.append(f"Device secret: {secret}")
        if self.store.main.rows("select 1 from sec_dev_tbl where name = %s", name):
            raise CommandError(f"Duplicate device {name}")
        self.store.main.rows("insert into sec_dev_tbl (name, hash) values (%s, %s)", name, scramble(secret))
        return [*said, f"CREATE {name}"]

    def device_secret(self, given: Arguments) -> list[str]:
        """Change the secrets of devices."""
        for name in _names(given, "a device"):
            _known(self.store, "device", name)
            secret = given.one("s") or ""
            self.store.main.rows("update sec_dev_tbl set hash = %s where name = %s", scramble(secret), name)
        return []

    def device_lock(self, given: Arguments) -> list[str]:
        """Lock (-l) or unlock devices."""
        for name in _names(given, "a device"):
            _known(self.store, "device", name)
            self.store.main.rows("update sec_dev_tbl set locked = %s where name = %s", given.one("l") is not None, name)
        return []

    def device_list(self, given: Arguments) -> list[str]:
        """List devices, with -l the locked ones."""
        return self._list("sec_dev_tbl", "dev_id", given, "null::timestamptz")

    def user_add(self, given: Arguments) -> list[str]:
        """Make users with roles (-r); without -p they get the console's published default password."""
        roles = given.all("r")
        known = {row[0] for row in self.store.main.rows("select name from sec_rol_tbl")}
        if not roles or not set(roles) <= known:
            raise CommandError("The specified roles do not exit. Roles are case sensitive")
        password = given.one("p") or self.default_password
        if not self.strong(password):
            raise CommandError("Password does not meet complexity requirements")
        for name in _names(given, "a user", "u"):
            if self.store.main.rows("select 1 from sec_usr_tbl where lower(name) = lower(%s)", name):
                raise CommandError(f"Duplicate user {name}")
            self.store.main.rows("insert into sec_usr_tbl (name, hash) values (%s, %s)", name, scramble(password))
            for role in roles:
                self.store.main.rows("insert into sec_usr_rol_assoc_tbl values (%s, %s)", name, role)
        return []

    def user_password(self, given: Arguments) -> list[str]:
        """Change the passwords of users; the server refuses one that is too weak."""
        password = given.one("p")
        if not password:
            raise CommandError("the real console would ask for a password at the terminal here")
        if not self.strong(password):
            raise CommandError("Password does not meet complexity requirements")
        for name in _names(given, "a user", "u"):
            _known(self.store, "user", name)
            self.store.main.rows(
                "update sec_usr_tbl set hash = %s, changed_utc = now(), fails = 0 where lower(name) = lower(%s)",
                scramble(password),
                name,
            )
        return []

    def user_lock(self, given: Arguments) -> list[str]:
        """Lock (-l) or unlock users."""
        for name in _names(given, "a user", "u"):
            _known(self.store, "user", name)
            self.store.main.rows(
                "update sec_usr_tbl set locked = %s where lower(name) = lower(%s)", given.one("l") is not None, name
            )
        return []

    def user_list(self, given: Arguments) -> list[str]:
        """List users, with -l the locked ones."""
        return self._list("sec_usr_tbl", "usr_id", given, "last_login")

    def role_add(self, given: Arguments) -> list[str]:
        """Make a role (-r, only so: a name without option is not seen), with granted (-g) and denied (-d) policies."""
        name = given.one("r")
        if not name:
            raise CommandError("Must specify a role")
        grants, denials = _policies(given, "g"), _policies(given, "d")
        if self.store.main.rows("select 1 from sec_rol_tbl where name = %s", name):
            raise CommandError(f"Duplicate role {name}")
        self.store.main.rows("insert into sec_rol_tbl values (%s, %s)", name, given.one("n"))
        for grant, oids in (("GRANT", grants), ("DENY", denials)):
            for oid in oids:
                _grant(self.store, "role", name, oid, grant)
        return []

    def role_list(self, _given: Arguments) -> list[str]:
        """List roles."""
        rows = self.store.main.rows("select name, coalesce(descr, '') from sec_rol_tbl order by name")
        return [f"{'Name':40}Description", *(f"{name:40}{text}" for name, text in rows)]

    def id_add(self, given: Arguments) -> list[str]:
        """Make identity domains. An assigner (-a) is a must: the real console fails on a missing one."""
        assigners = given.all("a")
        if not assigners:
            raise CommandError("Object reference not set to an instance of an object (no -a)")
        for assigner in assigners:
            _known(self.store, "app", assigner)
        names = _names(given, "an identity domain", "n", "nsid")
        for name in names:
            if self.store.main.rows("select 1 from id_dmn_tbl where nsid = %s", name):
                raise CommandError(f"Duplicate domain {name}")
            self.store.main.rows(
                "insert into id_dmn_tbl values (%s, %s, %s, %s, %s, %s, %s)",
                name,
                given.one("o"),
                given.one("u"),
                given.one("d"),
                " ".join(given.all("s")),
                " ".join(assigners),
                given.one("q") is not None,
            )
        return [f"CREATE DOMAIN {name}" for name in names]

    def id_list(self, _given: Arguments) -> list[str]:
        """List identity domains."""
        rows = self.store.main.rows(
            "select nsid, coalesce(oid, ''), coalesce(url, ''), is_unique from id_dmn_tbl order by 1"
        )
        return [
            f"{'Domain':24}{'OID':40}{'URL':48}U",
            *(f"{a:24}{b:40}{c:48}{'*' if d else ''}" for a, b, c, d in rows),
        ]
