"""``santescaffold report``: one self-contained HTML page for people who do not use Git."""

from __future__ import annotations

import datetime
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from santescaffold.repository import NoRepository, Plan, Repository
from santescaffold.status import collect
from santescaffold.topology import connections, draw

ABBREVIATED = {
    "hl7v2": "HL7v2", "pixm": "PIXm", "pdqm": "PDQm", "openapi": "OpenAPI", "openid": "OpenID", "postgresql": "PostgreSQL",
    **{
        word: word.upper()
        for word in ("ami", "atna", "bis", "bms", "ca", "dcdr", "fhir", "gs1", "hdsi", "icdr", "ihe", "llp", "mfa", "pdq",
                     "pix", "pmir", "r4", "rdp", "sllp", "ssh", "tls", "vpn", "wal", "xml")
    },
}  # fmt: skip
MOST_HISTORY = 200
SOON_DAYS = 60


def gather(repository: Repository, compare: str | None = None, now: str | None = None) -> dict[str, Any]:
    """Return everything the page shows."""
    plan = repository.plan
    moment = now or datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    today = moment[:10]
    status = collect(repository, now=moment)
    contacts: dict[str, list[str]] = {}
    for person in plan["answers"].get("contacts") or []:
        contacts.setdefault(str(person.get("team_role")), []).append(str(person.get("name")))
    for environment in status["environments"]:
        environment["owners"] = _by_owner(environment, contacts)
    commit = (repository.git("log", "-1", "--format=%h of %ad", "--date=short") or "").strip()
    dirty = (repository.git("status", "--porcelain") or "").strip()
    return {
        "plan": {
            name: plan[name] for name in ("project", "release", "roles", "sizing", "warnings", "template_version")
        },
        "environments": [
            {
                **entry,
                "hosts": [host for host in plan["hosts"] if host["environment"] == entry["name"]],
                "drawing": draw(plan, entry["name"]),
                "connections": connections(plan, entry["name"]),
            }
            for entry in plan["environments"]
        ],
        "status": status,
        "phases": [_progress(phase) for phase in status["phases"]],
        "waivers": [{**waiver, "soon": _soon(waiver["expires"], today)} for waiver in status["waivers"]],
        "certificates": _certificates(repository, today),
        "sentences": in_words(plan),
        "history": history(repository),
        "compared": _compared(repository, compare) if compare else None,
        "generated": today,
        "commit": commit,
        "uncommitted": bool(dirty),
    }


def words(name: str) -> str:
    """Return an identifier as people write it, with the abbreviations they know."""
    return " ".join(ABBREVIATED.get(word, word) for word in name.split("_"))


def sentence(text: str) -> str:
    """Return a remark of the plan as a sentence: capital, full stop, no marks of code."""
    flat = " ".join(text.split()).replace("`", "")
    return flat[:1].upper() + flat[1:] + ("" if flat.endswith((".", "!", "?")) else ".") if flat else ""


