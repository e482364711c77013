"""Start-up validation: what features.yml and quirks.md say the real host does with its environment and its XML.

Nothing here touches the network or a database; `configure` reads files below `root` and nothing else.
"""

from __future__ import annotations

import datetime
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from . import values, xmlconfig
from .connections import Connection, find
from .fatal import Fatal
from .keys import SigningKey
from .xmlconfig import XmlConfig

REST = {  # feature -> where it listens when nothing says otherwise
    "HDSI": "http://0.0.0.0:8080/hdsi",
    "AMI": "http://0.0.0.0:8080/ami",
    "BIS": "http://0.0.0.0:8080/bis",
    "OPENID": "http://0.0.0.0:8080/auth",
    "SWAGGER": "http://0.0.0.0:8080/api-docs",
    "WWW": "http://0.0.0.0:8080/",
    "FHIR": "http://0.0.0.0:8080/fhir",
}
QUEUES = ("SanteDB.Queue.RabbitMq.RabbitMqService", "SanteDB.Core.Services.Impl.FileSystemDispatcherQueueService")
MDM_RESOURCES = {"Person", "Patient", "Provider", "Material", "ManufacturedMaterial", "Place", "Organization"}
FILTER_ACTIONS = set(xmlconfig.FILTER_ACTIONS.split())
DEFAULT_PASSWORD_REGEX = r"^(?=.*\d){1,}(?=.*[a-z]){1,}(?=.*[A-Z]){1,}(?=.*[^\w\d]){1,}.{6,}$"


@dataclass
class AuditShipping:
    """Where audits are sent: scheme udp, tcp, stcp or fhir."""

    scheme: str
    host: str
    port: int
    site: str
    certificate: str | None = None
    url: str = ""


@dataclass
class Configuration:
    """Everything start-up found out: what will listen, connect, sign, ship."""

    features: list[str]
    xml: XmlConfig
    connections: dict[str, Connection] = field(default_factory=dict)
    listen: dict[str, str] = field(default_factory=dict)
    open_rest: set[str] = field(default_factory=set)
    hl7: str | None = None
    hl7_authentication: str = "None"
    signing_keys: dict[str, SigningKey] = field(default_factory=dict)
    token_key: str = "default"
    issuer: str = "http://localhost:8080/auth"
    insecure_client_auth: bool = True
    base_address: str | None = None
    fhir_resources: set[str] | None = None
    redis: tuple[str, int, str | None] | None = None
    shipping: AuditShipping | None = None
    lock_after: int = 5
    session: datetime.timedelta = datetime.timedelta(hours=1)
    audit_retention: datetime.timedelta = datetime.timedelta(days=30)
    password_regex: str = DEFAULT_PASSWORD_REGEX
    password_age: datetime.timedelta | None = None
    mfa_required: bool = False
    log_file: str = "Warning"
    log_console: str = "Informational"
    app_settings: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def exception_of(on_bad: str) -> str:
    """Return the exception's name in an `on_bad` text such as `fatal: ArgumentException unless …`."""
    found = re.search(r"[A-Z][A-Za-z]+Exception", on_bad)
    return found[0] if found else "InvalidOperationException"


