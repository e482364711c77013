"""Audits: DICOM messages in RFC 5424 syslog, kept in a queue of files until the repository has taken them."""

from __future__ import annotations

import datetime
import json
import os
import socket
import ssl
import tempfile
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from xml.sax.saxutils import quoteattr

from . import trust
from .keys import KeyMissing, load_pfx
from .startup import AuditShipping

EVENTS = {  # event -> code, coding system, display name
    "application": ("110100", "DCM", "Application Activity"),
    "login": ("110114", "DCM", "User Authentication"),
    "logout": ("110114", "DCM", "User Authentication"),
    "auth": ("110114", "DCM", "User Authentication"),
    "patient": ("110110", "DCM", "Patient Record"),
    "query": ("110112", "DCM", "Query"),
    "import": ("110107", "DCM", "Import"),
    "export": ("110106", "DCM", "Export"),
    "security": ("110113", "DCM", "Security Alert"),
    "network": ("110108", "DCM", "Network Entry"),
}
OUTCOMES = {"ok": "0", "fail.minor": "4", "fail.major": "8", "fail.epic": "12"}


def dicom(audit: Mapping[str, str], site: str, host: str) -> str:
    """Return the audit as a DICOM audit message (PS3.15 A.5), one line of XML."""
    code, system, text = EVENTS.get(audit.get("event", ""), ("110113", "DCM", "Security Alert"))
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    return (
        '<?xml version="1.0" encoding="UTF-8"?><AuditMessage>'
        f"<EventIdentification EventActionCode={quoteattr(audit.get('action', 'x').upper().replace('X', 'E'))} "
        f'EventDateTime="{now}" EventOutcomeIndicator="{OUTCOMES.get(audit.get("outcome", "ok"), "0")}">'
        f'<EventID csd-code="{code}" codeSystemName="{system}" originalText="{text}"/>'
        f'<EventTypeCode csd-code={quoteattr(audit.get("event", ""))} codeSystemName="SanteDB" '
        f"originalText={quoteattr(audit.get('detail', ''))}/></EventIdentification>"
        f'<ActiveParticipant UserID={quoteattr(audit.get("actor") or "SYSTEM")} UserIsRequestor="true" '
        f'NetworkAccessPointID={quoteattr(audit.get("source") or host)} NetworkAccessPointTypeCode="2"/>'
        f'<AuditSourceIdentification AuditSourceID={quoteattr(host)} AuditEnterpriseSiteID={quoteattr(site)} code="4"/>'
        "</AuditMessage>"
    )


def syslog(message: str, host: str) -> bytes:
    """Return an RFC 5424 line: facility 10 (security), severity 5, message id IHE+DICOM."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return f"<85>1 {now} {host} SanteDB {os.getpid()} IHE+DICOM - ".encode() + b"\xef\xbb\xbf" + message.encode()


def framed(line: bytes) -> bytes:
    """Return the line with its octet count before it (RFC 5425), for TCP and TLS."""
    return str(len(line)).encode() + b" " + line


class Shipper(threading.Thread):
    """Takes audits into a queue of files and sends them in order; what cannot be sent stays and is tried again."""

    def __init__(self, target: AuditShipping, queue: Path, root: Path, log: Callable[[str, str], None]) -> None:
        """`queue` holds one file per audit, `root` is /santedb (for the client key), `log` takes level and text."""
        super().__init__(daemon=True)
        self.target, self.queue, self.root, self.log = target, queue, root, log
        self.host = socket.gethostname()
        self.retry = float(os.environ.get("STANDIN_SHIP_RETRY", "2"))
        self._wake = threading.Event()
        self._connection: socket.socket | None = None
        queue.mkdir(parents=True, exist_ok=True)

    def take(self, audit: Mapping[str, str]) -> None:
        """Put an audit into the queue. Raises OSError when the disk refuses."""
        path = self.queue / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.msg"
        part = path.with_suffix(".part")
        part.write_text(json.dumps(dict(audit)), encoding="utf-8")
        part.rename(path)
        self._wake.set()

    def run(self) -> None:
        """Send for ever."""
        while True:
            self._wake.wait(self.retry)
            self._wake.clear()
            for path in sorted(self.queue.glob("*.msg")):
                try:
                    self.send(json.loads(path.read_text(encoding="utf-8")))
                except (OSError, KeyMissing, ValueError) as error:
                    self.log("Error", f"audit dispatch to {self.target.host}:{self.target.port} failed: {error}")
                    self._drop()
                    time.sleep(self.retry)
                    break
                path.unlink(missing_ok=True)

    def send(self, audit: Mapping[str, str]) -> None:
        """Send one audit. Raises OSError or KeyMissing."""
        if self.target.scheme == "fhir":
            self._post(audit)
            return
        line = syslog(dicom(audit, self.target.site, self.host), self.host)
        if self.target.scheme == "udp":
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
                datagram.sendto(line, (self.target.host, self.target.port))
            return
        connection = self._connected()
        connection.settimeout(0.05)
        try:  # a peer that closed meanwhile (or refused our certificate after the handshake) is seen here only
            if connection.recv(1) == b"":
                raise ConnectionError("the audit repository closed the connection")
        except (TimeoutError, ssl.SSLWantReadError):
            pass
        connection.settimeout(10)
        connection.sendall(framed(line))

    def _connected(self) -> socket.socket:
        if self._connection is None:
            plain = socket.create_connection((self.target.host, self.target.port), 10)
            if self.target.scheme != "stcp":
                self._connection = plain
            else:
                context = trust.context()
                if self.target.certificate:
                    with tempfile.NamedTemporaryFile() as pem:
                        pem.write(load_pfx(self.target.certificate, self.root))
                        pem.flush()
                        context.load_cert_chain(pem.name)
                self._connection = context.wrap_socket(plain, server_hostname=self.target.host)
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _post(self, audit: Mapping[str, str]) -> None:
        code, _, text = EVENTS.get(audit.get("event", ""), ("110113", "DCM", "Security Alert"))
        body = {
            "resourceType": "AuditEvent",
            "type": {"system": "http://dicom.nema.org/resources/ontology/DCM", "code": code, "display": text},
            "action": audit.get("action", "x").upper().replace("X", "E"),
            "recorded": datetime.datetime.now(datetime.UTC).isoformat(),
            "outcome": OUTCOMES.get(audit.get("outcome", "ok"), "0"),
            "agent": [{"altId": audit.get("actor") or "SYSTEM", "requestor": True}],
            "source": {"observer": {"display": self.host}},
        }
        request = urllib.request.Request(
            f"{self.target.url}/AuditEvent",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/fhir+json"},
        )
        with urllib.request.urlopen(request, timeout=10, context=trust.context()):
            pass
