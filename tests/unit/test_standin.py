"""The stand-in's start-up validation: it must stop where the facts say that the real host stops, and nowhere else."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tools.lab import images
from tools.lab.standin import llp, values
from tools.lab.standin.commands import Arguments, cut
from tools.lab.standin.connections import Connection
from tools.lab.standin.fatal import Fatal
from tools.lab.standin.identities import APPLICATIONS, gather
from tools.lab.standin.keys import KeyMissing, Signer, SigningKey, load_pfx, pfx_password
from tools.lab.standin.santedb_standin import dispositions
from tools.lab.standin.startup import Configuration, configure

SHIPPED = Path(images.__file__).parent / "standin/shipped"
FEATURES = "LOG;SEC;DATA_POLICY;ADO;PUBSUB_ADO;FS_MQ;AUDIT_REPO;RAMCACHE;OPENID;HDSI;AMI;BIS;SWAGGER;FHIR;HL7"
GOOD = {
    "SDB_FEATURE": FEATURES,
    "SDB_DB_MAIN": "server=10.77.0.10;port=5432;database=santedb;user id=santedb;password=abc;SSL Mode=VerifyFull",
    "SDB_DB_MAIN_PROVIDER": "Npgsql",
    "SDB_DB_AUDIT": "server=10.77.0.10;port=5432;database=auditdb;user id=santedb;password=abc",
    "SDB_DB_AUDIT_PROVIDER": "Npgsql",
    "SDB_SEC_SIG_default": "hs256:0123456789abcdef",
    "SDB_SEC_SIG_jwsdefault": "hs256:0123456789abcdef",
    "SDB_HL7_AUTHENTICATION": "Msh8",
}
BOTH = '<add type="SanteDB.OrmLite.Providers.Postgres.PostgreSQLProvider, SanteDB.OrmLite" invariant="Npgsql" />'
SECURITY = "SanteDB.Core.Security.Configuration.SecurityConfigurationSection, SanteDB.Core.Api"


@pytest.fixture(scope="module")
def data() -> dict:
    return images.features()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A /santedb whose entry file registers both spellings of the provider, as the generator renders it."""
    root = tmp_path / "santedb"
    shutil.copytree(SHIPPED, root)
    entry = root / "santedb.config.xml"
    entry.write_text(entry.read_text().replace("<providers>", f"<providers>{BOTH}"))
    return root


def start(root: Path, data: dict, image: str = "icdr", line: str = "3.0", **changed: str | None) -> Configuration:
    env = {name: value for name, value in {**GOOD, **changed}.items() if value is not None}
    return configure(env, data, root=root, image=image, line=line)


def add_section(root: Path, kind: str, text: str) -> None:
    entry = root / "santedb.config.xml"
    xml = entry.read_text().replace("</sections>", f'<add type="{kind}" /></sections>', 1)
    entry.write_text(xml.replace("</SanteDBConfiguration>", f"{text}</SanteDBConfiguration>"))


def test_a_good_configuration_starts(root: Path, data: dict) -> None:
    config = start(root, data)
    assert config.features[0] == "CORE"
    assert set(config.connections) == {"ADO", "ADO_RO", "PUBSUB_ADO", "AUDIT_REPO"}
    assert config.connections["ADO"].libpq()["sslmode"] == "verify-full"
    assert config.listen["HDSI"] == "http://0.0.0.0:8080/hdsi"
    assert not config.warnings


