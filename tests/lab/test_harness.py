"""The lab itself: hosts boot, can be reached, cut off and robbed of their power; Docker hosts run the stand-in."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.lab import Host, HostError, Lab, Snapshot, images, needs
from tools.lab.settings import GATEWAY, UNREACHABLE
from tools.lab.standin.keys import pfx_password

pytestmark = pytest.mark.lab

PING = "ping -c1 -W1 {} >/dev/null"


@pytest.fixture(scope="module")
def hosts(lab: Lab) -> Lab:
    for number, name in enumerate(("db", "app", "audit")):
        lab.host(name, 10 + number)
    lab.start()
    return lab


def test_a_low_limit_of_watches_is_said(tmp_path: Path) -> None:
    limit = tmp_path / "max_user_instances"
    limit.write_text("128\n", encoding="ascii")
    (said,) = needs.notes(limit)
    assert "enough for about 8 hosts" in said
    limit.write_text("8192\n", encoding="ascii")
    assert needs.notes(limit) == []


def test_hosts_boot_and_answer(hosts: Lab) -> None:
    for host in hosts.hosts.values():
        assert host.ssh("systemctl is-system-running --wait").stdout.strip() == "running"
        assert host.ssh("hostname").stdout.strip() == host.name
    assert hosts["db"].ssh("sudo id -u", user="deploy").stdout.strip() == "0"


def test_a_failing_command_raises_with_its_output(hosts: Lab) -> None:
    with pytest.raises(HostError, match="no-such-thing"):
        hosts["db"].ssh("ls /no-such-thing")


def test_there_is_no_way_out(hosts: Lab) -> None:
    assert "unreachable" in hosts["db"].ssh(f"ping -c1 -W1 {UNREACHABLE} 2>&1", check=False).stdout
    fetch = f"python3 -c \"import http.client as h; c = h.HTTPConnection('{GATEWAY}', 3142); " + (
        "c.request('GET', 'http://example.org/'); print(c.getresponse().status)\""
    )
    assert hosts["db"].ssh(fetch).stdout.strip() == "403"


def test_cut_part_and_heal(hosts: Lab) -> None:
    db, app, audit = hosts["db"], hosts["app"], hosts["audit"]
    db.ssh(PING.format(app.ip))
    app.cut()
    with pytest.raises(HostError):
        db.ssh(PING.format(app.ip))
    assert app.inside("hostname").stdout.strip() == "app"
    app.heal()
    db.ssh(PING.format(app.ip))
    app.part_from(audit)
    with pytest.raises(HostError):
        app.ssh(PING.format(audit.ip))
    app.ssh(PING.format(db.ip))
    app.heal()
    app.ssh(PING.format(audit.ip))


def test_power_cut_keeps_the_disk_and_forgets_the_firewall(hosts: Lab) -> None:
    db = hosts["db"]
    db.ssh("apt-get install -qy nftables >/dev/null && nft add table inet gone && echo kept > /root/file && sync")
    db.restart(hard=True)
    assert db.ssh("cat /root/file").stdout == "kept\n"
    assert db.ssh("nft list ruleset").stdout == ""


def test_a_host_may_reboot_itself(hosts: Lab) -> None:
    db = hosts["db"]
    before = db.ssh("cat /proc/sys/kernel/random/boot_id; stat -c %Y /proc/1").stdout
    db.ssh("systemctl reboot", check=False)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        now = db.ssh("cat /proc/sys/kernel/random/boot_id; stat -c %Y /proc/1", check=False)
        if now.returncode == 0 and now.stdout != before:
            break
        time.sleep(0.3)
    else:
        pytest.fail("the host did not come back")


def test_ansible_reaches_the_hosts(hosts: Lab, tmp_path: Path) -> None:
    lines = [f"{host.name} ansible_host={host.ip}" for host in hosts.hosts.values()]
    (tmp_path / "hosts").write_text("\n".join(lines) + "\n")
    done = hosts.ansible("all", "-i", "hosts", "-m", "ansible.builtin.ping", cwd=tmp_path, program="ansible")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("SUCCESS") == 3


def test_snapshots_give_the_same_disks_again(hosts: Lab) -> None:
    hosts["app"].ssh("echo one > /root/state")
    snapshots = hosts.snapshots()
    for _ in range(2):
        hosts.clone(snapshots)
        assert hosts["app"].ssh("cat /root/state").stdout == "one\n"
        hosts["app"].ssh("echo two > /root/state")


# -- the stand-in -------------------------------------------------------------------------------------------------

FEATURES = "LOG;SEC;ADO;PUBSUB_ADO;FS_MQ;AUDIT_REPO;RAMCACHE;OPENID;HDSI;AMI;BIS;SWAGGER;FHIR;HL7;AUDIT_SHIP"
PROVIDER = '<add type="SanteDB.OrmLite.Providers.Postgres.PostgreSQLProvider, SanteDB.OrmLite" invariant="Npgsql" />'


@pytest.fixture(scope="module")
def standin(docker_snapshot: Snapshot) -> Iterator[Lab]:
    """A database host and a Docker host with the stand-in's image; nothing runs in Docker yet."""
    lab = Lab()
    db = lab.host("pg", 21)
    lab.host("dock", 20, docker=True, snapshot=docker_snapshot)
    lab.start()
    db.ssh("apt-get install -qy --no-install-recommends postgresql postgresql-contrib ssl-cert >/dev/null")
    db.ssh(
        "cd /etc/postgresql/15/main && echo \"listen_addresses = '*'\" > conf.d/lab.conf && "
        "echo 'hostssl all santedb 10.77.0.0/24 scram-sha-256' >> pg_hba.conf && systemctl restart postgresql"
    )
    db.ssh('su postgres -c "psql -c \\"create role santedb login password \'abc\'\\""')
    for name in ("santedb", "auditdb"):
        db.ssh(f"su postgres -c 'createdb -O santedb {name}'")
        for extension in ("pgcrypto", "uuid-ossp", "pg_trgm", "fuzzystrmatch"):
            db.ssh(f'su postgres -c "psql -d {name} -c \'create extension \\"{extension}\\"\'"')
    shipped = (Path(images.__file__).parent / "standin/shipped/santedb.config.xml").read_text()
    config = lab["dock"].root / "root/santedb.config.xml"
    config.write_text(shipped.replace("<providers>", f"<providers>{PROVIDER}"))
    yield lab
    lab.discard()


