"""The cluster in production as it changes: its databases fail and come back, it gets a server more, then does with less."""

from __future__ import annotations

import pytest

from tools.lab import images, plans
from tools.lab.partner import Partner
from tools.lab.shown import TLS, alert, connect, fingerprints, sql, standby_left, upstreams
from tools.lab.sites import Site

pytestmark = [pytest.mark.lab, pytest.mark.timeout(7200)]
PLAN = "clustered"


def answers_of(partner: Partner) -> int:
    """Ask for a token, which needs the primary; return the status, 0 for no answer."""
    try:
        return partner.token(certificate=True)
    except OSError:
        return 0


def test_a_standby_without_network_is_reported_and_catches_up(site: Site) -> None:
    site.host("db2").cut()
    try:
        sql(site, "db", "CREATE TABLE missed AS SELECT generate_series(1, 1000) AS n")
        site.wait_for(lambda: alert(site, "ReplicationLags", "db"), 300)
    finally:
        site.host("db2").heal()
    site.wait_for(lambda: sql(site, "db2", "SELECT to_regclass('missed') IS NOT NULL") == "t", 120)
    assert sql(site, "db2", "SELECT count(*) FROM missed") == "1000"
    site.wait_for(lambda: not alert(site, "ReplicationLags", "db"), 300)


def test_the_primary_comes_back_from_a_power_cut_with_all_it_had(site: Site, partner: Partner) -> None:
    sql(site, "db", "CREATE TABLE kept AS SELECT 4711 AS n; GRANT SELECT ON kept TO santedb")
    site.host("db").power_cut()
    site.wait_for(lambda: answers_of(partner) != 200, 60)
    assert "(4711,)" in connect(site, "app", f"{TLS} target_session_attrs=prefer-standby", "SELECT n FROM kept")
    site.host("db").start()
    site.wait_for(lambda: answers_of(partner) == 200, 180)
    assert sql(site, "db", "SELECT n FROM kept") == "4711"
    site.wait_for(lambda: sql(site, "db2", "SELECT status FROM pg_stat_wal_receiver") == "streaming", 60)


def sign_the_change(site: Site) -> None:
    """Let machines prove and people sign what a change of the plan made void, until the gate lets it be deployed."""
    plans.waive_what_no_lab_has(site)
    for stage in ("before_install", "before_use"):
        plans.sign_stage(site, stage)
    site.commit("Signed: the change")


def settle(site: Site, label: str) -> None:
    """Deploy a signed change, prove it, and open the proxy again, which waits for that proof."""
    site.deploy(label=label)
    done = site.make("verify", "-e", "verified_by='Grace Wanjiru'", label=f"verify, {label}")
    assert done.code == 0, done.text[-5000:]
    plans.sign_stage(site, "before_use", proven=True)
    site.commit("Proven")
    assert site.play("proxy", label=f"proxy, {label}").code == 0
    plans.stranger(site, f"stranger, {label}")
    assert site.runs[f"stranger, {label}"].text.split() == ["200", "200"]


def preflight(site: Site, label: str) -> None:
    """Make machines ready, which no gate stops, and let them prove it."""
    for target in ("baseline", "certificates"):
        assert site.make(target, label=f"{target}, {label}").code == 0, site.runs[f"{target}, {label}"].text[-5000:]
    who = ("-e", "verified_by='Grace Wanjiru'")
    done = site.make("verify", "--tags", "preflight", *who, label=f"preflight, {label}")
    assert done.code == 0, done.text[-5000:]


def test_a_server_more_joins_and_no_certificate_changes(site: Site, partner: Partner) -> None:
    before = fingerprints(site)
    site.groups["app3"] = (67, ["icdr"])
    site.lab.host("app3", 67, docker=True)
    site.lab.start(site.host("app3"))
    site.render()
    refused = site.make("deploy", label="deploy, changed and unsigned")
    assert refused.code != 0
    assert "was given for other answers than the plan has now" in refused.line
    preflight(site, "a server more")
    sign_the_change(site)
    images.install_docker(site.host("app3"), compose=False)
    images.load(site.host("app3"), images.standin_archive(image="mpi"))
    settle(site, "a server more")
    after = fingerprints(site)
    assert {path: after.get(path) for path in before} == before
    more = {path for path in after if path not in before}
    assert "app3:/etc/santedb/tls/audit_sender.crt" in more
    assert all(path.startswith("app3:") for path in more), more
    site.wait_for(lambda: "10.77.0.67" in upstreams(site, partner), 30)
    assert site.deploy(label="deploy, a server more, again").recap.changed.keys() <= {"localhost"}


def test_what_is_turned_off_leaves_nothing(site: Site, partner: Partner) -> None:
    """Standby, queue and the third application server go; their machines get other work."""
    before = fingerprints(site)
    site.groups |= {"app3": (67, ["cache"]), "db2": (65, ["monitoring"]), "ops": (66, ["audit", "backup"])}
    site.render(database_failover="none", read_replicas=0, dispatcher_queue="file")
    preflight(site, "less")
    # verify says what such a queue would lose; this ministry has decided to live with it
    why = ("--reason", "the network is rebuilt", "--expires", "2099-12-31", "--approved-by", "Ruth Banda")
    plans.sign(site, "waive", "DEP-34", "network_administrator", "--environment", "production", *why)
    sign_the_change(site)
    settle(site, "less")
    assert standby_left(site) == []
    # the queue
    assert site.host("ops").ssh("ss -Hltn '( sport = :5672 or sport = :15672 )'").stdout == ""
    assert site.host("ops").ssh("dpkg -l rabbitmq-server | grep ^ii", check=False).stdout == ""
    # the application server
    assert site.host("app3").ssh("docker ps -aq 2>/dev/null", check=False).stdout == ""
    assert "10.77.0.67" not in site.host("edge").ssh("cat /etc/nginx/nginx.conf").stdout
    # nobody lets them in where they have no business any more
    for host, strangers in (("db", ("10.77.0.65", "10.77.0.67")), ("ops", ("10.77.0.65", "10.77.0.67"))):
        rules = site.host(host).ssh("nft list ruleset").stdout
        assert not [rule for rule in rules.splitlines() for one in strangers if one in rule and "9100" not in rule], (
            rules
        )
    after = fingerprints(site)
    assert {path: digest for path, digest in after.items() if path in before}.items() <= before.items()
    assert upstreams(site, partner) == {"10.77.0.62", "10.77.0.63"}
    assert site.deploy(label="deploy, less, again").recap.changed.keys() <= {"localhost"}
