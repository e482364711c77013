"""SanteDB installed natively under systemd with Mono, from an archive that the operator supplies; its program is a stand-in."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from tools.lab import Host, Lab, plans
from tools.lab.sites import Done, Site

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1800)]
HOME = "/opt/santesuite/santedb/server"
HOST = {"native": (81, ["icdr", "database", "cache", "proxy"])}
# A service as mono-service takes it: reads the configuration beside it, answers PING on the port that this names, and ends like
# SanteDB where it cannot.
PROGRAM = r"""
using System;
using System.IO;
using System.Net;
using System.ServiceProcess;
using System.Text.RegularExpressions;
using System.Threading;
using System.Xml;

public class StandIn : ServiceBase {
    HttpListener listener = new HttpListener();
    protected override void OnStart(string[] arguments) {
        try {
            var document = new XmlDocument();
            document.Load(Path.Combine(AppDomain.CurrentDomain.BaseDirectory, "santedb.config.xml"));
            var port = Regex.Match(document.OuterXml, @"http://[^:/""]+:(\d+)/hdsi").Groups[1].Value;
            if (!Directory.Exists("match")) throw new Exception("there is no ./match");
            listener.Prefixes.Add("http://*:" + port + "/");
            listener.Start();
        } catch (Exception error) {
            Console.WriteLine("FATAL ERROR: " + error.Message);
            Environment.Exit(0);
        }
        new Thread(Serve) { IsBackground = true }.Start();
    }
    void Serve() {
        while (true) {
            var context = listener.GetContext();
            context.Response.StatusCode = 204;
            context.Response.Headers["X-StandIn"] = "VERSION";
            context.Response.Close();
        }
    }
    protected override void OnStop() { listener.Stop(); }
    public static void Main() { ServiceBase.Run(new StandIn()); }
}
"""
VERSION = "import urllib.request as u; print(u.urlopen(u.Request('http://127.0.0.1:8080/hdsi/', method='PING')).headers['X-StandIn'])"


class Native:
    """A bare host, a repository that plans a native server on it, and archives to install."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        """Boot host and builder, render, make the vault."""
        answers = plans.demoland(
            "staging", runtime="native", topology="single_host", database_placement="same_server",
            environments=["staging"], web_portal=False, deployment_patterns=["interoperable_registry"], cache="memory",
            audit_dispatch="none",
        )  # fmt: skip
        for question in ("hosts", "domain_names"):
            answers[question] = [one for one in answers[question] if one["environment"] == "staging"]
        answers["domain_names"] = [one for one in answers["domain_names"] if one["purpose"] != "portal"]
        self.site = Site(lab, folder, "staging", HOST, answers).build()
        plans.prepare(self.site)
        self.builder = lab.host("builder", 82)
        lab.start(self.builder)
        self.builder.ssh("apt-get update -q && apt-get install -qy --no-install-recommends mono-devel >/dev/null")

    @property
    def host(self) -> Host:
        """The server."""
        return self.site.host("native")

    def offer(self, version: str) -> None:
        """Compile the stand-in and name its archive, as an operator names SanteSuite's."""
        command = "cd /root && cat > standin.cs && mcs -out:SanteDB.exe -r:System.ServiceProcess.dll standin.cs && base64 SanteDB.exe"
        encoded = self.builder.ssh(command, input=PROGRAM.replace("VERSION", version)).stdout
        archive = self.site.folder / f"santedb-{version}.tar.gz"
        decoded = base64.b64decode(encoded)
        with tarfile.open(archive, "w:gz") as tar:
            entry = tarfile.TarInfo("SanteDB.exe")
            entry.size, entry.mode = len(decoded), 0o755
            tar.addfile(entry, io.BytesIO(decoded))
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        self.site.local("icdr", icdr_archive=str(archive), icdr_archive_sha256=digest)

    def play(self, label: str, *more: str) -> Done:
        """Run the playbook of the application servers; the gate is not the subject here."""
        return self.site.play("icdr", "-e", "emergency_reason='a laboratory'", *more, label=label)

    @property
    def version(self) -> str:
        """The version that answers."""
        return self.host.ssh(f'python3 -c "{VERSION}"', check=False).stdout.strip()


