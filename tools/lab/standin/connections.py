"""Connection strings: how SanteDB finds them, cuts them up, and what Npgsql makes of the whole."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .fatal import Fatal

# Npgsql's keywords (lower case, no blanks) and what libpq calls them; None: pooling or tuning, no effect here.
KEYWORDS: dict[str, str | None] = {
    "host": "host",
    "server": "host",
    "port": "port",
    "database": "dbname",
    "db": "dbname",
    "username": "user",
    "userid": "user",
    "uid": "user",
    "password": "password",
    "psw": "password",
    "pwd": "password",
    "sslmode": "sslmode",
    "rootcertificate": "sslrootcert",
    "sslcertificate": "sslcert",
    "sslkey": "sslkey",
    "timeout": "connect_timeout",
    "applicationname": "application_name",
    "targetsessionattributes": "target_session_attrs",
    **dict.fromkeys(
        (
            "trustservercertificate",
            "checkcertificaterevocation",
            "pooling",
            "minpoolsize",
            "minimumpoolsize",
            "maxpoolsize",
            "maximumpoolsize",
            "connectionlifetime",
            "connectionidlelifetime",
            "connectionpruninginterval",
            "maxautoprepare",
            "autopreparminusages",
            "autoprepareminusages",
            "commandtimeout",
            "keepalive",
            "tcpkeepalive",
            "tcpkeepalivetime",
            "tcpkeepaliveinterval",
            "loadbalancehosts",
            "hostrecheckseconds",
            "includeerrordetail",
            "searchpath",
            "encoding",
            "timezone",
            "enlist",
            "noresetonclose",
            "readbuffersize",
            "writebuffersize",
            "multiplexing",
            "options",
            "persistsecurityinfo",
        )
    ),
}
SSL_MODES = {
    "disable": "disable",
    "allow": "allow",
    "prefer": "prefer",
    "require": "require",
    "verifyca": "verify-ca",
    "verifyfull": "verify-full",
}


@dataclass(frozen=True)
class Connection:
    """A connection string with its provider, as configuration gave it."""

    name: str
    provider: str
    value: str

    def components(self) -> dict[str, str]:
        """Cut the string as SanteDB does: at `;`, each value between the first and second `=` (Q13).

        Raises Fatal for a duplicate key.
        """
        found: dict[str, str] = {}
        for part in self.value.split(";"):
            if "=" in part:
                pieces = part.split("=")
                key = pieces[0].strip()
                if key in found:
                    raise Fatal("ArgumentException", f"An item with the same key has already been added. Key: {key}")
                found[key] = pieces[1].strip()
        return found

    def libpq(self) -> dict[str, str]:
        """Return the libpq parameters that Npgsql's reading of the whole string amounts to.

        Raises Fatal for what Npgsql refuses: a part without `=`, an unknown keyword, an unknown SSL mode, no user.
        """
        given: dict[str, str] = {}
        for part in self.value.split(";"):
            if not part.strip():
                continue
            key, equals, value = part.partition("=")
            word = re.sub(r"\s", "", key).lower()
            if not equals:
                raise Fatal(
                    "ArgumentException",
                    f"Format of the initialization string does not conform to specification ({self.name}); a password "
                    "must contain neither ';' nor '='",
                )
            if word not in KEYWORDS:
                raise Fatal("ArgumentException", f"Couldn't set {key.strip()} in the connection string of {self.name}")
            name = KEYWORDS[word]
            if name:
                given[name] = value.strip()
        cut = self.components()
        if "password" in given:  # the strings pass through SetComponent, which cuts a password at its second '='
            given["password"] = cut.get("password", given["password"])
        if "sslmode" in given:
            mode = SSL_MODES.get(re.sub(r"[\s-]", "", given["sslmode"]).lower())
            if mode is None:
                raise Fatal("ArgumentException", f"Couldn't set SSL Mode of {self.name}: {given['sslmode']}")
            given["sslmode"] = mode
        hosts = given.get("host", "").split(",")
        if any(":" in host for host in hosts):
            given["host"] = ",".join(host.split(":")[0] for host in hosts)
            given["port"] = ",".join(host.split(":")[1] if ":" in host else given.get("port", "5432") for host in hosts)
        if "user" not in given or "user id" not in {key.lower() for key in cut}:
            raise Fatal("ArgumentException", f"no 'user id' in the connection string of {self.name}")
        if "host" not in given or "dbname" not in given:
            raise Fatal("ArgumentException", f"no server or no database in the connection string of {self.name}")
        return given


def find(name: str, env: Mapping[str, str], declared: Mapping[str, Connection], line: str = "3.0") -> Connection:
    """Return the connection called `name`: from SDB_DB_<NAME> with its provider variable, else from XML (exact case).

    Raises Fatal when the variable has no provider beside it (Q07), or nothing has the name.
    """
    key = name.upper()
    value = env.get("SDB_DB_" + (key.replace(".", "_") if line != "2.2" else key))
    if not value:
        if name in declared:
            return declared[name]
        raise Fatal("KeyNotFoundException", f"Connection string {name} was not found")
    provider = env.get(f"SDB_DB_{key}_PROVIDER")
    if not provider:
        raise Fatal("ConfigurationException", f"No provider configurated for {key}")
    return Connection(name, provider, value)
