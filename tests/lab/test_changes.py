"""Options turned off on a deployed environment leave nothing of them, by the smallest commands `santescaffold plan` names."""

from __future__ import annotations

import base64
import json
import re
import shlex
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from santescaffold import preview
from tools.lab import plans
from tools.lab.namespaces import PROJECT
from tools.lab.partner import Partner
from tools.lab.sites import Done, Site

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1800)]
PLAN = "split"
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


class Changed:
    """The environment before and after the change, and what was run in between."""

    def __init__(self, site: Site, partner: Partner) -> None:
        """Look at the hosts, change the plan, run what `santescaffold plan` would say, look again."""
        self.site, self.partner = site, partner
        self.names = {
            one["purpose"]: one["fqdn"] for one in site.answers["domain_names"] if one["environment"] == "staging"
        }
        self.secrets = site.secrets
        self.before = seen(site)
        self.commands = self._change()
        plans.open_the_gate(site, "--again")  # signatures given for other answers are void
        self.runs = [self._run(command) for command in self.commands]
        self.after = seen(site)

    def _change(self) -> list[dict[str, Any]]:
        """Turn portal, HL7, forwarding of audits and cache off, and move monitoring; return the commands to run."""
        site = self.site
        was = site.folder / "was"
        shutil.copytree(site.repository / "inventories", was / "inventories")
        # Hosts still list the groups of what is turned off; only monitoring is said to be elsewhere.
        moved = {"db": ["database", "monitoring"], "ops": ["audit", "backup"]}
        site.groups = {name: (number, moved.get(name, groups)) for name, (number, groups) in site.groups.items()}
        answers = site.answers
        site.render(
            web_portal=False,
            deployment_patterns=["interoperable_registry"],
            standards=[one for one in answers["standards"] if one not in HL7],
            connected_systems=[
                {**system, "standards": [one for one in system["standards"] if one not in HL7] or ["fhir_r4"]}
                for system in answers["connected_systems"]
            ],
            domain_names=[name for name in answers["domain_names"] if name["purpose"] == "api"],
            audit_dispatch="none",
            cache="memory",
        )
        changed = site.git("diff", "--name-only", "HEAD~1", "HEAD").splitlines()
        found = preview.commands(
            preview.read_inventories(was),
            preview.read_inventories(site.repository),
            dict.fromkeys(changed, "changed"),
            json.loads((PROJECT / "catalog/catalog.json").read_text(encoding="utf-8")),
            site.repository / "playbooks",
        )
        print(*(command["command"] for command in found), sep="\n", flush=True)
        return [command for command in found if command["environment"] == site.environment]

    def _run(self, command: Mapping[str, Any]) -> Done:
        """Run a command as it is written, with the vault's password."""
        words = shlex.split(command["command"])
        assert words[:3] == ["ansible-playbook", "-i", "inventories/staging"]
        # SanteDB's console cannot give a second factor: hardening says so, waits for this, and turns it on again.
        paused = ("-e", "icdr_mfa_paused=true") if command["playbook"] == "icdr" else ()
        done = self.site.play(Path(words[3]).stem, *words[4:], *paused, label=f"change {command['playbook']}")
        assert done.code == 0, f"{command['command']}\n{done.text[-8000:]}"
        return done


@pytest.fixture(scope="module")
def changed(site: Site) -> Changed:
    """The split plan with options turned off."""
    return Changed(site, plans.partner(site))


def gone(changed: Changed, hosts: str, pattern: str, expected: str, stays: str = r"^$") -> None:
    """Assert that hosts had findings of these kinds that speak of an option, and have none but what `stays`."""
    for host in hosts.split():
        before = traces(changed.before[host], pattern)
        assert set(expected.split()) <= kinds(before) | {"-"}, f"{host} never had it: {before}"
        left = [line for line in traces(changed.after[host], pattern) if not re.search(stays, line)]
        assert left == [], f"{host}:\n" + "\n".join(left)


