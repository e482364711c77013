"""Write README.md of every role of the template from its meta/argument_specs.yml.

Run without arguments to write, with --check to compare (exit code 1 and the names of stale files).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

TEMPLATE = Path(__file__).resolve().parents[1] / "template"
HEADER = "<!-- Generated from meta/argument_specs.yml by tools/generate_role_docs.py: do not edit. -->\n"


def paragraphs(text: Any) -> list[str]:
    """Return the paragraphs of a description, which may be a string or a list of strings."""
    if text is None:
        return []
    return [" ".join(str(item).split()) for item in (text if isinstance(text, list) else [text])]


def shown(value: Any) -> str:
    """Return a default as it is written in YAML on one line."""
    text = " ".join(value.split()) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and value == "":
        text = '""'
    return "`" + text.replace("|", "\\|") + "`"


def kind(option: dict[str, Any]) -> str:
    """Return the type of an option in words."""
    name = str(option.get("type", "str"))
    return f"list of {option['elements']}" if name == "list" and "elements" in option else name


def rows(options: dict[str, Any], prefix: str = "") -> list[str]:
    """Return the table rows of options, nested ones below their parent."""
    lines = []
    for name, option in options.items():
        what = " ".join(paragraphs(option.get("description"))).replace("|", "\\|")
        if option.get("choices"):
            what += " One of " + ", ".join(f"`{choice}`" for choice in option["choices"]) + "."
        default = "required" if option.get("required") else shown(option["default"]) if "default" in option else ""
        lines.append(f"| `{prefix}{name}` | {kind(option)} | {default} | {what} |")
        if option.get("options"):
            lines += rows(option["options"], f"{prefix}{name}{'[].' if option.get('type') == 'list' else '.'}")
    return lines


def tags(role: Path) -> list[str]:
    """Return the tags that tasks/main.yml gives, sorted."""
    text = (role / "tasks/main.yml").read_text(encoding="utf-8") if (role / "tasks/main.yml").exists() else ""
    return sorted(set(re.findall(rf"^\s*- ({role.name}(?:_[a-z]+)?)\s*$", text, re.MULTILINE)))


def playbooks(role: Path) -> list[str]:
    """Return the playbooks that use the role, sorted."""
    use = re.compile(rf"^\s*(?:name|role|- role|-)\s*:?\s*{role.name}\s*$", re.MULTILINE)
    folder = role.parents[1] / "playbooks"
    return sorted(path.name for path in folder.glob("*.yml") if use.search(path.read_text(encoding="utf-8")))


def readme(role: Path) -> str:
    """Return the text of the role's README.md. Raises OSError or yaml.YAMLError for missing or broken files."""
    specs = yaml.safe_load((role / "meta/argument_specs.yml").read_text(encoding="utf-8"))["argument_specs"]
    meta = yaml.safe_load((role / "meta/main.yml").read_text(encoding="utf-8"))["galaxy_info"]
    main = specs["main"]
    lines = [HEADER, f"# {role.name}", "", f"{main['short_description'].rstrip('.')}.", ""]
    for text in paragraphs(main.get("description")):
        lines += [text, ""]
    platforms = [f"{item['name']} ({', '.join(map(str, item['versions']))})" for item in meta.get("platforms", [])]
    if platforms:
        lines += [f"Tested on {', '.join(platforms)}.", ""]
    users = playbooks(role)
    if users:
        lines += [f"Used by {', '.join(f'`playbooks/{name}`' for name in users)}.", ""]
    if tags(role):
        lines += [f"Tags: {', '.join(f'`{name}`' for name in tags(role))}.", ""]
    for name, spec in specs.items():
        if name == "main":
            lines += ["## Variables", ""]
        else:
            lines += [f"## Tasks `{name}`", "", f"{spec['short_description'].rstrip('.')}.", ""]
            for text in paragraphs(spec.get("description")):
                lines += [text, ""]
            if spec.get("options") == main.get("options"):
                continue
        if spec.get("options"):
            lines += ["| Variable | Type | Default | What it is |", "| --- | --- | --- | --- |"]
            lines += [*rows(spec["options"]), ""]
        else:
            lines += ["None.", ""]
    lines += ["Set them in `inventories/<environment>/group_vars/<group>/90-local.yml`, which is never rendered.", ""]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Write or compare; return the exit code (0 fine, 1 stale files with --check)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare")
    parser.add_argument("--template", type=Path, default=TEMPLATE, help="directory with roles/")
    options = parser.parse_args(arguments)
    stale = []
    for specs in sorted(options.template.glob("roles/*/meta/argument_specs.yml")):
        role = specs.parents[1]
        target, text = role / "README.md", readme(role)
        if target.exists() and target.read_text(encoding="utf-8") == text:
            continue
        stale.append(str(target))
        if not options.check:
            target.write_text(text, encoding="utf-8")
    for path in stale:
        print(f"{path}: {'stale; run tools/generate_role_docs.py' if options.check else 'written'}")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
