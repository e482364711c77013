"""Backups of a deployed environment: copied, watched, good for a destroyed server, and made another way when the plan says so."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from tools.lab.sites import Done, Site

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1800)]
PLAN = "split"


def sql(site: Site, statement: str, database: str = "santedb") -> str:
    """Run SQL as superuser on the database host itself."""
    command = f"runuser -u postgres -- psql -XAtq -v ON_ERROR_STOP=1 -d {database}"
    return site.host("db").ssh(command, input=statement).stdout.strip()


@pytest.fixture(scope="module")
def saved(site: Site) -> Site:
    """Records in the database, and a backup of everything."""
    sql(
        site,
        "CREATE TABLE lab AS SELECT n, md5(n::text) AS word FROM generate_series(1, 20000) n; SELECT pg_switch_wal()",
    )
    done = site.make("backup")
    assert done.code == 0, done.text[-5000:]
    return site


def drill(site: Site, label: str) -> tuple[Done, dict[str, Any]]:
    """Run the restore drill with the private key; return what was said, and the evidence it wrote."""
    folder = site.repository / "records/staging/evidence"
    before = set(folder.glob("restore-drill-*.yml"))
    done = site.make("restore-drill", "-e", f"restore_drill_identity_file={site.folder / 'backup.key'}", label=label)
    written = sorted(set(folder.glob("restore-drill-*.yml")) - before)
    return done, yaml.safe_load(written[-1].read_text(encoding="utf-8")) if written else {}


def test_backups_are_copied_and_watched(saved: Site) -> None:
    ops = saved.host("ops")
    state = json.loads(ops.ssh("cat /var/lib/santedb-backup/status.json").stdout)
    assert state["ok"], state["problems"]
    assert "santedb" in state["sources"]["db"]["databases"]
    assert state["physical"]["main"]["last_success"]
    assert state["physical"]["main"]["archived"]
    assert state["targets"]["treasury-vault"]["state"] == "copied"
    assert ops.ssh("ls /mnt/santedb-backup/treasury-vault").stdout.split() == ["archives", "pgbackrest"]


def test_nothing_of_a_backup_is_in_clear(saved: Site) -> None:
    ops = saved.host("ops")
    heads = ops.ssh("head -qc 21 /var/lib/santedb-backup/incoming/app/*/*.age | sed 's/v1/v1\\n/g'").stdout.split()
    assert heads
    assert set(heads) == {"age-encryption.org/v1"}
    word = saved.secrets["vault_backup_repository_passphrase"]
    assert saved.host("db").ssh(f"grep -rlF {word} /etc /var/lib/postgresql/.ssh", check=False).stdout == ""


def test_a_key_that_delivers_can_do_nothing_else(saved: Site) -> None:
    known = (
        "ssh -o BatchMode=yes -o UserKnownHostsFile=/etc/santedb/backup/known_hosts -i /etc/santedb/backup/id_ed25519"
    )
    refused = saved.host("app").ssh(f"{known} santedb-backup@10.77.0.44 'rm -rf incoming'", check=False)
    assert refused.returncode != 0
    assert "refused" in refused.stderr
    saved.host("ops").ssh("ls -d /var/lib/santedb-backup/incoming")


def test_a_destroyed_database_comes_back(saved: Site) -> None:
    db = saved.host("db")
    query = "SELECT count(*), sum(hashtextextended(l::text, 0)::numeric) FROM lab l"
    sql(saved, "INSERT INTO lab VALUES (0, 'after the backup')")
    before = sql(saved, query)
    segment = sql(saved, "SELECT pg_walfile_name(pg_switch_wal() - 1)")
    saved.wait_for(lambda: sql(saved, "SELECT last_archived_wal FROM pg_stat_archiver") >= segment, 60)
    saved.host("ops").ssh("/usr/local/lib/santedb-backup/keeper.py run", timeout=600)
    db.ssh("systemctl stop postgresql@15-main && rm -rf /var/lib/postgresql/15/main/*")
    db.ssh("runuser -u postgres -- pgbackrest --stanza=main restore && systemctl start postgresql@15-main", timeout=600)
    db.wait_until("test \"$(runuser -u postgres -- psql -XAtqd santedb -c 'SELECT pg_is_in_recovery()')\" = f", 120)
    assert sql(saved, query) == before


def test_dumps_instead_and_the_log_ends(saved: Site) -> None:
    saved.render(backup_methods=["database_dump"], rpo_hours=24)
    for name in ("database", "backup"):
        done = saved.play(name, "-e", "emergency_reason='another kind of backup'", label=f"{name} by dumps")
        assert done.code == 0, done.text[-6000:]
    assert sql(saved, "SHOW archive_mode") == "off"
    assert saved.host("db").ssh("ls /usr/bin/pgbackrest", check=False).returncode != 0
    keys = "cat /var/lib/postgresql/.ssh/authorized_keys /etc/santedb/backup/archive.d/* 2>/dev/null"
    assert saved.host("ops").ssh(keys, check=False).stdout == ""
    done, evidence = drill(saved, "drill of dumps")
    assert done.code == 0, done.text[-6000:]
    assert evidence["servers"][0]["mode"] == "dump"
    assert evidence["servers"][0]["databases"]["santedb"]["equal"]
    saved.host("ops").ssh(
        "f=$(ls -d /var/lib/santedb-backup/incoming/db/*/database-00-* | tail -1);"
        " printf x | dd of=$f bs=1 seek=900 conv=notrunc"
    )
    done, evidence = drill(saved, "drill of a damaged dump")
    assert done.code != 0
    assert "is damaged: it is not what db sent" in done.line
