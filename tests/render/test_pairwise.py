"""Pairwise over the choices that shape a repository: whatever is combined, what comes out is sound."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import yaml
from allpairspy import AllPairs

from tests.support import MINIMUM, ROOT, renderer

NETWORK = {"name": "vpn", "cidr": "10.9.0.0/16", "purpose": "VPN", "trusted": True}

# Each value is what it adds to the answers. The set is fixed: same values, same order, same rows in every run.
CHOICES: dict[str, list[dict[str, Any]]] = {
    "roles": [
        {"roles": [role]}
        for role in (
            "mpi", "cdr", "mfr", "mpr", "product_registry", "shr", "ims", "emr", "audit_repository", "identity_provider",
        )
    ] + [{"roles": ["mpi", "shr"]}, {"roles": ["mfr", "mpr", "product_registry"]}],
    "topology": [{"topology": value} for value in ("single_host", "split", "clustered", "role_split_cluster")],
    "runtime": [{}, {"runtime": "native"}],
    "line": [{}, {"santedb_line": "2.x", "dispatcher_queue": "file"}],
    "standards": [
        {},
        {"standards": ["fhir_r4", "openid_connect", "hdsi", "ami", "bis", "openapi"]},
        {"standards": ["hl7v2_sllp", "openid_connect", "hdsi", "ami", "gs1_bms_xml"], "hl7_client_certificates": True},
        {"standards": ["fhir_r4", "hl7v2_llp", "openid_connect", "hdsi", "ami"], "networks": [NETWORK]},
    ],
    "offline": [
        {},
        {"offline": True},
        {
            "offline": True,
            "offline_patterns": ["dcdr_gateway", "android_app"],
            "sites": [{"name": f"Clinic {n}", "code": f"C{n}", "users": 3, "link": "slow"} for n in range(12)],
        },
    ],
    "tls": [
        {},
        {"tls_certificate_source": "organization_ca", "client_certificate_scope": "all_rest_apis"},
        {"tls_certificate_source": "national_ca", "tls_termination": "load_balancer", "client_certificate_scope": "oauth_only"},
    ],
    "audit": [
        {},
        {"audit_dispatch": "atna", "audit_atna": {"endpoint": "audit.example.org:6514", "transport": "stcp", "format": "dicom"}},
        {"audit_store": "santeguard", "audit_complete_trail": True},
    ],
    "database": [
        {},
        {"database_placement": "same_server", "database_failover": "cold_standby"},
        {"database_placement": "separate_servers", "database_failover": "streaming_replication", "read_replicas": 1},
    ],
    "cache": [{"cache": "redis"}, {"cache": "memory"}],
}  # fmt: skip


def possible(row: list[dict[str, Any]]) -> bool:
    """Leave out what the constraints refuse: a cluster without shared cache (C02), a native server of the 2.x line (D52)."""
    merged = {key: value for choice in row for key, value in choice.items()}
    clustered = merged.get("topology") in ("clustered", "role_split_cluster")
    if merged.get("runtime") == "native" and merged.get("santedb_line") == "2.x":
        return False
    return not (clustered and merged.get("cache") == "memory")


ROWS = [
    {**MINIMUM, **{k: v for choice in row for k, v in choice.items()}}
    for row in AllPairs(list(CHOICES.values()), filter_func=possible)
]


def label(row: dict[str, Any]) -> str:
    """A readable test id."""
    short = [
        str(value) if not isinstance(value, list | dict) else key
        for key, value in row.items()
        if key not in MINIMUM and key != "roles"
    ]
    return "+".join([*row["roles"], *short])[:90]


@pytest.mark.parametrize("answers", ROWS, ids=[label(row) for row in ROWS])
def test_combination_is_sound(answers: dict[str, Any], tmp_path: Path) -> None:
    files = renderer().render(answers)
    problems: list[str] = []
    for name, text in files.items():
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        problems += [f"{name}: {problem}" for problem in flaws(name, text)]
    assert not problems, "\n".join(problems[:20])

    for static in (".yamllint", "ansible.cfg"):
        shutil.copy2(ROOT / "template" / static, tmp_path / static)
    check_yaml(tmp_path)
    check_inventories(tmp_path, files)
    check_requests(tmp_path, files)


REFERENCE = re.compile(r"\{\{\s*([a-z_][\w.]*)(\[[^\]]+\])?(\s*\|[^}]*)?\s*\}\}")


def flaws(name: str, text: str) -> list[str]:
    """Return what is wrong with one rendered file: left-over Jinja, secrets, XML that does not parse."""
    found: list[str] = []
    outside = REFERENCE.sub("", text)
    if name.startswith(("santedb/", "audit/", "inventories/")) or name == "plan.yml":
        outside = re.sub(r"\{%.*?%\}", "", outside) if name.startswith(("santedb/", "audit/")) else outside
        if name != "plan.yml" and re.search(r"\{\{|\}\}(?!\})", re.sub(r"[{}\[\],]*\}\}", "", outside)):
            found.append("unrendered braces")
    elif re.search(r"(?<!\$)\{\{|\{%", outside):
        found.append("unrendered braces")
    if "Undefined" in text:
        found.append("an undefined value was printed")
    if name.endswith(".xml"):
        try:
            ElementTree.fromstring(re.sub(r"\{%.*?%\}", "", REFERENCE.sub("x", text)))
        except ElementTree.ParseError as error:
            found.append(f"not well-formed XML: {error}")
    return found


def check_yaml(directory: Path) -> None:
    """yamllint, strict, with the repository's own configuration."""
    from yamllint import linter
    from yamllint.config import YamlLintConfig

    configuration = YamlLintConfig(file=str(directory / ".yamllint"))
    problems = [
        f"{path.relative_to(directory)}:{problem}"
        for path in sorted(directory.rglob("*.yml"))
        if not configuration.is_file_ignored(str(path.relative_to(directory)))
        for problem in linter.run(path.read_text(encoding="utf-8"), configuration, str(path))
    ]
    assert not problems, "\n".join(problems[:20])


