"""The hosts' base image: a minimal Debian with systemd, sshd and Python, built once per recipe."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

from tools.lab.settings import PROXY_URL, inside, lab_dir

SUITES = {"debian-12": "bookworm", "debian-13": "trixie"}
DEFAULT_SUITE = os.environ.get("LAB_SUITE", "debian-12")

PACKAGES = (
    "ca-certificates",
    "dbus",
    "iproute2",
    "iputils-ping",
    "libpam-systemd",
    "netbase",
    "openssh-server",
    "procps",
    "python3",
    "python3-apt",
    "sudo",
    "systemd",
    "systemd-sysv",
)

# What a host needs beside these when it has a kernel of its own (tools/lab/machine.py) instead of the lab's.
KERNEL_PACKAGES = ("initramfs-tools", "kmod", "linux-image-cloud-amd64", "udev")

# chrony's unit is skipped without CAP_SYS_TIME, and no host may have it: it would set the machine's own clock.
CHRONY = """[Unit]
ConditionCapability=
[Service]
ExecStart=
ExecStart=!/usr/sbin/chronyd -F 1 -x
"""

# Docker on control groups of version 1 needs them writable; writes stay inside the host's own group.
CGROUP_UNIT = """[Unit]
Description=lab: control groups writable for Docker
DefaultDependencies=no
Before=sysinit.target
ConditionPathExists=/etc/lab-docker-host
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'for m in /sys/fs/cgroup/*/; do mount -o remount,rw,bind "$m" || true; done'
[Install]
WantedBy=sysinit.target
"""

# Run by mmdebstrap with the new root as $1.
FINISH = """set -eu
: > "$1/etc/machine-id"
rm -f "$1"/etc/ssh/ssh_host_*
echo LANG=C.UTF-8 > "$1/etc/default/locale"
chroot "$1" useradd --create-home --shell /bin/bash deploy
echo 'deploy ALL=(ALL) NOPASSWD: ALL' > "$1/etc/sudoers.d/deploy"
chmod 0440 "$1/etc/sudoers.d/deploy"
mkdir -p "$1/etc/systemd/system/chrony.service.d" "$1/etc/systemd/system/sysinit.target.wants"
cp "$LAB_RECIPE/chrony.conf" "$1/etc/systemd/system/chrony.service.d/lab.conf"
cp "$LAB_RECIPE/lab-cgroup-rw.service" "$1/etc/systemd/system/"
ln -s ../lab-cgroup-rw.service "$1/etc/systemd/system/sysinit.target.wants/"
# A login starts no service manager of its own: each would take three of the inotify instances that all hosts share.
ln -s /dev/null "$1/etc/systemd/system/user@.service"
"""


def recipe(suite: str, packages: tuple[str, ...]) -> dict[str, object]:
    """Return all that decides what the base image of `suite` contains; its digest names the image."""
    return {"suite": suite, "packages": packages, "chrony": CHRONY, "cgroup": CGROUP_UNIT, "finish": FINISH, "v": 1}


def base_image(suite: str = DEFAULT_SUITE, *, kernel: bool = False) -> Path:
    """Return the directory of the base image for `suite` ("bookworm", "trixie", or "debian-12", "debian-13").

    With `kernel` it can boot a machine. Builds it when this recipe was never built here, about half a minute; a lock
    keeps two runs from building it twice. Works outside the lab and inside (through the package proxy). Raises
    ValueError for an unknown suite and RuntimeError with mmdebstrap's last lines when the build fails.
    """
    suite = SUITES.get(suite, suite)
    if suite not in SUITES.values():
        raise ValueError(f"no base image for {suite!r}; there are {', '.join(SUITES.values())}")
    packages = PACKAGES + KERNEL_PACKAGES if kernel else PACKAGES
    digest = hashlib.sha256(json.dumps(recipe(suite, packages), sort_keys=True).encode()).hexdigest()[:12]
    folder = lab_dir() / "bases"
    folder.mkdir(exist_ok=True)
    image = folder / f"{suite}-{digest}"
    with (folder / f"{suite}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not image.is_dir():
            part = folder / f"{suite}-{digest}.part"
            shutil.rmtree(part, ignore_errors=True)
            bootstrap(suite, part, packages, FINISH, keep_lists=True)
            part.rename(image)
    return image


def bootstrap(
    suite: str, target: Path, packages: tuple[str, ...], finish: str, *, variant: str = "apt", keep_lists: bool = False
) -> None:
    """Make a Debian root file system of `suite` in the directory or tar file `target` with mmdebstrap.

    `finish` is shell text run with the new root as $1. `keep_lists` leaves apt's package lists in it: without them
    Ansible's `apt: cache_valid_time` takes an empty cache for a fresh one. Raises RuntimeError when it fails.
    """
    parts = lab_dir() / "recipe"
    parts.mkdir(exist_ok=True)
    (parts / "chrony.conf").write_text(CHRONY, encoding="utf-8")
    (parts / "lab-cgroup-rw.service").write_text(CGROUP_UNIT, encoding="utf-8")
    script = parts / f"finish-{os.getpid()}.sh"
    script.write_text(f"#!/bin/sh\n{finish}", encoding="utf-8")
    script.chmod(0o755)
    command = [
        "mmdebstrap",
        f"--variant={variant}",
        f"--include={','.join(packages)}",
        "--dpkgopt=force-unsafe-io",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        '--aptopt=Acquire::Languages "none"',
        f"--customize-hook={script}",
    ]
    if keep_lists:
        command.append("--skip=cleanup/apt/lists")
    if inside():
        command.append(f'--aptopt=Acquire::http::Proxy "{PROXY_URL}"')
    done = subprocess.run(
        [*command, suite, str(target)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LAB_RECIPE": str(parts)},
    )
    script.unlink()
    if done.returncode:
        if target.is_dir():
            shutil.rmtree(target, ignore_errors=True)
        raise RuntimeError(f"mmdebstrap of {suite} failed:\n" + "\n".join(done.stderr.splitlines()[-15:]))
