"""SanteDB's configuration files: well-formed, only names its source knows, and quirk by quirk what they have to say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from tests.support import MINIMUM, PLAN_NAMES, load_plan, renderer

CATALOG: dict[str, Any] = renderer().template.catalog
XML: dict[str, Any] = CATALOG["santedb_xml"]
NS = XML["namespace"]
MODEL = "http://santedb.org/model"
XSI = "{http://www.w3.org/2001/XMLSchema-instance}type"
ROLES = ["cdr", "mpi", "mfr", "mpr", "product_registry", "shr", "ims", "emr", "audit_repository", "identity_provider"]
MPI = {
    "roles": ["mpi"],
    "standards": [
        "fhir_r4",
        "hl7v2_sllp",
        "ihe_pix",
        "ihe_pdq",
        "ihe_pixm",
        "ihe_pdqm",
        "ihe_pmir",
        "openid_connect",
        "hdsi",
        "ami",
        "bis",
    ],
}
NID = {
    "name": "National identity <number>",
    "namespace_id": "NID",
    "oid": "2.999.1.1",
    "scope": ["Patient"],
    "unique": True,
    "validation_regex": "^[0-9]{10}$",
    "disclosure_policy_oid": "2.999.5.1",
    "issuer": "Civil & Registry",
}
EVERYTHING = {
    **MINIMUM,
    "organization": 'Registry & "Co" <x>',
    "jurisdiction": 'Here & "there" <x>',
    "roles": ["mpi", "product_registry"],
    "standards": [*MPI["standards"], "gs1_bms_xml"],
    "mdm_resources": ["Patient", "Material"],
    "environments": ["development", "staging", "production"],
    "topology": "role_split_cluster",
    "cache": "redis",
    "dispatcher_queue": "rabbitmq",
    "read_replicas": 1,
    "encryption_at_rest": ["full_disk", "ale"],
    "ale_fields": [{"field": "entityNote.text", "mode": "random"}],
    "smtp": {
        "server": "smtp://mail.example.org:587",
        "from": "a@example.org",
        "user": "mailer",
        "tls": True,
        "admin_contacts": ["b@example.org"],
    },
    "identity_domains": [NID],
    "preferred_identity_domain": "NID",
    "oid_root": "2.999",
    "uri_root": "https://id.example.org/",
    "privacy_resource_actions": [{"resource": "Observation", "action": "redact"}],
    "sensitive_identity_domains": [{"domain": "NID", "policy_oid": "2.999.5.1", "action": "nullify"}],
    "forbidden_fields": ["person.vipStatus", "patient.name.prefix"],
    "allowed_fields": ["patient.maritalStatus"],
    "custom_policies": [{"name": "Own <policy>", "oid": "2.999.5.2", "can_override": True}],
    "break_glass": True,
    "audit_dispatch": "atna",
    "audit_atna": {"endpoint": "a.example.org:6514", "transport": "stcp", "format": "dicom"},
    "password_policy": {
        "regex": '^(?=.*[<>&"])(?=.*[{]{2}).{12,}$',
        "min_length": 12,
        "max_age_days": 90,
        "history": True,
    },
    "applet_signing": "have_key",
    "publisher_certificate": {"subject": "CN=x", "thumbprint": "aa" * 20},
    "offline": True,
    "dcdr_backup_public": True,
    "pep_exemption": "non_human",
}
VARIANTS: dict[str, dict[str, Any]] = {
    **{name: load_plan(name) for name in PLAN_NAMES},
    **{f"role-{role}": {**MINIMUM, "roles": [role]} for role in ROLES},
    **{f"role-{role}-2x": {**MINIMUM, "roles": [role], "santedb_line": "2.x"} for role in ROLES},
    **{f"role-{role}-native": {**MINIMUM, "roles": [role], "runtime": "native"} for role in ROLES},
    "everything": EVERYTHING,
    "everything-native": {**EVERYTHING, "runtime": "native"},
    "sim": {**MINIMUM, "roles": ["shr"], "storage_mode": "sim"},
    "sim-native": {**MINIMUM, "roles": ["shr"], "storage_mode": "sim", "runtime": "native"},
    "hl7-open": {
        **MINIMUM,
        **MPI,
        "hl7_authentication": "none",
        "environments": ["development"],
        "identity_domains": [NID],
    },
    "retention-2x": {
        **MINIMUM,
        "santedb_line": "2.x",
        "retention_rules": [
            {"name": "Old <x>", "applies_to": "Act", "include": "creationTime=<2000", "action": "obsolete"}
        ],
    },
    "unsigned": {**MINIMUM, "environments": ["development", "staging"], "applet_signing": "unsigned_non_production"},
    "fhir-audit-native": {
        **MINIMUM,
        "runtime": "native",
        "standards": ["fhir_r4", "fhir_audit", "openid_connect", "hdsi", "ami", "bis"],
        "audit_dispatch": "fhir",
        "audit_fhir": {"endpoint": "https://audit.example.org/fhir", "user": "u", "authenticator": "A.B, C"},
    },
}


@cache
def _rendered(text: str) -> dict[str, str]:
    sources = [source for source in renderer().sources if source.startswith("santedb/")]
    answers = yaml.load(text, Loader=yaml.CSafeLoader)
    return renderer().render(answers, sources)


def rendered(answers: dict[str, Any]) -> dict[str, str]:
    return _rendered(yaml.safe_dump(answers))


def substituted(text: str) -> str:
    """The file as Ansible would write it, every secret and fact being one word."""
    return re.sub(r"\{\{ *[\w.]+ *\}\}", "word", text)


def documents(answers: dict[str, Any]) -> Iterator[tuple[str, ElementTree.Element]]:
    for path, text in rendered(answers).items():
        if path.endswith((".xml", ".dataset")):
            yield path, ElementTree.fromstring(substituted(text).encode())


def configurations(answers: dict[str, Any]) -> Iterator[tuple[str, ElementTree.Element]]:
    for path, root in documents(answers):
        if path.endswith(".config.xml"):
            yield path, root


def sections(answers: dict[str, Any], environment: str = "production") -> dict[str, ElementTree.Element]:
    """Every section of one environment by its type."""
    found: dict[str, ElementTree.Element] = {}
    for path, root in configurations(answers):
        if path.startswith(f"santedb/{environment}/"):
            for section in root.findall(f"{{{NS}}}section"):
                assert section.attrib[XSI] not in found, "of two sections of one type SanteDB takes the first"
                found[section.attrib[XSI]] = section
    return found


def find(element: ElementTree.Element, path: str) -> list[ElementTree.Element]:
    return element.findall("/".join(f"{{{NS}}}{part}" for part in path.split("/")))


def policies(answers: dict[str, Any]) -> dict[str, str]:
    section = sections({**MINIMUM, **answers})["SecurityConfigurationSection"]
    return {item.attrib["policy"]: (item[0].text or "") for item in find(section, "securityPolicy/add")}


def local(tag: str) -> str:
    return tag.rsplit("}", 1)[-1]


def walk(element: ElementTree.Element, path: str = "") -> Iterator[tuple[str, ElementTree.Element]]:
    yield path, element
    for child in element:
        yield from walk(child, f"{path}/{local(child.tag)}" if path else local(child.tag))


@pytest.mark.parametrize("name", VARIANTS)
def test_files_are_well_formed_and_say_they_are_generated(name: str) -> None:
    for path, text in rendered(VARIANTS[name]).items():
        if path.endswith((".xml", ".dataset")):
            assert text.startswith("<?xml "), path
            assert "Generated from the plan: do not edit" in text.splitlines()[1], path
            ElementTree.fromstring(substituted(text).encode())
            assert text.endswith(">\n"), path


@pytest.mark.parametrize("name", VARIANTS)
def test_only_names_of_santedb_are_used(name: str) -> None:
    for path, root in configurations(VARIANTS[name]):
        assert root.tag == f"{{{NS}}}SanteDBConfiguration"
        assert set(root.attrib) <= set(XML["root"]["attributes"])
        assert {local(child.tag) for child in root} <= {"sections", "include", "section"}
        for section in root.findall(f"{{{NS}}}section"):
            kind = section.attrib[XSI]
            spec = XML["sections"][kind]["nodes"]
            for node, element in walk(section):
                assert node in spec, f"{path}: {kind} has no {node}"
                assert set(element.attrib) - {XSI} <= set(spec[node]), f"{path}: {kind}/{node}"
                if "Authority/" in node:
                    assert element.tag.startswith(f"{{{MODEL}}}")
                else:
                    assert element.tag.startswith(f"{{{NS}}}")


@pytest.mark.parametrize("name", VARIANTS)
def test_every_section_is_registered_in_its_own_file(name: str) -> None:
    answers = VARIANTS[name]
    line = answers.get("santedb_line", "3.x")
    for path, root in configurations(answers):
        registered = [item.attrib["type"] for item in find(root, "sections/add")]
        assert len(set(registered)) == len(registered), path
        for section in root.findall(f"{{{NS}}}section"):
            assert XML["sections"][section.attrib[XSI]]["types"][line] in registered, f"{path}: {section.attrib[XSI]}"


@pytest.mark.parametrize("name", VARIANTS)
def test_braces_hold_known_references_only(name: str) -> None:
    answers = VARIANTS[name]
    secrets = {item["name"] for item in renderer().template.resolve(answers)["vault_variables"]}
    for path, text in rendered(answers).items():
        assert "{%" not in text, path
        assert "{#" not in text, path
        for reference in re.findall(r"\{\{(.*?)\}\}", text):
            word = reference.strip()
            assert word in secrets or re.fullmatch(r"icdr_\w+(\.\w+)?", word), f"{path}: {word}"


@pytest.mark.parametrize("name", VARIANTS)
def test_includes_and_files_agree(name: str) -> None:
    answers = VARIANTS[name]
    files = rendered(answers)
    plan = renderer().template.resolve(answers)
    for environment in plan["environment_names"]:
        entry = ElementTree.fromstring(substituted(files[f"santedb/{environment}/santedb.config.xml"]).encode())
        included = {f"santedb/{environment}/{item.text}" for item in find(entry, "include")}
        held = {path for path in files if path.startswith(f"santedb/{environment}/config/")}
        assert included == held
        assert {item["src"] for item in plan["santedb_files"][environment]["config"]} == held | {
            f"santedb/{environment}/santedb.config.xml"
        }
        for kind in ("match", "data"):
            assert all(item["src"] in files for item in plan["santedb_files"][environment][kind])
        if plan["release"]["runtime"] == "native":
            assert not included


@pytest.mark.parametrize("name", VARIANTS)
def test_services_are_registered_once(name: str) -> None:
    for environment in renderer().template.resolve(VARIANTS[name])["environment_names"]:
        types = [
            item.attrib["type"]
            for item in find(
                sections(VARIANTS[name], environment)["ApplicationServiceContextConfigurationSection"],
                "serviceProviders/add",
            )
        ]
        assert len({item.split(",")[0].strip() for item in types}) == len(types)


def test_shipped_includes_are_always_there_on_containers() -> None:
    for name, answers in VARIANTS.items():
        if answers.get("runtime") == "native":
            continue
        files = rendered(answers)
        for environment in {path.split("/")[1] for path in files if path.endswith("/santedb.config.xml")}:
            for include in ("audit_accountability", "rest", "applets", "jobs"):
                assert f"santedb/{environment}/config/santedb.{include}.config.xml" in files, name


@pytest.mark.parametrize("name", VARIANTS)
def test_q02_provider_is_registered_under_both_spellings(name: str) -> None:
    for path, root in configurations(VARIANTS[name]):
        if path.endswith("/santedb.config.xml"):
            orm = next(
                item for item in root.findall(f"{{{NS}}}section") if item.attrib[XSI] == "OrmConfigurationSection"
            )
            assert [item.attrib["invariant"] for item in find(orm, "providers/add")] == ["npgsql", "Npgsql"]


def test_q01_c40_session_section_carries_what_the_feature_would_have_set() -> None:
    found = policies({"session_length": "PT20M", "session_refresh": "PT40M", "lockout_attempts": 4})
    assert found["auth.session.length"] == "PT20M"
    assert found["auth.session.refresh"] == "PT40M"
    assert found["auth.failLogin"] == "4"
    assert found["auth.pwd.history"] == "true"
    section = sections(MINIMUM)["SecurityConfigurationSection"]
    assert section.attrib["passwordRegex"] == "^(?=.*\\d)(?=.*[a-z])(?=.*[A-Z])(?=.*[^\\w\\d]).{12,}$"
    assert find(section, "signingKeys"), "the feature adds its keys to the list that stands here"


def test_q33_policies_are_enabled_and_durations_are_iso() -> None:
    section = sections(EVERYTHING)["SecurityConfigurationSection"]
    for item in find(section, "securityPolicy/add"):
        assert item.attrib["enabled"] == "true"
        assert item.attrib["policy"] in XML["policies"]["names"]
        assert len(item) == 1
        if local(item[0].tag) == "timespan":
            assert re.fullmatch(r"P(\d+D)?(T(\d+H)?(\d+M)?(\d+S)?)?", item[0].text or "")
    assert policies({"password_policy": EVERYTHING["password_policy"]})["auth.pwd.maxAge"] == "P90D"
    assert "auth.pwd.maxAge" not in policies({})


def test_q49_audit_retention_is_always_set() -> None:
    assert policies({"audit_retention_days": 3650})["audit.retention"] == "P3650D"
    for name, answers in VARIANTS.items():
        if answers.get("santedb_line") == "2.x":
            continue
        for environment in renderer().template.resolve(answers)["environment_names"]:
            assert "audit.retention" in ElementTree.tostring(
                sections(answers, environment)["SecurityConfigurationSection"], encoding="unicode"
            ), name


def test_multi_factor_sign_in_follows_the_answer() -> None:
    assert policies({"mfa": "required"})["auth.mfa.required"] == "true"
    assert policies({"mfa": "optional"})["auth.mfa.required"] == "false"
    assert (
        policies({"mfa": "required", "mfa_method": "authenticator"})["auth.mfa.default"]
        == XML["mfa_methods"]["authenticator"]
    )
    assert "auth.mfa.default" not in policies({"mfa": "none"})


def test_exemption_and_override_follow_the_answers() -> None:
    assert (
        sections({**MINIMUM, "pep_exemption": "devices"})["SecurityConfigurationSection"].attrib["pepExemptionPolicy"]
        == "devices"
    )
    assert sections(EVERYTHING)["SecurityConfigurationSection"].attrib["pepExemptionPolicy"] == "non-human"
    assert policies({"break_glass": True})["auth.session.elevated.length"] == "PT2M"
    assert "auth.session.elevated.length" not in policies({})
    assert policies({"offline": True, "dcdr_backup_public": True})["backup.public"] == "true"


def test_q10_broker_is_registered_in_xml() -> None:
    found = sections(EVERYTHING)
    section = found["RabbitMqConfigurationSection"]
    assert section.attrib["username"] != section.attrib["password"]
    assert rendered(EVERYTHING)["santedb/production/santedb.config.xml"].count("{{ vault_queue_password }}") == 1
    assert "FileSystemDispatcherQueueConfigurationSection" not in found
    services = [
        item.attrib["type"]
        for item in find(found["ApplicationServiceContextConfigurationSection"], "serviceProviders/add")
    ]
    assert XML["services"]["rabbitmq"] in services
    assert "FileSystemDispatcherQueueConfigurationSection" in sections(MINIMUM)


def test_q11_cache_password_comes_by_xml() -> None:
    text = rendered({**MINIMUM, "cache": "redis"})["santedb/production/config/santedb.caching.redis.config.xml"]
    assert 'password="{{ vault_cache_password }}"' in text
    assert not [path for path in rendered({**MINIMUM, "cache": "memory", "topology": "single_host"}) if "redis" in path]


def test_q16_one_secret_for_all_senders_only_when_asked_for() -> None:
    section = sections(VARIANTS["hl7-open"], "development")["Hl7ConfigurationSection"]
    assert section.attrib["security"] == "None"
    assert section.attrib["noAuthSecret"] == "word"
    assert "Hl7ConfigurationSection" not in sections({**MINIMUM, **MPI})


def test_q21_no_interface_is_declared_twice() -> None:
    for name, answers in VARIANTS.items():
        for environment in renderer().template.resolve(answers)["environment_names"]:
            services = [
                item.attrib["name"]
                for item in find(sections(answers, environment)["RestConfigurationSection"], "service")
            ]
            if answers.get("runtime") == "native":
                assert len(set(services)) == len(services)
            else:
                assert set(services) <= {"GS1BMS"}, name


@pytest.mark.parametrize("name", VARIANTS)
def test_q22_c16_unsigned_applets_run_in_development_at_most(name: str) -> None:
    answers = VARIANTS[name]
    for environment in renderer().template.resolve(answers)["environment_names"]:
        value = sections(answers, environment)["AppletConfigurationSection"].attrib["allowUnsignedApplets"]
        wanted = environment == "development" and answers.get("applet_signing") == "unsigned_non_production"
        assert value == ("true" if wanted else "false")


def test_publishers_of_own_applets_are_trusted() -> None:
    section = sections(EVERYTHING)["SecurityConfigurationSection"]
    assert [item.text for item in find(section, "trustedCertificates/add")] == ["AA" * 20]
    old = {**MINIMUM, "santedb_line": "2.x", "custom_applets": [{"id": "org.x", "publisher_thumbprint": "bb" * 20}]}
    assert "BB" * 20 in [
        item.text for item in find(sections(old)["AppletConfigurationSection"], "trustedPublishers/add")
    ]


FLAGS = {
    "action": {"c": 1, "r": 2, "u": 4, "d": 8, "x": 16},
    "event": {
        "provision": 0x1,
        "medication": 0x2,
        "resource": 0x4,
        "careep": 0x8,
        "careprotocol": 0x10,
        "procedure": 0x20,
        "query": 0x40,
        "patient": 0x80,
        "order": 0x100,
        "network": 0x200,
        "import": 0x400,
        "export": 0x800,
        "application": 0x1000,
        "security": 0x2000,
        "auth": 0x4000,
        "btg": 0x8000,
        "restrictedFn": 0x10000,
        "login": 0x20000,
        "logout": 0x40000,
    },
    "outcome": {"ok": 1, "fail.minor": 2, "fail.major": 4, "fail.epic": 8},
}


def kept(filters: list[dict[str, str]], **audit: str) -> bool:
    """Whether an audit is stored, by the rule of AuditAccountabilityConfigurationSection.ApplyFilters."""

    def number(key: str, value: str | None, default: int) -> int:
        return default if value is None else sum(FLAGS[key][word] for word in value.split())

    bits = (
        number("outcome", audit["outcome"], 0) << 24
        | number("action", audit["action"], 0) << 16
        | number("event", audit["event"], 0)
    )
    matching = [
        item
        for item in filters
        if bits
        & (
            0xFF << 32
            | number("outcome", item.get("outcome"), 0xFF) << 24
            | number("action", item.get("action"), 0xFF) << 16
            | number("event", item.get("event"), 0xFFFF)
        )
        == bits
    ]
    return all(item["insert"] == "true" for item in matching)


@pytest.mark.parametrize("complete", [False, True])
def test_q32_overrides_sign_ins_and_security_changes_are_kept(complete: bool) -> None:
    section = sections({**MINIMUM, "audit_complete_trail": complete})["AuditAccountabilityConfigurationSection"]
    filters = [dict(item.attrib) for item in find(section, "filters/add")]
    assert filters
    for event in FLAGS["event"]:
        for action in FLAGS["action"]:
            for outcome in FLAGS["outcome"]:
                dropped = not kept(filters, event=event, action=action, outcome=outcome)
                if dropped:
                    assert (event, outcome) == ("network", "ok"), (event, action, outcome)
    assert kept(filters, event="network", action="x", outcome="ok") is complete
    shipped = [{"action": "x", "event": "network security restrictedFn", "outcome": "ok", "insert": "false"}]
    assert not kept(shipped, event="security", action="x", outcome="ok"), "the image's own filter drops overrides"


def test_audit_source_names_environment() -> None:
    names = {
        environment: find(
            sections({**MINIMUM}, environment)["AuditAccountabilityConfigurationSection"], "auditSource/enterpriseSite"
        )[0].text
        for environment in ("staging", "production")
    }
    assert len(set(names.values())) == 2


def test_c20_q06_fields_nobody_else_refuses_are_taken_out_by_the_filter() -> None:
    section = sections({**MINIMUM, "forbidden_fields": ["person.vipStatus"]})["DataPolicyFilterConfigurationSection"]
    resources = {find(item, "resourceType")[0].attrib["type"]: item for item in find(section, "resources/add")}
    assert set(resources) == {"Patient", "Person"}
    assert [item.attrib for item in find(resources["Patient"], "fields/add")] == [
        {"property": "vipStatus", "action": "hide"}
    ]
    assert "DataPolicyFilterConfigurationSection" not in sections(MINIMUM)
    assert "DataPolicyFilterConfigurationSection" not in sections({**MINIMUM, "privacy_enforcement": False})


def test_resource_actions_and_sensitive_domains_reach_the_filter() -> None:
    section = sections(EVERYTHING)["DataPolicyFilterConfigurationSection"]
    actions = {
        find(item, "resourceType")[0].attrib["type"]: item.attrib["action"] for item in find(section, "resources/add")
    }
    assert actions["Observation"] == "redact"
    assert actions["IdentityDomain"] == "nullify"


def test_q54_every_field_setting_is_stated_for_server_and_clients() -> None:
    answers = {**MINIMUM, "forbidden_fields": ["patient.name.suffix"], "allowed_fields": ["patient.religion"]}
    found = sections(answers)
    names = {item["name"] for item in CATALOG["features"]["application_settings"]}
    for section, path in (
        ("ApplicationServiceContextConfigurationSection", "appSettings/add"),
        ("AmiConfigurationSection", "publicSettings/add"),
    ):
        values = {item.attrib["key"]: item.attrib["value"] for item in find(found[section], path)}
        assert names <= set(values)
        assert {key for key in names if values[key] == "true"} == {
            "forbid.patient.name.suffix",
            "allow.patient.religion",
        }


def test_screens_learn_input_styles_and_preferred_domain() -> None:
    section = sections(
        {
            **MINIMUM,
            "name_input": "simple",
            "address_input": "text",
            "identity_domains": [NID],
            "preferred_identity_domain": "NID",
        }
    )
    values = {
        item.attrib["key"]: item.attrib["value"]
        for item in find(section["AmiConfigurationSection"], "publicSettings/add")
    }
    assert values["input.name"] == "simple"
    assert values["input.address"] == "text"
    assert values["aa.preferred"] == "NID"


def test_q51_clusters_keep_job_states_in_the_database() -> None:
    services = [
        item.attrib["type"]
        for item in find(sections(EVERYTHING)["ApplicationServiceContextConfigurationSection"], "serviceProviders/add")
    ]
    assert XML["services"]["shared_jobs"] in services
    alone = [
        item.attrib["type"]
        for item in find(sections(MINIMUM)["ApplicationServiceContextConfigurationSection"], "serviceProviders/add")
    ]
    assert XML["services"]["shared_jobs"] not in alone


def test_q50_q51_no_job_is_scheduled_that_deletes_data() -> None:
    for answers in VARIANTS.values():
        for path, root in configurations(answers):
            text = ElementTree.tostring(root, encoding="unicode")
            assert "TrimDatabaseJob" not in text, path
            if "DataRetentionJob" in text:
                assert answers["santedb_line"] == "2.x"
                assert 'startType="never"' in text


def test_q50_retention_rules_are_xml_on_2x_only() -> None:
    rules = VARIANTS["retention-2x"]
    rule = find(sections(rules)["DataRetentionConfigurationSection"], "rules/add")[0]
    assert rule.attrib == {"name": "Old <x>", "action": "obsolete"}
    assert find(rule, "includes/filter")[0].text == "creationTime=<2000"
    assert find(rule, "excludes"), "a rule without the list stops the job"
    assert "DataRetentionConfigurationSection" not in sections({**rules, "santedb_line": "3.x"})


def test_q34_client_certificates_are_the_proxys() -> None:
    answers = {**MINIMUM, "client_certificate_scope": "all_rest_apis", "device_authentication": "client_certificate"}
    for path, text in rendered(answers).items():
        assert "ClientCertificateAccess" not in text, path


def test_role_split_servers_tell_clients_where_the_others_are() -> None:
    endpoints = {
        item.attrib["type"]: item.attrib["url"]
        for item in find(sections(EVERYTHING)["AmiConfigurationSection"], "endpoints/add")
    }
    assert set(endpoints) == {"hdsi", "bis", "fhir"}
    assert all(url.startswith("https://") for url in endpoints.values())
    assert not find(sections(MINIMUM)["AmiConfigurationSection"], "endpoints/add")


def test_c22_encrypted_columns_have_certificate_seed_and_the_features_defaults() -> None:
    section = sections(EVERYTHING)["AdoPersistenceConfigurationSection"]
    ale = find(section, "aleConfiguration")[0]
    assert ale.attrib == {"enabled": "true"}
    assert [(item.attrib["mode"], item.text) for item in find(ale, "field")] == [("random", "entityNote.text")]
    text = rendered(EVERYTHING)["santedb/production/config/santedb.persistence.config.xml"]
    assert "{{ vault_ale_seed }}" in text
    assert "{{ icdr_ale_thumbprint }}" in text
    assert section.attrib["readOnlyConnectionString"] == "MAINRO"
    assert "AdoPersistenceConfigurationSection" not in sections(MINIMUM)


def test_q07_dotted_connection_comes_by_xml() -> None:
    section = sections({**MINIMUM, "database_placement": "separate_databases"})["DataConfigurationSection"]
    assert [item.attrib["name"] for item in find(section, "connectionStrings/add")] == ["bi.marts"]
    assert "DataConfigurationSection" not in sections({**MINIMUM, "database_placement": "same_server"})


def test_single_instance_storage_names_service_and_resources() -> None:
    found = sections(VARIANTS["sim"])
    services = [
        item.attrib["type"]
        for item in find(found["ApplicationServiceContextConfigurationSection"], "serviceProviders/add")
    ]
    assert XML["services"]["sim"] in services
    assert "Patient" in [
        item.attrib["type"] for item in find(found["ResourceManagementConfigurationSection"], "resources/add")
    ]


def test_gs1_has_service_section_and_interface() -> None:
    found = sections(EVERYTHING)
    assert found["Gs1ConfigurationSection"].attrib["partnerAuthority"] == "NID"
    assert [item.attrib["name"] for item in find(found["RestConfigurationSection"], "service")] == ["GS1BMS"]
    services = [
        item.attrib["type"]
        for item in find(found["ApplicationServiceContextConfigurationSection"], "serviceProviders/add")
    ]
    assert XML["services"]["gs1"] in services


@pytest.mark.parametrize("role", ROLES)
def test_native_runtime_registers_what_features_would(role: str) -> None:
    answers = VARIANTS[f"role-{role}-native"]
    plan = renderer().template.resolve(answers)
    services = [
        item.attrib["type"]
        for item in find(sections(answers)["ApplicationServiceContextConfigurationSection"], "serviceProviders/add")
    ]
    for feature in plan["features"]:
        for service in XML["services"]["by_feature"].get(feature["id"], []):
            assert service in services, feature["id"]
    found = sections(answers)
    names = {item.attrib["name"] for item in find(found["DataConfigurationSection"], "connectionStrings/add")}
    assert {"MAIN", "AUDIT"} <= names
    assert found["OAuthConfigurationSection"].attrib["jwtSigningKey"] == "jwsdefault"
    keys = {
        item.attrib["id"]: item.attrib["alg"] for item in find(found["SecurityConfigurationSection"], "signingKeys/add")
    }
    assert keys == {"default": "rs256", "jwsdefault": "rs256"}
    staging = sections(answers, "staging")["SecurityConfigurationSection"]
    assert {item.attrib["alg"] for item in find(staging, "signingKeys/add")} == {"hmac"}


def test_native_hl7_uses_the_profiles_handlers() -> None:
    answers = {**MINIMUM, **MPI, "runtime": "native"}
    types = {
        item.attrib["type"].split(",")[0]
        for item in find(sections(answers)["Hl7ConfigurationSection"], "services/add/messages/add")
    }
    assert types == {
        f"SanteMPI.Messaging.IHE.HL7.{name}"
        for name in ("PdqQbpMessageHandler", "PixQbpMessageHandler", "PixAdtMessageHandler")
    }


@pytest.mark.parametrize("name", [name for name in VARIANTS if name.endswith("-2x")])
def test_2x_keeps_to_sections_of_its_own_files(name: str) -> None:
    found = set(sections(VARIANTS[name]))
    assert {"SecurityConfigurationSection", "AmiConfigurationSection"} & found == set()
    services = [
        item.attrib["type"]
        for item in find(
            sections(VARIANTS[name])["ApplicationServiceContextConfigurationSection"], "serviceProviders/add"
        )
    ]
    assert "SanteDB.Server.Core.Rest.RestServiceFactory, SanteDB.Server.Core" in services
    assert not [item for item in services if "SanteDB.Rest.Common" in item]


# --- match configurations and data sets ---

MATCHER = "{http://santedb.org/matcher}"


def matches(answers: dict[str, Any]) -> dict[str, ElementTree.Element]:
    found = {}
    for path, root in documents(answers):
        if path.startswith("santedb/match/"):
            target = root.find(f"{MATCHER}target")
            assert target is not None
            found[target.attrib["resource"]] = root
            assert path == f"santedb/match/{root.attrib['uuid']}.xml", (
                "SanteDB renames files whose name is not their UUID"
            )
    return found


def test_match_configuration_asks_for_the_plans_own_identifier() -> None:
    root = matches({**MINIMUM, **MPI, "identity_domains": [NID]})["Patient"]
    text = ElementTree.tostring(root, encoding="unicode")
    assert "identifier[NID].value" in text
    assert "SSN" not in text
    assert (root.attrib["nonmatchThreshold"], root.attrib["matchThreshold"]) == ("6", "12")


def test_match_thresholds_and_id_follow_the_answer() -> None:
    own = [
        {
            "resource": "Patient",
            "configuration_id": "org.example.match",
            "match_threshold": 15.5,
            "probable_threshold": 9,
        }
    ]
    root = matches({**MINIMUM, **MPI, "match_configurations": own})["Patient"]
    assert root.attrib["id"] == "org.example.match"
    assert (root.attrib["nonmatchThreshold"], root.attrib["matchThreshold"]) == ("9", "15.5")


def test_match_configuration_of_the_mpi_image_keeps_its_uuid() -> None:
    shipped = XML["shipped_match_configuration"]
    root = matches(
        {**MINIMUM, **MPI, "match_configurations": [{"resource": "Patient", "configuration_id": shipped["id"]}]}
    )["Patient"]
    assert root.attrib["uuid"] == shipped["uuid"]


@pytest.mark.parametrize(
    ("answers", "value"), [({}, "false"), ({"auto_link": True}, "true"), ({"auto_merge": True}, "true")]
)
def test_q23_automatic_linking_is_a_tag(answers: dict[str, Any], value: str) -> None:
    root = matches({**MINIMUM, **MPI, **answers})["Patient"]
    tag = root.find(f"{MATCHER}meta/{MATCHER}tags/{MATCHER}add")
    assert tag is not None
    assert (tag.attrib["key"], tag.text) == ("$mdm.auto-link", value)


def test_match_configurations_use_names_of_the_matcher_only() -> None:
    allowed = {
        "": {"id", "uuid", "evaluationMode", "nonmatchThreshold", "matchThreshold"},
        "meta": set(),
        "createdBy": set(),
        "status": set(),
        "tags": set(),
        "add": {"key"},
        "target": {"resource"},
        "blocking": {"op", "maxResults"},
        "filter": {"when"},
        "scoring": set(),
        "attribute": {"property", "m", "u", "whenNull"},
        "assert": {"op", "value"},
        "transform": {"name"},
        "args": set(),
        "string": set(),
        "partialWeight": {"name"},
    }
    for answers in VARIANTS.values():
        for root in matches(answers).values():
            for path, element in walk(root):
                assert element.tag.startswith(MATCHER)
                assert set(element.attrib) <= allowed[path.rsplit("/", 1)[-1]], path


def test_simple_matching_has_no_scores() -> None:
    root = matches({**MINIMUM, **MPI, "matching_mode": "simple"})["Patient"]
    assert root.find(f"{MATCHER}scoring") is None
    assert root.find(f"{MATCHER}blocking") is not None


@pytest.mark.parametrize(
    ("role", "resource"), [("mfr", "Place"), ("mpr", "Provider"), ("product_registry", "Material")]
)
def test_skeletons_say_so(role: str, resource: str) -> None:
    answers = {**MINIMUM, "roles": [role]}
    assert resource in matches(answers)
    warnings = {warning["id"]: warning["message"] for warning in renderer().template.resolve(answers)["warnings"]}
    assert resource in warnings["features.match_skeleton"]


def test_c21_encrypted_columns_are_not_compared_by_likeness() -> None:
    own = [{"field": "entity.identifier", "mode": "deterministic"}]
    for fields in ([], own):
        answers = {
            **MINIMUM,
            **MPI,
            "identity_domains": [NID],
            "encryption_at_rest": ["full_disk", "ale"],
            "ale_fields": fields,
        }
        filters = [item.text or "" for item in matches(answers)["Patient"].iter(f"{MATCHER}filter")]
        assert "identifier[NID].value=$input.identifier[NID].value" in filters
    assert {item["field"] for item in CATALOG["features"]["ale_default_fields"]}.isdisjoint(
        {"name.component", "address.component"}
    )


def test_c03_all_servers_share_one_set_of_match_configurations() -> None:
    plan = renderer().template.resolve(EVERYTHING)
    lists = [files["match"] for files in plan["santedb_files"].values()]
    assert lists[0]
    assert all(item == lists[0] for item in lists)


def test_own_match_file_is_taken_instead() -> None:
    own = [{"resource": "Patient", "configuration_id": "org.x", "file": "santedb/match/own.xml"}]
    answers = {**MINIMUM, **MPI, "match_configurations": own}
    assert matches(answers) == {}
    plan = renderer().template.resolve(answers)
    assert plan["santedb_files"]["production"]["match"] == [
        {"src": "santedb/match/own.xml", "dest": "/santedb/match/own.xml"}
    ]


def dataset(answers: dict[str, Any], name: str) -> list[dict[str, str | None]]:
    root = dict(documents(answers))[f"santedb/data/{name}"]
    assert root.tag == "{http://santedb.org/data}dataset"
    found = []
    for update in root:
        assert local(update.tag) == "update"
        found.append({local(child.tag): child.text for child in update[0]})
    return found


def test_identity_domains_become_a_data_set() -> None:
    answers = {**EVERYTHING, "hl7_local_domain": "LOCAL"}
    domains = {item["domainName"]: item for item in dataset(answers, "020-identity-domains.dataset")}
    assert domains["NID"]["oid"] == "2.999.1.1"
    assert domains["NID"]["url"] == "https://id.example.org/nid"
    assert domains["NID"]["validation"] == "^[0-9]{10}$"
    assert domains["NID"]["scope"] == XML["identity_scopes"]["Patient"]
    assert domains["NID"]["isUnique"] == "true"
    assert domains["NID"]["name"] == "National identity <number>"
    assert domains["LOCAL"]["oid"] == "2.999.0"
    policies_found = {item["oid"]: item for item in dataset(answers, "010-policies.dataset")}
    assert domains["NID"]["policy"] == policies_found["2.999.5.1"]["id"]
    assert policies_found["2.999.5.2"]["canOverride"] == "true"
    assert "santedb/data/020-identity-domains.dataset" not in rendered({**MINIMUM})


def test_data_set_changes_its_id_with_its_content() -> None:
    first = rendered(EVERYTHING)["santedb/data/020-identity-domains.dataset"]
    second = rendered({**EVERYTHING, "identity_domains": [{**NID, "validation_regex": "^[0-9]{9}$"}]})[
        "santedb/data/020-identity-domains.dataset"
    ]
    ids = [re.findall(r'<dataset [^>]*id="([^"]+)"', text)[0] for text in (first, second)]
    assert ids[0] != ids[1]


def test_2x_data_set_uses_the_older_name() -> None:
    text = rendered({**MINIMUM, "santedb_line": "2.x", "identity_domains": [NID]})[
        "santedb/data/020-identity-domains.dataset"
    ]
    assert "<AssigningAuthority" in text
    assert "IdentityDomain" not in text


def test_applets_list_is_yaml() -> None:
    for answers in VARIANTS.values():
        assert yaml.safe_load(rendered(answers)["santedb/applets/applets.yml"])["languages"]
