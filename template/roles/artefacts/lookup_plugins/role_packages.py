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


class LookupModule(LookupBase):
    """The lookup."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[list[str]]:
        """Return one list of package names for each directory. A role that does not exist has none."""
        self.set_options(var_options=variables, direct=kwargs)
        return [self._packages(Path(term), variables or {}) for term in terms]

    def _read(self, path: Path) -> dict[str, Any]:
        if not path.is_file():
            return {}
        return self._loader.load_from_file(str(path), trusted_as_template=True) or {}

    def _packages(self, role: Path, variables: dict[str, Any]) -> list[str]:
        defaults, private = self._read(role / "defaults/main.yml"), self._read(role / "vars/main.yml")
        known = {**defaults, **variables, **private}
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
