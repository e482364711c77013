"""The machines of an environment and what talks to what, drawn as SVG from the plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

COLUMNS = (
    ("outside", ()),
    ("entrance", ("proxy",)),
    ("applications", ("icdr", "portal", "gateway")),
    ("data", ("database", "cache", "queue")),
    ("operations", ("audit", "backup", "monitoring")),
)
BOX, GAP_X, GAP_Y, TOP, LEFT = 176, 106, 26, 58, 14
LEFT_OUT = ("ssh", "node-exporter", "ssh-backup", "ssh-archive")
"""Services every machine has; the drawing leaves them out, the table of connections has them."""


def connections(plan: Mapping[str, Any], environment: str) -> list[dict[str, str]]:
    """Return who connects to what in an environment, a row for each source and service."""
    rows = []
    for port in plan["ports"]:
        if environment not in (port.get("environments") or [environment]):
            continue
        for source in port["from"]:
            rows.append(
                {
                    "from": source_name(source),
                    "to": port["group"],
                    "service": port["service"],
                    "port": f"{port['port']}/{port['protocol']}",
                    "tls": "yes" if port["tls"] else "no",
                    "purpose": port["purpose"],
                }
            )
    return rows


def source_name(source: Mapping[str, Any]) -> str:
    """Return where connections come from, for people."""
    if source.get("any"):
        return "anywhere"
    for key in ("group", "partner", "network", "cidr"):
        if source.get(key):
            return str(source[key])
    return "?"


def _column(groups: Sequence[str]) -> int:
    for number, (_, members) in enumerate(COLUMNS):
        if set(members) & set(groups):
            return number
    return len(COLUMNS) - 1


def _links(
    plan: Mapping[str, Any], environment: str, hosts: list[Mapping[str, Any]]
) -> tuple[list[str], dict[tuple[str, str], list[str]]]:
    """Return the sources outside, and the services between every two boxes."""
    outside: list[str] = []
    links: dict[tuple[str, str], list[str]] = {}
    for port in plan["ports"]:
        if environment not in (port.get("environments") or [environment]) or port["service"] in LEFT_OUT:
            continue
        for source in port["from"]:
            if "group" in source:
                starts = [host["name"] for host in hosts if source["group"] in host["groups"]]
                if source["group"] == "monitoring":
                    continue
            else:
                starts = [source_name(source)]
                outside += [name for name in starts if name not in outside]
            for start in starts:
                for host in hosts:
                    if port["group"] in host["groups"] and host["name"] != start:
                        label = f"{port['port']}"
                        services = links.setdefault((start, host["name"]), [])
                        if label not in services:
                            services.append(label)
    return outside, links


def draw(plan: Mapping[str, Any], environment: str) -> str:
    """Return the drawing of an environment as an SVG element; what it shows stands in ``connections`` as text too."""
    hosts = [host for host in plan["hosts"] if host["environment"] == environment]
    outside, links = _links(plan, environment, hosts)
    columns: list[list[tuple[str, list[str], str]]] = [[] for _ in COLUMNS]
    columns[0] = [(name, [], "source") for name in outside]
    for host in hosts:
        address = str(host.get("address") or "")
        if host.get("placeholder"):
            address = "not named yet"
        lines = [address, *_wrap(", ".join(host["groups"]), 25)]
        columns[_column(host["groups"])].append((host["name"], lines, "host"))
    used = [number for number, column in enumerate(columns) if column]
    place: dict[str, tuple[float, float, float]] = {}
    body: list[str] = []
    heights = {number: sum(_height(lines) + GAP_Y for _, lines, _ in columns[number]) for number in used}
    tallest = max(heights.values(), default=0)
    for index, number in enumerate(used):
        x = LEFT + index * (BOX + GAP_X)
        y: float = TOP + (tallest - heights[number]) / 2
        body.append(f'<text class="column" x="{x + BOX / 2:g}" y="30">{COLUMNS[number][0]}</text>')
        for name, lines, kind in columns[number]:
            height = _height(lines)
            place[name] = (x, y, height)
            body.append(f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{BOX}" height="{height:g}" rx="6"/>')
            body.append(f'<text class="name" x="{x + BOX / 2:g}" y="{y + 20:g}">{escape(_cut(name, 20))}</text>')
            for row, line in enumerate(lines):
                body.append(f'<text x="{x + BOX / 2:g}" y="{y + 37 + row * 15:g}">{escape(line)}</text>')
            y += height + GAP_Y
    drawn = [(start, end, services) for (start, end), services in links.items() if start in place and end in place]
    arrows, labels = [], []
    for start, end, services in drawn:
        leaving = [other for other in drawn if other[0] == start]
        coming = [other for other in drawn if other[1] == end]
        leaves = (leaving.index((start, end, services)) + 1) / (len(leaving) + 1)
        comes = (coming.index((start, end, services)) + 1) / (len(coming) + 1)
        path, (label_x, label_y), anchor = _arrow(place[start], place[end], leaves, comes)
        arrows.append(f'<path class="link" marker-end="url(#tip-{escape(environment)})" d="{path}"/>')
        text = escape(", ".join(services))
        labels.append(f'<text class="port" style="text-anchor:{anchor}" x="{label_x:g}" y="{label_y:g}">{text}</text>')
    width = LEFT * 2 + len(used) * BOX + max(0, len(used) - 1) * GAP_X
    name = escape(environment)
    return (
        f'<svg class="topology" viewBox="0 0 {width} {tallest + TOP + 8:g}" role="img" '
        f'aria-labelledby="topology-{name}">'
        f'<title id="topology-{name}">Machines of {name} and the ports they use; the table below says the same</title>'
        f'<defs><marker id="tip-{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto-start-reverse"><path d="M0 0 8 4 0 8z"/></marker></defs>'
        + "".join(arrows)
        + "".join(body)
        + "".join(labels)
        + "</svg>"
    )


def _arrow(
    start: tuple[float, float, float], end: tuple[float, float, float], leaves: float, comes: float
) -> tuple[str, tuple[float, float], str]:
    """Return the path of an arrow, where its label goes, and at which end of the label that is.

    ``leaves`` and ``comes`` say how far down its box the arrow leaves and arrives, from 0 to 1.
    """
    y1, y2 = start[1] + start[2] * leaves, end[1] + end[2] * comes
    if start[0] == end[0]:  # the same column: around the right side
        x = start[0] + BOX
        path = f"M{x:g} {y1:g}C{x + 40:g} {y1:g} {x + 40:g} {y2:g} {x + 2:g} {y2:g}"
        return path, (x + 33, (y1 + y2) / 2 + 4), "start"
    if start[0] < end[0]:
        x1, x2, anchor = start[0] + BOX, end[0] - 2, "start"
    else:
        x1, x2, anchor = start[0], end[0] + BOX + 2, "end"
    label = (x1 + (6 if anchor == "start" else -6), y1 - 4)
    if abs(start[0] - end[0]) > BOX + GAP_X + 1:  # over what stands between
        turn = GAP_X / 2 if anchor == "start" else -GAP_X / 2
        high = min(start[1], end[1]) - 12
        path = (
            f"M{x1:g} {y1:g}C{x1 + turn:g} {y1:g} {x1:g} {high:g} {x1 + turn * 2:g} {high:g}"
            f"L{x2 - turn * 2:g} {high:g}C{x2:g} {high:g} {x2 - turn:g} {y2:g} {x2:g} {y2:g}"
        )
        return path, label, anchor
    middle = (x1 + x2) / 2
    return f"M{x1:g} {y1:g}C{middle:g} {y1:g} {middle:g} {y2:g} {x2:g} {y2:g}", label, anchor


def _height(lines: Sequence[str]) -> float:
    return 32 + 15 * len(lines) if lines else 30


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _wrap(text: str, most: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= most:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
