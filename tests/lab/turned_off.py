"""What is left of options turned off, whichever plan had them: portal, HL7, the forwarding of audits; and of monitoring that moved."""

from __future__ import annotations

import base64
import re
import socket
from typing import Any

import pytest

from tools.lab import plans
from tools.lab.sites import Site

HL7 = {"hl7v2_sllp", "ihe_pix", "ihe_pdq"}
# What a host shows of itself, one finding a line. Contents only where the roles write; keys are opaque and left out.
LISTING = r"""
set -u
engine=$(command -v docker) && {
  docker ps --all --format 'container {{.Names}} {{.Image}} {{.Ports}}'
  docker image ls --format 'image {{.Repository}}'
}
systemctl list-unit-files --no-legend --no-pager | awk '{print "unit", $1, $2}'
systemctl list-units --all --plain --no-legend --no-pager --type=service,timer,socket | awk '{print "loaded", $1, $2}'
dpkg-query -W -f 'package ${Package} ${db:Status-Status}\n'
getent passwd | cut -d: -f1 | sed 's/^/user /'
getent group | cut -d: -f1 | sed 's/^/group /'
ss -Hltun | awk '{print "port", $1, $5}'
nft list table inet host_baseline | sed 's/^[[:space:]]*/firewall /'
find /etc /usr/local /opt /root /home /srv /santedb /var/lib /var/log /var/spool /var/www -xdev \
  \( -path /var/lib/docker -o -path /var/lib/dpkg -o -path /var/lib/apt -o -path '*/__pycache__' -o -path /root/.ansible \) -prune \
  -o -print 2>/dev/null | sed 's/^/file /'
grep -rIHs --exclude='*.key' --exclude='*.crt' --exclude='*.pfx' '' /etc/santedb /etc/nginx/nginx.conf /etc/systemd/system \
  /etc/rsyslog.d /etc/default /etc/host-baseline /etc/prometheus /usr/local/sbin | sed 's/^/text /'
true
"""


def seen(site: Site) -> dict[str, set[str]]:
    """Return what every host shows of itself."""
    return {name: set(site.host(name).ssh(LISTING).stdout.splitlines()) for name in site.groups}


def traces(lines: set[str], pattern: str) -> list[str]:
    """Return the lines that speak of an option."""
    return sorted(line for line in lines if re.search(pattern, line, re.IGNORECASE))


def kinds(lines: list[str]) -> set[str]:
    """Return what kinds of findings these are."""
    return {line.split(maxsplit=1)[0] for line in lines}


def without(answers: dict[str, Any]) -> dict[str, Any]:
    """Return the answers that turn portal, HL7 and forwarding of audits off."""
    return {
        "web_portal": False,
        "deployment_patterns": ["interoperable_registry"],
        "standards": [one for one in answers["standards"] if one not in HL7],
        "connected_systems": [
            {**system, "standards": [one for one in system["standards"] if one not in HL7] or ["fhir_r4"]}
            for system in answers["connected_systems"]
        ],
        "domain_names": [name for name in answers["domain_names"] if name["purpose"] == "api"],
        "audit_dispatch": "none",
    }


class Changed:
    """The environment before and after a change of its plan; `watcher` is where monitoring moved to."""

    def __init__(self, site: Site, watcher: str) -> None:
        """Look at the hosts; the change comes next, then `look_again`."""
        self.site, self.partner, self.watcher = site, plans.partner(site), watcher
        mine = [one for one in site.answers["domain_names"] if one["environment"] == site.environment]
        self.names = {one["purpose"]: one["fqdn"] for one in mine}
        self.secrets = site.secrets
        self.before = seen(site)
        self.after: dict[str, set[str]] = {}

    def look_again(self) -> None:
        """Look at the hosts after the change."""
        self.after = seen(self.site)


def gone(changed: Changed, hosts: str, pattern: str, expected: str, stays: str = r"^$") -> None:
    """Assert that hosts had findings of these kinds that speak of an option, and have none but what `stays`."""
    for host in hosts.split():
        before = traces(changed.before[host], pattern)
        assert set(expected.split()) <= kinds(before) | {"-"}, f"{host} never had it: {before}"
        left = [line for line in traces(changed.after[host], pattern) if not re.search(stays, line)]
        assert left == [], f"{host}:\n" + "\n".join(left)


