"""The web portal where the proxy asks for client certificates: it has none to show, and gets in by its address."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import ROOT, load_plan, renderer

SCOPES = ["none", "oauth_only", "all_rest_apis"]
# What the roles make of the inventory, with the facts of a host that runs containers.
PLAYBOOK = """\
- hosts: all
  connection: local
  gather_facts: false
  vars:
    vault_application_org_santedb_disconnected_client_www_secret: made-up
  tasks:
    - ansible.builtin.set_fact:
        docker0: {ipv4: {address: 172.19.0.1, network: 172.19.0.0, prefix: "16"}}
        packages: {}
        distribution_major_version: "12"
        cacheable: true
    - ansible.builtin.import_role: {name: proxy, tasks_from: show}
      when: inventory_hostname in groups['proxy']
    - ansible.builtin.import_role: {name: portal, tasks_from: show}
      when: inventory_hostname in groups['portal']
"""
SHOW = {
    "proxy": {
        "ansible.builtin.template": {
            "src": "nginx.conf.j2",
            "dest": "{{ playbook_dir }}/nginx-{{ inventory_hostname }}",
        }
    },
    "portal": {
        "ansible.builtin.copy": {
            "content": "{{ _portal_hosts | to_json }}",
            "dest": "{{ playbook_dir }}/names-{{ inventory_hostname }}",
        }
    },
}


def shown(answers: dict[str, Any], environment: str, directory: Path, settings: str = "") -> Callable[[str], str]:
    """Return a reader of what the roles write for an environment of the plan."""
    inventories = [source for source in renderer().sources if source.startswith("inventories/")]
    for path, text in renderer().render(answers, only=inventories).items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    for role, task in SHOW.items():
        shutil.copytree(ROOT / "template/roles" / role, directory / "roles" / role)
        (directory / f"roles/{role}/tasks/show.yml").write_text(
            yaml.safe_dump([{**task, "vars": {"ansible_python_interpreter": sys.executable}}]), encoding="utf-8"
        )
    if settings:
        (directory / f"inventories/{environment}/group_vars/proxy/90-local.yml").write_text(settings, encoding="utf-8")
    shutil.copy2(ROOT / "template/ansible.cfg", directory)
    (directory / "show.yml").write_text(PLAYBOOK, encoding="utf-8")
    plain = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", f"inventories/{environment}", "show.yml"]
    done = subprocess.run(command, cwd=directory, env=plain, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return lambda name: (directory / name).read_text(encoding="utf-8")


def excused(nginx: str) -> list[str]:
    """Addresses from which no client certificate is asked."""
    (block,) = re.findall(r"geo \$realip_remote_addr \$excused \{\n(.*?)\n  \}", nginx, flags=re.DOTALL)
    return [line.split()[0] for line in block.splitlines() if line.strip().endswith(" 1;")]


def programming_interfaces(nginx: str) -> str:
    """Return the server block of the programming interfaces."""
    return nginx.split("# Programming interfaces.")[1].split("# Web portal.")[0]


@pytest.mark.parametrize("scope", SCOPES)
def test_the_portal_beside_the_proxy_gets_in_without_a_certificate(scope: str, tmp_path: Path) -> None:
    answers = {**load_plan("demoland-mpi"), "client_certificate_scope": scope}
    read = shown(answers, "staging", tmp_path)
    nginx = read("nginx-stg-proxy")
    for address in ("10.20.1.10", "172.19.0.0/16"):
        assert f"allow {address};" in programming_interfaces(nginx), "no trusted network: nginx would refuse the portal"
    if scope == "none":
        assert "$excused" not in nginx
        assert "$uncertified" not in nginx
    else:
        assert excused(nginx) == ["10.20.1.10", "172.19.0.0/16"]
        assert "if ($uncertified) {" in programming_interfaces(nginx)
    names = yaml.safe_load(read("names-stg-proxy"))
    assert names["cr.staging.demoland.example.org"] == "10.20.1.10", "another way in would show another address"


def test_a_portal_elsewhere_gets_in_by_its_host(tmp_path: Path) -> None:
    answers = {**load_plan("demoland-mpi"), "client_certificate_scope": "all_rest_apis"}
    answers["hosts"] = [
        {
            **host,
            "groups": {"stg-proxy": ["proxy"], "stg-app": ["icdr", "cache", "portal"]}.get(
                host["name"], host["groups"]
            ),
        }
        for host in answers["hosts"]
    ]
    read = shown(answers, "staging", tmp_path, "proxy_clients_excused: [198.51.100.7]\n")
    nginx = read("nginx-stg-proxy")
    assert excused(nginx) == ["10.20.1.20", "198.51.100.7"], "containers of the proxy's host are no portal"
    assert "allow 10.20.1.20;" in programming_interfaces(nginx)
    assert "allow 198.51.100.7;" not in nginx, "excused from the certificate, not let in"
    assert yaml.safe_load(read("names-stg-app"))["cr.staging.demoland.example.org"] == "10.20.1.10"


def test_without_a_portal_nobody_is_excused(tmp_path: Path) -> None:
    answers = {**load_plan("demoland-mpi"), "client_certificate_scope": "oauth_only", "web_portal": False}
    answers["deployment_patterns"] = [one for one in answers.get("deployment_patterns", []) if "portal" not in one]
    answers["hosts"] = [
        {**host, "groups": [group for group in host["groups"] if group != "portal"]} for host in answers["hosts"]
    ]
    answers["domain_names"] = [name for name in answers["domain_names"] if name["purpose"] != "portal"]
    nginx = shown(answers, "staging", tmp_path)("nginx-stg-proxy")
    assert excused(nginx) == []
    assert "if ($uncertified) {" in programming_interfaces(nginx)
