"""A stand-in for the images of the web access gateway and of the disconnected gateway: one page on 9200."""

from __future__ import annotations

import http.server
import socket
import threading
from pathlib import Path


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers every GET with one page that says what it is."""

    title = "Portal"

    def do_GET(self) -> None:
        """Send the page."""
        data = f"<!doctype html><title>SanteDB stand-in</title><h1>{self.title} stand-in on {socket.gethostname()}</h1>".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def main(program: str, arguments: list[str]) -> int:
    """Serve until a signal ends the process; data lies where the real one puts it, /santedb/instances/<name> (Q38).

    The disconnected gateway speaks TLS unless --base says http, which the stand-in does not: it refuses to start (143).
    """
    options = dict(word.lstrip("-").partition("=")[::2] for word in arguments if "=" in word)
    for index, word in enumerate(arguments[:-1]):
        if word in {"--name", "--base"}:
            options[word.lstrip("-")] = arguments[index + 1]
    if program.endswith("santedb-dcg.exe"):
        Handler.title = "Gateway"
        if not options.get("base", "https://0.0.0.0:9200").startswith("http://"):
            print("FATAL ERROR: the stand-in has no certificate for https", flush=True)
            return 143
    folder = Path("/santedb/instances") / (options.get("name") or "default")
    for part in ("config", "data"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    print(f"SanteDB {Handler.title} (STAND-IN, not SanteDB)", flush=True)
    print(f"Configuration Directory: {folder}/config\nData Directory: {folder}/data", flush=True)
    server = http.server.ThreadingHTTPServer(("0.0.0.0", 9200), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    threading.Event().wait()
    return 0