def environment(**changed: str) -> dict[str, str]:
    found = {
        "SDB_FEATURE": FEATURES,
        "SDB_HL7_AUTHENTICATION": "Msh8",
        "SDB_OPENID_INSECURE_CLIENT_AUTH": "false",
        "SDB_AUDIT_SHIP_TARGET": "tcp://10.77.0.21:1514",
    }
    for name, database in (("MAIN", "santedb"), ("AUDIT", "auditdb")):
        found[f"SDB_DB_{name}"] = (
            f"server=10.77.0.21;port=5432;database={database};user id=santedb;password=abc;SSL Mode=Require"
        )
        found[f"SDB_DB_{name}_PROVIDER"] = "Npgsql"
    for key in ("default", "jwsdefault"):
        found[f"SDB_SEC_SIG_{key}"] = "hs256:0123456789abcdef0123456789abcdef"
    return {**found, **changed}


ENTRY = "mono --server /santedb/SanteDB.Docker.Server.exe redis.xml"


def run(
    host: Host,
    name: str,
    ports: str,
    extra: str = "",
    tag: str = images.DEFAULT_TAG,
    command: str = "",
    **changed: str,
) -> None:
    lines = [f"{key}={value}" for key, value in environment(**changed).items()]
    host.ssh("cat > /root/env", input="\n".join(lines) + "\n")
    host.ssh(
        f"docker run -d --name {name} {ports} --env-file /root/env "
        f"-v /root/santedb.config.xml:/santedb/santedb.config.xml:ro {extra} santesuite/santedb-icdr:{tag} {command}"
    )


READY = 'test "$(curl -s -o /dev/null -w %{http_code} -X PING http://127.0.0.1:8080/hdsi/)" = 204'
SINK = textwrap.dedent(
    """
    import socket
    s = socket.create_server(("", 1514))
    while True:
        c, _ = s.accept()
        open("/root/sink", "ab").write(c.recv(65536))
    """
)


@pytest.fixture(scope="module")
def icdr(standin: Lab) -> Host:
    host = standin["dock"]
    host.ssh("command -v curl >/dev/null || apt-get install -qy --no-install-recommends curl >/dev/null")
    standin["pg"].ssh("cat > /root/sink.py", input=SINK)
    standin["pg"].ssh("systemd-run --unit sink python3 /root/sink.py")
    run(host, "icdr", "-p 8080:8080 -p 2100:2100")
    try:
        host.wait_until(READY, 60)
    except HostError:
        pytest.fail(host.ssh("docker logs icdr 2>&1", check=False).stdout)
    return host


def test_a_wrong_configuration_prints_fatal_error_and_exits_with_zero(standin: Lab) -> None:
    host = standin["dock"]
    run(host, "wrong", "", SDB_FEATURE=f"{FEATURES};")
    assert host.ssh("docker wait wrong").stdout.strip() == "0"
    assert "FATAL ERROR" in host.ssh("docker logs wrong").stdout
    host.ssh("docker rm wrong")


