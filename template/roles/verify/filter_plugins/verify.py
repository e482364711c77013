"""Judges what was seen on the hosts, and what is rendered, against the plan: one function for each task."""

from __future__ import annotations

import glob
import ipaddress
import json
import os
import re
import time

import yaml

CHECKS = {}
COMMON_PORTS = [21, 22, 23, 25, 53, 80, 110, 111, 139, 143, 389, 443, 445, 514, 873, 1433, 1514, 2049, 2100, 2200, 2375, 2376, 3000,
                3306, 3389, 5000, 5432, 5672, 5900, 5984, 6379, 6432, 6514, 8000, 8080, 8081, 8443, 8888, 9000, 9090, 9093, 9100,
                9187, 9200, 11211, 11514, 11515, 12100, 15672, 18080, 25672, 27017]  # fmt: skip


# Without a host of this group there is nothing to look at, and nothing holds.
NEEDS = {
    **dict.fromkeys(["DEP-12", "DEP-13", "DEP-15"], "database"),
    **dict.fromkeys(
        ["DEP-16", "DEP-18", "DEP-26", "DEP-28", "DEP-31", "DEP-32", "DEP-34", "DEP-41", "DEP-44", "DEP-45"], "icdr"
    ),
    **dict.fromkeys(["DEP-46", "DEP-64", "DEP-71", "DEP-50", "DEP-51", "DEP-53", "DEP-54", "DEP-55", "DEP-60"], "icdr"),
    **dict.fromkeys(["DEP-40", "DEP-43", "DEP-48"], "proxy"),
    **dict.fromkeys(["DEP-01", "DEP-02", "DEP-04", "DEP-07", "DEP-11", "DEP-21", "DEP-49", "DEP-99", "ROL-50"], "all"),
}


class Cannot(Exception):
    """The check could not be made; the text says why."""


def moment(text):
    """Return the time that a text begins with as text that sorts; '' where there is none.

    An engine writes the times of its log and of its containers in one zone, but leaves out what is zero of a second's fraction.
    """
    found = re.match(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.(\d+))?", text)
    return f"{found[1]} {found[2]}.{(found[3] or ''):0<9}" if found else ""


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """Reads Ansible's own tags as what they stand on."""


Loader.add_multi_constructor("!", lambda loader, suffix, node: f"!{suffix}")


def check(*tasks):
    """Register a function as the check of these tasks."""

    def register(function):
        for task in tasks:
            CHECKS[task] = function
        return function

    return register


def fault(what, where, why, todo):
    """Return a finding in its four parts."""
    return f"{what}; {where}; {why}; {todo}."


class Context:
    """Everything a check may look at."""

    def __init__(self, given):
        """Take what the play gathered."""
        self.given, self.root, self.environment = given, given["root"], given["environment"]
        with open(os.path.join(self.root, "plan.yml"), encoding="utf-8") as stream:
            self.plan = yaml.load(stream, Loader)
        self.answers = self.plan.get("answers") or {}
        self.groups = given["groups"]
        self.seen = given["seen"]
        self.task = {}

    def group(self, name, environment=None):
        """Return the raw variables of a group, one's own values over the generated ones."""
        found = {}
        folder = os.path.join(self.root, "inventories", environment or self.environment, "group_vars", name)
        for path in sorted(glob.glob(os.path.join(folder, "*.yml"))):
            if os.path.basename(path).startswith("vault"):
                continue
            with open(path, encoding="utf-8") as stream:
                found.update(yaml.load(stream, Loader) or {})
        return found

    def hosts(self, group="all"):
        """Return the hosts of a group that were to be looked at."""
        names = self.groups.get(group) or []
        return [name for name in names if name in self.given["hosts"]]

    def look(self, host, kind, name):
        """Return what a look at a host found. Raises Cannot when there was none."""
        if host in self.given["trouble"]:
            raise Cannot(f"{host} could not be looked at: {self.given['trouble'][host]}")
        if host not in self.seen:
            raise Cannot(f"{host} did not answer")
        value = (self.seen[host].get(kind) or {}).get(name)
        if value is None:
            raise Cannot(f"{host} was not asked for {name}")
        return value

    def output(self, host, name):
        """Return what a command on a host printed. Raises Cannot when it failed."""
        found = self.look(host, "commands", name)
        if found["rc"] != 0:
            raise Cannot(
                f"on {host}, the look '{name}' failed: {(found['err'] or found['out']).strip()[-200:] or found['rc']}"
            )
        return found["out"]

    def first(self, group):
        """Return the first host of a group. Raises Cannot when there is none."""
        names = self.hosts(group)
        if not names:
            raise Cannot(f"the environment has no host in the group {group}")
        return names[0]

    def serving(self, role):
        """Return the first application server that has the end points of this role. Raises Cannot when there is none."""
        for host in self.hosts("icdr"):
            if self.given["icdr_roles"].get(host, "all") in (role, "all"):
                return host
        raise Cannot(f"the environment has no application server for {role}")

    def rendered(self):
        """Yield path and text of each file of this environment's configuration."""
        patterns = [f"santedb/{self.environment}/**/*", "santedb/data/**/*", "santedb/match/**/*"]
        for pattern in patterns:
            for path in sorted(glob.glob(os.path.join(self.root, pattern), recursive=True)):
                if os.path.isfile(path):
                    with open(path, encoding="utf-8", errors="replace") as stream:
                        yield os.path.relpath(path, self.root), stream.read()

    def settings(self):
        """Return the planned environment of the application, secrets as references."""
        values = self.group("icdr")
        return {**(values.get("santedb_environment") or {}), **(values.get("icdr_environment_extra") or {})}

    def running(self, host):
        """Return the environment of the running application, passwords taken out."""
        try:
            inspected = json.loads(self.output(host, "container"))[0]
        except (ValueError, IndexError) as error:
            raise Cannot(f"on {host}, the container's description cannot be read") from error
        return dict(entry.partition("=")[::2] for entry in inspected["Config"].get("Env") or []), inspected

    def said_since_start(self, host):
        """Return what the application said since it was started last: an earlier start that failed is history."""
        started = moment(self.running(host)[1]["State"]["StartedAt"])
        return "\n".join(line for line in self.output(host, "log").splitlines() if moment(line) >= started)

    def differs(self, names):
        """Return findings for settings that the running application has not as planned; templated values are not compared."""
        problems = []
        wanted = self.settings()
        for host in self.hosts("icdr"):
            actual, _ = self.running(host)
            for name in names:
                if name in wanted and "{{" not in str(wanted[name]) and actual.get(name) != str(wanted[name]):
                    problems.append(
                        fault(
                            f"{name} is {actual.get(name, 'not set')}, planned is {wanted[name]}", f"the running application on {host}",
                            "it does not do what was approved", f"deploy it: playbooks/icdr.yml -i inventories/{self.environment}",
                        )
                    )  # fmt: skip
        if not self.hosts("icdr"):
            raise Cannot("the environment has no application server")
        return problems

    def scans(self):
        """Yield (source name, source address, target, open ports)."""
        for source, scan in sorted(self.given["scanned"].items()):
            for target, ports in sorted(scan["open"].items()):
                yield source, scan["from"].get(target), target, ports

    def allowed(self, source, address, target):
        """Return {port: service} that the plan opens on target for this source."""
        found = {}
        target_groups = {name for name, hosts in self.groups.items() if target in hosts}
        source_groups = {name for name, hosts in self.groups.items() if source in hosts}
        for entry in self.given["ports"]:
            if entry.get("protocol", "tcp") != "tcp" or (
                entry["group"] != "all" and entry["group"] not in target_groups
            ):
                continue
            for origin in entry.get("from") or []:
                inside = (
                    "cidr" in origin
                    and address
                    and ipaddress.ip_address(address) in ipaddress.ip_network(origin["cidr"], strict=False)
                )
                if origin.get("any") or inside or origin.get("group") in source_groups or origin.get("group") == "all":
                    found[int(entry["port"])] = entry.get("service", "")
        return found

    def unplanned(self, chosen=None):
        """Return findings for ports that answer though the plan does not open them to the one who tried."""
        if not self.given["scanned"]:
            raise Cannot(
                "no port was tried: " + "; ".join(self.given["scan_trouble"].values() or ["no other host to try from"])
            )
        problems, tried = [], set()
        for source, address, target, ports in self.scans():
            tried.add(target)
            allowed = self.allowed(source, address, target)
            for port in ports:
                if port not in allowed and (chosen is None or port in chosen):
                    problems.append(
                        fault(
                            f"Port {port} of {target} answers {source} ({address})", "the plan's port table does not open it to it",
                            "whoever is there can use what listens",
                            f"stop what listens, or run playbooks/baseline.yml, or plan the port; `ss -ltnp sport = :{port}` shows what it is",
                        )
                    )  # fmt: skip
        missed = [host for host in self.hosts() if host not in tried]
        if missed and not problems:
            raise Cannot(f"no other host tried {', '.join(missed)}")
        return problems


