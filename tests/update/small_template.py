"""A template of a few lines with everything `update` and `plan` ask of one: updates take a second instead of ten."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support import ROOT, commit, git

QUESTIONS: dict[str, dict[str, Any]] = {
    "name": {"form": "text", "default": "one", "type": "str"},
    "portal": {"form": "bool", "default": True, "type": "bool"},
    "servers": {"form": "int", "default": 2, "type": "int"},
}

ANSWERS_MACROS = "{% macro effective(catalog, raw) %}{{ raw | to_json }}{% endmacro %}"
CHECKS_MACROS = """\
{% macro problems_raw(catalog, raw) %}
{% set found = [] %}
{% if raw.servers is string or raw.servers > 9 %}
{% set _ = found.append({'id': 'V01', 'severity': 'error', 'message': 'the number of servers is no number up to 9',
  'where': 'servers', 'why': 'nobody has more', 'todo': 'give fewer', 'answers': ['servers']}) %}
{% endif %}
{{ found | to_json }}
{% endmacro %}
{% macro problems(catalog, raw, a) %}{{ problems_raw(catalog, raw) }}{% endmacro %}
"""
PLAN_MACROS = """\
{% macro resolve(catalog, a, findings, raw) %}
{% set plan = {'schema': 1, 'answers': a,
  'environments': [{'name': 'production', 'santedb_environment': {'SDB_NAME': a.name}}],
  'features': [{'id': 'LOG', 'why': 'always'}], 'hosts': [], 'certificates': [], 'databases': [], 'ports': [],
  'vault_variables': [], 'tasks': [], 'warnings': []} %}
{{ plan | to_json }}
{% endmacro %}
"""
HOSTS = "---\nall:\n  hosts:\n    app: {}\n  children:\n    icdr:\n      hosts:\n        app: {}\n"
VARIABLES = "---\nsantedb_environment:\n  SDB_NAME: {{ name }}\nicdr_ram_limit_gb: 8\n"
MANY = "{{ n }} of {{ servers }} for {{ name }}\n"
FILES = {
    "copier.yml": "_subdirectory: template\n"
    "_envops: {keep_trailing_newline: true, trim_blocks: true, lstrip_blocks: true}\n"
    + "".join(
        f"{name}: {json.dumps({'type': entry['type'], 'default': entry['default']})}\n"
        for name, entry in QUESTIONS.items()
    ),
    "macros/answers.jinja": ANSWERS_MACROS,
    "macros/checks.jinja": CHECKS_MACROS,
    "macros/plan.jinja": PLAN_MACROS,
    "template/{{ _copier_conf.answers_file }}.jinja": "# Written by Copier.\n{{ _copier_answers | to_nice_yaml -}}\n",
    "template/README.md.jinja": "# {{ name }}\n\nA text.\n\n## Your notes\n",
    "template/{% if portal %}portal{% endif %}/portal.conf.jinja": "name = {{ name }}\n",
    "template/inventories/production/hosts.yml.jinja": HOSTS,
    "template/inventories/production/group_vars/icdr/10-generated.yml.jinja": VARIABLES,
    "template/many/{% yield n from range(servers) %}{{ n }}{% endyield %}.txt.jinja": MANY,
    "template/playbooks/icdr.yml": "---\n",
    "template/playbooks/verify.yml": "---\n",
    "template/playbooks/site.yml": "---\n",
}


def make_template(path: Path) -> Path:
    """Write the template, released as v1.0.0."""
    catalog = {
        "questions": {name: {**entry, "applies_when": "always"} for name, entry in QUESTIONS.items()},
        "commands": json.loads((ROOT / "catalog" / "catalog.json").read_text(encoding="utf-8")).get("commands"),
    }
    for name, text in {**FILES, "catalog/catalog.json": json.dumps(catalog)}.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text, encoding="utf-8")
    git(path, "init", "--quiet", "--initial-branch", "main")
    commit(path, "v1.0.0")
    git(path, "tag", "v1.0.0")
    return path


def make_repository(path: Path, template: Path, **answers: Any) -> Path:
    """Copy the template and commit, with files of its own that no update may touch."""
    import copier

    copier.run_copy(str(template), path, data=answers, defaults=True, quiet=True)
    (path / ".gitignore").write_text("*.secret\n", encoding="utf-8")
    (path / "vault.secret").write_text("kept\n", encoding="utf-8")
    git(path, "init", "--quiet", "--initial-branch", "main")
    commit(path)
    return path


def state(path: Path) -> dict[str, Any]:
    """Everything of a repository that must stay: every byte of its files, modes, the commit and what is staged."""
    files = {
        found.relative_to(path).as_posix(): (found.read_bytes(), found.stat().st_mode)
        for found in sorted(path.rglob("*"))
        if found.is_file() and ".git" not in found.relative_to(path).parts
    }
    return {"files": files, "head": git(path, "rev-parse", "HEAD"), "index": git(path, "ls-files", "--stage")}