def tokens(
    env: Mapping[str, str], data: Mapping[str, Any], image: str, line: str
) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Return the feature tokens in order (CORE first on 3.x) and the features the image knows.

    Raises Fatal for a token that is unknown, empty or not trimmed, and when SDB_FEATURE is absent.
    """
    known = {
        feature["id"]: feature
        for feature in data["features"]
        if image in feature["images"] or (image == "mpi" and "icdr" in feature["images"])
    }
    if line == "2.2":
        for token in data["legacy_2_2_3"]["unknown_tokens"]:
            known.pop(token, None)
    listed = env.get("SDB_FEATURE")
    if listed is None:
        if line == "2.2":
            raise Fatal("InvalidOperationException", "No features configured - use SDB_FEATURE")
        listed = ""
    found = listed.split(";")
    if line != "2.2":
        found = ["CORE", *(token for token in found if token != "CORE")]
    for token in found:
        if token not in known:
            raise Fatal(
                "InvalidOperationException", f"Feature {token} not understood - Known features: {','.join(known)}"
            )
    return found, known


def configure(
    env: Mapping[str, str],
    data: Mapping[str, Any],
    *,
    root: Path = Path("/santedb"),
    entry: str = "",
    image: str = "icdr",
    line: str = "3.0",
) -> Configuration:
    """Do what the real host does before its first service starts; return what it then would run with.

    `env` is the environment, `data` the content of features.yml, `root` where /santedb lies, `entry` the command's
    argument, `image` icdr or mpi, `line` 3.0 or 2.2. Raises Fatal with the exception the real host stops with.
    """
    path = root / "santedb.config.xml" if not entry else (Path(entry) if os.path.isabs(entry) else root / entry)
    xml = xmlconfig.load(path, root)
    found, known = tokens(env, data, image, line)
    config = Configuration(found, xml, warnings=list(xml.warnings), app_settings=dict(xml.app_settings))
    config.signing_keys.update(xml.signing_keys)
    _from_policies(config)
    done: list[str] = []
    for token in found:
        feature = known[token]
        _order(feature, done)
        for setting in feature["settings"]:
            _setting(setting, env)
        _apply(token, env, config)
        if token in done:
            config.warnings.append(f"{token} is listed twice: a second service of the same name and address")
        done.append(token)
    _companions(known, config, line)
    _connections(env, config, line)
    for host in data.get("host_settings", []):
        name = str(host["name"])
        if "." in name and name in env:
            config.app_settings[name] = env[name]
    config.app_settings.update({key: value for key, value in env.items() if re.match(r"(allow|forbid)\.", key)})
    return config


def _order(feature: Mapping[str, Any], done: list[str]) -> None:
    if feature.get("effective") is False or "never" in feature:
        return
    for other in (feature.get("requires") or {}).get("order", []):
        if other not in done:
            raise Fatal(
                "NullReferenceException",
                f"Object reference not set to an instance of an object ({feature['id']} needs {other} listed earlier)",
            )


def _setting(setting: Mapping[str, Any], env: Mapping[str, str]) -> None:
    """Judge one setting of one listed feature by its own parser; only what is fatal there stops here."""
    name, on_bad = str(setting["name"]), str(setting.get("on_bad") or "")
    if "<" in name or not on_bad.startswith("fatal") or name == "SDB_SEC_POL_SESSION":
        return
    value = env.get(name)
    if value is None:
        if setting.get("required") and re.search(r"unset|missing", on_bad):
            missing = re.search(r"([A-Z]\w+Exception)[^;]*(?:unset|missing)", on_bad)
            raise Fatal(missing[1] if missing else exception_of(on_bad), f"Value cannot be null: {name}")
        return
    if "not validated otherwise" in on_bad or "not found" in on_bad:
        return
    against = values.problem(dict(setting), value)
    if against:
        raise Fatal(exception_of(on_bad), f"{name}: {against}")


def _apply(token: str, env: Mapping[str, str], config: Configuration) -> None:
    """Do what a feature does with its settings beyond judging each by itself."""
    if token in REST:
        listen = env.get(f"SDB_{token}_LISTEN", REST[token])
        if urlsplit(listen).scheme == "https":
            raise Fatal("PlatformNotSupportedException", f"{token}: TLS on the listener is supported on Windows only")
        config.listen[token] = listen
        if env.get(f"SDB_{token}_AUTH", "").upper() == "NONE":
            config.open_rest.add(token)
    match token:
        case "LOG":
            level = env.get("SDB_LOG_LEVEL")
            if level:
                config.log_file = config.log_console = level
        case "SEC":
            _security(env, config)
        case "DATA_POLICY":
            _data_policy(env)
        case "REDIS":
            server = env.get("SDB_REDIS_SERVER")
            listed = config.xml.items("RedisConfigurationSection", "servers")
            address = server or (listed[0].text or "").strip() if (server or listed) else "127.0.0.1:6379"
            if not re.fullmatch(r"[^:\s]+:\d+", address or ""):
                raise Fatal("IndexOutOfRangeException", "Index was outside the bounds of the array (SDB_REDIS_SERVER)")
            host, _, port = (address or "").partition(":")
            config.redis = (host, int(port), config.xml.attribute("RedisConfigurationSection", "password"))
        case "OPENID":
            config.issuer = env.get("SDB_OPENID_ISSUER") or config.issuer
            config.token_key = env.get("SDB_OPENID_JWT_SIG_KEY") or "default"
            given = env.get("SDB_OPENID_INSECURE_CLIENT_AUTH")
            config.insecure_client_auth = True if given is None else given.strip().lower() == "true"
        case "SWAGGER":
            config.base_address = env.get("SDB_SWAGGER_BASE") or config.xml.text(
                "RestConfigurationSection", "baseAddress"
            )
        case "FHIR":
            if "SDB_FHIR_RESOURCE" in env:
                config.fhir_resources = set(env["SDB_FHIR_RESOURCE"].split(";"))
        case "MDM":
            for resource in env.get("SDB_MDM_RESOURCE", "").split(";") if env.get("SDB_MDM_RESOURCE") else []:
                if resource.split("=")[0] not in MDM_RESOURCES:
                    raise Fatal("InvalidOperationException", f"SDB_MDM_RESOURCE: type {resource!r} not found")
        case "HL7":
            config.hl7 = env.get("SDB_HL7_LISTEN", "llp://0.0.0.0:2100")
            config.hl7_authentication = env.get("SDB_HL7_AUTHENTICATION", "None")
            if urlsplit(config.hl7).scheme == "sllp":
                raise Fatal("AuthenticationException", "sllp is not usable (Q14)")
        case "AUDIT_SHIP":
            _audit_ship(env, config)
        case "FHIR_AUDIT":
            url = env["SDB_FHIR_AUDIT_EP"]
            parts = urlsplit(url)
            config.shipping = AuditShipping("fhir", parts.hostname or "", parts.port or 80, "", url=url.rstrip("/"))


def _security(env: Mapping[str, str], config: Configuration) -> None:
    config.password_regex = env.get("SDB_SEC_PWD_REGEX") or config.password_regex
    lock = env.get("SDB_SEC_POL_LOCK")
    if lock is not None:
        config.lock_after = int(lock)
    if "SDB_SEC_POL_SESSION" in env:  # Q01: the value of POL_LOCK is parsed, as a time span
        span = values.timespan(lock) if lock is not None else None
        if span is None:
            raise Fatal("ArgumentException", "SDB_SEC_POL_SESSION is not a valid timespan (it reads SDB_SEC_POL_LOCK)")
        config.session = span
    for name, value in sorted(env.items()):
        if not name.startswith("SDB_SEC_SIG_"):
            continue
        key, parts = name.removeprefix("SDB_SEC_SIG_"), value.split(":")
        if len(parts) != 2:
            raise Fatal("ArgumentException", f"{name} must have the form algorithm:value, with exactly one ':'")
        config.signing_keys.pop(key, None)
        algorithm = parts[0].lower()
        if algorithm in {"hs256", "rs256", "rs512"}:
            config.signing_keys[key] = SigningKey(key, algorithm, parts[1])
        else:
            config.warnings.append(f"{name}: unknown algorithm; the key {key} is gone (Q09)")
    if "SecurityConfigurationSection" not in config.xml.sections:
        for key in ("default", "jwsdefault"):
            if f"SDB_SEC_SIG_{key}" not in env and key not in config.signing_keys:
                config.signing_keys[key] = SigningKey(key, "hs256", secrets.token_hex(32))
                config.warnings.append(f"signing key {key} is random: it dies with this process (Q09)")


def _data_policy(env: Mapping[str, str]) -> None:
    for item in env.get("SDB_DATA_POLICY_RESOURCE", "").split(";") if env.get("SDB_DATA_POLICY_RESOURCE") else []:
        _, equals, action = item.partition("=")
        if equals and action.lower() not in FILTER_ACTIONS:
            raise Fatal("ArgumentException", f"SDB_DATA_POLICY_RESOURCE: unknown action {action!r}")
    for item in env.get("SDB_DATA_POLICY_FORBID", "").split(";") if env.get("SDB_DATA_POLICY_FORBID") else []:
        if "." not in item:
            raise Fatal("InvalidOperationException", f"SDB_DATA_POLICY_FORBID: {item!r} has no property")


def _audit_ship(env: Mapping[str, str], config: Configuration) -> None:
    name = "AtnaConfigurationSection"
    target = env.get("SDB_AUDIT_SHIP_TARGET")
    if target:
        parts = urlsplit(target)
        scheme, host, port = parts.scheme.lower(), parts.hostname or "", parts.port or 11514
    else:
        scheme = config.xml.attribute(name, "transport") or "udp"
        host, _, number = (config.xml.attribute(name, "endpoint") or "sdb-audit:11514").partition(":")
        port = int(number or 11514)
    site = env.get("SDB_AUDIT_SHIP_SITE") or config.xml.attribute(name, "enterpriseSiteID") or "SanteDB^^^SanteDB"
    section = config.xml.sections.get(name)
    element = section.find(f"{xmlconfig.NS}clientCertificate") if section is not None else None
    certificate = env.get("SDB_AUDIT_SHIP_CERT") or (element.get("findValue") if element is not None else None)
    config.shipping = AuditShipping(scheme, host, port, site, certificate)


def _from_policies(config: Configuration) -> None:
    policies = config.xml.policies
    for name, attribute in (
        ("auth.session.length", "session"),
        ("audit.retention", "audit_retention"),
        ("auth.pwd.maxAge", "password_age"),
    ):
        if name in policies:
            setattr(config, attribute, values.duration(policies[name][1]))
    if "auth.failLogin" in policies:
        config.lock_after = int(policies["auth.failLogin"][1])
    config.mfa_required = policies.get("auth.mfa.required", ("", ""))[1] in {"true", "1"}
    regex = config.xml.attribute("SecurityConfigurationSection", "passwordRegex")
    config.password_regex = regex or config.password_regex


def _companions(known: Mapping[str, Mapping[str, Any]], config: Configuration, line: str) -> None:
    """Refuse what is missing beside a feature (Q04), and what must not be listed together."""
    listed = set(config.features)
    for token in config.features:
        requires = known[token].get("requires") or {}
        for other in requires.get("hard", []):
            if other in known and other not in listed and token != "CORE":
                section = {"SEC": "SecurityConfigurationSection"}.get(other)
                if section not in config.xml.sections:
                    raise Fatal("InvalidOperationException", f"{token} cannot be activated: {other} is missing")
        for other in requires.get("conflicts", []):
            if other in listed:
                raise Fatal("InvalidOperationException", f"stand-in: {token} and {other} must not be listed together")
    if listed & set(REST) and "RestConfigurationSection" not in config.xml.sections:
        raise Fatal("ConfigurationException", "RestConfigurationSection is missing (config/santedb.rest.config.xml)")
    if "WWW" in listed and "AppletConfigurationSection" not in config.xml.sections:
        raise Fatal("NullReferenceException", "AppletConfigurationSection is missing")
    if line == "2.2":
        return
    if "LOG" not in listed and "DiagnosticsConfigurationSection" not in config.xml.sections:
        raise Fatal("NullReferenceException", "RolloverLogManagerService: no diagnostics section (LOG is missing)")
    if "SEC" not in listed and "SecurityConfigurationSection" not in config.xml.sections:
        raise Fatal("InvalidOperationException", "no security section (SEC is missing)")
    for token, what in (("ADO", "ISessionIdentityProviderService"), ("PUBSUB_ADO", "IPubSubManagerService")):
        if token not in listed:
            raise Fatal("InvalidOperationException", f"Cannot create PubSubBroker: {what} is missing ({token})")
    if "FS_MQ" not in listed and not set(QUEUES) & set(config.xml.services):
        raise Fatal(
            "InvalidOperationException", "Cannot create PubSubBroker: IDispatcherQueueManagerService is missing"
        )


def _connections(env: Mapping[str, str], config: Configuration, line: str) -> None:
    """Find every connection a feature uses, and its provider, as the first database access does."""
    wanted = {
        "ADO": [("SDB_ADO_RW_CONNECTION", "MAIN"), ("SDB_ADO_RO_CONNECTION", "MAIN")],
        "PUBSUB_ADO": [("SDB_PUBSUB_ADO_RW_CONNECTION", "MAIN")],
        "AUDIT_REPO": [("SDB_AUDIT_REPO_RW_CONNECTION", "AUDIT")],
    }
    for token, settings in wanted.items():
        if token not in config.features:
            continue
        if "Npgsql" not in config.xml.invariants and line != "2.2":  # case matters since 2025 (Q02)
            raise Fatal("KeyNotFoundException", "Provider Npgsql not registered")
        for setting, default in settings:
            connection = find(env.get(setting) or default, env, config.xml.connections, line)
            if connection.provider not in config.xml.invariants and line != "2.2":
                raise Fatal("KeyNotFoundException", f"Provider {connection.provider} not registered")
            connection.libpq()
            role = token if setting != "SDB_ADO_RO_CONNECTION" else "ADO_RO"
            config.connections[role] = connection
