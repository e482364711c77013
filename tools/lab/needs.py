"""What the lab needs of a machine: tried, never assumed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tools.lab import cgroups
from tools.lab.settings import CGROUP_PREFIX

# tool -> the Debian package that has it
TOOLS = {
    "systemd-nspawn": "systemd-container",
    "mmdebstrap": "mmdebstrap",
    "nft": "nftables",
    "ip": "iproute2",
    "tc": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
}

# Every host's systemd, journal, udev, Docker and log-ins watch files; the kernel counts them per user, and all run as one.
INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
INOTIFY_PER_HOST = 16
INOTIFY_WANTED = 512

# name of the thing -> shell text that does it, in fresh namespaces
PROBES = {
    "a private mount namespace": "true",
    "overlay on tmpfs": (
        "cd /mnt && mkdir l u w m && mount -t overlay o -o lowerdir=/mnt/l,upperdir=/mnt/u,workdir=/mnt/w /mnt/m"
    ),
    "a network bridge": "ip link add lab0 type bridge",
    "a veth pair": "ip link add v0 type veth peer name v1",
    "a named network namespace": (
        "mkdir -p /run/netns && mount -t tmpfs none /run/netns && ip netns add probe && ip netns del probe"
    ),
    "nftables": "nft add table inet probe",
    "nftables on a bridge": "nft add table bridge probe",
}


def missing_packages() -> list[str]:
    """Return the Debian packages whose tools are not on this machine's PATH, sorted."""
    return sorted({package for tool, package in TOOLS.items() if not shutil.which(tool)})


def why_not() -> list[str]:
    """Try every prerequisite and return what failed, one sentence each; an empty list means the lab can run.

    Nothing is left behind: the attempts happen in namespaces that end with them. Raises nothing.
    """
    if os.geteuid() != 0:
        return ["not root: namespaces, mounts and control groups of hosts need it"]
    reasons = []
    packages = missing_packages()
    if packages:
        reasons.append(f"packages not installed: {' '.join(packages)} ('python -m tools.lab install' installs them)")
    if shutil.which("unshare") and shutil.which("ip"):
        for what, probe in PROBES.items():
            if "nft " in probe and not shutil.which("nft"):
                continue
            script = f"mount --make-rprivate / && mount -t tmpfs none /mnt && {probe}"
            done = subprocess.run(
                ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "sh", "-c", script],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                said = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
                reasons.append(f"this kernel or container refuses {what}: {said}")
    name = f"{CGROUP_PREFIX}{os.getpid()}"
    try:
        cgroups.create(name)
    except OSError as error:
        reasons.append(f"control groups cannot be made: {error}")
    finally:
        cgroups.remove(name)
    return reasons


def notes(limit: Path = INOTIFY) -> list[str]:
    """Return what does not stop the lab but bounds it, one sentence each. Raises nothing."""
    try:
        instances = int(limit.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return []
    if instances >= INOTIFY_WANTED:
        return []
    hosts = instances // INOTIFY_PER_HOST
    return [
        f"fs.inotify.max_user_instances is {instances}: enough for about {hosts} hosts; beyond that services fail "
        f"with 'Too many open files'; for more, as root: sysctl -w fs.inotify.max_user_instances={INOTIFY_WANTED}"
    ]


def install() -> list[str]:
    """Install the missing packages with apt-get; return what is still missing afterwards.

    As another user than root nothing is installed and the missing packages are returned at once.
    Raises subprocess.CalledProcessError when apt-get fails.
    """
    packages = missing_packages()
    if not packages or os.geteuid() != 0:
        return packages
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-q"], check=True, env=environment)
    subprocess.run(
        ["apt-get", "install", "-q", "-y", "--no-install-recommends", *packages], check=True, env=environment
    )
    return missing_packages()
