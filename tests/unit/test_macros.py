"""Nothing in the template's Jinja is dead: Copier compiles all of it at every copy, and readers look for its use."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.compile_catalog import compile_catalog

ROOT = Path(__file__).resolve().parents[2]
FILES = [
    ROOT / "copier.yml",
    *ROOT.glob("questions/*.yml"),
    *ROOT.glob("macros/*.jinja"),
    *ROOT.glob("template/**/*.jinja"),
]
TEXTS = {path.relative_to(ROOT): path.read_text(encoding="utf-8") for path in FILES}


def uses(name: str, text: str) -> int:
    """Count a name in a text, its definition too."""
    return len(re.findall(rf"\b{name}\b", text))


@pytest.mark.parametrize("path", TEXTS, ids=str)
def test_what_a_template_imports_and_sets_it_uses(path: Path) -> None:
    text = TEXTS[path]
    names = re.findall(r"{%-? set (\w+) =", text)
    for imported in re.findall(r"{%-? from '[^']+' import ([^%]+?) *-?%}", text):
        names += [name.strip() for name in imported.removesuffix(" with context").split(",")]
    assert [name for name in names if name != "_" and uses(name, text) < 2] == []


def test_every_macro_is_called() -> None:
    everything = "\n".join(TEXTS.values())
    macros = [name for text in TEXTS.values() for name in re.findall(r"{%-? macro (\w+)\(", text)]
    assert [name for name in macros if not re.search(rf"(?<!macro )\b{name}\(", everything)] == []


def test_every_text_of_a_warning_or_finding_is_given_by_a_macro_and_the_other_way_round() -> None:
    macros = "\n".join(text for path, text in TEXTS.items() if path.parts[0] == "macros")
    catalog = compile_catalog()
    given = set(re.findall(r"warn\(catalog, warnings, '([\w.]+)'", macros))
    standing = {name for name, text in catalog["warnings"].items() if "applies_when" in text}
    assert given | standing == set(catalog["warnings"])
    assert not given & standing
    distinct = {code for question in catalog["questions"].values() for code in question.get("distinct", {}).values()}
    named = set(re.findall(r"'([VLY]\d\d(?:\.\w+)?)'", macros))
    findings = set(catalog["findings"])
    assert findings <= named | distinct <= findings | {code.split(".")[0] for code in findings}
