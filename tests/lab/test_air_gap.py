"""Without internet: the exact list of what a plan needs, a bundle of it, and bare hosts deployed from that bundle alone."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.lab import Host, Lab, images, plans
from tools.lab.settings import GATEWAY, PROXY_PORT, PROXY_URL
from tools.lab.sites import Site

pytestmark = [pytest.mark.lab, pytest.mark.timeout(3600)]
GROUPS = {
    "db": (51, ["database", "audit", "backup", "monitoring"]),
    "app": (52, ["icdr", "cache", "portal", "proxy"]),
}
# What a registry would give: SanteDB's own images are not to be had here, the archives of the stand-in are.
SKOPEO = """#!/bin/sh
set -eu
test "$1" = copy
part=${3#docker-archive:}
case $2 in
  docker://santesuite/santedb-mpi:*) cp %s "${part%%%%:*}" ;;
  docker://santesuite/santedb-www:*) cp %s "${part%%%%:*}" ;;
  *) echo "no such image: $2" >&2; exit 1 ;;
esac
"""


@pytest.fixture(scope="module")
def site(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Two bare hosts with everything on them, ready to be deployed."""
    answers = plans.demoland("staging")
    site = Site(lab, tmp_path_factory.mktemp("air") / "gap", "staging", GROUPS, answers).build({"db": [plans.VAULT]})
    plans.prepare(site)
    plans.open_the_gate(site)
    return site


@pytest.fixture(scope="module")
def bundle(site: Site) -> Path:
    """The bundle, as a connected machine makes it."""
    tools = site.folder / "bin"
    tools.mkdir()
    archives = [images.standin_archive(image=image) for image in ("mpi", "www")]
    (tools / "skopeo").write_text(SKOPEO % tuple(archives), encoding="utf-8")
    (tools / "skopeo").chmod(0o755)
    env = {
        "HOME": str(site.folder),
        "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "http_proxy": PROXY_URL,
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(images.wheels()),
    }
    words = ("artefacts", "ENV=staging", "ARGS=-e artefacts_download=true")
    done = site.lab.ansible(*words, program="make", cwd=site.repository, env=env)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return site.repository / "bundle"


@pytest.fixture(scope="module")
def listed(site: Site, bundle: Path) -> dict[str, Any]:
    """The list."""
    found: dict[str, Any] = yaml.safe_load((site.repository / "artefacts.yml").read_text(encoding="utf-8"))
    return found


def test_the_list_names_what_the_plan_uses_and_nothing_else(site: Site, listed: dict[str, Any]) -> None:
    assert {one["image"] for one in listed["images"]} == {
        site.group("icdr")["santedb_image"],
        site.group("portal")["portal_image"],
    }
    roles = {
        "audit",
        "backup",
        "cache",
        "certificates",
        "database",
        "disk_encryption",
        "host_baseline",
        "icdr",
        "icdr_hardening",
    }
    assert set(listed["packages"]) == roles | {"monitoring", "portal", "proxy"}
    packages = {one for names in listed["packages"].values() for one in names}
    assert {"pgbackrest", "prometheus-alertmanager"} <= packages  # as the plan says to their groups only
    assert not {"rabbitmq-server", "podman", "mono-complete"} & packages


def test_everything_on_the_list_is_in_the_bundle(bundle: Path, listed: dict[str, Any]) -> None:
    packages = {path.name.partition("_")[0] for path in (bundle / "debian").glob("*.deb")}
    wanted = {name for names in listed["packages"].values() for name in names}
    assert wanted - packages == set()
    assert len(list((bundle / "images").glob("*.tar"))) == len(listed["images"])
    wheels = {path.name.partition("-")[0].replace("_", "-").lower() for path in (bundle / "wheels").glob("*.whl")}
    assert {line.partition("==")[0] for line in listed["python"]} - wheels == set()
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--no-index"]
    env = {**os.environ, "PIP_CONFIG_FILE": os.devnull}
    subprocess.run([*command, "--find-links", bundle / "wheels", *listed["python"]], env=env, check=True)
    with zipfile.ZipFile(next((bundle / "wheels").glob("ansible-[0-9]*.whl"))) as wheel:
        names = set(wheel.namelist())
    for one in listed["collections"]:
        assert f"ansible_collections/{one['name'].replace('.', '/')}/MANIFEST.json" in names


def test_every_file_of_the_bundle_has_its_checksum(bundle: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--quiet", "--strict", "SHA256SUMS"], cwd=bundle, check=True)
    summed = {line.split(maxsplit=1)[1] for line in (bundle / "SHA256SUMS").read_text(encoding="utf-8").splitlines()}
    there = {str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file()}
    assert summed == there - {"SHA256SUMS"}


@pytest.fixture(scope="module")
def cut_off(site: Site) -> Iterator[list[Host]]:
    """The hosts, without the package proxy: nothing outside can be reached, and none of it is asked."""
    rule = f"ip saddr {{ 10.77.0.51, 10.77.0.52 }} ip daddr {GATEWAY} tcp dport {PROXY_PORT} reject with tcp reset"
    table = f"table inet lab_gap {{ chain input {{ type filter hook input priority 0; {rule}; }}; }}"
    subprocess.run(["nft", table], check=True)
    yield [site.host(name) for name in GROUPS]
    subprocess.run(["nft", "delete table inet lab_gap"], check=True)


@pytest.fixture(scope="module")
def deployed(site: Site, bundle: Path, cut_off: list[Host]) -> Site:
    """The environment, deployed from the bundle alone."""
    for host in cut_off:
        assert host.ssh("apt-get -qq update && apt-get -qq install --download-only hello", check=False).returncode != 0
    site.deploy("-e", f"artefacts_bundle={bundle}", label="deploy from the bundle")
    return site


def test_bare_hosts_are_deployed_from_the_bundle_alone(deployed: Site) -> None:
    assert plans.partner(deployed).answers()
    assert plans.partner(deployed).token(certificate=True) == 200
    for name in GROUPS:
        assert deployed.host(name).ssh("systemctl --failed --no-legend --plain").stdout == "", name


def test_a_second_run_asks_for_nothing_more(deployed: Site, bundle: Path) -> None:
    done = deployed.deploy("-e", f"artefacts_bundle={bundle}", label="deploy from the bundle again")
    assert set(done.recap.changed) <= {"localhost"}, done.changes()


def test_a_damaged_bundle_is_refused_and_hosts_go_back_to_their_own_sources(deployed: Site, bundle: Path) -> None:
    with (bundle / "debian/Packages").open("a", encoding="utf-8") as file:
        file.write("\n")
    refused = deployed.play(
        "baseline", "--tags", "artefacts", "-e", f"artefacts_bundle={bundle}", label="damaged bundle"
    )
    assert refused.code != 0
    assert "debian/Packages: FAILED" in refused.line
    back = deployed.play("baseline", "--tags", "artefacts", label="own sources again")
    assert back.code == 0, back.text[-5000:]
    for name in GROUPS:
        left = "ls /etc/apt/sources.list.d /etc/apt/apt.conf.d | grep -c bundle"
        assert deployed.host(name).ssh(left, check=False).stdout == "0\n"
