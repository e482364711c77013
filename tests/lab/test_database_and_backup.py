"""PostgreSQL with a standby, cache, queue, backup and restore drill, deployed from a rendered plan onto bare hosts."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools import render
from tools.lab import Host, Lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(2400)]

TLS = "sslmode=verify-full sslrootcert=/etc/santedb/tls/ca.crt"
HOSTS = {"db1": 11, "db2": 12, "app": 13, "ops": 14}
GROUPS = {
    "db1": ["database"],
    "db2": ["database"],
    "app": ["icdr", "proxy", "portal", "cache", "queue"],
    "ops": ["backup", "monitoring"],
}
PLAN: dict[str, Any] = {
    "project_name": "Lab Registry",
    "organization": "Lab Ministry",
    "jurisdiction": "Labland",
    "country_code": "XL",
    "vision_statement": "Records that can be brought back.",
    "roles": ["mpi"],
    "standards": ["fhir_r4", "openid_connect", "hdsi", "ami"],
    "environments": ["staging"],
    "topology": "split",
    "tls_certificate_source": "organization_ca",
    "server_os": "debian",
    "networks": [{"name": "lab", "cidr": "10.77.0.0/24", "purpose": "the lab", "trusted": True}],
    "cache": "redis",
    "dispatcher_queue": "rabbitmq",
    "database_failover": "streaming_replication",
    "backup_methods": ["physical_wal"],
    "backup_interval_hours": 4,
    "rpo_hours": 4,
    "rto_hours": 4,
    "mto_hours": 8,
    "backup_targets": [
        {"name": "repository", "media": "local_disk", "location": "onsite", "temperature": "hot", "retention_days": 30},
        {"name": "vault", "media": "nas", "location": "offsite", "temperature": "cold", "retention_days": 365},
        {"name": "tapes", "media": "tape", "location": "offsite", "temperature": "cold", "retention_days": 3650},
    ],
}


class Site:
    """A rendered deployment repository and the hosts it deploys to."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.folder, self.repository = lab, folder, folder / "repository"
        self.times: dict[str, float] = {}
        self.values: dict[str, str] = {}

    def host(self, name: str) -> Host:
        return self.lab[name]

    def render(self, groups: dict[str, list[str]], **answers: Any) -> None:
        """Render the plan, changed by `answers`, over the repository, as an update would."""
        hosts = [
            {
                "name": name,
                "environment": "staging",
                "groups": groups[name],
                "address": f"10.77.0.{number}",
                "internal_fqdn": f"{name}.lab.example.org",
                "vcpu": 2,
                "ram_gb": 1,
                "disk_gb": 20,
                "os": "debian",
            }
            for name, number in HOSTS.items()
        ]
        if not (self.folder / "template").exists():
            render.snapshot(self.folder / "template")
        render.render(self.repository, {**PLAN, "hosts": hosts, **answers}, self.folder / "template")
        vault = self.repository / "inventories/staging/group_vars/all/vault.yml"
        facts = yaml.safe_load((vault.parent / "10-generated.yml").read_text(encoding="utf-8"))
        for secret in facts["santedb_required_secrets"]:
            self.values.setdefault(secret["name"], secrets.token_urlsafe(30))
        # the gate has tests of its own; here nobody signed anything
        gate = "- name: Gate\n  hosts: localhost\n  gather_facts: false\n  tasks: []\n"
        (self.repository / "playbooks/gate.yml").write_text(gate, encoding="utf-8")
        self.certificates = [item for item in facts["santedb_certificates"] if item["purpose"] in CERTIFICATES]
        self.values["vault_backup_encryption_recipient"] = self.recipient
        vault.write_text(json.dumps(self.values), encoding="utf-8")

    @property
    def recipient(self) -> str:
        """Public key of the backups; the private one stays in this folder, as it would with people."""
        key = self.folder / "age.key"
        if not key.exists():
            key.write_text(
                self.host("ops").ssh("apt-get install -qqy age >/dev/null && age-keygen 2>/dev/null").stdout,
                encoding="ascii",
            )
        found = re.search(r"public key: (age1\w+)", key.read_text(encoding="ascii"))
        assert found
        return found[1]

    def play(self, name: str, *arguments: str, label: str | None = None) -> tuple[int, str]:
        """Run a playbook; return its exit code and output."""
        begun = time.monotonic()
        done = self.lab.ansible("-i", "inventories/staging", *arguments, f"playbooks/{name}.yml", cwd=self.repository)
        self.times[label or name] = round(time.monotonic() - begun, 1)
        print(f"{label or name}: {self.times[label or name]} s", flush=True)
        return done.returncode, done.stdout + done.stderr

    def deploy(self, name: str, *arguments: str, label: str | None = None) -> dict[str, dict[str, int]]:
        """Run a playbook that must succeed; return its recap per host."""
        code, text = self.play(name, *arguments, label=label)
        assert code == 0, text[-8000:]
        return recap(text)

    def sql(self, host: str, statement: str, database: str = "santedb", check: bool = True) -> str:
        """Run SQL as superuser on the host itself."""
        done = self.host(host).ssh(
            f"psql -XAtq -v ON_ERROR_STOP=1 -U postgres -d {database}", input=statement, check=check
        )
        return done.stdout.strip()


