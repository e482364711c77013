"""Compile questions/ and catalog/ into catalog/catalog.json, the one file the template includes.

Copier reads YAML with a pure Python loader on every copy and several times on every update; JSON that Jinja includes costs
next to nothing. So YAML stays the source and this program writes the JSON; ``--check`` fails when it is stale.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "catalog" / "catalog.json"

# What only Copier needs of a question; the rest specifies the answer, or explains it (help, labels of choices).
COPIER_KEYS = {
    "type",
    "validator",
    "when",
    "ask",
    "multiselect",
    "multiline",
    "placeholder",
    "secret",
    "qmark",
    "choices",
}

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load(path: Path) -> Any:
    """Return the content of one YAML file; raises yaml.YAMLError with the file's name in its marks."""
    with path.open(encoding="utf-8") as stream:
        return yaml.load(stream, Loader=Loader)


def questions(root: Path = ROOT) -> dict[str, dict[str, Any]]:
    """Return {answer id: specification} of every asked question under ``root``, in the order they are asked.

    Hidden questions (``when: false``) are left out: they are computed, not answered.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((root / "questions").glob("*.yml")):
        for name, question in (load(path) or {}).items():
            if (
                name.startswith("_")
                or not isinstance(question, dict)
                or question.get("when") is False
                or "form" not in question
            ):
                continue
            if name in found:
                raise SystemExit(f"{path}: the question {name} is asked twice")
            found[name] = {key: value for key, value in question.items() if key not in COPIER_KEYS}
            if "usual" in question:  # Copier's own default is then a template: macros/usual.jinja
                found[name]["default"] = found[name].pop("usual")
            if "options" in question:  # so are its choices: macros/choices.jinja
                options = found[name].pop("options")
                choices = options if isinstance(options, dict) else {value: value for value in options}
                words = [value for value in choices.values() if isinstance(value, str) and value]
                found[name]["choices"] = choices
                found[name]["allowed"] = [value for value in words if value not in question.get("refused", {})]
            found[name]["file"] = path.relative_to(root).as_posix()
    return found


def text_forms(root: Path = ROOT) -> dict[str, dict[str, str]]:
    """Return {form: its regular expression, name and example}, the parts of catalog/forms.yml put in their places."""
    loaded = load(root / "catalog" / "forms.yml")
    forms: dict[str, dict[str, str]] = loaded["forms"]
    for form in forms.values():
        for name, part in reversed(loaded["parts"].items()):  # a part may hold those before it
            form["pattern"] = form["pattern"].replace(f"<{name}>", part)
    return forms


def compile_catalog(root: Path = ROOT) -> dict[str, Any]:
    """Return the whole catalogue: one key per file of catalog/, ``forms`` put together, ``phases`` as a list, and ``questions``."""
    catalog: dict[str, Any] = {"questions": questions(root)}
    for path in sorted((root / "catalog").glob("*.yml")):
        catalog[path.stem.replace("-", "_")] = load(path)
    catalog["forms"] = text_forms(root)
    catalog["phases"] = [load(path) for path in sorted((root / "catalog" / "phases").glob("*.yml"))]
    return catalog


def dump(catalog: dict[str, Any]) -> str:
    """Return the JSON text, free of anything Jinja would take for its own (the file is included by a template)."""
    text = json.dumps(catalog, ensure_ascii=False, separators=(",", ":"), default=str)
    for brace in ("{{", "{%", "{#"):
        text = text.replace(brace, "\\u007b" + (brace[1] if brace[1] != "{" else "\\u007b"))
    return text + "\n"


def main(argv: list[str] | None = None) -> int:
    """Write the catalogue, or with ``--check`` compare it; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail when catalog.json is not what the sources give")
    arguments = parser.parse_args(argv)
    text = dump(compile_catalog())
    if arguments.check:
        if not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text:
            print("catalog/catalog.json is stale; run: make catalog", file=sys.stderr)
            return 1
        return 0
    if not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text:
        TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
