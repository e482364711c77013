"""Filters of the role artefacts."""

from __future__ import annotations

from typing import Any


def artefacts_images(references: list[Any]) -> list[dict[str, Any]]:
    """Return {image, digest, confirmed} of each image reference, sorted, each once.

    Only a reference by digest is confirmed: a tag can point to something else tomorrow.
    """
    done = {}
    for reference in references:
        text = str(reference or "").strip()
        if text:
            digest = text.partition("@")[2]
            done[text] = {"image": text, "digest": digest or "unconfirmed", "confirmed": bool(digest)}
    return [done[text] for text in sorted(done)]


def artefacts_file_name(reference: str) -> str:
    """Return the file name under which an image is kept in a bundle."""
    return "".join(one if one.isalnum() or one in "._-" else "_" for one in reference) + ".tar"


class FilterModule:
    """The filters by name."""

    def filters(self) -> dict[str, Any]:
        """Return the filters of this role."""
        return {"artefacts_images": artefacts_images, "artefacts_file_name": artefacts_file_name}