# -- plan and rendered files ----------------------------------------------------------------------------------------------


@check("PLN-03")
def environments_apart(it):
    """Inventories of production and other environments share no host, database or secret."""
    addresses, problems, vaults = {}, [], {}
    for host in it.plan["hosts"]:
        for kind, value in (("name", host["name"]), ("address", host.get("address"))):
            if value:
                addresses.setdefault((kind, value), set()).add(host["environment"])
    production = {found["name"] for found in it.plan["environments"] if found["production"]}
    for (kind, value), found in sorted(addresses.items()):
        if len(found) > 1 and found & production:
            problems.append(fault(f"The {kind} {value} is in {' and '.join(sorted(found))}", "answer hosts",
                                  "an exercise elsewhere would touch production", "give each environment hosts of its own"))  # fmt: skip
    for environment in it.plan["environments"]:
        for path in glob.glob(os.path.join(it.root, "inventories", environment["name"], "group_vars/all/vault*.yml")):
            with open(path, "rb") as stream:
                vaults.setdefault(stream.read(), []).append(environment["name"])
    for found in vaults.values():
        if len(found) > 1:
            problems.append(fault(f"{' and '.join(found)} have one and the same vault file", "inventories/*/group_vars/all/",
                                  "who reads one reads the other", "make new secrets for one: make secrets"))  # fmt: skip
    return problems, {
        "note": "Secrets in differently encrypted files cannot be compared here; `make secrets` makes each at random."
    }


@check("PLN-14")
def domains_unique(it):
    """namespace_id, oid and url are unique over identity_domains."""
    problems = []
    for field in ("namespace_id", "oid", "url"):
        values = [domain.get(field) for domain in it.answers.get("identity_domains") or []]
        for value in sorted({value for value in values if value and values.count(value) > 1}):
            problems.append(fault(f"{field} {value} stands twice", "answer identity_domains", "identifiers of two systems would be mixed",
                                  "give each domain its own"))  # fmt: skip
    return problems, {"domains": len(it.answers.get("identity_domains") or [])}


@check("PLN-34")
def sizes(it):
    """Hosts meet the computed minimums."""
    found = it.plan["sizing"].get("shortfalls") or []
    unknown = [
        host["name"] for host in it.plan["hosts"] if not host.get("placeholder") and host.get("ram_gb") in (None, 0)
    ]
    if not found and unknown:
        raise Cannot(f"the size of {', '.join(unknown)} is not in the plan")
    return [
        fault(f"{item['host']} has {item['has']} {item['what']}, needs {item['needs']}", f"answer hosts ({item['environment']})",
              "it will be slow or stop under load", "give it more, or plan fewer clients") for item in found
    ], {"rules": it.plan["sizing"].get("rules")}  # fmt: skip


@check("PLN-39")
def three_two_one(it):
    """Backup targets satisfy 3-2-1 including one offsite entry."""
    targets, problems = it.plan["backup"]["targets"], []
    todo = "add to the answer backup_targets"
    if len(targets) < 2:
        problems.append(
            fault(
                f"There are {len(targets) + 1} copies, the live one included",
                "answer backup_targets",
                "three are agreed",
                todo,
            )
        )
    if len({target["media"] for target in targets}) < 2:
        problems.append(
            fault("Every copy lies on the same kind of medium", "answer backup_targets", "one fault can take all", todo)
        )
    if not any(target["location"] == "offsite" for target in targets):
        problems.append(fault("No copy is off site", "answer backup_targets", "a fire takes them all", todo))
    return problems, {"targets": [target["name"] for target in targets]}


@check("DEV-06")
def domains_rendered(it):
    """Rendered dataset matches identity_domains."""
    text = "".join(text for path, text in it.rendered() if path.endswith(".dataset"))
    if not text:
        raise Cannot(
            "there is no rendered dataset for this line of SanteDB; the domains are registered by the hardening"
        )
    return [
        fault(
            f"{domain['namespace_id']} is not in the datasets",
            "santedb/data/",
            "messages that name it are refused",
            "copier update",
        )
        for domain in it.answers.get("identity_domains") or []
        if not all(str(domain[key]) in text for key in ("namespace_id", "oid", "url") if domain.get(key))
    ], {}


@check("DEP-14", "DEP-29")
def no_clear_secrets(it):
    """No sample password and no clear-text secret in any rendered file."""
    problems, count = [], 0
    value = re.compile(
        r"(?i)(?:^|[;\s\"'<])(?:password|pwd|client_secret|secret|passphrase)\"?\s*[=:]\s*[\"']?([^;\"'\s<>{},]+)"
    )
    neutral = {"true", "false", "null", "none", "password", "secret", "external", "supplied"}
    for folder, names, files in os.walk(it.root):
        names[:] = [
            name
            for name in names
            if name not in (".git", ".ca", "bundle", "roles", "playbooks", "docs", "checklists", ".venv", "records")
        ]
        for name in files:
            path = os.path.join(folder, name)
            relative = os.path.relpath(path, it.root)
            if (
                name == "plan.yml"
                or os.path.getsize(path) > 5_000_000
                or name.endswith((".md", ".py"))
                or name.startswith(".copier")
            ):
                continue
            with open(path, encoding="utf-8", errors="replace") as stream:
                text = stream.read()
            count += 1
            encrypted = text.startswith("$ANSIBLE_VAULT") or "ENC[AES256_GCM" in text
            if name.startswith("vault") and name.endswith((".yml", ".yaml")) and text.strip() and not encrypted:
                problems.append(fault("A vault file is not encrypted", relative, "every secret is readable to all who have the repository",
                                      "encrypt it with ansible-vault, and change every secret in it"))  # fmt: skip
            if "PRIVATE KEY-----" in text and "ENCRYPTED PRIVATE KEY" not in text and not encrypted:
                problems.append(fault("A private key lies open", relative, "whoever reads the repository can pose as its owner",
                                      "remove it, and issue a new certificate"))  # fmt: skip
            if encrypted or not relative.startswith(("inventories", "santedb", "audit")):
                continue
            for number, line in enumerate(text.splitlines(), 1):
                if line.lstrip().startswith(("#", "<!--")):
                    continue
                for found in value.findall(line):
                    if (
                        found.lower() not in neutral
                        and "vault_" not in found
                        and not found.startswith(("$", "!", "[", "("))
                    ):
                        problems.append(fault("What looks like a secret stands in clear", f"{relative}:{number}", "a secret in a repository is none",
                                              "put it into the vault, refer to it, and change it where it was used"))  # fmt: skip
    return problems, {"files_read": count}


