"""Documentation of the action vault_secrets; the work is done on the control machine by the action plugin of that name."""

DOCUMENTATION = r"""
module: vault_secrets
short_description: Make the missing secrets of an environment inside its encrypted file
description:
  - Reads the encrypted file, makes at random each required secret that is missing, and writes the file back, encrypted.
  - Runs on the control machine only. No value is returned, shown, or written in clear.
options:
  path:
    description: The encrypted file.
    type: path
    required: true
  required:
    description: Secrets that must be there, as dictionaries of name, kind, purpose, length and alphabet.
    type: list
    elements: dict
    required: true
  backend:
    description: How the file is encrypted.
    type: str
    choices: [ansible_vault, sops]
    default: ansible_vault
  environment_name:
    description: The environment; also the vault id that is used when there is one of that name.
    type: str
    required: true
  others:
    description: Encrypted files of other environments, which must not hold the same secrets.
    type: list
    elements: path
    default: []
  age_recipients:
    description: Public age keys for sops. Empty leaves it to C(.sops.yaml).
    type: list
    elements: str
    default: []
author: santescaffold
"""

EXAMPLES = r"""
- vault_secrets:
    path: inventories/staging/group_vars/all/vault.yml
    environment_name: staging
    required:
      - {name: vault_cache_password, kind: password, length: 40, alphabet: A-Za-z0-9_-}
"""

RETURN = r"""
made:
  description: Names of the secrets that were made.
  type: list
  returned: always
missing:
  description: Names of the secrets that people have to add.
  type: list
  returned: always
not_compared:
  description: Files of other environments that could not be opened.
  type: list
  returned: always
summary:
  description: The same in words.
  type: list
  returned: always
"""
