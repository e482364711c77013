"""The certificate register: complete for every plan, requests OpenSSL accepts, and never a private key."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import MINIMUM, PLAN_NAMES, load_plan, renderer

SOURCES = tuple(source for source in renderer().sources if source.startswith("certificates/"))

# The certificate that a TLS port of the plan shows, by the port's service.
PORTS = {
    "https": "proxy",
    "hl7v2-tls": "hl7",
    "audit-syslog-tls": "audit_receiver",
    "audit-collector": "audit_collector",
    "postgresql": "database",
    "santedb-dcg": "gateway",
}

NAMES = "utf8,sep_multiline"

Entry = dict[str, Any]


@cache
def named(name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The resolved plan and the certificate files of a named plan."""
    return rendered(load_plan(name))


def rendered(answers: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    plan = renderer().template.resolve(answers)
    return plan, renderer().render(answers, SOURCES)


def register(answers: dict[str, Any]) -> list[Entry]:
    entries: list[Entry] = renderer().template.resolve({**MINIMUM, **answers})["certificates"]
    return entries


def purposes(answers: dict[str, Any], environment: str = "production") -> list[str]:
    return [entry["purpose"] for entry in register(answers) if entry["environment"] == environment]


@pytest.mark.parametrize("name", PLAN_NAMES)
def test_register_is_complete_and_consistent(name: str) -> None:
    plan, files = named(name)
    entries = plan["certificates"]
    written = yaml.safe_load(files["certificates/register.yml"])["certificates"]
    assert [entry["id"] for entry in written] == [entry["id"] for entry in entries]
    assert len({entry["id"] for entry in entries}) == len(entries)

    hosts = {(host["environment"], host["name"]) for host in plan["hosts"]}
    requests = {entry["request"] for entry in entries if entry["request"]}
    assert requests == {path for path in files if path.endswith(".cnf")}
    for entry in entries:
        assert len(entry["sans"]) == len(set(entry["sans"])), entry["id"]
        assert entry["kind"] != "server" or entry["sans"], f"{entry['id']} proves no name"
        assert entry["renew_before_days"] < entry["lifetime_days"], entry["id"]
        assert all(entry[field] for field in ("owner", "renewal", "why")), entry["id"]
        assert max(len(entry["subject"]["cn"]), len(entry["subject"]["o"])) <= 64, entry["id"]
        for host in entry["installed_on"]:
            assert (entry["environment"], host) in hosts, entry["id"]
        if entry["kind"] == "server":
            assert entry["lifetime_days"] <= 397
            assert "serverAuth" in entry["extended_key_usage"]


@pytest.mark.parametrize("name", PLAN_NAMES)
def test_every_tls_port_has_a_server_certificate(name: str) -> None:
    plan, _ = named(name)
    services = {port["service"] for port in plan["ports"] if port["tls"] and not port["service"].startswith("ssh")}
    assert services <= set(PORTS), f"a TLS port nobody gave a certificate: {services - set(PORTS)}"
    held: dict[str, set[str]] = {}
    for entry in plan["certificates"]:
        held.setdefault(entry["purpose"], set()).update([entry["environment"]])
    for service in services:
        if service == "santedb-dcg":
            assert "production" in held["gateway"]
            continue
        group = next(port["group"] for port in plan["ports"] if port["service"] == service)
        for environment in plan["environments"]:
            if environment["groups"][group]:
                assert environment["name"] in held[PORTS[service]], f"{service} in {environment['name']}"


@pytest.mark.parametrize("name", PLAN_NAMES)
def test_whoever_ships_audits_over_tls_has_a_client_certificate(name: str) -> None:
    plan, _ = named(name)
    for environment in plan["environments"]:
        target = plan["audit"]["target"][environment["name"]]
        senders = {
            host
            for entry in plan["certificates"]
            if entry["purpose"] == "audit_sender" and entry["environment"] == environment["name"]
            for host in entry["installed_on"]
        }
        expected = set(environment["groups"]["icdr"]) if (target or "").startswith("stcp://") else set()
        assert senders == expected


@pytest.mark.parametrize("name", PLAN_NAMES)
def test_environments_share_no_authority_and_production_has_signing_keys(name: str) -> None:
    """C04: tokens of one application server are valid on the next: production's signing keys are set and equal."""
    plan, _ = named(name)
    for environment in plan["environments"]:
        here = [entry for entry in plan["certificates"] if entry["environment"] == environment["name"]]
        assert sum(entry["purpose"] == "ca" for entry in here) == 1
        signing = {entry["purpose"]: entry["installed_on"] for entry in here if entry["kind"] == "signing"}
        everywhere = environment["groups"]["icdr"]
        wanted = {"signing_default": everywhere, "signing_jwsdefault": everywhere} if environment["production"] else {}
        assert signing == wanted


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One key for all requests: making a key each would only measure this machine's patience."""
    path = tmp_path_factory.mktemp("key") / "any.pem"
    subprocess.run(["openssl", "genpkey", "-quiet", "-algorithm", "RSA", "-out", path], check=True, capture_output=True)
    return path


def request(text: str, key: Path, directory: Path) -> str:
    """Return OpenSSL's description of the request that the configuration ``text`` gives."""
    (directory / "request.cnf").write_text(text, encoding="utf-8")
    made = subprocess.run(
        ["openssl", "req", "-new", "-config", "request.cnf", "-key", key, "-text", "-noout", "-nameopt", NAMES],
        cwd=directory, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert made.returncode == 0, f"{text}\n{made.stderr}"
    return made.stdout


@pytest.mark.parametrize("name", ["demoland-mpi", "district-ims-offline", "island-shr-clustered", "audit-repository"])
def test_openssl_accepts_every_request(name: str, key: Path, tmp_path: Path) -> None:
    plan, files = named(name)
    for entry in plan["certificates"]:
        if entry["request"] is None:
            continue
        text = request(files[entry["request"]], key, tmp_path)
        for san in entry["sans"]:
            shown = san.replace("IP:", "IP Address:").replace("<site code>", "site-code")
            assert shown in text, f"{entry['id']} does not ask for {san}"
        assert ("CA:TRUE" if entry["kind"] == "ca" else "CA:FALSE") in text
        if "<" not in entry["subject"]["cn"]:
            assert f"CN={entry['subject']['cn']}" in text


def test_new_keys_are_made_as_the_request_says(tmp_path: Path) -> None:
    _, files = named("demoland-mpi")
    for path in ("certificates/production/production-proxy.cnf", "certificates/production/production-ca.cnf"):
        (tmp_path / "request.cnf").write_text(files[path], encoding="utf-8")
        subprocess.run(
            ["openssl", "req", "-new", "-newkey", "rsa:3072", "-nodes", "-keyout", "k", "-config", "request.cnf"],
            cwd=tmp_path, check=True, capture_output=True,
        )  # fmt: skip


def test_names_with_characters_openssl_gives_a_meaning_to(key: Path, tmp_path: Path) -> None:
    organization = """O'Neill & "Söhne" $HOME #1 \\ Ministère"""
    answers = {**MINIMUM, "organization": organization}
    _, files = rendered(answers)
    text = request(files["certificates/production/production-proxy.cnf"], key, tmp_path)
    assert f"O={organization}" in text


def test_a_pattern_takes_the_site_from_the_environment(
    key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, files = named("district-ims-offline")
    entry = next(entry for entry in plan["certificates"] if entry["purpose"] == "gateway")
    assert entry["pattern"]
    assert entry["count"] == len(plan["gateways"])
    monkeypatch.setenv("SITE_CODE", "HILL")
    assert "CN=gateway-HILL" in request(files[entry["request"]], key, tmp_path)


def test_no_private_key_is_rendered() -> None:
    for name in PLAN_NAMES:
        assert not [path for path, text in named(name)[1].items() if "PRIVATE KEY" in text]


@pytest.mark.parametrize(
    ("answers", "purpose", "present"),
    [
        ({"roles": ["mfr"]}, "hl7", False),
        ({"standards": ["fhir_r4", "hl7v2_sllp", "openid_connect", "hdsi", "ami", "bis"]}, "hl7", True),
        ({"encryption_at_rest": ["full_disk"]}, "ale", False),
        ({"encryption_at_rest": ["full_disk", "ale"]}, "ale", True),
        ({"runtime": "native", "configuration_encryption": True}, "configuration", True),
        ({"configuration_encryption": True}, "configuration", False),
        ({"roles": ["audit_repository"]}, "audit_receiver", True),
        ({"roles": ["cdr"]}, "audit_receiver", False),
        ({"tls_termination": "load_balancer"}, "load_balancer", True),
        ({"device_authentication": "client_certificate"}, "clients_ca", True),
        ({"client_certificate_scope": "none"}, "clients_ca", False),
        (
            {"topology": "clustered", "cache": "redis", "database_failover": "streaming_replication"},
            "database_replication",
            True,
        ),
        ({"topology": "split", "database_failover": "none"}, "database_replication", False),
        (
            {"applet_signing": "have_key", "publisher_certificate": {"subject": "CN=Demo", "thumbprint": "A" * 40}},
            "publisher",
            True,
        ),
    ],
)
def test_register_follows_the_answers(answers: dict[str, Any], purpose: str, present: bool) -> None:
    assert (purpose in purposes(answers)) is present


def test_partners_hold_a_certificate_where_the_plan_asks_for_one() -> None:
    system = {"name": "Lab", "standards": ["fhir_r4"], "direction": "inbound", "application_name": "LAB"}
    by_choice = {**system, "authentication": "client_certificate"}
    by_secret = {**system, "authentication": "client_secret"}
    assert "partner" in purposes({"connected_systems": [by_choice]})
    assert "partner" not in purposes({"connected_systems": [by_secret]})
    entries = register({"connected_systems": [by_secret], "client_certificate_scope": "all_rest_apis"})
    (partner,) = (entry for entry in entries if entry["purpose"] == "partner" and entry["environment"] == "production")
    assert (partner["key_origin"], partner["maps_to"], partner["uses"]) == ("partner", "LAB", ["rest"])
    assert partner["subject"]["o"] != "National Laboratory"
    owned = register({"connected_systems": [{**by_choice, "owner": "National\nLaboratory"}]})
    organizations = {entry["subject"]["o"] for entry in owned if entry["purpose"] == "partner"}
    assert organizations == {"National Laboratory"}
    twins = [
        entry["id"]
        for entry in register({"connected_systems": [by_choice, by_choice]})
        if entry["purpose"] == "partner"
    ]
    assert len(twins) == len(set(twins))


@pytest.mark.parametrize(("source", "days"), [("public_ca", 90), ("national_ca", 365), ("self_signed", 90)])
def test_issuer_and_lifetime_follow_the_source(source: str, days: int) -> None:
    proxy = next(entry for entry in register({"tls_certificate_source": source}) if entry["purpose"] == "proxy")
    assert (proxy["issuer"], proxy["lifetime_days"]) == (source, days)


def test_an_own_authority_is_the_one_kept_with_the_repository() -> None:
    """What others issue is requested; with an authority of its own, nothing is: the repository signs everything."""
    answers = {
        "client_certificate_scope": "oauth_only",
        "connected_systems": [{"name": "Lab", "standards": ["fhir_r4"], "direction": "inbound"}],
    }

    def issuers(source: str) -> dict[str, tuple[str, bool]]:
        entries = register({**answers, "tls_certificate_source": source})
        return {
            entry["purpose"]: (entry["issuer"], entry["automated"])
            for entry in entries
            if entry["environment"] == "production"
            and entry["purpose"] in ("proxy", "partner", "clients_ca", "database")
        }

    kept, partner = ("environment_ca", True), ("environment_ca", False)
    assert issuers("organization_ca") == {"proxy": kept, "partner": partner, "clients_ca": kept, "database": kept}
    outside = ("national_ca", False)
    assert issuers("national_ca") == {"proxy": outside, "partner": outside, "clients_ca": outside, "database": kept}
    public = ("public_ca", False)
    assert issuers("public_ca") == {"proxy": public, "partner": partner, "clients_ca": kept, "database": kept}


def test_a_native_installation_has_its_keys_in_its_program_s_directory() -> None:
    for runtime, folder in (("native", "/opt/santesuite/santedb/server"), ("containers", "/santedb")):
        signing = next(entry for entry in register({"runtime": runtime}) if entry["purpose"] == "signing_default")
        assert signing["path_key"] == f"{folder}/.x509/<THUMBPRINT>.pfx"


def test_the_person_who_renews_owns_what_others_issue() -> None:
    contact = {"renewal_owner": "Samuel", "order_reference": "42", "issuer": "Gov CA", "automated_renewal": True}
    entries = register({"tls_certificate_source": "national_ca", "certificate_contact": contact})
    proxy = next(entry for entry in entries if entry["purpose"] == "proxy")
    assert (proxy["owner"], proxy["reference"], proxy["issuer_name"], proxy["automated"]) == (
        "Samuel",
        "42",
        "Gov CA",
        True,
    )
    plan = renderer().template.resolve({**MINIMUM, "tls_certificate_source": "national_ca"})
    assert "certificates.no_renewal_owner" in [warning["id"] for warning in plan["warnings"]]