def test_standin_serves_and_refuses(icdr: Host, standin: Lab) -> None:
    assert json.loads(icdr.ssh("curl -s http://127.0.0.1:8080/fhir/metadata").stdout)["fhirVersion"] == "4.0.1"
    code = "curl -s -o /dev/null -w '%{http_code}' "
    assert icdr.ssh(f"{code} http://127.0.0.1:8080/fhir/Patient").stdout == "401"
    # published ports are reached from other hosts
    assert (
        "issuer"
        in standin["pg"]
        .ssh(
            'python3 -c "import urllib.request as u; '
            "print(u.urlopen('http://10.77.0.20:8080/auth/.well-known/openid-configuration').read().decode())\""
        )
        .stdout
    )


def test_console_and_tokens(icdr: Host) -> None:
    known = images.identities()
    old = known["users"]["Administrator"]["password"]
    application = known["applications"]["org.santedb.administration"]
    script = (
        "# comment\napplication.lock -l fiddler\nuser.lock -u Bob -l\n"
        "device.add 'LAB|CLINIC' -s device1\napplication.add LAB -s application1\n"
        "user.password -u Administrator -p 'Fresh-Pass9'\napplication.list -l\n"
    )
    icdr.ssh("cat > /root/script && docker cp /root/script icdr:/tmp/script", input=script)
    said = icdr.ssh(f"docker exec icdr sdbac -u Administrator -p '{old}' -s '{application}' /tmp/script 2>&1").stdout
    assert "ERR" not in said
    assert "FATAL" not in said
    assert "fiddler" in said.split("application.list -l")[1]
    form = "grant_type=password&username=Administrator&client_id=org.santedb.administration"
    post = "curl -s http://127.0.0.1:8080/auth/oauth2_token "
    refused = icdr.ssh(
        f"{post} -d '{form}' --data-urlencode 'password={old}' --data-urlencode 'client_secret={application}'"
    )
    assert json.loads(refused.stdout)["error"] == "invalid_grant"
    answer = icdr.ssh(f"{post} -d '{form}&password=Fresh-Pass9' --data-urlencode 'client_secret={application}'").stdout
    token = json.loads(answer)["access_token"]
    bundle = icdr.ssh(f"curl -s -H 'Authorization: Bearer {token}' http://127.0.0.1:8080/fhir/Patient").stdout
    assert json.loads(bundle)["total"] == 3


def test_hl7_and_audits(icdr: Host, standin: Lab) -> None:
    send = (
        "import socket; s = socket.create_connection(('127.0.0.1', 2100)); "
        "s.sendall(b'\\x0bMSH|^~\\\\&|LAB|CLINIC|MPI|MOH|20260101|{}|ADT^A01|7|P|2.5\\rPID|||77^^^X\\r\\x1c\\r'); "
        "print(s.recv(9999).decode().replace(chr(13), chr(10)))"
    )
    icdr.ssh("cat > /root/good.py", input=send.format("device1+application1"))
    icdr.ssh("cat > /root/bad.py", input=send.format("device1+wrong"))
    assert "MSA|AA|7" in icdr.ssh("python3 /root/good.py").stdout
    assert "MSA|AR|7" in icdr.ssh("python3 /root/bad.py").stdout
    count = 'su postgres -c "psql -Atd auditdb -c \\"select count(*) from aud_tbl where event = \'patient\'\\""'
    assert int(standin["pg"].ssh(count).stdout) >= 1
    standin["pg"].wait_until("grep -aq AuditMessage /root/sink", 20)


TLS_SINK = textwrap.dedent(
    """
    import socket, ssl, threading
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    c.load_cert_chain("/root/server.pem")
    c.load_verify_locations("/root/ca.crt")
    c.verify_mode = ssl.CERT_REQUIRED
    def take(plain):
        with c.wrap_socket(plain, server_side=True) as tls:
            while data := tls.recv(65536):
                with open("/root/tls", "ab") as file:
                    file.write(data)
    s = socket.create_server(("", 6514))
    while True:
        threading.Thread(target=take, args=(s.accept()[0],), daemon=True).start()
    """
)


