"""Filters of the role host_baseline: who may reach which port, as addresses."""

from __future__ import annotations

import ipaddress
from typing import Any


def _addresses(text: Any) -> list[Any]:
    """Return [network] when text is an address or a CIDR, else []."""
    try:
        return [ipaddress.ip_network(str(text), strict=False)]
    except ValueError:
        return []


def _host_address(name: str, hostvars: Any) -> str:
    variables = hostvars[name]
    for key in ("ansible_host", "santedb_address"):
        if key in variables:
            return str(variables[key])
    return str(name)


def _resolve(source: Any, groups: Any, hostvars: Any, networks: list[Any]) -> tuple[list[str], list[str]]:
    """Return (addresses, problems) of one entry of `from`."""
    if isinstance(source, str):
        if source == "any":
            return ["0.0.0.0/0", "::/0"], []
        if _addresses(source):
            return [source], []
        if source in groups:
            source = {"group": source}
        else:
            source = {"network": source}
    if source.get("any"):
        return ["0.0.0.0/0", "::/0"], []
    if source.get("cidr"):
        return [str(source["cidr"])], []
    if source.get("cidrs"):
        return [str(item) for item in source["cidrs"]], []
    if source.get("group"):
        return [_host_address(host, hostvars) for host in groups.get(source["group"], [])], []
    if source.get("network"):
        found = [item["cidr"] for item in networks if item.get("name") == source["network"] and item.get("cidr")]
        return found, [] if found else [f"network '{source['network']}' has no address range in the plan"]
    if source.get("partner"):
        return [], [f"partner '{source['partner']}' has no address in the plan"]
    return [], [f"'{source}' is neither a group, a network, a partner nor an address range"]


def _merged(networks: list[Any]) -> list[str]:
    return [str(item) for item in ipaddress.collapse_addresses(networks)]


def host_baseline_rules(
    ports: list[Any], groups: Any, hostvars: Any, networks: list[Any], host: str
) -> list[dict[str, Any]]:
    """Resolve entries of the plan's ports to rules {service, protocol, port, v4, v6, local, problems}.

    `local` is true when the host itself is among the sources: its containers then reach the port as well, although
    their packets carry addresses that only exist on this host. Rules are in the order of protocol, port and service,
    so the same plan always gives the same text.
    """
    own = _addresses(_host_address(host, hostvars))
    rules: dict[tuple[str, str, str], dict[str, Any]] = {}
    for entry in ports:
        key = (str(entry.get("protocol") or "tcp"), str(entry["port"]), str(entry.get("service") or "unnamed"))
        rule = rules.setdefault(
            key, {"protocol": key[0], "port": key[1], "service": key[2], "v4": [], "v6": [], "local": False, "problems": []}
        )
        sources = entry.get("from") or []
        for source in sources if isinstance(sources, list) else [sources]:
            texts, problems = _resolve(source, groups, hostvars, networks)
            rule["problems"].extend(problems)
            for text in texts:
                parsed = _addresses(text)
                if not parsed:
                    rule["problems"].append(f"'{text}' is not an IP address")
                for network in parsed:
                    rule["v4" if network.version == 4 else "v6"].append(network)
                    if any(item.version == network.version and item.subnet_of(network) for item in own):
                        rule["local"] = True
    done = []
    for key in sorted(rules, key=lambda item: (item[0], _number(item[1]), item[2])):
        rule = rules[key]
        done.append({**rule, "v4": _merged(rule["v4"]), "v6": _merged(rule["v6"])})
    return done


def _number(port: str) -> int:
    return int(port.split("-")[0]) if port.split("-")[0].isdigit() else 0


def host_baseline_contains(networks: list[str], address: str) -> bool:
    """Tell whether the address lies in one of the networks (CIDR); False for what is no address."""
    one = _addresses(address.split("%")[0])
    return any(
        one and one[0].version == network.version and one[0].subnet_of(network)
        for text in networks
        for network in _addresses(text)
    )


class FilterModule:
    """The filters by name."""

    def filters(self) -> dict[str, Any]:
        """Return the filters of this role."""
        return {"host_baseline_rules": host_baseline_rules, "host_baseline_contains": host_baseline_contains}
