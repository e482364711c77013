"""The hosts' only way to packages: a caching HTTP proxy that forwards to Debian mirrors and nowhere else.

It listens inside the lab's network namespace and fetches from the namespace the lab was started in, so the hosts
need neither a route out nor a name server. Packages and by-hash index files never change under their address and
are kept; everything else is passed through.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import http.client
import http.server
import os
import shutil
import sys
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import ClassVar

from tools.lab.settings import GATEWAY, PROXY_PORT, apt_mirrors

CLONE_NEWNET = 0x40000000
PASSED_ON = ("if-modified-since", "range", "if-range", "user-agent", "cache-control")
PASSED_BACK = ("Last-Modified", "Content-Type", "ETag", "Content-Range")


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers one proxy request; `cache` and `allowed` are set before the server starts."""

    protocol_version = "HTTP/1.1"
    cache: ClassVar[Path]
    allowed: ClassVar[set[str]] = set()
    guard: ClassVar[threading.Lock] = threading.Lock()
    locks: ClassVar[dict[str, threading.Lock]] = {}

    def do_GET(self) -> None:
        """Answer a GET of an absolute http address; 403 for any host that no apt source of this machine names."""
        url = urllib.parse.urlsplit(self.path)
        if url.scheme != "http" or url.hostname not in self.allowed:
            self.refuse(403, "the lab's package proxy forwards to Debian mirrors only")
            return
        if not (url.path.endswith(".deb") or "/by-hash/" in url.path) or self.headers.get("Range"):
            self.pass_through()
            return
        kept = self.cache / hashlib.sha256(self.path.encode()).hexdigest()
        with self.guard:
            lock = self.locks.setdefault(kept.name, threading.Lock())
        with lock:
            if not kept.exists() and not self.keep(kept):
                return
        with kept.open("rb") as source:
            self.send_response(200)
            self.send_header("Content-Length", str(kept.stat().st_size))
            self.end_headers()
            shutil.copyfileobj(source, self.wfile, 1 << 20)

    def do_CONNECT(self) -> None:
        """Refuse tunnels: they would be a way out of the lab."""
        self.refuse(403, "the lab's package proxy opens no tunnels")

    def open(self) -> http.client.HTTPResponse | urllib.error.HTTPError | None:
        """Ask the mirror; None (and a 502 sent) when it cannot be reached."""
        headers = {name: value for name, value in self.headers.items() if name.lower() in PASSED_ON}
        try:
            answer: http.client.HTTPResponse = urllib.request.urlopen(
                urllib.request.Request(self.path, headers=headers), timeout=60
            )
        except urllib.error.HTTPError as error:
            return error
        except OSError as error:
            self.refuse(502, str(error))
            return None
        return answer

    def pass_through(self) -> None:
        """Fetch the requested address and hand the answer on as it is."""
        answer = self.open()
        if answer is None:
            return
        with answer:
            body = answer.read()
        self.send_response(answer.status or 502)
        for name in PASSED_BACK:
            if value := answer.headers.get(name):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def keep(self, kept: Path) -> bool:
        """Fetch the requested address into the cache; False when the mirror refused (its answer is handed on)."""
        answer = self.open()
        if answer is None:
            return False
        with answer:
            if answer.status != 200:
                self.refuse(answer.status or 502, "the mirror refused")
                return False
            with tempfile.NamedTemporaryFile(dir=self.cache, delete=False) as part:
                try:
                    shutil.copyfileobj(answer, part, 1 << 20)
                except (OSError, http.client.HTTPException) as error:
                    Path(part.name).unlink()
                    self.refuse(502, str(error))
                    return False
        expected = answer.headers.get("Content-Length")
        if expected and Path(part.name).stat().st_size != int(expected):
            Path(part.name).unlink()
            self.refuse(502, "the mirror's answer was cut short")
            return False
        os.replace(part.name, kept)
        return True

    def refuse(self, status: int, text: str) -> None:
        """Send an error answer of one line."""
        body = f"{text}\n".encode()
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)


def serve(outer: int, cache: Path) -> None:
    """Listen in the current network namespace, fetch from the one behind the descriptor `outer`; never returns.

    Raises OSError when the address is taken or the outer namespace cannot be entered.
    """
    cache.mkdir(parents=True, exist_ok=True)
    Handler.cache, Handler.allowed = cache, apt_mirrors()
    server = http.server.ThreadingHTTPServer((GATEWAY, PROXY_PORT), Handler)  # this socket stays in the lab
    server.daemon_threads = True
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(outer, CLONE_NEWNET):  # and connections made from now on leave from outside
        raise OSError(ctypes.get_errno(), "setns")
    server.serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]))
