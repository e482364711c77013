"""Filters of the role certificates: does a certificate fit its entry in the register, and what SanteDB needs to find its key."""

from __future__ import annotations

import base64
import datetime
import hashlib
import ipaddress
import re
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

UTC = datetime.timezone.utc
EXTENDED = {
    "serverAuth": "1.3.6.1.5.5.7.3.1",
    "clientAuth": "1.3.6.1.5.5.7.3.2",
    "codeSigning": "1.3.6.1.5.5.7.3.3",
    "emailProtection": "1.3.6.1.5.5.7.3.4",
    "timeStamping": "1.3.6.1.5.5.7.3.8",
    "OCSPSigning": "1.3.6.1.5.5.7.3.9",
}
USAGE = {
    "digitalSignature": "digital_signature",
    "nonRepudiation": "content_commitment",
    "contentCommitment": "content_commitment",
    "keyEncipherment": "key_encipherment",
    "dataEncipherment": "data_encipherment",
    "keyAgreement": "key_agreement",
    "keyCertSign": "key_cert_sign",
    "cRLSign": "crl_sign",
}


def _load(pem: str) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(pem.encode())


def _moment(certificate: x509.Certificate, which: str) -> datetime.datetime:
    found = getattr(certificate, f"not_valid_{which}_utc", None)
    return found or getattr(certificate, f"not_valid_{which}").replace(tzinfo=UTC)


def certificates_names(names: list[str]) -> list[str]:
    """Return the names with their kind: `DNS:host`, `IP:address`. What has a kind already keeps it."""
    done = []
    for name in names:
        if re.match(r"^(DNS|IP|email|URI|dirName|otherName|RID):", name):
            done.append(name)
            continue
        try:
            done.append(f"IP:{ipaddress.ip_address(name)}")
        except ValueError:
            done.append(f"DNS:{name}")
    return done


def _present_names(certificate: x509.Certificate) -> set[str]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return {f"DNS:{name.lower()}" for name in extension.get_values_for_type(x509.DNSName)} | {
        f"IP:{address}" for address in extension.get_values_for_type(x509.IPAddress)
    }


def _covers(present: set[str], wanted: str) -> bool:
    if wanted.lower() in {name.lower() for name in present}:
        return True
    return wanted.startswith("DNS:") and "." in wanted and f"DNS:*.{wanted[4:].split('.', 1)[1].lower()}" in present


def _signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _key_problem(certificate: x509.Certificate, key: dict[str, Any]) -> str | None:
    public = certificate.public_key()
    size = int(key.get("size") or 0)
    if isinstance(public, rsa.RSAPublicKey):
        kind, actual = "rsa", public.key_size
    elif isinstance(public, ec.EllipticCurvePublicKey):
        kind, actual = "ecdsa", public.curve.key_size
    else:
        return None
    if kind == "rsa" and actual < 2048:
        return f"its RSA key has {actual} bits only"
    if kind == str(key.get("type", kind)).lower() and actual < size:
        return f"its key has {actual} bits, the register asks for {size}"
    return None


def certificates_problems(
    pem: str,
    entry: dict[str, Any],
    where: str,
    authority: str = "",
    key_public: str = "",
    now: str = "",
) -> list[str]:
    """Return every way in which the certificate (PEM, leaf first) does not fit its entry, as complete sentences.

    `authority` is the PEM bundle of the environment's own authority, checked for issuer environment_ca. `key_public` is
    the PEM of the public key that belongs to the installed private key. `now` (ISO, UTC) is for tests.
    """
    name = entry["id"]
    at = datetime.datetime.fromisoformat(now).replace(tzinfo=UTC) if now else datetime.datetime.now(UTC)
    redo = f"correct the register or the file, then renew it with certificates_force_renewal=['{name}']"
    if entry.get("issuer") in ("public_ca", "national_ca", "supplied"):
        redo = f"have it issued again from the request, or correct the register, and put it at <certificates>/{name}.crt"

    def problem(what: str, why: str) -> str:
        return f"Certificate '{name}': {what}; on {where}; {why}; {redo}."

    try:
        chain = _load(pem)
    except ValueError as error:
        return [problem(f"the file is no PEM certificate ({error})", "no service can use it")]
    leaf, found = chain[0], []
    missing = [
        wanted for wanted in certificates_names(entry.get("sans") or []) if not _covers(_present_names(leaf), wanted)
    ]
    if missing:
        found.append(problem(f"it lacks the names {', '.join(missing)}", "clients that use these names refuse it"))
    starts, ends = _moment(leaf, "before"), _moment(leaf, "after")
    if starts > at:
        found.append(problem(f"it is valid from {starts:%Y-%m-%d} only", "clients refuse it today"))
    if ends <= at:
        found.append(problem(f"it expired on {ends:%Y-%m-%d}", "clients refuse it"))
    limit = int(entry.get("lifetime_days") or 0)
    # A day of grace: authorities date certificates back a little.
    if limit and entry.get("issuer") != "supplied" and (ends - starts).total_seconds() > (limit + 1) * 86400:
        found.append(
            problem(
                f"it is valid for {(ends - starts).days} days, the register allows {limit}",
                "a stolen key would stay useful too long",
            )
        )
    try:
        usages = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
        lacking = [item for item in entry.get("key_usage") or [] if not getattr(usages, USAGE.get(item, ""), True)]
    except x509.ExtensionNotFound:
        lacking = []
    if lacking:
        found.append(problem(f"it may not be used for {', '.join(lacking)}", "the service it is for needs that"))
    try:
        extended = {item.dotted_string for item in leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value}
        lacking = [item for item in entry.get("extended_key_usage") or [] if EXTENDED.get(item, item) not in extended]
    except x509.ExtensionNotFound:
        lacking = list(entry.get("extended_key_usage") or []) if entry.get("issuer") == "environment_ca" else []
    if lacking:
        found.append(problem(f"it may not be used for {', '.join(lacking)}", "the other side checks the purpose"))
    weak = _key_problem(leaf, entry.get("key") or {})
    if weak:
        found.append(problem(weak, "it could be forged"))
    if entry.get("issuer") == "environment_ca" and authority:
        if not any(_signed_by(leaf, one) for one in _load(authority)):
            found.append(
                problem(
                    f"the environment's authority did not issue it (issuer: {leaf.issuer.rfc4514_string()})",
                    "hosts and partners trust that authority only",
                )
            )
    elif entry.get("issuer") in ("public_ca", "national_ca"):
        if leaf.issuer == leaf.subject:
            found.append(problem("it is self-signed", "nobody outside trusts it"))
        for lower, upper in zip(chain, chain[1:]):
            if not _signed_by(lower, upper):
                found.append(
                    problem(
                        f"its chain is broken after {lower.subject.rfc4514_string()}",
                        "clients cannot follow it to an authority they know",
                    )
                )
                break
    if key_public:
        form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        if leaf.public_key().public_bytes(*form).decode().strip() != key_public.strip():
            found.append(problem("the private key beside it is another one's", "the service cannot start with it"))
    return found


