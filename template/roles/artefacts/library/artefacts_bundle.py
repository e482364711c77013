"""Download what a deployment needs into a directory, and write the checksums."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: artefacts_bundle
short_description: Download what a deployment needs into a directory
description:
  - Downloads container images, Debian packages with all they depend on, Ansible collections and Python wheels, makes the
    directory of packages a source for apt, and writes C(SHA256SUMS).
  - What is there already is not downloaded again. What cannot be downloaded is returned, with the reason; the others go on.
options:
  path:
    description: Directory of the bundle.
    type: path
    required: true
  images:
    description: Image references.
    type: list
    elements: str
    default: []
  packages:
    description: Debian packages.
    type: list
    elements: str
    default: []
  debian_release:
    description: Release of the hosts; packages are downloaded only when this machine runs the same.
    type: str
    default: ""
  requirements_collections:
    description: requirements.yml
    type: path
  requirements_python:
    description: requirements.txt
    type: path
author: santescaffold
"""

EXAMPLES = r"""
- artefacts_bundle:
    path: bundle
    packages: [nftables]
"""

RETURN = r"""
problems:
  description: What could not be downloaded, and why.
  type: list
  returned: always
files:
  description: Number of files in the bundle.
  type: int
  returned: always
"""


class Bundle:
    """The directory and what went wrong while it was filled."""

    def __init__(self, path: str) -> None:
        """Start with an empty list of problems."""
        self.path = path
        self.problems: list[str] = []

    def run(self, what: str, command: list[str]) -> bool:
        """Run a command; a failure becomes a problem. Return whether it worked."""
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            self.problems.append(f"{what}: {command[0]} cannot be run ({error.strerror})")
            return False
        if done.returncode:
            said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
            self.problems.append(f"{what}: {said[-1].strip() if said else 'no reason given'}")
            return False
        return True

    def directory(self, name: str) -> str:
        """Return a directory of the bundle, made when absent."""
        path = os.path.join(self.path, name)
        os.makedirs(path, exist_ok=True)
        return path

    def images(self, references: list[str]) -> None:
        """Save each image as an archive that an engine can load."""
        engine = next((tool for tool in ("skopeo", "docker", "podman") if shutil.which(tool)), None)
        folder = self.directory("images")
        for reference in references:
            name = "".join(one if one.isalnum() or one in "._-" else "_" for one in reference) + ".tar"
            target = os.path.join(folder, name)
            if os.path.exists(target):
                continue
            part = f"{target}.part"
            if not engine:
                self.problems.append(f"image {reference}: neither skopeo nor docker nor podman is on this machine")
            elif engine == "skopeo":
                # An archive by digest has no tag inside; the name is given by the file.
                plain = reference.partition("@")[0]
                if self.run(
                    f"image {reference}",
                    ["skopeo", "copy", f"docker://{reference}", f"docker-archive:{part}:{plain}"],
                ):
                    os.replace(part, target)
            elif self.run(f"image {reference}", [engine, "pull", "--quiet", reference]) and self.run(
                f"image {reference}", [engine, "save", "--output", part, reference]
            ):
                os.replace(part, target)

    def debian(self, packages: list[str], release: str) -> None:
        """Download packages with everything they depend on and make the directory a source for apt."""
        here = ""
        if os.path.exists("/etc/os-release"):
            with open("/etc/os-release", encoding="utf-8") as file:
                here = dict(line.strip().split("=", 1) for line in file if "=" in line).get("VERSION_CODENAME", "")
        here = here.strip('"')
        if not packages:
            return
        if not shutil.which("apt-get"):
            self.problems.append("Debian packages: this machine has no apt-get")
            return
        if release and here != release:
            self.problems.append(f"Debian packages: the hosts run {release}, this machine {here or 'something else'}")
            return
        folder = self.directory("debian")
        os.makedirs(os.path.join(folder, "partial"), exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix="dpkg-status-") as status:
            # As if nothing were installed: then everything needed is downloaded, not only what this machine lacks.
            options = [
                f"Dir::State::status={status.name}",
                f"Dir::Cache::archives={folder}",
                "Debug::NoLocking=1",
                "APT::Install-Recommends=0",
                "APT::Sandbox::User=root",
            ]
            arguments = [part for option in options for part in ("-o", option)]
            command = ["apt-get", "--quiet", "--yes", *arguments, "--download-only", "install", *packages]
            self.run("Debian packages", command)
        if os.path.exists(os.path.join(folder, "lock")):
            os.unlink(os.path.join(folder, "lock"))
        shutil.rmtree(os.path.join(folder, "partial"), ignore_errors=True)
        self.index(folder)

    def index(self, folder: str) -> None:
        """Write the file Packages, by which apt finds what lies in the directory."""
        paragraphs = []
        for name in sorted(os.listdir(folder)):
            if not name.endswith(".deb"):
                continue
            path = os.path.join(folder, name)
            done = subprocess.run(["dpkg-deb", "--field", path], capture_output=True, text=True, check=False)
            if done.returncode:
                self.problems.append(f"package {name}: not readable")
                continue
            lines = [done.stdout.strip(), f"Filename: ./{name}", f"Size: {os.path.getsize(path)}", f"SHA256: {digest(path)}"]
            paragraphs.append("\n".join(lines))
        with open(os.path.join(folder, "Packages"), "w", encoding="utf-8") as file:
            file.write("\n\n".join(paragraphs) + "\n")

    def collections(self, requirements: str, wheels: str | None) -> None:
        """Download the collections. Where Galaxy cannot be reached they still come with the wheel of the bundle `ansible`."""
        command = [os.path.join(os.path.dirname(sys.executable), "ansible-galaxy"), "collection", "download"]
        if not os.path.exists(command[0]):
            command[0] = "ansible-galaxy"
        folder = self.directory("collections")
        if not any(name.endswith(".tar.gz") for name in os.listdir(folder)):
            before = list(self.problems)
            self.run("collections", [*command, "--requirements-file", requirements, "--download-path", folder])
            if wheels and os.path.exists(wheels):
                with open(wheels, encoding="utf-8") as file:
                    if any(line.startswith("ansible==") for line in file):
                        self.problems = before

    def wheels(self, requirements: str) -> None:
        """Download the Python packages of the control machine."""
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        self.run("Python packages", [*command, "--requirement", requirements, "--dest", self.directory("wheels")])

    def checksums(self) -> tuple[str, int]:
        """Return the text of SHA256SUMS for all files, and how many there are."""
        lines = []
        for folder, folders, names in os.walk(self.path):
            folders.sort()
            for name in sorted(names):
                path = os.path.join(folder, name)
                if name != "SHA256SUMS":
                    lines.append(f"{digest(path)}  {os.path.relpath(path, self.path)}\n")
        return "".join(lines), len(lines)


def digest(path: str) -> str:
    """Return the SHA-256 of a file."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            found.update(block)
    return found.hexdigest()


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "images": {"type": "list", "elements": "str", "default": []},
            "packages": {"type": "list", "elements": "str", "default": []},
            "debian_release": {"type": "str", "default": ""},
            "requirements_collections": {"type": "path"},
            "requirements_python": {"type": "path"},
        },
        supports_check_mode=False,
    )
    given = module.params
    os.makedirs(given["path"], exist_ok=True)
    bundle = Bundle(given["path"])
    bundle.images(given["images"])
    bundle.debian(given["packages"], given["debian_release"])
    if given["requirements_collections"]:
        bundle.collections(given["requirements_collections"], given["requirements_python"])
    if given["requirements_python"]:
        bundle.wheels(given["requirements_python"])
    text, files = bundle.checksums()
    sums = os.path.join(given["path"], "SHA256SUMS")
    before = ""
    if os.path.exists(sums):
        with open(sums, encoding="utf-8") as file:
            before = file.read()
    if text != before:
        with open(sums, "w", encoding="utf-8") as file:
            file.write(text)
    module.exit_json(changed=text != before, problems=bundle.problems, files=files)


if __name__ == "__main__":
    main()
