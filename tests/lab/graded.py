"""How deployed hosts are graded by others: TLS by testssl.sh, the hosts by Lynis, both of Debian."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

from tools.lab import Host, Lab
from tools.lab.sites import Site

OLD = ("SSLv2", "SSLv3", "TLS1", "TLS1_1")
# testssl.sh's lists; AVERAGE is CBC and key exchange without forward secrecy
WEAK = ("NULL", "aNULL", "EXPORT", "LOW", "3DES_IDEA", "AVERAGE")
INSTALL = "export DEBIAN_FRONTEND=noninteractive; apt-get update -q && apt-get install -qy --no-install-recommends"
RISE = 8  # points of Lynis that a deployed host must have over a bare one


def public(site: Site, purpose: str) -> str:
    """Return the environment's public name for a purpose."""
    mine = [one for one in site.answers["domain_names"] if one["environment"] == site.environment]
    found: str = next(one["fqdn"] for one in mine if one["purpose"] == purpose)
    return found


def graded(caller: Host, server: Host, target: str, *options: str) -> dict[str, str]:
    """Return what testssl.sh finds on a server, by the name of its test, as seen from a host that may connect."""
    caller.ssh(f"command -v testssl >/dev/null || {{ {INSTALL} testssl.sh; }}")
    words = ["testssl", "--quiet", "--nodns", "none", "--warnings", "off", "-p", "-s", *options]
    words += ["--jsonfile", "/root/grade.json", "--ip", server.ip, target]
    caller.ssh(f"rm -f /root/grade.json; {' '.join(words)}", check=False, timeout=600)
    found = {one["id"]: one["finding"] for one in json.loads(caller.ssh("cat /root/grade.json").stdout)}
    assert "scanProblem" not in found, found["scanProblem"]
    return found


def offered(found: dict[str, str]) -> set[str]:
    """Return the old protocols and weak ciphers among what is offered."""
    names = [*OLD, *(f"cipherlist_{name}" for name in WEAK)]
    assert found["TLS1_2"].startswith("offered") or found["TLS1_3"].startswith("offered"), found
    return {name for name in names if not found[name].startswith("not offered")}


def index(host: Host) -> int:
    """Return Lynis' hardening index of a host."""
    host.ssh(f"command -v lynis >/dev/null || {{ {INSTALL} lynis; }}")
    host.ssh("lynis audit system --quick --no-colors --quiet", check=False, timeout=600)
    return int(host.ssh("sed -n s/^hardening_index=//p /var/log/lynis-report.dat").stdout)


class Graded:
    """The tests; a module that has a `site` collects them in a class of its own."""

    def test_https_offers_nothing_old_or_weak_and_insists_on_https(self, site: Site) -> None:
        found = graded(site.host("ops"), site.host("edge"), f"{public(site, 'api')}:443", "-h")
        assert offered(found) == set()
        assert int(found["HSTS_time"].split()[0]) >= 180, found["HSTS_time"]

    def test_hl7_offers_nothing_old_or_weak(self, site: Site) -> None:
        port = site.group("proxy")["proxy_hl7_stream"]["port"]
        # whoever is no partner gets no handshake; the grader is let in for as long as it grades
        admitted = site.play(
            "proxy", "-e", json.dumps({"proxy_trusted_networks": ["10.77.0.0/24"]}), label="proxy, graded"
        )
        assert admitted.code == 0, admitted.text[-5000:]
        try:
            assert offered(graded(site.host("app"), site.host("edge"), f"{public(site, 'hl7')}:{port}")) == set()
        finally:
            assert site.play("proxy", label="proxy as planned").code == 0

    def test_postgresql_offers_nothing_old_or_weak(self, site: Site) -> None:
        assert offered(graded(site.host("app"), site.host("db"), "db.lab.example.org:5432", "-t", "postgres")) == set()

    def test_the_collector_takes_what_santedb_speaks_and_no_more(self, site: Site) -> None:
        # SanteDB's sender opens TLS 1.0 (catalog/audit.yml); 1.1 is off, but whoever asks for it is cut off rather than sent to 1.0
        found = graded(site.host("app"), site.host("ops"), "ops.lab.example.org:6514")
        assert offered(found) <= {"TLS1", "TLS1_1", "cipherlist_AVERAGE"}
        assert found["TLS1_1"].startswith(("not offered", "connection failed")), found["TLS1_1"]
        assert found["TLS1_3"].startswith("offered")

    def test_deployed_hosts_are_harder_than_bare_ones(self, site: Site, lab: Lab) -> None:
        bare = lab.host("bare", 48)
        lab.start(bare)
        names = ["edge", "app", "db", "ops"]  # one of each kind
        with ThreadPoolExecutor(2) as pool:
            before, *found = pool.map(index, [bare, *map(site.host, names)])
        bare.stop()
        after = dict(zip(names, found, strict=True))
        print(f"Lynis: bare {before}, deployed {after}")
        assert min(found) >= before + RISE, (before, after)
