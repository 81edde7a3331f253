"""Reading the audit chain: records by who, what, whom and when, the oldest first, in bounded memory. Verifying is in `audit`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine, Row

from medai_pipeline.storage.tables import audit_log

_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which records: each that is given must hold. `actor` and `action` may end in `*`; times are aware."""

    since: datetime | None = None
    until: datetime | None = None
    actor: str = ""
    action: str = ""
    subject: str = ""
    after: int = 0
    limit: int | None = None


class AuditTrail:
    """Reads only; who reads writes a record of that himself."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def records(self, wanted: AuditFilter) -> Iterator[Row[Any]]:
        """Rows of `audit_log` by number."""
        query = sa.select(audit_log).where(*_conditions(wanted)).order_by(audit_log.c.seq).limit(wanted.limit)
        with self._engine.connect().execution_options(yield_per=_AT_ONCE) as connection:
            yield from connection.execute(query)

    def newest(self, wanted: AuditFilter) -> list[Row[Any]]:
        """The last `limit` of them, in order."""
        query = sa.select(audit_log).where(*_conditions(wanted)).order_by(audit_log.c.seq.desc()).limit(wanted.limit)
        with self._engine.connect() as connection:
            return list(reversed(connection.execute(query).all()))


def _conditions(wanted: AuditFilter) -> list[sa.ColumnElement[bool]]:
    column = audit_log.c
    given: list[tuple[Any, Callable[[Any], sa.ColumnElement[bool]]]] = [
        (wanted.since, lambda since: column.at >= since),
        (wanted.until, lambda until: column.at < until),
        (wanted.actor, lambda actor: _like(column.actor, actor)),
        (wanted.action, lambda action: _like(column.action, action)),
        (wanted.subject, lambda subject: column.subject == subject),
        (wanted.after, lambda after: column.seq > after),
    ]
    return [condition(value) for value, condition in given if value]


def _like(column: sa.Column[str], text: str) -> sa.ColumnElement[bool]:
    return column.startswith(text[:-1], autoescape=True) if text.endswith("*") else column == text
