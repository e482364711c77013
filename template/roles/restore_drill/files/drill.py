#!/usr/bin/python3
"""Restore the newest backup of one database server into an isolated instance, compare its contents, measure the time.

Takes its task as JSON on standard input (with the private key, which so never touches a disk) and prints the result as JSON.
Runs as root without network; PostgreSQL runs as postgres, answers on a socket in a directory nobody else may enter, and is
deleted afterwards. Ends with 0 whatever the result: `passed` says it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

STAMP = re.compile(r"[0-9]{8}T[0-9]{6}Z")


class DrillError(RuntimeError):
    """Why the drill did not pass: what, where, why it matters, what to do."""


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Drill:
    def __init__(self, task: dict[str, Any]) -> None:
        self.task = task
        self.directory = Path(task["directory"])
        self.data, self.socket = self.directory / "data", self.directory / "socket"
        self.programs = Path(f"/usr/lib/postgresql/{task['version']}/bin")
        self.result: dict[str, Any] = {
            "server": task["server"],
            "host": task["host"],
            "passed": False,
            "problems": [],
            "notes": [],
        }
        self.identity = task.get("identity") or ""

    # -- commands -----------------------------------------------------------------------------------------------

    def as_postgres(self, *command: str | Path, **options: Any) -> subprocess.CompletedProcess[Any]:
        return subprocess.run(
            ["runuser", "-u", "postgres", "--", *map(str, command)],
            cwd="/",
            capture_output=True,
            check=False,
            **options,
        )

    def must(self, what: str, *command: str | Path, **options: Any) -> str:
        done = self.as_postgres(*command, text=True, **options)
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip())[-800:]
            raise DrillError(
                f"{what} failed: {said}; with the backup {self.result.get('backup', '')} of {self.task['host']}; this backup would not have "
                "saved anybody; make a new backup now, drill again, and find out what happened to this one"
            )
        return done.stdout

    def decrypt(self, path: Path, consumer: list[str], what: str) -> None:
        """Feed the decrypted file to `consumer` (run as postgres); raise DrillError when either fails."""
        age = subprocess.Popen(
            ["age", "--decrypt", "--identity", "-", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        user = subprocess.Popen(
            ["runuser", "-u", "postgres", "--", *consumer],
            stdin=age.stdout,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd="/",
        )
        age.stdout.close()
        age.stdin.write(self.identity.encode())
        age.stdin.close()
        said = user.stderr.read().decode(errors="replace").strip()
        user.wait()
        why = age.stderr.read().decode(errors="replace").strip()
        age.wait()
        if age.returncode or user.returncode:
            raise DrillError(
                f"{what} cannot be restored: {(why or said)[-800:]}; {path}; this backup would not have saved anybody; if the key is the "
                "wrong one fetch the right one, otherwise make a new backup now, drill again, and find out what happened to this one"
            )

    # -- which backup -------------------------------------------------------------------------------------------

    def sets(self) -> list[tuple[Path, dict[str, Any]]]:
        """Sets of the host that hold databases, newest first."""
        folder = Path(self.task["archives"]) / self.task["host"]
        found = []
        for path in sorted(folder.iterdir() if folder.is_dir() else [], reverse=True):
            if STAMP.fullmatch(path.name) and (path / "manifest.json").is_file():
                manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
                if manifest["databases"]:
                    found.append((path, manifest))
        if not found:
            raise DrillError(
                f"There is no backup of {self.task['host']}; in {folder}; nothing could be restored; run `make backup` and look at "
                "`systemctl status santedb-backup-agent` there"
            )
        return found

    def repository(self) -> Path:
        """The archive of base backups: the backup host's own, or the newest copy on a target."""
        path = Path(self.task["repository"])
        copies = sorted(item for item in path.iterdir() if STAMP.fullmatch(item.name)) if path.is_dir() else []
        return copies[-1] if copies else path

    def base_backups(self, configuration: Path) -> list[dict[str, Any]]:
        text = self.must(
            "Reading the archive",
            "pgbackrest",
            f"--config={configuration}",
            f"--stanza={self.task['server']}",
            "info",
            "--output=json",
        )
        return [backup for entry in json.loads(text) for backup in entry.get("backup", []) if not backup.get("error")]

    # -- restoring ----------------------------------------------------------------------------------------------

    def check(self, folder: Path, manifest: dict[str, Any]) -> None:
        for item in manifest["items"]:
            path, digest = folder / item["name"], hashlib.sha256()
            if path.is_file():
                with path.open("rb") as file:
                    while chunk := file.read(1 << 20):
                        digest.update(chunk)
            if digest.hexdigest() != item["sha256"]:
                raise DrillError(
                    f"{item['name']} is damaged: it is not what {self.task['host']} sent; {path}; this backup cannot be restored whole; look "
                    "at the disk it lies on, make a new backup now, and restore from another target if you have to"
                )

    def configure(self, extra: str = "") -> None:
        # the instance must come up without the machine's own configuration, and be reached by nobody but root and postgres
        (self.data / "postgresql.conf").write_text(
            "listen_addresses = ''\n"
            f"unix_socket_directories = '{self.socket}'\nport = {self.task['port']}\nshared_buffers = '128MB'\n"
            f"hot_standby = off\narchive_mode = off\nmax_wal_size = '4GB'\nlogging_collector = off\n{extra}",
            encoding="utf-8",
        )
        (self.data / "pg_hba.conf").write_text("local all postgres trust\n", encoding="utf-8")
        (self.data / "pg_ident.conf").write_text("", encoding="utf-8")
        for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf"):
            shutil.chown(self.data / name, "postgres", "postgres")

    def start(self) -> None:
        limit = str(int(self.task["rto_hours"] * 3600 * 2) + 600)
        done = self.as_postgres(
            self.programs / "pg_ctl",
            "start",
            "-w",
            "-t",
            limit,
            "-D",
            self.data,
            "-l",
            self.directory / "log",
            text=True,
        )
        if done.returncode:
            said = (
                (self.directory / "log").read_text(encoding="utf-8", errors="replace")[-800:]
                if (self.directory / "log").exists()
                else ""
            )
            raise DrillError(
                f"The restored server does not start: {said}; with the backup {self.result.get('backup', '')} of {self.task['host']}; this "
                "backup would not have saved anybody; make a new backup now and drill again"
            )

    def stop(self) -> None:
        if (self.data / "postmaster.pid").exists():
            self.as_postgres(self.programs / "pg_ctl", "stop", "-m", "immediate", "-D", self.data)

    def psql(self, database: str) -> list[str]:
        return ["psql", "-XAtq", "-h", str(self.socket), "-p", str(self.task["port"]), "-U", "postgres", "-d", database]

    def restore_dump(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.must(
            "Making an empty server", self.programs / "initdb", "-D", self.data, "-U", "postgres", "--encoding=UTF8", "--locale=C.UTF-8",
            "--auth=trust", "--data-checksums",
        )  # fmt: skip
        self.configure()
        self.start()
        for item in manifest["items"]:
            if item["kind"] == "roles":
                # the role postgres is there already, so one statement fails as expected
                self.decrypt(folder / item["name"], self.psql("postgres"), "The list of roles")
        for item in manifest["items"]:
            if item["kind"] == "dump":
                log(f"restoring {item['database']}")
                command = [
                    str(self.programs / "pg_restore"), "-h", str(self.socket), "-p", str(self.task["port"]), "-U", "postgres", "-d", "postgres",
                    "--create", "--exit-on-error", "--no-tablespaces",
                ]  # fmt: skip
                self.decrypt(folder / item["name"], command, f"Database {item['database']}")

    def restore_physical(self, configuration: Path, manifest: dict[str, Any], label: str) -> None:
        self.data.mkdir(mode=0o700)
        shutil.chown(self.data, "postgres", "postgres")
        self.must(
            "Restoring the base backup", "pgbackrest", f"--config={configuration}", f"--stanza={self.task['server']}", f"--set={label}",
            "--type=name", f"--target={manifest['restore_point']['name']}", "--target-action=promote", "--archive-mode=off",
            f"--tablespace-map-all={self.directory}/tablespaces", "restore",
        )  # fmt: skip
        self.configure()
        self.start()
        end = time.monotonic() + self.task["rto_hours"] * 7200 + 600
        while True:
            done = self.as_postgres(*self.psql("postgres"), "-c", "SELECT pg_is_in_recovery()", text=True)
            if done.stdout.strip() == "f":
                return
            if time.monotonic() > end or not (self.data / "postmaster.pid").exists():
                said = (self.directory / "log").read_text(encoding="utf-8", errors="replace")[-800:]
                raise DrillError(
                    f"The write-ahead log cannot be replayed to {manifest['restore_point']['name']}: {said}; archive of {self.task['server']}; "
                    "data since the base backup would be lost; look at archiving, make a new backup now and drill again"
                )
            time.sleep(1)

    # -- comparing ----------------------------------------------------------------------------------------------

    def compare(self, manifest: dict[str, Any]) -> None:
        import psycopg2

        sys.path.insert(0, self.task["library"])
        from santedb_fingerprint import differences, fingerprint

        names = self.must("Listing databases", *self.psql("postgres"), "-c", "SELECT datname FROM pg_database").split(
            "\n"
        )
        databases = self.result["databases"] = {}
        for name, expected in sorted(manifest["databases"].items()):
            if name not in names:
                found = ["the whole database is missing"]
                actual: dict[str, Any] = {}
            else:
                connection = psycopg2.connect(
                    host=str(self.socket), port=self.task["port"], user="postgres", dbname=name
                )
                counted_only = all(entry["checksum"] is None for entry in expected.values())
                actual = fingerprint(connection, not counted_only)
                connection.close()
                found = differences(expected, actual)
            databases[name] = {
                "tables": len(actual),
                "rows": sum(entry["rows"] for entry in actual.values()),
                "equal": not found,
            }
            if found:
                shown = "; ".join(found[:10]) + (f" and {len(found) - 10} more" if len(found) > 10 else "")
                self.result["problems"].append(
                    f"Database {name} is not what was saved: {shown}; backup {self.result['backup']} of {self.task['host']}; restoring it would "
                    "lose or change records; make a new backup now, drill again, and find out what happened to this one"
                )

    def archives(self, folder: Path, manifest: dict[str, Any]) -> None:
        """Open every archive of files in every host's newest set, when the key is at hand."""
        opened = self.result["archives"] = {}
        for host in sorted(path for path in Path(self.task["archives"]).iterdir() if path.is_dir()):
            complete = sorted(
                path for path in host.iterdir() if STAMP.fullmatch(path.name) and (path / "manifest.json").is_file()
            )
            for newest in complete[-1:]:
                found = json.loads((newest / "manifest.json").read_text(encoding="utf-8"))
                self.check(newest, found)
                for item in found["items"]:
                    if item["kind"] == "files" and self.identity:
                        self.decrypt(
                            newest / item["name"],
                            ["tar", "--list", "--gzip", "--file=-"],
                            f"{item['component']} of {host.name}",
                        )
                opened[host.name] = sorted(item["component"] for item in found["items"] if item["kind"] == "files")
        if not self.identity:
            self.result["notes"].append(
                "The private key was not given, so archives of files were compared with their checksums but not opened: "
                "-e restore_drill_identity_file=FILE"
            )

    # -- all of it ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(mode=0o700, parents=True)
        self.socket.mkdir(mode=0o700)
        for path in (self.directory, self.socket):
            shutil.chown(path, "postgres", "postgres")
        found, label, configuration = self.sets(), "", self.directory / "pgbackrest.conf"
        folder, manifest = found[0]
        if manifest["mode"] == "physical":
            configuration.write_text(
                f"[global]\nrepo1-path={self.repository()}\nrepo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass={self.task['passphrase']}\n"
                f"log-level-console=warn\nlog-level-file=off\nprocess-max=2\nspool-path={self.directory}/spool\nlock-path={self.directory}/lock\n\n"
                f"[{self.task['server']}]\npg1-path={self.data}\n",
                encoding="utf-8",
            )
            configuration.chmod(0o600)
            shutil.chown(configuration, "postgres", "postgres")
            backups = self.base_backups(configuration)
            for folder, manifest in found:
                fitting = [
                    backup for backup in backups
                    if manifest["mode"] == "physical" and manifest["restore_point"]["exact"]
                    and position(backup["lsn"]["stop"]) <= position(manifest["restore_point"]["position"])
                ]  # fmt: skip
                if fitting:
                    label = fitting[-1]["label"]
                    break
            else:
                raise DrillError(
                    f"No base backup of '{self.task['server']}' has a later exact mark to compare with; {self.task['repository']}; the restore "
                    "could not be judged; run `make backup` at a quiet moment and drill again"
                )
        self.result.update(backup=f"{manifest['stamp']}{f' on {label}' if label else ''}", mode=manifest["mode"])
        taken = datetime.strptime(manifest["stamp"], "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
        self.result["age_hours"] = round((datetime.now(timezone.utc) - taken).total_seconds() / 3600, 2)
        begun = time.monotonic()
        self.check(folder, manifest)
        if manifest["mode"] == "physical":
            self.restore_physical(configuration, manifest, label)
        else:
            self.restore_dump(folder, manifest)
        self.result["restore_seconds"] = round(time.monotonic() - begun, 1)
        self.compare(manifest)
        self.archives(folder, manifest)
        self.result["total_seconds"] = round(time.monotonic() - begun, 1)
        if self.result["total_seconds"] > self.task["rto_hours"] * 3600:
            self.result["problems"].append(
                f"The restore took {self.result['total_seconds'] / 3600:.1f} hours, {self.task['rto_hours']} are allowed; server "
                f"{self.task['server']}; service would not be back in time; use faster disks, a standby, or change rto_hours in the plan"
            )


def position(text: str) -> int:
    high, low = text.split("/")
    return (int(high, 16) << 32) + int(low, 16)


def main() -> int:
    drill = Drill(json.loads(sys.stdin.read()))
    os.umask(0o077)
    try:
        drill.run()
    except DrillError as error:
        drill.result["problems"].append(str(error))
    except Exception as error:  # whatever it is, the drill has not passed and must say so
        drill.result["problems"].append(
            f"The drill itself failed: {type(error).__name__}: {error}; on the machine of the drill; nothing is proven; repair it and drill again"
        )
    finally:
        drill.stop()
        if not drill.task.get("keep"):
            shutil.rmtree(drill.directory, ignore_errors=True)
    drill.result["passed"] = not drill.result["problems"]
    print(json.dumps(drill.result, sort_keys=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
