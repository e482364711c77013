#!/usr/bin/python
"""What a host shows of itself and of others: commands, files, requests, ports. It looks and changes nothing."""

from __future__ import annotations

DOCUMENTATION = r"""
module: verify_observe
short_description: Observe a host, and others from it, without changing anything
description: [Runs the given looks and returns what each found; a look that fails is an answer, not a failure of the module.]
options:
  commands:
    description: [Commands by name, each a list of arguments.]
    type: dict
    default: {}
  files:
    description: [Shell patterns; each file found is returned with size, age and SHA-256.]
    type: list
    elements: str
    default: []
  texts:
    description: [Files whose text is returned.]
    type: list
    elements: path
    default: []
  requests:
    description: [HTTP requests, each with id, url, and optionally method, form, headers.]
    type: list
    elements: dict
    default: []
  handshakes:
    description: [TLS handshakes, each with id, host, port, name, and optionally ca (none verifies with the system's) and send.]
    type: list
    elements: dict
    default: []
  exchanges:
    description: [Plain text exchanges over TCP, each with id, host, port, send.]
    type: list
    elements: dict
    default: []
  scan:
    description: [Ports to try over TCP, each with name, address, ports.]
    type: list
    elements: dict
    default: []
  timeout:
    description: [Seconds for each look over the network.]
    type: float
    default: 3
author: santescaffold
"""

EXAMPLES = r"""
- name: See how far the clock is off
  verify_observe:
    commands: {clock: [chronyc, -c, tracking]}
"""

RETURN = r"""
observed:
  description: What was found, by kind of look.
  returned: always
  type: dict
"""

import concurrent.futures
import glob
import hashlib
import os
import re
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

from ansible.module_utils.basic import AnsibleModule

SECRET = re.compile(r"(?i)((?:password|pwd|secret|pass|passphrase)\s*[=:]\s*)[^;,\s\"']+")


class Stay(urllib.request.HTTPRedirectHandler):
    """Shows a redirection instead of following it."""

    def redirect_request(self, *_):
        """Follow nothing."""
        return None


def command(argv):
    """Run a command and return what came of it."""
    environment = {
        **os.environ,
        "LC_ALL": "C",
        "PATH": "/usr/local/sbin:/usr/sbin:/sbin:" + os.environ.get("PATH", "/usr/bin:/bin"),
    }
    try:
        done = subprocess.run(
            [str(part) for part in argv], capture_output=True, text=True, timeout=120, check=False, env=environment
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"rc": None, "out": "", "err": str(error)}
    return {"rc": done.returncode, "out": SECRET.sub(r"\1***", done.stdout[-200000:]), "err": done.stderr[-2000:]}


def file(path):
    """Return size, age and digest of a file."""
    found = os.stat(path)
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        head = stream.read(64)
        digest.update(head)
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return {
        "path": path, "size": found.st_size, "age_hours": round((time.time() - found.st_mtime) / 3600, 3),
        "mode": oct(found.st_mode & 0o7777), "uid": found.st_uid, "sha256": digest.hexdigest(), "head": head.decode("latin-1"),
    }  # fmt: skip


def request(wanted, timeout):
    """Make one request and return status, headers and the beginning of the body."""
    data = urllib.parse.urlencode(wanted["form"]).encode() if wanted.get("form") else None
    context = ssl.create_default_context(cafile=wanted["ca"]) if wanted.get("ca") else None
    opener = urllib.request.build_opener(
        Stay, urllib.request.HTTPSHandler(context=context), urllib.request.ProxyHandler({})
    )
    made = urllib.request.Request(
        wanted["url"], data=data, method=wanted.get("method"), headers=wanted.get("headers") or {}
    )
    try:
        with opener.open(made, timeout=timeout * 5) as answer:
            return {
                "status": answer.status,
                "headers": dict(answer.headers),
                "body": answer.read(100000).decode("utf-8", "replace"),
            }
    except urllib.error.HTTPError as error:
        return {
            "status": error.code,
            "headers": dict(error.headers),
            "body": error.read(4000).decode("utf-8", "replace"),
        }
    except (OSError, ValueError) as error:
        return {"status": None, "error": str(error)}


