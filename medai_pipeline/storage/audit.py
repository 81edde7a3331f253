"""The audit chain: who did or saw what, append-only, each record bound to the one before it.

A record's hash is HMAC-SHA-256, under the site's audit key, over its fields as canonical JSON and the hash before it:
who may write to the database but has not the key cannot make a chain that verifies. Records cut off the end are
missed by the head row; who could also set that back is caught only by a head noted elsewhere (`verify(noted)`).

A record says under which key it was written. Keys follow each other as the site's secrets do, and never go back: who got
hold of an earlier secret can neither add records nor change those before the rotation, which the later key binds.
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

from medai_pipeline.storage.keyring import KeySource
from medai_pipeline.storage.keys import key_id
from medai_pipeline.storage.secrets import site_in_force
from medai_pipeline.storage.tables import audit_head, audit_log

GENESIS = "0" * 64
_CHAIN_LOCK = 0x6D656461_69000002
_ROWS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Head:
    """A record's number and hash, as it is noted outside of the database: `NUMBER:HASH`."""

    seq: int
    hash: str

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """Raises ValueError."""
        seq, _, digest = text.strip().partition(":")
        if len(digest) != len(GENESIS) or not set(digest) <= set("0123456789abcdef") or not seq.isdecimal():
            raise ValueError("a noted head is NUMBER:HASH, as `medai audit head` prints it")
        return cls(int(seq), digest)


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

    def __init__(self, engine: Engine, keys: KeySource | bytes) -> None:
        """`keys`: the site's, or one key for the whole chain."""
        self._engine = engine
        self._keys = keys

    def append(self, actor: str, action: str, subject: str, detail: Mapping[str, Any] | None = None) -> int:
        """Adds a record and returns its number; when this returns, it is written."""
        with self._engine.begin() as connection:
            return self.append_in(connection, actor, action, subject, detail)

    def append_in(
        self, connection: Connection, actor: str, action: str, subject: str, detail: Mapping[str, Any] | None = None
    ) -> int:
        """As `append`, within the caller's transaction: the deed and its record come together or not at all."""
        self.lock(connection)
        key = self._key_in_force(connection)
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
            "key_id": key_id(key).hex(),
            "previous_hash": GENESIS if head is None else head.hash,
        }
        record["hash"] = _hash(key, record)
        connection.execute(sa.insert(audit_log).values(**record))
        _set_head(connection, head, record)
        return record["seq"]

    def lock(self, connection: Connection) -> None:
        """Nobody else appends until the caller's transaction ends."""
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CHAIN_LOCK})

    def head(self) -> Head:
        """Where the chain ends now: to be noted where who can write to the database cannot."""
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(audit_head)).first()
        return Head(row.seq, row.hash) if row else Head(0, GENESIS)

    def verify(self, noted: Head | None = None) -> AuditCheck:
        """Reads the whole chain, oldest first, in bounded memory, and names the first record that is not as written.

        `noted`: a head of earlier; a chain that does not hold it any more was set back or made anew.
        """
        seq, previous, newest, met = 0, GENESIS, 0, noted is None or noted == Head(0, GENESIS)
        keys = self._all_keys()
        with self._engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            rows = connection.execution_options(yield_per=_ROWS_AT_ONCE).execute(
                sa.select(audit_log).order_by(audit_log.c.seq)
            )
            for row in rows:
                reason = _fault(row, seq + 1, previous, keys, newest)
                if reason:
                    return AuditCheck(False, seq, row.seq, reason, previous)
                seq, previous, newest = row.seq, row.hash, list(keys).index(row.key_id)
                if noted and seq == noted.seq:
                    if previous != noted.hash:
                        return AuditCheck(False, seq, seq, "it is not the record that was noted as head", previous)
                    met = True
            head = connection.execute(sa.select(audit_head)).first()
        if (head.seq, head.hash) != (seq, previous) if head else seq > 0:
            return AuditCheck(False, seq, seq + 1, "records are missing at the end, or the head was changed", previous)
        if not met:
            return AuditCheck(
                False, seq, seq + 1, "records up to the noted head are missing: it was set back", previous
            )
        return AuditCheck(True, seq, head=previous)

    def _key_in_force(self, connection: Connection) -> bytes:
        """Within the chain's lock, so that after a rotation's first record none comes under the key before."""
        if isinstance(self._keys, bytes):
            return self._keys
        return site_in_force(connection, self._keys, held=False).audit

    def _all_keys(self) -> dict[str, bytes]:
        """Audit keys by their ids, in the order in which they may follow each other."""
        if isinstance(self._keys, bytes):
            return {key_id(self._keys).hex(): self._keys}
        self._keys.reload()
        return {key_id(key).hex(): key for key in self._keys.ring.audit_keys}


def _fault(row: Row[Any], seq: int, previous: str, keys: Mapping[str, bytes], newest: int) -> str:
    if row.seq != seq:
        return f"record {seq} is missing"
    if row.previous_hash != previous:
        return "it does not follow the record before it (exchanged, or one was changed)"
    if row.key_id not in keys:
        return "it was written under another site key"
    if list(keys).index(row.key_id) < newest:
        return "it was written under an earlier key than the record before it"
    if not hmac.compare_digest(row.hash, _hash(keys[row.key_id], row._mapping)):
        return "its content was changed"
    return ""


def _hash(key: bytes, record: Mapping[Any, Any]) -> str:
    fields = ("seq", "actor", "action", "subject", "detail", "key_id", "previous_hash")
    body = {**{name: record[name] for name in fields}, "at": record["at"].astimezone(UTC).isoformat()}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _set_head(connection: Connection, head: Row[Any] | None, record: Mapping[str, Any]) -> None:
    statement = sa.insert(audit_head) if head is None else sa.update(audit_head)
    connection.execute(statement.values(seq=record["seq"], hash=record["hash"]))
