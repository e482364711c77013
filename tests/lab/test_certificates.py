"""Certificates on bare hosts: issued, shared, renewed, requested from others, by ACME, refused, noticed when replaced."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tools.lab import Host
from tools.lab.bare import Repository, changes, entry, register

pytestmark = [pytest.mark.lab, pytest.mark.timeout(2400)]
HOSTS = ("db", "app", "app2", "authority")


@pytest.fixture(scope="module")
def certificates(repository: Repository) -> tuple[str, str]:
    """The output of the first and of the second run."""
    return repository.fine("certificates"), repository.fine("certificates")


def test_second_run_of_certificates_changes_nothing(certificates: tuple[str, str], repository: Repository) -> None:
    assert changes(certificates[1]) == {"0"}, certificates[1][-5000:]
    assert changes(repository.fine("certificates", "--check")) == {"0"}


def test_certificates_chain_to_the_authority_and_carry_their_names(
    certificates: tuple[str, str], hosts: dict[str, Host]
) -> None:
    for host in ("db", "app"):
        found = hosts[host].ssh("cd /etc/santedb/tls; for f in *.crt; do openssl verify -CAfile ca.crt $f; done").stdout
        assert found
        assert all(line.endswith(": OK") for line in found.splitlines()), found
    text = hosts["db"].ssh("openssl x509 -noout -text -in /etc/santedb/tls/database.crt").stdout
    assert "DNS:db.staging.invalid, IP Address:10.77.0.10" in text
    assert "TLS Web Server Authentication" in text
    assert "CA:FALSE" in text
    assert hosts["db"].ssh("stat -c '%U:%G %a' /etc/santedb/tls/database.key").stdout == "root:ssl-cert 640\n"


def test_keys_are_only_where_they_are_used(
    certificates: tuple[str, str], repository: Repository, hosts: dict[str, Host]
) -> None:
    private = list((repository.path / ".ca/staging").rglob("*.key"))
    assert sorted(path.name for path in private) == ["ca.key", "signing.key"]
    for path in private:
        assert "BEGIN ENCRYPTED PRIVATE KEY" in path.read_text(encoding="utf-8")
        assert path.stat().st_mode & 0o077 == 0
    assert "PRIVATE KEY" not in "".join(certificates)


def test_signing_key_opens_with_the_password_santedb_computes(
    certificates: tuple[str, str], hosts: dict[str, Host]
) -> None:
    found = (
        hosts["app"]
        .ssh(
            """set -e; cd /santedb/.x509; file=$(ls)
        password=$(printf %s "/santedb/.x509/$file" | sha1sum | cut -d' ' -f1 | tr a-f A-F)
        openssl x509 -noout -fingerprint -sha1 -in /etc/santedb/tls/signing.crt | cut -d= -f2 | tr -d :
        echo "${file%.pfx}"; stat -c %a "$file"
        openssl pkcs12 -legacy -in "$file" -passin "pass:$password" -nodes -nocerts 2>/dev/null > /run/key
        openssl pkey -check -noout -in /run/key; rm /run/key"""
        )
        .stdout.split("\n")
    )
    assert found[0] == found[1]
    assert found[2:4] == ["600", "Key is valid"]


def test_a_new_host_gets_the_same_authority_and_the_shared_keys(
    certificates: tuple[str, str], repository: Repository, hosts: dict[str, Host]
) -> None:
    authority = (repository.path / ".ca/staging/ca.crt").read_bytes()
    before = hosts["app"].ssh("sha256sum /etc/santedb/tls/*.crt").stdout
    repository.inventory(("db", "app", "app2"))
    repository.fine("certificates", "--limit", "app2")
    assert (repository.path / ".ca/staging/ca.crt").read_bytes() == authority
    assert hosts["app"].ssh("sha256sum /etc/santedb/tls/*.crt").stdout == before
    same = (
        "cd /etc/santedb/tls; sha256sum ca.crt shared.crt shared.key signing.crt private/signing.key; ls /santedb/.x509"
    )
    assert hosts["app"].ssh(same).stdout == hosts["app2"].ssh(same).stdout
    assert changes(repository.fine("certificates")) == {"0"}


def test_certificates_are_renewed_when_due_or_when_the_register_changes(
    certificates: tuple[str, str], repository: Repository, hosts: dict[str, Host]
) -> None:
    serial = "openssl x509 -noout -serial -in /etc/santedb/tls/{}.crt"
    old = {name: hosts["db"].ssh(serial.format(name)).stdout for name in ("database", "replication")}
    key = hosts["db"].ssh("sha256sum /etc/santedb/tls/database.key").stdout
    changed = register(["db", "app", "app2"])
    changed[1]["sans"].append("DNS:new.staging.invalid")
    changed[2]["renew_before_days"] = 366
    repository.inventory(("db", "app", "app2"), santedb_certificates=changed)
    try:
        output = repository.fine("certificates")
    finally:
        repository.inventory(("db", "app", "app2"))
    assert "app                        : ok" not in output or "changed=0" in output
    assert hosts["db"].ssh(serial.format("database")).stdout != old["database"]
    assert hosts["db"].ssh(serial.format("replication")).stdout != old["replication"]
    assert (
        "new.staging.invalid" in hosts["db"].ssh("openssl x509 -noout -text -in /etc/santedb/tls/database.crt").stdout
    )
    assert hosts["db"].ssh("sha256sum /etc/santedb/tls/database.key").stdout == key


def test_another_passphrase_does_not_make_another_authority(
    certificates: tuple[str, str], repository: Repository
) -> None:
    repository.inventory(("db", "app", "app2"), vault_certificates_ca_passphrase="another passphrase entirely")
    try:
        said = repository.refused("certificates", "-e", '{"certificates_force_renewal": ["database"]}')
    finally:
        repository.inventory(("db", "app", "app2"))
    assert "The authority of staging cannot be opened" in said
    assert "vault_certificates_ca_passphrase" in said


@pytest.mark.parametrize("limit", [(), ("--limit", "stranger")], ids=["all", "limited"])
def test_a_control_machine_without_the_authority_makes_no_second_one(
    certificates: tuple[str, str], repository: Repository, limit: tuple[str, ...]
) -> None:
    authority, away = repository.path / ".ca", repository.path / ".ca-away"
    authority.rename(away)
    repository.inventory(("db", "app", "app2"))
    try:
        said = repository.refused("certificates", *(("--limit", "app2") if limit else ()))
        assert not (authority / "staging/ca.key").exists()
    finally:
        shutil.rmtree(authority, ignore_errors=True)
        away.rename(authority)
    assert "copy that directory from the control machine" in said


def request(path: Path, name: str) -> None:
    subprocess.run(
        [
            "openssl",
            "req",
            "-new",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            path.with_suffix(".secret"),
            "-subj",
            f"/CN={name}",
            "-out",
            path,
        ],
        check=True,
        capture_output=True,
    )
    path.with_suffix(".secret").unlink()


def test_requests_of_partners_are_signed_only_as_registered(
    certificates: tuple[str, str], repository: Repository
) -> None:
    asked = repository.path / "certificates/staging/partner-lab.csr"
    issued = asked.with_suffix(".crt")
    repository.inventory(("db", "app", "app2"))
    try:
        request(asked, "somebody else")
        assert "asks for something else than the register" in repository.refused("certificates", "--limit", "db")
        assert not issued.exists()
        request(asked, "lab")
        repository.fine("certificates", "--limit", "db")
        authority = repository.path / ".ca/staging/ca.crt"
        subprocess.run(["openssl", "verify", "-CAfile", authority, issued], check=True, capture_output=True)
        assert changes(repository.fine("certificates", "--limit", "db")) == {"0"}
    finally:
        for path in (asked, issued):
            path.unlink(missing_ok=True)


def test_certificates_of_others_are_requested_then_checked(
    certificates: tuple[str, str], repository: Repository, hosts: dict[str, Host], tmp_path: Path
) -> None:
    planned = register(["db", "app", "app2"])
    planned.append(entry("national", "server", ["db"], "national_ca", "DNS:national.staging.invalid"))
    repository.inventory(("db", "app", "app2"), santedb_certificates=planned)
    folder = repository.path / "certificates/staging"
    try:
        said = repository.refused("certificates", "--limit", "db")
        assert "Certificate 'national' has not arrived" in said
        asked = folder / "national.csr"
        kept = asked.read_text(encoding="utf-8")
        repository.refused("certificates", "--limit", "db")
        assert asked.read_text(encoding="utf-8") == kept, "a request that was handed out stays"

        def sign(days: int, sans: str) -> None:
            extension = tmp_path / "extension"
            extension.write_text(
                f"subjectAltName={sans}\nkeyUsage=digitalSignature,keyEncipherment\nextendedKeyUsage=serverAuth\n"
            )
            authority: list[str | Path] = [
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-keyout",
                tmp_path / "n.key",
                "-out",
                tmp_path / "n.crt",
            ]
            subprocess.run(
                ["openssl", "req", "-x509", *authority, "-subj", "/CN=National CA"], check=True, capture_output=True
            )
            subprocess.run(
                [
                    "openssl",
                    "x509",
                    "-req",
                    "-in",
                    asked,
                    "-CA",
                    tmp_path / "n.crt",
                    "-CAkey",
                    tmp_path / "n.key",
                    "-days",
                    str(days),
                    "-CAcreateserial",
                    "-extfile",
                    extension,
                    "-out",
                    tmp_path / "leaf.crt",
                ],
                check=True,
                capture_output=True,
            )
            both = (tmp_path / "leaf.crt").read_text() + (tmp_path / "n.crt").read_text()
            (folder / "national.crt").write_text(both, encoding="utf-8")

        sign(1000, "DNS:wrong.staging.invalid")
        said = repository.refused("certificates", "--limit", "db")
        assert "it lacks the names DNS:national.staging.invalid" in said
        assert "it is valid for 1000 days, the register allows 365" in said
        sign(20, "DNS:national.staging.invalid")
        output = re.sub(r"\s+", " ", repository.fine("certificates", "--limit", "db"))
        assert "'national' of db expires in 19 days and does not renew itself" in output
        assert "BEGIN CERTIFICATE" in hosts["db"].read("/etc/santedb/tls/national.crt")
    finally:
        repository.inventory(("db", "app", "app2"))


def test_a_replaced_certificate_is_noticed(
    certificates: tuple[str, str], repository: Repository, hosts: dict[str, Host]
) -> None:
    hosts["db"].ssh(
        "cp -p /etc/santedb/tls/database.crt /root/; openssl req -x509 -newkey rsa:1024 -nodes -keyout /dev/null "
        "-out /etc/santedb/tls/database.crt -subj /CN=intruder -days 4000"
    )
    try:
        said = repository.refused("certificates", "--limit", "db", "--tags", "certificates_verify")
    finally:
        hosts["db"].ssh("cp -p /root/database.crt /etc/santedb/tls/")
    for problem in (
        "lacks the names",
        "valid for 4000 days",
        "1024 bits only",
        "authority did not issue it",
        "private key beside it is another",
    ):
        assert problem in said


PEBBLE = {
    "pebble": {
        "listenAddress": "0.0.0.0:14000",
        "managementListenAddress": "127.0.0.1:15000",
        "certificate": "/etc/pebble/own.pem",
        "privateKey": "/etc/pebble/own.key",
        "httpPort": 80,
        "tlsPort": 443,
        "ocspResponderURL": "",
        "externalAccountBindingRequired": False,
    }
}


@pytest.fixture(scope="module")
def acme_service(hosts: dict[str, Host]) -> Host:
    """A host with an ACME service for tests, which finds the names in its /etc/hosts."""
    host = hosts["authority"]
    host.ssh("apt-get -qq update; DEBIAN_FRONTEND=noninteractive apt-get -qq install -y pebble openssl")
    host.ssh(
        """set -e; mkdir -p /etc/pebble; cat > /etc/pebble/config.json
        openssl req -x509 -newkey rsa:2048 -nodes -keyout /etc/pebble/own.key -out /etc/pebble/own.pem -days 2 \
          -subj /CN=authority -addext subjectAltName=IP:10.77.0.14 2>/dev/null
        echo 10.77.0.11 api.staging.test >> /etc/hosts
        systemd-run --unit=pebble-test --setenv=PEBBLE_VA_NOSLEEP=1 --setenv=PEBBLE_WFE_NONCEREJECT=0 \
          "$(command -v pebble)" -config /etc/pebble/config.json""",
        input=json.dumps(PEBBLE),
    )
    host.wait_until("ss -Hltn 'sport = :14000' | grep -q .", 30)
    return host


def test_public_certificates_come_by_acme_and_are_renewed(
    certificates: tuple[str, str], acme_service: Host, repository: Repository, hosts: dict[str, Host]
) -> None:
    app = hosts["app"]
    planned = register(["db", "app", "app2"])
    subject = {"cn": "api.staging.test", "o": None, "c": None}
    more = {"automated": True, "lifetime_days": 2000, "reload": "nginx", "subject": subject}
    planned.append(entry("public", "server", ["app"], "public_ca", "DNS:api.staging.test", **more))
    settings = {
        "certificates_acme_directory": "https://10.77.0.14:14000/dir",
        "certificates_acme_validate_certs": False,
    }
    repository.inventory(("db", "app", "app2"), santedb_certificates=planned, **settings)
    try:
        assert "terms nobody has accepted" in repository.refused("certificates", "--limit", "app")
        settings["certificates_acme_terms_agreed"] = True
        repository.inventory(("db", "app", "app2"), santedb_certificates=planned, **settings)
        repository.fine("certificates", "--limit", "app")
        text = app.ssh("openssl x509 -noout -text -in /etc/santedb/tls/public.crt").stdout
        assert "Pebble" in text
        assert "DNS:api.staging.test" in text
        assert changes(repository.fine("certificates", "--limit", "app")) == {"0"}
        assert app.ssh("ss -Hltn 'sport = :80'").stdout == "", "the small server is gone"
        # renewal while nginx answers on port 80, as the proxy sets it up
        app.ssh(
            """set -e; DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends nginx-light
            cat > /etc/nginx/sites-enabled/default; systemctl restart nginx""",
            input="server { listen 80; location /.well-known/acme-challenge/ { root /var/www/acme; } }\n"
            "server { listen 443 ssl; ssl_certificate /etc/santedb/tls/public.crt;"
            " ssl_certificate_key /etc/santedb/tls/public.key; }\n",
        )
        shown = "openssl s_client -connect 127.0.0.1:443 </dev/null 2>/dev/null | openssl x509 -noout -serial"
        old, started = app.ssh(shown).stdout, app.ssh("systemctl show -P MainPID nginx").stdout
        repository.fine("certificates", "--limit", "app", "-e", '{"certificates_force_renewal": ["public"]}')
        assert app.ssh(shown).stdout not in ("", old), "nginx shows the new certificate"
        assert app.ssh("systemctl show -P MainPID nginx").stdout == started, "reloaded, not restarted"
    finally:
        app.ssh("systemctl disable --now nginx", check=False)
        repository.inventory(("db", "app", "app2"))


def test_what_left_the_register_is_withdrawn_once_nobody_needs_it(
    certificates: tuple[str, str], repository: Repository, hosts: dict[str, Host]
) -> None:
    key_files = hosts["app"].ssh("ls /santedb/.x509").stdout.split()
    mine = hosts["app"].ssh("touch /etc/santedb/tls/of-somebody-else.crt; ls /etc/santedb/tls").stdout
    planned = [one for one in register(["db", "app", "app2"]) if one["id"] not in {"signing", "proxy", "replication"}]
    repository.inventory(("db", "app", "app2"), santedb_certificates=planned)
    try:
        repository.fine("certificates")
        assert hosts["app"].ssh("ls /etc/santedb/tls").stdout == mine, "services may still be configured with it"
        repository.fine("cleanup")
        assert changes(repository.fine("cleanup")) == {"0"}
        left = hosts["app"].ssh("ls /etc/santedb/tls /etc/santedb/tls/private /santedb/.x509").stdout.split()
        assert {"of-somebody-else.crt", "shared.key", "ca.crt"} <= set(left)
        assert not {"signing.crt", "signing.key", "proxy.crt", "proxy.key", *key_files} & set(left)
        assert "replication.key" not in hosts["db"].ssh("ls /etc/santedb/tls").stdout
    finally:
        repository.inventory(("db", "app", "app2"))
