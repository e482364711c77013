"""Features and variables of rendered plans, quirk by quirk."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest
import yaml

from tests.support import MINIMUM, PLAN_NAMES, load_plan, renderer

CATALOG: dict[str, Any] = renderer().template.catalog
FEATURES = {feature["id"]: feature for feature in CATALOG["features"]["features"]}
SETTINGS = {setting["name"]: (feature, setting) for feature in FEATURES.values() for setting in feature["settings"]}
HOST_SETTINGS = {item["name"] for item in CATALOG["features"]["host_settings"]}
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
CLUSTER = {"topology": "clustered", "cache": "redis"}
SMTP = {
    "server": "smtp://mail.example.org:587",
    "from": "a@example.org",
    "user": "mailer",
    "tls": True,
    "admin_contacts": ["b@example.org", "c@example.org"],
}


@cache
def _plan(text: str) -> dict[str, Any]:
    return renderer().template.resolve(yaml.load(text, Loader=yaml.CSafeLoader))


def plan_of(answers: dict[str, Any]) -> dict[str, Any]:
    return _plan(yaml.safe_dump(answers))


def resolve(**answers: Any) -> dict[str, Any]:
    return plan_of({**MINIMUM, **answers})


def variables(environment: str = "production", **answers: Any) -> dict[str, str]:
    found: dict[str, str] = resolve(**answers)["environment_variables"][environment]
    return found


def tokens(**answers: Any) -> list[str]:
    return variables(**answers)["SDB_FEATURE"].split(";")


PLANS: dict[str, dict[str, Any]] = {
    **{name: load_plan(name) for name in PLAN_NAMES},
    **{f"role-{role}": {**MINIMUM, "roles": [role]} for role in ROLES},
    **{f"role-{role}-2x": {**MINIMUM, "roles": [role], "santedb_line": "2.x"} for role in ROLES},
    "clustered": {**MINIMUM, **MPI, **CLUSTER, "dispatcher_queue": "rabbitmq", "read_replicas": 1},
    "role-split": {**MINIMUM, **MPI, "topology": "role_split_cluster", "cache": "redis"},
    "mail": {**MINIMUM, "smtp": SMTP, "mfa_method": "email"},
    "mail-2x": {**MINIMUM, "smtp": SMTP, "mfa_method": "email", "santedb_line": "2.x"},
    "atna": {
        **MINIMUM,
        "audit_dispatch": "atna",
        "audit_atna": {"endpoint": "a.example.org:6514", "transport": "stcp", "format": "rfc3881"},
    },
}


@pytest.mark.parametrize("name", PLANS)
def test_q05_feature_list_is_joined_as_the_host_splits_it(name: str) -> None:
    plan = plan_of(PLANS[name])
    line = plan["release"]["line"]
    for values in plan["environment_variables"].values():
        listed = values["SDB_FEATURE"].split(";")
        assert all(re.fullmatch(r"[A-Z][A-Z0-9_]*", token) for token in listed)
        assert len(set(listed)) == len(listed)
        for token in listed:
            assert line in FEATURES[token]["lines"], token
            assert "never" not in FEATURES[token]
        assert listed == [feature["id"] for feature in plan["features"]]


@pytest.mark.parametrize("name", PLANS)
def test_every_variable_is_known_to_the_line_and_has_an_effect(name: str) -> None:
    plan = plan_of(PLANS[name])
    line = plan["release"]["line"]
    for values in plan["environment_variables"].values():
        listed = values["SDB_FEATURE"].split(";")
        for variable, value in values.items():
            assert isinstance(value, str)
            assert value, variable
            if variable == "SDB_FEATURE" or variable in HOST_SETTINGS:
                continue
            if variable.startswith("SDB_DB_"):
                continue
            feature, setting = SETTINGS[variable]
            assert feature["id"] in listed, f"{variable} without its feature"
            assert line in setting.get("lines", feature["lines"]), variable
            assert "never" not in setting
            assert setting.get("effective", True)


@pytest.mark.parametrize("name", PLANS)
def test_required_variables_are_there(name: str) -> None:
    plan = plan_of(PLANS[name])
    for values in plan["environment_variables"].values():
        for token in values["SDB_FEATURE"].split(";"):
            for setting in FEATURES[token]["settings"]:
                if setting.get("required") and plan["release"]["line"] in setting.get(
                    "lines", FEATURES[token]["lines"]
                ):
                    assert setting["name"] in values, setting["name"]


@pytest.mark.parametrize("name", PLANS)
def test_braces_hold_vault_references_and_deploy_time_facts_only(name: str) -> None:
    plan = plan_of(PLANS[name])
    secrets = {item["name"] for item in plan["vault_variables"]}
    for values in plan["environment_variables"].values():
        for variable, value in values.items():
            for reference in re.findall(r"\{\{ *(.*?) *\}\}", value):
                if reference.startswith("vault_"):
                    assert reference in secrets, variable
                else:
                    assert re.fullmatch(r"icdr_\w+(\.\w+)?", reference), variable


def test_q01_session_length_is_never_a_variable() -> None:
    for name in PLANS:
        for values in plan_of(PLANS[name])["environment_variables"].values():
            assert "SDB_SEC_POL_SESSION" not in values


def test_q01_lock_out_is_a_whole_number() -> None:
    assert variables(lockout_attempts=7)["SDB_SEC_POL_LOCK"] == "7"


def test_q02_provider_is_spelled_as_the_features_ask_for_it() -> None:
    values = variables()
    providers = {key: value for key, value in values.items() if key.endswith("_PROVIDER")}
    assert providers
    assert set(providers.values()) == {"Npgsql"}


@pytest.mark.parametrize("token", ["CORE", "SIGN", "RABBIT_MQ", "FHIR_PROV", "AUDIT_SHIPPING", "CORE_CDR", "CACHE"])
def test_q03_q10_q17_q24_q35_tokens_that_do_nothing_or_harm_are_never_listed(token: str) -> None:
    for name in PLANS:
        assert token not in [feature["id"] for feature in plan_of(PLANS[name])["features"]], name


@pytest.mark.parametrize("role", ROLES)
def test_q04_what_3x_cannot_start_without_is_always_listed(role: str) -> None:
    listed = tokens(roles=[role])
    assert {"LOG", "SEC", "ADO", "PUBSUB_ADO", "AUDIT_REPO"} <= set(listed)
    assert "FS_MQ" in listed


def test_q04_a_queue_is_there_in_every_case() -> None:
    for name, answers in PLANS.items():
        plan = plan_of(answers)
        if plan["release"]["line"] == "3.x":
            listed = [feature["id"] for feature in plan["features"]]
            assert ("FS_MQ" in listed) != (plan["answers"]["dispatcher_queue"] == "rabbitmq"), name


def test_q06_forbidden_fields_are_no_variable() -> None:
    values = variables(
        forbidden_fields=["person.vipStatus"],
        privacy_resource_actions=[{"resource": "Observation", "action": "redact"}],
    )
    assert "SDB_DATA_POLICY_FORBID" not in values
    assert "SDB_DATA_POLICY_RESOURCE" not in values
    assert values["SDB_DATA_POLICY_ACTION"] == "hide"


def test_q07_each_connection_string_has_its_provider_and_no_dotted_name() -> None:
    for name in PLANS:
        for values in plan_of(PLANS[name])["environment_variables"].values():
            strings = {key for key in values if key.startswith("SDB_DB_") and not key.endswith("_PROVIDER")}
            assert {"SDB_DB_MAIN", "SDB_DB_AUDIT"} <= strings
            for key in strings:
                assert re.fullmatch(r"SDB_DB_[A-Z0-9_]+", key)
                assert f"{key}_PROVIDER" in values


def test_q08_mail_is_smtp_on_3x_and_email_on_2x() -> None:
    modern = variables(smtp=SMTP)
    assert modern["SDB_SMTP_SERVER"] == "smtp://mail.example.org:587"
    assert modern["SDB_SMTP_TLS"] == "true"
    assert modern["SDB_SMTP_FROM"] == "a@example.org"
    assert modern["SDB_SMTP_ADMIN_EMAIL"] == "b@example.org;c@example.org"
    assert modern["SDB_SMTP_PASS"] == "{{ vault_smtp_password }}"
    assert not [key for key in modern if key.startswith("SDB_EMAIL_")]
    old = variables(smtp=SMTP, santedb_line="2.x")
    assert old["SDB_EMAIL_SMTP"] == "smtps://mailer:{{ vault_smtp_password }}@mail.example.org:587"
    assert not [key for key in old if key.startswith("SDB_SMTP_")]
    assert variables(smtp={**SMTP, "tls": False})["SDB_SMTP_TLS"] == "false"


def test_q09_c04_signing_keys_are_explicit_and_the_same_everywhere() -> None:
    for answers in ({}, CLUSTER, {"topology": "role_split_cluster", "cache": "redis"}):
        plan = resolve(environments=["staging", "production"], **answers)
        for key in ("default", "jwsdefault"):
            name = f"SDB_SEC_SIG_{key}"
            assert (
                plan["environment_variables"]["production"][name] == f"rs256:{{{{ icdr_signing_thumbprints.{key} }}}}"
            )
            assert plan["environment_variables"]["staging"][name] == f"hs256:{{{{ vault_signing_{key} }}}}"
        for hosts in plan["host_environment_variables"].values():
            assert all(set(values) == {"SDB_FEATURE"} for values in hosts.values()), (
                "keys come from the group, equal on all"
            )
    names = {
        (item["name"], item["environment"])
        for item in resolve(environments=["staging", "production"])["vault_variables"]
    }
    assert ("vault_signing_default", "staging") in names
    assert ("vault_signing_default", "production") not in names


def test_q09_secrets_hold_no_separator() -> None:
    for item in resolve(**MPI, **CLUSTER, dispatcher_queue="rabbitmq")["vault_variables"]:
        if item["kind"] in ("hmac", "password"):
            assert item["alphabet"] in ("A-Za-z0-9_-", "A-Za-z0-9"), item["name"]
            assert item["length"] >= 24


def test_q11_redis_has_host_and_port_and_no_password_in_clear() -> None:
    value = variables(cache="redis")["SDB_REDIS_SERVER"]
    assert re.fullmatch(r"[a-z0-9.-]+:6379", value)
    assert "SDB_RAMCACHE_TTL" not in variables(cache="redis")


def test_q12_subscriptions_get_a_connection_of_their_own_beside_a_replica() -> None:
    values = variables(read_replicas=1, database_placement="same_server")
    assert values["SDB_ADO_RW_CONNECTION"] == "MAIN"
    assert values["SDB_ADO_RO_CONNECTION"] == "MAINRO"
    assert values["SDB_PUBSUB_ADO_RW_CONNECTION"] == "PUBSUB"
    assert "Target Session Attributes=primary" in values["SDB_DB_MAIN"]
    assert "Target Session Attributes=prefer-standby;Load Balance Hosts=true" in values["SDB_DB_MAINRO"]
    plain = variables(read_replicas=0, database_placement="same_server")
    assert "SDB_ADO_RO_CONNECTION" not in plain
    assert "SDB_PUBSUB_ADO_RW_CONNECTION" not in plain
    assert "SDB_DB_MAINRO" not in plain


def test_q12_encrypted_columns_have_the_same_need() -> None:
    values = variables(encryption_at_rest=["full_disk", "ale"], database_placement="same_server")
    assert values["SDB_PUBSUB_ADO_RW_CONNECTION"] == "PUBSUB"


@pytest.mark.parametrize("name", PLANS)
def test_q13_connection_strings_survive_being_split(name: str) -> None:
    plan = plan_of(PLANS[name])
    for environment, strings in plan["database_connections"].items():
        for key, text in strings.items():
            parts = [part.split("=") for part in text.split(";")]
            assert all(len(part) == 2 for part in parts), (environment, key)
            names = [part[0].strip().lower() for part in parts]
            assert len(set(names)) == len(names), (environment, key)
            assert {"server", "port", "database", "user id", "password"} <= set(names)
            assert "user" not in names


def test_q13_passwords_of_databases_keep_to_the_safe_alphabet() -> None:
    plan = resolve()
    by_name = {item["name"]: item for item in plan["vault_variables"]}
    for database in plan["databases"]:
        assert by_name[database["vault_password"]]["alphabet"] == "A-Za-z0-9_-"


def test_database_link_is_tls_with_a_checked_name_on_3x() -> None:
    assert "SSL Mode=VerifyFull;Root Certificate=/etc/santedb/tls/ca.crt" in variables()["SDB_DB_MAIN"]
    assert "SSL Mode=Require" in variables(santedb_line="2.x")["SDB_DB_MAIN"]
    assert "VerifyFull" not in variables(santedb_line="2.x")["SDB_DB_MAIN"]


def test_failover_names_both_hosts() -> None:
    cold = variables(database_failover="cold_standby")["SDB_DB_MAIN"]
    assert re.match(r"server=[^;,]+:5432,[^;,]+:5432;port=5432;", cold)
    assert "Target Session Attributes" not in cold
    assert "Target Session Attributes=primary" in variables(database_failover="streaming_replication")["SDB_DB_MAIN"]
    assert "," not in variables(database_failover="streaming_replication", santedb_line="2.x")["SDB_DB_MAIN"]


def test_q14_c10_hl7_listens_in_clear_behind_the_stream() -> None:
    values = variables(**MPI, hl7_client_certificates=True)
    assert values["SDB_HL7_LISTEN"] == "llp://0.0.0.0:2100"
    assert "SDB_HL7_SERVER_CERT" not in values
    assert "SDB_HL7_CLIENT_AUTH" not in values


def test_q15_hl7_timeout_is_in_seconds() -> None:
    assert 60 <= int(variables(**MPI)["SDB_HL7_TIMEOUT"]) <= 300


def test_q16_hl7_authentication_and_domain_are_explicit() -> None:
    values = variables(**MPI)
    assert values["SDB_HL7_AUTHENTICATION"] == "Msh8"
    assert values["SDB_HL7_LOCAL_DOMAIN"] == "TEST_REGISTRY"
    assert variables(**MPI, hl7_local_domain="TESTLAND")["SDB_HL7_LOCAL_DOMAIN"] == "TESTLAND"
    assert variables(**MPI, hl7_ssn_domain="NID")["SDB_HL7_SSN_DOMAIN"] == "NID"
    none = variables("staging", **MPI, hl7_authentication="none", environments=["staging"])
    assert none["SDB_HL7_AUTHENTICATION"] == "None"


def test_q18_ihe_features_come_after_what_they_build_on() -> None:
    listed = tokens(**MPI)
    for token in ("IHE_PIX", "IHE_PDQ"):
        assert listed.index("HL7") < listed.index(token)
    for token in ("IHE_PIXM", "IHE_PDQM", "IHE_PMIR"):
        assert listed.index("FHIR") < listed.index(token)


def test_q18_pdqm_keeps_every_extension() -> None:
    extensions = variables(**MPI)["SDB_FHIR_EXTENSION"].split(";")
    assert extensions == CATALOG["features"]["fhir_extensions"]
    assert "http://hl7.org/fhir/StructureDefinition/patient-mothersMaidenName" in extensions
    without = {**MPI, "standards": [item for item in MPI["standards"] if item != "ihe_pdqm"]}
    assert "SDB_FHIR_EXTENSION" not in variables(**without)


def test_q19_interfaces_keep_token_authentication_and_no_cors() -> None:
    for name in PLANS:
        for values in plan_of(PLANS[name])["environment_variables"].values():
            assert not [key for key in values if re.fullmatch(r"SDB_(FHIR|HDSI|AMI|BIS|WWW)_(AUTH|CORS)", key)]


def test_q23_mdm_takes_bare_resource_names_and_no_auto_merge() -> None:
    values = variables(**MPI, auto_merge=True, mdm_resources=["Patient", "Place"])
    assert values["SDB_MDM_RESOURCE"] == "Patient;Place"
    assert "SDB_MDM_AUTO_MERGE" not in values


def test_q24_audits_are_stored_locally_whatever_is_shipped() -> None:
    atna = {"endpoint": "audit.example.org:6514", "transport": "stcp", "format": "dicom"}
    shipped = resolve(audit_dispatch="atna", audit_atna=atna, audit_store="remote_only")
    ids = [feature["id"] for feature in shipped["features"]]
    assert {"AUDIT_REPO", "AUDIT_SHIP"} <= set(ids)
    values = shipped["environment_variables"]["production"]
    assert re.fullmatch(r"stcp://[a-z0-9.-]+:6514", values["SDB_AUDIT_SHIP_TARGET"])
    assert values["SDB_AUDIT_SHIP_MODE"] == "DICOM"
    assert values["SDB_AUDIT_SHIP_CERT"] == "{{ icdr_audit_thumbprint }}"
    staging = shipped["environment_variables"]["staging"]
    assert staging["SDB_AUDIT_SHIP_SITE"] != values["SDB_AUDIT_SHIP_SITE"]
    assert staging["SDB_AUDIT_SHIP_TARGET"] != values["SDB_AUDIT_SHIP_TARGET"], (
        "each environment ships to its own collector"
    )


def test_q24_one_dispatcher_only() -> None:
    for name in PLANS:
        ids = {feature["id"] for feature in plan_of(PLANS[name])["features"]}
        assert not {"AUDIT_SHIP", "FHIR_AUDIT"} <= ids


def test_q26_openid_is_set_for_production() -> None:
    values = variables(
        domain_names=[{"environment": "production", "purpose": "api", "fqdn": "cdr.example.org", "public": True}]
    )
    assert values["SDB_OPENID_INSECURE_CLIENT_AUTH"] == "false"
    assert values["SDB_OPENID_ISSUER"] == "https://cdr.example.org/auth"
    assert values["SDB_OPENID_JWT_SIG_KEY"] == "jwsdefault"


def test_q30_values_keep_to_what_each_parser_takes() -> None:
    for name in PLANS:
        for values in plan_of(PLANS[name])["environment_variables"].values():
            assert values["SDB_LOG_LEVEL"] in ("LogAlways", "Critical", "Error", "Warning", "Informational", "Verbose")
            assert values.get("SDB_MATCHING_MODE", "WEIGHTED") in ("SIMPLE", "WEIGHTED")
            for key, value in values.items():
                if SETTINGS.get(key, (None, {}))[1].get("type") == "list":
                    assert not value.endswith(";")
                    assert all(item == item.strip() != "" for item in value.split(";"))


def test_q35_2x_lists_only_its_own_tokens() -> None:
    unknown = set(CATALOG["features"]["legacy_2_2_3"]["unknown_tokens"])
    missing = set(CATALOG["features"]["legacy_2_2_3"]["missing_settings"])
    for name, answers in PLANS.items():
        if answers.get("santedb_line") == "2.x":
            plan = plan_of(answers)
            assert not unknown & {feature["id"] for feature in plan["features"]}, name
            for values in plan["environment_variables"].values():
                assert not missing & set(values)
            assert "features.unverified_2x" in [warning["id"] for warning in plan["warnings"]]


def test_q46_q47_public_address_is_told_to_every_feature() -> None:
    values = variables(
        **MPI, domain_names=[{"environment": "production", "purpose": "api", "fqdn": "cr.example.org", "public": True}]
    )
    assert values["SDB_SWAGGER_BASE"] == "https://cr.example.org"
    assert values["SDB_FHIR_BASE"] == "https://cr.example.org/fhir"


def test_q48_no_secret_is_written_out() -> None:
    for name in PLANS:
        for values in plan_of(PLANS[name])["environment_variables"].values():
            for key, value in values.items():
                if "password=" in value.lower() or key.endswith(("_PASS", "_PWD")) or key.startswith("SDB_SEC_SIG_"):
                    assert "{{ " in value, key


def test_q51_time_zone_of_the_container_is_set() -> None:
    assert variables(time_zone="Africa/Nairobi")["TZ"] == "Africa/Nairobi"


def test_q53_free_text_search_is_listed_explicitly() -> None:
    assert "ADO_FTS" in tokens(roles=["mpi"])
    assert "ADO_FTS" not in tokens(roles=["identity_provider"])


def test_native_runtime_has_no_variables() -> None:
    plan = resolve(runtime="native")
    assert plan["environment_variables"] == {}
    assert all(environment["santedb_environment"] == {} for environment in plan["environments"])


def test_c02_cluster_shares_its_cache() -> None:
    assert "REDIS" in tokens(**CLUSTER)
    assert "RAMCACHE" not in tokens(**CLUSTER)


def test_role_split_cluster_spreads_the_interfaces() -> None:
    plan = resolve(**MPI, topology="role_split_cluster", cache="redis")
    hosts = plan["host_environment_variables"]["production"]
    assert len(hosts) >= 3
    lists = [set(values["SDB_FEATURE"].split(";")) for values in hosts.values()]
    everything = set(plan["environment_variables"]["production"]["SDB_FEATURE"].split(";"))
    assert set.union(*lists) == everything, "every feature runs somewhere"
    for token in ("AMI", "HDSI", "BIS"):
        assert len([listed for listed in lists if token in listed]) == 1
    for listed in lists:
        assert {"LOG", "SEC", "ADO", "PUBSUB_ADO", "AUDIT_REPO", "OPENID", "SWAGGER"} <= listed
        assert ("HL7" in listed) == ("IHE_PIX" in listed), "IHE features stay with what they build on"
    assert resolve()["host_environment_variables"] == {}


def test_answers_with_braces_stay_text() -> None:
    values = variables(password_policy={"regex": "^(?=.*[{][{]).{{12}}.{12,}$", "min_length": 12, "history": True})
    rendered = renderer().template.environment.from_string(values["SDB_SEC_PWD_REGEX"]).render()
    assert rendered == "^(?=.*[{][{]).{{12}}.{12,}$"


def test_fhir_resources_cover_what_other_choices_need() -> None:
    values = variables(**MPI, fhir_resources=["Patient"])
    assert {"Patient", "Bundle", "Subscription"} <= set(values["SDB_FHIR_RESOURCE"].split(";"))


def test_vendor_sample_for_the_mpi_is_covered() -> None:
    """SanteDB's sample for the MPI (santedb/santempi instant/docker-compose.yml): each feature, or the reason."""
    sample = CATALOG["features"]["feature_list"]["vendor_sample_mpi_3x"].split(";")
    listed = tokens(**MPI, cache="memory", topology="single_host")
    left_out = {"CORE": "Q35"}
    assert {token for token in sample if token not in listed} == set(left_out)
    for token, quirk in left_out.items():
        assert FEATURES[token]["never"]["quirk"] == quirk
    values = variables(**MPI, cache="memory", topology="single_host")
    assert values["SDB_HL7_AUTHENTICATION"] == "Msh8"
    assert values["SDB_MATCHING_MODE"] == "WEIGHTED"
    assert values["SDB_MDM_RESOURCE"] == "Patient"  # the sample's "=configuration" suffix is ignored (Q23)
    assert values["SDB_DATA_POLICY_ACTION"].upper() == "HIDE"