FATAL = {
    "unknown token": ({"SDB_FEATURE": FEATURES + ";AUDIT_SHIPPING"}, "Feature AUDIT_SHIPPING not understood"),
    "trailing separator": ({"SDB_FEATURE": FEATURES + ";"}, "Feature  not understood"),
    "empty token": ({"SDB_FEATURE": FEATURES.replace(";ADO;", ";;ADO;")}, "Feature  not understood"),
    "unset list": ({"SDB_FEATURE": None}, "Feature  not understood"),
    "untrimmed token": ({"SDB_FEATURE": FEATURES.replace(";ADO;", "; ADO;")}, "Feature  ADO not understood"),
    "comma": ({"SDB_FEATURE": FEATURES.replace(";", ",")}, "not understood"),
    "token of the other image": ({"SDB_FEATURE": FEATURES + ";IHE_PIXM"}, "Feature IHE_PIXM not understood"),
    "no LOG": ({"SDB_FEATURE": FEATURES.replace("LOG;", "")}, "NullReferenceException"),
    "no SEC": ({"SDB_FEATURE": FEATURES.replace("SEC;", "")}, "SEC is missing"),
    "no ADO": ({"SDB_FEATURE": FEATURES.replace(";ADO;", ";")}, "ADO"),
    "no queue": ({"SDB_FEATURE": FEATURES.replace("FS_MQ;", "")}, "IDispatcherQueueManagerService"),
    "no PUBSUB_ADO": ({"SDB_FEATURE": FEATURES.replace("PUBSUB_ADO;", "")}, "IPubSubManagerService"),
    "two caches": ({"SDB_FEATURE": FEATURES + ";REDIS", "SDB_REDIS_SERVER": "r:6379"}, "must not be listed together"),
    "log level in the wrong case": ({"SDB_LOG_LEVEL": "warning"}, "ArgumentOutOfRangeException"),
    "a bad regular use of lock": ({"SDB_SEC_POL_LOCK": "five"}, "ArgumentException: SDB_SEC_POL_LOCK"),
    "session without lock (Q01)": ({"SDB_SEC_POL_SESSION": "01:00:00"}, "reads SDB_SEC_POL_LOCK"),
    "key with two colons (Q09)": ({"SDB_SEC_SIG_default": "hs256:ab:cd"}, "exactly one ':'"),
    "key without algorithm": ({"SDB_SEC_SIG_default": "abcd"}, "exactly one ':'"),
    "action": ({"SDB_DATA_POLICY_ACTION": "delete"}, "ArgumentOutOfRangeException"),
    "action of a resource": ({"SDB_DATA_POLICY_RESOURCE": "Patient=erase"}, "unknown action"),
    "ISO time span": ({"SDB_RAMCACHE_TTL": "PT5M"}, "ConfigurationException: SDB_RAMCACHE_TTL"),
    "listen": ({"SDB_HDSI_LISTEN": "0.0.0.0:8080"}, "ArgumentOutOfRangeException: SDB_HDSI_LISTEN"),
    "https listener": ({"SDB_HDSI_LISTEN": "https://0.0.0.0:8443/hdsi"}, "Windows only"),
    "CORS": ({"SDB_FHIR_CORS": "yes"}, "SDB_FHIR_CORS"),
    "CORS as number": ({"SDB_FHIR_CORS": "1"}, "SDB_FHIR_CORS"),
    "FHIR resource in the wrong case": ({"SDB_FHIR_RESOURCE": "Patient;patient"}, "'patient' is not known"),
    "FHIR resource with a blank": ({"SDB_FHIR_RESOURCE": "Patient; Observation"}, "' Observation' is not known"),
    "HL7 authentication": ({"SDB_HL7_AUTHENTICATION": "MSH9"}, "ArgumentOutOfRangeException"),
    "sllp (Q14)": ({"SDB_HL7_LISTEN": "sllp://0.0.0.0:2100"}, "Q14"),
    "insecure client auth": ({"SDB_OPENID_INSECURE_CLIENT_AUTH": "no"}, "ArgumentOutOfRangeException"),
    "BI results": ({"SDB_BIS_MAX_RESULTS": "many"}, "FormatException"),
    "SMTP without TLS": (
        {"SDB_FEATURE": FEATURES + ";SMTP", "SDB_SMTP_SERVER": "smtp://mail:25"},
        "ArgumentNullException: Value cannot be null: SDB_SMTP_TLS",
    ),
    "SMTP True": (
        {"SDB_FEATURE": FEATURES + ";SMTP", "SDB_SMTP_SERVER": "smtp://mail:25", "SDB_SMTP_TLS": "True"},
        "FormatException: SDB_SMTP_TLS",
    ),
    "FHIR_AUDIT without target": ({"SDB_FEATURE": FEATURES + ";FHIR_AUDIT"}, "ArgumentNullException"),
    "ATNA scheme": (
        {"SDB_FEATURE": FEATURES + ";AUDIT_SHIP", "SDB_AUDIT_SHIP_TARGET": "tls://audit:6514"},
        "ArgumentException: SDB_AUDIT_SHIP_TARGET",
    ),
    "Redis without port": (
        {"SDB_FEATURE": FEATURES.replace("RAMCACHE", "REDIS"), "SDB_REDIS_SERVER": "cache"},
        "IndexOutOfRangeException",
    ),
    "matching mode in the wrong case": (
        {"SDB_FEATURE": FEATURES + ";MDM;MATCHING", "SDB_MATCHING_MODE": "weighted"},
        "ConfigurationException: SDB_MATCHING_MODE",
    ),
    "MDM of an unknown type": ({"SDB_FEATURE": FEATURES + ";MDM", "SDB_MDM_RESOURCE": "Entity"}, "'Entity' not found"),
    "provider missing (Q07)": ({"SDB_DB_MAIN_PROVIDER": None}, "No provider configurated for MAIN"),
    "connection missing": ({"SDB_DB_AUDIT": None}, "Connection string AUDIT"),
    "connection in lower case": ({"SDB_DB_MAIN": None, "SDB_DB_main": GOOD["SDB_DB_MAIN"]}, "Connection string MAIN"),
    "provider in other case": ({"SDB_DB_MAIN_PROVIDER": "NpgSql"}, "Provider NpgSql not registered"),
    "password with ;": ({"SDB_DB_MAIN": "server=h;database=d;user id=u;password=a;b"}, "must contain neither"),
    "user= (Q13)": ({"SDB_DB_MAIN": "server=h;database=d;user=u;password=a"}, "Couldn't set user"),
    "duplicate key": ({"SDB_DB_MAIN": "server=h;server=i;database=d;user id=u"}, "same key"),
    "ssl mode": ({"SDB_DB_MAIN": "server=h;database=d;user id=u;SSL Mode=full"}, "Couldn't set SSL Mode"),
}


