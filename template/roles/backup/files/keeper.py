#!/usr/bin/python3
"""The backup host's own work: base backups, copies to the other targets, retention, and the state of it all.

Reads /etc/santedb/backup/keeper.json. `keeper.py run` does what is due, `keeper.py base` makes base backups now,
`keeper.py status` only looks. Writes
<directory>/status.json (for people, verification and monitoring) and, where a node exporter collects text files, the same
as metrics. Ends with 1 when something is wrong; every line it prints says what, where, why it matters and what to do.
"""

from __future__ import annotations

import fcntl
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

CONFIGURATION = Path("/etc/santedb/backup/keeper.json")
METRICS = Path("/var/lib/prometheus/node-exporter")
STAMP = re.compile(r"[0-9]{8}T[0-9]{6}Z")
LOST_AND_FOUND_HOURS = 24


def utc(stamp: str) -> float:
    return datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc).timestamp()


def now_stamp() -> str:
    return datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    if done.returncode:
        raise RuntimeError((done.stderr.strip() or done.stdout.strip())[-600:] or f"exit {done.returncode}")
    return done.stdout


def sets(folder: Path) -> list[Path]:
    """Complete sets of one host, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if STAMP.fullmatch(path.name) and (path / "manifest.json").is_file()
    )


def manifest_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def damaged(folder: Path) -> list[str]:
    """Names of files of a set that are not what their manifest says."""
    found = []
    for item in manifest_of(folder)["items"]:
        path, digest = folder / item["name"], hashlib.sha256()
        if path.is_file():
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
        if not path.is_file() or digest.hexdigest() != item["sha256"]:
            found.append(item["name"])
    return found


class Keeper:
    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings, self.problems, self.notes = settings, [], []
        self.directory = Path(settings["directory"])
        self.incoming, self.repository = self.directory / "incoming", self.directory / "pgbackrest"
        self.targets: dict[str, dict[str, Any]] = {}
        previous = self.directory / "status.json"
        try:
            self.before = json.loads(previous.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self.before = {}

    # -- base backups -------------------------------------------------------------------------------------------

    def pgbackrest(self, stanza: str, *arguments: str) -> str:
        return run(["runuser", "-u", "postgres", "--", "pgbackrest", f"--stanza={stanza}", *arguments])

    def backups(self, stanza: str) -> list[dict[str, Any]]:
        found = json.loads(self.pgbackrest(stanza, "info", "--output=json"))
        return [
            backup
            for entry in found
            if entry["name"] == stanza
            for backup in entry.get("backup", [])
            if not backup.get("error")
        ]

    def base_backups(self, forced: bool) -> None:
        for stanza in self.settings["stanzas"]:
            try:
                self.pgbackrest(stanza, "stanza-create")
                known = self.backups(stanza)
                newest = max((backup["timestamp"]["stop"] for backup in known), default=0)
                full = max((backup["timestamp"]["stop"] for backup in known if backup["type"] == "full"), default=0)
                if forced or time.time() - newest > self.settings["period_hours"] * 3600 - 600:
                    kind = "incr" if time.time() - full < self.settings["full_days"] * 86400 else "full"
                    self.pgbackrest(stanza, f"--type={kind}", "backup")
                else:
                    self.pgbackrest(stanza, "check")
            except RuntimeError as error:
                self.problems.append(
                    f"Base backup or archiving of '{stanza}' failed: {error}; on the backup host; every hour without it is data that "
                    f"can be lost; look at the database host and at the connection (as postgres: pgbackrest --stanza={stanza} check)"
                )

    # -- retention ----------------------------------------------------------------------------------------------

    def expire(self, folder: Path, days: int) -> None:
        """Delete complete sets older than `days`, never the newest ones, and what was left unfinished."""
        keep, border = self.settings["keep_newest"], time.time() - days * 86400
        for host in folder.iterdir() if folder.is_dir() else []:
            if not host.is_dir():
                continue
            complete = sets(host)
            # what a set holds may differ: keep the newest ones that hold databases as well
            holding = [path for path in complete if manifest_of(path)["databases"]] if complete else []
            kept = set(complete[-keep:]) | set(holding[-keep:])
            for path in complete:
                if path not in kept and utc(path.name) < border:
                    shutil.rmtree(path)
            for path in host.iterdir():
                unfinished = STAMP.fullmatch(path.name) and path not in complete
                if unfinished and time.time() - utc(path.name) > LOST_AND_FOUND_HOURS * 3600:
                    shutil.rmtree(path)

    # -- other targets ------------------------------------------------------------------------------------------

    def mounted(self, path: Path) -> bool:
        return any(part != Path("/") and os.path.ismount(part) for part in (path, *path.parents))

    def copy_all(self) -> None:
        for target in self.settings["targets"]:
            name = target["name"]
            old = self.before.get("targets", {}).get(name, {})
            state: dict[str, Any] = {
                "media": target["media"],
                "location": target["location"],
                "last_copy": old.get("last_copy"),
            }
            self.targets[name] = state
            if target["primary"]:
                state.update(state="here", last_copy=now_stamp())
                continue
            if target["media"] == "tape" or (target["media"] == "cloud" and not target["remote"]):
                state["state"] = "by hand"
                self.notes.append(
                    f"Nothing is copied to target '{name}' ({target['media']}) by itself; copy {self.directory} there as "
                    "docs/runbooks/backup-and-restore.md says"
                    + (
                        ""
                        if target["media"] == "tape"
                        else f", or name an rclone remote in backup_target_settings['{name}']"
                    )
                )
                continue
            try:
                if target["media"] == "cloud":
                    self.copy_to_cloud(target)
                else:
                    path = Path(target["path"])
                    if target["must_be_mounted"] and not self.mounted(path):
                        state["state"] = "not mounted"
                        self.too_old(target, state)
                        continue
                    self.copy_to(path, target)
                state.update(state="copied", last_copy=now_stamp())
            except (RuntimeError, OSError) as error:
                state["state"] = "failed"
                self.problems.append(
                    f"The copy to target '{name}' failed: {error}; from {self.directory} to {target['path'] or target['remote']}; there are "
                    "fewer copies than the plan promises; repair the target, the next run copies what is missing"
                )

    def too_old(self, target: dict[str, Any], state: dict[str, Any]) -> None:
        age = time.time() - utc(state["last_copy"]) if state["last_copy"] else None
        if age is None or age > target["max_days"] * 86400:
            since = "ever" if age is None else f"for {age / 86400:.0f} days"
            self.problems.append(
                f"Target '{target['name']}' is not mounted and nothing was copied to it {since}; {target['path']} on the backup host; a "
                "fire or an intruder here would take all copies; mount it (or connect the medium), the next run copies"
            )

    def copy_to(self, path: Path, target: dict[str, Any]) -> None:
        archives = path / "archives"
        archives.mkdir(parents=True, exist_ok=True)
        if self.incoming.is_dir():
            run(["rsync", "--archive", "--ignore-existing", "--exclude=.*.part", f"{self.incoming}/", f"{archives}/"])
            for host in self.incoming.iterdir():
                for newest in sets(archives / host.name)[-1:]:
                    wrong = damaged(newest)
                    if wrong:
                        raise RuntimeError(
                            f"{newest}: {', '.join(wrong)} is not what was sent; the medium or the copy is damaged"
                        )
        self.expire(archives, target["retention_days"])
        if self.settings["stanzas"]:
            folder = path / "pgbackrest"
            folder.mkdir(exist_ok=True)
            done = sorted(item for item in folder.iterdir() if STAMP.fullmatch(item.name))
            for item in folder.glob("*.part"):
                shutil.rmtree(item)
            newest = max(
                (backup["timestamp"]["stop"] for stanza in self.settings["stanzas"] for backup in self.backups(stanza)),
                default=0,
            )
            if not done or utc(done[-1].name) < max(newest, time.time() - self.settings["period_hours"] * 3600 + 600):
                new = folder / f"{now_stamp()}.part"
                link = [f"--link-dest={done[-1]}"] if done else []
                run(["rsync", "--archive", *link, f"{self.repository}/", f"{new}/"])
                final = new.with_suffix("")
                new.rename(final)
                done.append(final)
            border = time.time() - target["retention_days"] * 86400
            for item in done[: -self.settings["keep_newest"]]:
                if utc(item.name) < border:
                    shutil.rmtree(item)

    def copy_to_cloud(self, target: dict[str, Any]) -> None:
        rclone = ["rclone", f"--config={self.settings['rclone_configuration']}"]
        remote = target["remote"].rstrip("/")
        run([*rclone, "copy", "--immutable", "--exclude=.*.part", str(self.incoming), f"{remote}/archives"])
        run([*rclone, "delete", f"--min-age={target['retention_days']}d", f"{remote}/archives"])
        if self.settings["stanzas"]:
            run([*rclone, "sync", str(self.repository), f"{remote}/pgbackrest"])

    # -- state --------------------------------------------------------------------------------------------------

    def look(self) -> dict[str, Any]:
        settings, limit = self.settings, self.settings["rpo_hours"] * 3600 + 3600
        sources: dict[str, Any] = {}
        for source in settings["sources"]:
            complete = sets(self.incoming / source["host"])
            wanted = [path for path in complete if not source["databases"] or manifest_of(path)["databases"]]
            newest = wanted[-1].name if wanted else None
            sources[source["host"]] = {
                "last_success": newest,
                "bytes": sum(item["size"] for item in manifest_of(wanted[-1])["items"]) if wanted else 0,
                "databases": sorted(manifest_of(wanted[-1])["databases"]) if wanted else [],
            }
            allowed = max(limit, source["max_hours"] * 3600 + 3600)
            if not newest or time.time() - utc(newest) > allowed:
                self.problems.append(
                    f"No backup of {source['host']} is younger than {allowed / 3600:.0f} hours (newest: {newest or 'none'}); on the backup "
                    "host; what happened since would be lost; on that host: systemctl status santedb-backup-agent"
                )
        physical: dict[str, Any] = {}
        for stanza in settings["stanzas"]:
            try:
                known = self.backups(stanza)
            except RuntimeError as error:
                known = []
                self.problems.append(
                    f"The repository of '{stanza}' cannot be read: {error}; on the backup host; look at it now"
                )
            newest = max((backup["timestamp"]["stop"] for backup in known), default=0)
            physical[stanza] = {
                "last_success": datetime.fromtimestamp(newest, timezone.utc).strftime("%Y%m%dT%H%M%SZ")
                if newest
                else None,
                "backups": len(known),
                "label": known[-1]["label"] if known else None,
            }
            if time.time() - newest > settings["period_hours"] * 3600 * 2 + 3600:
                self.problems.append(
                    f"No base backup of '{stanza}' since {physical[stanza]['last_success'] or 'ever'}; on the backup host; a restore would "
                    "take longer than planned or fail; look at journalctl -u santedb-backup-keeper"
                )
        for server in settings["archivers"]:
            physical.setdefault(server["stanza"], {})["archived"] = self.archived(server)
        return {"sources": sources, "physical": physical}

    def archived(self, server: dict[str, Any]) -> str | None:
        """Ask the database itself, with the backup host's certificate, whether its log leaves it."""
        query = (
            "SELECT coalesce(to_char(last_archived_time AT TIME ZONE 'UTC', 'YYYYMMDD\"T\"HH24MISS\"Z\"'), ''), "
            "last_failed_time > coalesce(last_archived_time, '-infinity') FROM pg_stat_archiver"
        )
        try:
            answer = run(["psql", "-XAtq", "--field-separator= ", "-d", server["conninfo"], "-c", query]).rstrip("\n")
        except RuntimeError as error:
            self.problems.append(
                f"The database of '{server['stanza']}' does not answer the backup host: {error}; nobody knows whether its log is saved; "
                "look at the certificate /etc/santedb/tls/backup_client.crt and at the database host"
            )
            return None
        when, failing = (answer.split(" ") + [""])[:2]
        if failing == "t":
            self.problems.append(
                f"The write-ahead log of '{server['stanza']}' does not arrive (last: {when or 'never'}); its disk fills and changes since "
                "are on one machine only; on the database host look at the log of PostgreSQL for archive-push"
            )
        return when or None

    def status(self) -> int:
        state = self.look()
        free = shutil.disk_usage(self.directory)
        if free.free < free.total * 0.1:
            self.problems.append(
                f"Less than a tenth of the disk is free; {self.directory} on the backup host; soon nothing more is saved; "
                "enlarge the disk or keep backups for fewer days"
            )
        result = {
            "format": 1,
            "environment": self.settings["environment"],
            "time": now_stamp(),
            "ok": not self.problems,
            "problems": self.problems,
            "notes": self.notes,
            "rpo_hours": self.settings["rpo_hours"],
            **state,
            "targets": self.targets or self.before.get("targets", {}),
            "free_bytes": free.free,
        }
        self.write(self.directory / "status.json", json.dumps(result, indent=1, sort_keys=True) + "\n")
        if METRICS.is_dir():
            self.write(METRICS / "santedb_backup.prom", self.metrics(result))
        for line in self.problems:
            print(line, file=sys.stderr)
        for line in self.notes:
            print(line)
        return 1 if self.problems else 0

    def metrics(self, result: dict[str, Any]) -> str:
        lines = [
            "# TYPE santedb_backup_ok gauge",
            f"santedb_backup_ok {int(result['ok'])}",
            "# TYPE santedb_backup_last_success_seconds gauge",
        ]
        for kind, entries, key in (("source", result["sources"], "last_success"), ("physical", result["physical"], "last_success"),
                                   ("target", result["targets"], "last_copy")):  # fmt: skip
            for name, entry in sorted(entries.items()):
                when = int(utc(entry[key])) if entry.get(key) else 0
                lines.append(f'santedb_backup_last_success_seconds{{kind="{kind}",name="{name}"}} {when}')
        return "\n".join(lines) + "\n"

    def write(self, path: Path, text: str) -> None:
        part = path.with_name(f".{path.name}.part")
        part.write_text(text, encoding="utf-8")
        part.chmod(0o644)
        part.rename(path)

    def base(self) -> int:
        self.base_backups(forced=True)
        for line in self.problems:
            print(line, file=sys.stderr)
        return 1 if self.problems else 0

    def run(self) -> int:
        self.base_backups(forced=False)
        self.expire(self.incoming, self.settings["retention_days"])
        self.copy_all()
        return self.status()


def main(verb: str) -> int:
    settings = json.loads(CONFIGURATION.read_text(encoding="utf-8"))
    keeper = Keeper(settings)
    with (keeper.directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return {"run": keeper.run, "base": keeper.base}.get(verb, keeper.status)()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "status"))
