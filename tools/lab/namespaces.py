"""Runs a command inside private mount, network and process namespaces that hold the whole lab.

When the outermost process ends, by any signal, the kernel takes the process namespace down, and with it every host,
mount, address and firewall rule. What the kernel keeps (empty control groups, an empty directory) the next run sweeps.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from tools.lab import cgroups
from tools.lab.settings import BRIDGE, CGROUP_PREFIX, GATEWAY, PREFIX_LENGTH, PROXY_URL, lab_dir

PROJECT = Path(__file__).resolve().parents[2]


def sweep() -> list[str]:
    """Remove what killed runs left behind (control groups, state directories); return their names."""
    gone = cgroups.left_behind()
    for name in gone:
        cgroups.remove(name)
    for folder in sorted((lab_dir() / "state").glob("*")):
        if not cgroups.alive(f"{CGROUP_PREFIX}{folder.name}"):
            shutil.rmtree(folder, ignore_errors=True)
            gone.append(str(folder))
    return gone


def login_key() -> Path:
    """Return the private key (ed25519) that opens every host, made on first use; the public half is beside it."""
    key = lab_dir() / "id_ed25519"
    if not key.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", str(key)], check=True)
    return key


def run(command: Sequence[str], *, memory: str = "12G") -> int:
    """Run `command` inside a new lab and return its exit code.

    `memory` limits the tmpfs that holds what the hosts write. The command sees LAB_INSIDE=1, LAB_STATE, LAB_CGROUP
    and reaches hosts at their addresses with no prefix. SIGTERM ends the lab at once; SIGINT goes to the command.
    Raises OSError when the namespaces cannot be made.
    """
    sweep()
    login_key()
    state = lab_dir() / "state" / str(os.getpid())
    state.mkdir(parents=True, exist_ok=True)
    name = f"{CGROUP_PREFIX}{os.getpid()}"
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    search = f"{PROJECT}{os.pathsep}{os.environ['PYTHONPATH']}" if os.environ.get("PYTHONPATH") else str(PROJECT)
    environment = {
        **os.environ,
        "PYTHONPATH": search,
        "LAB_STATE": str(state),
        "LAB_CGROUP": name,
        "LAB_MEMORY": memory,
    }
    process = subprocess.Popen(
        [
            *("setpriv", "--pdeathsig", "KILL"),
            *("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"),
            *(sys.executable, "-m", "tools.lab", "_inside", str(home), *command),
        ],
        pass_fds=[home],
        env=environment,
    )

    def end(_signal: int, _frame: FrameType | None) -> None:
        process.kill()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGHUP, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return process.wait()
    finally:
        os.close(home)
        cgroups.remove(name)
        shutil.rmtree(state, ignore_errors=True)


def live_inside(home: int, command: Sequence[str]) -> int:
    """Be process 1 of a new lab: set the network and the package proxy up, run `command`, reap, return its exit code.

    `home` is a descriptor of the network namespace outside, handed to the package proxy alone.
    Raises subprocess.CalledProcessError when a mount or a network command fails.
    """
    state = Path(os.environ["LAB_STATE"])
    for line in (
        "mount --make-rprivate /",
        "mkdir -p /run/netns /run/systemd/nspawn",
        "mount -t tmpfs none /run/netns",
        "mount -t tmpfs none /run/systemd/nspawn",
        f"mount -t tmpfs -o mode=0755,size={os.environ.get('LAB_MEMORY', '12G')} none {state}",
        "ip link set lo up",
        f"ip link add {BRIDGE} type bridge",
        f"ip addr add {GATEWAY}/{PREFIX_LENGTH} dev {BRIDGE}",
        f"ip link set {BRIDGE} up",
    ):
        subprocess.run(line.split(), check=True)
    with (state / "aptproxy.log").open("w") as log:
        subprocess.Popen(
            [sys.executable, "-m", "tools.lab.aptproxy", str(home), str(lab_dir() / "packages")],
            pass_fds=[home],
            stderr=log,
            stdin=subprocess.DEVNULL,
            cwd=PROJECT,
        )
    os.close(home)
    process = subprocess.Popen(command, env={**os.environ, "LAB_INSIDE": "1", "LAB_PROXY": PROXY_URL})
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            pid, status = os.wait()
        except ChildProcessError:  # not while `process` lives; be safe
            return 1
        if pid == process.pid:
            with contextlib.suppress(subprocess.SubprocessError):
                process.returncode = os.waitstatus_to_exitcode(status)
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
