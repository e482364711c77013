"""A split plan on four bare hosts, as its README says: `make secrets`, `make deploy`, `make verify`; then what callers meet."""

from __future__ import annotations

import json
import re
import shutil
import socket
import ssl
import subprocess
import urllib.parse

import pytest
import yaml

from tools.lab.partner import Partner
from tools.lab.sites import Site

pytestmark = [pytest.mark.lab, pytest.mark.timeout(3600)]
PLAN = "split"


def test_the_gate_names_what_is_missing_and_opens_when_it_is_there(site: Site) -> None:
    refused, preflight = site.runs["deploy, refused"], site.runs["verify preflight"]
    assert refused.code != 0
    assert "staging is not deployed; 7 findings:" in refused.line
    assert set(refused.recap.hosts) == {"localhost"}, "hosts were touched"
    assert not preflight.recap.changed.keys() - {"localhost"}
    assert site.runs["gate"].code == 0, site.runs["gate"].text[-3000:]


def test_check_mode_on_bare_hosts_does_not_fail(site: Site) -> None:
    done = site.runs["deploy --check, bare hosts"]
    assert done.code == 0, done.text[-8000:]
    assert not done.recap.failed


def test_an_interrupted_deployment_is_completed_by_the_next(site: Site) -> None:
    interrupted, done = site.runs["deploy, interrupted"], site.runs["deploy"]
    assert interrupted.code == -9
    assert "TASK [database : " in interrupted.text
    assert "PLAY RECAP" not in interrupted.text
    assert not done.recap.failed
    assert set(site.groups) <= set(done.recap.changed)


def test_a_second_run_changes_nothing_on_any_host(site: Site) -> None:
    done = site.deploy(label="deploy again")
    assert set(done.recap.changed) <= {"localhost"}, done.changes()  # where each deployment leaves its record


def test_verify_proves_it_and_writes_the_records(site: Site) -> None:
    done = site.make("verify", "-e", "verified_by='Amina Okello'")
    assert done.code == 0, done.text[-8000:]
    records = site.repository / "records/staging"
    report = yaml.safe_load(sorted((records / "evidence").glob("verify-*.yml"))[-1].read_text(encoding="utf-8"))
    # the published passwords tried, the test audit arrived intact, only planned ports answer from other hosts
    for task in ("DEP-50", "DEP-51", "DEP-53", "DEP-68", "DEP-99"):
        record = yaml.safe_load((records / f"{task}.yml").read_text(encoding="utf-8"))
        assert record["decision"] == "done", task
    assert {entry["task"] for entry in report["waived"]} == {"DEP-21", "PLN-34"}
    assert all(entry["why"] for entry in report["cannot"])
    assert len(report["done"]) >= 45


def test_https_by_the_public_name_only(partner: Partner) -> None:
    assert partner.call("/fhir/metadata").status == 200
    plain = partner.call("/fhir/metadata", scheme="http")
    assert plain.status == 301
    assert plain.headers["Location"].startswith(f"https://{partner.api}/")
    assert partner.call("/fhir/metadata").headers["Strict-Transport-Security"]
    assert partner.call("/api-docs/").status == 404
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:  # no answer for a name nobody knows: the handshake is refused, or the connection closed without a word
        with (
            socket.create_connection(("10.77.0.41", 443), 5) as raw,
            context.wrap_socket(raw, server_hostname="other.example.org") as link,
        ):
            link.sendall(b"GET /fhir/metadata HTTP/1.1\r\nHost: other.example.org\r\n\r\n")
            answer = link.recv(100)
    except (ssl.SSLError, ConnectionResetError):
        answer = b""
    assert answer == b""


def test_a_token_needs_a_certificate_and_no_header_stands_in_for_it(partner: Partner) -> None:
    assert partner.token() == 403
    assert partner.token(path="//AUTH/oauth2_token") == 403
    assert partner.token(forged=urllib.parse.quote(partner.certificate.read_text(encoding="ascii"))) == 403
    assert partner.token(certificate=True) == 200
    assert partner.token(certificate=True, secret="wrong") in {400, 401}


