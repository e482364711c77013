#!/usr/bin/python3
"""Take one new file of a backup set from standard input: the forced command of every key that may deliver backups.

`receive.py HOST` with SSH_ORIGINAL_COMMAND `put <time>/<name>`. Refuses anything else, and any file that is there already.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from pathlib import Path

DIRECTORY = Path(os.environ.get("SANTEDB_BACKUP_INCOMING", "/var/lib/santedb-backup/incoming"))
REQUEST = re.compile(r"put ([0-9]{8}T[0-9]{6}Z)/([A-Za-z0-9][A-Za-z0-9._-]{0,150})")


def main(host: str, request: str) -> int:
    match = REQUEST.fullmatch(request)
    if not match or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,100}", host):
        print(f"refused: '{request[:100]}' is no delivery; this key may only put new backup files", file=sys.stderr)
        return 2
    folder = DIRECTORY / host / match[1]
    folder.mkdir(parents=True, exist_ok=True)
    target, part = folder / match[2], folder / f".{match[2]}.part"
    if target.exists() or (folder / "manifest.json").exists():
        print(
            f"refused: {host}/{match[1]}/{match[2]} is there already, or its set is complete; backups are never changed",
            file=sys.stderr,
        )
        return 3
    digest, size = hashlib.sha256(), 0
    with part.open("wb") as file:
        while chunk := sys.stdin.buffer.read(1 << 20):
            digest.update(chunk)
            size += len(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    part.chmod(0o440)
    part.rename(target)
    print(json.dumps({"sha256": digest.hexdigest(), "size": size}))
    return 0


if __name__ == "__main__":
    os.umask(0o027)
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "", os.environ.get("SSH_ORIGINAL_COMMAND", "")))