def _by_owner(environment: Mapping[str, Any], contacts: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    owners: dict[str, dict[str, Any]] = {}
    for stage in environment["stages"]:
        for entry in stage["blocked_by"]:
            owner = owners.setdefault(
                entry["owner"],
                {"role": words(entry["owner"]), "people": contacts.get(entry["owner"], []), "tasks": []},
            )
            owner["tasks"].append({**entry, "stage": words(stage["name"])})
    return sorted(owners.values(), key=lambda owner: -len(owner["tasks"]))


def _progress(phase: dict[str, Any]) -> dict[str, Any]:
    places = []
    for place in phase["places"]:
        counts = {state: place[state] for state in ("done", "waived", "void", "open")}
        total = sum(counts.values())
        places.append(
            {
                **place,
                "total": total,
                "percent": round(100 * (counts["done"] + counts["waived"]) / total) if total else 100,
            }
        )
    return {**phase, "places": places}


def _soon(day: Any, today: str) -> bool:
    try:
        left = datetime.date.fromisoformat(str(day)) - datetime.date.fromisoformat(today)
    except ValueError:
        return False
    return left.days <= SOON_DAYS


def _certificates(repository: Repository, today: str) -> list[dict[str, Any]]:
    """Return the register, what expires first at the top; what is not issued yet has no date."""
    from santescaffold.check import _not_after

    found = []
    for entry in repository.plan["certificates"]:
        names = (f"{entry['id']}.crt", f"{entry['id']}.pem")
        files = [repository.path / "certificates" / str(entry["environment"]) / name for name in names]
        file = next((path for path in files if path.is_file()), None)
        day = _not_after(file) if file else entry.get("not_after")
        found.append(
            {**entry, "expires": day, "soon": bool(day) and _soon(day, today), "issuer": words(entry["issuer"])}
        )
    return sorted(
        found, key=lambda entry: (entry["expires"] is None, str(entry["expires"]), entry["environment"], entry["id"])
    )


def history(repository: Repository) -> list[dict[str, Any]]:
    """Return who committed which record when, newest first."""
    told = repository.git(
        "log",
        f"--max-count={MOST_HISTORY}",
        "--format=%x01%as%x02%an%x02%h",
        "--name-status",
        "--no-renames",
        "--relative",
        "--",
        "records/",
    )
    found = []
    done = {"A": "signed", "M": "changed", "D": "removed"}
    for block in (told or "").split("\x01")[1:]:
        head, _, rest = block.partition("\n")
        day, author, commit = head.split("\x02")
        for line in rest.splitlines():
            state, _, name = line.partition("\t")
            if not name.endswith((".yml", ".yaml")):
                continue
            task = name.rsplit("/", 1)[1].rsplit(".", 1)[0]
            record = repository.records.get(name) or {}
            found.append(
                {
                    "day": day,
                    "author": author,
                    "commit": commit,
                    "did": done.get(state, "changed"),
                    "record": name,
                    "task": task,
                    "title": (repository.tasks.get(task) or {}).get("title", ""),
                    "decision": record.get("decision", ""),
                    "by": record.get("by", ""),
                }
            )
    return found


def _compared(repository: Repository, revision: str) -> dict[str, Any]:
    from santescaffold import preview

    text = repository.git("show", f"{revision}:./plan.yml")
    if text is None:
        raise NoRepository(
            f"there is no plan to compare with; revision {revision}; git knows no plan.yml there; "
            "name a commit, tag or branch in which the repository had one"
        )
    found = preview.compare(Plan(text), repository.plan)
    return {"revision": revision, "answers": found["answers"], "sections": preview.differences(found)}


def _list(values: Any, nothing: str = "none") -> str:
    texts = [words(str(value)) for value in values or []]
    if not texts:
        return nothing
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def in_words(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the plan in sentences, each under a heading."""
    answers, project, release = plan["answers"], plan["project"], plan["release"]
    roles = _list([role["name"] for role in plan["roles"]]).lower()
    runtime = "in containers" if release["runtime"] == "containers" else "installed on the machines themselves"
    topology = {
        "single_host": "everything on one machine",
        "split": "proxy, application and database on separate machines",
        "clustered": "several application servers behind a balancer",
        "role_split_cluster": "a cluster whose servers have different roles",
    }.get(str(answers.get("topology")), words(str(answers.get("topology"))))
    hosts = {
        entry["name"]: sum(host["environment"] == entry["name"] for host in plan["hosts"])
        for entry in plan["environments"]
    }
    counted = _list([f"{name} ({count} machine{'s' if count != 1 else ''})" for name, count in hosts.items()])
    backup, audit, access = plan["backup"], plan["audit"], plan["access"]
    kept = f"Audits are kept {audit['retention_days']} days in {audit['store_text']}"
    sent = f", and sent {audit['dispatch_text']}" if audit.get("dispatch") not in (None, "none") else ""
    systems = [system.get("name") for system in answers.get("connected_systems") or []]
    return [
        (
            "What it is",
            f"{project['name']} is a {roles} for {project['jurisdiction']}, run by {project['organization']}. "
            f"It keeps {_list(answers.get('stored_resources'))}.",
        ),
        (
            "Software",
            f"SanteDB {release['line']}, {runtime}, with {len(plan['features'])} of its features: {topology}. "
            f"Environments: {counted}.",
        ),
        ("Databases", f"{', '.join(entry['name'] for entry in plan['databases'])}, in PostgreSQL."),
        ("Interfaces", f"It speaks {_list(answers.get('standards'))}. Connected systems: {_list(systems)}."),
        (
            "Size",
            f"It is made for {plan['sizing'].get('concurrent_clients')} people and programs at once and "
            f"{answers.get('records_per_year') or 'an unknown number of'} records a year.",
        ),
        (
            "Access",
            f"Administrators come in by {_list(access.get('remote_access'))}; "
            f"secure shell admits {access.get('ssh_from') or 'the addresses in the port table'}. "
            f"A second factor is {words(str(access.get('mfa')))}.",
        ),
        ("Audits", f"{kept}{sent}."),
        (
            "Backups",
            f"Every {backup['interval_hours']} hours ({_list(backup['methods'])}); at most {backup['rpo_hours']} hours "
            f"of data may be lost, and service is back within {backup['rto_hours']} hours. "
            f"A restore is practised every {backup['drill_months']} months.",
        ),
    ]


def _value(value: Any) -> str:
    """Return an answer as people read it."""
    if value is None or value in ([], {}, ""):
        return "nothing"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and all(isinstance(item, (str, int, float)) for item in value):
        return ", ".join(str(item) for item in value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else str(value)


def page(data: Mapping[str, Any]) -> str:
    """Return the page as HTML."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: "" if value is None else value,
    )
    environment.filters["words"] = lambda value: words(str(value))
    environment.filters["sentence"] = lambda value: sentence(str(value))
    environment.filters["value"] = _value
    return environment.get_template("report.html").render(**data)


@click.command()
@click.argument("repo", type=click.Path(file_okay=False, path_type=Path), default=".")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), default="report.html")
@click.option(
    "--compare", metavar="REVISION", help="Show too what changed in the plan since this commit, tag or branch."
)
@click.option("--json", "as_json", is_flag=True, help="Print what the page shows as JSON, and write no page.")
def report(repo: Path, output: Path, compare: str | None, as_json: bool) -> None:
    """Write one HTML page about REPO: progress, what blocks production, certificates, machines, the plan in words.

    The page needs no network, prints well, and can be sent by mail. It holds names and addresses of machines: send it
    to those who may know them.

    \b
    Examples:
      santescaffold report -o /tmp/registry.html
      santescaffold report --compare v1
    """
    from santescaffold.cli import tell_interrupted

    tell_interrupted(repo)
    try:
        data = gather(Repository(repo), compare)
        if as_json:
            for environment in data["environments"]:
                del environment["drawing"]
            click.echo(json.dumps(data, indent=2, ensure_ascii=False, default=str))
            return
        text = page(data)
    except NoRepository as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, output)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        click.echo(
            f"Error: the page cannot be written ({error.strerror}); {output}; nobody can read it; "
            "name another file with -o",
            err=True,
        )
        sys.exit(1)
    click.echo(f"{output} is written.")
