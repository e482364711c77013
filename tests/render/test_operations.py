"""Audit, retention, backup, monitoring and access: what the plan says, and what policy and collector make of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2 import Environment, StrictUndefined

from tests.support import MINIMUM, PLAN_NAMES, load_plan, renderer

SOURCES = tuple(source for source in renderer().sources if source.startswith("audit/"))
STCP: dict[str, Any] = {
    "audit_dispatch": "atna",
    "audit_atna": {"endpoint": "audit.example.org:6514", "transport": "stcp", "format": "dicom"},
}

Plan = dict[str, Any]


def plan_of(answers: dict[str, Any]) -> Plan:
    plan: Plan = renderer().template.resolve({**MINIMUM, **answers})
    return plan


def files_of(answers: dict[str, Any]) -> dict[str, str]:
    return renderer().render({**MINIMUM, **answers}, SOURCES)


@cache
def named(name: str) -> tuple[Plan, dict[str, str]]:
    return plan_of(load_plan(name)), files_of(load_plan(name))


@pytest.mark.parametrize("name", PLAN_NAMES)
def test_policy_states_what_the_plan_decided(name: str) -> None:
    """Audit retention is in the policy of every plan: without it SanteDB deletes audits after 30 days."""
    plan, files = named(name)
    policy = yaml.safe_load(files["audit/policy.yml"])
    days = plan["answers"]["audit_retention_days"]
    assert policy["retention"] == {
        "days": days,
        "security_policy": "audit.retention",
        "value": f"P{days}D",
        **({"collector_files_days": days} if plan["audit_collectors"] else {}),
    }
    assert [event["id"] for event in policy["events"] if event["required"]] == [
        event["id"] for event in policy["events"] if event["id"] in plan["answers"]["audit_events"]
    ]
    assert {event["id"] for event in policy["events"]} == set(
        renderer().template.catalog["questions"]["audit_events"]["allowed"]
    )
    assert set(policy["environments"]) == set(plan["environment_names"])
    sites = [environment["enterprise_site"] for environment in policy["environments"].values()]
    assert len(sites) == len(set(sites)), "two environments would look alike in the audits"
    assert all(item["what"] and item["where"] for item in policy["minimum_content"])


@pytest.mark.parametrize("name", PLAN_NAMES)
def test_nothing_but_successful_network_events_is_dropped(name: str) -> None:
    dropping = [
        filter_ for filter_ in named(name)[0]["audit"]["filters"] if not (filter_["insert"] and filter_["ship"])
    ]
    dropped = [] if named(name)[0]["answers"]["audit_complete_trail"] else [("network", "ok")]
    assert [(filter_["event"], filter_["outcome"]) for filter_ in dropping] == dropped


@pytest.mark.parametrize("complete", [True, False])
def test_santedb_s_configuration_has_the_policy_s_filters(complete: bool) -> None:
    answers = {**MINIMUM, "audit_complete_trail": complete}
    source = [source for source in renderer().sources if "santedb.audit_accountability.config.xml" in source]
    text = renderer().render(answers, source)["santedb/production/config/santedb.audit_accountability.config.xml"]
    found = [dict(re.findall(r'([a-z]+)="([^"]*)"', element)) for element in re.findall(r"<add (.*?) ?/>", text)]
    found = [filter_ for filter_ in found if "insert" in filter_]
    expected = [
        {
            key: str(value).lower() if isinstance(value, bool) else value
            for key, value in filter_.items()
            if value != "" and key != "reason"
        }
        for filter_ in plan_of(answers)["audit"]["filters"]
    ]
    assert found == expected
    assert any(filter_["insert"] == "false" for filter_ in found) is not complete


def test_events_left_out_are_still_audited() -> None:
    assert plan_of({"audit_events": ["login"]})["audit"]["filters"] == plan_of({})["audit"]["filters"]
    policy = yaml.safe_load(files_of({"audit_events": ["login"]})["audit/policy.yml"])
    assert [event["id"] for event in policy["events"] if event["required"]] == ["login"]


def test_application_servers_send_to_their_own_collector_which_passes_on() -> None:
    plan, files = named("demoland-mpi")
    assert plan["audit"]["target"]["production"] == "stcp://prd-ops.ndc.example.org:6514"
    assert plan["audit"]["forward"]["production"]["host"] == "audit.hie.demoland.example.org"
    collector = files["audit/production/collector.conf.j2"]
    assert 'target="audit.hie.demoland.example.org"' in collector
    assert "prd-app.ndc.example.org" in collector
    assert "stg-app" not in collector


def test_a_collector_that_is_the_end_point_passes_nothing_on() -> None:
    answers = load_plan("demoland-mpi")
    answers["audit_atna"] = {**answers["audit_atna"], "endpoint": "prd-ops.ndc.example.org:6514"}
    plan = plan_of(answers)
    assert plan["audit"]["forward"]["production"] is None
    assert plan["audit"]["forward"]["staging"] is not None
    assert "omfwd" not in files_of(answers)["audit/production/collector.conf.j2"]
    held = {(entry["environment"], entry["purpose"]) for entry in plan["certificates"]}
    assert ("staging", "audit_forward") in held
    assert ("production", "audit_forward") not in held


def test_without_dispatch_there_is_no_collector() -> None:
    assert [path for path in files_of({"audit_dispatch": "none"}) if "collector" in path] == []


@pytest.mark.parametrize("transport", ["stcp", "tcp", "udp"])
def test_collector_listens_as_the_application_servers_send(transport: str) -> None:
    files = files_of({**STCP, "audit_atna": {**STCP["audit_atna"], "transport": transport}})
    collector = filled_in(files["audit/production/collector.conf.j2"])
    assert ("x509/name" in collector) == (transport == "stcp")
    assert ('type="imudp"' in collector) == (transport == "udp")
    assert "{{" not in collector


def filled_in(text: str, **variables: Any) -> str:
    """What the role makes of a collector's configuration."""
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters["to_json"] = json.dumps
    return environment.from_string(text).render(**variables)


