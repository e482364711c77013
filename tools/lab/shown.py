"""What a running site shows: which servers answer, what callers get meanwhile, what the databases and the monitoring say."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tools.lab.partner import Partner
from tools.lab.sites import Site

TLS = "sslmode=verify-full sslrootcert=/etc/santedb/tls/ca.crt"


def sql(site: Site, host: str, statement: str) -> str:
    """Run SQL as superuser on a database host itself."""
    command = "runuser -u postgres -- psql -XAtq -v ON_ERROR_STOP=1 -d santedb"
    return site.host(host).inside(f"cd / && {command}", input=statement).stdout.strip()


def upstreams(site: Site, partner: Partner, calls: int = 12) -> set[str]:
    """Call the API several times, each of which must be served; return the application servers that did."""
    edge = site.host("edge")
    before = int(edge.ssh("wc -l < /var/log/nginx/access.log").stdout)
    assert [partner.call("/fhir/metadata").status for _ in range(calls)] == [200] * calls
    lines = edge.ssh(f"tail -n +{before + 1} /var/log/nginx/access.log").stdout
    return {found.split()[-1].split(":")[0] for found in re.findall(r" \d+\.\d+ ([\d., :]+?:8080) ", lines)}


@contextmanager
def callers(partner: Partner) -> Iterator[Counter[int]]:
    """Keep calling the API while the block runs; count what came of it, 0 for no answer."""
    seen: Counter[int] = Counter()
    over = threading.Event()

    def call() -> None:
        while not over.wait(0.3):
            try:
                seen[partner.call("/fhir/metadata").status] += 1
            except OSError:
                seen[0] += 1

    caller = threading.Thread(target=call)
    caller.start()
    try:
        yield seen
    finally:
        over.set()
        caller.join()


def alert(site: Site, name: str, host: str) -> bool:
    """Whether the expression of an alert rule is true for a host, says the monitoring."""
    program = (
        "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:9090/api/v1/alerts').read().decode())"
    )
    found = json.loads(site.host("ops").ssh(f'python3 -c "{program}"').stdout)["data"]["alerts"]
    return any(one["labels"]["alertname"] == name and one["labels"].get("host") == host for one in found)


def connect(site: Site, host: str, parameters: str, statement: str = "SELECT 1", servers: str = "db,db2") -> str:
    """Log in to the records' database from a host as the application does; return the answer, or why there is none."""
    site.host(host).ssh("python3 -c 'import psycopg2' 2>/dev/null || apt-get install -qy python3-psycopg2 >/dev/null")
    names = ",".join(f"{name}.lab.example.org" for name in servers.split(","))
    addresses = ",".join(f"10.77.0.{site.groups[name][0]}" for name in servers.split(","))
    target = f"host={names} hostaddr={addresses} user=santedb dbname=santedb connect_timeout=4 {parameters}"
    program = f"import sys, psycopg2; c = psycopg2.connect(sys.stdin.read()).cursor(); c.execute({statement!r}); print(c.fetchone())"
    password = site.secrets["vault_database_main_password"]
    done = site.host(host).ssh(f"python3 -c {json.dumps(program)}", input=f"{target} password={password}", check=False)
    return done.stdout + done.stderr


def started(site: Site, host: str) -> str:
    """Return when the application server on a host was started."""
    return site.host(host).ssh("docker inspect --format '{{.State.StartedAt}}' santedb-icdr").stdout.strip()


def fingerprints(site: Site) -> dict[str, str]:
    """Return the digest of every certificate of the environment, on its hosts and in the repository, by place and path."""
    kept = (
        *site.repository.glob(f"certificates/{site.environment}/*.crt"),
        *site.repository.glob(f".ca/{site.environment}/*.crt"),
    )
    found = {str(path.relative_to(site.repository)): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}
    for host in site.groups:
        for line in site.host(host).ssh("sha256sum /etc/santedb/tls/*.crt").stdout.splitlines():
            digest, path = line.split()
            found[f"{host}:{path}"] = digest
    return found


def standby_left(site: Site) -> list[str]:
    """Return what still speaks of the standby db2, now in no group of databases: on it, and on its primary db."""
    hba = site.host("db").ssh("cat /etc/postgresql/*/main/pg_hba.conf").stdout.splitlines()
    there = "ls -d /var/lib/postgresql /etc/postgresql /etc/santedb/tls/database* 2>/dev/null; dpkg -l 'postgresql-1*' | grep ^ii"
    return [
        *sql(site, "db", "SELECT slot_name FROM pg_replication_slots").split(),
        *sql(site, "db", "SELECT rolname FROM pg_roles WHERE rolreplication AND NOT rolsuper").split(),
        *(line for line in hba if line.split()[:2] == ["hostssl", "replication"] or site.host("db2").ip in line),
        *site.host("db2").ssh(there, check=False).stdout.splitlines(),
    ]
