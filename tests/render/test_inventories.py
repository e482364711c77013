"""Rendered inventories: what Ansible and yamllint make of them, and what must never be in them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import MINIMUM, PLAN_NAMES, ROOT, load_plan, renderer

GROUPS = {"icdr", "database", "cache", "queue", "proxy", "portal", "gateway", "audit", "backup", "monitoring"}
TOPOLOGIES = ["single_host", "split", "clustered", "role_split_cluster"]
BIN = Path(sys.executable).parent
VAULT = re.compile(r"\{\{ *(vault_[a-z0-9_]+) *\}\}")

SECTIONS = [source for source in renderer().sources if source.startswith("inventories/")]


def files(answers: dict[str, Any]) -> dict[str, str]:
    """Return {path: text} of the inventories of a plan."""
    return renderer().render({**MINIMUM, **answers}, only=SECTIONS)


def write(rendered: dict[str, str], directory: Path) -> Path:
    """Write the rendered files and what stands beside them in a deployment repository."""
    for path, text in rendered.items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    shutil.copy2(ROOT / "template" / "ansible.cfg", directory)
    return directory


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a tool of the virtual environment without anybody's settings and without a vault password."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    environment |= {"ANSIBLE_CONFIG": str(cwd / "ansible.cfg"), "ANSIBLE_LOCALHOST_WARNING": "False"}
    return subprocess.run(
        [str(BIN / command[0]), *command[1:]], cwd=cwd, env=environment, text=True, capture_output=True, check=False
    )


def listed(directory: Path, environment: str, *more: str) -> dict[str, Any]:
    """Return what ``ansible-inventory --list`` says of an environment; no warning is accepted."""
    sources = [argument for name in (f"inventories/{environment}", *more) for argument in ("-i", name)]
    done = run("ansible-inventory", *sources, "--list", cwd=directory)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def generated(rendered: dict[str, str], environment: str, group: str) -> dict[str, Any]:
    """Return the generated variables of one group."""
    loaded: dict[str, Any] = yaml.safe_load(rendered[f"inventories/{environment}/group_vars/{group}/10-generated.yml"])
    return loaded


@pytest.mark.parametrize("runtime", ["containers", "native"])
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_ansible_reads_every_topology_and_runtime(topology: str, runtime: str, tmp_path: Path) -> None:
    answers: dict[str, Any] = {"topology": topology, "runtime": runtime, "environments": ["staging"]}
    if topology in ("clustered", "role_split_cluster"):
        answers |= {"cache": "redis"}
    directory = write(files(answers), tmp_path)
    found = listed(directory, "staging")
    assert set(found["all"]["children"]) - {"ungrouped"} == GROUPS
    host = found["_meta"]["hostvars"][found["icdr"]["hosts"][0]]
    assert host["santedb_placeholder"] is True
    assert host["santedb_topology"] == topology
    assert ("santedb_environment" in host) == (runtime == "containers")
    assert all(isinstance(value, str) for value in host.get("santedb_environment", {}).values())


@pytest.mark.parametrize("name", PLAN_NAMES)
def test_yamllint_finds_nothing(name: str, tmp_path: Path) -> None:
    write(files(load_plan(name)), tmp_path)
    done = run("yamllint", "-s", "-c", str(ROOT / "template" / ".yamllint"), ".", cwd=tmp_path)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", PLAN_NAMES)
def test_groups_hold_the_hosts_of_the_plan(name: str) -> None:
    answers = load_plan(name)
    rendered = files(answers)
    plan = renderer().template.resolve(answers)
    for environment in plan["environments"]:
        inventory = yaml.safe_load(rendered[f"inventories/{environment['name']}/hosts.yml"])["all"]
        assert set(inventory["children"]) == GROUPS
        for group, names in environment["groups"].items():
            assert list((inventory["children"][group] or {}).get("hosts", {})) == names
        for host in plan["hosts"]:
            if host["environment"] == environment["name"]:
                variables = inventory["hosts"][host["name"]]
                assert variables["ansible_host"] == host["address"]
                assert variables.get("santedb_placeholder", False) == host["placeholder"]


@pytest.mark.parametrize("name", PLAN_NAMES)
def test_every_secret_is_a_listed_vault_reference(name: str) -> None:
    """Secrets appear as references, and each reference is one that santedb_required_secrets asks for."""
    rendered = files(load_plan(name))
    for environment in {path.split("/")[1] for path in rendered}:
        required = {secret["name"] for secret in generated(rendered, environment, "all")["santedb_required_secrets"]}
        for path, text in rendered.items():
            if path.split("/")[1] == environment:
                assert set(VAULT.findall(text)) <= required, path
        for group in GROUPS:
            for key, value in generated(rendered, environment, group).items():
                if re.search(r"_(password|secret|passphrase)$", key):
                    assert VAULT.fullmatch(value), f"{group}: {key}"


def test_placeholders_are_marked_line_by_line() -> None:
    text = files({"environments": ["staging"]})["inventories/staging/hosts.yml"]
    lines = [line for line in text.splitlines() if "ansible_host" in line]
    assert lines
    assert all("santedb_placeholder: true" in line and line.endswith("# PLACEHOLDER") for line in lines)
    assert all(line.split(":")[0].strip() for line in lines)


def test_every_variable_belongs_to_its_group() -> None:
    """Variables carry the name of the role that reads them, so that a host in several groups is not told two things."""
    rendered = files(load_plan("demoland-mpi"))
    owners: dict[str, str] = {}
    for group in sorted(GROUPS | {"all"}):
        allowed = {
            "all": ("santedb_", "host_baseline_", "disk_encryption_"),
            "icdr": ("icdr_", "santedb_environment", "santedb_image"),
        }.get(group, (f"{group}_",))
        for key in generated(rendered, "production", group):
            assert key.startswith(allowed), f"{group}: {key}"
            assert owners.setdefault(key, group) == group


def test_every_variable_has_a_comment_above_its_paragraph() -> None:
    for path, text in files(load_plan("demoland-mpi")).items():
        if path.endswith("10-generated.yml"):
            assert text.splitlines()[0].startswith("# Generated from the plan: do not edit.")
            assert "90-local.yml" in text.splitlines()[0]
            assert text.endswith("\n")
            assert not text.endswith("\n\n")
            assert "\n\n\n" not in text


def test_santedb_ports_name_groups_networks_or_everybody() -> None:
    rendered = files(load_plan("demoland-mpi"))
    for port in generated(rendered, "production", "all")["santedb_ports"]:
        assert port["group"] in GROUPS | {"all"}
        for source in port["from"]:
            assert len(source) == 1
            assert set(source) <= {"group", "cidr", "any"}
            assert source.get("group", "icdr") in GROUPS


def test_the_proxy_starts_closed_and_the_portal_is_behind_it() -> None:
    rendered = files(load_plan("demoland-mpi"))
    proxy = generated(rendered, "production", "proxy")
    assert proxy["proxy_open"] is False
    assert proxy["proxy_portal_upstreams"][0]["port"] == 9200
    assert proxy["proxy_hl7_stream"]["port"] != proxy["proxy_hl7_stream"]["upstream_port"]


@pytest.mark.parametrize("said", ["system", "domain"])
def test_who_assigns_identifiers_may_stand_with_the_system_or_with_the_domain(said: str) -> None:
    domain = {"name": "Hospital number", "namespace_id": "HN", "oid": "2.999.7", "scope": ["Patient"]}
    system = {"name": "Hospital", "standards": ["fhir_r4"], "application_name": "HOSPITAL", "direction": "inbound"}
    extra = {"identity_domains_assigned": ["HN"]} if said == "system" else {}
    assigning = {"assigning_applications": ["HOSPITAL"]} if said == "domain" else {}
    rendered = files({"connected_systems": [{**system, **extra}], "identity_domains": [{**domain, **assigning}]})
    group = yaml.safe_load(rendered["inventories/production/group_vars/icdr/10-generated.yml"])
    assert group["icdr_hardening_identity_domains"][0]["assigning_applications"] == ["HOSPITAL"]
    assert group["icdr_hardening_partners"][0]["identity_domains"] == ["HN"]


def test_servers_of_a_role_split_cluster_differ_in_their_own_variables() -> None:
    rendered = files({"topology": "role_split_cluster", "cache": "redis", "environments": ["production"]})
    hosts = yaml.safe_load(rendered["inventories/production/hosts.yml"])["all"]["hosts"]
    features = {
        name: host["icdr_host_environment"]["SDB_FEATURE"] for name, host in hosts.items() if "icdr_role" in host
    }
    assert len(set(features.values())) == 3
    routes = generated(rendered, "production", "proxy")["proxy_routes"]
    assert {route["role"] for route in routes} == {"ami", "hdsi", "bis"}
    assert {"/fhir", "/gs1"} & {route["path"] for route in routes} == {"/fhir"}
    without = files({"topology": "role_split_cluster", "cache": "redis", "roles": ["identity_provider"]})
    paths = {route["path"] for route in generated(without, "production", "proxy")["proxy_routes"]}
    assert not {"/fhir", "/gs1"} & paths, "what is not served is not passed on"
    assert generated(rendered, "production", "icdr")["icdr_rolling"] is True


@pytest.mark.parametrize("name", PLAN_NAMES)
def test_servers_get_every_file_rendered_for_them(name: str) -> None:
    rendered = renderer().render(load_plan(name))
    for environment in {path.split("/")[1] for path in rendered if path.startswith("inventories/")}:
        variables = generated(rendered, environment, "icdr")
        lists = ("icdr_config_files", "icdr_match_files", "icdr_data_files", "icdr_applets")
        sources = {item["src"] for key in lists for item in variables[key]}
        assert {path for path in rendered if path.startswith(f"santedb/{environment}/")} <= sources
        shipped = {path for path in rendered if path.startswith("santedb/")}
        for source in sources:
            assert source in shipped or (ROOT / "template" / source).is_file() or "applets" in source, source


def test_local_values_win_and_no_vault_is_needed(tmp_path: Path) -> None:
    directory = write(files({"topology": "single_host", "environments": ["production"]}), tmp_path)
    beside = directory / "inventories/production/group_vars/icdr/90-local.yml"
    beside.write_text("icdr_ram_limit_gb: 32\n", encoding="utf-8")
    own = directory / "inventories/production/host_vars/production-server-1/90-local.yml"
    own.parent.mkdir(parents=True)
    own.write_text("ansible_host: 10.9.9.9\n", encoding="utf-8")
    host = listed(directory, "production")["_meta"]["hostvars"]["production-server-1"]
    assert (host["icdr_ram_limit_gb"], host["ansible_host"]) == (32, "10.9.9.9")


def test_text_is_never_a_template(tmp_path: Path) -> None:
    """Answers with template braces are refused; should one get this far, Ansible still reads it as text."""
    text = "{{ lookup('pipe', 'touch owned') }} {% if x %} {# y"
    written = renderer().template.call("inventory", "j", {"name": text})
    (tmp_path / "show.yml").write_text(
        "- hosts: localhost\n  gather_facts: false\n  vars:\n"
        f"    said: {written}\n  tasks:\n"
        "    - ansible.builtin.copy: {dest: '{{ playbook_dir }}/said', mode: '0600', content: '{{ said.name }}'}\n",
        encoding="utf-8",
    )
    shutil.copy2(ROOT / "template" / "ansible.cfg", tmp_path)
    done = run("ansible-playbook", "show.yml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "said").read_text(encoding="utf-8") == text
    assert not (tmp_path / "owned").exists()


def offline(count: int) -> dict[str, Any]:
    sites = [
        {"name": f"Clinic {number}", "code": f"C{number:04}", "users": 4, "link": "slow"} for number in range(count)
    ]
    return {
        "roles": ["ims"],
        "offline": True,
        "offline_patterns": ["dcdr_gateway"],
        "sites": sites,
        "environments": ["production"],
    }


def test_a_thousand_clinics(tmp_path: Path) -> None:
    """Clinics are hosts of the group gateway where they are asked for, and cost the other runs nothing."""
    seconds: dict[int, float] = {}
    for count in (10, 1000):
        directory = write(files(offline(count)), tmp_path / str(count))
        start = time.perf_counter()
        found = listed(directory, "production")
        seconds[count] = time.perf_counter() - start
        assert "hosts" not in found.get("gateway", {})
    assert seconds[1000] <= 3 * seconds[10]
    sources = ("-i", "inventories/production", "-i", "inventories/production/gateways.json")
    done = run("ansible-inventory", *sources, "--list", "--export", cwd=directory)
    found = json.loads(done.stdout)
    assert len(found["gateway"]["hosts"]) == 1000
    assert found["gateway"]["vars"]["gateway_managed"] is False
    assert found["_meta"]["hostvars"]["gateway-c0007"]["gateway_optimization"] == "lzma"


def test_without_clinics_there_is_no_gateway_file() -> None:
    assert not [path for path in files({"environments": ["staging", "production"]}) if path.endswith("gateways.json")]
    assert [path for path in files(offline(2)) if path.endswith("gateways.json")] == [
        "inventories/production/gateways.json"
    ]


def test_ansible_settings_are_read_without_complaint(tmp_path: Path) -> None:
    shutil.copy2(ROOT / "template" / "ansible.cfg", tmp_path)
    done = run("ansible-config", "validate", "--format", "ini", "--type", "all", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "ansible.cfg").read_text(encoding="utf-8")
    assert "host_key_checking = True" in text
    assert not re.search(r"^inventory *= *inventories", text, re.MULTILINE)
