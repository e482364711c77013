"""The commands that need more than a script has: a network, a person, a browser, servers. Each block is run here as it stands.

No network: what `pip` would fetch lies in a directory, and what it would install stands beside it. A person: types what is
asked. Servers: make and Ansible read the commands, and LAB says which test runs them against real hosts.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.docs.pages import PAGES, WRITTEN, block, blocks, commands, name_of, others, runnable, shell, without_blocks
from tests.support import MINIMUM, ROOT, git

RUN_BY = {
    ("README.md", "make demo"): "test_make_demo",
    ("CONTRIBUTING.md", "make demo"): "test_make_demo",
    ("README.md", "pip install ."): "test_the_package_from_a_clone",
    ("README.md", "copier copy"): "tests/terminal/test_terminal_interview.py",
    ("docs/tutorial.md", "pipx install"): "test_the_package_from_an_index",
    ("docs/tutorial.md", "santescaffold interview"): "test_the_form_is_served",
    ("docs/how-to/adopt.md", "santescaffold interview"): "test_the_form_is_served",
    ("docs/tutorial.md", "make setup"): "test_from_setup_to_verify",
    ("docs/how-to/air-gap.md", "pip download"): "test_the_tools_travel",
    ("docs/how-to/air-gap.md", "pip install"): "test_the_tools_travel",
    ("docs/how-to/air-gap.md", "make deploy"): "test_from_setup_to_verify",
    ("docs/how-to/vault-key-custody.md", "(umask"): "test_a_new_vault_key",
}
"""Which test runs a block that no page's script holds."""

LAB = {
    "secrets": "tools/lab/plans.py",
    "deploy": "tools/lab/plans.py",
    "gate": "tests/lab/test_split.py",
    "verify": "tests/lab/test_split.py",
    "certificates": "tests/lab/test_faults.py",
    "backup": "tests/lab/test_split.py",
    "restore-drill": "tests/lab/test_split.py",
    "upgrade": "tests/lab/test_faults.py",
}
"""Where the lab runs a target of the repository's Makefile against real hosts."""

HERE = {"setup": "test_from_setup_to_verify", "check": "test_make_demo"}
"""Which test of this file runs a target that needs no hosts."""


# ---- nothing is left out


def test_every_block_is_run() -> None:
    scripts = {line for page in PAGES for text in runnable(page) for line in commands(text)}
    named = {(name, block(name, start)) for name, start in RUN_BY}
    for page in WRITTEN:
        for text in others(page):
            run = (name_of(page), text) in named or set(commands(text)) <= scripts
            assert run, f"no test runs this block of {name_of(page)}:\n{text}"
    for (name, start), test in RUN_BY.items():
        source = (ROOT / test if test.endswith(".py") else Path(__file__)).read_text(encoding="utf-8")
        body = source if test.endswith(".py") else source.split(f"def {test}(")[1].split("\n\n\n")[0]
        assert f'"{name}", "{start}' in body, f"{test} does not run the block of {name} that begins with {start}"
    for page in (ROOT / "docs/reference").glob("*.md"):
        assert not [*others(page), *runnable(page)], "reference pages have no commands"
    for page in WRITTEN:
        assert not re.search(r"\n\n    (?:make|santescaffold|pip|git) ", without_blocks(page)), (
            "a block without a fence"
        )


def named_targets() -> set[str]:
    found: set[str] = set()
    for page in PAGES:
        text = "\n".join([*others(page), *runnable(page), *re.findall(r"`([^`\n]+)`", without_blocks(page))])
        found |= set(re.findall(r"(?m)(?:^|\s)make ([a-z-]+)", text))
    return found