RSYSLOGD = shutil.which("rsyslogd", path="/usr/sbin:/usr/bin")
# With CI=true it is not skipped but fails: tools/setup-test-packages installs it there.
needs_rsyslog = pytest.mark.skipif(
    RSYSLOGD is None and os.environ.get("CI") != "true", reason="rsyslogd is missing: apt-get install rsyslog"
)


@needs_rsyslog
def test_rsyslog_accepts_the_collector(tmp_path: Path) -> None:
    text = filled_in(files_of(load_plan("demoland-mpi"))["audit/production/collector.conf.j2"])
    (tmp_path / "collector.conf").write_text(text.replace("/etc/santedb/tls/", f"{tmp_path}/"), encoding="utf-8")
    certificate = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-noenc", "-subj", "/CN=collector"]
    certificate += ["-keyout", str(tmp_path / "audit_collector.key"), "-out", str(tmp_path / "audit_collector.crt")]
    subprocess.run(certificate, check=True, capture_output=True)
    shutil.copy(tmp_path / "audit_collector.crt", tmp_path / "ca.crt")
    assert RSYSLOGD, "rsyslogd is missing: tools/setup-test-packages"
    done = subprocess.run(
        [RSYSLOGD, "-N1", "-f", tmp_path / "collector.conf"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_people_set_what_the_collector_admits() -> None:
    text = files_of(load_plan("demoland-mpi"))["audit/production/collector.conf.j2"]
    changed = filled_in(text, audit_port=7514, audit_allowed_peers=["a.example.org"], audit_tls_priority="SECURE256")
    assert 'port="7514"' in changed
    assert '["a.example.org"]' in changed
    assert '"SECURE256"' in changed


@pytest.mark.parametrize(
    ("answers", "physical"),
    [
        ({"backup_methods": ["database_dump"], "backup_interval_hours": 24, "rpo_hours": 24}, False),
        ({"backup_methods": ["physical_wal"], "backup_interval_hours": 24, "rpo_hours": 24}, True),
        ({"backup_methods": ["database_dump", "physical_wal"], "backup_interval_hours": 24, "rpo_hours": 1}, True),
    ],
)
def test_physical_backup_when_asked_for_or_needed(answers: dict[str, Any], physical: bool) -> None:
    assert plan_of(answers)["backup"]["physical"] is physical


def test_backup_saves_what_a_database_copy_is_useless_without() -> None:
    ids = {component["id"] for component in plan_of({})["backup"]["components"]}
    assert {"databases", "keys", "configuration", "secrets"} <= ids
    assert plan_of({})["backup"]["not_used"] == "ServerBackupJob"


def test_a_plan_without_a_target_says_so() -> None:
    plan = plan_of({"backup_targets": []})
    assert plan["backup"]["targets_derived"]
    assert plan["backup"]["targets"]
    assert "operations.no_backup_target" in [warning["id"] for warning in plan["warnings"]]


def test_clinical_retention_is_done_by_people_on_3x() -> None:
    rule = {
        "name": "old",
        "applies_to": "Act",
        "include": "x=1",
        "exclude": "x=2",
        "action": "obsolete",
        "legal_basis": "law",
    }
    plan = plan_of({"retention_rules": [rule]})
    assert [found["carried_out_by"] for found in plan["retention"]["clinical_rules"]] == ["people"]
    assert "operations.retention_by_people" in [warning["id"] for warning in plan["warnings"]]


@pytest.mark.parametrize("name", PLAN_NAMES)
def test_probes_ask_only_ports_of_the_plan(name: str) -> None:
    plan, _ = named(name)
    opened = {(port["group"], port["port"]) for port in plan["ports"]}
    for probe in plan["monitoring"]["probes"]:
        if any(environment["groups"][probe["group"]] for environment in plan["environments"]):
            assert (probe["group"], probe["port"]) in opened, probe["id"]


@pytest.mark.parametrize(
    ("answers", "section", "key", "value"),
    [
        ({"log_retention_days": 90}, "retention", "log_days", 90),
        ({"restore_drill_months": 6}, "backup", "drill_months", 6),
        ({"monitoring_stack": "Zabbix"}, "monitoring", "stack", "Zabbix"),
        ({"remote_access": ["ssh_bastion"]}, "access", "remote_access", ["ssh_bastion"]),
        ({"existing_services": ["siem"]}, "monitoring", "ship_logs_to", "siem"),
        ({"audit_complete_trail": True}, "audit", "complete_trail", True),
        ({"audit_store": "santeguard"}, "audit", "store", "santeguard"),
    ],
)
def test_answers_reach_their_section(answers: dict[str, Any], section: str, key: str, value: Any) -> None:
    assert plan_of(answers)[section][key] == value


def test_a_central_audit_repository_receives_audits() -> None:
    """C42: the audit repository's port is open to sources, over TLS, with a certificate of its own, and watched."""
    plan, _ = named("audit-repository")
    assert {11514, 11515} <= {probe["port"] for probe in plan["monitoring"]["probes"]}
    assert "audit_receiver_silence" in [alert["id"] for alert in plan["monitoring"]["alerts"]]
    assert not {11514, 11515} & {probe["port"] for probe in named("demoland-mpi")[0]["monitoring"]["probes"]}
    assert [port for port in plan["ports"] if port["service"] == "audit-syslog-tls" and port["tls"]]
    assert [entry for entry in plan["certificates"] if entry["purpose"] == "audit_receiver"]


def test_an_application_server_of_a_split_cluster_is_asked_for_what_it_has() -> None:
    """Each probe of an application server names the roles whose features bring its end point."""
    plan = renderer().template.resolve({**load_plan("demoland-mpi"), "topology": "role_split_cluster", "hosts": []})
    environment = next(item for item in plan["environments"] if item["icdr_split"])
    hosts = {host["name"]: host["icdr_role"] for host in plan["hosts"] if host["environment"] == environment["name"]}
    features = {
        hosts[name]: values["SDB_FEATURE"].split(";") for name, values in environment["icdr_host_environment"].items()
    }
    needed = {"/hdsi/": "HDSI", "/ami/": "AMI", "/bis/": "BIS", "/auth": "OPENID", "/fhir": "FHIR", "connect": "HL7"}
    probes = [probe for probe in plan["monitoring"]["probes"] if probe["group"] == "icdr"]
    assert {role for probe in probes for role in probe["runs_on"]} == {"ami", "hdsi", "bis"}
    for probe in probes:
        feature = next(name for text, name in needed.items() if text in probe["request"])
        assert all(feature in features[role] for role in probe["runs_on"]), probe["id"]
    assert not any("runs_on" in probe for probe in named("demoland-mpi")[0]["monitoring"]["probes"])
