"""Ansible module of the role icdr_hardening: which of these names and secrets does SanteDB let in?"""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: icdr_hardening_login
short_description: Try names and secrets at SanteDB's token interface
description:
  - Tells for each attempt whether it is accepted, needs a second factor, or is refused. Nothing is kept.
  - Applications are tried with the grant client_credentials, where only a wrong secret or a locked application gives
    invalid_client. Users are tried with the grant password, where a wrong password or a locked user gives invalid_grant.
  - An answer that says neither makes the module fail, so that a server that is down is never taken for one that refuses.
options:
  url:
    description: Token interface.
    type: str
    required: true
  attempts:
    description: Dictionaries of name, client_id, client_secret and, for users, username and password.
    type: list
    elements: dict
    required: true
author: santescaffold
"""

EXAMPLES = r"""
- icdr_hardening_login:
    url: http://127.0.0.1:8080/auth/oauth2_token
    attempts:
      - {name: console, client_id: org.santedb.administration, client_secret: "{{ vault_secret }}"}
  no_log: true
"""

RETURN = r"""
answers:
  description: For each name accepted, second_factor or refused.
  type: dict
  returned: success
"""


def judge(url: str, attempt: dict[str, str]) -> str:
    """Return accepted, second_factor or refused; else a text that begins with `unclear`."""
    user = bool(attempt.get("username"))
    form = {"grant_type": "password" if user else "client_credentials", "scope": "*"}
    form |= {key: attempt[key] for key in ("client_id", "client_secret", "username", "password") if attempt.get(key)}
    try:
        with urllib.request.urlopen(url, urllib.parse.urlencode(form).encode(), timeout=60) as found:
            status, body = found.status, found.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        status, body = error.code, error.read().decode(errors="replace")
    except OSError as error:
        return f"unclear: {error}"
    try:
        answer = json.loads(body)
    except ValueError:
        answer = {}
    error = str(answer.get("error", "")) if isinstance(answer, dict) else ""
    if status >= 500:
        return f"unclear: HTTP {status} {error}"
    if isinstance(answer, dict) and answer.get("access_token"):
        return "accepted"
    if user:
        if error == "mfa_required":
            return "second_factor"
        if error == "password_expired":
            return "accepted"
        return "refused" if error == "invalid_grant" else f"unclear: HTTP {status} {error or 'without a reason'}"
    # A known application that may not have a token for other reasons still proves that its secret is right.
    return "refused" if error == "invalid_client" else "accepted"


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "attempts": {"type": "list", "elements": "dict", "required": True, "no_log": True},
        },
        supports_check_mode=True,
    )
    answers = {str(one["name"]): judge(module.params["url"], one) for one in module.params["attempts"]}
    unclear = [f"{name}: {found}" for name, found in answers.items() if found.startswith("unclear")]
    module.exit_json(changed=False, answers=answers, unclear=unclear)


if __name__ == "__main__":
    main()