def check_inventories(directory: Path, files: dict[str, str]) -> None:
    """ansible-inventory --list of every environment, and no SDB_ variable outside the catalogue."""
    catalog = renderer().template.catalog
    known = {setting["name"] for feature in catalog["features"]["features"] for setting in feature.get("settings", [])}
    known |= {setting["name"] for setting in catalog["features"].get("host_settings", [])}
    environments = sorted({name.split("/")[1] for name in files if name.startswith("inventories/")})
    assert environments
    for environment in environments:
        done = subprocess.run(
            [str(Path(sys.executable).parent / "ansible-inventory"), "-i", f"inventories/{environment}", "--list"],
            cwd=directory, check=False, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "WARNING" not in done.stderr, done.stderr
        listed = json.loads(done.stdout)
        for group in ("icdr", "database", "proxy"):
            assert listed[group]["hosts"], f"{environment}: the group {group} is empty"
        for host, variables in listed["_meta"]["hostvars"].items():
            for variable in variables.get("santedb_environment", {}):
                assert variable in known or variable in ("SDB_FEATURE", "TZ") or variable.startswith("SDB_DB_"), (
                    f"{environment} {host}: {variable} is not in the catalogue"
                )


def check_requests(directory: Path, files: dict[str, str]) -> None:
    """Every certificate request configuration is accepted by OpenSSL."""
    requests = [name for name in files if name.endswith(".cnf")]
    assert requests
    key = directory / "key.pem"
    subprocess.run(
        ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(key)],
        check=True,
        capture_output=True,
    )
    for name in requests:
        done = subprocess.run(
            ["openssl", "req", "-config", name, "-new", "-key", str(key), "-out", "/dev/null"],
            cwd=directory, check=False, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{name}: {done.stderr}"


def test_pairwise_set_is_fixed() -> None:
    again = [
        {**MINIMUM, **{k: v for choice in row for k, v in choice.items()}}
        for row in AllPairs(list(CHOICES.values()), filter_func=possible)
    ]
    assert yaml.safe_dump(again) == yaml.safe_dump(ROWS)
    assert len(ROWS) >= 40
