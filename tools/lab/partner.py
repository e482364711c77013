"""A partner's system as the environment meets it: its certificate, its HTTPS and HL7 calls by the public names."""

from __future__ import annotations

import base64
import socket
import ssl
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tools.lab.sites import Site


@dataclass(frozen=True)
class Answer:
    """What an HTTP caller got."""

    status: int
    body: str
    headers: dict[str, str]


class _Stay(urllib.request.HTTPRedirectHandler):
    """Shows a redirection instead of following it."""

    def redirect_request(self, *_: Any) -> None:
        return


class Partner:
    """The hospital of the plans: application OPENMRS, device CENTRAL_HOSPITAL.

    `api` and `hl7_name` are the public names it calls. Its key stays in the site's folder, as a partner's would.
    """

    def __init__(self, site: Site, api: str, hl7_name: str | None = None, system: str = "openmrs-central-hospital"):
        """Belong to a site; nothing is asked for or called yet."""
        self.site, self.api, self.hl7_name = site, api, hl7_name
        self._prefix = f"vault_partner_{system.replace('-', '_')}"
        self._name = f"{site.environment}-partner-{system}"

    @property
    def certificate(self) -> Path:
        """Where the environment's authority leaves the certificate."""
        return self.site.repository / f"certificates/{self.site.environment}/{self._name}.crt"

    @property
    def key(self) -> Path:
        """The partner's own key."""
        return self.site.folder / "partner.key"

    @cached_property
    def _secrets(self) -> tuple[str, str]:
        secrets = self.site.secrets
        return secrets[f"{self._prefix}_application_secret"], secrets[f"{self._prefix}_device_secret"]

    @property
    def _authority(self) -> str:
        return str(self.site.repository / f".ca/{self.site.environment}/ca.crt")

    def request_certificate(self) -> None:
        """Send the request for its client certificate: its key stays with it. Raises CalledProcessError."""
        request = self.certificate.with_suffix(".csr")
        request.parent.mkdir(parents=True, exist_ok=True)
        entry = next(one for one in self.site.facts["santedb_certificates"] if one["id"] == self._name)
        command = ["openssl", "req", "-new", "-newkey", "rsa:3072", "-nodes", "-subj", f"/CN={entry['subject']['cn']}"]
        subprocess.run([*command, "-keyout", str(self.key), "-out", str(request)], check=True, capture_output=True)

    def call(
        self,
        path: str,
        *,
        scheme: str = "https",
        host: str = "",
        certificate: bool = False,
        form: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Call a path of a public name (the API's by default); the chain is checked against the environment's authority.

        Raises OSError when there is no HTTP answer.
        """
        context = ssl.create_default_context(cafile=self._authority)
        if certificate:
            context.load_cert_chain(self.certificate, self.key)
        opener = urllib.request.build_opener(
            _Stay, urllib.request.HTTPSHandler(context=context), urllib.request.ProxyHandler({})
        )
        data = urllib.parse.urlencode(form).encode() if form else None
        request = urllib.request.Request(f"{scheme}://{host or self.api}{path}", data=data, headers=headers or {})
        try:
            with opener.open(request, timeout=20) as found:
                return Answer(found.status, found.read().decode(errors="replace"), dict(found.headers))
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read().decode(errors="replace"), dict(error.headers))

    def presented(self) -> str:
        """Return the certificate (PEM) that the API presents once it has been checked. Raises OSError."""
        context = ssl.create_default_context(cafile=self._authority)
        with (
            socket.create_connection((self.api, 443), 10) as raw,
            context.wrap_socket(raw, server_hostname=self.api) as link,
        ):
            return ssl.DER_cert_to_PEM_cert(link.getpeercert(binary_form=True) or b"")

    def answers(self, path: str = "/fhir/metadata") -> bool:
        """Whether a path answers 200, whatever else may be wrong."""
        try:
            return self.call(path).status == 200
        except OSError:
            return False

    def token(
        self, *, secret: str = "", path: str = "/auth/oauth2_token", forged: str = "", certificate: bool = False
    ) -> int:
        """Ask for a token; return the status. `forged` is sent as the header by which a proxy would vouch for it."""
        application, device = self._secrets
        form = {"grant_type": "client_credentials", "client_id": "OPENMRS"}
        form["client_secret"] = secret or application
        pair = base64.b64encode(f"OPENMRS|CENTRAL_HOSPITAL:{device}".encode()).decode()
        headers = {"X-Device-Authorization": f"BASIC {pair}"}
        if forged:
            headers["X-SSL-ClientCert"] = forged
        return self.call(path, form=form, headers=headers, certificate=certificate).status

    def hl7(self, *, certificate: bool = True, secret: str = "") -> str:
        """Send a message over TLS; return the answer, or why there is none. Without `secret`, with the right one."""
        application, device = self._secrets
        right = f"{device}+{application}"
        context = ssl.create_default_context(cafile=self._authority)
        if certificate:
            context.load_cert_chain(self.certificate, self.key)
        text = (
            f"MSH|^~\\&|OPENMRS|CENTRAL_HOSPITAL|MPI|MOH|20260101|{secret or right}|ADT^A01|7|P|2.5\r"
            "PID|||77^^^CENTRAL_HOSPITAL_MRN\r"
        )
        port = self.site.group("proxy")["proxy_hl7_stream"]["port"]
        try:
            with (
                socket.create_connection((self.hl7_name, port), 10) as raw,
                context.wrap_socket(raw, server_hostname=self.hl7_name) as link,
            ):
                link.settimeout(10)
                link.sendall(f"\x0b{text}\x1c\r".encode())
                return link.recv(9999).decode().replace("\r", "\n")
        except OSError as error:
            return f"refused: {error}"
