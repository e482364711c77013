"""What SanteDB's console is told about partners."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from tests.support import MINIMUM, renderer

PLUGIN = Path(__file__).resolve().parents[2] / "template/roles/icdr_hardening/filter_plugins/icdr_hardening.py"
CONSOLE = "org.santedb.administration"
WRITE, MERGE = "1.3.6.1.4.1.33349.3.1.5.9.2.6.1", "1.3.6.1.4.1.33349.3.1.5.9.2.6.3"


def grants(partner: dict[str, Any]) -> dict[str, str]:
    """The policies the console is told to give the partner's application."""
    spec = importlib.util.spec_from_file_location("icdr_hardening", PLUGIN)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    nothing: dict[str, Any] = {
        key: [] for key in ["published_applications", "locked_users", "groups", "domains", "users"]
    }
    wanted = {
        **nothing,
        "used": [{"name": CONSOLE, "secret": "s"}],
        "denied_policy": "1.2",
        "console_application": CONSOLE,
        "administrator_password": "p",
        "partners": [partner],
    }
    lines = [command["line"].split() for command in module.icdr_hardening_commands(wanted)]
    return {line[3].strip('"'): line[5] for line in lines if line[:2] == ["application.grant", '"EMR"']}


@pytest.mark.parametrize(
    ("asked", "allowed", "storage", "expected"),
    [
        ("local_only", True, "mdm", {WRITE: "DENY", MERGE: "DENY"}),
        ("write_master", True, "mdm", {WRITE: "GRANT", MERGE: "DENY"}),
        ("merge_master", True, "mdm", {WRITE: "GRANT", MERGE: "GRANT"}),
        ("merge_master", False, "mdm", {WRITE: "GRANT", MERGE: "DENY"}),
        ("merge_master", False, "default", {}),
    ],
)
def test_a_partner_may_merge_what_the_plan_permits(
    asked: str, allowed: bool, storage: str, expected: dict[str, str]
) -> None:
    system = {"name": "EMR", "standards": ["fhir_r4"], "application_name": "EMR", "merge_permission": asked}
    mdm = {"storage_mode": "mdm", "mdm_resources": ["Patient"], "matching_mode": "weighted"}
    answers = {**MINIMUM, "roles": ["cdr"], "connected_systems": [system], "external_master_merge": allowed}
    answers |= mdm if storage == "mdm" else {"storage_mode": storage}
    plan = renderer().template.resolve(answers)
    (partner,) = plan["partners"]
    assert grants({**partner, "application_secret": "x"}) == expected
    text = renderer().render(answers, ["docs/operational-architecture.md.jinja"])["docs/operational-architecture.md"]
    row = next((line for line in text.splitlines() if line.startswith("| Masters merged by partners |")), None)
    words = "EMR" if expected.get(MERGE) == "GRANT" else "refused"
    assert row == (f"| Masters merged by partners | {words} |" if expected else None)
