"""The identities that a new SanteDB database comes with; published passwords are put in when the image is built."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
USERS = {"Administrator": ["ADMINISTRATORS"], "Bob": ["USERS"], "Allison": ["CLINICAL_STAFF"]}
APPLICATIONS = (
    "fiddler",
    "org.santedb.debug",
    "org.santedb.administration",
    "org.santedb.disconnected_client",
    "org.santedb.disconnected_client.www",
    "org.santedb.disconnected_client.gateway",
    "org.santedb.disconnected_client.win32",
    "org.santedb.disconnected_client.android",
)


def gather(found: Any) -> dict[str, Any]:
    """Make identities of whatever shape of data names them: a mapping or list with names and passwords or secrets.

    Looks for every shipped user and application by name; what is not named gets one made at random, so that nothing
    can log in with it.
    """
    known: dict[str, str] = {}
    _walk(found, known)
    return {
        "users": {
            name: {"password": known.get(name) or secrets.token_urlsafe(24), "roles": roles}
            for name, roles in USERS.items()
        },
        "applications": {name: known.get(name) or secrets.token_urlsafe(24) for name in APPLICATIONS},
    }


def _walk(data: Any, known: dict[str, str]) -> None:
    names = {*USERS, *APPLICATIONS}
    if isinstance(data, dict):
        label = next((data[key] for key in ("name", "id", "user", "application", "client_id") if key in data), None)
        value = next((data[key] for key in ("password", "secret", "value") if isinstance(data.get(key), str)), None)
        if label in names and value is not None:
            known[str(label)] = value
        for key, inner in data.items():
            if key in names and isinstance(inner, str):
                known[key] = inner
            elif key in names and isinstance(inner, dict):
                _walk({"name": key, **inner}, known)
            else:
                _walk(inner, known)
    elif isinstance(data, list):
        for inner in data:
            _walk(inner, known)


def published() -> dict[str, Any]:
    """Return the identities baked into the image, or, outside an image, made-up ones."""
    path = HERE / "identities.json"
    if path.exists():
        baked: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return baked
    return gather(None)
