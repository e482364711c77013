"""Machines with a kernel of their own, for what the hosts' shared kernel refuses: encrypted volumes. All of it is emulated."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from tools.lab.base import base_image
from tools.lab.host import HostError, Reachable, furnish, trust
from tools.lab.settings import BRIDGE, GATEWAY, NETWORK, PREFIX_LENGTH, state_dir

EMULATOR, PACKAGE = "qemu-system-x86_64", "qemu-system-x86"
DISK_MB = 2500
NO_ANSWER = 255  # how ssh ends when there is nobody, or nobody ready

NETWORK_UNIT = """[Match]
Name=eth0
[Network]
Address={address}/{prefix}
Gateway={gateway}
"""


class Machine(Reachable):
    """One machine. Made stopped; `start` boots it, in half a minute. Names and numbers are as those of a Host.

    Attributes: `name`, `ip`, `system_disk` and `disks` (raw images by serial: /dev/disk/by-id/virtio-SERIAL), `console` (a log).
    """

    def __init__(self, name: str, number: int, disks: Mapping[str, int]) -> None:
        """Write the system disk, and blank disks of so many MiB by their serial.

        Raises HostError when the name is taken or the emulator is missing, RuntimeError outside a lab.
        """
        if not shutil.which(EMULATOR):
            raise HostError(f"{EMULATOR} is not installed; as root: apt-get install {PACKAGE}")
        self.name, self.ip = name, f"{NETWORK}.{number}"
        self._mac = f"02:4c:41:42:00:{number:02x}"
        self.folder = state_dir() / "hosts" / name
        if self.folder.exists():
            raise HostError(f"{name}: there is such a host already; stop and discard it first")
        self.folder.mkdir(parents=True)
        self.system_disk, self.console = self.folder / "system.img", self.folder / "console.log"
        self.disks = {serial: self.folder / f"{serial}.img" for serial in disks}
        for serial, size in disks.items():
            with self.disks[serial].open("wb") as image:
                image.truncate(size << 20)
        self._process: subprocess.Popen[bytes] | None = None
        self._write_system()

    def _write_system(self) -> None:
        layers = {part: self.folder / part for part in ("upper", "work", "root")}
        for path in layers.values():
            path.mkdir()
        root = layers["root"]
        options = f"lowerdir={base_image(kernel=True)},upperdir={layers['upper']},workdir={layers['work']}"
        subprocess.run(["mount", "-t", "overlay", f"lab-{self.name}", "-o", options, str(root)], check=True)
        try:
            furnish(root, self.name)
            trust(root, self.ip)
            unit = NETWORK_UNIT.format(address=self.ip, prefix=PREFIX_LENGTH, gateway=GATEWAY)
            (root / "etc/systemd/network/10-lab.network").write_text(unit, encoding="ascii")
            wanted = root / "etc/systemd/system/multi-user.target.wants/systemd-networkd.service"
            wanted.symlink_to("/lib/systemd/system/systemd-networkd.service")
            for kind in ("vmlinuz", "initrd.img"):
                shutil.copy(max((root / "boot").glob(f"{kind}-*")), self.folder / kind)
            subprocess.run(["mkfs.ext4", "-q", "-F", "-d", str(root), str(self.system_disk), f"{DISK_MB}M"], check=True)
        finally:
            subprocess.run(["umount", str(root)], check=True)
        for path in layers.values():
            shutil.rmtree(path)

    def start(self, timeout: float = 300) -> Machine:
        """Power on and wait until the boot has finished; return the machine. Raises HostError with the end of the console."""
        tap = f"v-{self.name}"
        subprocess.run(["ip", "tuntap", "add", "dev", tap, "mode", "tap"], check=True)
        subprocess.run(["ip", "link", "set", tap, "master", BRIDGE, "up"], check=True)
        command = [
            *(EMULATOR, "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024"),
            *("-nodefaults", "-no-user-config", "-display", "none", "-serial", f"file:{self.console}"),
            *("-kernel", str(self.folder / "vmlinuz"), "-initrd", str(self.folder / "initrd.img")),
            *("-append", "root=/dev/vda rw console=ttyS0 net.ifnames=0 quiet"),
            *("-device", "virtio-rng-pci"),
            *("-netdev", f"tap,id=net,ifname={tap},script=no,downscript=no"),
            *("-device", f"virtio-net-pci,netdev=net,mac={self._mac}"),
        ]
        for serial, image in {"system": self.system_disk, **self.disks}.items():
            command += ["-drive", f"file={image},id={serial},format=raw,if=none,cache=unsafe"]
            command += ["-device", f"virtio-blk-pci,drive={serial},serial={serial}"]
        with (self.folder / "emulator.log").open("ab") as said:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        end = time.monotonic() + timeout
        while self.ssh("systemctl is-system-running --wait", check=False).returncode == NO_ANSWER:
            if self._process.poll() is not None or time.monotonic() > end:
                self.power_cut()
                raise HostError(f"{self.name} did not come up: {self._said()}")
            time.sleep(0.5)
        return self

    def _said(self) -> str:
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in self.folder.glob("*.log")]
        return "\n".join("\n".join(text.splitlines()[-20:]) for text in texts)

    def stop(self, timeout: float = 120) -> None:
        """Shut down in order and wait for it. Raises subprocess.TimeoutExpired."""
        if self._process is not None and self._process.poll() is None:
            self.ssh("systemctl poweroff", check=False)
            self._process.wait(timeout)
        self.power_cut()

    def power_cut(self) -> None:
        """Take the power away. `start` boots the same disks."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(30)
        self._process = None
        self._leave()
        subprocess.run(["ip", "link", "del", f"v-{self.name}"], capture_output=True, check=False)

    def discard(self) -> None:
        """Cut the power and throw the disks away."""
        self.power_cut()
        shutil.rmtree(self.folder)


def holds(image: Path, text: bytes) -> bool:
    """Tell whether the bytes of `text` lie in one piece anywhere on a disk image."""
    step, tail = 1 << 22, b""
    with image.open("rb") as disk:
        os.posix_fadvise(disk.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while block := disk.read(step):
            if text in tail + block:
                return True
            tail = block[-len(text) :]
    return False
