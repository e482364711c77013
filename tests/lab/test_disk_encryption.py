"""Encrypted volumes, on a machine with a kernel of its own: a stolen disk is unreadable, and nothing runs without the key."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tools.lab import Lab, settings
from tools.lab.bare import ADDRESSES, Repository, changes
from tools.lab.machine import EMULATOR, PACKAGE, Machine, holds

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1800)]

PASSPHRASE = "four words nobody will guess"
VOLUME = {
    "name": "register",
    "device": "/dev/disk/by-id/virtio-blank",
    "mount_point": "/var/lib/register",
    "passphrase": "{{ vault_disk_register }}",
    "services": ["register"],
    "pbkdf_iterations": 1000,  # every instruction is computed here; Argon2 would take minutes
}
USED = {**VOLUME, "name": "used", "device": "/dev/disk/by-id/virtio-used", "mount_point": "/srv/used", "services": []}
SERVICE = """[Unit]
Description=writes where the volume is mounted
[Service]
ExecStart=/bin/sh -c 'echo served >> /var/lib/register/log; exec sleep infinity'
[Install]
WantedBy=multi-user.target
"""


@pytest.fixture(scope="module")
def machine(lab: Lab) -> Iterator[Machine]:
    """A machine `db` with a blank disk and one that somebody uses."""
    # The emulator is large and this module alone needs it; where the lab is required, Machine fails without it.
    if not shutil.which(EMULATOR) and not settings.required():
        pytest.skip(f"lab: {EMULATOR} is not installed; as root: apt-get install {PACKAGE}")
    machine = Machine("db", ADDRESSES["db"], {"blank": 256, "used": 64})
    subprocess.run(["mkfs.ext4", "-q", str(machine.disks["used"])], check=True)
    machine.start()
    machine.ssh("mkdir /var/lib/register && cat > /etc/systemd/system/register.service", input=SERVICE)
    machine.ssh("systemctl daemon-reload && systemctl enable register")
    yield machine
    machine.discard()


@pytest.fixture(scope="module")
def repository(lab: Lab, machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A repository that encrypts the blank disk of `db`."""
    repository = Repository(tmp_path_factory.mktemp("deployment") / "repository", lab)
    plan(repository, VOLUME)
    return repository


def plan(repository: Repository, *volumes: dict[str, object]) -> None:
    """Write the inventory with these volumes."""
    repository.inventory(
        ("db",), disk_encryption_enabled=True, disk_encryption_volumes=volumes, vault_disk_register=PASSPHRASE
    )


ENCRYPT = ("baseline", "--tags", "disk_encryption")


def test_check_mode_touches_nothing(repository: Repository, machine: Machine) -> None:
    repository.fine(*ENCRYPT, "--check")
    assert machine.ssh("blkid --probe /dev/disk/by-id/virtio-blank", check=False).returncode == 2, "it is still blank"


def test_a_blank_disk_becomes_an_encrypted_volume(repository: Repository, machine: Machine) -> None:
    said = repository.fine(*ENCRYPT)
    assert changes(said) not in ({"0"}, set())
    assert PASSPHRASE not in said
    assert machine.ssh("cryptsetup isLuks --type luks2 /dev/disk/by-id/virtio-blank", check=False).returncode == 0
    assert machine.ssh("findmnt -no SOURCE /var/lib/register").stdout.strip() == "/dev/mapper/register"
    assert "aes-xts" in machine.ssh("cryptsetup status register").stdout
    assert changes(repository.fine(*ENCRYPT)) == {"0"}


def test_neither_data_nor_key_can_be_read_from_the_disks(repository: Repository, machine: Machine) -> None:
    machine.ssh("echo 'the record of Amina' > /var/lib/register/record; echo 'a public notice' > /root/notice; sync")
    assert holds(machine.system_disk, b"a public notice"), "the search finds what lies in clear"
    for disk in (machine.disks["blank"], machine.system_disk):
        assert not holds(disk, b"the record of Amina")
        assert not holds(disk, PASSPHRASE.encode())


def test_after_a_restart_nothing_runs_until_the_key_is_brought(repository: Repository, machine: Machine) -> None:
    machine.stop()
    machine.start()
    assert machine.ssh("systemctl is-active register", check=False).stdout.strip() == "inactive"
    assert machine.ssh("ls -A /var/lib/register").stdout == "", "nothing was written beside the volume"
    repository.fine(*ENCRYPT)
    machine.wait_until("systemctl is-active register")
    assert machine.ssh("cat /var/lib/register/record").stdout.strip() == "the record of Amina"
    machine.wait_until("test -s /var/lib/register/log")


def test_a_power_cut_loses_nothing_that_was_written(repository: Repository, machine: Machine) -> None:
    machine.ssh("echo 'the record of Ben' > /var/lib/register/second; sync")
    machine.power_cut()
    machine.start()
    repository.fine(*ENCRYPT)
    assert machine.ssh("cat /var/lib/register/second").stdout.strip() == "the record of Ben"


def test_a_disk_that_carries_anything_is_refused_and_left_alone(repository: Repository, machine: Machine) -> None:
    before = machine.disks["used"].read_bytes()
    plan(repository, VOLUME, USED)
    said = repository.refused(*ENCRYPT)
    assert re.search(r"virtio-used is not blank \(.*TYPE=ext4", said), said[-3000:]
    assert "wipefs --all /dev/disk/by-id/virtio-used" in said
    assert machine.disks["used"].read_bytes() == before


def test_what_could_not_start_is_refused_before_a_disk_is_touched(repository: Repository, machine: Machine) -> None:
    plan(repository, VOLUME, {**USED, "mount_point": "/usr"})
    assert "Volumes cannot be set up: used;" in repository.refused(*ENCRYPT)
    plan(repository, VOLUME, {**USED, "passphrase": "too short"})
    said = repository.refused(*ENCRYPT)
    assert "Volumes cannot be set up: used;" in said
    assert "too short" not in said
