"""The audit chain: who did or saw what, append-only, each record bound to the one before it.

A record's hash is HMAC-SHA-256, under the site's audit key, over its fields as canonical JSON and the hash before it:
who may write to the database but has not the key cannot make a chain that verifies. Records cut off the end are
missed by the head row; who could also set that back is caught only by a head noted elsewhere (`AuditCheck.head`).
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, Row
from sqlalchemy.dialects.postgresql import JSONB

from medai_pipeline.storage.keys import key_id
from medai_pipeline.storage.tables import audit_head, audit_log

GENESIS = "0" * 64
_CHAIN_LOCK = 0x6D656461_69000002
_ROWS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class AuditCheck:
    """What `verify` found. `records` that are right from the start on; `head` is the hash of the last of them."""

    ok: bool
    records: int
    first_bad_seq: int | None = None
    reason: str = ""
    head: str = GENESIS


class Audit:
    """Appends to the chain and verifies it. `detail` and `subject` must hold no identity: study keys, not names."""

    def __init__(self, engine: Engine, key: bytes) -> None:
        self._engine = engine
        self._key = key

    def append(self, actor: str, action: str, subject: str, detail: Mapping[str, Any] | None = None) -> int:
        """Adds a record and returns its number; when this returns, it is written."""
        with self._engine.begin() as connection:
            return self.append_in(connection, actor, action, subject, detail)

    def append_in(
        self, connection: Connection, actor: str, action: str, subject: str, detail: Mapping[str, Any] | None = None
    ) -> int:
        """As `append`, within the caller's transaction: the deed and its record come together or not at all."""
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CHAIN_LOCK})
        head = connection.execute(sa.select(audit_head)).first()
        # jsonb may write a number in another way than it was given: what is hashed is what Postgres keeps
        kept, at = connection.execute(
            sa.select(sa.cast(sa.bindparam("detail", dict(detail or {}), JSONB), JSONB), sa.func.clock_timestamp())
        ).one()
        record = {
            "seq": 1 if head is None else head.seq + 1,
            "at": at,
            "actor": actor,
            "action": action,
            "subject": subject,
            "detail": kept,
            "key_id": key_id(self._key).hex(),
            "previous_hash": GENESIS if head is None else head.hash,
        }
        record["hash"] = self._hash(record)
        connection.execute(sa.insert(audit_log).values(**record))
        _set_head(connection, head, record)
        return record["seq"]

    def verify(self) -> AuditCheck:
        """Reads the whole chain, oldest first, in bounded memory, and names the first record that is not as written."""
        seq, previous = 0, GENESIS
        with self._engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            rows = connection.execution_options(yield_per=_ROWS_AT_ONCE).execute(
                sa.select(audit_log).order_by(audit_log.c.seq)
            )
            for row in rows:
                reason = self._fault(row, seq + 1, previous)
                if reason:
                    return AuditCheck(False, seq, row.seq, reason, previous)
                seq, previous = row.seq, row.hash
            head = connection.execute(sa.select(audit_head)).first()
        if (head.seq, head.hash) != (seq, previous) if head else seq > 0:
            return AuditCheck(False, seq, seq + 1, "records are missing at the end, or the head was changed", previous)
        return AuditCheck(True, seq, head=previous)

    def _fault(self, row: Row[Any], seq: int, previous: str) -> str:
        if row.seq != seq:
            return f"record {seq} is missing"
        if row.previous_hash != previous:
            return "it does not follow the record before it (exchanged, or one was changed)"
        if row.key_id != key_id(self._key).hex():
            return "it was written under another site key"
        if not hmac.compare_digest(row.hash, self._hash(row._mapping)):
            return "its content was changed"
        return ""

    def _hash(self, record: Mapping[Any, Any]) -> str:
        fields = ("seq", "actor", "action", "subject", "detail", "key_id", "previous_hash")
        body = {**{name: record[name] for name in fields}, "at": record["at"].astimezone(UTC).isoformat()}
        text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()


def _set_head(connection: Connection, head: Row[Any] | None, record: Mapping[str, Any]) -> None:
    statement = sa.insert(audit_head) if head is None else sa.update(audit_head)
    connection.execute(statement.values(seq=record["seq"], hash=record["hash"]))