@check("DEP-24")
def pinned(it):
    """No reference ends in latest."""
    problems, found = [], {}
    for group, name in (("icdr", "santedb_image"), ("portal", "portal_image")):
        if not it.hosts(group) and group != "icdr":
            continue
        image = it.group(group).get(name)
        if not image:
            continue
        found[name] = image
        if image.endswith(":latest") or (":" not in image.rsplit("/", 1)[-1] and "@" not in image):
            problems.append(
                fault(
                    f"{name} is {image}",
                    f"group_vars/{group}",
                    "tomorrow it is another program",
                    "pin a version or digest: image_versions",
                )
            )
    return problems, found


@check("DEP-25")
def features(it):
    """The rendered SDB_FEATURE equals the set derived from the plan."""
    wanted = [feature["id"] for feature in it.plan["features"]]
    if "SDB_FEATURE" not in it.settings():
        raise Cannot(
            "this runtime has no SDB_FEATURE; its services stand in santedb.config.xml and are not compared yet"
        )
    actual = it.settings()["SDB_FEATURE"].split(";")
    problems = []
    for names, what in (
        (set(actual) - set(wanted), "more than planned"),
        (set(wanted) - set(actual), "less than planned"),
    ):
        if names:
            problems.append(fault(f"SDB_FEATURE has {what}: {', '.join(sorted(names))}", "group_vars/icdr", "what is not planned was not approved",
                                  "take your own value back, or change the plan"))  # fmt: skip
    return problems, {"features": actual}


def in_rendered(it, pattern, what):
    """Return whether any rendered configuration file matches; raise Cannot when none is rendered."""
    texts = [text for path, text in it.rendered() if path.endswith(".xml")]
    if not texts:
        raise Cannot(f"no configuration file is rendered that could say {what}")
    return any(re.search(pattern, text, re.IGNORECASE | re.DOTALL) for text in texts)


@check("DEP-57")
def unsigned_applets(it):
    """allowUnsignedApplets is false in the rendered configuration."""
    if in_rendered(it, r"allowUnsignedApplets(=\"|>)\s*true", "it") or not in_rendered(
        it, r"allowUnsignedApplets(=\"|>)\s*false", "it"
    ):
        return [fault("Unsigned applets are not refused", f"santedb/{it.environment}/config/", "anybody's program could be loaded",
                      "take your change back: copier update")], {}  # fmt: skip
    return [], {}


@check("DEP-58")
def signing(it):
    """The rendered configuration names the planned keys."""
    settings, problems = it.settings(), []
    if not settings:
        raise Cannot("this runtime takes its keys from santedb.config.xml, which is not compared yet")
    for name in ("SDB_SEC_SIG_default", "SDB_SEC_SIG_jwsdefault"):
        value = str(settings.get(name, ""))
        if not value or (it.given["production"] and not value.startswith("rs256:")):
            problems.append(fault(f"{name} is {value.split(':')[0] or 'not set'}", "group_vars/icdr",
                                  "without a key of its own each start makes another one, and production signs with certificates",
                                  "take your own value back"))  # fmt: skip
    return problems, {}


@check("DEP-75")
def no_samples(it):
    """sample_data is false and no Elbonia dataset is among the rendered files."""
    problems = []
    if it.given["production"] and it.answers.get("sample_data"):
        problems.append(
            fault(
                "sample_data is true",
                "the answers",
                "invented people would stand among the real ones",
                "set it to false",
            )
        )
    for path, text in it.rendered():
        if it.given["production"] and re.search("elbonia", path + text[:20000], re.IGNORECASE):
            problems.append(
                fault("A demonstration dataset is rendered", path, "it would be loaded into production", "remove it")
            )
    return problems, {}


@check("DEP-18")
def replicas(it):
    """Read-only connection string is set."""
    name = it.settings().get("SDB_ADO_RO_CONNECTION")
    if not name or f"SDB_DB_{name}" not in it.settings():
        return [
            fault("No read-only connection is set", "group_vars/icdr", "replicas serve nobody", "copier update")
        ], {}
    return it.differs(["SDB_ADO_RO_CONNECTION"]), {"connection": name}


# -- hosts ----------------------------------------------------------------------------------------------------------------


@check("DEP-01")
def host_sizes(it):
    """Hosts answer and match their declared size."""
    problems, found = [], {}
    declared = {host["name"]: host for host in it.plan["hosts"] if host["environment"] == it.environment}
    for host in it.hosts():
        cores, memory, disk = (int(value) for value in it.output(host, "size").split()[:3])
        found[host] = {"vcpu": cores, "ram_gb": round(memory / 2**20, 1), "disk_gb": round(disk / 2**20, 1)}
        for key, share in (("vcpu", 1), ("ram_gb", 0.9), ("disk_gb", 0.85)):
            wanted = (declared.get(host) or {}).get(key)
            if wanted and found[host][key] < wanted * share:
                problems.append(fault(f"{host} has {found[host][key]} {key}, declared are {wanted}", "answer hosts", "sizing rests on what is declared",
                                      "enlarge it, or correct the answer"))  # fmt: skip
    return problems, found


@check("DEP-02")
def updates(it):
    """No pending security updates."""
    problems, found = [], {}
    for host in it.hosts():
        lines = [line for line in it.output(host, "updates").splitlines() if line.startswith("Inst ")]
        pending = sorted(line.split()[1] for line in lines if re.search(r"security", line, re.IGNORECASE))
        found[host] = {"security": pending, "other": len(lines) - len(pending)}
        if pending:
            problems.append(fault(f"{len(pending)} security updates are pending ({', '.join(pending[:5])})", host, "known holes stay open",
                                  "run apt-get dist-upgrade there in the maintenance window"))  # fmt: skip
    return problems, found


@check("DEP-11")
def clocks(it):
    """Offset below one second."""
    problems, found = [], {}
    for host in it.hosts():
        fields = it.output(host, "clock").strip().split(",")
        offset, stratum = abs(float(fields[4])), int(fields[2])
        found[host] = {"offset_seconds": offset, "stratum": stratum}
        if stratum == 0 or offset >= 1:
            problems.append(fault(f"The clock is {'not synchronized' if stratum == 0 else f'{offset} s off'}", host,
                                  "audits and tokens carry wrong times", "see `chronyc sources` there; give time servers: host_baseline_ntp_servers"))  # fmt: skip
    return problems, found


@check("DEP-04")
def monitored(it):
    """Every host reports."""
    problems = []
    for host in it.hosts():
        if "prometheus-node-exporter.service" not in it.output(host, "services"):
            problems.append(
                fault(
                    "No exporter runs",
                    host,
                    "nobody sees it fail",
                    f"playbooks/monitoring.yml -i inventories/{it.environment}",
                )
            )
    return problems, {"hosts": it.hosts()}