CERTIFICATES = ("database", "database_replication", "backup_client")


def recap(text: str) -> dict[str, dict[str, int]]:
    found = {}
    for line in text.splitlines():
        match = re.match(r"^(\S+)\s+: (ok=.*)$", line)
        if match:
            found[match[1]] = {key: int(value) for key, value in (pair.split("=") for pair in match[2].split())}
    return found


def changes(result: dict[str, dict[str, int]]) -> int:
    return sum(host["changed"] for host in result.values())


@pytest.fixture(scope="module")
def site(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Bare hosts with their certificates, and nothing of the roles yet."""
    for name, number in HOSTS.items():
        lab.host(name, number)
    lab.start()
    site = Site(lab, tmp_path_factory.mktemp("site"))
    site.render(GROUPS)
    certify(site)
    return site


def certify(site: Site) -> None:
    """Put the register's certificates where the role certificates would (that role has a test of its own)."""
    tls = site.folder / "tls"
    tls.mkdir()

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=tls, check=True, capture_output=True)

    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.crt", "-days", "30", "-subj", "/CN=Lab CA")
    for host in site.lab.hosts.values():
        host.ssh("groupadd --system ssl-cert; mkdir -p /etc/santedb/tls")
        host.put(tls / "ca.crt", "/etc/santedb/tls/ca.crt")
    for item in site.certificates:
        name = item["id"]
        names = [f"subjectAltName={','.join(item['sans'])}"] if item["sans"] else []
        (tls / f"{name}.ext").write_text(
            "\n".join([*names, f"extendedKeyUsage={','.join(item['extended_key_usage'])}"]), encoding="ascii"
        )
        openssl(
            "req",
            "-new",
            *new_key,
            "-keyout",
            f"{name}.key",
            "-out",
            f"{name}.csr",
            "-subj",
            f"/CN={item['subject']['cn']}",
        )
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30",
                "-extfile", f"{name}.ext", "-out", f"{name}.crt")  # fmt: skip
        for owner in item["installed_on"]:
            host = site.host(owner)
            host.put(tls / f"{name}.crt", item["path_certificate"])
            host.put(tls / f"{name}.key", item["path_key"])
            host.ssh(
                f"chgrp ssl-cert {item['path_key']}; chmod 640 {item['path_key']}; chmod 644 {item['path_certificate']}"
            )


def test_check_mode_on_bare_hosts(site: Site) -> None:
    for name in ("database", "cache", "queue"):
        code, text = site.play(name, "--check", label=f"{name} --check")
        assert code == 0, text[-6000:]
    assert site.host("db1").ssh("ls /etc/postgresql", check=False).returncode != 0


def test_deploys_from_bare_hosts_and_a_second_run_changes_nothing(site: Site) -> None:
    for name in ("database", "cache", "queue"):
        site.deploy(name)
        assert changes(site.deploy(name, label=f"{name} again")) == 0, name


def test_only_the_plans_hosts_and_only_over_tls(site: Site) -> None:
    app, password = site.host("app"), site.values["vault_database_main_password"]
    app.ssh("apt-get install -qy postgresql-client >/dev/null")

    def connect(
        host: str, parameters: str, user: str = "santedb", word: str = password, database: str = "santedb"
    ) -> Any:
        return site.host(host).ssh(
            f"PGPASSWORD={word} psql -XAtq 'host=db1.lab.example.org hostaddr=10.77.0.11"
            f" user={user} dbname={database} {parameters}'"
            " -c 'SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()'",
            check=False,
        )

    assert connect("app", TLS).stdout.startswith("t|TLSv1.")
    assert connect("app", TLS, database="postgres").returncode == 0
    assert "no encryption" in connect("app", "sslmode=disable").stderr
    assert "password authentication failed" in connect("app", TLS, word="wrong").stderr
    assert "no pg_hba.conf entry" in connect("app", TLS, database="santedb_audit").stderr
    assert "no pg_hba.conf entry" in connect("db2", TLS).stderr
    assert "no pg_hba.conf entry" in connect("app", TLS, user="postgres").stderr
    assert (
        site.sql(
            "db1",
            "SELECT count(*) FROM pg_extension WHERE extname IN ('pgcrypto','uuid-ossp','pg_trgm','fuzzystrmatch')",
        )
        == "4"
    )
    assert site.sql("db1", "SHOW data_checksums") == "on"
    assert site.sql("db1", "SELECT rolpassword LIKE 'SCRAM-SHA-256%' FROM pg_authid WHERE rolname = 'santedb'") == "t"


