"""The whole of a split plan on four bare hosts: `make secrets`, `make deploy`, `make verify`, and what callers then meet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = "staging"
HOSTS = {
    "edge": (41, ["proxy", "portal"]),
    "app": (42, ["icdr", "cache"]),
    "db": (43, ["database"]),
    "ops": (44, ["audit", "backup", "monitoring"]),
}
DOMAIN = "staging.demoland.example.org"


def answers() -> dict[str, Any]:
    """The README's example, Demoland's client registry, moved to the lab's network and its own authority."""
    plan: dict[str, Any] = yaml.safe_load((ROOT / "tests/plans/valid/demoland-mpi.yml").read_text(encoding="utf-8"))
    plan["hosts"] = [host for host in plan["hosts"] if host["environment"] != ENVIRONMENT]
    plan["networks"][0]["cidr"] = "10.77.0.1/32"  # administrators: the machine that runs Ansible
    plan["connected_systems"][0]["source_network"] = "10.77.0.0/24"
    return {
        **plan,
        "tls_certificate_source": "organization_ca",
        "client_certificate_scope": "oauth_only",
        "client_certificate_revocation": "none",
    }
