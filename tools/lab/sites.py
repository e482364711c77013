"""A deployment repository rendered for hosts of the lab, and worked with as its README says: make secrets, deploy, verify."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from tools import render
from tools.lab import Host, Lab, Snapshot, images

PASSWORD = "the vault password of a laboratory"


@dataclass(frozen=True)
class Recap:
    """What Ansible counted per host at the end of a run."""

    hosts: dict[str, dict[str, int]]

    @property
    def changed(self) -> dict[str, int]:
        """Hosts on which something changed, and how much."""
        return {name: counts["changed"] for name, counts in self.hosts.items() if counts["changed"]}

    @property
    def failed(self) -> dict[str, int]:
        """Hosts on which something failed or that did not answer."""
        wrong = {name: counts["failed"] + counts["unreachable"] for name, counts in self.hosts.items()}
        return {name: count for name, count in wrong.items() if count}


@dataclass(frozen=True)
class Done:
    """A finished run: exit code, output, its recap."""

    code: int
    text: str
    seconds: float

    @property
    def recap(self) -> Recap:
        """The counts of the last recap."""
        found: dict[str, dict[str, int]] = {}
        for line in self.text.splitlines():
            match = re.match(r"^(\S+)\s+: (ok=.*)$", line)
            if match:
                found[match[1]] = {name: int(count) for name, count in (pair.split("=") for pair in match[2].split())}
        return Recap(found)

    @property
    def line(self) -> str:
        """The output with every run of blanks as one, to look for sentences that Ansible folds."""
        return re.sub(r"\s+", " ", self.text)

    def changes(self) -> str:
        """Return the tasks that changed something, one a line, for the message of a failed assertion."""
        task, found = "", []
        for line in self.text.splitlines():
            if line.startswith(("TASK [", "RUNNING HANDLER [")):
                task = line.split("[", 1)[1].split("]")[0]
            elif line.startswith("changed: "):
                found.append(f"{task}: {line}")
        return "\n".join(found)


@dataclass(frozen=True)
class Rested:
    """A site at rest: its repository and keys in `folder`, its hosts' disks, what its runs had said."""

    folder: Path
    environment: str
    groups: dict[str, tuple[int, list[str]]]
    answers: dict[str, Any]
    runs: dict[str, Done]
    hosts: dict[str, Snapshot]

    def keep(self, folder: Path) -> None:
        """Copy everything below `folder`, for later runs of the lab. Raises OSError."""
        folder.mkdir(parents=True)
        shutil.copytree(self.folder, folder / "site", symlinks=True)
        hosts = {name: one.moved(folder / "hosts" / name) for name, one in self.hosts.items()}
        with (folder / "rested.pickle").open("wb") as file:
            pickle.dump(replace(self, folder=folder / "site", hosts=hosts), file)

    @staticmethod
    def kept(folder: Path) -> Rested:
        """Read what `keep` wrote there. Raises OSError."""
        with (folder / "rested.pickle").open("rb") as file:
            found: Rested = pickle.load(file)
        return found


def strategy() -> dict[str, str]:
    """Return the environment that lets Ansible run its modules through Mitogen: a third of the time on two processors.

    Tasks, modules and order are the same; only the interpreter on a host lasts from one task to the next. With
    LAB_STRATEGY=linear nothing is set, and Ansible runs as it does for operators. Raises RuntimeError without Mitogen.
    """
    if os.environ.get("LAB_STRATEGY") == "linear":
        return {}
    found = importlib.util.find_spec("ansible_mitogen")
    if not found or not found.origin:
        raise RuntimeError("Mitogen is missing from this Python's packages: make setup")
    return {
        "ANSIBLE_STRATEGY": "mitogen_linear",
        "ANSIBLE_STRATEGY_PLUGINS": str(Path(found.origin).parent / "plugins/strategy"),
    }


