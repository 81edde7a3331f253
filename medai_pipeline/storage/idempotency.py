"""The answers that writes were given, by caller and key: asking the same again gives the same, and writes nothing twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.dialects.postgresql import insert

from medai_pipeline.storage.web_tables import idempotency_keys

KEPT = timedelta(hours=24)
ABANDONED = timedelta(minutes=10)  # a write that never said how it ended: its process is gone


@dataclass(frozen=True, slots=True)
class Kept:
    """What is known under a key. `status` None: the first request is still at work."""

    request_sha256: str
    status: int | None
    headers: Mapping[str, str]
    body: str


class Idempotency:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def begin(self, actor: str, key: str, request_sha256: str, now: datetime) -> Kept | None:
        """None: the key is new, and the request may be carried out. Else what is known under it."""
        mine = (idempotency_keys.c.actor == actor) & (idempotency_keys.c.key == key)
        abandoned = idempotency_keys.c.status.is_(None) & (idempotency_keys.c.created_at < now - ABANDONED)
        row = {"actor": actor, "key": key, "request_sha256": request_sha256, "created_at": now}
        with self._engine.begin() as connection:
            connection.execute(
                sa.delete(idempotency_keys).where((idempotency_keys.c.created_at < now - KEPT) | (mine & abandoned))
            )
            new = insert(idempotency_keys).values(**row).on_conflict_do_nothing().returning(idempotency_keys.c.key)
            if connection.execute(new).first() is not None:
                return None
            kept = connection.execute(sa.select(idempotency_keys).where(mine)).one()
        return Kept(kept.request_sha256, kept.status, kept.headers or {}, kept.body or "")

    def end(self, actor: str, key: str, status: int, headers: Mapping[str, str], body: str) -> None:
        self._change(actor, key, sa.update(idempotency_keys).values(status=status, headers=dict(headers), body=body))

    def forget(self, actor: str, key: str) -> None:
        """The request was not carried out: it may be sent again with the same key."""
        self._change(actor, key, sa.delete(idempotency_keys))

    def _change(self, actor: str, key: str, statement: sa.Update | sa.Delete) -> None:
        mine = (idempotency_keys.c.actor == actor) & (idempotency_keys.c.key == key)
        with self._engine.begin() as connection:
            connection.execute(statement.where(mine))