def test_replica_follows(site: Site) -> None:
    site.sql("db1", "CREATE TABLE IF NOT EXISTS followed (n int); INSERT INTO followed VALUES (42)")
    site.host("db2").wait_until("test \"$(psql -XAtq -U postgres -d santedb -c 'SELECT n FROM followed')\" = 42", 30)
    assert site.sql("db2", "SELECT pg_is_in_recovery()") == "t"
    assert site.sql("db1", "SELECT slot_name || '|' || active FROM pg_replication_slots") == "santedb_db2|true"


def test_cache_and_queue(site: Site) -> None:
    app = site.host("app")
    assert "NOAUTH" in app.ssh("redis-cli -h 10.77.0.13 ping").stdout
    answer = app.ssh(
        "redis-cli -h 10.77.0.13", input=f"AUTH {site.values['vault_cache_password']}\nPING\nCONFIG GET save\n"
    )
    assert answer.stdout.split()[:2] == ["OK", "PONG"]
    users = app.ssh("rabbitmqctl -q list_users").stdout
    assert "santedb" in users
    assert "guest" not in users
    listening = app.ssh("ss -Hltn").stdout
    assert "10.77.0.13:5672" in listening
    assert "10.77.0.13:15672" in listening
    assert "10.77.0.13:6379" in listening
    assert "0.0.0.0:6379" not in listening


def drill(site: Site, *arguments: str, label: str = "restore-drill") -> tuple[int, str, dict[str, Any]]:
    """Run the restore drill with the private key; return exit code, output and the evidence it wrote."""
    folder = site.repository / "records/staging/evidence"
    before = set(folder.glob("restore-drill-*.yml"))
    key = ("-e", f"restore_drill_identity_file={site.folder / 'age.key'}")
    code, text = site.play("restore-drill", *key, *arguments, label=label)
    written = sorted(set(folder.glob("restore-drill-*.yml")) - before)
    return code, text, yaml.safe_load(written[-1].read_text(encoding="utf-8")) if written else {}


@pytest.fixture(scope="module")
def saved(site: Site) -> Site:
    """Records in the database, and a backup of everything."""
    site.sql("db1", "CREATE TABLE patient (id int PRIMARY KEY, name text, born date, seen timestamptz DEFAULT now())")
    site.sql(
        "db1",
        "INSERT INTO patient SELECT n, md5(n::text), date '2000-01-01' + n % 9000 FROM generate_series(1, 20000) n",
    )
    site.host("app").ssh("mkdir -p /santedb/match /santedb/.x509; echo '<match/>' > /santedb/match/patient.xml")
    site.host("ops").ssh(
        "mkdir -p /mnt/santedb-backup/vault && mount -t tmpfs -o size=2G tmpfs /mnt/santedb-backup/vault"
    )
    site.deploy("backup")
    return site


def test_backup_is_made_copied_and_watched(saved: Site) -> None:
    ops = saved.host("ops")
    state = json.loads(ops.ssh("cat /var/lib/santedb-backup/status.json").stdout)
    assert state["ok"], state["problems"]
    assert state["sources"]["db1"]["databases"] == ["santedb", "santedb_audit", "santedb_pubsub"]
    assert state["physical"]["main"]["last_success"]
    assert state["physical"]["main"]["archived"]
    assert state["targets"]["vault"]["state"] == "copied"
    assert state["targets"]["tapes"]["state"] == "by hand"
    assert ops.ssh("ls /mnt/santedb-backup/vault").stdout.split() == ["archives", "pgbackrest"]
    # nothing in clear, and the passphrase nowhere but here
    assert ops.ssh("grep -rl '<match/>' /var/lib/santedb-backup /mnt/santedb-backup", check=False).stdout == ""
    assert (
        ops.ssh("head -c 21 /var/lib/santedb-backup/incoming/app/*/match.tar.gz.age").stdout == "age-encryption.org/v1"
    )
    assert "cipher-pass" not in saved.host("db1").ssh("cat /etc/pgbackrest.conf").stdout
    # the keys that deliver can do nothing else
    refused = saved.host("app").ssh("ssh -o UserKnownHostsFile=/etc/santedb/backup/known_hosts "
                                    "-i /etc/santedb/backup/id_ed25519 "
                                    "santedb-backup@10.77.0.14 'rm -rf incoming'", check=False)  # fmt: skip
    assert "refused" in refused.stderr


def test_second_deployment_of_the_backup_changes_nothing(saved: Site) -> None:
    assert changes(saved.deploy("backup", "-e", "backup_run_now=false", label="backup again")) == 0


