"""Write the message each plan in tests/plans/invalid/ gives now into its first line.

Run it after rewording a message or adding a value to a question, and read the difference before committing it: users
will see these lines. Files that no longer have exactly one error are named and left as they are.
"""

from __future__ import annotations

import sys
from pathlib import Path

from santescaffold import answers
from santescaffold.problems import errors
from santescaffold.template import Template

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Refresh all files; returns 1 when one of them needs a human."""
    template = Template(ROOT)
    code = 0
    for path in sorted((ROOT / "tests" / "plans" / "invalid").glob("*.yml")):
        found = errors(answers.check(answers.read(path, template), template))
        if len(found) != 1:
            print(f"{path}: {len(found)} errors instead of one", *[problem.plain() for problem in found], sep="\n  ")
            code = 1
            continue
        message = found[0].plain().removeprefix(str(path)).removeprefix(":").strip()
        lines = path.read_text(encoding="utf-8").split("\n")
        lines[0] = f"# {message}"
        path.write_text("\n".join(lines), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
