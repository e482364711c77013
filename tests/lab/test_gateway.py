"""A clinic's gateway that Ansible looks after: installed, restarted with its machine, changed to another version, taken off."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from tools.lab import Host, Lab, images, plans
from tools.lab.sites import Done, Site

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1800)]
GATEWAY = "gateway-rusi-01"
NEXT = "3.0.2099-alpha"
DATA = "/var/lib/santedb/gateway/instances/default/data"
FETCH = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9200/').read().decode())"


class Clinic:
    """The clinic's machine and the repository of the centre, of which only the clinic is there."""

    def __init__(self, lab: Lab, site: Site) -> None:
        """Boot the machine, render the plan, give the gateway an address, as its runbook says."""
        self.site = site
        lab.host("clinic", 50, docker=True)
        lab.start()
        site.render(
            offline=True,
            offline_patterns=["dcdr_gateway"],
            gateway_interfaces=["ui", "hl7v2"],
            deployment_patterns=["interoperable_registry", "disconnected_registry"],
            sites=[{"name": "Clinic 01", "code": "RUSI-01", "users": 4, "pattern": "dcdr_gateway"}],
        )
        assert site.make("secrets").code == 0
        self.known(ansible_host="10.77.0.50", gateway_managed=True)
        self.image = site.group("gateway")["gateway_image"]

    @property
    def host(self) -> Host:
        """The clinic's machine."""
        return self.site.host("clinic")

    def known(self, **values: Any) -> None:
        """Write what only people know about the gateway."""
        path = self.site.repository / f"inventories/{self.site.environment}/host_vars/{GATEWAY}/90-local.yml"
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
        path.write_text(f"---\n{yaml.safe_dump({**kept, **values})}", encoding="utf-8")

    def play(self, label: str, *more: str) -> Done:
        """Run the gateway's playbook as its first lines say; the centre's gate is not the clinic's subject here."""
        words = ("-i", f"inventories/{self.site.environment}/gateways.json", "--limit", f"{GATEWAY},localhost")
        return self.site.play("gateway", *words, "-e", "emergency_reason='a laboratory'", *more, label=label)

    def fine(self, label: str, *more: str) -> Done:
        """Run it; it must succeed."""
        done = self.play(label, *more)
        assert done.code == 0, done.text[-6000:]
        return done

    @property
    def page(self) -> str:
        """What the gateway answers on its own machine."""
        return self.host.ssh(f'python3 -c "{FETCH}"', check=False).stdout


@pytest.fixture(scope="module")
def clinic(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Clinic:
    """A bare machine of a clinic."""
    folder = tmp_path_factory.mktemp("gateway") / "site"
    site = Site(lab, folder, "production", plans.SPLIT, plans.demoland("production"))
    return Clinic(lab, site.prepared())


@pytest.fixture(scope="module")
def installed(clinic: Clinic) -> dict[str, Done]:
    """The runs that install it: in check mode, refused without an image name, then with it, then once more."""
    images.install_docker(clinic.host, compose=False)
    images.load(clinic.host, images.standin_archive(image="dcg"))
    return {
        "check": clinic.play("gateway --check", "--check"),
        "latest": clinic.play("gateway, latest", "-e", "gateway_image=santesuite/santedb-dcg:latest"),
        "first": clinic.fine("gateway"),
        "second": clinic.fine("gateway again"),
    }


def test_it_is_installed_once(clinic: Clinic, installed: dict[str, Done]) -> None:
    assert installed["check"].code == 0, installed["check"].text[-5000:]
    assert installed["latest"].code != 0
    assert "does not say which version to run" in installed["latest"].line
    assert set(installed["second"].recap.changed) <= {"localhost"}, installed["second"].changes()
    assert "Gateway stand-in" in clinic.page


def test_its_secret_is_its_own_and_only_root_reads_it(clinic: Clinic, installed: dict[str, Done]) -> None:
    secret = clinic.site.secrets["vault_application_org_santedb_disconnected_client_gateway_secret"]
    assert clinic.host.ssh("stat -c %U:%a /etc/santedb/gateway/environment").stdout == "root:600\n"
    assert secret in clinic.host.ssh("cat /etc/santedb/gateway/environment").stdout
    assert not [run for run in installed.values() if secret in run.text]
    given = json.loads(clinic.host.ssh("docker inspect santedb-gateway").stdout)[0]
    assert given["HostConfig"]["CapDrop"] == ["ALL"]
    assert given["Config"]["Image"] == clinic.image


def test_it_comes_back_with_its_machine(clinic: Clinic, installed: dict[str, Done]) -> None:
    clinic.host.ssh(f"touch {DATA}/unsent")
    clinic.host.power_cut()
    clinic.host.start()
    clinic.site.wait_for(lambda: "Gateway stand-in" in clinic.page, 120)
    clinic.host.ssh(f"test -e {DATA}/unsent")


def test_another_version_keeps_a_copy_of_its_state(clinic: Clinic, installed: dict[str, Done]) -> None:
    images.load(clinic.host, images.standin_archive(NEXT, image="dcg"))
    image = f"{clinic.image.rpartition(':')[0]}:{NEXT}"
    clinic.known(gateway_image=image)
    clinic.fine("gateway, next version")
    assert clinic.host.ssh("docker inspect -f '{{.Config.Image}}' santedb-gateway").stdout.strip() == image
    kept = clinic.host.ssh("tar tzf $(ls -d /var/lib/santedb/gateway/copies/*.tar.gz)").stdout
    assert "instances/default/data/unsent" in kept
    assert "Gateway stand-in" in clinic.page


def test_taken_off_it_leaves_its_data_and_nothing_else(clinic: Clinic, installed: dict[str, Done]) -> None:
    clinic.known(gateway_enabled=False)
    clinic.fine("gateway, taken off")
    assert clinic.page == ""
    assert clinic.host.ssh("docker ps -aq 2>/dev/null", check=False).stdout == ""
    left = "ls -d /etc/santedb/gateway /etc/santedb/roles/gateway /etc/systemd/system/*gateway* 2>/dev/null"
    assert clinic.host.ssh(left, check=False).stdout == ""
    clinic.host.ssh(f"test -e {DATA}/unsent")
    clinic.known(gateway_remove_data=True)
    clinic.fine("gateway, its data removed")
    assert clinic.host.ssh("ls /var/lib/santedb", check=False).stdout == ""