def test_the_lab_runs_what_needs_servers(demoland: Path, surroundings: dict[str, str]) -> None:
    for target, name in LAB.items():
        assert f'.make("{target}"' in (ROOT / name).read_text(encoding="utf-8"), f"{name} does not run make {target}"
    in_the_lab = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests/lab").glob("*.py"))
    assert re.search(
        r"from tools\.lab import (?:.*, )?plans|from tools\.lab\.plans import|tools\.lab\.sites", in_the_lab
    )
    site = (ROOT / "template/playbooks/site.yml").read_text(encoding="utf-8")
    assert "import_playbook: baseline.yml" in site, "make deploy, which the lab runs, begins with make baseline"
    alone = (ROOT / "tests/unit/test_secrets_and_artefacts.py").read_text(encoding="utf-8")
    assert 'play("artefacts"' in alone, "make artefacts needs no hosts, and its test plays it"
    # a stand-in is no SanteDB: the front page says so
    assert "**Rehearse on staging with SanteDB's own images**" in (ROOT / "README.md").read_text(encoding="utf-8")
    targets = named_targets()
    assert targets <= {*LAB, *HERE, "baseline", "artefacts"}
    for target in sorted(targets):
        planned = shell(f"make -n {target} ENV=staging", demoland, surroundings)
        for playbook in re.findall(r"ansible-playbook .*?(playbooks/[a-z-]+\.yml)", planned):
            assert (demoland / playbook).is_file(), "ansible-lint, in make check, reads every playbook as Ansible does"


# ---- the package


def dependencies(directory: Path) -> Path:
    """Return a directory that holds what the tests have installed, without the project: as links."""
    directory.mkdir(parents=True)
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "santescaffold" not in path.name and path.suffix != ".pth":
            (directory / path.name).symlink_to(path)
    return directory


@pytest.fixture
def clean(tmp_path: Path, surroundings: dict[str, str]) -> dict[str, str]:
    """Surroundings with an empty virtual environment that pip fills from what lies beside it, never from a network."""
    made = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(made)], check=True)
    site = made / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    (site / "beside.pth").write_text(f"{dependencies(tmp_path / 'beside')}\n", encoding="utf-8")
    (made / "bin/pipx").write_text('#!/bin/sh\nexec pip "$@"\n', encoding="utf-8")
    (made / "bin/pipx").chmod(0o755)
    (tmp_path / "index").mkdir()
    tools = [path for path in surroundings["PATH"].split(os.pathsep) if path != str(Path(sys.executable).parent)]
    return {
        **surroundings,
        "PATH": os.pathsep.join([str(made / "bin"), *tools]),
        "VIRTUAL_ENV": str(made),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path / "index"),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # as --no-build-isolation: what builds it is beside, too
        "PIP_CONFIG_FILE": os.devnull,
    }


def test_the_package_from_a_clone(clean: dict[str, str], project: Path, tmp_path: Path) -> None:
    """The front page: install it, write the five answers, make the repository."""
    clone = tmp_path / "clone"
    shutil.copytree(project, clone)
    (five,) = [text for kind, text in blocks(ROOT / "README.md") if kind == "yaml" and "vision_statement" in text]
    assert set(MINIMUM) < set(yaml.safe_load(five))
    (clone / "plan.yml").write_text(five, encoding="utf-8")
    said = shell(block("README.md", "pip install ."), clone, clean)
    assert "production before_use: 0 of " in said
    assert (clone / "registry/plan.yml").is_file()
    found = shell("command -v santescaffold; santescaffold --version; santescaffold explain C28", tmp_path, clean)
    assert found.startswith(f"{clean['VIRTUAL_ENV']}/bin/santescaffold\n")
    extra = next(text for text in re.findall(r"`(pip install [^`]+)`", without_blocks(ROOT / "README.md")))
    assert "Successfully installed" in shell(f"pip uninstall -qy santescaffold && {extra}", clone, clean)


def test_the_package_from_an_index(clean: dict[str, str], project: Path, tmp_path: Path) -> None:
    """With pip in pipx's place: what it installs, and with which extra, is the same."""
    shell(f"pip wheel --quiet --no-deps --wheel-dir {tmp_path / 'index'} {project}", tmp_path, clean)
    said = shell(block("docs/tutorial.md", "pipx install"), tmp_path, clean)
    assert "Successfully installed santescaffold-" in said
    assert "does not provide the extra" not in said
    assert "--no-browser" in shell("santescaffold interview --help", tmp_path, clean)


