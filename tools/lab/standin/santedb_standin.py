"""The STAND-IN host program: validate, connect, migrate, listen; or print FATAL ERROR and end with status 0."""

from __future__ import annotations

import datetime
import json
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from . import llp, probes, rest
from .atna import Shipper
from .commands import Console
from .fatal import Fatal
from .identities import published
from .keys import KeyMissing, Signer, SigningKey, load_pfx
from .startup import QUEUES, Configuration, configure
from .store import AUDIT, MAIN, PUBSUB, Database, Store
from .xmlconfig import NS

HERE = Path(__file__).resolve().parent
LEVELS = ["LogAlways", "Critical", "Error", "Warning", "Informational", "Verbose"]


class Log:
    """Writes to the console and to /var/log/santedb_yyyyMMdd.log, each from its own level on."""

    def __init__(self, folder: Path) -> None:
        """Begin with SanteDB's defaults: console Informational, file Warning."""
        self.folder, self.console, self.file = folder, "Informational", "Warning"
        self._lock = threading.Lock()

    def __call__(self, level: str, text: str) -> None:
        """Write one line. An unwritable folder is passed over."""
        now = datetime.datetime.now().astimezone()
        line = f"{now.isoformat(timespec='milliseconds')} [SanteDB] {level}: {text}"
        with self._lock:
            if self._passes(level, self.console):
                print(line, flush=True)
            if self._passes(level, self.file):
                try:
                    with (self.folder / f"santedb_{now:%Y%m%d}.log").open("a", encoding="utf-8") as file:
                        file.write(f"{line}\n")
                except OSError:
                    return

    def _passes(self, level: str, limit: str) -> bool:
        number = int(limit) if limit.isdigit() else LEVELS.index(limit)
        # the SanteDB source is fixed at Informational, so Verbose adds nothing; LogAlways writes everything (Q29)
        return number == 0 or LEVELS.index(level) <= min(number, 4)