@pytest.mark.parametrize(("changed", "message"), FATAL.values(), ids=FATAL.keys())
def test_stops(root: Path, data: dict, changed: dict, message: str) -> None:
    with pytest.raises(Fatal) as stopped:
        start(root, data, **changed)
    assert message in str(stopped.value)


@pytest.mark.parametrize(
    "changed",
    [
        {"SDB_ADO_DELETE_MODE": "logical"},  # ignored when wrong (Q30)
        {"SDB_FHIR_STRICT": "maybe"},
        {"SDB_DELAY_START": "soon"},
        {"SDB_HDSI_NONSENSE": "1"},  # unknown settings are never rejected
        {"SDB_REDIS_SERVER": "no-port"},  # its feature is not listed
        {"SDB_FHIR_AUTH": "app_basic"},
        {"SDB_LOG_LEVEL": "4"},
        {"SDB_RAMCACHE_TTL": "5"},  # five days
        {"SDB_FEATURE": f"CORE;{FEATURES}"},
        {"SDB_SEC_POL_LOCK": "5", "SDB_SEC_POL_SESSION": "01:00:00"},
    ],
    ids=str,
)
def test_starts_all_the_same(root: Path, data: dict, changed: dict) -> None:
    start(root, data, **changed)


def test_session_of_five_days(root: Path, data: dict) -> None:
    config = start(root, data, SDB_SEC_POL_LOCK="5", SDB_SEC_POL_SESSION="01:00:00")
    assert config.session.days == 5


def test_ihe_must_come_after_what_it_builds_on(root: Path, data: dict) -> None:
    for token, base in (("IHE_PIXM", "FHIR"), ("IHE_PDQ", "HL7")):
        before = FEATURES.replace(f";{base}", f";{token};{base}")
        with pytest.raises(Fatal, match="NullReferenceException"):
            start(root, data, image="mpi", SDB_FEATURE=before)
        start(root, data, image="mpi", SDB_FEATURE=f"{FEATURES};{token}")


def test_the_older_line_knows_other_tokens(root: Path, data: dict) -> None:
    older = FEATURES.replace("FS_MQ;", "")
    start(root, data, line="2.2", SDB_FEATURE=older)
    for token in ("CORE", "FS_MQ", "SMTP"):
        with pytest.raises(Fatal, match=f"Feature {token} not understood"):
            start(root, data, line="2.2", SDB_FEATURE=f"{older};{token}")


def test_shipped_entry_file_does_not_start(data: dict) -> None:
    with pytest.raises(Fatal, match="Provider Npgsql not registered"):
        start(SHIPPED, data)


def test_misspelt_algorithm_removes_the_key(root: Path, data: dict) -> None:
    config = start(root, data, SDB_SEC_SIG_default="hs265:abcd")
    assert "default" not in config.signing_keys
    assert any("unknown algorithm" in warning for warning in config.warnings)


def test_keys_are_random_without_settings(root: Path, data: dict) -> None:
    one, two = (start(root, data, SDB_SEC_SIG_default=None).signing_keys["default"].value for _ in range(2))
    assert one != two


