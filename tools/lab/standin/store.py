"""The stand-in's databases: schema by migrations, identities, patients, audits, subscriptions. PostgreSQL only."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import hmac
import importlib
import json
import os
import secrets
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from . import trust
from .connections import Connection
from .fatal import Fatal

EXTENSIONS = ("pgcrypto", "uuid-ossp", "pg_trgm", "fuzzystrmatch")
OLDEST_SERVER = 110000  # websearch_to_tsquery (Q40)
CLIENT_CREDENTIALS = "1.3.6.1.4.1.33349.3.1.5.9.2.1.0.0.1.0"
POLICY_ROOT = "1.3.6.1.4.1.33349."

PATCHES = """create table if not exists patch_db_systbl (
  patch_id varchar(64) primary key, started_utc timestamptz not null default now(), apply_utc timestamptz)"""

MAIN = [
    (
        "standin-0001-security",
        """
        create table sec_rol_tbl (name varchar(64) primary key, descr text);
        create table sec_usr_tbl (usr_id uuid primary key default uuid_generate_v4(), name varchar(64) unique not null,
          hash text not null, changed_utc timestamptz not null default now(), locked boolean not null default false,
          locked_until timestamptz, fails int not null default 0, last_login timestamptz);
        create table sec_usr_rol_assoc_tbl (usr varchar(64) references sec_usr_tbl(name), rol varchar(64)
          references sec_rol_tbl(name), primary key (usr, rol));
        create table sec_app_tbl (app_id uuid primary key default uuid_generate_v4(), name varchar(64) unique not null,
          hash text not null, locked boolean not null default false, last_auth timestamptz);
        create table sec_dev_tbl (dev_id uuid primary key default uuid_generate_v4(), name varchar(64) unique not null,
          hash text not null, locked boolean not null default false);
        create table sec_pol_grant_tbl (kind varchar(8), name varchar(64), oid varchar(128), grant_cd varchar(8),
          primary key (kind, name, oid));
        """,
    ),
    (
        "standin-0002-clinical",
        """
        create table id_dmn_tbl (nsid varchar(64) primary key, oid varchar(128), url text, descr text, scope text,
          assigner text, is_unique boolean not null default false);
        create table pat_tbl (pat_id uuid primary key default uuid_generate_v4(), body jsonb not null,
          crt_utc timestamptz not null default now());
        create index pat_identifier_idx on pat_tbl using gin ((body -> 'identifier'));
        """,
    ),
]
PUBSUB = [
    ("standin-0003-pubsub", "create table sub_chan_tbl (chan_id uuid primary key, name text, endpoint text)"),
]
AUDIT = [
    (
        "standin-0004-audit",
        """
        create table aud_tbl (aud_id uuid primary key, aud_utc timestamptz not null default now(), action char(1),
          event varchar(32), outcome varchar(16), actor text, source text, detail text);
        create index aud_utc_idx on aud_tbl (aud_utc);
        """,
    ),
]
ROLES = (
    "ADMINISTRATORS",
    "USERS",
    "CLINICAL_STAFF",
    "SYNCHRONIZERS",
    "DEVICE",
    "ANONYMOUS",
    "SYSTEM",
    "LOCAL_USERS",
    "LOCAL_ADMINISTRATORS",
)


def scramble(secret: str) -> str:
    """Return a salted digest of a password or secret."""
    salt = secrets.token_hex(8)
    return f"{salt}${hashlib.pbkdf2_hmac('sha256', secret.encode(), salt.encode(), 5000).hex()}"


def matches(secret: str, stored: str) -> bool:
    """Tell whether a password or secret is the one that `scramble` made `stored` of."""
    salt, _, digest = stored.partition("$")
    return hmac.compare_digest(hashlib.pbkdf2_hmac("sha256", secret.encode(), salt.encode(), 5000).hex(), digest)


class Database:
    """One database, reached as a connection string says. Every use takes a connection of its own."""

    def __init__(self, connection: Connection) -> None:
        """Read the connection string. Raises Fatal when Npgsql would refuse it."""
        self.connection = connection
        self.parameters = connection.libpq()
        if self.parameters.get("sslmode", "").startswith("verify"):
            self.parameters.setdefault("sslrootcert", os.environ.get("PGSSLROOTCERT") or trust.bundle())
        self.parameters.setdefault("connect_timeout", "15")
        self.parameters.setdefault("application_name", "SanteDB")
        self._driver: Any = importlib.import_module("psycopg2")

    def _connect(self, **changed: str) -> Any:
        return self._driver.connect(**{**self.parameters, **changed})

    @contextlib.contextmanager
    def cursor(self) -> Iterator[Any]:
        """Open a transaction and give its cursor. Errors are psycopg2's, and roll it back."""
        connection = self._connect()
        try:
            with connection, connection.cursor() as cursor:
                yield cursor
        finally:
            connection.close()

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Run one statement; return its rows, none for a statement without result."""
        with self.cursor() as cursor:
            cursor.execute(sql, values)
            return list(cursor.fetchall()) if cursor.description else []

    def prepare(self, patches: Sequence[tuple[str, str]], fail: str | None = None) -> list[str]:
        """Create the database when it is absent, its extensions, and bring the schema up to date; return new patches.

        Replicas that start together wait for one another. `fail` names a patch that breaks half-way and leaves the
        schema unusable for every version, as a failed upgrade does. Raises Fatal.
        """
        name = self.parameters["dbname"]
        try:
            self._create(name)
            with self.cursor() as cursor:
                cursor.execute("show server_version_num")
                if int(cursor.fetchone()[0]) < OLDEST_SERVER:
                    raise Fatal("NotSupportedException", "PostgreSQL 11 or later is needed (websearch_to_tsquery)")
                cursor.execute("select pg_advisory_xact_lock(33349)")
                for extension in EXTENSIONS:
                    cursor.execute(f'create extension if not exists "{extension}"')
                cursor.execute(PATCHES)
                cursor.execute("select patch_id, apply_utc is not null from patch_db_systbl")
                applied = dict(cursor.fetchall())
                broken = [patch for patch, done in applied.items() if not done]
                if broken:
                    raise Fatal("DataException", f"{name}: the update {broken[0]} was never finished; restore a backup")
                fresh = [(patch, sql) for patch, sql in patches if patch not in applied]
                for patch, sql in fresh:
                    cursor.execute(sql)
                    cursor.execute("insert into patch_db_systbl (patch_id, apply_utc) values (%s, now())", (patch,))
            if fail:
                self.rows("insert into patch_db_systbl (patch_id) values (%s) on conflict do nothing", fail)
                raise Fatal("DataException", f"{name}: update {fail} failed half-way (stand-in rehearsal)")
        except self._driver.Error as error:
            raise Fatal("NpgsqlException", f"{self.connection.name}: {str(error).strip()}") from error
        return [patch for patch, _ in fresh]

    def _create(self, name: str) -> None:
        connection = self._connect(dbname="postgres")
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("select 1 from pg_database where datname = %s", (name,))
                if cursor.fetchone() is None:
                    cursor.execute(f'create database "{name}"')
        finally:
            connection.close()


class Store:
    """Identities and records in the main database; audits in the audit database when there is one."""

    def __init__(self, main: Database, audit: Database | None = None) -> None:
        """Use databases that `prepare` has made ready."""
        self.main, self.audit = main, audit

    def ship_defaults(self, identities: Mapping[str, Any]) -> None:
        """Insert the applications, users and roles that a new SanteDB database comes with; existing ones stay."""
        with self.main.cursor() as cursor:
            cursor.execute("select pg_advisory_xact_lock(33350)")
            cursor.execute("select count(*) from sec_rol_tbl")
            if cursor.fetchone()[0]:
                return
            for role in ROLES:
                cursor.execute("insert into sec_rol_tbl (name) values (%s)", (role,))
            for name, user in identities["users"].items():
                cursor.execute(
                    "insert into sec_usr_tbl (name, hash) values (%s, %s)", (name, scramble(user["password"]))
                )
                for role in user["roles"]:
                    cursor.execute("insert into sec_usr_rol_assoc_tbl values (%s, %s)", (name, role))
            for name, secret in identities["applications"].items():
                cursor.execute("insert into sec_app_tbl (name, hash) values (%s, %s)", (name, scramble(secret)))
            for index in range(3):
                body = {"resourceType": "Patient", "identifier": [{"value": f"STANDIN-{index}"}]}
                cursor.execute("insert into pat_tbl (body) values (%s)", (json.dumps(body),))

    # -- identities ---------------------------------------------------------------------------------------------

    def application(self, name: str, secret: str) -> bool:
        """Tell whether an application that is not locked has this secret."""
        rows = self.main.rows("select hash from sec_app_tbl where name = %s and not locked", name)
        good = bool(rows) and matches(secret, rows[0][0])
        if good:
            self.main.rows("update sec_app_tbl set last_auth = now() where name = %s", name)
        return good

    def device(self, name: str, secret: str) -> bool:
        """Tell whether a device that is not locked has this secret."""
        rows = self.main.rows("select hash from sec_dev_tbl where name = %s and not locked", name)
        return bool(rows) and matches(secret, rows[0][0])

    def user(self, name: str, password: str, lock_after: int, max_age: datetime.timedelta | None) -> str:
        """Return "" when the user may log in, else why not; counts failures and locks for 30 s times the attempts."""
        rows = self.main.rows(
            "select hash, locked or coalesce(locked_until > now(), false), fails, now() - changed_utc "
            "from sec_usr_tbl where lower(name) = lower(%s)",
            name,
        )
        if not rows:
            return "invalid username or password"
        stored, locked, fails, age = rows[0]
        if locked:
            return "account is locked"
        if not matches(password, stored):
            fails += 1
            seconds = 30 * fails if lock_after and fails >= lock_after else 0
            self.main.rows(
                "update sec_usr_tbl set fails = %s, locked_until = case when %s > 0 then now() + %s * interval '1 s' "
                "end where lower(name) = lower(%s)",
                fails,
                seconds,
                seconds,
                name,
            )
            return "invalid username or password"
        self.main.rows(
            "update sec_usr_tbl set fails = 0, locked_until = null, last_login = now() where lower(name) = lower(%s)",
            name,
        )
        if max_age is not None and age > max_age:
            return "password expired"
        return ""

    def roles_of(self, name: str) -> list[str]:
        """Return the roles of a user, sorted."""
        sql = "select rol from sec_usr_rol_assoc_tbl where lower(usr) = lower(%s) order by rol"
        return [row[0] for row in self.main.rows(sql, name)]

    def denied(self, application: str, oid: str) -> bool:
        """Tell whether a policy was denied to an application; every shipped one starts with all granted (Q37)."""
        sql = "select grant_cd from sec_pol_grant_tbl where kind = 'app' and name = %s and oid = %s"
        return [row[0] for row in self.main.rows(sql, application, oid)] == ["DENY"]

    # -- records ------------------------------------------------------------------------------------------------

    def add_patient(self, body: Mapping[str, Any]) -> str:
        """Store a patient resource; return its id."""
        sql = "insert into pat_tbl (body) values (%s) returning pat_id"
        return str(self.main.rows(sql, json.dumps(body))[0][0])

    def patients(self, identifier: str | None = None, key: str | None = None) -> list[dict[str, Any]]:
        """Return patients (at most 100), of one identifier value or one id when given."""
        if key is not None:
            rows = self.main.rows("select pat_id, body from pat_tbl where pat_id::text = %s", key)
        elif identifier is not None:
            wanted = json.dumps([{"value": identifier}])
            rows = self.main.rows("select pat_id, body from pat_tbl where body -> 'identifier' @> %s::jsonb", wanted)
        else:
            rows = self.main.rows("select pat_id, body from pat_tbl order by crt_utc limit 100")
        return [{**body, "id": str(found)} for found, body in rows]

    def record(self, audit: Mapping[str, str]) -> None:
        """Insert an audit into the repository. Nothing happens without one."""
        if self.audit is not None:
            names = ("action", "event", "outcome", "actor", "source", "detail")
            self.audit.rows(
                "insert into aud_tbl (aud_id, action, event, outcome, actor, source, detail) "
                "values (%s, %s, %s, %s, %s, %s, %s)",
                str(uuid.uuid4()),
                *(audit.get(name, "") for name in names),
            )

    def forget_audits(self, older_than: datetime.timedelta) -> int:
        """Delete audits beyond their retention, as the job that the audit repository registers does (Q49)."""
        if self.audit is None:
            return 0
        return len(self.audit.rows("delete from aud_tbl where aud_utc < now() - %s returning 1", older_than))