def test_hl7_over_tls_reaches_the_application(partner: Partner) -> None:
    assert "MSA|AA|7" in partner.hl7()
    assert "MSA|AR|7" in partner.hl7(secret="wrong+wrong")
    assert "MSA" not in partner.hl7(certificate=False)
    with pytest.raises(OSError, match=r"timed out|refused|unreachable"):  # in clear only behind the proxy
        socket.create_connection(("10.77.0.42", 2100), 3)


def test_the_database_refuses_clear_text_and_strangers(site: Site) -> None:
    password = site.secrets["vault_database_main_password"]
    program = "import sys, psycopg2; c = psycopg2.connect(sys.stdin.read()); print(c.info.ssl_in_use)"
    trusted = "sslmode=verify-full sslrootcert=/etc/santedb/tls/ca.crt"

    def connect(host: str, parameters: str, word: str = password) -> subprocess.CompletedProcess[str]:
        site.host(host).ssh(
            "python3 -c 'import psycopg2' 2>/dev/null || apt-get install -qy python3-psycopg2 >/dev/null"
        )
        target = (
            f"host=db.lab.example.org hostaddr=10.77.0.43 user=santedb dbname=santedb connect_timeout=4 {parameters}"
        )
        command = f"python3 -c {json.dumps(program)}"
        return site.host(host).ssh(command, input=f"{target} password={word}", check=False)

    assert connect("app", trusted).stdout.strip() == "True"
    assert "no encryption" in connect("app", "sslmode=disable").stderr
    assert "password authentication failed" in connect("app", trusted, "wrong").stderr
    assert "no pg_hba.conf entry" in connect("app", f"{trusted} dbname=santedb_audit").stderr
    stranger = connect("edge", trusted).stderr  # the firewall already
    assert re.search(r"timeout expired|refused|No route", stranger), stranger


def test_what_is_killed_comes_back(site: Site, partner: Partner) -> None:
    app = site.host("app")
    app.ssh("kill -9 $(docker inspect --format '{{.State.Pid}}' santedb-icdr)")
    site.wait_for(partner.answers, 60)
    db = site.host("db")
    db.ssh("systemctl stop postgresql@15-main")
    site.wait_for(lambda: partner.token(certificate=True) != 200, 60)
    db.ssh("systemctl start postgresql@15-main")
    site.wait_for(lambda: partner.token(certificate=True) == 200, 120)


def test_a_wrong_vault_password_stops_before_any_host(site: Site) -> None:
    key = site.folder / f".santedb/{site.environment}.vault"
    right = key.read_text(encoding="ascii")
    key.write_text("another password", encoding="ascii")
    try:
        done = site.make("deploy", label="deploy, wrong vault password")
    finally:
        key.write_text(right, encoding="ascii")
    assert done.code != 0
    assert "vault.yml cannot be decrypted" in done.line
    assert not set(done.recap.hosts) & set(site.groups)


def test_an_unreachable_host_is_named_and_fails_the_run(site: Site) -> None:
    site.host("ops").cut()
    try:
        done = site.play("audit", "-e", "ansible_ssh_timeout=5", "-T", "5", label="audit, host away")
    finally:
        site.host("ops").heal()
    assert done.code != 0
    assert done.recap.failed == {"ops": 1}


def test_production_waits_for_its_gate(site: Site) -> None:
    done = site.make("gate", environment="production", label="gate production")
    assert done.code != 0
    assert "production is not deployed" in done.line
    shutil.rmtree(site.repository / "records/production", ignore_errors=True)


def test_restored_database_equals_the_source(site: Site) -> None:
    db = site.host("db")
    fill = "CREATE TABLE lab AS SELECT n, md5(n::text) AS word FROM generate_series(1, 20000) n"
    db.ssh(f'runuser -u postgres -- psql -XAtqd santedb -c "{fill}"')
    backup = site.make("backup")
    assert backup.code == 0, backup.text[-5000:]
    key = ("-e", f"restore_drill_identity_file={site.folder / 'backup.key'}")
    drill = site.make("restore-drill", *key)
    assert drill.code == 0, drill.text[-5000:]
    evidence = sorted((site.repository / "records/staging/evidence").glob("restore-drill-*.yml"))[-1]
    found = yaml.safe_load(evidence.read_text(encoding="utf-8"))
    assert found["passed"]
    assert found["within_rto"]
    restored = found["servers"][0]
    assert restored["databases"]["santedb"]["rows"] >= 20000
    assert all(database["equal"] for database in restored["databases"].values())