def test_image_default_for_the_mpi_is_covered() -> None:
    default = (
        "RAMCACHE;ADO;PUBSUB_ADO;SEC;LOG;FHIR;HL7;HDSI;AMI;BIS;SWAGGER;AUDIT_REPO;OPENID;MDM;MATCHING;"
        "IHE_PIXM;IHE_PDQM;IHE_PMIR"
    )
    assert set(default.split(";")) <= set(tokens(**MPI, cache="memory", topology="single_host"))


@pytest.mark.parametrize("role", ROLES)
def test_base_of_every_role_is_complete(role: str) -> None:
    listed = set(tokens(roles=[role]))
    assert {
        "LOG",
        "SEC",
        "ADO",
        "PUBSUB_ADO",
        "AUDIT_REPO",
        "OPENID",
        "HDSI",
        "AMI",
        "SWAGGER",
        "DATA_POLICY",
    } <= listed
    assert len({"RAMCACHE", "REDIS"} & listed) == 1


def test_c42_audit_repository_receives_and_warns_about_its_image() -> None:
    plan = resolve(roles=["audit_repository"])
    assert plan["environment_variables"]["production"]["SDB_SG_BIND"] == "tcp://0.0.0.0:11514"
    assert "features.derived_image_santeguard" in [warning["id"] for warning in plan["warnings"]]