# -- XML ----------------------------------------------------------------------------------------------------------


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


XML = {
    "not well-formed": (lambda e: replace(e, "</sections>", ""), "error in XML document"),
    "other namespace": (lambda e: replace(e, 'xmlns="http://santedb.org/configuration"', 'xmlns="urn:x"'), "expected"),
    "newer major": (lambda e: replace(e, 'version="3.0"', 'version="4.0"'), "newer than this server"),
    "missing include": (lambda e: (e.parent / "config/santedb.jobs.config.xml").unlink(), "was not found"),
    "unknown section type": (lambda e: replace(e, "OrmConfigurationSection, ", "OrmSection, "), "section type"),
    "wrong namespace of a type": (
        lambda e: replace(e, "SanteDB.OrmLite.Configuration.", "SanteDB.Orm."),
        "section type",
    ),
    "section not registered": (
        lambda e: replace(
            e, "</SanteDBConfiguration>", '<section xsi:type="Hl7ConfigurationSection"/></SanteDBConfiguration>'
        ),
        "Could not understand configuration sections: Hl7ConfigurationSection",
    ),
    "service without assembly": (
        lambda e: replace(e, "RestServiceFactory, SanteDB.Rest.Common", "RestServiceFactory"),
        "Service type",
    ),
    "no REST section": (
        lambda e: replace(e, "<include>config/santedb.rest.config.xml</include>", ""),
        "RestConfigurationSection is missing",
    ),
    "no entry file": (lambda e: e.unlink(), "FileNotFoundException"),
}


@pytest.mark.parametrize(("spoil", "message"), XML.values(), ids=XML.keys())
def test_xml_stops(root: Path, data: dict, spoil, message: str) -> None:
    spoil(root / "santedb.config.xml")
    with pytest.raises(Fatal, match=message):
        start(root, data)


POLICY = '<section xsi:type="SecurityConfigurationSection"><securityPolicy>{}</securityPolicy></section>'


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ('<add policy="audit.retentoin" enabled="true"><timespan>P1D</timespan></add>', "not a valid security policy"),
        ('<add policy="audit.retention" enabled="true"><timespan>30.00:00:00</timespan></add>', "xs:duration"),
        ('<add policy="audit.retention" enabled="true"/>', "exactly one value"),
        ('<add policy="auth.failLogin" enabled="true"><int>five</int></add>', "whole number"),
    ],
)
def test_policy_stops(root: Path, data: dict, policy: str, message: str) -> None:
    add_section(root, SECURITY, POLICY.format(policy))
    with pytest.raises(Fatal, match=message):
        start(root, data)


def test_policies_are_used(root: Path, data: dict) -> None:
    assert start(root, data).audit_retention.days == 30  # the default deletes audits after a month (Q49)
    policies = (
        '<add policy="audit.retention" enabled="true"><timespan>P3650D</timespan></add>'
        '<add policy="auth.pwd.maxAge" enabled="true"><int>90</int></add>'
        '<add policy="auth.session.length"><timespan>PT2H</timespan></add>'
    )
    add_section(root, SECURITY, POLICY.format(policies))
    config = start(root, data)
    assert config.audit_retention.days == 3650
    assert config.password_age is None  # an <int> where a <timespan> is wanted is ignored (Q33)
    assert config.session.total_seconds() == 3600  # enabled="true" was not written
    assert len(config.warnings) == 2


def test_rsa_key_in_xml_must_be_there(root: Path, data: dict) -> None:
    key = '<signingKeys><add id="default" alg="rs256" findType="FindByThumbprint" findValue="AB" /></signingKeys>'
    add_section(root, SECURITY, f'<section xsi:type="SecurityConfigurationSection">{key}</section>')
    with pytest.raises(Fatal, match="signing key default"):
        start(root, data)


def test_misnamed_element_is_told(root: Path, data: dict) -> None:
    add_section(root, SECURITY, '<section xsi:type="SecurityConfigurationSection" passwordRegx="x"/>')
    assert any("SecurityConfigurationSection/passwordRegx" in text for text in start(root, data).warnings)


def test_audit_filters(root: Path, data: dict) -> None:
    config = start(root, data)
    assert dispositions({"action": "c", "event": "patient", "outcome": "ok"}, config) == (True, True)
    assert dispositions({"action": "x", "event": "network", "outcome": "ok"}, config) == (False, False)
    assert dispositions({"action": "x", "event": "login", "outcome": "ok"}, config) == (
        True,
        True,
    )  # no filter covers it


