"""The console program: logs in over HTTP like the real sdbac and has the server run each line. Exit status is 0."""

from __future__ import annotations

import argparse
import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from .identities import published


def main(arguments: list[str]) -> int:
    """Run script files (positional), or lines from standard input; print what the commands print.

    A refused command prints `ERR: …` on standard error and the next line runs; the exit status is 0 all the same, as
    of the real console. Only a log-in that fails prints FATAL and stops.
    """
    parser = argparse.ArgumentParser(prog="sdbac", add_help=False)
    parser.add_argument("-r", "--realm", default="localhost")
    parser.add_argument("--port", default="8080")
    parser.add_argument("-t", "--tls", action="store_true")
    parser.add_argument("-u", "--user")
    parser.add_argument("-p", "--password")
    parser.add_argument("-a", "--appId", default="org.santedb.administration")
    parser.add_argument("-s", "--secret", default=None)
    parser.add_argument("-b", "--oauth_basic", action="store_true")
    parser.add_argument("-v", "--verbose")
    parser.add_argument("-x", "--proxy")
    parser.add_argument("-?", "--help", dest="help", action="store_true")
    parser.add_argument("scripts", nargs="*")
    options = parser.parse_args(arguments)
    print("SanteDB administration console (STAND-IN)")
    if options.help:
        parser.print_help()
        return 0
    secret = options.secret or published()["applications"].get(options.appId, "")
    base = f"{'https' if options.tls else 'http'}://{options.realm}:{options.port}"
    form = {"grant_type": "password", "username": options.user or "Administrator", "password": options.password or ""}
    form |= {"client_id": options.appId, "client_secret": secret, "scope": "*"}
    try:
        token = _post(f"{base}/auth/oauth2_token", urllib.parse.urlencode(form).encode(), {})["access_token"]
    except (OSError, ValueError, KeyError) as error:
        print(f"FATAL: {_said(error)}")
        return 0
    print("Ready...")
    if not options.scripts:
        for line in sys.stdin:
            if not _run(base, token, line.rstrip("\n")):
                return 0
        print("STAND-IN: the real console never ends at end of input; give it a script file", file=sys.stderr)
        return 3
    for script in options.scripts:
        if not Path(script).is_file():
            print(f"ERROR: {script} not found")
            continue
        print(f"Running {script}...")
        for line in Path(script).read_text(encoding="utf-8").splitlines():
            if not line.startswith("#"):
                print(line)
                if not _run(base, token, line):
                    return 0
    return 0


def _run(base: str, token: str, line: str) -> bool:
    if line.strip() == "exit":
        return False
    if line.strip():
        body = json.dumps({"line": line}).encode()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        try:
            for text in _post(f"{base}/ami/_standin/console", body, headers)["said"]:
                print(text)
        except (OSError, ValueError, KeyError) as error:
            print(f"ERR: {_said(error)}", file=sys.stderr)
    return True


def _post(url: str, body: bytes, headers: dict[str, str]) -> dict[str, Any]:
    with urllib.request.urlopen(urllib.request.Request(url, data=body, headers=headers), timeout=30) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def _said(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"{error.code} {error.read().decode(errors='replace')}"
    return str(error)
