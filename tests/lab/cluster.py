"""What a cluster with application servers app and app2 and databases db and db2 shows, whichever plan deployed it."""

from __future__ import annotations

import json
import re
import urllib.parse

from tools.lab.partner import Partner
from tools.lab.shown import TLS, alert, callers, connect, sql, started, upstreams
from tools.lab.sites import Site


def applications(site: Site) -> dict[str, str]:
    """Return the addresses of the application servers, by host."""
    return {name: f"10.77.0.{number}" for name, (number, groups) in site.groups.items() if "icdr" in groups}


class Cluster:
    """The tests; a module that has a `site` and a `partner` collects them in a class of its own."""

    def test_a_token_needs_a_certificate_and_no_header_stands_in_for_it(self, partner: Partner) -> None:
        assert partner.token() == 403
        assert partner.token(forged=urllib.parse.quote(partner.certificate.read_text(encoding="ascii"))) == 403
        assert partner.token(certificate=True) == 200

    def test_hl7_over_tls_reaches_the_application(self, partner: Partner) -> None:
        assert "MSA|AA|7" in partner.hl7()
        assert "MSA" not in partner.hl7(certificate=False)

    def test_https_reaches_both_application_servers(self, site: Site, partner: Partner) -> None:
        assert upstreams(site, partner) == set(applications(site).values())
        site.host("app").ssh("docker stop santedb-icdr")
        try:
            assert upstreams(site, partner) == {applications(site)["app2"]}
        finally:
            site.host("app").ssh("docker start santedb-icdr")
        site.wait_for(lambda: upstreams(site, partner) == set(applications(site).values()), 90)

    def test_the_databases_refuse_clear_text_and_strangers(self, site: Site) -> None:
        for server in ("db", "db2"):
            assert connect(site, "app2", TLS, servers=server).strip() == "(1,)"
            assert "no encryption" in connect(site, "app2", "sslmode=disable", servers=server)
            assert "no pg_hba.conf entry" in connect(site, "app2", f"{TLS} dbname=santedb_audit", servers=server)
            stranger = connect(site, "edge", TLS, servers=server)  # the firewall already
            assert re.search(r"timeout expired|refused|No route", stranger), stranger

    def test_what_the_primary_writes_is_read_at_the_standby(self, site: Site) -> None:
        sql(site, "db", "CREATE TABLE lab AS SELECT 4711 AS n; GRANT SELECT, INSERT ON lab TO santedb;")
        site.wait_for(
            lambda: "4711" in connect(site, "app", f"{TLS} target_session_attrs=standby", "SELECT n FROM lab"), 20
        )
        writing = "INSERT INTO lab VALUES (1) RETURNING n"
        reading = f"{TLS} target_session_attrs=prefer-standby"  # as the plan's read-only connection
        assert "read-only transaction" in connect(site, "app", reading, writing)
        assert "(1,)" in connect(site, "app", f"{TLS} target_session_attrs=primary", writing)
        for host in applications(site):
            given = site.host(host).ssh("docker inspect --format '{{json .Config.Env}}' santedb-icdr").stdout
            settings = dict(one.split("=", 1) for one in json.loads(given))
            assert "Target Session Attributes=prefer-standby" in settings["SDB_DB_MAINRO"]
            assert "Target Session Attributes=primary" in settings["SDB_DB_MAIN"]

    def test_audits_of_both_application_servers_are_collected(self, site: Site) -> None:
        for host in applications(site):
            form = f"grant_type=password&username=x&password=x&client_id=nobody-{host}&client_secret=x"
            program = (
                "import urllib.request as r, urllib.error as e\n"
                f"try: r.urlopen('http://127.0.0.1:8080/auth/oauth2_token', b'{form}')\n"
                "except e.HTTPError as error: print(error.code)"
            )
            assert site.host(host).ssh("python3 -", input=program).stdout.strip() in {"400", "401"}
            found = site.host("ops").wait_until(f"grep -rh nobody-{host} /var/log/santedb-audit", 60)
            assert f" {host}" in found, found[:400]

    def test_application_servers_change_one_after_the_other(self, site: Site, partner: Partner) -> None:
        before = {host: started(site, host) for host in applications(site)}
        site.local("icdr", icdr_environment_extra={"SDB_LOG_LEVEL": "Informational"})
        with callers(partner) as seen:
            done = site.play("icdr", label="icdr, one after the other")
        assert done.code == 0, done.text[-5000:]
        assert set(done.recap.changed) == set(applications(site)), done.changes()
        assert set(seen) == {200}, seen
        assert seen[200] > 20
        assert before["app"] < started(site, "app") < started(site, "app2")
        assert upstreams(site, partner) == set(applications(site).values())

    def test_a_server_without_network_is_missed_and_comes_back_by_itself(self, site: Site, partner: Partner) -> None:
        site.host("app2").cut()
        try:
            with callers(partner) as seen:
                assert "MSA|AA|7" in partner.hl7()
                site.wait_for(lambda: alert(site, "HostSilent", "app2"), 150)
                assert partner.token(certificate=True) == 200
            assert set(seen) == {200}, seen
            assert upstreams(site, partner) == {applications(site)["app"]}
        finally:
            site.host("app2").heal()
        site.wait_for(lambda: upstreams(site, partner) == set(applications(site).values()), 60)
        site.wait_for(lambda: not alert(site, "HostSilent", "app2"), 120)
