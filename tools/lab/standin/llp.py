"""HL7 version 2 over LLP: authentication as Q16 says, a patient for each ADT, an acknowledgement for all."""

from __future__ import annotations

import contextlib
import datetime
import socketserver
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from .santedb_standin import Icdr

START, END = b"\x0b", b"\x1c\x0d"
STORED = {"ADT^A01", "ADT^A04", "ADT^A08", "ADT^A40"}
QUERIES = {"QBP^Q22": "RSP^K22", "QBP^Q23": "RSP^K23"}


def fields(message: str) -> dict[str, list[str]]:
    """Return the segments of a message by name, the first of each, cut into fields so that MSH-3 is `["MSH"][3]`."""
    found: dict[str, list[str]] = {}
    for segment in message.replace("\n", "\r").split("\r"):
        if segment:
            parts = segment.split("|")
            if parts[0] == "MSH":
                parts.insert(1, "|")
            found.setdefault(parts[0], [*parts, *[""] * 30])
    return found


def credentials(msh8: str) -> tuple[str, str | None]:
    """Cut MSH-8 into device secret and application secret (None without `+`: the whole is the device's)."""
    device, plus, application = msh8.partition("+")
    return device, application if plus else None


def acknowledge(msh: list[str], code: str, text: str = "", kind: str = "ACK", extra: str = "") -> str:
    """Return an acknowledgement (AA, AE, AR) of the message with this MSH, `extra` segments at the end."""
    now = datetime.datetime.now().strftime("%Y%m%d%H%M%S")
    lines = [
        f"MSH|^~\\&|{msh[5]}|{msh[6]}|{msh[3]}|{msh[4]}|{now}||{kind}|{now}|{msh[11] or 'P'}|{msh[12] or '2.5'}",
        f"MSA|{code}|{msh[10]}",
    ]
    if text:
        lines.append(f"ERR|||207^Application internal error|E||||{text}")
    return "\r".join([*lines, *([extra] if extra else []), ""])


def answer(icdr: Icdr, message: str, source: str) -> str:
    """Return the answer to one message. Database errors become AE."""
    segments = fields(message)
    msh = segments.get("MSH")
    if msh is None:
        return acknowledge([""] * 30, "AR", "no MSH")
    refusal = _refusal(icdr, msh)
    outcome = "fail.minor" if refusal else "ok"
    icdr.audit(action="x", event="login", outcome=outcome, actor=f"{msh[3]}|{msh[4]}", source=source)
    if refusal:
        return acknowledge(msh, "AR", refusal)
    kind = "^".join(msh[9].split("^")[:2])
    identifier = (segments.get("PID") or [""] * 30)[3].split("^")[0]
    if kind in STORED:
        body = {"resourceType": "Patient", "identifier": [{"value": identifier}]}
        icdr.store.add_patient(body)
        icdr.audit(action="c", event="patient", outcome="ok", actor=msh[3], source=source, detail=identifier)
        return acknowledge(msh, "AA", kind=f"ACK^{kind.partition('^')[2]}")
    if kind in QUERIES:
        qpd = segments.get("QPD") or [""] * 30
        wanted = qpd[3].split("^")
        value = wanted[1] if wanted[0].startswith("@") and len(wanted) > 1 else wanted[0]
        found = icdr.store.patients(identifier=value)
        pids = "\r".join(f"PID|{number + 1}||{value}" for number, _ in enumerate(found))
        extra = f"QAK|{qpd[2]}|{'OK' if found else 'NF'}" + (f"\r{pids}" if pids else "")
        return acknowledge(msh, "AA", kind=QUERIES[kind], extra=extra)
    return acknowledge(msh, "AE", f"no handler for {kind}")


def _refusal(icdr: Icdr, msh: list[str]) -> str:
    """Return why the sender is refused, "" when it is not."""
    config = icdr.config
    unset = config.xml.attribute("Hl7ConfigurationSection", "noAuthSecret")
    if config.hl7_authentication.lower() != "msh8":
        if unset is None:
            return "ArgumentNullException: noAuthSecret (Q16)"
        return "" if icdr.store.application(msh[3], unset) else "application not authenticated"
    device, application = credentials(msh[8])
    if not device or not icdr.store.device(f"{msh[3]}|{msh[4]}", device):
        return "device not authenticated"
    application = application if application is not None else unset
    if application is None:
        needed = config.xml.attribute("Hl7ConfigurationSection", "requireAppAuth") in {"true", "1"}
        return "application not authenticated" if needed else ""
    return "" if icdr.store.application(msh[3], application) else "application not authenticated"


class Server(socketserver.ThreadingTCPServer):
    """The LLP listener of one host."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, icdr: Icdr, address: str) -> None:
        """Listen at an address such as llp://0.0.0.0:2100. Raises OSError."""
        parts = urlsplit(address)
        super().__init__((parts.hostname or "0.0.0.0", parts.port or 2100), Handler)
        self.icdr = icdr


class Handler(socketserver.BaseRequestHandler):
    """One connection; any number of framed messages."""

    server: Server

    def handle(self) -> None:
        """Answer messages until the peer closes."""
        buffer = b""
        self.request.settimeout(300)
        with contextlib.suppress(OSError):
            while data := self.request.recv(65536):
                buffer += data
                while END in buffer:
                    frame, _, buffer = buffer.partition(END)
                    text = frame.lstrip(START).decode("utf-8", errors="replace")
                    try:
                        reply = answer(self.server.icdr, text, self.client_address[0])
                    except Exception as error:  # the database is away: the sender must hear of it
                        self.server.icdr.log("Error", f"HL7: {error}")
                        reply = acknowledge(fields(text).get("MSH", [""] * 30), "AE", type(error).__name__)
                    self.request.sendall(START + reply.encode() + END)
