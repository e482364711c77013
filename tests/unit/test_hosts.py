"""Environments, hosts, groups, names, gateways and ports of a plan."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.support import MINIMUM, PLAN_NAMES, load_plan, renderer

GROUPS = ["icdr", "database", "cache", "queue", "proxy", "portal", "gateway", "audit", "backup", "monitoring"]
TOPOLOGIES = ["single_host", "split", "clustered", "role_split_cluster"]


def base(**answers: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (effective answers, a plan as far as hosts() needs it)."""
    template = renderer().template
    raw = {**MINIMUM, "environments": ["production"], **answers}
    effective = template.effective(raw)
    plan = {
        "project": {"name": "Test", "slug": "test"},
        "environment_names": effective["environments"],
        "answers": effective,
    }
    return effective, plan


def hosts(**answers: Any) -> dict[str, Any]:
    """Return the hosts section of a plan."""
    template = renderer().template
    effective, plan = base(**answers)
    section: dict[str, Any] = json.loads(template.call("hosts", "hosts", template.catalog, effective, plan))
    return section


def ports(**answers: Any) -> list[dict[str, Any]]:
    """Return the port table of a plan."""
    table: list[dict[str, Any]] = renderer().template.resolve({**MINIMUM, "environments": ["production"], **answers})[
        "ports"
    ]
    return table


def row(table: list[dict[str, Any]], service: str, environment: str = "production") -> dict[str, Any]:
    return next(item for item in table if item["service"] == service and environment in item["environments"])


def host(name: str, *groups: str, environment: str = "production", **more: Any) -> dict[str, Any]:
    return {"name": name, "environment": environment, "groups": list(groups), "address": "10.0.0.9", **more}


def warned(section: dict[str, Any]) -> list[str]:
    return [warning["id"] for warning in section["warnings_hosts"]]


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_placeholders_fill_every_needed_group(topology: str) -> None:
    section = hosts(
        topology=topology, cache="redis", audit_dispatch="atna", monitoring_stack="Prometheus", web_portal=True
    )
    environment = section["environments"][0]
    assert environment["placeholders"]
    assert list(environment["groups"]) == GROUPS
    empty = [group for group, names in environment["groups"].items() if not names]
    assert set(empty) <= {"gateway", "queue"}
    assert all(item["placeholder"] and item["address"].startswith("192.0.2.") for item in section["hosts"])
    assert all(item["internal_fqdn"].endswith(".invalid") for item in section["hosts"])
    assert environment["domain_names"]["api"]["placeholder"]
    assert environment["public_url"] == "https://" + environment["domain_names"]["api"]["fqdn"]
    assert warned(section) == ["hosts.no_trusted_network"]
    expected = {"single_host": 1, "split": 1, "clustered": 2, "role_split_cluster": 3}[topology]
    assert len(environment["groups"]["icdr"]) == expected


def test_placeholder_addresses_differ_between_environments() -> None:
    section = hosts(environments=["development", "training", "staging", "production"], topology="role_split_cluster")
    addresses = [item["address"] for item in section["hosts"]]
    assert len(addresses) == len(set(addresses))


def test_groups_that_are_not_needed_stay_empty() -> None:
    groups = hosts(cache="memory", web_portal=False, topology="split")["environments"][0]["groups"]
    assert groups["cache"] == groups["queue"] == groups["portal"] == groups["audit"] == groups["monitoring"] == []


def test_a_group_that_an_answer_turned_off_has_no_hosts_though_one_lists_it() -> None:
    listed = [host("app", "icdr", "cache"), host("db", "database", "proxy", "backup")]
    section = hosts(cache="memory", topology="split", hosts=listed)
    assert section["environments"][0]["groups"]["cache"] == []
    assert "hosts.group_turned_off.production.app.cache" in warned(section)
    section = hosts(cache="redis", topology="split", hosts=listed)
    assert section["environments"][0]["groups"]["cache"] == ["app"]
    assert not [name for name in warned(section) if name.startswith("hosts.group_turned_off")]


