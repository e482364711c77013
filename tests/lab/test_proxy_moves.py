"""The proxy moves to another host, and nothing of it stays where it was."""

from __future__ import annotations

import pytest

from tools.lab.sites import Site

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1800)]
PLAN = "split"


def test_the_proxy_leaves_its_host_as_it_was(site: Site) -> None:
    site.groups |= {"edge": (41, ["portal"]), "app": (42, ["icdr", "cache", "proxy"])}
    site.render()
    for name in ("baseline", "certificates", "portal", "proxy", "cleanup"):
        done = site.play(name, "-e", "emergency_reason='the proxy moves'", label=f"{name}, moved")
        assert done.code == 0, done.text[-6000:]
    edge = site.host("edge")
    assert edge.ssh("ss -Hltn '( sport = :443 or sport = :80 or sport = :2200 )'").stdout == ""
    assert edge.ssh("dpkg -l 'nginx*' 'libnginx*' 2>/dev/null | grep ^ii", check=False).stdout == ""
    left = "ls -d /etc/nginx /var/log/nginx /etc/santedb/roles/proxy /etc/santedb/tls/proxy.key 2>/dev/null"
    assert edge.ssh(left, check=False).stdout == ""
    app = site.host("app").ssh("ss -Hltn '( sport = :443 or sport = :2200 )'").stdout
    assert ":443" in app
    assert ":2200" in app
    again = site.play("proxy", "-e", "emergency_reason='the proxy moves'", label="proxy, again")
    assert set(again.recap.changed) <= {"localhost"}, again.changes()