def handshake(wanted, timeout):
    """Shake hands and return what the other side showed."""
    try:
        context = ssl.create_default_context(cafile=wanted.get("ca") or None)
        if wanted.get("certificate"):
            context.load_cert_chain(wanted["certificate"], wanted["key"])
        with socket.create_connection((wanted["host"], int(wanted["port"])), timeout) as raw:
            with context.wrap_socket(raw, server_hostname=wanted["name"]) as link:
                certificate = link.getpeercert()
                left = (ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()) / 86400
                if wanted.get("send"):
                    link.sendall(wanted["send"].encode())
                    link.settimeout(2)
                    try:
                        if link.recv(1) == b"":
                            return {"ok": False, "error": "closed by the other side"}
                    except TimeoutError:
                        pass
                return {
                    "ok": True,
                    "version": link.version(),
                    "days_left": round(left, 1),
                    "subject": str(certificate.get("subject")),
                }
    except (OSError, ValueError) as error:
        return {"ok": False, "error": str(error)}


def exchange(wanted, timeout):
    """Send plain text and return what comes back."""
    try:
        with socket.create_connection((wanted["host"], int(wanted["port"])), timeout) as link:
            link.settimeout(timeout)
            link.sendall(wanted["send"].encode())
            return {"connected": True, "answer": link.recv(4096).decode("latin-1")}
    except TimeoutError:
        return {"connected": True, "answer": ""}
    except OSError as error:
        return {"connected": False, "error": str(error)}


def knock(address, port, timeout):
    """Tell whether a port takes connections."""
    try:
        with socket.create_connection((address, int(port)), timeout):
            return True
    except OSError:
        return False


def main():
    """Look."""
    kinds = ("requests", "handshakes", "exchanges", "scan")
    arguments = {name: {"type": "list", "elements": "dict", "default": []} for name in kinds}
    arguments |= {"commands": {"type": "dict", "default": {}}, "timeout": {"type": "float", "default": 3}}
    arguments |= {
        "files": {"type": "list", "elements": "str", "default": []},
        "texts": {"type": "list", "elements": "path", "default": []},
    }
    module = AnsibleModule(argument_spec=arguments, supports_check_mode=True)
    given, timeout, found = module.params, module.params["timeout"], {}
    found["commands"] = {name: command(argv) for name, argv in given["commands"].items()}
    found["files"] = [
        file(path)
        for pattern in given["files"]
        for path in sorted(glob.glob(pattern, recursive=True))
        if os.path.isfile(path)
    ]
    found["texts"] = {}
    for path in given["texts"]:
        try:
            with open(path, encoding="utf-8", errors="replace") as stream:
                found["texts"][path] = stream.read(1000000)
        except OSError:
            found["texts"][path] = None
    found["requests"] = {str(wanted["id"]): request(wanted, timeout) for wanted in given["requests"]}
    found["handshakes"] = {str(wanted["id"]): handshake(wanted, timeout) for wanted in given["handshakes"]}
    found["exchanges"] = {str(wanted["id"]): exchange(wanted, timeout) for wanted in given["exchanges"]}
    tries = [(target["name"], target["address"], port) for target in given["scan"] for port in target["ports"]]
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        results = list(pool.map(lambda each: knock(each[1], each[2], timeout), tries))
    found["scan"] = {target["name"]: [] for target in given["scan"]}
    for (name, _, port), is_open in zip(tries, results):
        if is_open:
            found["scan"][name].append(int(port))
    found["addresses"] = {}
    for target in given["scan"]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((target["address"], 9))
                found["addresses"][target["name"]] = probe.getsockname()[0]
            except OSError:
                found["addresses"][target["name"]] = None
    module.exit_json(changed=False, observed=found)


if __name__ == "__main__":
    main()
