"""The effective answers: blanks follow the roles, what does not apply is neutral, every field is there."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from santescaffold.template import Template

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = Template(ROOT)
ROLES = [role["id"] for role in TEMPLATE.catalog["roles"]["roles"]]
QUESTIONS = {name: question for name, question in TEMPLATE.catalog["questions"].items() if "group" in question}
MINIMAL = {
    "project_name": "Demoland Client Registry",
    "organization": "Ministry of Health of Demoland",
    "jurisdiction": "Republic of Demoland",
    "country_code": "XD",
    "vision_statement": "Every person is known once, wherever they seek care.",
}


MPI = {"fhir_r4", "hl7v2_sllp", "ihe_pix", "ihe_pdq", "ihe_pixm", "ihe_pdqm", "ihe_pmir"}


def effective(**answers: Any) -> dict[str, Any]:
    return TEMPLATE.effective({**MINIMAL, **answers})


def check_shape(a: dict[str, Any]) -> None:
    """Hold every value to the promise templates rely on: a known type, and all fields there."""
    assert list(a) == list(QUESTIONS)
    for name, question in QUESTIONS.items():
        value, form = a[name], question["form"]
        if form in ("multi", "list"):
            assert isinstance(value, list), name
        elif form == "bool":
            assert isinstance(value, bool), name
        elif form == "int":
            assert value is None or (isinstance(value, int) and not isinstance(value, bool)), name
        elif form == "struct":
            assert value is None or list(value) == list(question["fields"]), name
        else:
            assert value is None or (isinstance(value, str) and value != ""), name
        if form == "multi":
            assert set(value) <= set(question["allowed"]), name
        if form == "choice":
            assert value is None or value in question["allowed"], name
        if form == "list":
            for item in value:
                assert list(item) == list(question["item"]), name
                for field, spec in question["item"].items():
                    if spec["form"] in ("list", "multi"):
                        assert isinstance(item[field], list), (name, field)


def errors(a: dict[str, Any], **answers: Any) -> list[str]:
    found = TEMPLATE.findings({**MINIMAL, **answers}, a)
    return [f"{finding['id']} {finding['message']}" for finding in found if finding["severity"] == "error"]


@pytest.mark.parametrize("count", [1, 2])
def test_the_plan_of_all_defaults_is_valid_for_every_role_and_pair_of_roles(count: int) -> None:
    for roles in itertools.combinations(ROLES, count):
        a = effective(roles=list(roles))
        check_shape(a)
        assert errors(a, roles=list(roles)) == [], roles


def test_the_plan_of_all_defaults_is_valid_for_all_roles_together() -> None:
    a = effective(roles=ROLES)
    check_shape(a)
    assert errors(a, roles=ROLES) == []
    assert a["mdm_resources"] == ["Patient", "Provider", "Material", "Place"]


@pytest.mark.parametrize("line", ["2.x", "3.x"])
@pytest.mark.parametrize("topology", ["single_host", "split", "clustered", "role_split_cluster"])
@pytest.mark.parametrize("offline", [False, True])
def test_defaults_hold_on_every_line_and_topology(line: str, topology: str, offline: bool) -> None:
    answers = {"santedb_line": line, "topology": topology, "offline": offline}
    a = effective(**answers)
    check_shape(a)
    assert errors(a, **answers) == []
    clustered = topology in ("clustered", "role_split_cluster")
    assert a["dispatcher_queue"] == ("rabbitmq" if clustered and line == "3.x" else "file")
    assert a["mfa"] == ("required" if line == "3.x" else "optional")
    assert bool(a["offline_patterns"]) is offline


@pytest.mark.parametrize(
    ("role", "storage", "resources", "matching", "standards"),
    [
        ("mpi", "mdm", ["Patient"], "weighted", MPI),
        ("cdr", "default", [], "none", {"fhir_r4"}),
        ("mfr", "mdm", ["Place"], "weighted", {"fhir_r4"}),
        ("mpr", "mdm", ["Provider"], "weighted", {"fhir_r4"}),
        ("product_registry", "mdm", ["Material"], "weighted", {"fhir_r4"}),
        ("shr", "default", [], "none", {"fhir_r4"}),
        ("ims", "default", [], "none", {"fhir_r4"}),
        ("emr", "default", [], "none", {"fhir_r4"}),
        ("audit_repository", "default", [], "none", {"ihe_atna"}),
        ("identity_provider", "default", [], "none", set()),
    ],
)
def test_what_follows_from_a_role(
    role: str, storage: str, resources: list[str], matching: str, standards: set[str]
) -> None:
    a = effective(roles=[role])
    assert (a["storage_mode"], a["mdm_resources"], a["matching_mode"]) == (storage, resources, matching)
    assert set(a["standards"]) == standards | {"openid_connect", "hdsi", "ami", "bis"}
    assert "hl7v2_llp" not in a["standards"]
    assert [item["resource"] for item in a["match_configurations"]] == resources
    assert a["stored_resources"]
    assert bool(a["fhir_resources"]) is ("fhir_r4" in standards)
    hl7 = ("msh8", "DEMOLAND_CLIENT_REGISTRY") if role == "mpi" else (None, None)
    assert (a["hl7_authentication"], a["hl7_local_domain"]) == hl7


def test_answers_given_are_left_alone() -> None:
    given = {
        "storage_mode": "sim",
        "matching_mode": "simple",
        "standards": ["openid_connect", "hdsi", "ami"],
        "cache": "memory",
        "dispatcher_queue": "rabbitmq",
        "stored_resources": ["patients"],
        "configuration_encryption": True,
        "audit_enterprise_site": "moh-1",
        "default_applications_used": ["fiddler"],
        "time_zone": "Africa/Nairobi",
    }
    a = effective(**given)
    assert {name: a[name] for name in given} == given
    assert a["mdm_resources"] == []
    assert a["fhir_resources"] == []


def test_what_does_not_apply_is_neutral_even_when_it_was_answered() -> None:
    a = effective(
        offline=False,
        offline_patterns=["android_app"],
        sites=[{"name": "Clinic", "code": "C1"}],
        dcdr_count=9,
        dcdr_backup_public=True,
        sync_subscription="all",
        audit_dispatch="none",
        audit_atna={"endpoint": "a.example.org:6514"},
        mfa="none",
        mfa_method="sms",
    )
    neutral = {
        "offline_patterns": [],
        "sites": [],
        "dcdr_count": None,
        "dcdr_backup_public": False,
        "sync_subscription": None,
        "audit_atna": None,
        "mfa_method": None,
    }
    assert {name: a[name] for name in neutral} == neutral


def test_an_explicitly_empty_master_list_counts_as_blank_for_the_plan() -> None:
    assert effective(mdm_resources=[])["mdm_resources"] == ["Patient"]
    assert effective(roles=["shr"], storage_mode="mdm")["mdm_resources"] == ["Patient"]
    assert effective(roles=["cdr"], storage_mode="mdm")["mdm_resources"] == ["Patient"]


def test_items_and_structures_get_every_field() -> None:
    a = effective(
        offline=True,
        link_profile="slow",
        offline_patterns=["android_app"],
        server_os="ubuntu",
        privacy_default_action="redact",
        sites=[{"name": "Clinic 01", "code": "C1", "go_live": yaml.safe_load("2027-03-01")}],
        hosts=[{"name": "h", "environment": "production", "groups": ["icdr"], "address": "10.0.0.1"}],
        connected_systems=[{"name": "EMR"}],
        sensitive_identity_domains=[{"domain": "HIV"}],
        ale_fields=[{"field": "entityNote.text", "mode": False}],
        encryption_at_rest=["ale"],
        accountable_person={"name": "Ruth Banda", "appointed_on": yaml.safe_load("2026-03-01")},
        password_policy={"min_length": 16},
        application_approval={"approver": "J. Mensah"},
        tra={"status": "approved"},
    )
    check_shape(a)
    site = {"link": "slow", "pattern": "android_app", "go_live": "2027-03-01", "local_systems": []}
    assert a["sites"][0] | site == a["sites"][0]
    assert a["dcdr_count"] == 1
    assert a["hosts"][0]["os"] == "ubuntu"
    partner = {"merge_permission": "local_only", "standards": [], "owner": None}
    assert a["connected_systems"][0] | partner == a["connected_systems"][0]
    assert a["sensitive_identity_domains"][0]["action"] == "redact"
    assert a["ale_fields"][0]["mode"] == "off"
    assert a["accountable_person"]["appointed_on"] == "2026-03-01"
    assert a["accountable_person"]["made_public"] is False
    assert a["password_policy"]["regex"].endswith(".{16,}$")
    assert a["password_policy"]["history"] is True
    assert a["application_approval"]["secret_rotation_days"] == 365


def test_standards_follow_the_audit_dispatch_and_applications_the_clients() -> None:
    assert "ihe_atna" in effective(roles=["cdr"], audit_dispatch="atna")["standards"]
    assert "fhir_audit" in effective(roles=["cdr"], audit_dispatch="fhir")["standards"]
    used = effective(roles=["ims"], offline=True, offline_patterns=["dcdr_gateway", "android_app", "desktop_app"])
    prefix = "org.santedb.disconnected_client"
    assert set(used["default_applications_used"]) == {
        "org.santedb.administration",
        "org.santedb.ims",
        f"{prefix}.www",
        f"{prefix}.gateway",
        f"{prefix}.android",
        f"{prefix}.win32",
    }
    assert effective(web_portal=False)["default_applications_used"] == ["org.santedb.administration"]


def test_release_line_and_runtime_decide_images_and_encryption() -> None:
    assert effective(santedb_line="2.x")["image_versions"]["mpi"] == "2.2.3"
    assert effective()["image_versions"]["mpi"] == "3.0.2098-alpha"
    pinned = effective(image_versions={"mpi": "sha256:" + "0" * 64})
    assert pinned["image_versions"]["mpi"].startswith("sha256:")
    assert effective(runtime="native")["configuration_encryption"] is True
    assert effective(runtime="native", santedb_line="2.x")["configuration_encryption"] is False
    assert effective(mfa="required", santedb_line="2.x")["mfa"] == "optional"


JUNK = [None, "", 5, -1.5, True, "word", [], ["word"], [5], {}, {"a": 1}, [{"a": []}], [None]]


@pytest.mark.parametrize("junk", JUNK, ids=repr)
def test_values_of_the_wrong_type_never_break_the_rendering(junk: Any) -> None:
    everything = TEMPLATE.effective(dict.fromkeys(QUESTIONS, junk))
    assert list(everything) == list(QUESTIONS)
    for name in (
        "roles",
        "offline_patterns",
        "mdm_resources",
        "match_configurations",
        "standards",
        "sites",
        "image_versions",
    ):
        assert list(effective(offline=True, **{name: junk})) == list(QUESTIONS)


@pytest.mark.parametrize("plan", sorted((ROOT / "tests/plans/valid").glob("*.yml")), ids=lambda path: path.stem)
def test_named_plans_are_complete_and_json(plan: Path) -> None:
    a = TEMPLATE.effective(yaml.safe_load(plan.read_text()))
    check_shape(a)
    assert json.loads(json.dumps(a)) == a
