"""``santescaffold adopt``: the answers an existing SanteDB compose or environment file implies, and its dangers.

What SanteDB reads, and what it only seems to read, comes from the catalogue (features, quirks); this module knows
compose files. Secrets that are found are looked at and never shown.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import yaml

from santescaffold.problems import Problem, errors, print_problems
from santescaffold.template import Template, TemplateError, obtain

# Digests of passwords that SanteDB's documents and samples, or everybody's habits, have published.
PUBLISHED = {
    "3f3304403ed108dc",
    "59ff5973691ff75f",
    "a942b37ccfaf5a81",
    "59546f91da3f0750",
    "5e884898da280471",
    "057ba03d6c441048",
    "8c6976e5b5410415",
    "0180cad1928b9b98",
    "015fe16693e1117c",
}
KINDS = (
    ("mpi", "santedb-mpi"),
    ("www", "santedb-www"),
    ("dcg", "santedb-dcg"),
    ("icdr", "santedb-icdr"),
    ("postgres", "postgres"),
    ("redis", "redis"),
    ("queue", "rabbitmq"),
    ("proxy", "nginx"),
)
SERVERS = ("icdr", "mpi")
PORTS = {
    "postgres": "the database can be reached from outside; it is guarded by one password",
    "redis": "the cache can be reached from outside; it has neither users nor encryption",
    "queue": "the message broker can be reached from outside",
    "icdr": "the programming interfaces are published without encryption; passwords and patient data cross in clear",
    "www": "the portal is published without encryption; passwords cross in clear",
}
STANDARDS = {
    "FHIR": "fhir_r4",
    "HL7": "hl7v2_llp",
    "IHE_PIX": "ihe_pix",
    "IHE_PDQ": "ihe_pdq",
    "IHE_PIXM": "ihe_pixm",
    "IHE_PDQM": "ihe_pdqm",
    "IHE_PMIR": "ihe_pmir",
    "AUDIT_SHIP": "ihe_atna",
    "FHIR_AUDIT": "fhir_audit",
    "OPENID": "openid_connect",
    "HDSI": "hdsi",
    "AMI": "ami",
    "BIS": "bis",
    "SWAGGER": "openapi",
}
ANSWERED = {*STANDARDS, "MDM", "MATCHING", "REDIS", "DATA_POLICY", "AUDIT_SHIP", "SG"}
NEEDED = ("project_name", "organization", "jurisdiction", "country_code", "vision_statement")
MOST_BYTES = 2_000_000
MOUNTED = {
    "/santedb": (
        "the whole program, with its configuration and what was put beside it",
        "see the four directories in it",
    ),
    "/santedb/config": ("configuration files", "compare them with santedb/<environment>/ of the new repository"),
    "/santedb/data": ("data that is loaded at the first start", "put what is still wanted into santedb/data/"),
    "/santedb/applets": (
        "applets: screens, rules, reports",
        "answer custom_applets, and put them into santedb/applets/",
    ),
    "/santedb/match": ("match configurations", "answer match_configurations, and compare with santedb/match/"),
}
READ = {"image", "environment", "env_file", "restart"}
OTHERWISE = {"command", "entrypoint", "build", "configs", "secrets", "network_mode", "privileged", "user", "extends"}
"""Keys of a service with which a container can be something else than its image and variables say."""


class Unreadable(Exception):
    """The file is no compose or environment file; the message follows the error grammar."""


@dataclass
class Service:
    """One container of the file."""

    name: str
    kind: str
    image: str = ""
    variables: dict[str, str] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    ports: list[str] = field(default_factory=list)
    volumes: list[str] = field(default_factory=list)
    restart: str | None = None
    open_names: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def tag(self) -> str | None:
        """The tag or digest of the image, None when it has none."""
        name, at, digest = self.image.partition("@")
        if at:
            return digest
        last = name.rpartition("/")[2]
        return last.partition(":")[2] or None


class _Lines(yaml.SafeLoader):
    """YAML whose scalars stay text; compose files write ports and switches in many ways."""


_Lines.yaml_implicit_resolvers = {}


class Adoption:
    """What was found in one file."""

    def __init__(self, path: Path, template: Template) -> None:
        """Read the file; raises Unreadable."""
        self.path = path
        catalog = template.catalog
        self.questions: dict[str, Any] = catalog["questions"]
        self.features = {entry["id"]: entry for entry in catalog["features"]["features"]}
        self.facts: dict[str, Any] = catalog["features"]
        self.quirks = {entry["id"]: entry for entry in catalog["quirks"]["quirks"]}
        self.settings = {
            setting["name"]: (entry["id"], setting) for entry in self.features.values() for setting in entry["settings"]
        }
        self.answers: dict[str, Any] = {}
        self.beside: list[str] = []
        self.problems: list[Problem] = []
        self.services = self._read()
        for service in self.services:
            self._judge_image(service)
            self._judge_ports(service)
            for name in sorted(set(service.open_names)):
                self.say(
                    "D20",
                    "warn",
                    f"the value of ${{{name}}} is not in the file",
                    service,
                    name,
                    "what it decides is not known here",
                    "answer what depends on it by hand",
                )
        servers = [service for service in self.services if service.kind in SERVERS]
        if not servers:
            raise Unreadable(
                f"no SanteDB server is in the file; {path}; there is nothing to adopt; "
                "name the file with the santedb-icdr or santedb-mpi container, or its environment file"
            )
        for service in self.services:
            self._judge_secrets(service)
            self._judge_rest(service)
        self._map_services()
        for server in servers:
            self._judge_server(server)
        if len(servers) > 1:
            self._clustered(servers)
        for service in self.services:
            if service.left:
                self.say(
                    "D27",
                    "note",
                    f"not carried over: {', '.join(dict.fromkeys(service.left))}",
                    service,
                    "",
                    "the new deployment sets this up by itself",
                    "nothing, unless you know of a reason for it",
                )

    # --- reading ---------------------------------------------------------------------------------------------------

    def _read(self) -> list[Service]:
        try:
            if self.path.stat().st_size > MOST_BYTES:
                raise Unreadable(f"the file is too large; {self.path}; it is no compose file; name another")
            text = self.path.read_bytes().decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise Unreadable(
                f"the file cannot be read ({type(error).__name__}); {self.path}; nothing can be adopted; check it"
            ) from error
        try:
            root = yaml.compose(text, Loader=_Lines)
            loaded = yaml.load(text, Loader=_Lines) if isinstance(root, yaml.MappingNode) else None
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            if re.search(r"(?m)^(export\s+)?[A-Za-z_][\w.]*=", text):
                return [self._from_environment(text)]
            mark = getattr(error, "problem_mark", None)
            at = f", line {mark.line + 1}" if mark else ""
            raise Unreadable(
                f"the file is neither YAML nor an environment file; {self.path}{at}; nothing can be adopted; correct it"
            ) from None
        if not isinstance(loaded, dict) or not isinstance(root, yaml.MappingNode):
            return [self._from_environment(text)]
        listed = loaded.get("services")
        if not isinstance(listed, dict):
            raise Unreadable(
                f"the file has no services; {self.path}; it is no compose file; name a compose or an environment file"
            )
        known = self._beside(".env")
        self.beside = [str(key) for key in loaded if key not in ("services", "version", "name")]
        return [
            self._service(str(name), entry, known, _numbers(root, str(name)))
            for name, entry in listed.items()
            if isinstance(entry, dict)
        ]

    def _from_environment(self, text: str) -> Service:
        variables, lines = _assignments(text)
        if not any(name.startswith("SDB_") for name in variables):
            raise Unreadable(
                f"the file has no variable of SanteDB; {self.path}; there is nothing to adopt; "
                "name a compose file with SanteDB containers, or an environment file with SDB_ variables"
            )
        return Service(self.path.name, "icdr", "", variables, lines)

    def _beside(self, name: str) -> dict[str, str]:
        file = self.path.parent / name
        try:
            return _assignments(file.read_text(encoding="utf-8"))[0] if file.is_file() else {}
        except (OSError, UnicodeDecodeError):
            return {}

    def _service(self, name: str, entry: dict[str, Any], known: dict[str, str], lines: dict[str, int]) -> Service:
        service = Service(name, "other", lines=lines)

        def filled(value: Any) -> str:
            return _fill(str(value), known, service.open_names)

        service.image = filled(entry.get("image") or "")
        base = service.image.partition("@")[0].rpartition("/")[2]
        service.kind = next((kind for kind, part in KINDS if part in base), "other")
        files = entry.get("env_file") or []
        for item in files if isinstance(files, list) else [files]:
            file = str(item.get("path") if isinstance(item, dict) else item)
            found = self._beside(file)
            service.variables |= found
            if not found:
                service.open_names.append(f"env_file {file}")
        given = entry.get("environment") or {}
        pairs = given.items() if isinstance(given, dict) else (str(item).partition("=")[::2] for item in given)
        for key, value in pairs:
            service.variables[str(key)] = filled("" if value is None else value)
        for item in entry.get("ports") or []:
            if isinstance(item, dict):
                item = f"{item.get('host_ip', '')}:{item.get('published', '')}:{item.get('target', '')}".lstrip(":")
            service.ports.append(filled(item))
        service.volumes = [
            str(item.get("target") if isinstance(item, dict) else item) for item in entry.get("volumes") or []
        ]
        deploy = entry.get("deploy")
        service.keys = [str(key) for key in entry]
        service.restart = entry.get("restart") or (
            deploy.get("restart_policy") and "policy" if isinstance(deploy, dict) else None
        )
        return service

    # --- saying ----------------------------------------------------------------------------------------------------

    def say(
        self,
        code: str,
        severity: str,
        message: str,
        service: Service,
        name: str,
        why: str,
        todo: str,
        quirk: str | None = None,
    ) -> None:
        """Keep a finding; one about a quirk of SanteDB carries its title and number (`santescaffold explain`)."""
        if quirk and quirk in self.quirks:
            todo = f"{todo} ({quirk}: {self.quirks[quirk]['title']})"
        found = Problem(
            id=code,
            severity=severity,
            message=message,
            where=f"{service.name}: {name}" if name else service.name,
            why=why,
            todo=todo,
            file=str(self.path),
            line=service.lines.get(name) or service.lines.get(""),
        )
        if found not in self.problems:
            self.problems.append(found)

    # --- dangers ---------------------------------------------------------------------------------------------------

    def _judge_image(self, service: Service) -> None:
        if service.kind == "other":
            self.say(
                "D21",
                "warn",
                "the container is none this project knows",
                service,
                "image",
                "nothing takes its place",
                "see whether it is still needed beside the deployment",
            )
        elif service.image and service.tag in (None, "latest"):
            self.say(
                "D01",
                "error",
                "the image has no fixed version",
                service,
                "image",
                "the next start may bring another version, and nobody can tell which one ran",
                "find out which version runs (docker image inspect) and answer image_versions",
            )
        if service.kind == "postgres" and not any("/postgresql" in volume for volume in service.volumes):
            self.say(
                "D02",
                "error",
                "the database has no volume of its own",
                service,
                "volumes",
                "its data goes with the container",
                "take a dump before anything else is done",
            )
        if service.kind in SERVERS and service.image and service.restart in (None, "no", "on-failure"):
            self.say(
                "D03",
                "error",
                "the container is not started again when it stops",
                service,
                "restart",
                "SanteDB ends with status 0 on a fatal error",
                "restart: unless-stopped until the deployment is replaced",
                "Q05",
            )

    def _judge_ports(self, service: Service) -> None:
        kind = "icdr" if service.kind in SERVERS else "www" if service.kind == "dcg" else service.kind
        for port in service.ports:
            host, _, _ = port.rpartition(":")
            if kind not in PORTS or host.startswith(("127.", "localhost", "[::1]")):
                continue
            if kind == "icdr" and port.rpartition(":")[2].startswith("2100"):
                why = "HL7 v2 is published without encryption; names and identifiers of patients cross in clear"
            else:
                why = PORTS[kind]
            self.say(
                "D04",
                "error",
                f"port {port} is published",
                service,
                "ports",
                why,
                "bind it to 127.0.0.1 or take it out; in the new deployment only the proxy is reached from outside",
            )

    def _judge_secrets(self, service: Service) -> None:
        for name, value in service.variables.items():
            for password, user in _passwords(name, value):
                digest = hashlib.sha256(password.encode()).hexdigest()
                if digest[:16] in PUBLISHED or password.casefold() == user.casefold():
                    self.say(
                        "D05",
                        "error",
                        "the password is one that everybody knows",
                        service,
                        name,
                        "SanteDB's samples publish it, or it is the user's own name",
                        "change it now; the new deployment makes its own secrets",
                    )
                else:
                    self.say(
                        "D06",
                        "error",
                        "a secret stands in clear",
                        service,
                        name,
                        "whoever reads the file has it",
                        "take it out of version control and change it; the new deployment keeps secrets encrypted",
                        "Q48",
                    )

    def _judge_rest(self, service: Service) -> None:
        """Say what of a service no answer stands for, so that nothing is left behind unseen."""
        if service is self.services[0]:
            service.left += [f"{key} of the file" for key in self.beside]
        server = service.kind in SERVERS
        for key in service.keys:
            if key in OTHERWISE:
                self.say(
                    "D26",
                    "warn",
                    f"{key} is not read",
                    service,
                    key,
                    "the container may be something else than its image and variables say",
                    "look at what it does, and answer by hand",
                )
            elif key not in READ - (set() if server else {"restart"}) | {"volumes", "ports"}:
                service.left.append(key)
        service.left += [f"port {port}" for port in service.ports]
        for volume in service.volumes:
            target = next((part for part in volume.split(":") if part.startswith("/santedb")), "").rstrip("/")
            if server and target in MOUNTED:
                what, todo = MOUNTED[target]
                self.say(
                    "D25",
                    "warn",
                    f"{target} comes from outside the image",
                    service,
                    "volumes",
                    f"it holds {what}; this file does not show them",
                    todo,
                )
            else:
                service.left.append(f"volume {volume}")
        if not server:
            service.left += list(service.variables)

    def _judge_server(self, server: Service) -> None:
        line = str(self.answers.get("santedb_line") or "3.x")
        tokens = self._tokens(server, line)
        for name, value in server.variables.items():
            if name == self.facts["feature_list"]["variable"]:
                continue
            if name.startswith("SDB_DB_"):
                self._connection(server, name, value)
            elif name in self.settings:
                self._setting(server, name, value, tokens, line)
            elif name.startswith("SDB_"):
                self._unknown(server, name)
            else:
                self._other(server, name, value)
        keys = ("SDB_SEC_SIG_default", "SDB_SEC_SIG_jwsdefault")
        if any(key not in server.variables for key in keys):
            self.say(
                "D07",
                "error",
                "the signing keys are not set",
                server,
                "SDB_SEC_SIG_default",
                "the server makes new ones at each start; tokens and signatures die with a restart",
                "nothing: the new deployment sets both",
                "Q09",
            )
        mounted = {part.rstrip("/") for volume in server.volumes for part in volume.split(":")}
        if "AUDIT_REPO" in tokens and not mounted & {"/santedb", "/santedb/config"}:
            self.say(
                "D08",
                "error",
                "no configuration file is mounted, so audits are kept 30 days",
                server,
                "volumes",
                "older audits are deleted, whatever the law asks for",
                "export the audits that must be kept; answer audit_retention_days",
                "Q49",
            )
        self._map_tokens(server, tokens)

    def _tokens(self, server: Service, line: str) -> list[str]:
        variable = self.facts["feature_list"]["variable"]
        text = server.variables.get(variable)
        if text is None:
            if line == "2.x":
                self.say(
                    "D09",
                    "error",
                    f"{variable} is not set",
                    server,
                    variable,
                    "2.x does not start without",
                    "set it",
                    "Q35",
                )
            else:
                self.say(
                    "D22",
                    "warn",
                    f"{variable} is not set",
                    server,
                    variable,
                    "the image's own list applies",
                    "compare the answer standards with what partners use",
                )
            return str(self.facts["feature_list"]["image_default"]).split(";")
        found = []
        legacy = set(self.facts["legacy_2_2_3"]["unknown_tokens"]) if line == "2.x" else set()
        for raw in text.split(";"):
            token = raw.strip()
            if not token or token != raw:
                self.say(
                    "D10",
                    "error",
                    "the list of features has an empty or untrimmed entry",
                    server,
                    variable,
                    "the server stops at start",
                    "write the names with ; between them and nothing else",
                    "Q05",
                )
                if not token:
                    continue
            if token in found:
                self.say(
                    "D11",
                    "error",
                    f"the feature {token} is listed twice",
                    server,
                    variable,
                    "a second service with the same address is registered",
                    "list it once",
                    "Q05",
                )
            elif token not in self.features or token in legacy:
                absent = token in self.facts["documented_but_absent"]["features"]
                meant = difflib.get_close_matches(token, list(self.features), 1, 0.6)
                hint = (
                    "the documents name it, SanteDB has none"
                    if absent
                    else f'did you mean "{meant[0]}"?'
                    if meant
                    else "take it out"
                )
                self.say(
                    "D12",
                    "error",
                    f"the feature {token[:40]} is unknown to {line}",
                    server,
                    variable,
                    "the server stops at start, with status 0",
                    hint,
                    "Q35" if token in legacy else "Q05",
                )
            else:
                found.append(token)
                never = self.features[token].get("never")
                if never and token != "CORE":
                    self.say(
                        "D13",
                        "error",
                        f"the feature {token} does not do what it says",
                        server,
                        variable,
                        never["reason"],
                        "do not rely on it",
                        never["quirk"],
                    )
        if line == "3.x":
            for token in ("LOG", "SEC", "ADO", "PUBSUB_ADO", "FS_MQ"):
                if token not in found:
                    self.say(
                        "D14",
                        "error",
                        f"the feature {token} is missing",
                        server,
                        variable,
                        "3.x does not start without it, or loses messages",
                        "nothing: the new deployment has it",
                        "Q04",
                    )
        return found

    def _setting(self, server: Service, name: str, value: str, tokens: list[str], line: str) -> None:
        feature, setting = self.settings[name]
        never = setting.get("never")
        if feature not in tokens:
            self.say(
                "D15",
                "error",
                "the setting is ignored",
                server,
                name,
                f"its feature {feature} is not in the list of features",
                f"see whether {feature} is wanted, and answer accordingly",
            )
            return
        if never:
            self.say(
                "D16",
                "error",
                "the setting does not do what it says",
                server,
                name,
                never["reason"],
                "leave it out",
                never["quirk"],
            )
            return
        if setting.get("effective") is False:
            self.say(
                "D16",
                "error",
                "the setting has no effect",
                server,
                name,
                "SanteDB does not use it",
                "leave it out",
                setting.get("quirk"),
            )
            return
        allowed = setting.get("allowed")
        if setting["type"] == "enum" and allowed and value.casefold() not in [str(one).casefold() for one in allowed]:
            self.say(
                "D17",
                "error",
                "the value is none SanteDB knows",
                server,
                name,
                str(setting.get("on_bad", "")),
                f"one of {', '.join(map(str, allowed))}",
            )
            return
        self._map_setting(server, name, value, setting)

    def _unknown(self, server: Service, name: str) -> None:
        if name in {entry["name"] for entry in self.facts["host_settings"]}:
            self.say(
                "D23",
                "warn",
                "no answer stands for the setting",
                server,
                name,
                "the new deployment waits for its database by itself, and sets threads by size",
                "nothing",
            )
            return
        absent = {entry["name"]: entry["use"] for entry in self.facts["documented_but_absent"]["variables"]}
        meant = difflib.get_close_matches(name, list(self.settings), 1, 0.75)
        todo = f"use {absent[name]}" if name in absent else f'did you mean "{meant[0]}"?' if meant else "take it out"
        quirk = "Q23" if name.startswith("SDB_MDM") else "Q28"
        self.say(
            "D18",
            "error",
            "SanteDB does not read the setting",
            server,
            name,
            "it is ignored without a word",
            todo,
            quirk,
        )

    def _other(self, server: Service, name: str, value: str) -> None:
        if name == "TZ":
            self._answer("time_zone", value)
        elif re.fullmatch(r"(forbid|allow)\.[A-Za-z.]+", name) and value.casefold() == "true":
            kind, _, path = name.partition(".")
            answer = "forbidden_fields" if kind == "forbid" else "allowed_fields"
            if path in self.questions[answer]["allowed"]:
                self.answers.setdefault(answer, []).append(path)
        else:
            self.say(
                "D23",
                "warn",
                "no answer stands for the variable",
                server,
                name,
                "the new deployment does not set it",
                "see what it was for",
            )

    def _connection(self, server: Service, name: str, value: str) -> None:
        if name.endswith("_PROVIDER"):
            server.left.append(name)
            if value.casefold() != "npgsql":
                self.say(
                    "D19",
                    "error",
                    "the database is not PostgreSQL",
                    server,
                    name,
                    "the new deployment uses PostgreSQL only",
                    "plan a migration of the data",
                )
            return
        if f"{name}_PROVIDER" not in server.variables:
            self.say(
                "D19",
                "error",
                "the connection names no provider",
                server,
                name,
                "it fails at first use",
                f"set {name}_PROVIDER",
                "Q07",
            )
        parts = _parts(value)
        server.left.append(f"{name} ({', '.join(part for part in parts if part != 'password')})")
        if parts.get("user id", parts.get("user", "")).casefold() in ("postgres", "root"):
            self.say(
                "D19",
                "error",
                "SanteDB connects as the owner of the whole server",
                server,
                name,
                "a fault in SanteDB reaches every database",
                "nothing: the new deployment has a role for each database",
                "Q13",
            )
        if value and not parts.get("database"):
            self.say(
                "D23",
                "warn",
                "the database of the connection is not named",
                server,
                name,
                "it cannot be carried over",
                "find out where the data is",
            )

    # --- answers ---------------------------------------------------------------------------------------------------

    def _answer(self, name: str, value: Any) -> None:
        head, _, inner = name.partition(".")
        question = self.questions.get(head)
        if question is None:
            return
        allowed = question.get("allowed")
        if not inner and allowed and value not in allowed:
            return
        if inner:
            self.answers.setdefault(head, {})[inner] = value
        else:
            self.answers[head] = value

    def _map_services(self) -> None:
        kinds = [service.kind for service in self.services]
        servers = [service for service in self.services if service.kind in SERVERS]
        self._answer("runtime", "containers")
        versions = {}
        for service in self.services:
            tag = service.tag
            if tag and tag != "latest" and service.kind in ("icdr", "mpi", "www"):
                versions[service.kind] = tag
        if versions:
            self.answers["image_versions"] = versions
        tags = [service.tag or "" for service in servers]
        if any(tag.startswith("2.") for tag in tags):
            self._answer("santedb_line", "2.x")
        elif any(tag.startswith("3.") for tag in tags):
            self._answer("santedb_line", "3.x")
        self._answer("web_portal", "www" in kinds)
        patterns = ["interoperable_registry"] + (["online_clinical_portal"] if "www" in kinds else [])
        self.answers["deployment_patterns"] = patterns
        if "dcg" in kinds:
            self._answer("offline", True)
            self.answers["offline_patterns"] = ["dcdr_gateway"]
        if "queue" in kinds:
            self.say(
                "D23",
                "warn",
                "a message broker is there",
                next(s for s in self.services if s.kind == "queue"),
                "image",
                "SanteDB uses it only through XML, which this file does not show",
                "answer dispatcher_queue: rabbitmq if it does",
                "Q10",
            )
        postgres = [service for service in self.services if service.kind == "postgres"]
        for service in postgres:
            major = re.match(r"(\d+)", service.tag or "")
            if major:
                self._answer("postgresql_version", major.group(1))
        if sum("repmgr" in service.image for service in postgres) > 1:
            self._answer("database_failover", "streaming_replication")

    def _clustered(self, servers: Iterable[Service]) -> None:
        self._answer("topology", "clustered")
        for server in servers:
            self.say(
                "D23",
                "warn",
                "several SanteDB servers are there",
                server,
                "image",
                "their answers were taken together, the last one wins",
                "compare topology and hosts",
            )

    def _map_tokens(self, server: Service, tokens: list[str]) -> None:
        if server.kind == "mpi" or (
            "MDM" in tokens and "Patient" in server.variables.get("SDB_MDM_RESOURCE", "Patient")
        ):
            self.answers["roles"] = ["mpi"]
        elif tokens and "SG" in tokens:
            self.answers["roles"] = ["audit_repository"]
        else:
            self.answers.setdefault("roles", ["cdr"])
            self.say(
                "D24",
                "warn",
                "the role was guessed: a clinical data repository",
                server,
                "SDB_FEATURE",
                "the file does not tell what the server is for",
                "correct the answer roles",
            )
        server.left += [f"feature {token}" for token in tokens if token not in ANSWERED]
        self.answers["standards"] = list(dict.fromkeys(STANDARDS[token] for token in tokens if token in STANDARDS))
        self._answer("storage_mode", "mdm" if "MDM" in tokens else "default")
        if "MATCHING" not in tokens:
            self._answer("matching_mode", "none")
        self._answer("cache", "redis" if "REDIS" in tokens else "memory")
        self._answer("privacy_enforcement", "DATA_POLICY" in tokens)
        dispatch = "atna" if "AUDIT_SHIP" in tokens else "fhir" if "FHIR_AUDIT" in tokens else "none"
        self._answer("audit_dispatch", dispatch)
        if dispatch == "fhir" and not self.answers.get("audit_fhir"):
            self.say(
                "D15",
                "error",
                "audits are to be sent to nowhere",
                server,
                "SDB_FHIR_AUDIT_EP",
                "the feature FHIR_AUDIT stops the start without an address",
                "answer audit_fhir, or audit_dispatch: none",
            )

    def _map_setting(self, server: Service, name: str, value: str, setting: Mapping[str, Any]) -> None:
        special = {
            "SDB_MDM_RESOURCE": self._mdm,
            "SDB_FHIR_RESOURCE": self._fhir_resources,
            "SDB_HL7_LISTEN": self._hl7,
            "SDB_AUDIT_SHIP_TARGET": self._audit_target,
            "SDB_SMTP_SERVER": self._smtp,
        }.get(name)
        if special:
            special(server, name, value)
            return
        direct = {"SDB_HL7_LOCAL_DOMAIN": "hl7_local_domain", "SDB_AUDIT_SHIP_SITE": "audit_enterprise_site"}
        if name in direct:
            self._answer(direct[name], value)
            return
        emitted = [entry for entry in setting.get("emit") or [] if "answer" in entry]
        if emitted:
            back: dict[str, str] = {}
            for answer, text in (emitted[0].get("map") or {}).items():
                back.setdefault(str(text).casefold(), answer)
            question = self.questions.get(emitted[0]["answer"], {})
            allowed = {str(one).casefold(): one for one in question.get("allowed") or []}
            meant: Any = back.get(value.casefold(), allowed.get(value.casefold(), value))
            if question.get("form") == "int":
                if not str(meant).strip().isdecimal():
                    self.say(
                        "D17",
                        "error",
                        "the value is no whole number",
                        server,
                        name,
                        str(setting.get("on_bad", "")),
                        "correct it",
                    )
                    return
                meant = int(meant)
            self._answer(emitted[0]["answer"], meant)
        elif setting.get("emit"):
            server.left.append(name)
        else:
            self.say(
                "D23",
                "warn",
                "no answer stands for the setting",
                server,
                name,
                "the new deployment leaves SanteDB's default",
                "see whether the default will do",
            )

    def _mdm(self, server: Service, name: str, value: str) -> None:
        resources, configurations = [], []
        for item in filter(None, (part.strip() for part in value.split(";"))):
            resource, equals, configuration = item.partition("=")
            resources.append(resource)
            if equals:
                configurations.append({"resource": resource, "configuration_id": configuration})
                self.say(
                    "D18",
                    "error",
                    f"the match configuration given for {resource} is not used",
                    server,
                    name,
                    "what follows = is not read",
                    "the answer match_configurations carries it",
                    "Q23",
                )
        self.answers["mdm_resources"] = resources
        if configurations:
            self.answers["match_configurations"] = configurations

    def _fhir_resources(self, server: Service, name: str, value: str) -> None:
        known = self.questions["fhir_resources"]["allowed"]
        given = [part.strip() for part in value.split(";") if part.strip()]
        self.answers["fhir_resources"] = [one for one in given if one in known]
        for one in given:
            if one not in known:
                self.say(
                    "D23",
                    "warn",
                    f"no answer stands for the FHIR resource {one[:40]}",
                    server,
                    name,
                    "the new deployment does not serve it",
                    "see who uses it",
                )

    def _hl7(self, server: Service, name: str, value: str) -> None:
        server.left.append(name)
        if value.startswith("sllp"):
            self.say(
                "D16",
                "error",
                "HL7 over TLS does not work in the container",
                server,
                name,
                "the listener cannot be used",
                "answer hl7v2_sllp: TLS then ends at the proxy",
                "Q14",
            )

    def _audit_target(self, server: Service, name: str, value: str) -> None:
        found = re.fullmatch(r"(udp|tcp|stcp)://([^/:]+):(\d+)/?", value)
        if found:
            self._answer("audit_atna.endpoint", f"{found.group(2)}:{found.group(3)}")
            self._answer("audit_atna.transport", found.group(1))
        else:
            self.say(
                "D17",
                "error",
                "the address for audits cannot be read",
                server,
                name,
                "the server stops at start",
                "write stcp://HOST:PORT",
            )

    def _smtp(self, server: Service, name: str, value: str) -> None:
        found = re.fullmatch(r"smtps?://(?:[^@/]*@)?([A-Za-z0-9.-]+)(?::(\d+))?/?", value)
        if found:
            self._answer("smtp.server", f"smtp://{found.group(1)}:{found.group(2) or 25}")
        else:
            self.say(
                "D17",
                "error",
                "the mail server cannot be read",
                server,
                name,
                "the server stops at start",
                "write smtp://HOST:PORT",
                "Q08",
            )

    def text(self) -> str:
        """Return the answers as a file: what the deployment implies, and a line for each that must still be given."""
        head = [
            f"# What {self.path.name} implies. Go through it, fill in the five answers below, then:",
            "#   santescaffold check-answers FILE",
            *(f"# {name}:" for name in NEEDED),
        ]
        body = yaml.dump(self.answers, Dumper=_Indented, sort_keys=False, allow_unicode=True, width=120)
        return "\n".join(head) + "\n" + body


class _Indented(yaml.SafeDumper):
    """YAML whose lists are indented."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indent lists below their key."""
        super().increase_indent(flow, False)