class Icdr:
    """One running host."""

    AUDIT_FIELDS: ClassVar[tuple[str, ...]] = ("action", "event", "outcome", "sensitivity", "actor", "source", "detail")

    def __init__(self, env: Mapping[str, str], root: Path, log: Log) -> None:
        """`env` is the environment, `root` /santedb."""
        self.env, self.root, self.log = env, root, log
        self.version = env.get("STANDIN_VERSION", "3.0.0-standin")
        self.ready = threading.Event()
        self.config: Configuration
        self.store: Store
        self.console: Console
        self.signer: Signer
        self.shipper: Shipper | None = None
        self.audits = 0

    # -- start-up -----------------------------------------------------------------------------------------------

    def start(self, entry: str) -> None:
        """Do all that start-up does, in its order. Raises Fatal; OSError when a port is taken."""
        data = json.loads((HERE / "features.json").read_text(encoding="utf-8"))
        image, line = self.env.get("STANDIN_IMAGE", "icdr"), self.env.get("STANDIN_LINE", "3.0")
        self.config = configure(self.env, data, root=self.root, entry=entry, image=image, line=line)
        self.log.console, self.log.file = self.config.log_console, self.config.log_file
        for warning in self.config.warnings:
            self.log("Warning", warning)
        self.write_last_configuration()
        self.make_signer()
        self.listen()
        time.sleep(float(self.env.get("STANDIN_SLOW_START", "0")))
        self.connect()
        self.begin_audit()
        if self.config.hl7:
            server = llp.Server(self, self.config.hl7)
            threading.Thread(target=server.serve_forever, daemon=True).start()
        self.install_datasets()
        self.ready.set()
        self.audit(action="x", event="application", outcome="ok", actor="SYSTEM", detail="start")

    def make_signer(self) -> None:
        """Choose the key that signs sessions; an RSA key is read now, but its absence shows at first use only."""
        keys = self.config.signing_keys
        name = self.config.token_key if self.config.token_key in keys else "default"
        key = keys.get(name)
        if key is None:
            self.log("Error", f"no signing key {name}: no session can be made")
            key = SigningKey(name, "rs256", "ABSENT")
        self.signer = Signer(key, self.root)
        for found in keys.values():
            if found.algorithm.startswith("rs"):
                try:
                    load_pfx(found.value, self.root)
                except KeyMissing as error:
                    self.log("Error", f"signing key {found.name}: {error}")

    def listen(self) -> None:
        """Open the REST listeners; they answer before the host is ready."""
        wanted = {
            (urlsplit(url).hostname or "0.0.0.0", urlsplit(url).port or 80) for url in self.config.listen.values()
        }
        for host, port in sorted(wanted):
            server = rest.Server(self, host, port)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            self.log("Informational", f"listening on http://{host}:{port}")

    def connect(self) -> None:
        """Reach databases and caches, bring the schemas up to date."""
        if self.config.redis:
            probes.redis(*self.config.redis)
        xml = self.config.xml
        if QUEUES[0] in xml.services:
            section = "RabbitMqConfigurationSection"
            names = ("hostname", "username", "password")
            host, user, password = (xml.attribute(section, name) for name in names)
            probes.rabbitmq(host or "localhost", user or "guest", password or "guest")
        fail = f"standin-{self.version}" if self.env.get("STANDIN_FAIL_MIGRATION") == "1" else None
        found = self.config.connections
        main = Database(found["ADO"])
        done = main.prepare(MAIN, fail)
        if found["ADO_RO"] != found["ADO"]:
            Database(found["ADO_RO"]).rows("select 1")
        done += Database(found["PUBSUB_ADO"]).prepare(PUBSUB)
        audit = None
        if "AUDIT_REPO" in found:
            audit = Database(found["AUDIT_REPO"])
            done += audit.prepare(AUDIT)
        for patch in done:
            self.log("Informational", f"applied update {patch}")
        identities = published()
        self.store = Store(main, audit)
        self.store.ship_defaults(identities)
        strong = re.compile(self.config.password_regex)
        default = identities["users"]["Administrator"]["password"]
        self.console = Console(self.store, lambda password: bool(strong.search(password)), default)

    def begin_audit(self) -> None:
        """Start shipping and the retention job, as the features listed say."""
        if self.config.shipping:
            root = self.config.xml.attribute("FileSystemDispatcherQueueConfigurationSection", "queueRoot") or "./queue"
            self.shipper = Shipper(self.config.shipping, self.root / root / "audit-dispatch", self.root, self.log)
            self.shipper.start()
        if "AUDIT_REPO" in self.config.features:
            delay = float(self.env.get("STANDIN_RETENTION_DELAY", "300"))
            threading.Thread(target=self.keep_retention, args=(delay,), daemon=True).start()

    def keep_retention(self, delay: float) -> None:
        """Delete old audits some minutes after the start and daily."""
        time.sleep(delay)
        while True:
            try:
                gone = self.store.forget_audits(self.config.audit_retention)
                self.log("Informational", f"AuditRetentionJob: deleted {gone} older than {self.config.audit_retention}")
            except Exception as error:  # a database that is away must not end the job
                self.log("Error", f"AuditRetentionJob: {error}")
            time.sleep(86400)

    def install_datasets(self) -> None:
        """Take every data set once; rename it .completed."""
        for path in sorted((self.root / "data").glob("*.dataset")):
            try:
                ET.parse(path)
                path.rename(path.with_suffix(".completed"))
                self.log("Informational", f"installed {path.name}")
            except (OSError, ET.ParseError) as error:
                self.log("Error", f"data set {path.name}: {error}")

    def write_last_configuration(self) -> None:
        """Write docker.lastconfig, secrets and all (Q25). Raises OSError: an unwritable folder stops the start."""
        tree = ET.Element(f"{NS}SanteDBConfiguration")
        for section in self.config.xml.sections.values():
            tree.append(section)
        keys = ET.SubElement(tree, f"{NS}standinSigningKeys")
        for key in self.config.signing_keys.values():
            ET.SubElement(keys, f"{NS}add", {"id": key.name, "alg": key.algorithm, "value": key.value})
        (self.root / "docker.lastconfig").write_bytes(ET.tostring(tree))

    # -- audits -------------------------------------------------------------------------------------------------

    def audit(self, **given: str) -> None:
        """Insert and ship one audit as the accountability filters say (Q32). Raises nothing."""
        self.audits += 1
        insert, ship = dispositions(given, self.config)
        try:
            if insert and self.ready.is_set():
                self.store.record(given)
        except Exception as error:  # an audit that cannot be stored is logged, the work goes on
            self.log("Error", f"audit not stored: {error}")
        if ship and self.shipper:
            try:
                self.shipper.take(given)
            except OSError as error:
                self.log("Error", f"audit not queued: {error}")

    def state(self) -> dict[str, Any]:
        """Return what tests ask for: who this is, whether it runs, what waits."""
        waiting = len(list(self.shipper.queue.glob("*.msg"))) if self.shipper else 0
        return {
            "standin": True,
            "host": socket.gethostname(),
            "version": self.version,
            "ready": self.ready.is_set(),
            "features": self.config.features,
            "audits": self.audits,
            "audits_waiting": waiting,
        }


