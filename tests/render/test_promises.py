"""What the `generator` constraints promise about every rendered repository (`proved_by` in catalog/constraints.yml)."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import copier
import pytest
import yaml

from tests.support import ROOT, load_plan


class Repository:
    """A rendered repository, its plan and its inventories."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def plan(self) -> dict[str, Any]:
        plan: dict[str, Any] = yaml.load((self.path / "plan.yml").read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
        return plan

    @property
    def environments(self) -> list[str]:
        return [environment["name"] for environment in self.plan["environments"]]

    def group(self, environment: str, group: str) -> dict[str, Any]:
        path = self.path / "inventories" / environment / "group_vars" / group / "10-generated.yml"
        variables: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
        return variables

    def texts(self, *parts: str) -> dict[str, str]:
        """The files people or Ansible hand to a host, below one of the given directories."""
        return {
            path.relative_to(self.path).as_posix(): path.read_text(encoding="utf-8")
            for part in parts
            for path in sorted((self.path / part).rglob("*"))
            if path.is_file()
        }


@pytest.fixture(scope="module")
def rendered(template_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Repository]:
    done: dict[str, Repository] = {}

    def render(name: str) -> Repository:
        if name not in done:
            path = tmp_path_factory.mktemp(name) / "repository"
            copier.run_copy(str(template_dir), path, data=load_plan(name), defaults=True, quiet=True, unsafe=False)
            done[name] = Repository(path)
        return done[name]

    return render


Render = Callable[[str], Repository]


def without_comments(xml: str) -> str:
    return re.sub(r"<!--.*?-->", "", xml, flags=re.DOTALL)


def proxy_templates() -> str:
    return "\n".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "template/roles/proxy/templates").rglob("*.j2")
    )


def test_c03_all_servers_of_a_cluster_read_the_same_match_files(rendered: Render) -> None:
    repository = rendered("island-shr-clustered")
    for environment in repository.environments:
        files = repository.group(environment, "icdr")["icdr_match_files"]
        assert files
        assert all((repository.path / file["src"]).is_file() for file in files)
        assert not (repository.path / "inventories" / environment / "host_vars").exists()
        assert "icdr_match_files" not in (repository.path / "inventories" / environment / "hosts.yml").read_text(
            encoding="utf-8"
        )


def test_c04_signing_keys_are_explicit_and_shared(rendered: Render) -> None:
    repository = rendered("island-shr-clustered")
    for environment in repository.environments:
        variables = repository.group(environment, "icdr")["santedb_environment"]
        assert variables["SDB_SEC_SIG_default"]
        assert variables["SDB_SEC_SIG_jwsdefault"]
        assert "SDB_SEC_SIG" not in (repository.path / "inventories" / environment / "hosts.yml").read_text(
            encoding="utf-8"
        )


def test_c05_the_proxy_verifies_certificates_and_drops_the_header(rendered: Render) -> None:
    repository = rendered("island-shr-clustered")
    assert repository.group("production", "proxy")["proxy_client_certificates"] == "oauth_only"
    assert "ssl_verify_client" in proxy_templates()
    assert re.search(r'proxy_set_header\s+X-SSL-ClientCert\s+"";', proxy_templates())


def test_c06_no_certificate_header_is_trusted_by_the_application_server(rendered: Render) -> None:
    for name, text in rendered("island-shr-clustered").texts("santedb", "inventories").items():
        assert "ClientCertificateAccessBehavior" not in without_comments(text), name
        assert "allowClientHeader" not in without_comments(text), name


def test_c08_the_proxy_demands_a_known_client_certificate(rendered: Render) -> None:
    repository = rendered("island-shr-clustered")
    register = {certificate["id"]: certificate for certificate in repository.plan["certificates"]}
    for environment in repository.environments:
        assert register[f"{environment}-clients-ca"]["kind"] == "ca"
        assert register[f"{environment}-partner-general-hospital-emr"]["maps_to"]
    assert "ssl_client_certificate" in proxy_templates()


