#!/usr/bin/python
"""Writes records and their evidence into the repository, each whole or not at all."""

from __future__ import annotations

DOCUMENTATION = r"""
module: verify_record
short_description: Write records of what was verified
description: [A task that holds gets evidence and a record; one that does not or cannot be checked gets a line in the report only.]
options:
  records:
    description: [Directory of the records.]
    type: path
    required: true
  environment:
    description: [Name of the environment.]
    type: str
    required: true
  by:
    description: [Who ran it.]
    type: str
    required: true
  tasks:
    description: [Tasks of the plan.]
    type: list
    elements: dict
    required: true
  results:
    description: [Results of the checks.]
    type: list
    elements: dict
    required: true
  write:
    description: [Whether records are written, beside the report.]
    type: bool
    default: true
author: santescaffold
"""

EXAMPLES = r"""
- name: Write them
  verify_record:
    records: records
    environment: staging
    by: Amina Said
    tasks: "{{ verify_tasks }}"
    results: "{{ verify_results }}"
"""

RETURN = r"""
report:
  description: Path of the report.
  returned: always
  type: str
written:
  description: Paths of the records written.
  returned: always
  type: list
"""

import datetime
import json
import os

from ansible.module_utils.basic import AnsibleModule


def put(path, text):
    """Write a file so that it is there whole or not at all; return whether it is new or another."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        with open(path, encoding="utf-8") as stream:
            if stream.read() == text:
                return False
    except FileNotFoundError:
        pass
    scratch = f"{path}.new"
    with open(scratch, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.replace(scratch, path)
    return True


OWN = "verify playbook"


def standing(path):
    """Return (whether there is a record, whether this module wrote it, the answers it was given for)."""
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read()
    except FileNotFoundError:
        return False, False, ""
    found = dict(
        line.partition(": ")[::2] for line in text.splitlines() if ": " in line and not line.startswith(("#", " "))
    )
    return True, found.get("by", "").strip("\"'").startswith(OWN), found.get("answers_digest", "").strip("\"'")


def yaml_of(head, values):
    """Return YAML of which each value is JSON on its line."""
    lines = [head, "---"]
    for key, value in values.items():
        name = '"on"' if key == "on" else key
        if isinstance(value, list) and value:
            lines += [f"{name}:", *(f"  - {json.dumps(item, ensure_ascii=False, sort_keys=True)}" for item in value)]
        else:
            lines.append(f"{name}: {json.dumps(value, ensure_ascii=False, sort_keys=True)}")
    return "\n".join(lines) + "\n"


def main():
    """Write."""
    module = AnsibleModule(
        argument_spec={
            "records": {"type": "path", "required": True},
            "environment": {"type": "str", "required": True},
            "by": {"type": "str", "required": True},
            "tasks": {"type": "list", "elements": "dict", "required": True},
            "results": {"type": "list", "elements": "dict", "required": True},
            "write": {"type": "bool", "default": True},
        }
    )
    given = module.params
    root, environment = given["records"], given["environment"]
    moment = datetime.datetime.now(datetime.timezone.utc)
    # As the other writers of records and the gate that reads them: the day where Ansible runs.
    today, tasks = datetime.date.today().isoformat(), {task["id"]: task for task in given["tasks"]}
    changed, written, withdrawn = False, [], []
    for result in given["results"]:
        task = tasks[result["task"]]
        place = "project" if task["scope"] == "project" else environment
        path = os.path.join(root, place, f"{task['id']}.yml")
        there, own, digest = standing(path)
        if result["status"] == "failed" and own and given["write"]:
            # What this module said no longer holds; Git keeps it. What people signed is theirs.
            os.unlink(path)
            changed = True
            withdrawn.append(task["id"])
        if result["status"] != "done" or not given["write"] or (there and not own and digest == task["answers_digest"]):
            continue
        evidence = os.path.join("records", environment, "evidence", f"{task['id']}-{today}.yml")
        body = {
            "task": task["id"], "environment": environment, "checked": task["verify_how"] or task["title"], "result": "holds",
            "at": moment.strftime("%Y-%m-%dT%H:%M:%SZ"), "by": given["by"], "answers_digest": task["answers_digest"], "details": result["details"],
        }  # fmt: skip
        repository = os.path.dirname(os.path.abspath(root))
        put(os.path.join(repository, evidence), yaml_of(f"# Evidence of {task['id']}, by playbooks/verify.yml", body))
        record = {
            "task": task["id"],
            "decision": "done",
            "by": f"{OWN}, run by {given['by']}",
            "team_role": task["owner"],
            "on": today,
        }
        record |= {"evidence": evidence, "answers_digest": task["answers_digest"]}
        if task["scope"] != "project":
            record["environment"] = environment
        changed |= put(path, yaml_of(f"# Checked by machine: {task['title']}", record))
        written.append(os.path.relpath(path, repository))
    report = os.path.join(root, environment, "evidence", f"verify-{today}.yml")
    summary = {"environment": environment, "at": moment.strftime("%Y-%m-%dT%H:%M:%SZ"), "by": given["by"]}
    for status in ("done", "failed", "waived", "cannot"):
        summary[status] = [
            result["task"] if status == "done" else
            {"task": result["task"], "title": tasks[result["task"]]["title"], **({"problems": result["problems"]} if status in ("failed", "waived") else {"why": result["reason"]})}
            for result in sorted(given["results"], key=lambda result: result["task"]) if result["status"] == status
        ]  # fmt: skip
    if withdrawn:
        summary["withdrawn"] = withdrawn
    changed |= put(
        report,
        yaml_of(
            "# What playbooks/verify.yml found: done, failed, failed but waived by people, and what it cannot check (never counted as passed)",
            summary,
        ),
    )
    module.exit_json(changed=changed, report=report, written=written)


if __name__ == "__main__":
    main()
