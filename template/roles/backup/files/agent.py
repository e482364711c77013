#!/usr/bin/python3
"""Save what this host has: encrypt it here, for a key that is not here, and hand it to the backup host.

Reads /etc/santedb/backup/agent.json. A set is a directory <host>/<time>/ on the backup host: encrypted archives and, as
its last file, manifest.json, without which the set does not count. The account there accepts new files only; nothing on
this host can change or delete a backup.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

CONFIGURATION = Path("/etc/santedb/backup/agent.json")
STATE = Path("/var/lib/santedb-backup-agent")
NOW = Path("/run/santedb-backup-agent.now")
QUIET_SECONDS = 30.0


class BackupError(RuntimeError):
    """Something could not be saved; the message says what, where, why it matters and what to do."""


class Store:
    """The backup host's drop: takes new files, gives nothing back but their checksums."""

    def __init__(self, settings: dict[str, Any], stamp: str) -> None:
        self.settings, self.stamp = settings, stamp

    def command(self, name: str) -> tuple[list[str], dict[str, str]]:
        request = f"put {self.stamp}/{name}"
        if self.settings.get("local"):
            program = [self.settings["receive"], self.settings["host"]]
            return [
                "runuser",
                "-u",
                self.settings["user"],
                "--",
                "env",
                f"SSH_ORIGINAL_COMMAND={request}",
                *program,
            ], {}
        options = [
            "BatchMode=yes",
            "IdentitiesOnly=yes",
            "StrictHostKeyChecking=yes",
            "ConnectTimeout=20",
            "ServerAliveInterval=15",
        ]
        options.append(f"UserKnownHostsFile={self.settings['known_hosts']}")
        arguments = [part for option in options for part in ("-o", option)]
        address = f"{self.settings['user']}@{self.settings['address']}"
        return ["ssh", "-F", "/dev/null", "-i", self.settings["key"], *arguments, address, request], {}

    def put(self, name: str, source: Any) -> dict[str, Any]:
        """Send everything `source` (a binary stream) holds; return {name, sha256, size} as both sides agree."""
        command, _ = self.command(name)
        digest, size = hashlib.sha256(), 0
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as sender:
            try:
                while chunk := source.read(1 << 20):
                    digest.update(chunk)
                    size += len(chunk)
                    sender.stdin.write(chunk)
                sender.stdin.close()
            except BrokenPipeError:
                pass
            answer, errors = sender.stdout.read(), sender.stderr.read()
        where = self.settings.get("address") or "this host"
        try:
            received = json.loads(answer)
        except ValueError:
            received = {}
        if sender.returncode or received.get("sha256") != digest.hexdigest():
            raise BackupError(
                f"{name} was not accepted ({errors.decode(errors='replace').strip() or 'no answer'}); by the backup host {where}; "
                "there is no backup of it; look at its disk space and at the connection, then start this again"
            )
        return {"name": name, "sha256": digest.hexdigest(), "size": size}


def encrypted(
    recipient: str, producer: list[str], store: Store, name: str, accepted: tuple[int, ...] = (0,)
) -> dict[str, Any]:
    """Send the output of `producer`, encrypted for `recipient`, as `name`; raise BackupError when any part of it fails."""
    with (
        subprocess.Popen(producer, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/") as maker,
        subprocess.Popen(
            ["age", "--encrypt", "--recipient", recipient], stdin=maker.stdout, stdout=subprocess.PIPE
        ) as age,
    ):
        maker.stdout.close()
        item = store.put(name, age.stdout)
        maker.stdout = None
        said = maker.stderr.read().decode(errors="replace").strip()
    if maker.returncode not in accepted:
        raise BackupError(
            f"{producer[0]} failed: {said[-500:]}; while making {name}; it is not in the backup; repair the cause and start this again"
        )
    if age.returncode:
        raise BackupError(
            f"age failed; while encrypting {name}; it is not in the backup; look at the recipient in {CONFIGURATION}"
        )
    return item


def save_files(settings: dict[str, Any], store: Store, manifest: dict[str, Any]) -> None:
    for component in settings["files"]:
        paths = [path for path in component["paths"] if os.path.lexists(path)]
        if not paths:
            manifest["absent"].append(component["id"])
            print(f"{component['id']} ({', '.join(component['paths'])}) is not on this host and not in the backup", file=sys.stderr)
        else:
            # 1: a file changed while it was read
            command = [
                "tar",
                "--create",
                "--gzip",
                "--file=-",
                "--warning=no-file-changed",
                "--acls",
                *(path.lstrip("/") for path in paths),
            ]
            item = encrypted(settings["recipient"], command, store, f"{component['id']}.tar.gz.age", (0, 1))
            manifest["items"].append({**item, "component": component["id"], "kind": "files", "paths": paths})


def connect(settings: dict[str, Any], database: str) -> Any:
    import psycopg2

    return psycopg2.connect(host=settings["socket"], port=settings["port"], user="postgres", dbname=database)


def database_names(connection: Any) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT datname FROM pg_database WHERE NOT datistemplate AND datallowconn AND datname <> 'postgres' ORDER BY 1"
        )
        return [row[0] for row in cursor.fetchall()]