def dispositions(audit: Mapping[str, str], config: Configuration) -> tuple[bool, bool]:
    """Return whether an audit is inserted and shipped: every matching filter has a say, one `false` suppresses.

    A filter matches when the audit's flags are among its own; without `event` it does not cover restrictedFn, login
    and logout. No match means both.
    """
    insert = ship = True
    for item in config.xml.items("AuditAccountabilityConfigurationSection", "filters"):
        for name in ("action", "event", "outcome", "sensitivity"):
            wanted, found = item.get(name), audit.get(name, "")
            if wanted is None:
                if name == "event" and found in {"restrictedFn", "login", "logout"}:
                    break
            elif found and not set(found.split()) <= set(wanted.split()):
                break
        else:
            insert = insert and item.get("insert") not in {"false", "0"}
            ship = ship and item.get("ship") not in {"false", "0"}
    return insert, ship


def main(arguments: list[str]) -> int:
    """Run the host until a signal ends it; the argument is the entry file. The exit status is always 0 (Q05)."""
    root = Path(os.environ.get("STANDIN_ROOT", "/santedb"))
    log = Log(Path(os.environ.get("STANDIN_LOG", "/var/log")))
    version = os.environ.get("STANDIN_VERSION", "3.0.0-standin")
    print(f"SanteDB iCDR Server for Docker and Kubernetes v.{version} (STAND-IN, not SanteDB)", flush=True)
    (root / ".x509").mkdir(exist_ok=True)
    wait = os.environ.get("SDB_DELAY_START", "")
    if re.fullmatch(r"\d+", wait):
        print(f"Waiting for {wait} ms before start...", flush=True)
        time.sleep(int(wait) / 1000)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, lambda *_: stop.set())
    icdr = Icdr(os.environ, root, log)
    try:
        icdr.start(arguments[0] if arguments else "")
    except Exception as error:  # whatever it is, the real host prints it and ends
        detail = str(error) if isinstance(error, Fatal) else f"{type(error).__name__}: {error}"
        print(f"FATAL ERROR: HALTING SANTEDB HOST PROCESS : {detail}", flush=True)
        if not isinstance(error, Fatal):
            traceback.print_exc(file=sys.stdout)
        log("Critical", f"FATAL ERROR: {detail}")
        sys.stdout.flush()
        os._exit(0)
    print("Service startup completed...", flush=True)
    stop.wait()
    print("Sending request to shutdown...", flush=True)
    icdr.audit(action="x", event="application", outcome="ok", actor="SYSTEM", detail="stop")
    sys.stdout.flush()
    os._exit(0)
