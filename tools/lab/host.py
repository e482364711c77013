"""Hosts: systemd in nspawn with an own address, an own firewall and an own sshd; and what may befall them."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from tools.lab import cgroups
from tools.lab.base import DEFAULT_SUITE, base_image
from tools.lab.namespaces import login_key
from tools.lab.settings import BRIDGE, NETWORK, PREFIX_LENGTH, PROXY_URL, cgroup_name, state_dir

RESTART_ASKED = 133  # how nspawn ends when the host itself asked for a reboot
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}


class HostError(RuntimeError):
    """A host did not boot, died, or refused a command; the message carries what it last said."""


@dataclass(frozen=True)
class Snapshot:
    """A stopped host: `lowers` newest first (read-only layers over the base), `disks` by mount point."""

    name: str
    number: int
    suite: str
    docker: bool
    lowers: tuple[Path, ...]
    disks: dict[str, Path]

    def moved(self, folder: Path) -> Snapshot:
        """Copy everything below `folder`, which may outlive the run, and return the copy. Raises OSError."""
        folder.mkdir(parents=True)

        def copied(source: Path, name: str) -> Path:
            subprocess.run(["cp", "-a", str(source), str(folder / name)], check=True)
            return folder / name

        lowers = tuple(copied(path, f"lower-{index}") for index, path in enumerate(self.lowers))
        disks = {point: copied(path, f"disk-{index}") for index, (point, path) in enumerate(self.disks.items())}
        return replace(self, lowers=lowers, disks=disks)


def _ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, capture_output=not check)


class Reachable:
    """What has a name, an address in the lab and an sshd."""

    name: str
    ip: str
    folder: Path

    def ssh(
        self,
        command: str,
        *,
        check: bool = True,
        input: str | None = None,  # as subprocess calls it
        user: str = "root",
        timeout: float = 300,
    ) -> subprocess.CompletedProcess[str]:
        """Run shell text on the host over ssh as `user` (root, or deploy, which has sudo) and return what came of it.

        With `check`, an exit code other than 0 raises HostError with the output; `timeout` seconds raise
        subprocess.TimeoutExpired. An unreachable host is exit code 255.
        """
        control = ["-o", "ControlMaster=auto", "-o", f"ControlPath={self.folder / 'ssh'}", "-o", "ControlPersist=30"]
        way = ["ssh", "-q", *ssh_options(), *(control if user == "root" else []), f"{user}@{self.ip}"]
        return self._run([*way, command], check, input, timeout)

    def _run(
        self, arguments: Sequence[str], check: bool, input: str | None, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run a program whose last argument is the shell text for the host."""
        done = subprocess.run(
            arguments, capture_output=True, text=True, input=input or "", timeout=timeout, check=False
        )
        return self._checked(done, arguments[-1], check)

    def _leave(self) -> None:
        """End the kept ssh connection: it must not outlive the power."""
        socket_path = self.folder / "ssh"
        if socket_path.exists():
            leave = ["ssh", "-q", "-o", f"ControlPath={socket_path}", "-O", "exit", "host"]
            subprocess.run(leave, capture_output=True, check=False)
            socket_path.unlink(missing_ok=True)

    def _checked(
        self, done: subprocess.CompletedProcess[str], command: str, check: bool
    ) -> subprocess.CompletedProcess[str]:
        if check and done.returncode:
            raise HostError(
                f"{self.name}: exit {done.returncode} of: {command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            )
        return done

    def wait_until(self, command: str, timeout: float = 60) -> str:
        """Repeat shell text over ssh until it exits 0; return its output. Raises HostError after `timeout` seconds."""
        end = time.monotonic() + timeout
        while True:
            done = self.ssh(command, check=False)
            if done.returncode == 0:
                return done.stdout
            if time.monotonic() > end:
                return self._checked(done, f"{command} (for {timeout} s)", True).stdout
            time.sleep(0.3)


class Host(Reachable):
    """One host. Made stopped; `start` boots it. Names are host names, numbers the last part of 10.77.0.x.

    Attributes: `name`, `ip`, `docker`, `suite`, `root` (its file system as this process sees it), `console` (a log).
    """

    def __init__(
        self,
        name: str,
        number: int,
        *,
        docker: bool = False,
        disks: Sequence[str] = (),
        suite: str = DEFAULT_SUITE,
        snapshot: Snapshot | None = None,
    ) -> None:
        """Lay the host's file system out; `disks` are mount points of file systems of their own.

        Raises HostError when the name is taken, RuntimeError outside a lab.
        """
        if len(name) > 12 or not 1 < number < 255:
            raise ValueError(
                "a host's name has at most 12 characters (an interface is named after it), its number 2-254"
            )
        self.name, self.number, self.docker = name, number, docker
        self.ip = f"{NETWORK}.{number}"
        self.suite = snapshot.suite if snapshot else suite
        self.folder = state_dir() / "hosts" / name
        if self.folder.exists():
            raise HostError(f"{name}: there is such a host already; stop and discard it first")
        for part in ("upper", "work", "root"):
            (self.folder / part).mkdir(parents=True)
        self.root, self.console = self.folder / "root", self.folder / "console.log"
        self._lowers = snapshot.lowers if snapshot else ()
        earlier = snapshot.disks if snapshot else {}
        points = (*(["/var/lib/docker"] if docker else []), *disks, *earlier)
        self._disks = {point: self.folder / f"disk-{index}" for index, point in enumerate(dict.fromkeys(points))}
        for point, path in self._disks.items():
            if point in earlier:
                subprocess.run(["cp", "-a", str(earlier[point]), str(path)], check=True)
            else:
                path.mkdir()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = False
        self._lock = threading.RLock()
        self._mount()
        self._furnish()

    def __repr__(self) -> str:
        """Name, address and whether it is up."""
        return f"<Host {self.name} {self.ip} {'up' if self.running else 'down'}>"

    # -- disk ---------------------------------------------------------------------------------------------------

    def _mount(self) -> None:
        lowers = ":".join(str(path) for path in (*self._lowers, base_image(self.suite)))
        # directories that a snapshot has can be renamed, as on any disk
        options = f"lowerdir={lowers},upperdir={self.folder / 'upper'},workdir={self.folder / 'work'},redirect_dir=on"
        subprocess.run(["mount", "-t", "overlay", f"lab-{self.name}", "-o", options, str(self.root)], check=True)

    def _furnish(self) -> None:
        if not self._lowers:
            furnish(self.root, self.name)
        marker = self.root / "etc/lab-docker-host"
        if self.docker:
            marker.touch()
        else:
            marker.unlink(missing_ok=True)
        trust(self.root, self.ip)

    # -- power --------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether the host is powered on."""
        return self._process is not None and self._process.poll() is None

    def start(self, timeout: float = 300) -> Host:
        """Power on and wait until the boot has finished and sshd answers; return the host itself.

        Raises HostError with the end of the console when it does not come up within `timeout` seconds.
        """
        with self._lock:
            if self.running:
                return self
            self._launch(timeout)
        threading.Thread(target=self._watch, args=(self._process,), daemon=True).start()
        return self

    def _launch(self, timeout: float) -> None:
        name = self.name
        self._stopping = False
        _ip("netns", "add", name)
        # The address of the interface never changes: others would keep an old one in their neighbour tables for 40 s.
        mac = f"02:4c:41:42:00:{self.number:02x}"
        _ip("link", "add", f"v-{name}", "type", "veth", "peer", "name", "eth0", "address", mac, "netns", name)
        _ip("link", "set", f"v-{name}", "master", BRIDGE, "up")
        _ip("-n", name, "addr", "add", f"{self.ip}/{PREFIX_LENGTH}", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        _ip("-n", name, "link", "set", "lo", "up")
        group = f"{cgroup_name()}/{name}"
        cgroups.create(group)
        nspawn = [
            *("systemd-nspawn", "-q", "--notify-ready=yes", "-D", str(self.root), "--boot"),
            *(f"--network-namespace-path=/run/netns/{name}", "--register=no", "--keep-unit"),
            *(f"--machine=lab-{name}", f"--hostname={name}", "--resolv-conf=off", "--timezone=off"),
            *("--link-journal=no", "--console=pipe", "--capability=CAP_NET_ADMIN,CAP_NET_RAW"),
        ]
        nspawn += [f"--bind={path}:{point}" for point, path in self._disks.items()]
        if self.docker:
            nspawn += ["--system-call-filter=@keyring"]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices, self.console.open("ab") as console:
            address = self.folder / "notify"
            address.unlink(missing_ok=True)
            notices.bind(str(address))
            notices.settimeout(0.5)
            self._process = subprocess.Popen(
                ["sh", "-c", f"{cgroups.joining(group)}; exec {shlex.join(nspawn)}"],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                env={**os.environ, "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network", "NOTIFY_SOCKET": str(address)},
            )
            end = time.monotonic() + timeout
            while True:  # the boot has finished, which is later than sshd answering
                with contextlib.suppress(TimeoutError):
                    if b"READY=1" in notices.recv(4096):
                        break
                self._check_alive(end, "did not finish booting")
        while True:
            with contextlib.suppress(OSError), socket.create_connection((self.ip, 22), 1) as connection:
                if connection.recv(3) == b"SSH":
                    return
            self._check_alive(end, "is up but its sshd does not answer")
            time.sleep(0.05)

    def _check_alive(self, end: float, what: str) -> None:
        if not self.running:
            self._clear()
            raise HostError(f"{self.name} died while booting: {self.said()}")
        if time.monotonic() > end:
            raise HostError(f"{self.name} {what}: {self.said()}")

    def _watch(self, process: subprocess.Popen[bytes] | None) -> None:
        """Power the host on again when it asked for a reboot itself, as a machine's firmware would."""
        while process is not None:
            code = process.wait()
            with self._lock:
                if self._stopping or self._process is not process or code != RESTART_ASKED:
                    return
                self._clear()
                with contextlib.suppress(HostError):
                    self._launch(120)
                process = self._process

    def _clear(self) -> None:
        """Forget the network namespace and the control groups: firewall rules must not outlive the power."""
        self._leave()
        _ip("netns", "del", self.name, check=False)
        _ip("link", "del", f"v-{self.name}", check=False)
        cgroups.remove(f"{cgroup_name()}/{self.name}")

    def stop(self, timeout: float = 300) -> None:
        """Shut down in order (SIGTERM to the host's init), wait for it. Raises subprocess.TimeoutExpired."""
        with self._lock:
            self._stopping = True
            if self._process is not None and self._process.poll() is None:
                self._process.terminate()
                self._process.wait(timeout)
            self._clear()

    def power_cut(self) -> None:
        """Take the power away: the host's init is killed, nothing is flushed in order. `start` boots the same disk."""
        with self._lock:
            self._stopping = True
            process = self._process
            if process is not None and process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.init_pid, signal.SIGKILL)
                process.wait(30)
            self._clear()

    def restart(self, *, hard: bool = False) -> Host:
        """Stop (or, `hard`, cut the power) and start again; return the host itself. Raises HostError."""
        if hard:
            self.power_cut()
        else:
            self.stop()
        return self.start()

    @property
    def init_pid(self) -> int:
        """The pid of the host's init as the lab sees it. Raises HostError when the host is down."""
        if self._process is None or self._process.poll() is not None:
            raise HostError(f"{self.name} is down")
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        if not children:
            raise HostError(f"{self.name} has no init yet")
        return int(children[0])

    def said(self, lines: int = 20) -> str:
        """Return the last lines of the host's console."""
        try:
            return "\n".join(self.console.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    # -- commands -----------------------------------------------------------------------------------------------

    def inside(
        self, command: str, *, check: bool = True, input: str | None = None, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run shell text as root in the host without the network or sshd (for a host that is cut off or locked down).

        Errors are those of `ssh`. Start no daemons this way: they would run outside the host's control group.
        """
        environment = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
        way = ["nsenter", "--target", str(self.init_pid), "--all", "env", "-i", *environment, "sh", "-c"]
        return self._run([*way, command], check, input, timeout)

    def put(self, local: Path, remote: str) -> None:
        """Copy a file or directory onto the host's disk (whether it is up or down); ownership becomes root's."""
        target = self.root / remote.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-r", "--no-target-directory", str(local), str(target)], check=True)

    def read(self, remote: str) -> str:
        """Return the text of a file on the host's disk (whether it is up or down). Raises OSError."""
        return (self.root / remote.lstrip("/")).read_text(encoding="utf-8")

    # -- faults -------------------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Pull the network cable."""
        _ip("link", "set", f"v-{self.name}", "down")

    def heal(self) -> None:
        """Plug the network cable in again, and undo `slow` and every `part_from` of this host."""
        _ip("link", "set", f"v-{self.name}", "up")
        subprocess.run(["tc", "-n", self.name, "qdisc", "del", "dev", "eth0", "root"], capture_output=True, check=False)
        subprocess.run(["nft", "delete", "table", "bridge", f"lab_{self.number}"], capture_output=True, check=False)

    def slow(self, rate: str = "1mbit", latency: str = "400ms") -> None:
        """Shape what the host sends to `rate` (tc notation) with a queue of `latency`; `heal` undoes it."""
        shape = ["tbf", "rate", rate, "burst", "16kb", "latency", latency]
        subprocess.run(["tc", "-n", self.name, "qdisc", "replace", "dev", "eth0", "root", *shape], check=True)

    def part_from(self, *others: Host) -> None:
        """Drop every packet between this host and `others` in the switch, both ways; `heal` undoes it."""
        lines = [f"add table bridge lab_{self.number}"]
        lines.append(f"add chain bridge lab_{self.number} forward {{ type filter hook forward priority 0; }}")
        for other in others:
            for one, two in ((self.ip, other.ip), (other.ip, self.ip)):
                lines.append(f"add rule bridge lab_{self.number} forward ip saddr {one} ip daddr {two} drop")
        text = "".join(f"{line}\n" for line in lines)
        subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)

    # -- copies -------------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Stop in order and keep the disk as a read-only layer; the host itself is gone afterwards.

        Any number of hosts can be made from the snapshot, one at a time under the same name and number.
        """
        self.stop()
        subprocess.run(["umount", str(self.root)], check=True)
        kept = state_dir() / "snapshots" / f"{self.name}-{time.monotonic_ns()}"
        kept.parent.mkdir(exist_ok=True)
        self.folder.rename(kept)
        return Snapshot(
            self.name,
            self.number,
            self.suite,
            self.docker,
            (kept / "upper", *self._lowers),
            {point: kept / path.name for point, path in self._disks.items()},
        )

    def discard(self) -> None:
        """Cut the power and throw the disk away."""
        self.power_cut()
        subprocess.run(["umount", "--lazy", str(self.root)], capture_output=True, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


def furnish(root: Path, name: str) -> None:
    """Write into the fresh file system `root` what makes it this host's: name, host key, log-ins, names, packages' source."""
    (root / "etc/hostname").write_text(f"{name}\n", encoding="ascii")
    public = login_key().with_suffix(".pub").read_text(encoding="ascii")
    for home, owner in (("root", 0), ("home/deploy", 1000)):
        folder = root / home / ".ssh"
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "authorized_keys").write_text(public, encoding="ascii")
        for path in (folder, folder / "authorized_keys"):
            os.chown(path, owner, owner)
    (root / "etc/apt/apt.conf.d/90lab").write_text(f'Acquire::http::Proxy "{PROXY_URL}";\n', encoding="ascii")
    key = root / "etc/ssh/ssh_host_ed25519_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(key)], check=True)
    # every boot has the same name resolution, without a name server
    (root / "etc/hosts").write_text(
        f"127.0.0.1 localhost\n127.0.1.1 {name}\n::1 localhost ip6-localhost\n", encoding="ascii"
    )


def trust(root: Path, ip: str) -> None:
    """Let ssh and Ansible know the host key in `root` as that of `ip`, and no other."""
    public = (root / "etc/ssh/ssh_host_ed25519_key.pub").read_text(encoding="ascii")
    known = known_hosts()
    kept = [line for line in known.read_text(encoding="ascii").splitlines() if not line.startswith(f"{ip} ")]
    known.write_text("\n".join([*kept, f"{ip} {' '.join(public.split()[:2])}", ""]), encoding="ascii")


def known_hosts() -> Path:
    """Return the file with the hosts' public keys; ssh and ansible-playbook check against it."""
    path = state_dir() / "known_hosts"
    path.touch()
    return path


def ssh_options() -> list[str]:
    """Return the ssh arguments with which this lab's hosts are reached: key, host keys, time limits."""
    options = (
        "BatchMode=yes",
        "IdentitiesOnly=yes",
        "StrictHostKeyChecking=yes",
        f"UserKnownHostsFile={known_hosts()}",
        "ConnectTimeout=5",
        "ServerAliveInterval=2",
        "ServerAliveCountMax=3",
    )
    return ["-F", "/dev/null", "-i", str(login_key()), *(part for option in options for part in ("-o", option))]


class Lab:
    """The hosts of one test session, by name."""

    def __init__(self) -> None:
        """Start with no hosts. Raises RuntimeError outside `python -m tools.lab run -- …`."""
        state_dir()
        self.hosts: dict[str, Host] = {}

    def __getitem__(self, name: str) -> Host:
        """Return the host of that name. Raises KeyError."""
        return self.hosts[name]

    def host(
        self,
        name: str,
        number: int,
        *,
        docker: bool = False,
        disks: Sequence[str] = (),
        suite: str = DEFAULT_SUITE,
        snapshot: Snapshot | None = None,
    ) -> Host:
        """Make a host, stopped; see Host. A host of that name made earlier is discarded."""
        if name in self.hosts:
            self.hosts.pop(name).discard()
        self.hosts[name] = Host(name, number, docker=docker, disks=disks, suite=suite, snapshot=snapshot)
        return self.hosts[name]

    def start(self, *hosts: Host) -> None:
        """Boot the given hosts, or all that are down, side by side. Raises HostError of the first that fails."""
        chosen = hosts or tuple(self.hosts.values())
        with ThreadPoolExecutor(max(1, len(chosen))) as pool:
            list(pool.map(Host.start, chosen))

    def snapshots(self) -> dict[str, Snapshot]:
        """Stop every host in order and return their disks by name; the lab is empty afterwards."""
        hosts, self.hosts = self.hosts, {}
        with ThreadPoolExecutor(max(1, len(hosts))) as pool:
            return dict(zip(hosts, pool.map(Host.snapshot, hosts.values()), strict=True))

    def clone(self, snapshots: Mapping[str, Snapshot]) -> None:
        """Make and boot one host from each snapshot; hosts of the same names are discarded before."""
        for name, snapshot in snapshots.items():
            self.host(name, snapshot.number, docker=snapshot.docker, snapshot=snapshot)
        self.start(*(self.hosts[name] for name in snapshots))

    def discard(self, names: Iterable[str] | None = None) -> None:
        """Cut the power of the named hosts (all by default) and throw their disks away."""
        gone = [self.hosts.pop(name) for name in list(names if names is not None else self.hosts)]
        with ThreadPoolExecutor(max(1, len(gone))) as pool:
            list(pool.map(Host.discard, gone))

    def ansible(
        self,
        *arguments: str,
        cwd: Path,
        program: str = "ansible-playbook",
        user: str = "root",
        env: Mapping[str, str] | None = None,
        timeout: float = 3600,
    ) -> subprocess.CompletedProcess[str]:
        """Run ansible-playbook (or `program`) in `cwd` against the hosts' addresses; return its exit code and output.

        The lab's key, host keys and user come by environment and so win over the repository's ansible.cfg; nothing
        in the repository has to know of the lab. Raises subprocess.TimeoutExpired; never for a failed play.
        """
        arguments_, environment = self._prepared(program, arguments, user, env)
        return subprocess.run(
            arguments_,
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def interrupt(
        self, *arguments: str, cwd: Path, program: str, at: str, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Like `ansible`, but kill it and all it started as soon as it prints `at`: a power cut at the controller.

        The exit code is that of the killed process, or of its own end when it never printed that.
        """
        arguments_, environment = self._prepared(program, arguments, "root", env)
        said: list[str] = []
        with subprocess.Popen(
            arguments_, cwd=cwd, env=environment, start_new_session=True, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            for line in process.stdout:
                said.append(line)
                if at in line:
                    os.killpg(process.pid, signal.SIGKILL)
                    break
        return subprocess.CompletedProcess(arguments_, process.returncode, "".join(said), "")

    @staticmethod
    def _prepared(
        program: str, arguments: Sequence[str], user: str, env: Mapping[str, str] | None
    ) -> tuple[list[str], dict[str, str]]:
        beside = Path(sys.executable).parent  # the virtual environment's own Ansible, activated or not
        search = f"{beside}{os.pathsep}{os.environ.get('PATH', '')}"
        environment = {**os.environ, "PATH": search, **ansible_environment(user), **(env or {})}
        return [shutil.which(program, path=search) or program, *arguments], environment


def ansible_environment(user: str = "root") -> dict[str, str]:
    """Return the environment variables with which ansible-playbook reaches this lab's hosts as `user`."""
    sockets = state_dir() / "cp"
    sockets.mkdir(exist_ok=True)
    options: Sequence[str] = [*ssh_options(), "-o", "ControlMaster=auto", "-o", "ControlPersist=30"]
    return {
        "ANSIBLE_REMOTE_USER": user,
        "ANSIBLE_PRIVATE_KEY_FILE": str(login_key()),
        "ANSIBLE_HOST_KEY_CHECKING": "True",
        "ANSIBLE_SSH_ARGS": shlex.join(options),
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(sockets),
        "ANSIBLE_PIPELINING": "True",
        "ANSIBLE_FORKS": "10",
        "ANSIBLE_TIMEOUT": "90",  # a busy machine with two processors is slow to answer, not away
        "ANSIBLE_NOCOLOR": "1",
    }
