"""What the documentation site needs beyond MkDocs: the schemas as files, and ``sh run`` blocks shown as plain shell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SCHEMAS = Path(__file__).resolve().parents[1] / "santescaffold" / "schemas"


def on_files(files: Any, config: Any) -> Any:
    """Add the JSON Schemas that ship with the package."""
    from mkdocs.structure.files import File

    for path in sorted(SCHEMAS.glob("*.json")):
        files.append(File.generated(config, f"schemas/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return the page without the mark that only tests/docs reads."""
    return markdown.replace("```sh run\n", "```sh\n")
