"""The REST services, as far as a deployment's checks, hardening and exercises go."""

from __future__ import annotations

import base64
import contextlib
import datetime
import http.server
import json
import secrets
import urllib.parse
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .commands import CommandError
from .keys import KeyMissing
from .store import CLIENT_CREDENTIALS

if TYPE_CHECKING:
    from .santedb_standin import Icdr

# Fields that the persistence layer refuses unless the application setting allows them (Q54).
RESTRICTED = {"maritalStatus": "allow.patient.maritalStatus", "religion": "allow.patient.religion"}


class Server(http.server.ThreadingHTTPServer):
    """One listener; several when services listen on several ports."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, icdr: Icdr, host: str, port: int) -> None:
        """Listen. Raises OSError."""
        super().__init__((host, port), Handler)
        self.icdr = icdr


class Answer(Exception):
    """Ends a request with a status and a body."""

    def __init__(self, status: int, body: object = None, kind: str = "application/json") -> None:
        """`body` is made JSON unless it is text."""
        super().__init__(status)
        self.status, self.body, self.kind = status, body, kind


class Handler(http.server.BaseHTTPRequestHandler):
    """Sends each request to the service whose address it begins with."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "SanteDB-STAND-IN"

    def handle_any(self) -> None:
        """Answer any method."""
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length) if length else b""
        try:
            self.route()
            answer = Answer(404, {"$type": "RestServiceFault", "message": "not found"})
        except Answer as given:
            answer = given
        except Exception as error:  # as the real host: a fault, and the process goes on
            self.server.icdr.log("Error", f"{self.command} {self.path.split('?')[0]}: {error}")
            answer = Answer(500, {"$type": "RestServiceFault", "type": type(error).__name__, "message": str(error)})
        body = answer.body if isinstance(answer.body, str) else json.dumps(answer.body, default=str)
        data = b"" if answer.body is None else body.encode()
        with contextlib.suppress(OSError):
            self.send_response(answer.status)
            if data:
                self.send_header("Content-Type", answer.kind)
            if answer.status == 401:
                self.send_header("WWW-Authenticate", "Bearer")
            if answer.status != 204:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_OPTIONS = do_PING = do_PATCH = do_SEARCH = handle_any

    def log_message(self, format: str, *args: object) -> None:
        """Write requests to the host's log at level Verbose."""
        self.server.icdr.log("Verbose", format % args)

    @property
    def source(self) -> str:
        """The caller's address, as the proxy in front reports it."""
        forwarded = self.headers.get("X-Real-IP") or (self.headers.get("X-Forwarded-For") or "").split(",")[0]
        return forwarded.strip() or str(self.client_address[0])

    def route(self) -> None:
        """Find the service and let it answer. Raises Answer."""
        icdr = self.server.icdr
        url = urlsplit(self.path)
        if url.path == "/_standin/audit" and self.command == "POST":
            given = json.loads(self.body or b"{}")
            icdr.audit(**{key: str(value) for key, value in given.items() if key in icdr.AUDIT_FIELDS})
            raise Answer(202, {"queued": True})
        if url.path == "/_standin/state":
            raise Answer(200, icdr.state())
        paths = {token: urlsplit(address).path.rstrip("/") for token, address in icdr.config.listen.items()}
        for token, path in sorted(paths.items(), key=lambda item: -len(item[1])):
            if url.path == path or url.path.startswith(f"{path}/"):
                rest = url.path.removeprefix(path).strip("/")
                query = urllib.parse.parse_qs(url.query)
                getattr(self, f"serve_{token.lower()}")(rest, query)
                return

    # -- who asks -----------------------------------------------------------------------------------------------

    def basic(self, header: str = "Authorization") -> tuple[str, str] | None:
        """Return name and secret of a Basic header, None without one."""
        scheme, _, value = (self.headers.get(header) or "").partition(" ")
        if scheme.lower() != "basic":
            return None
        with contextlib.suppress(ValueError):
            name, _, secret = base64.b64decode(value).decode().partition(":")
            return name, secret
        return None

    def principal(self, token: str) -> dict[str, Any]:
        """Return the claims of the caller's session. Raises Answer 401 unless the service is open to all."""
        icdr = self.server.icdr
        scheme, _, value = (self.headers.get("Authorization") or "").partition(" ")
        if scheme.lower() == "bearer" and value:
            claims = icdr.signer.check(value)
            if claims and claims.get("exp", 0) > datetime.datetime.now().timestamp():
                return claims
        elif token in icdr.config.open_rest:
            return {"sub": "ANONYMOUS", "role": []}
        raise Answer(401, {"$type": "RestServiceFault", "type": "SecuritySessionException", "message": "no session"})

    # -- services -----------------------------------------------------------------------------------------------

    def serve_hdsi(self, rest: str, query: dict[str, list[str]]) -> None:
        """PING tells whether the host runs; the rest needs a session."""
        icdr = self.server.icdr
        if self.command == "PING":
            raise Answer(204 if icdr.ready.is_set() else 503)
        if self.command == "OPTIONS":
            raise Answer(200, {"version": icdr.version, "resources": ["Patient"]})
        self.principal("HDSI")
        if rest == "Patient":
            raise Answer(200, {"$type": "Bundle", "item": icdr.store.patients()})

    def serve_ami(self, rest: str, query: dict[str, list[str]]) -> None:
        """The service description, and the stand-in's console."""
        icdr = self.server.icdr
        if self.command == "PING":
            raise Answer(204)
        if self.command == "OPTIONS":
            base = icdr.config.base_address or f"http://{socket_name(self)}"
            points = [{"service": token, "url": base + urlsplit(url).path} for token, url in icdr.config.listen.items()]
            settings = [
                {"key": item.get("key"), "value": item.get("value")}
                for item in icdr.config.xml.items("AmiConfigurationSection", "publicSettings")
            ]
            raise Answer(200, {"version": icdr.version, "endpoints": points, "settings": settings, "standin": True})
        claims = self.principal("AMI")
        if rest == "_standin/console" and self.command == "POST":
            if "ADMINISTRATORS" not in claims.get("role", []):
                raise Answer(403, {"$type": "RestServiceFault", "message": "PolicyViolationException"})
            line = str(json.loads(self.body)["line"])
            try:
                said = icdr.console.run(line)
            except CommandError as error:
                raise Answer(400, {"$type": "RestServiceFault", "message": str(error)}) from error
            command = line.split(" ")[0]
            icdr.audit(
                action="u", event="security", outcome="ok", actor=claims["sub"], source=self.source, detail=command
            )
            raise Answer(200, {"said": said})

    def serve_bis(self, rest: str, query: dict[str, list[str]]) -> None:
        """PING only."""
        if self.command == "PING":
            raise Answer(204)
        self.principal("BIS")

    def serve_swagger(self, rest: str, query: dict[str, list[str]]) -> None:
        """A description without paths."""
        info = {"title": "SanteDB stand-in", "version": self.server.icdr.version}
        servers = [{"url": self.server.icdr.config.base_address}]
        raise Answer(200, {"openapi": "3.0.0", "info": info, "servers": servers, "paths": {}})

    def serve_www(self, rest: str, query: dict[str, list[str]]) -> None:
        """One page."""
        raise Answer(200, "<!doctype html><title>SanteDB stand-in</title><h1>SanteDB stand-in</h1>", "text/html")

    def serve_fhir(self, rest: str, query: dict[str, list[str]]) -> None:
        """Metadata and time for anyone; patients with a session."""
        icdr = self.server.icdr
        kinds = icdr.config.fhir_resources
        if rest == "metadata":
            resources = [{"type": kind} for kind in sorted(kinds or {"Patient"})]
            now = datetime.datetime.now(datetime.UTC).isoformat()
            body = {"resourceType": "CapabilityStatement", "status": "active", "date": now, "fhirVersion": "4.0.1"}
            raise Answer(200, {**body, "rest": [{"mode": "server", "resource": resources}]}, "application/fhir+json")
        if rest == "time":
            raise Answer(200, {"time": datetime.datetime.now(datetime.UTC).isoformat()})
        claims = self.principal("FHIR")
        kind, _, key = rest.partition("/")
        if kind != "Patient" or (kinds is not None and kind not in kinds):
            raise Answer(404, {"resourceType": "OperationOutcome", "issue": [{"code": "not-supported"}]})
        who = {"actor": str(claims["sub"]), "source": self.source}
        if self.command == "POST" and not key:
            body = json.loads(self.body)
            for name, setting in RESTRICTED.items():
                if name in body and icdr.config.app_settings.get(setting, "").lower() != "true":
                    raise Answer(
                        422, {"resourceType": "OperationOutcome", "issue": [{"diagnostics": f"{name} forbidden"}]}
                    )
            found = icdr.store.add_patient(body)
            icdr.audit(action="c", event="patient", outcome="ok", detail=found, **who)
            raise Answer(201, {**body, "id": found}, "application/fhir+json")
        if self.command == "GET" and key:
            patients = icdr.store.patients(key=key)
            icdr.audit(action="r", event="patient", outcome="ok" if patients else "fail.minor", detail=key, **who)
            if patients:
                raise Answer(200, patients[0], "application/fhir+json")
        elif self.command == "GET":
            identifier = query["identifier"][0] if "identifier" in query else None
            wanted = identifier.rpartition("|")[2] if identifier else None
            entries = [{"resource": patient} for patient in icdr.store.patients(identifier=wanted)]
            icdr.audit(action="x", event="query", outcome="ok", detail=identifier or "", **who)
            bundle = {"resourceType": "Bundle", "type": "searchset", "total": len(entries), "entry": entries}
            raise Answer(200, bundle, "application/fhir+json")

    # -- log-in -------------------------------------------------------------------------------------------------

    def serve_openid(self, rest: str, query: dict[str, list[str]]) -> None:
        """Discovery, and tokens by the grants password and client_credentials."""
        icdr = self.server.icdr
        if self.command == "PING":
            raise Answer(204)
        issuer = icdr.config.issuer.rstrip("/")
        if rest == ".well-known/openid-configuration":
            raise Answer(
                200,
                {
                    "issuer": icdr.config.issuer,
                    "token_endpoint": f"{issuer}/oauth2_token",
                    "authorization_endpoint": f"{issuer}/authorize",
                    "userinfo_endpoint": f"{issuer}/userinfo",
                    "jwks_uri": f"{issuer}/jwks",
                    "grant_types_supported": ["password", "client_credentials"],
                },
            )
        if rest == "jwks":
            raise Answer(200, {"keys": []})
        if rest == "oauth2_token" and self.command == "POST":
            self.token()

    def token(self) -> None:
        """Answer a token request. Raises Answer always."""
        icdr = self.server.icdr
        form = {
            key: found[0] for key, found in urllib.parse.parse_qs(self.body.decode(), keep_blank_values=True).items()
        }
        client = self.basic() or (form.get("client_id", ""), form.get("client_secret", ""))
        grant = form.get("grant_type", "")
        who, refusal, status = client[0], "", 400
        roles: list[str] = []
        error = "invalid_grant"
        if not icdr.store.application(*client):
            error, refusal, status = "invalid_client", "application not authenticated", 401
        elif grant == "password":
            who = form.get("username", "")
            config = icdr.config
            refusal = icdr.store.user(who, form.get("password", ""), config.lock_after, config.password_age)
            if not refusal and config.mfa_required:
                error, refusal = "mfa_required", "a second factor is required"
            roles = icdr.store.roles_of(who)
        elif grant == "client_credentials":
            device = self.basic("X-Device-Authorization")
            if device and not icdr.store.device(*device):
                error, refusal, status = "invalid_client", "device not authenticated", 401
            elif not device and not icdr.config.insecure_client_auth:
                error, refusal = "unauthorized_client", "client_credentials needs an authenticated device"
            elif not device and icdr.store.denied(client[0], CLIENT_CREDENTIALS):
                error, refusal = "unauthorized_client", "the policy is denied to the application"
        else:
            error, refusal = "unsupported_grant_type", grant or "no grant_type"
        icdr.audit(
            action="x",
            event="login",
            outcome="fail.minor" if refusal else "ok",
            actor=who,
            source=self.source,
            detail=f"{client[0]} {refusal}".strip(),
        )
        if refusal:
            raise Answer(status, {"error": error, "error_description": refusal})
        now = int(datetime.datetime.now().timestamp())
        length = int(icdr.config.session.total_seconds())
        claims = {
            "iss": icdr.config.issuer,
            "sub": who,
            "aud": client[0],
            "role": roles,
            "iat": now,
            "exp": now + length,
            "jti": secrets.token_hex(8),
        }
        try:
            token = icdr.signer.sign(claims)
        except KeyMissing as problem:
            icdr.log("Error", f"cannot sign a session: {problem}")
            raise Answer(500, {"error": "server_error", "error_description": str(problem)}) from problem
        raise Answer(200, {"access_token": token, "token_type": "bearer", "expires_in": length})


def socket_name(handler: Handler) -> str:
    """Return the address under which the caller reached this host."""
    return handler.headers.get("Host") or "localhost"