def test_the_only_host_takes_what_nobody_lists() -> None:
    section = hosts(topology="single_host", hosts=[host("one", "icdr")])
    groups = section["environments"][0]["groups"]
    assert groups["database"] == groups["proxy"] == groups["backup"] == ["one"]
    assert "hosts.group_without_host.production.proxy" in warned(section)


def test_the_database_host_takes_what_nobody_lists() -> None:
    section = hosts(topology="split", hosts=[host("app", "icdr", "proxy"), host("db", "database")])
    assert section["environments"][0]["groups"]["backup"] == ["db"]
    assert "hosts.group_without_host.production.backup" in warned(section)
    assert "backup" in next(item for item in section["hosts"] if item["name"] == "db")["groups"]


def test_an_environment_without_hosts_keeps_placeholders() -> None:
    section = hosts(environments=["staging", "production"], hosts=[host("one", "icdr", environment="staging")])
    assert [environment["placeholders"] for environment in section["environments"]] == [False, True]


def test_a_host_without_address_is_a_placeholder() -> None:
    section = hosts(hosts=[{"name": "one", "environment": "production", "groups": ["icdr"]}])
    assert section["hosts"][0]["placeholder"]
    assert "hosts.no_address.production.one" in warned(section)


@pytest.mark.parametrize(
    ("topology", "names", "fits"),
    [
        ("single_host", ["a", "b"], False),
        ("split", ["a"], False),
        ("clustered", ["a", "b"], True),
        ("clustered", ["a"], False),
        ("role_split_cluster", ["a", "b"], False),
        ("role_split_cluster", ["a", "b", "c"], True),
    ],
)
def test_topology_and_hosts_that_do_not_fit_are_a_warning(topology: str, names: list[str], fits: bool) -> None:
    section = hosts(topology=topology, hosts=[host(name, "icdr") for name in names])
    assert ("hosts.topology.production" not in warned(section)) == fits


def test_application_servers_take_roles_by_name_then_by_order() -> None:
    section = hosts(
        topology="role_split_cluster",
        hosts=[host("x1", "icdr"), host("bis-1", "icdr"), host("x2", "icdr"), host("x3", "icdr")],
    )
    roles = {item["name"]: item["icdr_role"] for item in section["hosts"]}
    assert roles == {"x1": "ami", "bis-1": "bis", "x2": "hdsi", "x3": "hdsi"}
    assert section["environments"][0]["icdr_split"]


def test_two_servers_of_a_role_split_cluster_serve_everything() -> None:
    section = hosts(topology="role_split_cluster", hosts=[host("a", "icdr"), host("b", "icdr")])
    assert {item["icdr_role"] for item in section["hosts"]} == {"all"}


def test_the_first_database_host_is_the_primary() -> None:
    section = hosts(
        topology="split",
        database_failover="streaming_replication",
        hosts=[host("app", "icdr"), host("d2", "database"), host("d1", "database")],
    )
    environment = section["environments"][0]
    assert environment["database_servers"]["main"] == ["d2", "d1"]
    assert [item["database_role"] for item in section["hosts"]] == [None, "primary", "standby"]
    assert environment["standbys"] == 1


def test_separate_servers_by_name_and_by_order() -> None:
    listed = [
        host("app", "icdr"),
        host("d1", "database"),
        host("db-audit", "database"),
        host("d3", "database"),
        host("d4", "database"),
    ]
    servers = hosts(database_placement="separate_servers", hosts=listed)["environments"][0]["database_servers"]
    assert servers == {"main": ["d1", "d4"], "audit": ["db-audit"], "pubsub": ["d3"]}