def _assignments(text: str) -> tuple[dict[str, str], dict[str, int]]:
    variables, lines = {}, {}
    for number, line in enumerate(text.splitlines(), 1):
        found = re.match(r"\s*(?:export\s+|SET\s+)?([A-Za-z_][\w.\-]*)\s*=(.*)$", line)
        if found:
            value = found.group(2).strip()
            if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
                value = value[1:-1]
            variables[found.group(1)] = value
            lines[found.group(1)] = number
    return variables, lines


def _fill(text: str, known: Mapping[str, str], missing: list[str]) -> str:
    """Return a compose value with ``$NAME`` and ``${NAME:-default}`` filled in; what is not known becomes nothing."""
    return re.sub(r"\$\$|\$\{(\w+)[^}]*\}|\$(\w+)", lambda found: _one(found, known, missing), text)


def _one(found: re.Match[str], known: Mapping[str, str], missing: list[str]) -> str:
    whole = found.group(0)
    if whole == "$$":
        return "$"
    name = found.group(1) or found.group(2)
    if known.get(name):
        return known[name]
    default = re.match(r"\$\{\w+:?-([^}]*)\}", whole)
    if default:
        return default.group(1)
    missing.append(name)
    return ""


def _parts(value: str) -> dict[str, str]:
    """Return the fields of a connection string."""
    pairs = (part.partition("=") for part in value.split(";"))
    return {key.strip().casefold(): text.strip() for key, _, text in pairs if key.strip()}


