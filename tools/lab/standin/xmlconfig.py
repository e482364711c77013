"""The entry configuration and its includes, read with the strictness and the blind spots of the real host."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .connections import Connection
from .fatal import Fatal
from .keys import KeyMissing, SigningKey, load_pfx
from .values import duration

NS = "{http://santedb.org/configuration}"
XSI_TYPE = "{http://www.w3.org/2001/XMLSchema-instance}type"
NEWEST_MAJOR = 3

# Sections whose full type name the facts give: any other namespace cannot be loaded.
FULL_NAMES = {
    name.rpartition(".")[2]: name
    for name in (
        "SanteDB.OrmLite.Configuration.OrmConfigurationSection",
        "SanteDB.Core.Configuration.Data.DataConfigurationSection",
        "SanteDB.Core.Configuration.ApplicationServiceContextConfigurationSection",
        "SanteDB.Core.Configuration.AuditAccountabilityConfigurationSection",
        "SanteDB.Core.Applets.Configuration.AppletConfigurationSection",
        "SanteDB.Core.Security.Configuration.SecurityConfigurationSection",
        "SanteDB.Core.Security.Configuration.DataPolicyFilterConfigurationSection",
        "SanteDB.Rest.Common.Configuration.RestConfigurationSection",
    )
}

# Section -> the attributes and child elements it has. What is not here the real host skips without a word (Q39);
# the stand-in says so on its console, and goes on.
NODES: dict[str, str] = {
    "OrmConfigurationSection": "providers dbProviderFactories",
    "DataConfigurationSection": "connectionStrings",
    "ApplicationServiceContextConfigurationSection": (
        "allowUnsignedAssemblies threadPoolSize instanceName serviceProviders appSettings"
    ),
    "AuditAccountabilityConfigurationSection": "completeAuditTrail filters auditSource",
    "AppletConfigurationSection": (
        "appletDirectory allowUnsignedApplets defaultSolution defaultApplet trustedPublishers"
    ),
    "SecurityConfigurationSection": ("passwordRegex pepExemptionPolicy signingKeys trustedCertificates securityPolicy"),
    "DataPolicyFilterConfigurationSection": "action resources",
    "RestConfigurationSection": "baseAddress service",
    "BasicAuthorizationConfigurationSection": "requireClientAuth realm claims",
    "OAuthConfigurationSection": (
        "jwtSigningKey issuerName tokenType inetpub allowNodelessClientAuth assetSolution encodeScopes "
        "validateAppNameOnRefresh"
    ),
    "AmiConfigurationSection": (
        "resources welcomeMessage publicSettings endpoints includeMetadataHeadersInSearch autoforwardToUpstream"
    ),
    "FhirServiceConfigurationSection": (
        "restEndpoint index defaultContentType strictParsing persistElementId resourceHandlers operationHandlers "
        "messageHandlers extensionHandlers profileHandlers behaviorModifiers resources profiles messages operations "
        "extensions base"
    ),
    "FhirDispatcherConfigurationSection": "targets",
    "Hl7ConfigurationSection": (
        "security noAuthSecret idReplacement strictMetadata requireAppAuth strictCx4 localAuthority ssnAuthority "
        "facility birthplaceClasses services"
    ),
    "AtnaConfigurationSection": ("endpoint transport enterpriseSiteID format clientCertificate serverCertificate"),
    "DataRetentionConfigurationSection": "vars rules",
    "AdoPersistenceConfigurationSection": (
        "readWriteConnectionString readOnlyConnectionString providerType traceSql versioning pepper legacyPepper "
        "maxRequests autoUpdateExisting autoInsertChildren keyValidation loadStrategy deleteStrategy fastDelete biSkel "
        "validation maxPageSize caching trim correlationBehavior aleConfiguration"
    ),
    "AdoAuditConfigurationSection": "readWriteConnectionString readOnlyConnectionString providerType traceSql",
    "AdoPubSubConfigurationSection": "readWriteConnectionString readOnlyConnectionString providerType traceSql",
    "JobConfigurationSection": "jobs",
    "EmailNotificationConfigurationSection": "smtp adminContacts",
    "BackupConfigurationSection": "requireEncryption private public extern",
    "DiagnosticsConfigurationSection": "sources writers",
    "ResourceManagementConfigurationSection": "resources oldMasterRetention",
    "FileMatchConfigurationSection": "cache basePath",
    "RedisConfigurationSection": "format compress username password ttl publish servers",
    "MemoryCacheConfigurationSection": "maxSize maxAge maxQueryAge",
    "RabbitMqConfigurationSection": (
        "hostname exchangeName virtualHost durable messagePersistence lazy maxUnackedMessageLimit username password "
        "managementUri managementApiTimeout"
    ),
    "FileSystemDispatcherQueueConfigurationSection": "queueRoot",
    "Gs1ConfigurationSection": (
        "autoCreateMaterials defaultAuthority queueName partnerAuthority partnerIdentification broker "
        "senderContactEmail"
    ),
    "DataQualityConfigurationSection": "",
    "SanteGuardConfiguration": "",
    "SanteDBProtectedConfigurationSectionWrapper": "t c i",
}
FREE = {"DataQualityConfigurationSection", "SanteGuardConfiguration", "BackupConfigurationSection"}

POLICIES = {
    "auth.pwd.maxAge": "timespan",
    "auth.pwd.history": "bool",
    "auth.failLogin": "int",
    "auth.challenge.maxAge": "timespan",
    "auth.challenge.history": "bool",
    "auth.session.length": "timespan",
    "auth.session.elevated.length": "timespan",
    "auth.session.refresh": "timespan",
    "auth.cert.location": "string",
    "auth.cookie.length": "timespan",
    "downstream.session.length": "timespan",
    "downstream.user.accounts": "bool",
    "local.user.cache": "bool",
    "local.user.anyUserLogin": "bool",
    "uuid.facility": "guid",
    "uuid.permittedFacilities": "list",
    "uuid.owner": "guid",
    "audit.retention": "timespan",
    "uuid.devicePrincipal": "guid",
    "uuid.device": "guid",
    "session.abandon.pwd": "bool",
    "auth.mfa.required": "bool",
    "auth.mfa.default": "guid",
    "backup.public": "bool",
    "sec.rsaSig.required": "bool",
    "session.abandon.lockout": "bool",
}
POLICY_KINDS = ("int", "timespan", "date", "list", "string", "guid", "bool", "real")
AUDIT_FLAGS = {
    "action": "c r u d x",
    "event": (
        "provision medication resource careep careprotocol procedure query patient order network import export "
        "application security auth btg restrictedFn login logout"
    ),
    "outcome": "ok fail.minor fail.major fail.epic",
    "sensitivity": "phi admin meta",
}
FILTER_ACTIONS = "none audit redact nullify hide error hash"
FIND_TYPES = (
    "FindByThumbprint FindBySubjectName FindBySubjectDistinguishedName FindByIssuerName "
    "FindByIssuerDistinguishedName FindBySerialNumber FindBySubjectKeyIdentifier"
)


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _bad(path: Path, message: str) -> Fatal:
    return Fatal("ConfigurationException", f"There is an error in XML document {path.name}: {message}")


@dataclass
class XmlConfig:
    """What entry file and includes say, the first of two equal sections winning."""

    sections: dict[str, ET.Element] = field(default_factory=dict)
    services: list[str] = field(default_factory=list)
    app_settings: dict[str, str] = field(default_factory=dict)
    connections: dict[str, Connection] = field(default_factory=dict)
    invariants: list[str] = field(default_factory=list)
    policies: dict[str, tuple[str, str]] = field(default_factory=dict)
    signing_keys: dict[str, SigningKey] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def attribute(self, section: str, name: str) -> str | None:
        """Return an attribute of a section, None when either is absent."""
        found = self.sections.get(section)
        return None if found is None else found.get(name)

    def text(self, section: str, path: str) -> str | None:
        """Return the text of an element below a section (names with `/` between), None when absent."""
        found = self.sections.get(section)
        if found is None:
            return None
        child = found.find("/".join(f"{NS}{part}" for part in path.split("/")))
        return None if child is None else (child.text or "").strip()

    def items(self, section: str, path: str) -> list[ET.Element]:
        """Return the `add` elements below an element of a section."""
        found = self.sections.get(section)
        if found is None:
            return []
        return found.findall("/".join(f"{NS}{part}" for part in f"{path}/add".split("/")))


def load(entry: Path, root: Path) -> XmlConfig:
    """Read the entry file and its includes, which lie under `root` (/santedb) wherever the entry file is.

    Raises Fatal as the real host stops: a file that is missing or not well-formed, a wrong root element or namespace,
    a newer major version, an unknown section type, a section that is not registered, a value no parser takes.
    """
    config = XmlConfig()
    for path, tree in _files(entry, root, set()):
        _sections(path, tree, config)
    _interpret(config, root)
    return config


def _files(path: Path, root: Path, seen: set[Path]) -> Iterator[tuple[Path, ET.Element]]:
    try:
        tree = ET.parse(path).getroot()
    except OSError as error:
        if not seen:
            raise Fatal("FileNotFoundException", f"Could not find file '{path}'") from error
        raise Fatal("ConfigurationException", f"Include {path} was not found") from error
    except ET.ParseError as error:
        raise Fatal("InvalidOperationException", f"There is an error in XML document {path.name}: {error}") from error
    if tree.tag != f"{NS}SanteDBConfiguration":
        raise Fatal(
            "InvalidOperationException",
            f"<{_local(tree.tag)} xmlns='{tree.tag[1:].partition('}')[0]}'> was not expected in {path.name}",
        )
    version = tree.get("version")
    if version is not None:
        if not re.fullmatch(r"\d+(\.\d+){1,3}", version):
            raise Fatal("ArgumentException", f"Version string {version!r} in {path.name} is malformed")
        if int(version.split(".")[0]) > NEWEST_MAJOR:
            raise Fatal("ConfigurationException", f"{path.name} is of version {version}, newer than this server")
    yield path, tree
    for include in tree.findall(f"{NS}include"):
        target = root / (include.text or "").strip()
        if target not in seen:
            yield from _files(target, root, seen | {path, target})


def _sections(path: Path, tree: ET.Element, config: XmlConfig) -> None:
    registered = set()
    for add in tree.findall(f"{NS}sections/{NS}add"):
        name, comma, _assembly = (add.get("type") or "").partition(",")
        name = name.strip()
        short = name.rpartition(".")[2]
        if not comma or short not in NODES or FULL_NAMES.get(short, name) != name or "." not in name:
            raise Fatal(
                "ConfigurationException", f"Could not understand section type {add.get('type')!r} in {path.name}"
            )
        registered.add(short)
    for element in tree:
        if _local(element.tag) not in {"sections", "include", "section", "protectedSectionKey"}:
            config.warnings.append(f"{path.name}: element {_local(element.tag)} is skipped without notice")
    for section in tree.findall(f"{NS}section"):
        kind = (section.get(XSI_TYPE) or "").rpartition(":")[2]
        if kind not in registered:
            raise Fatal(
                "ConfigurationException",
                f"Could not understand configuration sections: {kind or 'one without xsi:type'} in {path.name}",
            )
        known = NODES[kind].split()
        for node in [*(_local(name) for name in section.attrib), *(_local(child.tag) for child in section)]:
            if node != "type" and node not in known and kind not in FREE:
                config.warnings.append(f"{path.name}: {kind}/{node} is skipped without notice")
        if kind in config.sections:
            config.warnings.append(f"{path.name}: second {kind} is ignored, the first wins")
        else:
            config.sections[kind] = section


def _interpret(config: XmlConfig, root: Path) -> None:
    name = "ApplicationServiceContextConfigurationSection"
    path = Path("santedb.config.xml")
    for add in config.items(name, "serviceProviders"):
        kind = add.get("type") or ""
        service, comma, assembly = (part.strip() for part in kind.partition(","))
        if not comma or "." not in service or not re.match(r"(SanteDB|SanteMPI|SanteGuard)\.", assembly):
            raise Fatal("ConfigurationException", f"Service type {kind!r} cannot be found")
        config.services.append(service)
    for add in config.items(name, "appSettings"):
        config.app_settings[add.get("key") or ""] = add.get("value") or ""
    for add in config.items("DataConfigurationSection", "connectionStrings"):
        key = add.get("name") or ""
        config.connections[key] = Connection(key, add.get("provider") or "", add.get("value") or "")
    for add in config.items("OrmConfigurationSection", "providers"):
        config.invariants.append(add.get("invariant") or "")
    for add in config.items("SecurityConfigurationSection", "securityPolicy"):
        _policy(add, config, path)
    for add in config.items("SecurityConfigurationSection", "signingKeys"):
        _signing_key(add, config, root)
    for add in config.items("AuditAccountabilityConfigurationSection", "filters"):
        for attribute, value in add.attrib.items():
            if attribute in AUDIT_FLAGS:
                _flags(value, AUDIT_FLAGS[attribute], path, f"filter {attribute}")
            elif attribute in {"insert", "ship"}:
                if value not in {"true", "false", "1", "0"}:
                    raise _bad(path, f"filter {attribute}: {value!r} is not a boolean")
            else:
                config.warnings.append(f"audit filter attribute {attribute} is skipped without notice")
    filters = config.sections.get("DataPolicyFilterConfigurationSection")
    if filters is not None:
        for element in [filters, *filters.iter(f"{NS}add")]:
            if element.get("action"):
                _flags(element.get("action") or "", FILTER_ACTIONS, path, "data policy action")
    ttl = config.attribute("RedisConfigurationSection", "ttl")
    if ttl is not None and duration(ttl) is None:
        raise _bad(path, f"the Redis ttl {ttl!r} is not an xs:duration")


def _flags(value: str, known: str, path: Path, what: str) -> None:
    for flag in value.split():
        if flag not in known.split():
            raise _bad(path, f"Instance validation error: {flag!r} is not a valid value for {what}")


def _policy(add: ET.Element, config: XmlConfig, path: Path) -> None:
    name = add.get("policy") or ""
    if name not in POLICIES:
        raise _bad(path, f"Instance validation error: {name!r} is not a valid security policy")
    children = [(_local(child.tag), (child.text or "").strip()) for child in add]
    if len(children) != 1 or children[0][0] not in POLICY_KINDS:
        raise _bad(path, f"policy {name} needs exactly one value of {', '.join(POLICY_KINDS)}")
    kind, value = children[0]
    if kind == "timespan" and duration(value) is None:
        raise Fatal("FormatException", f"policy {name}: {value!r} is not an xs:duration")
    if kind == "int" and not re.fullmatch(r"-?\d+", value):
        raise Fatal("FormatException", f"policy {name}: {value!r} is not a whole number")
    if kind == "bool" and value not in {"true", "false", "1", "0"}:
        raise Fatal("FormatException", f"policy {name}: {value!r} is not a boolean")
    if add.get("enabled") not in {"true", "1"}:
        config.warnings.append(f'policy {name} is disabled: enabled="true" is not written (Q33)')
    elif kind != POLICIES[name]:
        config.warnings.append(f"policy {name} is ignored: a {kind} where a {POLICIES[name]} is wanted (Q33)")
    else:
        config.policies.setdefault(name, (kind, value))


def _signing_key(add: ET.Element, config: XmlConfig, root: Path) -> None:
    name, algorithm = add.get("id") or "", add.get("alg") or ""
    if algorithm not in {"rs256", "hmac", "rs512"}:
        raise Fatal("InvalidOperationException", f"signing key {name}: {algorithm!r} is not a valid algorithm")
    if algorithm == "hmac":
        value = add.get("hmacSecret") or add.get("hmacKey") or ""
        config.warnings.append(f"signing key {name} is HMAC; consider RsaKeyInitializationService")
    else:
        value = add.get("findValue") or ""
        if add.get("findType") not in FIND_TYPES.split():
            raise Fatal("InvalidOperationException", f"signing key {name}: findType {add.get('findType')!r}")
        try:
            load_pfx(value, root)
        except KeyMissing as error:
            raise Fatal("ConfigurationException", f"signing key {name}: {error}") from error
    config.signing_keys.setdefault(name, SigningKey(name, algorithm, value))
