"""Faults on a deployed split plan: a full disk, a certificate near its end, a failing upgrade, a lost database, a damaged backup."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tools.lab import plans
from tools.lab.partner import Partner
from tools.lab.shown import callers
from tools.lab.sites import Site

pytestmark = [pytest.mark.lab, pytest.mark.timeout(3600)]
PLAN = "split"

STORE = "/var/log/santedb-audit"
ASK = """
import json, sys, urllib.parse, urllib.request
query = urllib.parse.urlencode({"query": sys.stdin.read()})
print(json.dumps(json.load(urllib.request.urlopen(f"http://127.0.0.1:9090/api/v1/query?{query}"))["data"]["result"]))
"""
AUDIT = """
import json, sys, urllib.request
for number in range(int(sys.argv[1])):
    body = json.dumps({"event": "query", "detail": f"full-disk-{number:03}"}).encode()
    urllib.request.urlopen(urllib.request.Request("http://127.0.0.1:8080/_standin/audit", body, method="POST"))
"""


@pytest.fixture(scope="module")
def site(site: Site) -> Site:
    """The deployed environment, whose Prometheus asks more often, so that nobody waits."""
    site.host("ops").ssh("sed -i 's/30s/3s/' /etc/prometheus/prometheus.yml && systemctl reload prometheus")
    return site


def alerts(site: Site, host: str, name: str) -> list[dict[str, str]]:
    """Ask every host for its figures, as a timer does, and return the labels of an alert, pending or firing."""
    site.host(host).ssh("santedb-checks")
    found = site.host("ops").ssh(f"python3 -c '{ASK}'", input=f'ALERTS{{alertname="{name}"}}').stdout
    return [one["metric"] for one in json.loads(found)]


def sql(site: Site, statement: str, database: str = "santedb") -> str:
    """Run SQL as superuser on the database host."""
    command = f"cd /; runuser -u postgres -- psql -XAtq -v ON_ERROR_STOP=1 -d {database}"
    return site.host("db").ssh(command, input=statement).stdout.strip()


def contents(site: Site) -> str:
    """Return a sum over the rows of every table of the main database."""
    tables = sql(
        site, "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
    )
    sums = [
        f"SELECT '{table}', count(*), sum(hashtextextended(t::text, 0)::numeric) FROM {table} t"
        for table in tables.splitlines()
    ]
    return sql(site, "; ".join(sums))


# -- a full disk ----------------------------------------------------------------------------------------------------


def test_no_audit_is_lost_while_the_disk_of_the_collector_is_full(site: Site) -> None:
    ops, app = site.host("ops"), site.host("app")
    ops.ssh(f"systemctl stop rsyslog && mount -t tmpfs -o size=3m,mode=750 tmpfs {STORE} && systemctl start rsyslog")
    ops.ssh(f"head -c 3m /dev/zero > {STORE}/filler", check=False)
    app.ssh(f"python3 -c '{AUDIT}' 120")
    # it is said at once, in the journal and as an alert
    site.wait_for(lambda: "firing" in {one["alertstate"] for one in alerts(site, "ops", "AuditsNotStored")}, 60)
    assert "Audits cannot be stored" in ops.ssh("journalctl -t santedb-audit-store -o cat").stdout
    ops.ssh("systemctl restart rsyslog")  # what waits survives a restart

    ops.ssh(f"rm {STORE}/filler")
    ops.ssh("systemctl start santedb-audit-seal")  # once: systemd refuses a sixth start within ten seconds
    wanted = [f"full-disk-{number:03}" for number in range(120)]

    def stored() -> list[str]:
        return sorted(ops.ssh(f"grep -oh 'full-disk-[0-9]*' {STORE}/*/*.log", check=False).stdout.split())

    site.wait_for(lambda: set(stored()) >= set(wanted), 60)
    assert stored() == wanted, "stored twice"
    ops.ssh("systemctl start santedb-audit-seal")
    assert "intact" in ops.ssh("audit-chain-verify").stdout
    site.wait_for(lambda: not alerts(site, "ops", "AuditsNotStored"), 60)
    ops.ssh(f"systemctl stop rsyslog && umount {STORE} && systemctl start rsyslog")


# -- a certificate near its end -------------------------------------------------------------------------------------


def shorten(site: Site, entry: dict[str, Any], host: str, days: int) -> None:
    """Let the environment's authority sign the certificate anew, for a few days only."""
    authority = site.repository / f".ca/{site.environment}"
    issuer = x509.load_pem_x509_certificate((authority / "ca.crt").read_bytes())
    password = site.secrets["vault_certificates_ca_passphrase"].encode()
    key = serialization.load_pem_private_key((authority / "ca.key").read_bytes(), password)
    assert isinstance(key, rsa.RSAPrivateKey)
    old = x509.load_pem_x509_certificate(site.host(host).read(entry["path_certificate"]).encode())
    now = datetime.now(UTC)
    new = x509.CertificateBuilder(issuer.subject, old.subject, old.public_key(), x509.random_serial_number())
    new = new.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=days))
    for extension in old.extensions:
        new = new.add_extension(extension.value, extension.critical)
    text = new.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    site.host(host).ssh(f"cat > {entry['path_certificate']}", input=text)