def certificate_dates(it):
    """Yield (host, path, days left) of the certificates on the hosts."""
    for host in it.hosts():
        for line in it.look(host, "commands", "certificates")["out"].splitlines():
            path, _, end = line.partition("|notAfter=")
            if end:
                yield (
                    host,
                    path,
                    (time.mktime(time.strptime(end.strip(), "%b %d %H:%M:%S %Y %Z")) - time.timezone - time.time())
                    / 86400,
                )


@check("DEP-07", "ROL-50")
def certificates(it):
    """Names resolve, nothing expires within 30 days, everything planned is there."""
    problems, found, there = [], {}, set()
    for host, path, left in certificate_dates(it):
        found[f"{host} {path}"] = round(left)
        there.add((host, path))
        if left < it.given["certificate_days"]:
            problems.append(
                fault(
                    f"{path} expires in {left:.0f} days",
                    host,
                    "what it protects stops then",
                    f"make certificates ENV={it.environment}",
                )
            )
    for entry in it.given["certificates"]:
        for host in entry.get("installed_on") or []:
            path = entry.get("path_certificate")
            if host in it.hosts() and path and "<" not in path and (host, path) not in there:
                problems.append(fault(f"{entry['id']} is not installed", f"{host}:{path}", "what needs it does not start",
                                      f"make certificates ENV={it.environment}"))  # fmt: skip
    if it.task.get("id") == "DEP-07":
        for name, text in sorted(it.given["resolved"].items()):
            if not text:
                problems.append(
                    fault(
                        f"{name} does not resolve here",
                        "DNS",
                        "nobody finds the service by its name",
                        "have the name entered",
                    )
                )
    return problems, found


@check("DEP-09")
def secrets_exist(it):
    """Every secret named by the plan exists."""
    if it.given["secrets_unreadable"]:
        raise Cannot(it.given["secrets_unreadable"])
    return [
        fault(f"{name} has no value", f"the vault in inventories/{it.environment}/group_vars/all/", "what needs it fails or stays open",
              f"make secrets ENV={it.environment}, or enter what you were given") for name in it.given["secrets_missing"]
    ], {"secrets": it.given["secrets_count"]}  # fmt: skip


@check("DEP-21")
def encrypted(it):
    """Data volumes are on LUKS."""
    problems, found = [], {}
    for host in sorted({*it.hosts("database"), *it.hosts("backup"), *it.hosts("audit"), *it.hosts("icdr")}):
        volumes = [line.split() for line in it.output(host, "volumes").splitlines()]
        crypt = [fields[2] for fields in volumes if len(fields) > 2 and fields[1] == "crypt"]
        found[host] = crypt
        if not crypt:
            problems.append(fault("No mounted volume is encrypted", host, "who takes the disk or its copy reads the records",
                                  "name it in disk_encryption_volumes and run playbooks/baseline.yml"))  # fmt: skip
    return problems, found


@check("DEP-26")
def limited_account(it):
    """Service is enabled and its account is not root."""
    problems, found = [], {}
    for host in it.hosts("icdr"):
        _, inspected = it.running(host)
        user = inspected["Config"].get("User") or "root"
        policy = inspected["HostConfig"].get("RestartPolicy", {}).get("Name")
        found[host] = {"user": user, "restart": policy}
        if policy not in ("always", "unless-stopped") and "santedb" not in it.output(host, "enabled"):
            problems.append(
                fault(
                    "The application does not start by itself",
                    host,
                    "it stays down after a restart",
                    "deploy playbooks/icdr.yml",
                )
            )
        if user in ("root", "0"):
            problems.append(fault("The container runs as root", host, "SanteDB's image has no other account: a break-out is root on the host",
                                  "waive it with a reason (the image's own choice), or run an image with an account"))  # fmt: skip
    return problems, found


@check("DEP-28")
def persistent(it):
    """Declared volumes cover the folders that must outlive the container."""
    problems = []
    for host in it.hosts("icdr"):
        _, inspected = it.running(host)
        there = {mount["Destination"] for mount in inspected.get("Mounts") or []}
        for path in ("/santedb/data", "/santedb/match", "/santedb/queue", "/santedb/.x509"):
            if path not in there:
                problems.append(
                    fault(
                        f"{path} is not kept outside the container",
                        host,
                        "it is lost with the next version",
                        "deploy playbooks/icdr.yml",
                    )
                )
    return problems, {}


@check("DEP-71")
def pruned(it):
    """A job covers the log folder."""
    problems = []
    for host in it.hosts("icdr"):
        it.look(host, "commands", "size")
        text = it.seen[host]["texts"].get("/etc/tmpfiles.d/host-baseline.conf")
        if "santedb" not in (text or ""):
            problems.append(
                fault(
                    "No job deletes old logs of SanteDB",
                    host,
                    "the disk fills in the end",
                    "run playbooks/baseline.yml",
                )
            )
    return problems, {}


# -- database and the application's configuration -------------------------------------------------------------------------


@check("DEP-12")
def database_version(it):
    """Server version equals the pinned one, and is one SanteDB can use."""
    problems, found = [], {}
    pinned_version = str(it.group("database").get("database_version") or "")
    for host in it.hosts("database"):
        major = int(it.output(host, "version").strip()) // 10000
        found[host] = major
        if major < 11 or (pinned_version and str(major) != pinned_version):
            problems.append(
                fault(
                    f"PostgreSQL is {major}",
                    host,
                    f"planned is {pinned_version or '11 or later'}",
                    "see docs/runbooks/upgrade.md",
                )
            )
    return problems, found


def connections(it):
    """Yield (name, {key: value}) of the connection strings."""
    for name, value in sorted(it.settings().items()):
        if name.startswith("SDB_DB_") and not name.endswith("_PROVIDER"):
            yield (
                name,
                {
                    key.strip().lower(): part.strip()
                    for key, _, part in (pair.partition("=") for pair in str(value).split(";"))
                },
            )


@check("DEP-13")
def databases_apart(it):
    """Connection strings name different databases, whose owners are no superusers."""
    problems, seen = [], {}
    for name, keys in connections(it):
        if name.endswith("RO"):  # the same records, at a standby
            continue
        place = (keys.get("server") or keys.get("host"), keys.get("database"))
        if place in seen:
            problems.append(
                fault(
                    f"{name} and {seen[place]} use one database",
                    "group_vars/icdr",
                    "audits and records are not apart",
                    "copier update",
                )
            )
        seen[place] = name
    for host in it.hosts("database"):
        for line in it.output(host, "databases").splitlines():
            database, owner, superuser = line.split("|")
            if superuser == "t" and database != "postgres":
                problems.append(
                    fault(
                        f"{database} belongs to {owner}, a superuser",
                        host,
                        "the application could do anything",
                        "give it its own owner",
                    )
                )
    if not seen:
        raise Cannot("no connection string is rendered for this runtime")
    return problems, {"databases": [place[1] for place in seen]}