def certificates(folder: Path, address: str) -> str:
    """Make an authority, a server certificate for the address and a client's; return the client's thumbprint."""

    def openssl(*arguments: str) -> str:
        done = subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, text=True)
        return done.stdout

    new = ("-newkey", "rsa:2048", "-nodes", "-days", "30")
    openssl("req", "-x509", *new, "-subj", "/CN=lab authority", "-keyout", "ca.key", "-out", "ca.crt")
    for name, extension in (("server", f"subjectAltName=IP:{address}"), ("client", "extendedKeyUsage=clientAuth")):
        openssl("req", *new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        (folder / "ext").write_text(extension)
        issue = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30", "-extfile", "ext")
        openssl("x509", "-req", "-in", f"{name}.csr", *issue, "-out", f"{name}.crt")
    (folder / "server.pem").write_text((folder / "server.crt").read_text() + (folder / "server.key").read_text())
    thumbprint = openssl("x509", "-in", "client.crt", "-noout", "-fingerprint", "-sha1").strip()
    thumbprint = thumbprint.partition("=")[2].replace(":", "")
    password = pfx_password(f"/santedb/.x509/{thumbprint}.pfx")
    pfx = ("-inkey", "client.key", "-in", "client.crt", "-out", f"{thumbprint}.pfx", "-passout", f"pass:{password}")
    openssl("pkcs12", "-export", *pfx)
    return thumbprint


def test_rsa_signing_redis_and_audits_over_mutual_tls(icdr: Host, standin: Lab, tmp_path: Path) -> None:
    db = standin["pg"]
    thumbprint = certificates(tmp_path, db.ip)
    for name in ("server.pem", "ca.crt"):
        db.put(tmp_path / name, f"/root/{name}")
    icdr.put(tmp_path / "ca.crt", "/root/trust/lab.crt")
    icdr.put(tmp_path / f"{thumbprint}.pfx", f"/root/x509/{thumbprint}.pfx")
    db.ssh("cat > /root/tls.py", input=TLS_SINK)
    db.ssh("systemd-run --unit tls python3 /root/tls.py")
    db.ssh("apt-get install -qy --no-install-recommends redis-server >/dev/null")
    db.ssh("sed -i 's/^bind .*/bind 0.0.0.0/; s/^# requirepass .*/requirepass pw1/' /etc/redis/redis.conf")
    db.ssh("systemctl restart redis-server")
    config = (icdr.root / "root/santedb.config.xml").read_text()
    kind = "SanteDB.Caching.Redis.Configuration.RedisConfigurationSection, SanteDB.Caching.Redis"
    config = config.replace("</sections>", f'<add type="{kind}" /></sections>', 1)
    section = '<section xsi:type="RedisConfigurationSection" password="pw1" />'
    (icdr.root / "root/redis.xml").write_text(
        config.replace("</SanteDBConfiguration>", f"{section}</SanteDBConfiguration>")
    )
    changed = {
        "SDB_FEATURE": FEATURES.replace("RAMCACHE", "REDIS"),
        "SDB_REDIS_SERVER": f"{db.ip}:6379",
        "SDB_AUDIT_SHIP_TARGET": f"stcp://{db.ip}:6514",
        "SDB_AUDIT_SHIP_CERT": thumbprint,
        "SDB_SEC_SIG_default": f"rs256:{thumbprint}",
        "SDB_SEC_SIG_jwsdefault": f"rs256:{thumbprint}",
    }
    mounts = "-v /root/trust:/usr/local/share/ca-certificates:ro -v /root/x509:/santedb/.x509"
    run(icdr, "refused", "", mounts, **changed)  # its entry file has no password for Redis
    icdr.ssh("docker wait refused")
    assert "RedisConnectionException" in icdr.ssh("docker logs refused").stdout
    run(icdr, "secure", "-p 8082:8080", f"{mounts} -v /root/redis.xml:/santedb/redis.xml:ro", command=ENTRY, **changed)
    icdr.wait_until(READY.replace("8080", "8082"), 60)
    stored = db.wait_until("grep -a AuditMessage /root/tls", 20)
    assert "IHE+DICOM" in stored
    assert stored.split(" ")[0].isdigit()  # octet-counted
    # an audit written while the repository is cut off arrives after it is back
    db.cut()
    icdr.ssh('curl -s -d \'{"event": "export", "detail": "while-away"}\' http://127.0.0.1:8082/_standin/audit')
    db.heal()
    db.wait_until("grep -aq while-away /root/tls", 40)
    icdr.ssh("docker rm -f refused secure")


def test_a_second_replica_and_a_failing_upgrade(icdr: Host, standin: Lab) -> None:
    run(icdr, "second", "-p 8081:8080")
    icdr.wait_until(READY.replace("8080", "8081"), 60)
    icdr.ssh("docker rm -f second icdr")
    images.load(icdr, images.standin_archive("3.0.9999-fails", fail_migration=True))
    run(icdr, "failing", "", tag="3.0.9999-fails")
    assert icdr.ssh("docker wait failing").stdout.strip() == "0"
    assert "failed half-way" in icdr.ssh("docker logs failing").stdout
    run(icdr, "older", "")  # the version before cannot use the half-updated schema either: restore a backup
    assert icdr.ssh("docker wait older").stdout.strip() == "0"
    assert "restore a backup" in icdr.ssh("docker logs older").stdout


def test_doctor_answers() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.lab", "doctor"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(images.__file__).parents[2],
    )
    assert done.stdout.startswith("lab:")