def test_a_certificate_near_its_end_is_noticed_and_renewed_while_callers_are_served(
    site: Site, partner: Partner
) -> None:
    edge = site.host("edge")
    entry = next(one for one in site.facts["santedb_certificates"] if one["purpose"] == "proxy")
    shorten(site, entry, "edge", 3)
    edge.ssh("systemctl reload nginx")
    site.wait_for(
        lambda: [one["certificate"] for one in alerts(site, "edge", "CertificateExpires")] == [entry["id"]], 60
    )
    check = ("-e", "verified_by='Amina Okello'", "-e", '{"verify_only": ["DEP-07"]}')
    refused = site.make("verify", *check, label="verify, certificate near its end")
    assert refused.code != 0
    assert re.search(rf"DEP-07: {re.escape(entry['path_certificate'])} expires in [23] days; edge", refused.line), (
        refused.text[-3000:]
    )

    with callers(partner) as answers:
        renewed = site.make("certificates", label="certificates, renewing")
        assert renewed.code == 0, renewed.text[-5000:]
    assert set(answers) == {200}, answers
    assert answers.total() > 20
    assert renewed.recap.changed.keys() == {"edge"}, renewed.changes()
    certificate = x509.load_pem_x509_certificate(partner.presented().encode())
    assert (certificate.not_valid_after_utc - datetime.now(UTC)).days > 30
    site.wait_for(lambda: not alerts(site, "edge", "CertificateExpires"), 60)


# -- upgrades -------------------------------------------------------------------------------------------------------


def running(site: Site) -> str:
    """Return the image that the application server runs."""
    return site.host("app").ssh("docker inspect --format '{{.Config.Image}}' santedb-icdr").stdout.strip()


def last_backup(site: Site) -> Any:
    """Return when the last base backup of the main server was made."""
    return json.loads(site.host("ops").ssh("cat /var/lib/santedb-backup/status.json").stdout)["physical"]["main"][
        "last_success"
    ]


def test_an_upgrade_that_fails_is_taken_back_and_a_good_one_leaves_its_record(site: Site, partner: Partner) -> None:
    releases = site.repository / "records/staging/releases"
    sql(site, "CREATE TABLE faults AS SELECT n, md5(n::text) AS word FROM generate_series(1, 5000) n")
    before, saved, data, records = running(site), last_backup(site), contents(site), set(releases.iterdir())

    plans.offer_release(site, "app", "3.0.2105-alpha", broken=True)
    failed = site.make("upgrade", label="upgrade, failing")
    assert failed.code != 0
    assert "The upgrade failed and was taken back; on app:" in failed.line, failed.text[-6000:]
    assert "failed half-way" in failed.line, "the reason is not told"
    assert last_backup(site) > saved, "no backup was made first"
    assert running(site) == before
    assert contents(site) == data
    assert partner.token(certificate=True) == 200
    assert set(releases.iterdir()) == records, "a release is on record that does not run"
    assert sql(site, "SELECT count(*) FROM pg_database WHERE datname = 'santedb_failed'") == "1"

    plans.offer_release(site, "app", "3.0.2110-alpha")
    done = site.make("upgrade", label="upgrade")
    assert done.code == 0, done.text[-6000:]
    assert running(site) == "santesuite/santedb-mpi:3.0.2110-alpha"
    assert partner.token(certificate=True) == 200
    assert sql(site, "SELECT count(*) FROM faults") == "5000"
    (record,) = set(releases.iterdir()) - records
    assert "santedb-mpi:3.0.2110-alpha" in record.read_text(encoding="utf-8")
    left = site.host("app").ssh("docker ps --all --format '{{.Names}}'; ls -d /etc/santedb/*before", check=False).stdout
    assert "before" not in left


