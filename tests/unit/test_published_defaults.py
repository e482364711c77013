"""SanteDB's published passwords stand in one file, from which a deployment proves that they are dead, and nowhere else."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
HOLDER = Path("template/roles/icdr_hardening/vars/published_defaults.yml")


def test_no_other_file_holds_what_santedb_publishes() -> None:
    published = yaml.safe_load((ROOT / HOLDER).read_text(encoding="utf-8"))["_icdr_hardening_published"]
    # shorter ones are words of everyday language too: the application fiddler's secret is its name
    secrets = {secret.encode() for group in published.values() for secret in group.values() if len(secret) > 8}
    assert len(secrets) >= 5
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    files = [Path(name) for name in names.split("\0") if name and (ROOT / name).is_file()]
    assert HOLDER in files
    found = [path for path in files if any(secret in (ROOT / path).read_bytes() for secret in secrets)]
    assert found == [HOLDER]