def test_too_few_database_hosts_are_a_warning() -> None:
    section = hosts(database_placement="separate_servers", read_replicas=2, hosts=[host("one", "icdr", "database")])
    assert {"hosts.database_servers.production", "hosts.database_standby.production"} <= set(warned(section))
    assert section["environments"][0]["database_servers"]["audit"] == ["one"]


def test_names_given_and_names_made_up() -> None:
    names = [{"environment": "production", "purpose": "api", "fqdn": "api.example.org", "public": True}]
    found = hosts(web_portal=True, domain_names=names)["environments"][0]["domain_names"]
    assert found["api"] == {"fqdn": "api.example.org", "public": True, "placeholder": False}
    assert found["portal"]["fqdn"].endswith(".invalid")
    assert not found["portal"]["public"]


def test_a_name_for_what_the_plan_lacks_is_a_warning() -> None:
    section = hosts(
        web_portal=False, domain_names=[{"environment": "production", "purpose": "portal", "fqdn": "p.example.org"}]
    )
    assert warned(section) == ["hosts.unused_name.production.portal", "hosts.no_trusted_network"]


def test_gateways_are_the_sites_of_production() -> None:
    sites = [
        {"name": "Clinic North", "code": "N1", "link": "slow"},
        {"name": "Clinic South", "code": "n1"},
        {"name": "Tablet post", "pattern": "android_app"},
    ]
    section = hosts(offline=True, offline_patterns=["dcdr_gateway", "android_app"], sites=sites)
    assert [gateway["name"] for gateway in section["gateways"]] == ["gateway-n1", "gateway-n1-2"]
    assert section["gateways"][0]["optimization"] == "lzma"
    assert section["gateway_environments"] == ["production"]
    assert (
        hosts(environments=["staging"], offline=True, offline_patterns=["dcdr_gateway"], sites=sites)["gateways"] == []
    )


def test_a_thousand_sites_stay_cheap() -> None:
    def seconds(count: int) -> float:
        sites = [{"name": f"Clinic {number}", "code": f"C{number}"} for number in range(count)]
        raw = {"offline": True, "offline_patterns": ["dcdr_gateway"], "sites": sites}
        hosts(**raw)
        best = 9.0
        for _ in range(3):
            start = time.perf_counter()
            assert len(hosts(**raw)["gateways"]) == count
            best = min(best, time.perf_counter() - start)
        return best

    # Linear: a hundred times the sites cost no more than a hundred times ten of them, and well under a second.
    assert seconds(1000) < max(1.5, 100 * seconds(10))


@pytest.mark.parametrize("name", PLAN_NAMES)
def test_nothing_internal_is_open_to_everybody(name: str) -> None:
    for item in renderer().template.resolve(load_plan(name))["ports"]:
        if item["group"] in ("icdr", "database", "cache", "queue", "portal", "audit", "backup", "monitoring"):
            assert {"any": True} not in item["from"], item
        if item["group"] == "database" and item["service"] == "postgresql":
            assert {source.get("group") for source in item["from"]} <= {"icdr", "backup", "database"}
        if item["group"] == "portal":
            assert {source.get("group") for source in item["from"]} <= {"proxy", "monitoring"}


def test_a_public_name_opens_the_proxy_to_everybody() -> None:
    names = [{"environment": "production", "purpose": "api", "fqdn": "api.example.org", "public": True}]
    assert row(ports(domain_names=names), "https")["from"] == [{"any": True}]
    behind = row(ports(domain_names=names, tls_termination="load_balancer"), "https")
    assert {"any": True} not in behind["from"]


def test_a_private_name_admits_trusted_networks_and_partners() -> None:
    table = ports(
        networks=[
            {"name": "office", "cidr": "10.1.0.0/16", "trusted": True},
            {"name": "guests", "cidr": "10.2.0.0/16", "trusted": False},
        ],
        connected_systems=[
            {"name": "HIS", "standards": ["fhir_r4"], "source_network": "10.9.0.0/24"},
            {"name": "Lab", "standards": ["fhir_r4"], "source_network": "10.8.0.0/24", "direction": "outbound"},
        ],
    )
    sources = [source["cidr"] for source in row(table, "https")["from"] if "cidr" in source]
    assert sources == ["10.1.0.0/16", "10.9.0.0/24"]


