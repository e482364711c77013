"""The one way in which start-up ends badly."""

from __future__ import annotations


class Fatal(Exception):
    """Start-up stops: the host prints FATAL ERROR with this and exits with status 0, as the real one does (Q05)."""

    def __init__(self, exception: str, message: str) -> None:
        """`exception` is the .NET exception's name, `message` what it says."""
        super().__init__(f"{exception}: {message}")
        self.exception = exception
        self.message = message
