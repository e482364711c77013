"""Where the lab keeps things and how its network is numbered."""

from __future__ import annotations

import os
import re
from pathlib import Path

NETWORK = "10.77.0"
GATEWAY = f"{NETWORK}.1"
PREFIX_LENGTH = 24
BRIDGE = "br0"
PROXY_PORT = 3142
PROXY_URL = f"http://{GATEWAY}:{PROXY_PORT}"
CGROUP_PREFIX = "santescaffold-lab-"
CGROUP_ROOT = Path("/sys/fs/cgroup")
# One stand-in for "every address that is not in the lab": documentation range, never routed.
UNREACHABLE = "192.0.2.1"


def lab_dir() -> Path:
    """Return the directory that outlives a run: base images, packages, the login key.

    Reads LAB_DIR; the default is /var/cache/santescaffold-lab. The directory is created when absent.
    Raises OSError when it cannot be.
    """
    path = Path(os.environ.get("LAB_DIR") or "/var/cache/santescaffold-lab").expanduser().absolute()
    path.mkdir(parents=True, exist_ok=True)
    return path


def inside() -> bool:
    """Tell whether this process runs inside a lab's namespaces (`python -m tools.lab run -- …`)."""
    return bool(os.environ.get("LAB_INSIDE"))


def required() -> bool:
    """Tell whether a machine that cannot run the lab is an error (LAB_REQUIRED=1 or CI=true), not a skip."""
    return any(os.environ.get(name, "").lower() in {"1", "true", "yes"} for name in ("LAB_REQUIRED", "CI"))


def state_dir() -> Path:
    """Return this run's own directory (a tmpfs that only its namespaces see).

    Raises RuntimeError outside a lab.
    """
    path = os.environ.get("LAB_STATE")
    if not path:
        raise RuntimeError("no lab here: start the command with 'python -m tools.lab run -- COMMAND'")
    return Path(path)


def cgroup_name() -> str:
    """Return the name of this run's control groups; it ends in the pid of the run's outermost process.

    Raises RuntimeError outside a lab.
    """
    name = os.environ.get("LAB_CGROUP")
    if not name:
        raise RuntimeError("no lab here: start the command with 'python -m tools.lab run -- COMMAND'")
    return name


def apt_mirrors(root: Path = Path("/")) -> set[str]:
    """Return the host names that this machine's own apt sources name, and Debian's, for the package proxy.

    `root` is the file system whose /etc/apt is read. Unreadable files are passed over.
    """
    found = {"deb.debian.org", "security.debian.org"}
    folder = root / "etc/apt"
    for path in [folder / "sources.list", *sorted(folder.glob("sources.list.d/*"))]:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            continue
        for line in lines:
            if not line.lstrip().startswith("#"):
                found.update(re.findall(r"http://([^/\s:]+)", line))
    return found