# -- restore --------------------------------------------------------------------------------------------------------


def drill(site: Site, label: str) -> tuple[int, str, dict[str, Any]]:
    """Run the restore drill; return exit code, output and the evidence it wrote."""
    folder = site.repository / "records/staging/evidence"
    before = set(folder.glob("restore-drill-*.yml"))
    done = site.make("restore-drill", "-e", f"restore_drill_identity_file={site.folder / 'backup.key'}", label=label)
    written = sorted(set(folder.glob("restore-drill-*.yml")) - before)
    assert written, done.text[-5000:]
    return done.code, done.line, yaml.safe_load(written[-1].read_text(encoding="utf-8"))


def test_a_destroyed_database_comes_back_as_the_runbook_says(site: Site, partner: Partner) -> None:
    db, app = (
        site.host("db"),
        site.host("app"),
    )  # whose base was saved when they were deployed; the log holds what came since
    sql(site, "CREATE TABLE since AS SELECT now() AS it_was_saved")
    runbook = (site.repository / "docs/runbooks/backup-and-restore.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```$", runbook, re.MULTILINE | re.DOTALL)
    (commands,) = (block for block in blocks if "pgbackrest" in block)
    data = contents(site)
    segment = sql(site, "SELECT pg_walfile_name(pg_switch_wal() - 1)")
    site.wait_for(lambda: sql(site, "SELECT last_archived_wal FROM pg_stat_archiver") >= segment, 60)
    begun = time.monotonic()
    db.ssh(
        "systemctl kill -s KILL postgresql@15-main; rm -rf /var/lib/postgresql/15/main/base /var/lib/postgresql/15/main/global"
    )
    app.ssh("systemctl stop santedb-icdr")
    db.ssh(f"set -e\n{commands}")
    restored = contents(site)  # before a sign-in writes its time
    app.ssh("systemctl start santedb-icdr")
    site.wait_for(lambda: partner.token(certificate=True) == 200, 120)
    seconds = time.monotonic() - begun
    print(f"destroyed and serving again after {seconds:.0f} s; allowed are {site.answers['rto_hours']} h")
    assert restored == data
    assert seconds < 3600 * site.answers["rto_hours"]


def test_a_damaged_backup_fails_the_drill(site: Site) -> None:
    ops = site.host("ops")
    ops.ssh("cp -a /var/lib/santedb-backup/pgbackrest /root/kept")
    flipped = ops.ssh(
        "for file in $(find /var/lib/santedb-backup/pgbackrest/backup -path '*base/1*' -name '*.lz4' -size +1k); do "
        "printf damaged | dd of=$file bs=1 seek=600 conv=notrunc status=none; echo $file; done"
    ).stdout.split()
    assert flipped
    code, said, evidence = drill(site, "drill of a damaged backup")
    ops.ssh("rm -rf /var/lib/santedb-backup/pgbackrest && mv /root/kept /var/lib/santedb-backup/pgbackrest")
    assert code != 0
    assert not evidence["passed"]
    assert "would not have saved anybody" in said
    code, said, evidence = drill(site, "drill")
    assert code == 0, said[-5000:]
    assert evidence["passed"]
    assert evidence["within_rto"]
