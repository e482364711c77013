"""Control groups: one per host and hierarchy, named after the run, removed when the run is gone."""

from __future__ import annotations

import contextlib
import os
import shlex
from pathlib import Path

from tools.lab.settings import CGROUP_PREFIX, CGROUP_ROOT


def hierarchies() -> list[Path]:
    """Return the mounted hierarchies: each controller's own on version 1 or hybrid, the single one on version 2."""
    if (CGROUP_ROOT / "cgroup.procs").exists():
        return [CGROUP_ROOT]
    return sorted(
        path
        for path in CGROUP_ROOT.iterdir()
        if path.is_dir() and not path.is_symlink() and (path / "cgroup.procs").exists()
    )


def create(name: str) -> None:
    """Create the group `name` (may have parents, `run/host`) in every hierarchy. Raises OSError when refused."""
    for root in hierarchies():
        folder = root
        for part in Path(name).parts:
            parent, folder = folder, folder / part
            folder.mkdir(exist_ok=True)
            for setting in ("cpuset.cpus", "cpuset.mems"):  # version 1: empty in a new group, and no task may join
                if (root / setting).exists() and root.name != "unified":
                    inherited = (parent / setting).read_text(encoding="ascii")
                    with contextlib.suppress(OSError):
                        (folder / setting).write_text(inherited, encoding="ascii")


def joining(name: str) -> str:
    """Return shell text that moves the shell itself into the group `name` of every hierarchy."""
    return "; ".join(f"echo 0 > {shlex.quote(str(root / name / 'cgroup.procs'))}" for root in hierarchies())


def remove(name: str) -> None:
    """Remove the group `name` and all below it; what still has tasks stays. Raises nothing."""
    for root in hierarchies():
        for folder, _, _ in os.walk(root / name, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def left_behind() -> list[str]:
    """Return the names of lab groups whose run no longer exists (it was killed before it could clean up)."""
    names = {path.name for root in hierarchies() for path in root.glob(f"{CGROUP_PREFIX}*")}
    return sorted(name for name in names if not alive(name))


def alive(name: str) -> bool:
    """Tell whether the run that the group `name` is called after is still a running lab."""
    pid = name.removeprefix(CGROUP_PREFIX)
    try:
        return (
            b"tools.lab" in Path(f"/proc/{pid}/cmdline").read_bytes()
            or b"tools/lab" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
    except OSError:
        return False