def value(connection: Any, query: str, *arguments: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(query, arguments)
        return cursor.fetchone()[0]


def dump(
    settings: dict[str, Any], place: dict[str, Any], store: Store, manifest: dict[str, Any], names: list[str]
) -> None:
    """Dump every database and note what the very same snapshot contains."""
    from santedb_fingerprint import fingerprint

    recipient, base = settings["recipient"], ["-h", place["socket"], "-p", str(place["port"]), "-U", "postgres"]
    item = encrypted(recipient, ["pg_dumpall", *base, "--globals-only"], store, "roles.sql.age")
    manifest["items"].append({**item, "kind": "roles"})
    for number, name in enumerate(names):
        connection = connect(place, name)
        connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
        snapshot = value(connection, "SELECT pg_export_snapshot()")
        file = f"database-{number:02d}-{re.sub(r'[^A-Za-z0-9_-]', '_', name)}.dump.age"
        item = encrypted(recipient, ["pg_dump", *base, "-Fc", f"--snapshot={snapshot}", name], store, file)
        manifest["items"].append({**item, "kind": "dump", "database": name})
        manifest["databases"][name] = fingerprint(connection, settings["checksums"])
        connection.close()


def mark(settings: dict[str, Any], place: dict[str, Any], manifest: dict[str, Any], names: list[str]) -> None:
    """Set a restore point in the write-ahead log and note what the databases contain at exactly that point.

    Exact means: no transaction that writes was under way between looking and marking. Tried until there is such a moment.
    """
    from santedb_fingerprint import fingerprint

    admin = connect(place, "postgres")
    admin.autocommit = True
    connections = {name: connect(place, name) for name in names}
    for connection in connections.values():
        connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
    point, exact, end = "", False, time.monotonic() + QUIET_SECONDS
    while not exact:
        for connection in connections.values():
            connection.rollback()
        seen = {value(connection, "SELECT pg_current_snapshot()::text") for connection in connections.values()}
        last = time.monotonic() > end
        if last or (len(seen) == 1 and min(seen).endswith(":")):
            point = f"santedb-{manifest['stamp']}-{int(time.monotonic() * 1000) % 1000000}"
            position = value(admin, "SELECT pg_create_restore_point(%s)::text", point)
            exact = {value(admin, "SELECT pg_current_snapshot()::text")} == seen and min(seen).endswith(":")
            if exact or last:
                break
        time.sleep(0.2)
    value(admin, "SELECT pg_switch_wal()::text")
    manifest["restore_point"] = {"name": point, "position": position, "exact": exact}
    for name, connection in connections.items():
        manifest["databases"][name] = fingerprint(connection, settings["checksums"])
        connection.close()
    admin.close()


def save_databases(settings: dict[str, Any], store: Store, manifest: dict[str, Any], forced: bool) -> None:
    place = settings["databases"]
    if not place:
        return
    stamp = STATE / "marked"
    if place["mode"] == "physical" and not forced and stamp.exists():
        if time.time() - stamp.stat().st_mtime < place["mark_hours"] * 3600 - 600:
            return
    connection = connect(place, "postgres")
    if value(connection, "SELECT pg_is_in_recovery()"):
        connection.close()
        return
    names = database_names(connection)
    manifest.update(server=place["server"], version=value(connection, "SHOW server_version_num"))
    connection.close()
    manifest["mode"] = place["mode"]
    if place["mode"] == "physical":
        mark(settings, place, manifest, names)
        stamp.touch()
    else:
        dump(settings, place, store, manifest, names)


def main() -> int:
    settings = json.loads(CONFIGURATION.read_text(encoding="utf-8"))
    STATE.mkdir(exist_ok=True)
    with (STATE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        forced = NOW.exists()
        NOW.unlink(missing_ok=True)
        begun = datetime.now(timezone.utc)
        stamp = begun.strftime("%Y%m%dT%H%M%SZ")
        store = Store(settings["store"], stamp)
        manifest: dict[str, Any] = {
            "format": 1,
            "host": settings["host"],
            "stamp": stamp,
            "mode": None,
            "items": [],
            "absent": [],
            "databases": {},
        }
        problems = []
        for step in (
            lambda: save_files(settings, store, manifest),
            lambda: save_databases(settings, store, manifest, forced),
        ):
            try:
                step()
            except Exception as error:  # the other step must still be tried
                problems.append(
                    f"{type(error).__name__}: {error}" if not isinstance(error, BackupError) else str(error)
                )
        manifest["seconds"] = round((datetime.now(timezone.utc) - begun).total_seconds(), 1)
        manifest["problems"] = problems
        if not problems and (manifest["items"] or manifest["databases"]):
            import io

            store.put("manifest.json", io.BytesIO(json.dumps(manifest, indent=1, sort_keys=True).encode()))
    for problem in problems:
        print(f"{settings['host']}: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
