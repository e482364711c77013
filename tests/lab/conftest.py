"""Fixtures of the lab: hosts per test module, and a Docker host prepared once per session."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tools.lab import Host, Lab, Snapshot, images, plans, settings, why_not
from tools.lab.bare import ADDRESSES, Repository
from tools.lab.partner import Partner
from tools.lab.sites import Rested, Site

pytest.register_assert_rewrite(*(f"tests.lab.{name}" for name in ("cluster", "graded", "turned_off")))


def reasons() -> list[str]:
    """Return why lab tests cannot run in this process, one sentence each; empty when they can."""
    if settings.inside():
        return []
    return why_not() or ["not started inside a lab: python -m tools.lab run -- pytest -m lab tests/lab"]


@pytest.fixture(scope="session", autouse=True)
def lab_available() -> None:
    """Skip the lab tests and say why they cannot run; fail where they must run (CI=true, LAB_REQUIRED=1)."""
    found = reasons()
    if found and settings.required():
        pytest.fail("lab required, but: " + "; ".join(found), pytrace=False)
    if found:
        pytest.skip("lab: " + "; ".join(found))


@pytest.fixture(scope="module")
def lab(lab_available: None) -> Iterator[Lab]:
    """A lab without hosts; whatever a module boots in it is gone after the module."""
    lab = Lab()
    yield lab
    lab.discard()


@pytest.fixture(scope="session")
def docker_snapshot(lab_available: None) -> Snapshot:
    """The disk of a host `dock` (10.77.0.20) with Docker, its compose plugin and the stand-in's image, made once."""
    lab = Lab()
    host = lab.host("dock", 20, docker=True)
    lab.start(host)
    images.install_docker(host)
    images.load(host, images.standin_archive())
    return lab.snapshots()["dock"]


@pytest.fixture(scope="session")
def deployments(lab_available: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Rested]:
    """What has been deployed, at rest, by the name of its plan in tools/lab/plans.py; deployed once per session."""
    found: dict[str, Rested] = {}

    def deployment(name: str) -> Rested:
        if name not in found:
            found[name] = plans.at_rest(name, os.environ.get("LAB_KEEP"), Lab(), tmp_path_factory.mktemp(name))
        return found[name]

    return deployment


@pytest.fixture(scope="module")
def site(
    request: pytest.FixtureRequest,
    lab: Lab,
    deployments: Callable[[str], Rested],
    tmp_path_factory: pytest.TempPathFactory,
) -> Site:
    """The plan that the module names as PLAN, deployed, booted anew and serving: each module has its own copy of hosts and repository."""
    site = Site.wake(deployments(request.module.PLAN), lab, tmp_path_factory.mktemp(request.module.PLAN) / "site")
    site.wait_for(plans.partner(site).answers, 180)
    return site


@pytest.fixture(scope="module")
def partner(site: Site) -> Partner:
    """The hospital's system."""
    return plans.partner(site)


@pytest.fixture(scope="module")
def hosts(request: pytest.FixtureRequest, lab: Lab) -> dict[str, Host]:
    """The bare hosts that the module names as HOSTS, up."""
    for name in request.module.HOSTS:
        lab.host(name, ADDRESSES[name])
    lab.start()
    return lab.hosts


@pytest.fixture(scope="module")
def repository(lab: Lab, hosts: dict[str, Host], tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A repository of roles and playbooks for bare hosts."""
    return Repository(tmp_path_factory.mktemp("deployment") / "repository", lab)