def test_the_commands_are_the_smallest(changed: Changed) -> None:
    ran = {command["playbook"]: command["limit"] for command in changed.commands}
    assert "site" not in ran
    assert "database" not in ran
    assert ran["portal"] == ["edge"]
    assert ran["cache"] == ["app"]
    assert ran["audit"] == ["ops"]


def test_the_portal_is_gone(changed: Changed) -> None:
    state = r"^file /var/lib/santedb/portal"  # stays, or it would have to join again
    gone(changed, "edge", r"portal|santedb-www|\b9200\b", "container image file firewall text port", state)


def test_the_container_engine_goes_with_the_last_container(changed: Changed) -> None:
    # the lab's own mark, and rules of the firewall for any engine there may be
    stays = r"lab-docker|lab-cgroup|docker\*|firewall\.wanted:#|^file /var/lib/(docker|containerd)$"
    gone(changed, "edge", r"docker|containerd|\brunc\b", "unit package file group", stays)


def test_hl7_is_gone(changed: Changed) -> None:
    gone(changed, "edge", r"hl7|\b2[12]00\b", "file firewall port text")
    # the image names the port, nothing publishes it; and FHIR's extensions have addresses at hl7.org
    stays = r"^container \S+ \S+ 2100/tcp, 0\.0\.0\.0:8080->8080/tcp$|//hl7\.org/fhir"
    gone(changed, "app", r"hl7|\b2[12]00\b", "container firewall port text", stays)
    with pytest.raises(OSError, match=r"timed out|refused|unreachable"):
        socket.create_connection(("10.77.0.41", 2200), 3)


def test_audits_go_nowhere(changed: Changed) -> None:
    # the audits themselves stay; the checks of every host know how to look at a collector
    stays = r"^file /var/(log|spool/rsyslog)/santedb-audit|^text /usr/local/sbin/santedb-checks:"
    gone(changed, "ops", r"santedb-audit|audit_|\b6514\b", "unit file firewall port text", stays)
    gone(changed, "ops", r"rsyslog", "unit package file", r"^file /var/spool/rsyslog|santedb-checks:")
    gone(changed, "app", r"audit_sender|audit_ship|\b6514\b", "file text", r"santedb-checks:")


def test_the_cache_is_gone(changed: Changed) -> None:
    gone(changed, "app", r"redis|\b6379\b", "unit package user group port firewall text file")


def test_monitoring_moved_and_left_no_server_behind(changed: Changed) -> None:
    exporter = r"node-exporter|^(user|group) prometheus|^file /var/(lib|log)/prometheus$|santedb-checks:"
    gone(changed, "ops", r"prometheus|\b9090\b", "unit package port file", exporter)
    assert traces(changed.after["db"], r"^unit prometheus\.service enabled")
    fetch = "import urllib.request as u; print(u.urlopen('http://10.77.0.44:9100/metrics').read().decode())"
    metrics = changed.site.host("db").ssh(f'python3 -c "{fetch}"').stdout
    assert "node_uname_info" in metrics


def test_certificates_and_keys_are_those_of_the_register(changed: Changed) -> None:
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


def test_nobody_signs_in_or_delivers_any_more_for_what_is_gone(changed: Changed) -> None:
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


def test_the_rest_still_works(changed: Changed) -> None:
    assert changed.partner.call("/fhir/metadata").status == 200
    assert changed.partner.token(certificate=True) == 200
    with pytest.raises(OSError):  # noqa: PT011  closed without a word, in whatever way TLS reports it
        changed.partner.call("/", host=changed.names["portal"])
    for host in changed.site.groups:
        failed = changed.site.host(host).ssh("systemctl --failed --no-legend --plain").stdout
        assert failed == "", f"{host}: {failed}"


def test_a_whole_deployment_finds_nothing_to_do(changed: Changed) -> None:
    opened = changed.site.play("proxy", label="proxy, proven")  # waited for what the last command, verify, has proved
    assert opened.code == 0, opened.text[-5000:]
    done = changed.site.deploy(label="deploy changed plan")
    assert set(done.recap.changed) <= {"localhost"}, done.changes()