def test_drill_restores_and_measures(saved: Site) -> None:
    saved.sql("db1", "INSERT INTO patient VALUES (999999, 'after the backup')")
    code, text, evidence = drill(saved)
    assert code == 0, text[-6000:]
    assert evidence["passed"]
    assert evidence["within_rto"]
    restored = evidence["servers"][0]
    assert restored["databases"]["santedb"]["rows"] >= 20000
    assert all(database["equal"] for database in restored["databases"].values())
    assert restored["archives"]["app"]
    print("restore", restored["restore_seconds"], "s, whole drill", restored["total_seconds"], "s")
    assert saved.host("ops").ssh("ls /var/lib/santedb-restore-drill", check=False).returncode != 0


def test_destroyed_database_comes_back(saved: Site) -> None:
    db = saved.host("db1")
    query = "SELECT count(*), sum(hashtextextended(p::text, 0)::numeric) FROM patient p"
    before = saved.sql("db1", query)
    saved.sql("db1", "SELECT pg_switch_wal()")
    saved.host("ops").ssh("/usr/local/lib/santedb-backup/keeper.py run")
    begun = time.monotonic()
    db.ssh("systemctl stop postgresql@15-main && rm -rf /var/lib/postgresql/15/main/*")
    db.ssh("runuser -u postgres -- pgbackrest --stanza=main restore && systemctl start postgresql@15-main")
    db.wait_until("test \"$(psql -XAtq -U postgres -d santedb -c 'SELECT pg_is_in_recovery()')\" = f", 120)
    print("destroyed server restored in", round(time.monotonic() - begun, 1), "s")
    assert saved.sql("db1", query) == before


def test_damaged_backup_fails_the_drill(saved: Site) -> None:
    ops = saved.host("ops")
    ops.ssh("cp -a /var/lib/santedb-backup/pgbackrest /root/kept")
    ops.ssh("for f in $(find /var/lib/santedb-backup/pgbackrest/backup -path '*base/1*' -name '*.lz4' -size +1k); do "
            "printf damaged | dd of=$f bs=1 seek=600 conv=notrunc status=none; done")  # fmt: skip
    code, text, evidence = drill(saved, label="drill of a damaged backup")
    assert code != 0
    assert not evidence["passed"]
    assert "would not have saved anybody" in text
    ops.ssh("rm -rf /var/lib/santedb-backup/pgbackrest && mv /root/kept /var/lib/santedb-backup/pgbackrest")


def test_dumps_instead_and_the_log_ends(saved: Site) -> None:
    saved.render(GROUPS, backup_methods=["database_dump"], backup_interval_hours=4, rpo_hours=24)
    saved.deploy("database", label="database without archiving")
    saved.deploy("backup", label="backup by dumps")
    assert saved.sql("db1", "SHOW archive_mode") == "off"
    assert saved.host("db1").ssh("ls /usr/bin/pgbackrest", check=False).returncode != 0
    code, text, evidence = drill(saved, label="drill of dumps")
    assert code == 0, text[-6000:]
    assert evidence["servers"][0]["mode"] == "dump"
    saved.host("ops").ssh(
        "f=$(ls -d /var/lib/santedb-backup/incoming/db1/*/database-00-* | tail -1);"
        " printf x | dd of=$f bs=1 seek=900 conv=notrunc"
    )
    code, text, evidence = drill(saved, label="drill of a damaged dump")
    assert code != 0
    assert "is damaged: it is not what db1 sent" in text


def test_replica_turned_off_leaves_nothing(saved: Site) -> None:
    saved.render(
        {**GROUPS, "db2": ["monitoring"]}, backup_methods=["database_dump"], rpo_hours=24, database_failover="none"
    )
    saved.deploy("database", label="database without replica")
    db2 = saved.host("db2")
    assert (
        db2.ssh("ls -d /etc/postgresql /var/lib/postgresql /etc/santedb/roles/database 2>/dev/null", check=False).stdout
        == ""
    )
    assert "5432" not in db2.ssh("ss -Hltn").stdout
    assert saved.sql("db1", "SELECT count(*) FROM pg_replication_slots") == "0"
    assert saved.sql("db1", "SELECT count(*) FROM pg_roles WHERE rolname = 'santedb_replication'") == "0"
    assert "replication " not in saved.host("db1").ssh("grep ^hostssl /etc/postgresql/15/main/pg_hba.conf").stdout


def test_cache_and_queue_turned_off_leave_nothing(saved: Site) -> None:
    groups = {**GROUPS, "db2": ["monitoring"], "app": ["icdr", "proxy", "portal"]}
    saved.render(groups, cache="memory", dispatcher_queue="file", database_failover="none")
    for name in ("cache", "queue"):
        saved.deploy(name, label=f"{name} off")
    left = saved.host("app").ssh(
        "ls -d /etc/redis /var/lib/redis /etc/rabbitmq /var/lib/rabbitmq 2>/dev/null", check=False
    )
    assert left.stdout == ""