@check("DEP-16")
def pools(it):
    """Pooling is true and sized."""
    problems, found = [], {}
    for name, keys in connections(it):
        found[name] = {key: keys.get(key) for key in ("pooling", "minpoolsize", "maxpoolsize")}
        if keys.get("pooling", "").lower() != "true" or not keys.get("maxpoolsize"):
            problems.append(
                fault(
                    f"{name} has no sized pool", "group_vars/icdr", "each request opens a connection", "copier update"
                )
            )
    if not found:
        raise Cannot("no connection string is rendered for this runtime")
    for host in it.hosts("icdr"):
        actual = it.running(host)[0]
        for name, wanted in found.items():
            keys = {
                key.strip().lower(): part.strip()
                for key, _, part in (pair.partition("=") for pair in actual.get(name, "").split(";"))
            }
            if any(keys.get(key) != value for key, value in wanted.items()):
                problems.append(fault(f"{name} of the running application has another pool than planned", host, "it was not deployed since",
                                      f"deploy playbooks/icdr.yml -i inventories/{it.environment}"))  # fmt: skip
    if not it.hosts("icdr"):
        raise Cannot("the environment has no application server")
    return problems, found


@check("DEP-31")
def datasets(it):
    """No dataset without its completed marker; no fatal error in the log."""
    problems = []
    for host in it.hosts("icdr"):
        left = [found["path"] for found in it.seen.get(host, {}).get("files", []) if found["path"].endswith(".dataset")]
        if it.look(host, "requests", "ready").get("status") != 204:
            role = it.given["icdr_roles"].get(host, "all").replace("all", "hdsi")
            problems.append(
                fault("The application is not ready", host, f"PING /{role}/ is not answered by 204", "see its log")
            )
        if left:
            problems.append(
                fault(
                    f"{len(left)} datasets were not installed ({os.path.basename(left[0])})",
                    host,
                    "the configuration is not whole",
                    "see its log",
                )
            )
        if "FATAL ERROR" in it.said_since_start(host):
            problems.append(
                fault("The log has FATAL ERROR", host, "it did not start as configured", "read the lines around it")
            )
    return problems, {}


@check("DEP-33")
def cache(it):
    """Cache type follows topology and Redis requires authentication."""
    problems = []
    if it.answers.get("cache") == "redis" and not it.hosts("cache"):
        raise Cannot("the environment has no host in the group cache")
    for host in it.hosts("cache"):
        answer = it.look(host, "exchanges", "cache")
        if not answer.get("connected"):
            problems.append(
                fault(
                    "Redis does not answer",
                    host,
                    "sessions of several servers are not shared",
                    "systemctl status redis-server",
                )
            )
        elif "NOAUTH" not in answer.get("answer", ""):
            problems.append(
                fault(
                    "Redis answers without a password", host, "whoever reaches it reads sessions", "playbooks/cache.yml"
                )
            )
    wanted = "REDIS" if it.answers.get("cache") == "redis" else "RAMCACHE"
    if it.settings() and wanted not in it.settings()["SDB_FEATURE"].split(";"):
        problems.append(
            fault(
                f"{wanted} is not in SDB_FEATURE",
                "group_vars/icdr",
                "another cache is used than planned",
                "copier update",
            )
        )
    return problems, {"cache": wanted}


@check("DEP-34")
def queue(it):
    """Queue type equals dispatcher_queue, and is not a file on 3.x in production clusters."""
    if not it.settings():
        raise Cannot("this runtime registers its queue in santedb.config.xml, which is not compared yet")
    names, kind, problems = it.settings()["SDB_FEATURE"].split(";"), it.answers.get("dispatcher_queue"), []
    if (kind == "file") != ("FS_MQ" in names):
        problems.append(fault(f"The queue planned is {kind}, the features are {', '.join(n for n in names if 'MQ' in n)}", "group_vars/icdr",
                              "messages go elsewhere", "copier update"))  # fmt: skip
    if kind == "file" and len(it.hosts("icdr")) > 1 and it.given["production"] and it.plan["release"]["line"] == "3.x":
        problems.append(
            fault(
                "Several servers have a queue of files each",
                "answer dispatcher_queue",
                "messages of a lost server are lost",
                "plan rabbitmq",
            )
        )
    return problems + it.differs(["SDB_FEATURE"]), {"queue": kind}


def same_files(it, part, todo):
    """Return findings when application servers of one role have different files under a path."""
    by_role = {}
    for host in it.hosts("icdr"):
        role = it.given["icdr_roles"].get(host, "all")
        it.look(host, "commands", "size")
        files = {found["path"]: found["sha256"] for found in it.seen[host].get("files", []) if part in found["path"]}
        by_role.setdefault(role, {})[host] = files
    problems = []
    for role, hosts in by_role.items():
        names = sorted(hosts)
        for other in names[1:]:
            if hosts[other] != hosts[names[0]]:
                paths = {
                    path
                    for path in {*hosts[other], *hosts[names[0]]}
                    if hosts[other].get(path) != hosts[names[0]].get(path)
                }
                problems.append(fault(f"{', '.join(sorted(paths)[:3])} differ", f"{names[0]} and {other} ({role})",
                                      "the answer depends on the server that gives it", todo))  # fmt: skip
    if not by_role or not any(files for hosts in by_role.values() for files in hosts.values()):
        raise Cannot(f"no application server has files under {part}")
    return problems, {role: sorted(hosts) for role, hosts in by_role.items()}


@check("DEP-35")
def same_configuration(it):
    """Same digest per server role."""
    return same_files(it, "/etc/santedb/icdr/files/", "deploy playbooks/icdr.yml to both")


@check("DEP-37")
def same_match(it):
    """Match configurations are the same on every server."""
    return same_files(it, "/match/", "deploy playbooks/icdr.yml to both")


@check("DEP-45")
def hl7_senders(it):
    """Security mode is Msh8, or client certificates are required."""
    mode = it.settings().get("SDB_HL7_AUTHENTICATION")
    certificates_asked = (it.group("proxy").get("proxy_hl7_stream") or {}).get("client_certificates")
    if mode not in ("Msh8", "Sft4") and not certificates_asked:
        return [fault(f"SDB_HL7_AUTHENTICATION is {mode or 'not set'} and no client certificate is asked for", "group_vars/icdr, proxy",
                      "any machine in the network can send as another", "plan hl7_authentication msh8")], {}  # fmt: skip
    return it.differs(["SDB_HL7_AUTHENTICATION"]), {"mode": mode, "client_certificates": bool(certificates_asked)}


@check("DEP-46")
def fhir(it):
    """CapabilityStatement equals fhir_resources."""
    answer = it.look(it.serving("hdsi"), "requests", "fhir")
    if answer.get("status") != 200:
        return [
            fault(
                f"/fhir/metadata answers {answer.get('status')}",
                it.serving("hdsi"),
                "FHIR cannot be used",
                "see the application's log",
            )
        ], {}
    try:
        statement = json.loads(answer["body"])
        actual = {entry["type"] for rest in statement["rest"] for entry in rest.get("resource") or []}
    except (ValueError, KeyError, TypeError) as error:
        raise Cannot("the CapabilityStatement cannot be read (longer than 100 000 characters, or XML)") from error
    wanted = set(filter(None, it.settings().get("SDB_FHIR_RESOURCE", "").split(";")))
    problems = [
        fault(f"{name} is exposed", "/fhir/metadata", "it is not in the plan", "take it out of SDB_FHIR_RESOURCE")
        for name in sorted(actual - wanted)
    ]
    problems += [
        fault(f"{name} is missing", "/fhir/metadata", "the plan promises it", "see the application's log")
        for name in sorted(wanted - actual)
    ]
    return problems, {"resources": sorted(actual)}


