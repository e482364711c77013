"""What a database contains, in a form that two copies can be compared by: rows and a checksum for every table."""

from __future__ import annotations

from typing import Any

SETTINGS = {
    "timezone": "UTC",
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "3",
    "search_path": "pg_catalog",
    "statement_timeout": "0",
}

TABLES = """
SELECT n.nspname, c.relname, pg_catalog.format('%I.%I', n.nspname, c.relname)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence = 'p'
  AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
ORDER BY 1, 2
"""


def fingerprint(connection: Any, checksums: bool = True) -> dict[str, dict[str, Any]]:
    """Return {schema.table: {rows, checksum}} as the open transaction of `connection` (psycopg2) sees them.

    The checksum does not depend on the order of rows. Without `checksums` it is None, and tables are only counted.
    """
    total = "coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text" if checksums else "NULL"
    found = {}
    with connection.cursor() as cursor:
        for name, value in SETTINGS.items():
            cursor.execute("SELECT set_config(%s, %s, true)", (name, value))
        cursor.execute(TABLES)
        for schema, table, quoted in cursor.fetchall():
            cursor.execute(f"SELECT count(*), {total} FROM ONLY {quoted} t")
            rows, checksum = cursor.fetchone()
            found[f"{schema}.{table}"] = {"rows": rows, "checksum": checksum}
    return found


def differences(expected: dict[str, dict[str, Any]], actual: dict[str, dict[str, Any]]) -> list[str]:
    """Return one sentence for each table in which two fingerprints differ."""
    found = []
    for table in sorted(set(expected) | set(actual)):
        one, two = expected.get(table), actual.get(table)
        if one is None or two is None:
            found.append(f"table {table} is {'missing' if two is None else 'too many'}")
        elif one["rows"] != two["rows"]:
            found.append(f"table {table} has {two['rows']} rows instead of {one['rows']}")
        elif None not in (one["checksum"], two["checksum"]) and one["checksum"] != two["checksum"]:
            found.append(f"table {table} has other contents")
    return found
