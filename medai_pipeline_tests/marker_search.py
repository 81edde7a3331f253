"""Where planted identities are looked for, and when one counts as found."""

from __future__ import annotations

import re

import psycopg
from sqlalchemy import make_url

NEW_UIDS = re.compile(rb"2\.25\.[0-9]{20,39}")  # of 39 drawn digits eight may be anybody's birth date


def holds(data: bytes, marker: str) -> bool:
    """Whether a marker lies in there; one of digits alone not inside of a new UID."""
    if marker.encode() not in data:
        return False
    return not marker.isdigit() or marker.encode() in NEW_UIDS.sub(b"", data)


def database_text(url: str) -> bytes:
    """Every row of every table of every schema, as text (bytea as its bytes)."""
    parts: list[bytes] = []
    with psycopg.connect(
        make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    ) as connection:
        tables = connection.execute(
            "SELECT table_schema, table_name FROM information_schema.tables WHERE table_type = 'BASE TABLE'"
            " AND table_schema NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        for schema, table in tables:
            for row in connection.execute(f'SELECT * FROM "{schema}"."{table}"'):  # type: ignore[arg-type]
                parts += [v if isinstance(v, bytes) else str(v).encode() for v in row if v is not None]
    return b"\n".join(parts)