@check("DEP-64")
def privacy(it):
    """DATA_POLICY is on and the action equals privacy_default_action."""
    if "DATA_POLICY" not in it.settings().get("SDB_FEATURE", "").split(";"):
        return [
            fault(
                "DATA_POLICY is not in SDB_FEATURE",
                "group_vars/icdr",
                "policies on records are not enforced",
                "copier update",
            )
        ], {}
    return it.differs(["SDB_FEATURE", "SDB_DATA_POLICY_ACTION"]), {
        "action": it.settings().get("SDB_DATA_POLICY_ACTION")
    }


@check("DEP-69")
def retention(it):
    """Policy audit.retention equals audit_retention_days."""
    days = it.answers.get("audit_retention_days")
    if not in_rendered(it, rf"audit\.retention.{{0,200}}P{days}D", "the retention"):
        return [
            fault(
                f"audit.retention is not P{days}D",
                f"santedb/{it.environment}/",
                "audits are kept too long or not long enough",
                "copier update",
            )
        ], {}
    problems, _ = same_files(it, "/etc/santedb/icdr/files/", "deploy playbooks/icdr.yml")
    return problems, {"days": days}


# -- network --------------------------------------------------------------------------------------------------------------


@check("DEP-99")
def only_planned(it):
    """Only planned ports answer, tried from other hosts and from here (TCP; UDP does not answer a scan)."""
    problems = it.unplanned()
    planned = {int(entry["port"]) for entry in it.given["ports"] if entry.get("protocol") == "udp"} | {
        53,
        67,
        68,
        123,
        323,
        546,
    }
    udp = {}
    for host in it.hosts():
        lines = it.look(host, "commands", "listening_udp")["out"].splitlines()
        ports = {
            line.split()[3].rsplit(":", 1)[-1] for line in lines if not re.match(r"(127\.|\[::1\])", line.split()[3])
        }
        udp[host] = sorted(int(port) for port in ports if port.isdigit())
        for port in udp[host]:
            if port not in planned:
                problems.append(
                    fault(
                        f"UDP port {port} listens",
                        host,
                        "no plan opens it, and only the firewall keeps it shut",
                        "stop what listens",
                    )
                )
    tried = {f"{source} -> {target}": ports for source, _, target, ports in it.scans()}
    return problems, {"open_tcp": tried, "listening_udp": udp, "note": "UDP is judged by what listens, not by a scan."}


def closed(it, group, names, why):
    """Return findings for the ports of the named services of a group."""
    ports = {
        int(entry["port"]) for entry in it.given["ports"] if entry["group"] == group and entry.get("service") in names
    }
    if not ports:
        raise Cannot(f"the plan has no port of {group} named {', '.join(names)}")
    return it.unplanned(ports), {"ports": sorted(ports), "why": why}


@check("DEP-15")
def database_port(it):
    """Database port reachable from planned hosts only."""
    return closed(it, "database", ["postgresql"], "the database is for the application servers")


@check("DEP-41")
def inner_ports(it):
    """8080 and 9200 closed from outside."""
    problems, found = closed(it, "icdr", ["icdr-rest"], "the proxy is the only way in")
    if it.hosts("portal"):
        problems += closed(it, "portal", ["santedb-www"], "")[0]
    return problems, found


@check("DEP-44")
def plain_llp(it):
    """LLP port unreachable from untrusted networks."""
    return closed(it, "icdr", ["hl7v2-llp"], "LLP is in clear")


@check("DEP-49")
def administration(it):
    """Administration answers only where planned."""
    entries = [entry for entry in it.given["ports"] if entry.get("service") == "ssh"]
    if any(origin.get("any") for entry in entries for origin in entry.get("from") or []):
        return [
            fault(
                "SSH is open to everybody",
                "santedb_ports",
                "everyone may try to come in",
                "mark a network trusted in the plan",
            )
        ], {}
    return it.unplanned({22, 2222, 3389, 5900, 10000, 2375, 2376}), {"from": [entry.get("from") for entry in entries]}


def outside(it, name):
    """Return what this machine got from a public end point."""
    found = it.given["outside"].get(name)
    if found is None:
        raise Cannot("this machine did not ask " + name)
    return found


@check("DEP-40")
def tls_only(it):
    """Port 80 redirects and the TLS port answers."""
    problems, found = [], {}
    for purpose in ("api", "portal"):
        name = it.given["names"].get(purpose)
        if not name:
            continue
        plain, secure = outside(it, f"plain {purpose}"), outside(it, f"tls {purpose}")
        found[name] = {"plain": plain.get("status"), "tls": secure.get("version") or secure.get("error")}
        if plain.get("status") not in (301, 302, 307, 308, None) or (
            plain.get("status") and not str(plain["headers"].get("Location", "")).startswith("https://")
        ):
            problems.append(
                fault(
                    f"http://{name}/ answers {plain.get('status')}",
                    "the proxy",
                    "data could travel in clear",
                    "playbooks/proxy.yml",
                )
            )
        if not secure.get("ok"):
            problems.append(
                fault(
                    f"https://{name}/ cannot be used: {secure.get('error')}",
                    "the proxy",
                    "nobody can work",
                    "playbooks/proxy.yml",
                )
            )
    if not found:
        raise Cannot("the plan has no public name for REST or the portal")
    return problems, found


def certificate_asked(it, secure):
    """Whether a caller without a certificate was sent away, as planned, after the server had shown its own valid one."""
    said = str(secure.get("error", ""))
    refused = "CERTIFICATE_REQUIRED" in said.upper().replace(" ", "_") or "closed by" in said
    return refused and bool((it.group("proxy").get("proxy_hl7_stream") or {}).get("client_certificates"))


@check("DEP-100")
def chains(it):
    """Every public end point shows a certificate that verifies."""
    problems, found = [], {}
    for purpose, name in sorted(it.given["names"].items()):
        secure = it.given["outside"].get(f"tls {purpose}")
        if secure is None:
            continue
        found[name] = secure
        if not secure.get("ok") and not (purpose == "hl7" and certificate_asked(it, secure)):
            problems.append(fault(f"{name}: {secure.get('error')}", "its served certificate", "partners will refuse it, or learn to ignore warnings",
                                  f"make certificates ENV={it.environment}"))  # fmt: skip
    if not found:
        raise Cannot("the plan has no public end point")
    return problems, found


@check("DEP-43")
def hl7_tls(it):
    """TLS handshake succeeds on the HL7 port, and plain LLP sent to it is refused."""
    secure, plain = outside(it, "tls hl7"), outside(it, "plain llp")
    problems = []
    if not secure.get("ok") and not certificate_asked(it, secure):
        problems.append(
            fault(
                f"The TLS handshake fails: {secure.get('error')}",
                "the HL7 port of the proxy",
                "partners cannot send",
                "playbooks/proxy.yml",
            )
        )
    if "MSH" in plain.get("answer", "") or "MSA" in plain.get("answer", ""):
        problems.append(
            fault(
                "Plain LLP is answered",
                "the HL7 port of the proxy",
                "messages can be sent in clear",
                "playbooks/proxy.yml",
            )
        )
    return problems, {"tls": secure, "plain_connected": plain.get("connected")}