def test_known_hl7_senders_alone_reach_the_stream() -> None:
    names = [{"environment": "production", "purpose": "hl7", "fqdn": "hl7.example.org", "public": True}]
    standards = ["fhir_r4", "hl7v2_sllp", "openid_connect", "hdsi", "ami", "bis"]
    known = [{"name": "HIS", "standards": ["hl7v2_sllp"], "source_network": "198.51.100.0/24"}]
    unknown = [{"name": "HIS", "standards": ["hl7v2_sllp"]}]
    closed = ports(standards=standards, domain_names=names, connected_systems=known)
    assert row(closed, "hl7v2-tls")["from"] == [{"partner": "HIS", "cidr": "198.51.100.0/24"}]
    assert row(closed, "hl7v2-llp")["from"] == [{"group": "proxy"}]
    opened = ports(standards=standards, domain_names=names, connected_systems=unknown)
    assert row(opened, "hl7v2-tls")["from"] == [{"any": True}]


def test_secure_shell_follows_the_way_administrators_come() -> None:
    networks = [
        {"name": "office", "cidr": "10.1.0.0/16", "trusted": True},
        {"name": "remote", "cidr": "10.2.0.0/16", "trusted": True, "purpose": "VPN of administrators"},
    ]
    by_vpn = row(ports(networks=networks, remote_access=["vpn"]), "ssh")["from"]
    assert [source["cidr"] for source in by_vpn] == ["10.2.0.0/16"]
    at_the_console = row(ports(networks=networks, remote_access=["none"]), "ssh")["from"]
    assert [source["cidr"] for source in at_the_console] == ["10.1.0.0/16", "10.2.0.0/16"]
    assert row(ports(), "ssh")["from"] == [{"any": True}]


@pytest.mark.parametrize("trusted", [True, False])
def test_documents_say_whom_secure_shell_admits(trusted: bool) -> None:
    """Without a trusted network the hosts answer everybody: warning, risk and architecture say so, whatever was planned."""
    answers = {
        **MINIMUM,
        "remote_access": ["vpn"],
        "networks": [{"name": "vpn", "cidr": "10.2.0.0/16", "trusted": trusted}],
    }
    plan = renderer().template.resolve(answers)
    names = ["docs/threat-risk-assessment.md.jinja", "docs/operational-architecture.md.jinja"]
    risks, architecture = (renderer().render(answers, [name])[name.removesuffix(".jinja")] for name in names)
    open_to_all = not trusted
    assert plan["access"]["ssh_from"] == ("every address" if open_to_all else "vpn (10.2.0.0/16)")
    assert ("hosts.no_trusted_network" in [warning["id"] for warning in plan["warnings"]]) is open_to_all
    assert ("secure shell of every host" in risks) is open_to_all
    assert ("#### V34" in risks) is open_to_all
    assert ("| all | every host, port 22 |" in architecture) is open_to_all
    assert all(f"admits {plan['access']['ssh_from']}" in text for text in (risks, architecture))


def test_replication_opens_the_database_to_its_standbys_only_where_there_are_some() -> None:
    assert {"group": "database"} in row(ports(database_failover="streaming_replication"), "postgresql")["from"]
    assert {"group": "database"} not in row(ports(), "postgresql")["from"]


def test_every_secret_of_the_infrastructure_is_listed_once() -> None:
    plan = renderer().template.resolve(load_plan("demoland-mpi"))
    names = [secret["name"] for secret in plan["vault_variables"] if secret["environment"] == "all"]
    assert len(names) == len(set(names))
    assert "vault_partner_openhim_application_secret" in names
    assert all(name.startswith("vault_") for name in names)
