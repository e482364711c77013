"""``santescaffold plan``: what an update would do, in terms of the deployment, before anything is touched.

Two resolved plans are compared for the meaning, and the update itself is made on a scratch clone for the files, so that
the prediction and the deed cannot differ.
"""

from __future__ import annotations

import datetime
import fnmatch
import json
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from santescaffold.problems import Problem, print_problems
from santescaffold.records import STANDS, assess, read_records, record_path
from santescaffold.template import Template, TemplateError

Inventories = dict[str, dict[str, Any]]


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return what differs between two resolved plans, section by section."""
    environments = [{entry["name"]: entry for entry in _section(plan, "environments")} for plan in (old, new)]
    variables = []
    for name in dict.fromkeys([*environments[0], *environments[1]]):
        sides = [side.get(name, {}).get("santedb_environment") or {} for side in environments]
        variables += [{"environment": name, **entry} for entry in _values(sides[0], sides[1])]
    found: dict[str, Any] = {"answers": _values(old["answers"], new["answers"]), "variables": variables}
    for section, (keys, fields) in COMPARED.items():
        found[section] = _lists(_section(old, section), _section(new, section), keys, fields)
    return found


COMPARED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "environments": (("name",), ("public_url",)),
    "features": (("id",), ()),
    "hosts": (
        ("environment", "name"),
        ("groups", "address", "internal_fqdn", "vcpu", "ram_gb", "disk_gb", "os", "icdr_role"),
    ),
    "certificates": (
        ("environment", "id"),
        ("kind", "subject", "sans", "issuer", "key_usage", "extended_key_usage", "key", "installed_on", "count"),
    ),
    "databases": (("name",), ("owner", "server", "extensions", "connection")),
    "ports": (("group", "service", "port", "protocol", "environments"), ("from", "tls")),
    "vault_variables": (("name", "environment"), ("kind",)),
    "tasks": (("id",), ("owner", "gate_stage", "title")),
    "warnings": (("id", "message"), ()),
}
"""What of each section tells entries apart, and what makes an entry a changed one."""


def _section(plan: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    if name == "vault_variables" and name not in plan:
        name = "secrets"  # as plan.yml calls it
    return list(plan[name]) if name in plan else []


def nothing() -> dict[str, Any]:
    """Return a preview in which nothing happens, to be filled with a comparison of two plans alone."""
    return {
        "template": {"old": "", "new": ""}, "records_void": [], "files": {word: [] for word in _SIGNS}, "conflicts": [],
        "losses": [], "commands": [], "uncommitted": False,
    }  # fmt: skip


def _values(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    for name in dict.fromkeys([*old, *new]):
        if name not in old or name not in new or old[name] != new[name]:
            entry: dict[str, Any] = {"id": name}
            entry |= {"old": old[name]} if name in old else {}
            entry |= {"new": new[name]} if name in new else {}
            found.append(entry)
    return found


def _lists(
    old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]], keys: tuple[str, ...], fields: tuple[str, ...]
) -> dict[str, list[dict[str, Any]]]:
    """Compare two lists of entries that ``keys`` tell apart; an entry is changed when one of ``fields`` differs."""
    sides = [{tuple(str(entry.get(key)) for key in keys): entry for entry in side} for side in (old, new)]
    shown = (*keys, *(name for name in ("title", "why", "owner", "purpose", "phase", "issuer") if name not in keys))

    def brief(entry: Mapping[str, Any]) -> dict[str, Any]:
        return {name: entry[name] for name in shown if entry.get(name) is not None}

    changed = []
    for key, entry in sides[1].items():
        before = sides[0].get(key)
        if before is not None:
            differing = [name for name in fields if before.get(name) != entry.get(name)]
            if differing:
                changed.append(
                    {**brief(entry), "changes": {name: [before.get(name), entry.get(name)] for name in differing}}
                )
    return {
        "added": [brief(entry) for key, entry in sides[1].items() if key not in sides[0]],
        "removed": [brief(entry) for key, entry in sides[0].items() if key not in sides[1]],
        "changed": changed,
    }


def void_records(
    path: Path, old: Mapping[str, Any], new: Mapping[str, Any], changed: Iterable[str], today: str | None = None
) -> list[dict[str, Any]]:
    """Return the records that stand now and would not any more, with the reason."""
    records = read_records(str(path))
    day = today or datetime.datetime.now(datetime.UTC).date().isoformat()
    answers = set(changed)
    gates = new.get("gates") or old.get("gates")
    if not gates or not records:
        return []
    later = {task["id"]: task for task in new["tasks"]}
    names = [entry["name"] for entry in old["environments"]]
    kept = [entry["name"] for entry in new["environments"]]
    found = []
    for task in old["tasks"]:
        for place in ["project"] if task["scope"] == "project" else names:
            file = record_path(task, place)
            record = records.get(file)
            if record is None or assess(task, record, file, place, gates, day)["state"] not in STANDS:
                continue
            after = later.get(task["id"])
            if after is None:
                why = "the plan no longer has this task"
            elif task["scope"] != "project" and place not in kept:
                why = f"the plan no longer has the environment {place}"
            else:
                state = assess(after, record, record_path(after, place), place, gates, day)
                if state["state"] in STANDS:
                    continue
                moved = [name for name in after["depends_on"] if name in answers]
                why = f"it was given for other answers: {', '.join(moved)}" if moved else state["finding"]["message"]
            found.append(
                {"record": file, "task": task["id"], "title": task["title"], "owner": task["owner"], "why": why}
            )
    return found


def read_inventories(root: Path) -> Inventories:
    """Return {environment: {group_vars: {group: {name: value}}, hosts: {name: values}, groups: {group: [names]}}}."""
    found: Inventories = {}
    for directory in sorted(path.parent for path in root.glob("inventories/*/hosts.yml")):
        listed = (_read(directory / "hosts.yml") or {}).get("all") or {}
        groups = {
            group: list((entry or {}).get("hosts") or {}) for group, entry in (listed.get("children") or {}).items()
        }
        found[directory.name] = {
            "group_vars": {
                path.parent.name: _read(path) for path in sorted(directory.glob("group_vars/*/10-generated.yml"))
            },
            "hosts": listed.get("hosts") or {},
            "groups": groups,
        }
    return found


def _read(path: Path) -> dict[str, Any]:
    """Read a rendered YAML file; one with conflict markers counts as wholly different from any other."""
    import yaml

    text = path.read_text(encoding="utf-8")
    try:
        loaded = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError:
        return {}
    return loaded if isinstance(loaded, dict) else {}


def commands(
    before: Inventories, after: Inventories, files: Mapping[str, str], catalog: Mapping[str, Any], playbooks: Path
) -> list[dict[str, Any]]:
    """Return the smallest safe commands that bring the machines to the new plan, in order.

    Production comes last. A limit always names localhost too: the gate runs there, and a limit without it would pass
    the gate by.
    """
    found: list[dict[str, Any]] = []
    for environment, now in sorted(after.items(), key=lambda entry: entry[0] == "production"):
        was = before.get(environment)
        first = was is None
        was = was or {"group_vars": {}, "hosts": {}, "groups": {}}
        changed = _changed_variables(was, now)
        fresh = [name for name in now["hosts"] if name not in was["hosts"]]
        own: list[dict[str, Any]] = []
        for entry in (catalog.get("commands") or {}).get("commands", []):
            if not (playbooks / f"{entry['playbook']}.yml").is_file():
                continue
            hit, tags = _hit(entry, environment, changed, files)
            follows = hit or entry.get("follows_hosts", True)
            limit = _limit(entry["hosts"], was, now, hit, fresh) if follows else None
            if first and not own:
                own.append(_command(environment, "site", [], [], "everything"))
            if first or limit is None:
                continue
            moved: Collection[str] = fresh if entry["hosts"] == "all" else []
            if entry["hosts"] not in ("all", "controller"):
                moved = set(limit) - set(was["groups"].get(entry["hosts"], []))
            own.append(_command(environment, entry["playbook"], limit, [] if moved else tags, entry["restarts"]))
        if own and (playbooks / "verify.yml").is_file():
            own.append(_command(environment, "verify", [], [], "nothing"))
        found += own
    return found


def _changed_variables(was: Mapping[str, Any], now: Mapping[str, Any]) -> set[str]:
    names: set[str] = set()
    for group in {*was["group_vars"], *now["group_vars"]}:
        old, new = was["group_vars"].get(group) or {}, now["group_vars"].get(group) or {}
        names |= {name for name in {*old, *new} if name not in old or name not in new or old[name] != new[name]}
    for host in set(was["hosts"]) & set(now["hosts"]):
        old, new = was["hosts"][host] or {}, now["hosts"][host] or {}
        names |= {name for name in {*old, *new} if old.get(name) != new.get(name)}
    groups = {*was["groups"], *now["groups"]}
    names |= {f"groups.{name}" for name in groups if was["groups"].get(name, []) != now["groups"].get(name, [])}
    return names | ({"hosts"} if set(was["hosts"]) != set(now["hosts"]) else set())


def _hit(
    entry: Mapping[str, Any], environment: str, changed: set[str], files: Mapping[str, str]
) -> tuple[bool, list[str]]:
    """Return whether an entry of the catalogue is called for, and the tags that are enough."""
    left, tags, whole, hit = set(changed), [], False, False
    for rule in entry["rules"]:
        names = {
            name for name in left if any(fnmatch.fnmatchcase(name, pattern) for pattern in rule.get("variables", []))
        }
        left -= names
        patterns = [pattern.replace("{environment}", environment) for pattern in rule.get("files", [])]
        if names or any(fnmatch.fnmatchcase(name, pattern) for name in files for pattern in patterns):
            hit = True
            whole = whole or "tags" not in rule
            tags += rule.get("tags", [])
    return hit, [] if whole else list(dict.fromkeys(tags))


def _limit(group: str, was: Mapping[str, Any], now: Mapping[str, Any], hit: bool, fresh: list[str]) -> list[str] | None:
    """Return the machines a playbook has to reach; None when it need not run, [] when it needs no limit."""
    if group == "controller":
        return [] if hit else None
    if group == "all":
        return [] if hit else (fresh or None)
    old, new = was["groups"].get(group, []), now["groups"].get(group, [])
    left = [name for name in old if name not in new and name in now["hosts"]]
    if hit:
        return [*new, *left] or None
    return [*(name for name in new if name not in old), *left] or None


def _command(environment: str, playbook: str, limit: list[str], tags: list[str], restarts: str) -> dict[str, Any]:
    words = ["ansible-playbook", "-i", f"inventories/{environment}", f"playbooks/{playbook}.yml"]
    words += ["--limit", ",".join(["localhost", *limit])] if limit else []
    words += ["--tags", ",".join(tags)] if tags else []
    return {
        "command": " ".join(words), "environment": environment, "playbook": playbook, "limit": limit, "tags": tags,
        "restarts": restarts,
    }  # fmt: skip


def preview(
    path: Path, file: Path | None, settings: Sequence[str], to: str | None, template: str | None
) -> tuple[dict[str, Any], list[Problem]]:
    """Return what an update with these options would do; raises Refused when it would refuse."""
    from santescaffold import update
    from santescaffold.new import terminable

    source = update.open_source(path, template)
    scratch = Path(tempfile.mkdtemp(prefix="santescaffold-plan-"))
    try:
        with (
            terminable("nothing was to be changed", "run the command again"),
            update.templates(source, to) as (old, new),
        ):
            given, problems = update.changed_answers(source, new, file, settings)
            plans = _plans(source.answers, given, old, new)
            outcome = update.simulate(source, scratch, given, to)
            result = compare(*plans)
            changed = [entry["id"] for entry in result["answers"]]
            versions = [update.version_of(source), update.version_of(source, outcome)]
            found: dict[str, Any] = {
                "repository": str(path),
                "template": {"old": versions[0], "new": versions[1]},
                **result,
                "records_void": void_records(source.path, plans[0], plans[1], changed),
                "files": {
                    word: [name for name, state in outcome.files.items() if state == word] for word in _SIGNS
                },
                "conflicts": [
                    {"file": name, "hunks": hunks, "advice": update.conflict_advice(name)}
                    for name, hunks in outcome.conflicts.items()
                ],
                "losses": outcome.losses,
                "uncommitted": bool(update.git("status", "--porcelain", cwd=source.top).stdout.strip()),
            }  # fmt: skip
            found["commands"] = commands(
                outcome.before,
                outcome.after,
                outcome.inside(source),
                new.catalog,
                outcome.clone / source.below / "playbooks",
            )
            found["changes"] = bool(outcome.files)
            return found, problems
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _plans(
    stored: dict[str, Any], given: dict[str, Any], old: Template, new: Template
) -> tuple[dict[str, Any], dict[str, Any]]:
    known = [template.catalog["questions"] for template in (old, new)]
    return (
        old.resolve({name: value for name, value in stored.items() if name in known[0]}),
        new.resolve({name: value for name, value in {**stored, **given}.items() if name in known[1]}),
    )


SECTIONS = (
    ("environments", "environments", lambda entry: entry["name"]),
    ("hosts", "hosts", lambda entry: f"{entry['environment']}: {entry['name']}"),
    ("features", "features of SanteDB", lambda entry: f"{entry['id']} ({entry.get('why', '')})"),
    ("databases", "databases", lambda entry: entry["name"]),
    ("certificates", "certificates", lambda entry: f"{entry['environment']}: {entry['id']} (by {entry.get('issuer')})"),
    ("vault_variables", "secrets", lambda entry: f"{entry['name']} ({entry.get('purpose', '')})"),
    ("ports", "ports", lambda entry: f"{entry['group']}: {entry['service']} {entry['port']}/{entry['protocol']}"),
    ("tasks", "tasks", lambda entry: f"{entry['id']} {entry.get('title', '')} (owner: {entry.get('owner')})"),
    ("warnings", "warnings", lambda entry: entry["message"]),
)
_SIGNS = {"added": "+", "removed": "-", "changed": "~"}


def lines(found: Mapping[str, Any]) -> list[str]:
    """Return the preview as plain text, one finding a line."""
    out: list[str] = []

    def block(title: str, entries: list[str]) -> None:
        if entries:
            out.extend(["", title, *(f"  {entry}" for entry in entries)])

    if found["template"]["old"] != found["template"]["new"]:
        block("template", [f"{found['template']['old']} -> {found['template']['new']}"])
    block(
        "answers, as they take effect",
        [f"~ {entry['id']}: {_short(entry.get('old'))} -> {_short(entry.get('new'))}" for entry in found["answers"]],
    )
    for title, entries in differences(found):
        block(title, [f"{_SIGNS[word]} {text}" for word, text in entries])
    block(
        "records that become void (the files stay)",
        [
            f"! {entry['record']} {entry['title']}; {entry['why']}; to be signed again by: {entry['owner']}"
            for entry in found["records_void"]
        ],
    )
    block("files", [f"{_SIGNS[word]} {name}" for word in _SIGNS for name in found["files"][word]])
    for entry in found["conflicts"]:
        block(
            "conflict with your edits",
            [f"! {entry['file']}: line {hunk['line']}; {entry['advice']}" for hunk in entry["hunks"]]
            or [f"! {entry['file']}"],
        )
    block(
        "edits that would be lost",
        [
            f"! {name}; the plan no longer has this file; move what you need, or update with --accept-loss"
            for name in found["losses"]
        ],
    )
    block(
        "afterwards, in this order",
        [f"{entry['command']}   (restarts: {entry['restarts']})" for entry in found["commands"]],
    )
    if found["uncommitted"]:
        block("note", ["changes that are not committed were left out; update refuses until they are committed"])
    return out[1:] if out else ["Nothing would change."]


def differences(found: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return what differs between two plans beside the answers: (section, [(added, removed or changed; what)])."""
    out: list[tuple[str, list[tuple[str, str]]]] = []
    for name, title, describe in SECTIONS:
        entries = []
        for word in _SIGNS:
            for entry in found[name][word]:
                more = "".join(
                    f"; {key}: {_short(was)} -> {_short(now)}" for key, (was, now) in entry.get("changes", {}).items()
                )
                entries.append((word, f"{describe(entry)}{more}"))
        out.append((title, entries))
    variables = [
        ("added" if "old" not in entry else "changed" if "new" in entry else "removed",
         f"{entry['environment']}: {entry['id']}")
        for entry in found["variables"]
    ]  # fmt: skip
    return [*out, ("variables of SanteDB", variables)]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:79] + "…"


