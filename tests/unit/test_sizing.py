"""Sizing: the documents' rules in numbers, and the hosts that fall short."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import MINIMUM, renderer


def plan(**answers: Any) -> dict[str, Any]:
    resolved: dict[str, Any] = renderer().template.resolve({**MINIMUM, "environments": ["production"], **answers})
    return resolved


def sizing(**answers: Any) -> dict[str, Any]:
    found: dict[str, Any] = plan(**answers)["sizing"]
    return found


def server(name: str, *groups: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "environment": "production", "groups": list(groups), "address": "10.0.0.5", **more}


@pytest.mark.parametrize(
    ("clients", "icdr_vcpu", "icdr_ram", "database_vcpu", "database_ram"),
    [
        (1, 2, 4, 4, 2),
        (4, 2, 4, 4, 2),
        (20, 5, 6, 10, 5),
        (21, 6, 6, 12, 6),
        (40, 10, 8, 20, 10),
        (400, 100, 8, 200, 100),
    ],
)
def test_rules(clients: int, icdr_vcpu: int, icdr_ram: int, database_vcpu: int, database_ram: int) -> None:
    found = sizing(concurrent_clients=clients)
    assert (found["icdr_vcpu"], found["icdr_ram_gb"], found["database_vcpu"], found["database_ram_gb"]) == (
        icdr_vcpu,
        icdr_ram,
        database_vcpu,
        database_ram,
    )


@pytest.mark.parametrize(
    ("topology", "servers", "each"), [("split", 1, 10), ("clustered", 2, 5), ("role_split_cluster", 3, 4)]
)
def test_a_cluster_shares_the_load(topology: str, servers: int, each: int) -> None:
    found = sizing(concurrent_clients=40, topology=topology, cache="redis")
    assert (found["icdr_hosts"], found["icdr_vcpu_each"]) == (servers, each)


def test_disk_follows_the_records_and_says_where_the_figure_is_from() -> None:
    found = sizing(initial_records=1_000_000, records_per_year=200_000, planning_horizon_years=5)
    assert found["records"] == 2_000_000
    assert found["records_disk_gb"] == pytest.approx(95.4)
    assert found["database_disk_gb"] == 191 + 20
    texts = {rule["id"]: rule["text"] for rule in found["rules"]}
    assert "OpenIZ" in texts["disk_records"]
    assert "No figure" in texts["disk_audits"]
    assert found["audit_disk_gb"] is None


def test_no_figure_is_made_up_without_records() -> None:
    assert sizing()["database_disk_gb"] is None


@pytest.mark.parametrize(("users", "people"), [(None, None), (1, 1), (100, 1), (101, 2), (2600, 26)])
def test_support_staff(users: int | None, people: int | None) -> None:
    assert sizing(named_users=users)["support_staff"] == people


def test_every_rule_names_its_source_or_says_it_is_ours() -> None:
    for rule in sizing()["rules"]:
        assert rule["basis"] in ("documents", "ours")
        assert (rule["source"] is None) == (rule["basis"] == "ours")


def test_shortfalls_are_warnings_and_name_the_host() -> None:
    resolved = plan(
        concurrent_clients=40,
        hosts=[
            server("app", "icdr", "proxy", "backup", "portal", "cache", vcpu=4, ram_gb=16, disk_gb=100),
            server("db", "database", vcpu=20, ram_gb=32, disk_gb=100),
        ],
    )
    assert resolved["sizing"]["shortfalls"] == [
        {"environment": "production", "host": "app", "what": "vcpu", "has": 4, "needs": 12}
    ]
    assert "sizing.production.app.vcpu" in [warning["id"] for warning in resolved["warnings"]]


def test_placeholders_fall_short_of_nothing() -> None:
    assert sizing(concurrent_clients=4000)["shortfalls"] == []


def test_postgresql_settings_follow_the_server() -> None:
    small = sizing(concurrent_clients=40)["postgresql"]
    application = server("app", "icdr", "proxy", "backup", "portal", "cache")
    large = sizing(concurrent_clients=40, hosts=[server("db", "database", ram_gb=64), application])["postgresql"]
    shared = sizing(concurrent_clients=40, topology="single_host", cache="memory", hosts=[server("all", ram_gb=32)])[
        "postgresql"
    ]
    assert small["shared_buffers_mb"] == 10 * 1024 // 4
    assert (large["shared_buffers_mb"], large["effective_cache_size_mb"]) == (64 * 1024 // 4, 48 * 1024)
    assert shared["shared_buffers_mb"] == (32 - 8 - 2) * 1024 // 4


def test_connections_hold_every_pool() -> None:
    resolved = plan(topology="clustered", cache="redis")
    pools = sum(
        database["pool"]["maximum"]
        for database in resolved["databases"]
        if database["server"] == "main" and database["connection"]
    )
    assert resolved["sizing"]["postgresql"]["max_connections"] >= pools * 2
