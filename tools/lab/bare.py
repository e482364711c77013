"""Bare hosts and the template's own roles on an inventory that a test writes: for what needs no rendered plan."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tools.lab import Lab
from tools.lab.namespaces import PROJECT

TEMPLATE = PROJECT / "template"
ADDRESSES = {"db": 10, "app": 11, "app2": 12, "stranger": 13, "authority": 14}
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
ADMINISTRATORS = [
    {"name": "amina", "keys": [f"{KEY} amina"]},
    {"name": "ben", "keys": [f"{KEY} ben"], "sudo": False},
]
PORTS = [
    {"group": "all", "service": "ssh", "port": 22, "protocol": "tcp", "from": [{"cidr": "10.77.0.0/24"}]},
    {"group": "database", "service": "postgresql", "port": 5432, "protocol": "tcp", "from": [{"group": "icdr"}]},
    {"group": "icdr", "service": "rest", "port": 8080, "protocol": "tcp", "from": [{"group": "database"}]},
    {"group": "icdr", "service": "https", "port": 443, "protocol": "tcp", "from": [{"any": True}]},
    {"group": "icdr", "service": "http", "port": 80, "protocol": "tcp", "from": [{"any": True}]},
    {"group": "icdr", "service": "closed", "port": 8443, "protocol": "tcp", "from": []},
]


def entry(name: str, kind: str, hosts: list[str], issuer: str, *sans: str, **more: Any) -> dict[str, Any]:
    """Return an entry of a certificate register."""
    return {
        "id": name,
        "environment": "staging",
        "kind": kind,
        "owner": "Ann",
        "subject": {"cn": name, "o": "Ministry", "c": "XD"},
        "sans": list(sans),
        "issuer": issuer,
        "key_usage": ["digitalSignature", "keyEncipherment"],
        "extended_key_usage": ["serverAuth"],
        "key": {"type": "rsa", "size": 2048},
        "lifetime_days": 365,
        "renew_before_days": 30,
        "installed_on": hosts,
        "path_certificate": f"/etc/santedb/tls/{name}.crt",
        "path_key": f"/etc/santedb/tls/{name}.key",
        "format": "pem",
        "key_origin": "host",
        "reload": None,
        "automated": issuer == "environment_ca",
        "renewal": "make certificates",
        **more,
    }


def register(hosts: list[str]) -> list[dict[str, Any]]:
    """Return a register with one entry of each kind for these hosts."""
    icdr = [host for host in hosts if host.startswith("app")]
    pfx = {"format": "pfx", "path_key": "/santedb/.x509/<THUMBPRINT>.pfx", "reload": "icdr"}
    authority = {
        "path_key": None,
        "extended_key_usage": [],
        "key_usage": ["keyCertSign", "cRLSign"],
        "automated": False,
    }
    return [
        entry("ca", "ca", hosts, "self_signed", **authority, lifetime_days=3650),
        entry("database", "server", ["db"], "environment_ca", "DNS:db.staging.invalid", "IP:10.77.0.10"),
        entry(
            "replication",
            "client",
            ["db"],
            "environment_ca",
            extended_key_usage=["clientAuth"],
            key={"type": "ecdsa", "size": 256},
        ),
        entry(
            "signing",
            "signing",
            icdr,
            "environment_ca",
            key_usage=["digitalSignature"],
            extended_key_usage=[],
            key_origin="controller",
            **pfx,
        ),
        entry("proxy", "server", ["app"], "self_signed", "DNS:api.staging.invalid", lifetime_days=90),
        entry("shared", "server", icdr, "environment_ca", "DNS:shared.staging.invalid"),
        entry("clients_ca", "ca", ["app"], "environment_ca", **authority),
        entry(
            "partner-lab",
            "client",
            [],
            "environment_ca",
            subject={"cn": "lab", "o": None, "c": None},
            path_certificate=None,
            path_key=None,
        ),
    ]


class Repository:
    """A deployment repository with the roles and playbooks of the template and an inventory of its own."""

    def __init__(self, path: Path, lab: Lab) -> None:
        """Copy roles and playbooks and write the inventory."""
        self.path, self.lab = path, lab
        for name in ("roles", "playbooks"):
            shutil.copytree(TEMPLATE / name, path / name)
        (path / "certificates/staging").mkdir(parents=True)
        (path / "inventories/staging").mkdir(parents=True)
        self.inventory()

    def inventory(self, hosts: tuple[str, ...] = ("db", "app"), **variables: Any) -> None:
        """Write the inventory of these hosts with variables for all of them."""

        def group(prefix: str) -> dict[str, Any]:
            found = [host for host in hosts if host.startswith(prefix)]
            return {"hosts": {host: {"ansible_host": f"10.77.0.{ADDRESSES[host]}"} for host in found}}

        values = {
            "santedb_environment_name": "staging",
            "santedb_production": False,
            "santedb_project": "Test",
            "santedb_organization": "Ministry",
            "santedb_country_code": "XD",
            "santedb_time_zone": "Africa/Nairobi",
            "santedb_trusted_networks": ["10.77.0.0/24"],
            "santedb_networks": [{"name": "lab", "cidr": "10.77.0.0/24", "trusted": True}],
            "santedb_ports": PORTS,
            "santedb_certificates": register(list(hosts)),
            "vault_certificates_ca_passphrase": "a passphrase of the laboratory",
            "host_baseline_administrators": ADMINISTRATORS,
            "host_baseline_ntp_servers": ["10.77.0.1"],
            "host_baseline_firewall_trial_seconds": 40,
            **variables,
        }
        data = {"all": {"vars": values, "children": {"icdr": group("app"), "database": group("db")}}}
        (self.path / "inventories/staging/hosts.yml").write_text(json.dumps(data), encoding="utf-8")

    def play(self, playbook: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a playbook."""
        return self.lab.ansible(
            "-i",
            "inventories/staging",
            f"playbooks/{playbook}.yml",
            *arguments,
            cwd=self.path,
            env={"ANSIBLE_ROLES_PATH": str(self.path / "roles")},
        )

    def fine(self, playbook: str, *arguments: str) -> str:
        """Run a playbook that must succeed; return its output."""
        done = self.play(playbook, *arguments)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        return done.stdout

    def refused(self, playbook: str, *arguments: str) -> str:
        """Run a playbook that must fail; return its output on one line."""
        done = self.play(playbook, *arguments)
        assert done.returncode == 2, done.stdout[-6000:] + done.stderr[-2000:]
        return re.sub(r"\s+", " ", done.stdout + done.stderr)


def changes(output: str) -> set[str]:
    """Return how much changed, of all hosts."""
    return set(re.findall(r"changed=(\d+)", output))
