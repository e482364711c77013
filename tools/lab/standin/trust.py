"""The authorities a container trusts: Debian's bundle, and what is mounted into /usr/local/share/ca-certificates."""

from __future__ import annotations

import os
import ssl
import tempfile
from pathlib import Path

BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
EXTRA = Path("/usr/local/share/ca-certificates")


def bundle() -> str:
    """Return the path of one PEM file with all authorities; SSL_CERT_FILE, when set, wins."""
    chosen = os.environ.get("SSL_CERT_FILE")
    if chosen:
        return chosen
    extra = sorted(EXTRA.rglob("*.crt"))
    if not extra:
        return str(BUNDLE)
    with tempfile.NamedTemporaryFile("wb", suffix=".pem", delete=False) as merged:
        for path in [BUNDLE, *extra]:
            if path.is_file():
                merged.write(path.read_bytes() + b"\n")
    return merged.name


def context() -> ssl.SSLContext:
    """Return a TLS context for connections to others that checks them against these authorities, host name included."""
    path = bundle()
    made = ssl.create_default_context()
    if Path(path).is_file():
        made.load_verify_locations(path)
    return made
