"""Private keys in the container (Q20), and what is signed with keys: session tokens."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class KeyMissing(Exception):
    """The key is not there, is called wrongly, or does not open with the password that the path implies."""


@dataclass(frozen=True)
class SigningKey:
    """A signing key: `algorithm` hs256, rs256 or rs512, `value` the secret or the thumbprint."""

    name: str
    algorithm: str
    value: str


def pfx_password(path: str) -> str:
    """Return the password that the key store demands: upper-case hex SHA-1 of the full path's UTF-8 text."""
    return hashlib.sha1(path.encode()).hexdigest().upper()


def load_pfx(thumbprint: str, root: Path = Path("/santedb"), seen_as: str = "/santedb") -> bytes:
    """Return certificate and private key in PEM from .x509/<THUMBPRINT>.pfx under `root`.

    `seen_as` is where the real host sees `root`; the password follows from that path. Raises KeyMissing.
    """
    name = f"{thumbprint}.pfx"
    path = root / ".x509" / name
    if thumbprint != thumbprint.upper() or not path.is_file():
        raise KeyMissing(f"no {seen_as}/.x509/{thumbprint.upper()}.pfx (the name is the upper-case thumbprint)")
    environment = {**os.environ, "STANDIN_PFX": pfx_password(f"{seen_as}/.x509/{name}")}
    command = ["openssl", "pkcs12", "-in", str(path), "-nodes", "-passin", "env:STANDIN_PFX"]
    for extra in ([], ["-legacy"]):
        done = subprocess.run([*command, *extra], capture_output=True, env=environment, check=False)
        if done.returncode == 0:
            break
    else:
        raise KeyMissing(f"{name} does not open with the password that its path implies")
    shown = subprocess.run(
        ["openssl", "x509", "-noout", "-fingerprint", "-sha1"], input=done.stdout, capture_output=True, check=False
    )
    found = shown.stdout.decode().strip().partition("=")[2].replace(":", "")
    if found != thumbprint:
        raise KeyMissing(f"{name} holds the certificate {found}")
    if b"PRIVATE KEY" not in done.stdout:
        raise KeyMissing(f"{name} holds no private key")
    return done.stdout


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _openssl(pem: bytes, arguments: list[str], data: bytes) -> subprocess.CompletedProcess[bytes]:
    with tempfile.NamedTemporaryFile() as key:
        key.write(pem)
        key.flush()
        return subprocess.run(["openssl", *arguments, key.name], input=data, capture_output=True, check=False)


class Signer:
    """Signs and checks session tokens with one of the host's keys."""

    def __init__(self, key: SigningKey, root: Path = Path("/santedb")) -> None:
        """`root` is where /santedb lies. Nothing is read before the first use, as in the real host."""
        self.key, self.root = key, root
        self._pem: bytes | None = None

    def _load(self) -> bytes:
        if self._pem is None:
            self._pem = load_pfx(self.key.value, self.root)
        return self._pem

    def _signature(self, text: bytes) -> bytes:
        if self.key.algorithm in {"hs256", "hmac"}:
            return hmac.new(self.key.value.encode(), text, hashlib.sha256).digest()
        digest = "-sha512" if self.key.algorithm == "rs512" else "-sha256"
        done = _openssl(self._load(), ["dgst", digest, "-sign"], text)
        if done.returncode:
            raise KeyMissing(done.stderr.decode(errors="replace").strip())
        return done.stdout

    def sign(self, claims: dict[str, Any]) -> str:
        """Return the claims as a signed JWT. Raises KeyMissing when the key is not there: at first use, not before."""
        names = {"hs256": "HS256", "hmac": "HS256", "rs256": "RS256", "rs512": "RS512"}
        head = {"alg": names[self.key.algorithm], "typ": "JWT", "kid": self.key.name}
        text = f"{_b64(json.dumps(head).encode())}.{_b64(json.dumps(claims).encode())}"
        return f"{text}.{_b64(self._signature(text.encode()))}"

    def check(self, token: str) -> dict[str, Any] | None:
        """Return a token's claims, None when it was not signed with this key. Raises KeyMissing."""
        text, _, signature = token.rpartition(".")
        try:
            # RSASSA-PKCS1-v1_5 is deterministic: signing again is the check
            if not hmac.compare_digest(self._signature(text.encode()), _unb64(signature)):
                return None
            claims: dict[str, Any] = json.loads(_unb64(text.partition(".")[2]))
        except ValueError:
            return None
        return claims
