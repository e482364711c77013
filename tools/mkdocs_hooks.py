"""What the documentation site needs beyond MkDocs: blocks that a test runs (``sh run``) are shown as plain shell."""

from __future__ import annotations

from typing import Any


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return the page without the mark that only tests/docs reads."""
    return markdown.replace("```sh run\n", "```sh\n")