def _passwords(name: str, value: str) -> Iterable[tuple[str, str]]:
    """Yield every (secret, user) that a variable holds in clear."""
    if not value:
        return
    if name.startswith("SDB_DB_") and not name.endswith("_PROVIDER"):
        parts = _parts(value)
        if parts.get("password"):
            yield parts["password"], parts.get("user id", "")
    elif name.startswith("SDB_SEC_SIG_"):
        if value.casefold().startswith("hs256:"):
            yield value.partition(":")[2], ""
    elif re.search(r"(?i)(passw|passwd|_pass$|secret|token|_key$)", name) and not name.endswith("_FILE"):
        yield value, ""
    elif re.search(r"://[^/\s:@]+:([^/\s@]+)@", value):
        yield value.partition("://")[2].partition(":")[2].partition("@")[0], ""


def _numbers(root: yaml.MappingNode, service: str) -> dict[str, int]:
    """Return {name: line} of what stands in a service: its keys and its variables; "" is the service itself."""

    def entry(node: yaml.Node | None, wanted: str) -> tuple[yaml.Node, yaml.Node] | None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value == wanted:
                    return key, value
        return None

    services = entry(root, "services")
    found = entry(services[1] if services else None, service)
    if found is None:
        return {}
    lines = {"": found[0].start_mark.line + 1}
    if isinstance(found[1], yaml.MappingNode):
        for key, value in found[1].value:
            lines[str(key.value)] = key.start_mark.line + 1
            if key.value == "environment":
                items = value.value if isinstance(value, (yaml.MappingNode, yaml.SequenceNode)) else []
                for item in items:
                    node = item[0] if isinstance(item, tuple) else item
                    lines[str(node.value).partition("=")[0]] = node.start_mark.line + 1
    return lines