@check("DEP-48")
def api_documents(it):
    """The description of the interface is closed to the outside."""
    answer = outside(it, "api-docs")
    if answer.get("status") is None:
        raise Cannot(f"the proxy did not answer: {answer.get('error')}")
    if answer["status"] == 200:
        return [
            fault(
                "/api-docs is answered",
                "the proxy",
                "it names versions and every operation",
                "set proxy_block_api_docs",
            )
        ], {}
    return [], {"status": answer["status"]}


@check("DEP-32")
def console(it):
    """The administration interface answers."""
    answer = it.look(it.serving("ami"), "requests", "ami")
    if answer.get("status") != 204:
        return [
            fault(
                f"/ami/ answers {answer.get('status')}",
                it.serving("ami"),
                "nobody can administer it",
                "see the application's log",
            )
        ], {}
    if not it.given["identities"].get("new_works"):
        return [
            fault(
                "The console cannot sign in",
                it.first("icdr"),
                "nobody can administer it",
                "run playbooks/hardening.yml",
            )
        ], {}
    return [], {"signed_in": True}


# -- identities -----------------------------------------------------------------------------------------------------------


def identities(it):
    """Return what trying the published names found. Raises Cannot."""
    found = it.given["identities"]
    if not found:
        raise Cannot("published names and passwords were not tried (no application server, or it did not answer)")
    if found.get("trouble"):
        raise Cannot(f"published names and passwords could not be tried: {found['trouble']}")
    if found["unclear"]:
        raise Cannot(f"the application's answers are not clear: {'; '.join(found['unclear'])}")
    return found


def alive(it, chosen):
    """Return findings for published identities that still let in."""
    found = identities(it)
    tried = [name for name in found["tried"] if chosen(name)]
    if not tried:
        raise Cannot("none of these was tried")
    return [
        fault(f"{name} still comes in with what SanteDB publishes", it.first("icdr"), "anybody can look it up", "run playbooks/hardening.yml")
        for name in found["alive"] if chosen(name)
    ], {"tried": sorted({re.sub(r" by (old|new)$", "", name) for name in tried})}  # fmt: skip


@check("DEP-50")
def administrator(it):
    """Login with the published default fails, with the new one succeeds."""
    problems, found = alive(it, lambda name: name.startswith("user Administrator"))
    if not identities(it)["new_works"]:
        raise Cannot("the password of the vault does not let in either, so a refusal proves nothing")
    return problems, found


@check("DEP-51")
def demonstration_users(it):
    """Published passwords of the demonstration users let nobody in."""
    problems, found = alive(it, lambda name: name.startswith(("user Bob", "user Allison")))
    return problems + unlocked(it, ["Bob", "Allison"]), found


@check("DEP-53")
def application_secrets(it):
    """client_credentials with each shipped secret fails."""
    return alive(it, lambda name: name.startswith("application "))


def unlocked(it, names):
    """Return findings for identities for which the hardening has no lock on record."""
    text = it.look(it.first("icdr"), "texts", "/etc/santedb/hardening/state.json")
    try:
        done = list(json.loads(text)["applied"])
    except (ValueError, KeyError, TypeError) as error:
        raise Cannot("the hardening has left no record of what it did (/etc/santedb/hardening/state.json)") from error
    return [
        fault(f"{name} is not recorded as locked", "/etc/santedb/hardening/state.json", "its secret may be tried for ever", "run playbooks/hardening.yml")
        for name in names if not any(name in each.split() and "lock" in each for each in done)
    ]  # fmt: skip


@check("DEP-54")
def debugging(it):
    """fiddler and org.santedb.debug are locked."""
    names = ["fiddler", "org.santedb.debug"]
    problems, found = alive(it, lambda name: name.startswith("application ") and name.split()[1] in names)
    return problems + unlocked(it, names), found


@check("DEP-55")
def unused(it):
    """Applications that are not used are locked."""
    used = {entry["name"] for entry in it.group("icdr").get("icdr_hardening_applications_used") or []}
    identities(it)
    names = [
        name.split()[1]
        for name in it.given["identities"]["tried"]
        if name.startswith("application ") and name.split()[1] not in used
    ]
    problems, found = alive(it, lambda name: name.startswith("application ") and name.split()[1] in names)
    return problems + unlocked(it, names), found


@check("DEP-60")
def second_factor(it):
    """Password grant without code answers mfa_required."""
    found = identities(it)
    if it.answers.get("mfa") != "required":
        raise Cannot(
            f"the plan's second factor is '{it.answers.get('mfa')}': nothing has to be refused; a person confirms who uses it"
        )
    answer = found["answers"].get("administrator by new")
    if answer == "second_factor":
        return [], {"administrator": answer}
    return [
        fault(
            f"Administrator signs in without a second factor ({answer})",
            it.first("icdr"),
            "a password alone is enough",
            "set auth.mfa.required",
        )
    ], {}


# -- audit, backup, monitoring --------------------------------------------------------------------------------------------


def chain(it):
    """Return findings of the collectors' own check of their files."""
    problems, heads = [], {}
    for host in it.hosts("audit"):
        found = it.look(host, "commands", "chain")
        try:
            state = json.loads(found["out"])
        except ValueError as error:
            raise Cannot(f"{host} could not check its files: {found['err'][-200:]}") from error
        heads[host] = state["head"]
        problems += state["problems"]
    return problems, heads


@check("DEP-68")
def audit_arrives(it):
    """A test audit arrives at the collector and is intact."""
    it.first("audit")
    problems, heads = chain(it)
    arrived = it.given["arrived"]
    if not arrived:
        raise Cannot("no collector was asked for the test audit")
    if not any(arrived.values()):
        problems.append(fault(f"The test audit ({it.given['event']}) did not arrive within {it.given['audit_seconds']} s",
                              ", ".join(sorted(arrived)), "what happens in SanteDB leaves no trace outside it",
                              "see the application's log for the dispatcher and the collector's for refused connections"))  # fmt: skip
    return problems, {"event": it.given["event"], "arrived": arrived, "chain": heads}


@check("DEP-67")
def audit_filters(it):
    """The filters in force keep failures; overrides and user creation need a person, outside of production."""
    raise Cannot(
        "a failed sign-in was sent and looked for (DEP-68); an override and a user creation have to be made by a person, outside of production"
    )


def backup_status(it):
    """Return the backup host's own account. Raises Cannot."""
    host = it.first("backup")
    texts = it.seen.get(host, {}).get("texts") or {}
    text = next((text for path, text in texts.items() if path.endswith("/status.json")), None)
    if not text:
        raise Cannot(f"{host} has no status.json: no backup has run yet, or it stands elsewhere (backup_directory)")
    return host, json.loads(text)


@check("DEP-76")
def backup_age(it):
    """Newest backup is younger than rpo_hours."""
    host, state = backup_status(it)
    age = (time.time() - time.mktime(time.strptime(state["time"], "%Y%m%dT%H%M%SZ")) + time.timezone) / 3600
    problems = [f"{text}." if not text.endswith(".") else text for text in state["problems"]]
    if age > it.plan["backup"]["rpo_hours"] + 1:
        problems.append(
            fault(
                f"The account of the backups is {age:.0f} hours old",
                host,
                "nobody knows whether they run",
                "systemctl status santedb-backup-keeper",
            )
        )
    return problems, {key: state.get(key) for key in ("time", "sources", "physical")}