class TurnedOff:
    """The tests; a module that has a fixture `changed` collects them in a class of its own."""

    def test_the_portal_is_gone(self, changed: Changed) -> None:
        state = r"^file /var/lib/santedb/portal"  # stays, or it would have to join again
        gone(changed, "edge", r"portal|santedb-www|\b9200\b", "container image file firewall text port", state)

    def test_the_container_engine_goes_with_the_last_container(self, changed: Changed) -> None:
        # the lab's own mark, and rules of the firewall for any engine there may be
        stays = r"lab-docker|lab-cgroup|docker\*|firewall\.wanted:#|^file /var/lib/(docker|containerd)$"
        gone(changed, "edge", r"docker|containerd|\brunc\b", "unit package file group", stays)

    def test_hl7_is_gone(self, changed: Changed) -> None:
        gone(changed, "edge", r"hl7|\b2[12]00\b", "file firewall port text")
        # the image names the port, nothing publishes it; and FHIR's extensions have addresses at hl7.org
        stays = r"^container \S+ \S+ 2100/tcp, 0\.0\.0\.0:8080->8080/tcp$|//hl7\.org/fhir"
        gone(changed, "app", r"hl7|\b2[12]00\b", "container firewall port text", stays)
        with pytest.raises(OSError, match=r"timed out|refused|unreachable"):
            socket.create_connection((changed.site.host("edge").ip, 2200), 3)

    def test_audits_go_nowhere(self, changed: Changed) -> None:
        # the audits themselves stay; the checks of every host know how to look at a collector
        stays = r"^file /var/(log|spool/rsyslog)/santedb-audit|^text /usr/local/sbin/santedb-checks:"
        gone(changed, "ops", r"santedb-audit|audit_|\b6514\b", "unit file firewall port text", stays)
        gone(changed, "ops", r"rsyslog", "unit package file", r"^file /var/spool/rsyslog|santedb-checks:")
        gone(changed, "app", r"audit_sender|audit_ship|\b6514\b", "file text", r"santedb-checks:")

    def test_monitoring_moved_and_left_no_server_behind(self, changed: Changed) -> None:
        exporter = r"node-exporter|^(user|group) prometheus|^file /var/(lib|log)/prometheus$|santedb-checks:"
        gone(changed, "ops", r"prometheus|\b9090\b", "unit package port file", exporter)
        assert traces(changed.after[changed.watcher], r"^unit prometheus\.service enabled")
        figures = f"http://{changed.site.host('ops').ip}:9100/metrics"
        fetch = f"import urllib.request as u; print(u.urlopen('{figures}').read().decode())"
        metrics = changed.site.host(changed.watcher).ssh(f'python3 -c "{fetch}"').stdout
        assert "node_uname_info" in metrics

    def test_certificates_and_keys_are_those_of_the_register(self, changed: Changed) -> None:
        """Also SanteDB's own key files: one for each entry of that format, and no other."""
        register = changed.site.facts["santedb_certificates"]
        for host, lines in changed.after.items():
            mine = [one for one in register if host in one["installed_on"]]
            planned = {
                path for one in mine for path in (one["path_certificate"], one["path_key"]) if path and "<" not in path
            }
            found = {line.split()[1] for line in lines if re.match(r"file /etc/santedb/tls/[^/]+\.(crt|key)$", line)}
            assert found == planned, host
            packed = [line for line in lines if re.match(r"file /santedb/\.x509/.*\.pfx$", line)]
            assert len(packed) == len([one for one in mine if one["format"] == "pfx"]), packed

    def test_nobody_signs_in_or_delivers_any_more_for_what_is_gone(self, changed: Changed) -> None:
        """The portal's secret in SanteDB, and the key with which its host delivered backups."""
        name = "org.santedb.disconnected_client.www"
        secret = changed.secrets["vault_application_org_santedb_disconnected_client_www_secret"]
        device = f"OPENMRS|CENTRAL_HOSPITAL:{changed.secrets['vault_partner_openmrs_central_hospital_device_secret']}"
        answer = changed.partner.call(
            "/auth/oauth2_token",
            form={"grant_type": "client_credentials", "client_id": name, "client_secret": secret},
            headers={"X-Device-Authorization": f"BASIC {base64.b64encode(device.encode()).decode()}"},
            certificate=True,
        )
        assert "invalid_client" in answer.body, answer
        assert traces(changed.before["ops"], r"receive\.d/edge|santedb-backup edge")
        assert traces(changed.after["ops"], r"receive\.d/edge|santedb-backup edge") == []
        keys = changed.site.host("ops").ssh("cat /var/lib/santedb-backup/.ssh/authorized_keys").stdout
        assert "santedb-backup app" in keys
        assert "santedb-backup edge" not in keys

    def test_the_rest_still_works(self, changed: Changed) -> None:
        assert changed.partner.call("/fhir/metadata").status == 200
        assert changed.partner.token(certificate=True) == 200
        # the proxy is there, but has nothing for that name: another one's certificate, or closed without a word
        with pytest.raises(OSError, match=r"SSL|reset|closed"):
            changed.partner.call("/", host=changed.names["portal"])
        for host in changed.site.groups:
            failed = changed.site.host(host).ssh("systemctl --failed --no-legend --plain").stdout
            assert failed == "", f"{host}: {failed}"