# -- keys, values, console, HL7 -----------------------------------------------------------------------------------


def make_pfx(root: Path, password: str | None = None) -> str:
    pem, key = root / "c.pem", root / "k.pem"
    subject = ["-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-keyout", str(key), "-out", str(pem)]
    subprocess.run(["openssl", "req", "-x509", *subject], check=True, capture_output=True)
    shown = subprocess.run(
        ["openssl", "x509", "-in", str(pem), "-noout", "-fingerprint", "-sha1"],
        check=True,
        capture_output=True,
        text=True,
    )
    thumbprint = shown.stdout.strip().partition("=")[2].replace(":", "")
    path = root / ".x509" / f"{thumbprint}.pfx"
    path.parent.mkdir(exist_ok=True)
    word = password or pfx_password(f"/santedb/.x509/{thumbprint}.pfx")
    export = ["-inkey", str(key), "-in", str(pem), "-out", str(path), "-passout", f"pass:{word}"]
    subprocess.run(["openssl", "pkcs12", "-export", *export], check=True, capture_output=True)
    return thumbprint


def test_rsa_key_opens_with_the_password_of_its_path(tmp_path: Path) -> None:
    thumbprint = make_pfx(tmp_path)
    signer = Signer(SigningKey("default", "rs256", thumbprint), tmp_path)
    token = signer.sign({"sub": "x"})
    assert signer.check(token) == {"sub": "x"}
    head, body, signature = token.split(".")
    assert signer.check(f"{head}.{body}x.{signature}") is None
    with pytest.raises(KeyMissing, match="no /santedb"):
        load_pfx(thumbprint.lower(), tmp_path)


def test_rsa_key_with_another_password_is_missing(tmp_path: Path) -> None:
    with pytest.raises(KeyMissing, match="does not open"):
        load_pfx(make_pfx(tmp_path, "secret"), tmp_path)


def test_password_is_cut_at_its_second_equals_sign() -> None:
    connection = Connection("MAIN", "Npgsql", "server=h;database=d;user id=u;password=a=b")
    assert connection.libpq()["password"] == "a"


def test_several_servers() -> None:
    connection = Connection("MAIN", "Npgsql", "server=hot:5432,cold:5433;database=d;user id=u;password=a")
    assert (connection.libpq()["host"], connection.libpq()["port"]) == ("hot,cold", "5432,5433")


@pytest.mark.parametrize(
    ("text", "seconds"), [("5", 432000), ("1:00:00", 3600), ("2.03:04:05", 183845), ("PT5M", None)]
)
def test_timespan(text: str, seconds: int | None) -> None:
    span = values.timespan(text)
    assert (span and span.total_seconds()) == seconds


def test_console_cuts_unquoted_values_as_the_real_one() -> None:
    assert cut("application.secret a.b -s abc_1") == ["application.secret", "a.b", "-s", "abc_1"]
    assert cut("application.secret a.b -s abc-1") == ["application.secret", "a.b", "-s", "abc", "-1"]
    assert cut("application.secret a.b -s 'abc-1'") == ["application.secret", "a.b", "-s", "abc-1"]
    given = Arguments(cut('application.grant a.b -p "1.3.6.1" -g DENY')[1:])
    assert (given.names, given.one("p"), given.one("g")) == (["a.b"], "1.3.6.1", "DENY")
    assert Arguments(cut("user.lock -u Bob -l")[1:], "l").one("l") == "true"


def test_identities_are_found_in_any_shape() -> None:
    found = gather({"users": [{"name": "Bob", "password": "one"}], "apps": {"fiddler": "two"}})
    assert found["users"]["Bob"]["password"] == "one"
    assert found["applications"]["fiddler"] == "two"
    assert set(found["applications"]) == set(APPLICATIONS)
    assert len(found["users"]["Allison"]["password"]) > 20


def test_hl7_fields_are_counted_from_the_separator() -> None:
    msh = llp.fields("MSH|^~\\&|LAB|CLINIC|MPI|MOH|20260101||ADT^A01|1|P|2.5\rPID|||77^^^X\r")
    assert (msh["MSH"][3], msh["MSH"][4], msh["MSH"][9], msh["PID"][3]) == ("LAB", "CLINIC", "ADT^A01", "77^^^X")
    assert llp.credentials("dev+app") == ("dev", "app")
    assert llp.credentials("dev") == ("dev", None)