@click.command()
@click.argument("repo", type=click.Path(file_okay=False, path_type=Path), default=".")
@click.option(
    "--answers", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Answers that change; those left out stay as they are.",
)  # fmt: skip
@click.option("--set", "settings", multiple=True, metavar="ID=VALUE", help="One answer that changes; may be repeated.")
@click.option("--to", metavar="VERSION", help="Go to this version of the template, or to the latest.")
@click.option("--template", metavar="PATH|URL", help="Where the template is now, if it moved.")
@click.option("--json", "as_json", is_flag=True, help="Write everything as JSON.")
@click.option("--exit-code", is_flag=True, help="Exit with 1 when anything would change.")
def plan(
    repo: Path, file: Path | None, settings: tuple[str, ...], to: str | None, template: str | None, as_json: bool,
    exit_code: bool,
) -> None:  # fmt: skip
    """Show what an update of REPO would change, before anything is touched.

    \b
    Examples:
      santescaffold plan --set web_portal=false
      santescaffold plan --to latest --json
    """
    from santescaffold.cli import tell_interrupted
    from santescaffold.new import PROBLEMS, Refused
    from santescaffold.update import progress

    tell_interrupted(repo)
    try:
        with progress("Trying the update on a scratch copy"):
            found, problems = preview(repo, file, settings, to, template)
    except Refused as refused:
        print_problems(refused.problems, sys.stderr)
        if refused.summary:
            click.echo(refused.summary, err=True)
        sys.exit(refused.code)
    except TemplateError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(PROBLEMS)
    if as_json:
        click.echo(
            json.dumps({**found, "problems": [problem.as_dict() for problem in problems]}, indent=2, default=str)
        )
    else:
        print_problems(problems, sys.stderr)
        for line in lines(found):
            click.echo(line)
    sys.exit(PROBLEMS if exit_code and found["changes"] else 0)