def certificates_days_left(pem: str) -> int:
    """Return the days until the first certificate of the PEM text expires; -1 when there is none or it is unreadable."""
    try:
        leaf = _load(pem)[0]
    except ValueError:
        return -1
    return max(-1, (_moment(leaf, "after") - datetime.datetime.now(UTC)).days)


def certificates_matches_request(pem: str, request: str) -> bool:
    """Tell whether the certificate has the same public key as the request (PEM)."""
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    try:
        return _load(pem)[0].public_key().public_bytes(*form) == x509.load_pem_x509_csr(
            request.encode()
        ).public_key().public_bytes(*form)
    except ValueError:
        return False


def certificates_same_key(one: str, two: str) -> bool:
    """Tell whether two requests (PEM) are for the same key; False when one of them is unreadable."""
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    try:
        keys = [x509.load_pem_x509_csr(text.encode()).public_key().public_bytes(*form) for text in (one, two)]
    except ValueError:
        return False
    return keys[0] == keys[1]


def certificates_thumbprint(pem: str) -> str:
    """Return the upper-case SHA-1 thumbprint by which SanteDB names a certificate."""
    return _load(pem)[0].fingerprint(hashes.SHA1()).hex().upper()  # noqa: S303 the name, not a protection


def certificates_pfx_password(path: str) -> str:
    """Return the password under which SanteDB on mono opens the PKCS#12 file of that full path.

    It is the upper-case hexadecimal SHA-1 of the path: it hides nothing, the file's permissions do.
    """
    return hashlib.sha1(path.encode()).hexdigest().upper()  # noqa: S324 prescribed by SanteDB


def certificates_plain_key(pem: str, passphrase: str) -> str:
    """Return the private key of the encrypted PEM text, unencrypted (PKCS#8), for use in memory."""
    key = serialization.load_pem_private_key(pem.encode(), passphrase.encode())
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def certificates_public_key(pem: str) -> str:
    """Return the public key (PEM) of an unencrypted private key (PEM)."""
    key = serialization.load_pem_private_key(pem.encode(), None)
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def certificates_bundle(texts: list[str]) -> str:
    """Return one PEM text of all certificates in the texts, each once, each on lines of its own."""
    pattern = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
    found = [one for text in texts for one in pattern.findall(text)]
    return "".join(f"{one}\n" for one in dict.fromkeys(found))


def certificates_text(slurped: Any) -> str:
    """Return the text of a file read by ansible.builtin.slurp, or '' when there was none."""
    content = slurped.get("content") if hasattr(slurped, "get") else None
    return base64.b64decode(content).decode() if content else ""


class FilterModule:
    """The filters by name."""

    def filters(self) -> dict[str, Any]:
        """Return the filters of this role."""
        return {
            name: globals()[name]
            for name in (
                "certificates_bundle",
                "certificates_days_left",
                "certificates_matches_request",
                "certificates_names",
                "certificates_pfx_password",
                "certificates_plain_key",
                "certificates_problems",
                "certificates_public_key",
                "certificates_same_key",
                "certificates_text",
                "certificates_thumbprint",
            )
        }