def wheel(directory: Path, name: str, version: str) -> None:
    """Write an empty package, to be downloaded instead of a big one."""
    stem = f"{name.replace('-', '_')}-{version}"
    files = {
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    listed = [
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},{len(text)}"
        for path, text in files.items()
    ]
    with zipfile.ZipFile(directory / f"{stem}-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(f"{stem}.dist-info/RECORD", "\n".join([*listed, f"{stem}.dist-info/RECORD,,", ""]))


def test_the_tools_travel(clean: dict[str, str], demoland: Path, project: Path, tmp_path: Path) -> None:
    """Downloaded on one machine, installed on another that has nothing but what was carried over."""
    here, there = tmp_path / "connected/registry", tmp_path / "control/registry"
    shutil.copytree(demoland, here)
    pins = re.findall(r"(?m)^([a-z-]+)==(\S+)$", (here / "requirements.txt").read_text(encoding="utf-8"))
    assert len(pins) > 3
    for name, version in pins:
        wheel(tmp_path / "index", name, version)
    shell(f"pip wheel --quiet --no-deps --wheel-dir {tmp_path / 'index'} {project}", tmp_path, clean)
    # What the package needs is beside, and pip downloads it all the same: not here.
    shell(block("docs/how-to/air-gap.md", "pip download"), here, {**clean, "PIP_NO_DEPS": "1"})
    assert (here / "template/copier.yml").is_file()
    assert len(list((here / "wheels").iterdir())) == len(pins) + 1
    shutil.copytree(here, there)
    (tmp_path / "index").rename(tmp_path / "left-behind")
    away = {name: value for name, value in clean.items() if name not in ("PIP_FIND_LINKS", "PIP_NO_INDEX")}
    empty = Path(clean["VIRTUAL_ENV"])
    next(empty.glob("lib/*/site-packages/beside.pth")).unlink()
    shell(block("docs/how-to/air-gap.md", "pip install"), there, away)
    listed = shell("pip list --format freeze", there, away)
    assert {f"{name}=={version}" for name, version in pins} <= set(listed.split())


# ---- a browser


@pytest.mark.parametrize("page", ["docs/tutorial.md", "docs/how-to/adopt.md"])
def test_the_form_is_served(page: str, surroundings: dict[str, str], tmp_path: Path) -> None:
    wanted = {
        "docs/tutorial.md": block("docs/tutorial.md", "santescaffold interview"),
        "docs/how-to/adopt.md": block("docs/how-to/adopt.md", "santescaffold interview"),
    }[page]
    work = tmp_path / "registry"
    work.mkdir()
    file = work / shlex.split(wanted)[2]
    shutil.copy(ROOT / "tests/plans/valid/demoland-mpi.yml", file)
    before = file.read_bytes()
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/shown.new\nmv {tmp_path}/shown.new {tmp_path}/shown\n')
    browser.chmod(0o755)
    process = subprocess.Popen(
        ["bash", "-c", wanted], cwd=work, env={**surroundings, "BROWSER": f"{browser} %s"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        address = first.removeprefix("The form is at ").strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{40,}/", address), first + process.stdout.read()
        with urllib.request.urlopen(address, timeout=30) as answer:
            shown = answer.read().decode()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(address.rsplit("/", 2)[0] + "/", timeout=30)
        os.killpg(process.pid, signal.SIGINT)
        said = process.stdout.read()
        assert process.wait(30) == 0, said
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert "<title>" in shown
    assert (tmp_path / "shown").read_text(encoding="utf-8").strip() == address, "the browser was opened there"
    assert "Next: santescaffold new" in said
    assert file.read_bytes() == before, "looking changes nothing"


# ---- make


@pytest.mark.slow
def test_make_demo(project: Path, surroundings: dict[str, str], tmp_path: Path) -> None:
    """The first of the two commands that set everything up; the second is what CI runs, this test included."""
    written = [
        commands(block(name, "make demo")) for name, _ in (("README.md", "make demo"), ("CONTRIBUTING.md", "make demo"))
    ]
    assert written == [["make demo", "make test"]] * 2
    assert "exec make test\n" in (ROOT / ".ci/run").read_text(encoding="utf-8")
    clone = tmp_path / "clone"
    shutil.copytree(project, clone)
    (clone / ".venv").symlink_to(sys.prefix)
    (clone / ".git/info/exclude").write_text(".venv\nstamp\n", encoding="utf-8")
    # The environment of these tests serves, and must not be installed into: a stamp newer than what it depends on says it is ready.
    (clone / "stamp").touch()
    said = shell("make demo STAMP=stamp", clone, surroundings)
    assert "Installing" not in said
    assert "inventories/production: fine" in said
    assert (clone / "demo/demoland-client-registry/plan.yml").is_file()
    shell("make -n test STAMP=stamp", clone, surroundings)


@pytest.fixture
def keyed(demoland: Path, surroundings: dict[str, str], tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """Demoland's repository, and surroundings with the vault keys of its environments."""
    repository = tmp_path / "registry"
    shutil.copytree(demoland, repository)
    keys = tmp_path / ".santedb"
    keys.mkdir(mode=0o700)
    for name in ("staging", "production"):
        (keys / f"{name}.vault").write_text(f"the key of {name}\n", encoding="utf-8")
    return repository, {**surroundings, "HOME": str(tmp_path)}


@pytest.mark.slow
def test_from_setup_to_verify(keyed: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    """The tools are installed and the secrets made; what goes to hosts is read by make and Ansible up to the first task."""
    repository, environment = keyed
    python = tmp_path / "python"  # one whose environments see what the tests have installed
    python.write_text(
        f'#!/bin/sh\nset -e\n{sys.executable} "$@"\n'
        f"for site in .venv/lib/*/site-packages; do echo {dependencies(tmp_path / 'beside')} > $site/beside.pth; done\n",
        encoding="utf-8",
    )
    python.chmod(0o755)
    environment = {**environment, "PYTHON": str(python), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    sequence = [
        *commands(block("docs/tutorial.md", "make setup")),
        *commands(block("docs/how-to/air-gap.md", "make deploy")),
    ]
    for command in sequence:
        words = shlex.split(command)
        target = words[1]
        if target in ("setup", "secrets"):
            shell(command, repository, environment)
        elif target in HERE:
            continue
        else:
            assert target in LAB or target == "baseline", command
            more = next((word.removeprefix("ARGS=") for word in words if word.startswith("ARGS=")), "")
            rest = [word for word in words if not word.startswith("ARGS=")]
            said = shell(shlex.join([*rest, f"ARGS={more} --syntax-check".replace("= ", "=")]), repository, environment)
            assert f"playbook: playbooks/{'site' if target == 'deploy' else target}.yml" in said
    vault = repository / "inventories/staging/group_vars/all/vault.yml"
    assert vault.read_text(encoding="utf-8").startswith("$ANSIBLE_VAULT;")


@pytest.mark.slow
def test_a_new_vault_key(keyed: tuple[Path, dict[str, str]]) -> None:
    """The secrets stay, the new key opens them, and the old one no longer does."""
    repository, environment = keyed
    keys = Path(environment["HOME"]) / ".santedb"
    shell("make secrets ENV=production && git add --all && git commit -qm Secrets", repository, environment)
    shutil.copy(keys / "production.vault", keys / "old")
    view = "ansible-vault view --vault-id production@{} inventories/production/group_vars/all/vault.yml"
    secrets = shell(view.format(keys / "old"), repository, environment)
    assert "vault_database_audit_password" in secrets
    shell(block("docs/how-to/vault-key-custody.md", "(umask"), repository, environment)
    assert shell(view.format(keys / "production.vault"), repository, environment) == secrets
    with pytest.raises(AssertionError, match="Decryption failed"):
        shell(view.format(keys / "old"), repository, environment)
    assert (keys / "production.vault").stat().st_mode & 0o777 == 0o600
    assert git(repository, "status", "--porcelain") == ""
    shell("make unlocked ENV=production", repository, environment)