class Site:
    """A rendered repository and the hosts it deploys to.

    `groups` names each host's number and groups; hosts that run containers get Docker's kernel features. `disks` are
    mount points of further file systems, by host. `runs` is what each finished run said, by its label.
    """

    def __init__(
        self,
        lab: Lab,
        folder: Path,
        environment: str,
        groups: Mapping[str, tuple[int, list[str]]],
        answers: Mapping[str, Any],
    ) -> None:
        """Belong to a lab and a folder; nothing is there before `build`, or `wake`."""
        self.lab, self.folder, self.repository, self.environment = lab, folder, folder / "repository", environment
        self.groups = dict(groups)
        self.answers = dict(answers)
        self.runs: dict[str, Done] = {}

    def build(self, disks: Mapping[str, Sequence[str]] | None = None) -> Site:
        """Boot the bare hosts and render the repository; return the site itself."""
        for name, (number, mine) in self.groups.items():
            docker = bool({"icdr", "portal"} & set(mine))
            self.lab.host(name, number, docker=docker, disks=(disks or {}).get(name, ()))
        self.lab.start()
        self.prepared().render()
        self.name_hosts()
        return self

    def prepared(self) -> Site:
        """Lay down what an administrator brings, the vault's password and a name for git; return the site itself."""
        (self.folder / ".santedb").mkdir(parents=True)
        (self.folder / f".santedb/{self.environment}.vault").write_text(PASSWORD, encoding="ascii")
        (self.folder / ".gitconfig").write_text("[user]\n\tname = Amina Okello\n\temail = amina@example.org\n")
        return self

    def rest(self) -> Rested:
        """Stop every host and keep the whole as it is; any number of sites can be woken from it."""
        return Rested(
            self.folder, self.environment, self.groups, self.answers, dict(self.runs), self.lab.snapshots()
        )  # fmt: skip

    @classmethod
    def wake(cls, rested: Rested, lab: Lab, folder: Path) -> Site:
        """Boot a site that rested, with a copy of its repository in `folder`, which must not be there yet."""
        shutil.copytree(rested.folder, folder, symlinks=True)
        site = cls(lab, folder, rested.environment, rested.groups, rested.answers)
        site.runs = dict(rested.runs)
        lab.clone(rested.hosts)
        site.name_hosts()
        return site

    def host(self, name: str) -> Host:
        """The host of that name."""
        return self.lab[name]

    def render(self, **changes: Any) -> None:
        """Render the plan, with these answers changed from now on, over the repository, and commit."""
        self.answers.update(changes)
        others = [host for host in self.answers.get("hosts", []) if host["environment"] != self.environment]
        hosts = [
            {
                "name": name,
                "environment": self.environment,
                "groups": groups,
                "address": f"10.77.0.{number}",
                "internal_fqdn": f"{name}.lab.example.org",
                "vcpu": 2,
                "ram_gb": 8,
                "disk_gb": 10,
                "os": "debian",
            }
            for name, (number, groups) in self.groups.items()
        ]
        template, fresh = self.folder / "template", self.folder / "fresh"
        for folder in (template, fresh):
            shutil.rmtree(folder, ignore_errors=True)
        render.snapshot(template)
        render.render(fresh, {**self.answers, "hosts": [*hosts, *others]}, template)
        if self.repository.exists():  # as an update: files of the first plan that this one does not have go away
            first = self.git("rev-list", "--max-parents=0", "HEAD").strip()
            for name in self.git("ls-tree", "-r", "--name-only", first).splitlines():
                if not (fresh / name).exists():
                    (self.repository / name).unlink(missing_ok=True)
        shutil.copytree(fresh, self.repository, symlinks=True, dirs_exist_ok=True)
        self.git("init", "-q")
        self.commit("Plan")

    def git(self, *arguments: str) -> str:
        """Run git in the repository and return what it says."""
        environment = {**os.environ, "HOME": str(self.folder)}
        done = subprocess.run(
            ["git", *arguments], cwd=self.repository, env=environment, check=True, capture_output=True, text=True
        )
        return done.stdout

    def commit(self, message: str) -> None:
        """Commit everything that git does not ignore."""
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)

    @property
    def facts(self) -> dict[str, Any]:
        """What the plan says to all hosts."""
        path = self.repository / f"inventories/{self.environment}/group_vars/all/10-generated.yml"
        found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        return found

    def group(self, name: str) -> dict[str, Any]:
        """What the plan says to a group of hosts."""
        path = self.repository / f"inventories/{self.environment}/group_vars/{name}/10-generated.yml"
        found: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
        return found

    def wait_for(self, happened: Callable[[], bool], seconds: float) -> None:
        """Wait until something is true; fail after so many seconds."""
        end = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < end, f"did not happen within {seconds} s"
            time.sleep(1)

    def name_hosts(self) -> None:
        """Let this machine know the environment's public names, as the DNS would. Nothing outside the lab sees it."""
        proxies = [f"10.77.0.{number}" for number, groups in self.groups.values() if "proxy" in groups]
        names = [one["fqdn"] for one in self.answers["domain_names"] if one["environment"] == self.environment]
        known = self.folder / "hosts"
        known.write_text(f"127.0.0.1 localhost\n{proxies[0]} {' '.join(names)}\n", encoding="ascii")
        subprocess.run(["mount", "--bind", str(known), "/etc/hosts"], check=True)

    def local(self, group: str, **variables: Any) -> None:
        """Set variables of a group where people do: in its 90-local.yml."""
        path = self.repository / f"inventories/{self.environment}/group_vars/{group}/90-local.yml"
        values = (yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else None) or {}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"---\n{yaml.safe_dump({**values, **variables}, width=1000)}", encoding="utf-8")

    # -- secrets --------------------------------------------------------------------------------------------------

    def _vault(self, *arguments: str, text: str | None = None) -> str:
        path = self.repository / f"inventories/{self.environment}/group_vars/all/vault.yml"
        identity = f"{self.environment}@{self.folder / f'.santedb/{self.environment}.vault'}"
        with tempfile.TemporaryDirectory() as scratch:
            editor = Path(scratch) / "editor"
            editor.write_text('#!/bin/sh\ncat > "$1"\n', encoding="ascii")
            editor.chmod(0o755)
            done = self.lab.ansible(
                *arguments, "--vault-id", identity, str(path), cwd=self.repository, program="ansible-vault"
            )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def secrets(self) -> dict[str, str]:
        """The secrets of the environment."""
        found: dict[str, str] = yaml.safe_load(self._vault("view"))
        return found

    def supply(self, values: Mapping[str, str]) -> None:
        """Add secrets that people bring, as with `ansible-vault edit`."""
        merged = {**self.secrets, **values}
        path = self.repository / f"inventories/{self.environment}/group_vars/all/vault.yml"
        path.write_text("---\n" + "".join(f"{name}: {json.dumps(value)}\n" for name, value in sorted(merged.items())))
        self._vault("encrypt", "--encrypt-vault-id", self.environment)

    # -- running --------------------------------------------------------------------------------------------------

    def make(self, target: str, *arguments: str, label: str | None = None, environment: str | None = None) -> Done:
        """Run a target of the repository's Makefile; the arguments are Ansible's."""
        begun = time.monotonic()
        done = self.lab.ansible(*self._target(target, arguments, environment), program="make", **self._surroundings)
        return self._done(done, begun, label or target)

    def interrupt(self, target: str, *arguments: str, at: str, label: str) -> Done:
        """Run a target and kill it, and all it started here, as soon as it prints `at`."""
        begun = time.monotonic()
        words = self._target(target, arguments, None)
        done = self.lab.interrupt(*words, program="make", at=at, **self._surroundings)
        return self._done(done, begun, label)

    def _target(self, target: str, arguments: Sequence[str], environment: str | None) -> list[str]:
        more = [f"ARGS={shlex.join(arguments).replace('$', '$$')}"] if arguments else []
        return [target, f"ENV={environment or self.environment}", *more]

    @property
    def _surroundings(self) -> dict[str, Any]:
        env = {"HOME": str(self.folder), "ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.profile_tasks", **strategy()}
        return {"cwd": self.repository, "env": env}

    def play(self, name: str, *arguments: str, label: str | None = None) -> Done:
        """Run playbooks (names with blanks between them) without make."""
        identity = f"{self.environment}@{self.folder / f'.santedb/{self.environment}.vault'}"
        playbooks = [f"playbooks/{one}.yml" for one in name.split()]
        begun = time.monotonic()
        done = self.lab.ansible(
            "-i", f"inventories/{self.environment}", "--vault-id", identity, *arguments, *playbooks,
            cwd=self.repository, env={"HOME": str(self.folder), **strategy()},
        )  # fmt: skip
        return self._done(done, begun, label or name)

    def _done(self, done: subprocess.CompletedProcess[str], begun: float, label: str) -> Done:
        result = Done(done.returncode, done.stdout + done.stderr, round(time.monotonic() - begun, 1))
        self.runs[label] = result
        (self.folder / f"{len(self.runs):02}-{label.replace(' ', '-').replace('/', '-')}.log").write_text(result.text)
        print(f"{label}: {result.seconds} s, exit {result.code}", flush=True)
        return result

    def deploy(self, *arguments: str, label: str = "deploy") -> Done:
        """`make deploy`, which must succeed."""
        done = self.make("deploy", *arguments, label=label)
        assert done.code == 0, done.text[-8000:]
        return done

    def bring_images(self, engine: str = "docker") -> None:
        """Put SanteDB's stand-ins where a registry would have them: on the hosts, with the engine the role installs."""
        for group, image in (("icdr", "mpi"), ("portal", "www")):
            for name, (_, groups) in self.groups.items():
                if group in groups:
                    if engine == "podman":
                        images.install_podman(self.host(name))
                    else:
                        images.install_docker(self.host(name), compose=False)
                    images.load(self.host(name), images.standin_archive(image=image), engine)