@click.command()
@click.argument("file", metavar="COMPOSE_FILE|ENV_FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the answers here; else they are printed.",
)
@click.option("--template", metavar="PATH|URL", help="Where the template is: a URL, or the directory of a clone.")
@click.option("--vcs-ref", metavar="REF", help="Tag, branch or commit of the template.")
@click.option("--json", "as_json", is_flag=True, help="Write answers and findings as JSON.")
def adopt(file: Path, output: Path | None, template: str | None, vcs_ref: str | None, as_json: bool) -> None:
    """Read an existing SanteDB compose or environment file; write the answers it implies, and list its dangers.

    Answers go to standard output or to a file, findings to standard error. Exits with 1 when there are dangers. Secrets
    are never shown.

    \b
    Example:
      santescaffold adopt docker-compose.yml -o answers.yml
    """
    from santescaffold.template import PUBLIC_URL

    try:
        with obtain(template or PUBLIC_URL, vcs_ref) as found:
            adoption = Adoption(file, found)
    except (Unreadable, TemplateError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    if output is not None:
        try:
            with output.open("x", encoding="utf-8") as written:
                written.write(adoption.text())
        except OSError as error:
            click.echo(
                f"Error: the answers cannot be written ({error.strerror}); {output}; nothing is overwritten; "
                "name another file",
                err=True,
            )
            sys.exit(2)
    if as_json:
        from santescaffold.problems import print_json

        print_json(adoption.problems, answers=adoption.answers, file=str(file))
    else:
        if output is None:
            click.echo(adoption.text(), nl=False)
        print_problems(adoption.problems, sys.stderr)
        dangers = len(errors(adoption.problems))
        others = sum(problem.severity != "note" for problem in adoption.problems) - dangers
        click.echo(f"{file}: {dangers} danger{'s' if dangers != 1 else ''}, {others} to look at.", err=True)
    sys.exit(1 if errors(adoption.problems) else 0)
