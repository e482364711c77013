"""What the image's `mono` calls: the host program, or, for sdbac.exe, the console."""

from __future__ import annotations

import sys


def run(arguments: list[str]) -> int:
    """Choose by the program named: `[--server] /santedb/SanteDB.Docker.Server.exe [file]` or `…/sdbac.exe …`."""
    words = [word for word in arguments if word not in {"--server", "--debug"}]
    program, rest = (words[0], words[1:]) if words else ("", [])
    if program.endswith("sdbac.exe") or program == "sdbac":
        from .sdbac import main as console

        return console(rest)
    if program.endswith(("santedb-www.exe", "santedb-dcg.exe")):
        from .www import main as gateway

        return gateway(program, rest)
    if not program.endswith("SanteDB.Docker.Server.exe"):
        print(f"Cannot open assembly '{program}': No such file or directory.")
        return 2
    from .santedb_standin import main as host

    return host(rest)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
