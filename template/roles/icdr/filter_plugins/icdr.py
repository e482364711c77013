"""Filters of the role icdr."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)


def icdr_thumbprints(files: list[Any], purpose: str) -> dict[str, str]:
    """Return {name: upper-case SHA-1 thumbprint} of slurped certificates whose purpose is `<purpose>_<name>`.

    With an empty purpose the whole purpose is the name. `files` are results of a loop over register entries.
    """
    found: dict[str, str] = {}
    for file in files:
        entry = str(file["item"].get("purpose") or "")
        prefix = f"{purpose}_" if purpose else ""
        match = _PEM.search(base64.b64decode(file["content"]).decode(errors="replace"))
        if match and entry.startswith(prefix):
            found[entry[len(prefix) :]] = hashlib.sha1(base64.b64decode(match[1])).hexdigest().upper()
    return found


def icdr_env_file(settings: dict[str, Any]) -> str:
    """Return the text of an environment file, sorted. Raises ValueError for a value of several lines."""
    lines = []
    for name in sorted(settings):
        value = settings[name]
        text = {True: "true", False: "false"}.get(value, value) if isinstance(value, bool) else value
        if "\n" in str(text):
            raise ValueError(f"{name} has several lines")
        lines.append(f"{name}={text}\n")
    return "".join(lines)


class FilterModule:
    """The filters by name."""

    def filters(self) -> dict[str, Any]:
        """Return the filters of this role."""
        return {"icdr_thumbprints": icdr_thumbprints, "icdr_env_file": icdr_env_file}