def test_c10_hl7_over_tls_has_a_stream_with_its_certificate(rendered: Render) -> None:
    repository = rendered("island-shr-clustered")
    for environment in repository.environments:
        assert repository.group(environment, "proxy")["proxy_hl7_stream"]["enabled"] is True
        (certificate,) = [entry for entry in repository.plan["certificates"] if entry["id"] == f"{environment}-hl7"]
        assert certificate["hosts_group"] == "proxy"
        assert repository.group(environment, "icdr")["santedb_environment"]["SDB_HL7_LISTEN"].startswith("llp://")
        ports = repository.group(environment, "all")["santedb_ports"]
        (stream,) = [port for port in ports if port["service"] == "hl7v2-tls"]
        assert (stream["group"], stream["tls"]) == ("proxy", True)
        (inside,) = [port for port in ports if port["service"] == "hl7v2-llp"]
        assert inside["from"] == [{"group": "proxy"}]
    for name, text in repository.texts("santedb", "inventories").items():
        assert "sllp://" not in without_comments(text), name
        assert "SDB_HL7_SERVER_CERT" not in without_comments(text), name


def test_c14_only_the_proxy_reaches_the_portal(rendered: Render) -> None:
    repository = rendered("island-shr-clustered")
    for environment in repository.environments:
        ports = [port for port in repository.group(environment, "all")["santedb_ports"] if port["group"] == "portal"]
        assert ports
        for port in ports:
            sources = [source.get("group") for source in port["from"]]
            assert set(sources) <= {"proxy", "monitoring"}, "beside the proxy, only the plan's own probes"


@pytest.mark.parametrize("name", ["demoland-mpi", "island-shr-clustered"])
def test_c16_unsigned_applets_are_refused(name: str, rendered: Render) -> None:
    repository = rendered(name)
    for environment in repository.environments:
        text = without_comments("".join(repository.texts(f"santedb/{environment}").values()))
        assert 'allowUnsignedApplets="false"' in text
        assert 'allowUnsignedApplets="true"' not in text


def test_c20_refused_fields_stand_in_the_mounted_configuration(rendered: Render) -> None:
    repository = rendered("demoland-mpi")
    for name, text in repository.texts("santedb", "inventories").items():
        assert "SDB_DATA_POLICY_FORBID" not in without_comments(text), name
    for environment in repository.environments:
        mounted = {file["src"] for file in repository.group(environment, "icdr")["icdr_config_files"]}
        text = "".join((repository.path / source).read_text(encoding="utf-8") for source in mounted)
        for field in load_plan("demoland-mpi")["forbidden_fields"]:
            assert f'key="forbid.{field}" value="true"' in without_comments(text)


def test_c22_documents_name_the_encrypted_fields(rendered: Render) -> None:
    text = (rendered("product-registry").path / "docs" / "operational-architecture.md").read_text(encoding="utf-8")
    for entry in load_plan("product-registry")["ale_fields"]:
        assert entry["field"] in text


def test_c40_session_length_stands_in_the_mounted_configuration(rendered: Render) -> None:
    repository = rendered("demoland-mpi")
    for name, text in repository.texts("santedb", "inventories").items():
        assert "SDB_SEC_POL_SESSION" not in without_comments(re.sub(r"(?m)^\s*#.*$", "", text)), name
    for environment in repository.environments:
        text = without_comments("".join(repository.texts(f"santedb/{environment}").values()))
        assert '"auth.session.length" enabled="true"><timespan>PT30M<' in text


def test_c42_the_audit_repository_listens_to_its_sources(rendered: Render) -> None:
    repository = rendered("audit-repository")
    (environment,) = repository.environments
    variables = repository.group(environment, "icdr")["santedb_environment"]
    assert "SG" in variables["SDB_FEATURE"].split(";")
    assert variables["SDB_SG_BIND"]
    source = load_plan("audit-repository")["connected_systems"][0]["source_network"]
    ports = [port for port in repository.plan["ports"] if port["service"].startswith("audit-syslog")]
    assert any(entry.get("cidr") == source for port in ports for entry in port["from"])
