"""Ansible module of the role icdr: wait until SanteDB answers, or until its log says why it does not."""

from __future__ import annotations

import re
import subprocess
import time
import urllib.error
import urllib.request

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: icdr_health
short_description: Wait until SanteDB's application server is healthy
description:
  - Asks with the HTTP method PING until the answer is 204, which SanteDB gives once its start is complete.
  - Reads the log meanwhile, because a failed start ends with exit code 0 and is begun again by the container engine.
options:
  url:
    description: What to ask.
    type: str
    required: true
  seconds:
    description: How long a start may take.
    type: int
    default: 900
  log:
    description: Command that prints the log since this start.
    type: list
    elements: str
    required: true
  where:
    description: Name of the host in messages.
    type: str
    default: this host
author: santescaffold
"""

EXAMPLES = r"""
- icdr_health:
    url: http://127.0.0.1:8080/hdsi/
    log: [docker, logs, --since, 5m, santedb-icdr]
"""

RETURN = r"""
waited:
  description: Seconds until it was healthy.
  type: float
  returned: success
"""

SIGNS = re.compile(r"FATAL ERROR|Maintenance Mode", re.IGNORECASE)
SECRETS = re.compile(r"(?i)(password|pwd|secret)\s*=\s*[^;\s]+")


def answer(url: str) -> int:
    """Return the HTTP status of PING, 0 when nobody answers."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="PING"), timeout=10) as found:
            return int(found.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def faults(log: list[str]) -> list[str]:
    """Return the lines of the log that tell of a failed start, without secrets."""
    done = subprocess.run(log, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    lines = done.stdout.decode(errors="replace").splitlines()
    return [SECRETS.sub(r"\1=***", line.strip())[:400] for line in lines if SIGNS.search(line)]


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "seconds": {"type": "int", "default": 900},
            "log": {"type": "list", "elements": "str", "required": True},
            "where": {"type": "str", "default": "this host"},
        },
        supports_check_mode=True,
    )
    given = module.params
    begun = time.monotonic()
    status, found = 0, []
    while True:
        found = faults(given["log"])
        if found:
            break
        status = answer(given["url"])
        if status == 204:
            # Once more: a server that is up may be on its way down.
            if not (found := faults(given["log"])):
                module.exit_json(changed=False, waited=round(time.monotonic() - begun, 1))
            break
        if time.monotonic() - begun > given["seconds"]:
            break
        time.sleep(2)
    why = (
        f"its log says: {found[0]}"
        if found
        else f"no answer 204 from {given['url']} in {given['seconds']} seconds (last: {status or 'nobody listens'})"
    )
    module.fail_json(
        msg=f"SanteDB did not start; on {given['where']}; {why}; nobody is served, although it seems to run; "
        f"read `{' '.join(given['log'])}`, correct it and deploy again.",
        faults=found,
    )


if __name__ == "__main__":
    main()
