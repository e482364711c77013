"""Lists of things as CSV, the way spreadsheets write it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from typing import Any

from santescaffold.interview.form import label_of

_TRUE = {"true", "yes", "y", "1", "x"}
_FALSE = {"false", "no", "n", "0"}


class BadTable(Exception):
    """The table cannot be taken over; the message follows the error grammar."""


def read(text: str, question: str, spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the items of a list from CSV ``text`` whose first row names the fields; raises BadTable.

    Values that are none (a word where a number belongs) are kept as they are: the checks name them in their place.
    """
    fields: Mapping[str, Mapping[str, Any]] = spec["item"]
    text = text.removeprefix("\ufeff")
    head = text.split("\n", 1)[0]
    delimiter = max((";", "\t", ","), key=head.count)
    try:
        rows = [
            row for row in csv.reader(io.StringIO(text), delimiter=delimiter, strict=True) if any(map(str.strip, row))
        ]
    except csv.Error as error:
        raise BadTable(
            f"the table cannot be read: {error}; {question}; no row was taken over; save it as CSV with UTF-8 text"
        ) from None
    if not rows:
        raise BadTable(
            f"the table is empty; {question}; there is nothing to take over; give a first row with the fields"
        )
    known = {_plain(name): name for name in fields} | {_plain(label_of(name)): name for name in fields}
    columns = []
    for title in rows[0]:
        name = known.get(_plain(title))
        if name is None and _plain(title) in map(_plain, spec.get("secrets") or {}):
            raise BadTable(
                f'the column "{title.strip()[:40]}" is a secret; {question}; answers are committed to Git; '
                "take the column out: the deployment repository keeps secrets in its vault"
            )
        if name is None or name in columns:
            what = "comes twice" if name else "is none of the fields"
            raise BadTable(
                f'the column "{title.strip()[:40]}" {what}; {question}; its values would be lost; '
                f"name the columns in the first row: {', '.join(fields)}"
            )
        columns.append(name)
    items = []
    for number, row in enumerate(rows[1:], 2):
        if len(row) > len(columns) and any(cell.strip() for cell in row[len(columns) :]):
            raise BadTable(
                f"row {number} has {len(row)} cells, the first row names {len(columns)}; {question}; values would end "
                "up in the wrong column; put texts that contain the separator in quotes"
            )
        values = {
            name: _value(cell.strip(), fields[name]) for name, cell in zip(columns, row, strict=False) if cell.strip()
        }
        items.append(values)
    return items


def write(items: Any, spec: Mapping[str, Any]) -> str:
    """Return the items of a list as CSV; for no items its first row alone, to be filled in."""
    stream = io.StringIO()
    writer = csv.writer(stream)
    fields = list(spec["item"])
    writer.writerow(fields)
    for item in items if isinstance(items, list) else []:
        if isinstance(item, dict):
            writer.writerow([_cell(item.get(name)) for name in fields])
    return stream.getvalue()


def _plain(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", title.lower())


def _value(cell: str, spec: Mapping[str, Any]) -> Any:
    form = spec.get("form", "text")
    if form == "bool":
        return True if cell.lower() in _TRUE else False if cell.lower() in _FALSE else cell
    if form in ("int", "number"):
        if re.fullmatch(r"-?\d{1,15}", cell):
            return int(cell)
        return float(cell) if form == "number" and re.fullmatch(r"-?\d+\.\d+", cell) else cell
    if form == "multi":
        return [part for part in re.split(r"[;|,\s]+", cell) if part]
    if form == "list":
        return [part.strip() for part in re.split(r"[;\n]", cell) if part.strip()]
    return cell


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)