@pytest.fixture(scope="module")
def native(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Native:
    """Everything but the application server deployed."""
    native = Native(lab, tmp_path_factory.mktemp("native") / "site")
    for name in ("baseline", "certificates", "database"):
        done = native.site.play(name, "-e", "emergency_reason='a laboratory'")
        assert done.code == 0, done.text[-6000:]
    return native


@pytest.fixture(scope="module")
def installed(native: Native) -> dict[str, Done]:
    """Refused without an archive, refused with another file than declared, then installed, then again."""
    runs = {"none": native.play("native, no archive")}
    native.offer("1.0")
    runs["check"] = native.play("native --check", "--check")
    runs["foreign"] = native.play("native, another file", "-e", f"icdr_archive_sha256={'0' * 64}")
    runs["first"] = native.play("native")
    runs["second"] = native.play("native again")
    return runs


def test_only_the_declared_archive_is_installed(native: Native, installed: dict[str, Done]) -> None:
    assert installed["none"].code != 0
    assert "there is no archive to install" in installed["none"].line
    assert installed["check"].code == 0, installed["check"].text[-5000:]
    assert installed["foreign"].code != 0
    assert "is another file than the one declared" in installed["foreign"].line
    assert installed["first"].code == 0, installed["first"].text[-6000:]
    assert set(installed["second"].recap.changed) <= {"localhost"}, installed["second"].changes()
    assert native.version == "1.0"


def test_its_configuration_is_read_by_root_alone(native: Native, installed: dict[str, Done]) -> None:
    shown = native.host.ssh(f"stat -c '%U %a %n' {HOME}/santedb.config.xml {HOME}/.x509 {HOME}/match").stdout.split(
        "\n"
    )
    assert [line.split()[:2] for line in shown if line] == [["root", "600"], ["root", "700"], ["root", "700"]]
    assert native.host.ssh(f"ls {HOME}/match").stdout, "match configurations are where the configuration says"
    assert native.host.ssh(f"ls {HOME}/.x509").stdout, "keys are where SanteDB looks for them"


def test_it_comes_back_and_another_archive_replaces_it(native: Native, installed: dict[str, Done]) -> None:
    native.host.ssh("systemctl kill --signal=KILL santedb-icdr")
    native.site.wait_for(lambda: native.version == "1.0", 60)
    native.host.ssh(f"touch {HOME}/queue/waiting")
    native.offer("1.1")
    done = native.play("native, next version")
    assert done.code == 0, done.text[-5000:]
    assert native.version == "1.1"


def test_a_start_that_fails_is_told(native: Native, installed: dict[str, Done]) -> None:
    config = native.site.repository / "santedb/staging/santedb.config.xml"
    planned = config.read_text(encoding="utf-8")
    config.write_text(planned.replace("</SanteDBConfiguration>", ""), encoding="utf-8")
    try:
        done = native.play("native, broken configuration", "-e", "icdr_start_seconds=40")
    finally:
        config.write_text(planned, encoding="utf-8")
    assert done.code != 0
    assert "FATAL ERROR" in done.line
    assert native.play("native, repaired").code == 0
    assert native.version == "1.1"


def test_taken_off_it_leaves_its_data_and_nothing_else(native: Native, installed: dict[str, Done]) -> None:
    native.site.local("icdr", icdr_enabled=False)
    done = native.play("native, taken off")
    assert done.code == 0, done.text[-5000:]
    assert native.version == ""
    assert native.host.ssh(f"ls -A {HOME}").stdout.split() == [".x509", "data", "match", "queue"]
    native.host.ssh(f"test -e {HOME}/queue/waiting")
    assert native.host.ssh("ls /etc/systemd/system | grep santedb-icdr", check=False).stdout == ""
