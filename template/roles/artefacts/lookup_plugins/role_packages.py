"""Lookup of the role artefacts: which Debian packages a role installs with the variables of this inventory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleLookupError, AnsibleUndefinedVariable
from ansible.plugins.lookup import LookupBase

DOCUMENTATION = r"""
name: role_packages
short_description: Debian packages that a role installs
description:
  - Reads the lists named C(…_packages) in a role's defaults and vars, with the values this inventory gives its variables.
options:
  _terms:
    description: Directories of roles.
    type: list
    elements: path
    required: true
  release:
    description: Debian release of the hosts. Nobody is asked, so this stands for the facts of a host.
    type: str
    default: bookworm
    choices: [bookworm, trixie]
  hosts:
    description: For each directory the hosts that get the role, whose variables then decide instead of those of the play's host.
    type: list
    elements: list
    default: []
author: santescaffold
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ lookup('role_packages', role_path ~ '/../host_baseline') }}"
"""

RETURN = r"""
_list:
  description: Names of packages, sorted.
  type: list
  elements: str
"""


VERSIONS = {"bookworm": "12", "trixie": "13"}


def facts(release: str) -> dict[str, str]:
    """Return the facts of a host of that release that decide about packages."""
    return {
        "distribution": "Debian",
        "distribution_major_version": VERSIONS[release],
        "distribution_release": release,
        "distribution_version": VERSIONS[release],
        "os_family": "Debian",
        "pkg_mgr": "apt",
        "architecture": "x86_64",
        "service_mgr": "systemd",
    }


class LookupModule(LookupBase):
    """The lookup."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[list[str]]:
        """Return one list of package names for each directory. A role that does not exist has none."""
        self.set_options(var_options=variables, direct=kwargs)
        known = variables or {}
        hosts = self.get_option("hosts") or [[] for _ in terms]
        return [self._of_hosts(Path(term), names, known) for term, names in zip(terms, hosts, strict=True)]

    def _of_hosts(self, role: Path, hosts: list[str], known: dict[str, Any]) -> list[str]:
        if not hosts:
            return self._packages(role, known)
        everything = [{**known["hostvars"].raw_get(host), "hostvars": known["hostvars"]} for host in hosts]
        return sorted({name for variables in everything for name in self._packages(role, variables)})

    def _read(self, path: Path) -> dict[str, Any]:
        if not path.is_file():
            return {}
        return self._loader.load_from_file(str(path), trusted_as_template=True) or {}

    def _packages(self, role: Path, variables: dict[str, Any]) -> list[str]:
        defaults, private = self._read(role / "defaults/main.yml"), self._read(role / "vars/main.yml")
        known = {**defaults, **variables, **private, "ansible_facts": facts(self.get_option("release"))}
        templar = self._templar.copy_with_new_env(available_variables=known)
        found: set[str] = set()
        for name in (*defaults, *private):
            if not name.endswith("_packages"):
                continue
            try:
                value = templar.template(known[name])
            except AnsibleUndefinedVariable as error:
                raise AnsibleLookupError(f"{role.name}: {name} cannot be resolved without a host: {error}") from error
            found.update(str(item) for item in value)
        return sorted(found)