@check("DEP-77")
def backup_encrypted(it):
    """Backup files are encrypted."""
    host, _ = backup_status(it)
    files = [found for found in it.seen[host].get("files", []) if found["path"].endswith(".age")]
    if not files:
        raise Cannot(f"{host} shows no encrypted file of a backup yet")
    return [
        fault(f"{found['path']} is not encrypted", host, "who takes the copy reads the records", "see backup_encryption_recipient")
        for found in files if not found["head"].startswith("age-encryption.org/")
    ], {"files": len(files), "note": "That the key lies elsewhere is for a person to confirm; no private key was looked for."}  # fmt: skip


@check("DEP-06")
def backup_targets(it):
    """Each target can be written and read."""
    host, problems, people = it.first("backup"), [], []
    targets = it.plan["backup"]["targets"]
    for target in targets:
        name = target["name"]
        if target["media"] in ("tape", "cloud"):
            people.append(name)
            continue
        look = it.look(host, "commands", f"target {name}")
        if look["rc"] != 0:
            problems.append(fault(f"The target {name} cannot be written and read ({look['err'].strip()[-200:]})", host,
                                  "backups would have nowhere to go", "mount it there, or name its place: backup_target_settings"))  # fmt: skip
    if people and not problems:
        raise Cannot(f"what lies on tape or with a provider is for people to try: {', '.join(people)}")
    return problems, {"targets": [target["name"] for target in targets]}


@check("DEP-78")
def backup_copies(it):
    """Every target has a copy, the offsite ones included."""
    host, state = backup_status(it)
    problems = [
        fault(f"The target {name} has no copy ({target.get('state', 'never tried')})", host, "a fire takes what is here", "mount it or see its log")
        for name, target in sorted(state["targets"].items()) if not target.get("last_copy")
    ]  # fmt: skip
    if not any(target.get("location") == "offsite" for target in state["targets"].values()):
        problems.append(fault("No target is off site", host, "a fire takes every copy", "plan one: backup_targets"))
    return problems, state["targets"]


@check("DEP-80")
def backup_whole(it):
    """Keys, certificates, configuration and match files are in the backup."""
    host, state = backup_status(it)
    wanted = {
        name
        for component in it.plan["backup"]["components"]
        if component.get("method") == "files"
        for name in it.hosts(component["group"])
    }
    return [
        fault(f"No backup of the files of {name} has arrived", host, "a database without its keys cannot be used", f"systemctl status santedb-backup-agent on {name}")
        for name in sorted(wanted) if not (state["sources"].get(name) or {}).get("last_success")
    ], {"hosts": sorted(wanted)}  # fmt: skip


@check("DEP-82")
def alerts(it):
    """Alert rules are loaded and well-formed; that each fires needs an exercise."""
    host = it.first("monitoring")
    if "SUCCESS" not in it.look(host, "commands", "rules")["out"]:
        return [fault("The alert rules cannot be read", host, "nothing is reported", "playbooks/monitoring.yml")], {}
    raise Cannot(
        "the rules are well-formed; that each alert fires and reaches a person needs an exercise, which is not automatic yet"
    )


# -- what the play calls --------------------------------------------------------------------------------------------------


def waived(it, task):
    """Tell whether two people have accepted, for these answers and until a day still ahead, that the task does not hold."""
    place = "project" if task.get("scope") == "project" else it.environment
    path = os.path.join(it.root, "records", place, f"{task['id']}.yml")
    if not os.path.exists(path):
        return False
    with open(path, encoding="utf-8") as stream:
        record = yaml.load(stream, Loader)
    return (
        isinstance(record, dict)
        and record.get("decision") == "waived"
        and record.get("answers_digest") == task.get("answers_digest")
        and str(record.get("expires", "")) >= time.strftime("%Y-%m-%d")
    )


def verify_check(given, tasks):
    """Judge the tasks; return [{task, status: done|failed|waived|cannot, problems, reason, details}]."""
    it, results = Context(given), []
    for task in tasks:
        it.task = task
        result = {"task": task["id"], "status": "done", "problems": [], "reason": "", "details": {}}
        reason = given["cannot"].get(task["id"])
        try:
            if reason:
                raise Cannot(reason)
            group = NEEDS.get(task["id"])
            if group and not it.hosts(group):
                raise Cannot(f"the environment has no host in the group {group}")
            if task["id"] not in CHECKS:
                raise Cannot("no check is written for it")
            found = CHECKS[task["id"]](it)
            problems, details = found if isinstance(found, tuple) else (found, {})
            wrong = "waived" if problems and waived(it, task) else "failed"
            result.update(problems=list(problems), details=details, status=wrong if problems else "done")
        except Cannot as why:
            result.update(status="cannot", reason=str(why))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, OSError) as error:
            result.update(status="cannot", reason=f"what was seen cannot be judged ({type(error).__name__}: {error})")
        results.append(result)
    return results


def verify_wanted(path, stage, only):
    """Return the automatic tasks of the plan for this stage."""
    with open(path, encoding="utf-8") as stream:
        tasks = (yaml.load(stream, Loader) or {}).get("tasks") or []
    found = [task for task in tasks if task["verify"] == "auto" and (stage == "all" or task["gate_stage"] == stage)]
    return [task for task in found if not only or task["id"] in only]


def verify_scan(host, hostvars, groups, ports, scanners):
    """Return what this host has to try: [{name, address, ports}]. The machine that runs Ansible is called localhost."""
    names = sorted(
        name
        for name in groups["all"]
        if name not in (groups.get("gateway") or []) and not hostvars[name].get("santedb_placeholder")
    )
    planned = {int(entry["port"]) for entry in ports if entry.get("protocol", "tcp") == "tcp"}
    found = []
    for index, target in enumerate(names):
        others = [names[(index + step) % len(names)] for step in range(1, len(names))][:scanners]
        if target == host or (host != "localhost" and host not in others):
            continue
        listening = set()
        seen = hostvars[target].get("verify_seen") or {}
        for line in ((seen.get("commands") or {}).get("listening") or {}).get("out", "").splitlines():
            place = line.split()[3]
            if not re.match(r"(127\.|\[::1\])", place):
                listening.add(int(place.rsplit(":", 1)[-1]))
        found.append(
            {
                "name": target,
                "address": str(hostvars[target].get("ansible_host", target)),
                "ports": sorted(planned | listening | set(COMMON_PORTS)),
            }
        )
    return found


def verify_gather(groups, hostvars, names):
    """Return what the hosts kept of what was seen, by kind and host."""
    hosts = sorted(name for name in groups["all"] if name not in (groups.get("gateway") or []))
    found = {"groups": {name: list(groups.get(name) or []) for name in names}, "hosts": hosts}
    found["groups"]["all"] = hosts
    kinds = {
        "seen": "verify_seen",
        "trouble": "verify_trouble",
        "scanned": "verify_scanned",
        "arrived": "verify_arrived",
    }
    kinds |= {"scan_trouble": "verify_scan_trouble", "icdr_roles": "icdr_role"}
    for kind, variable in kinds.items():
        found[kind] = {}
        for host in [*hosts, "localhost"]:
            values = hostvars[host]
            if variable in values:
                found[kind][host] = values[variable]
    first = next(iter(groups.get("icdr") or []), None)
    found["identities"] = hostvars[first].get("verify_identities") or {} if first else {}
    return found


class FilterModule:
    """The filters of this role."""

    def filters(self):
        """Return them by name."""
        return {
            "verify_check": verify_check,
            "verify_wanted": verify_wanted,
            "verify_scan": verify_scan,
            "verify_gather": verify_gather,
        }
