"""Results on their way to where they are returned to: what is due, what was sent, what went wrong, and what lies there.

    pending -> sent -> committed          dropped: something newer took its place before it was delivered
       |________________^ (a node that takes responsibility by storage commitment)
    pending <-> failed                    failed waits for a person; `next_attempt_at` is null where nothing is left to do,
                                          and of a pending one while it waits for a review

The UIDs of what will be sent are written before the first byte goes out, so that what lies in the PACS after any crash is
known as ours. Which rows there should be, and which may go, stands in `editions`. Every transition is an audit record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from medai_pipeline.storage.audit import Audit
from medai_pipeline.storage.tables import deliveries, reports, reviews

ACTOR = "pipeline:pacs_results"
Object = Mapping[str, str]  # kind, sop_class_uid, sop_instance_uid, series_instance_uid


@dataclass(frozen=True, slots=True)
class Delivery:
    """One row, with the report and review that it is about. `decision` "" without a review."""

    id: UUID
    study_key: str
    revision: int
    report_id: UUID
    destination: str
    state: str
    reason: str
    attempts: int
    edition: int
    withdrawal: bool
    objects: Sequence[Object]
    next_attempt_at: datetime | None
    created_at: datetime
    updated_at: datetime
    reported_at: datetime
    decision: str
    reviewer: str
    reviewed_at: datetime | None
    run_id: str | None
    asked: int
    refusals: int

    @property
    def open(self) -> bool:
        """Whether something is left that is done without a person."""
        return self.next_attempt_at is not None

    @property
    def troubled(self) -> bool:
        """Whether a person should look: it has failed, or goes on failing."""
        return self.state == "failed" or (self.state == "pending" and self.attempts > 0)


class Deliveries:
    """Reads and writes of the table. `now` is always an aware datetime; `destinations` are names as recorded."""

    def __init__(self, engine: Engine, audit: Audit) -> None:
        self._engine = engine
        self._audit = audit

    # what is there -------------------------------------------------------------------------------------------

    def due(self, destinations: Sequence[str], now: datetime, limit: int) -> list[str]:
        """Study keys with something to do now, the longest waiting first."""
        first = sa.func.min(deliveries.c.next_attempt_at)
        query = (
            sa.select(reports.c.study_key)
            .join(deliveries, deliveries.c.report_id == reports.c.id)
            .where(deliveries.c.next_attempt_at <= now, deliveries.c.destination.in_(destinations))
            .group_by(reports.c.study_key)
            .order_by(first, reports.c.study_key)
            .limit(limit)
        )
        with self._engine.connect() as connection:
            return list(connection.scalars(query))

    def of_study(self, study_key: str) -> list[Delivery]:
        """All of a study's, oldest edition first."""
        return self._rows(reports.c.study_key == study_key)

    def latest(self, study_keys: Iterable[str] | None = None) -> list[Delivery]:
        """The last edition's of each study (None: of all studies)."""
        where = sa.true() if study_keys is None else reports.c.study_key.in_(list(study_keys))
        last: dict[str, int] = {}
        rows = self._rows(where)
        for row in rows:
            last[row.study_key] = max(last.get(row.study_key, 0), row.edition)
        return [row for row in rows if row.edition == last[row.study_key]]

    def content_of(self, delivery: Delivery) -> Mapping[str, Any] | None:
        """report.json as the review of this delivery left it; None when the review changed nothing."""
        query = sa.select(reviews.c.content).join(deliveries, deliveries.c.review_id == reviews.c.id)
        with self._engine.connect() as connection:
            return connection.scalar(query.where(deliveries.c.id == delivery.id, reviews.c.decision == "edited"))

    def sent_before(self, study_key: str, edition: int) -> list[Object]:
        """Every object of earlier editions that lies, or may lie, somewhere."""
        objects = (one for row in self.of_study(study_key) if row.edition < edition for one in row.objects)
        return list({one["sop_instance_uid"]: one for one in objects}.values())

    def uids_of(self, study_key: str) -> frozenset[str]:
        """SOP Instance UIDs of everything that was ever sent for a study, or was about to be."""
        unnested = sa.func.unnest(deliveries.c.sop_instance_uids)
        query = sa.select(unnested).join(reports, reports.c.id == deliveries.c.report_id)
        with self._engine.connect() as connection:
            return frozenset(connection.scalars(query.where(reports.c.study_key == study_key)))

    def was_run(self, run_id: str) -> bool:
        """Whether the run has begun a delivery."""
        with self._engine.connect() as connection:
            return bool(connection.scalar(sa.select(sa.exists().where(deliveries.c.run_id == run_id))))

    # one at a time -------------------------------------------------------------------------------------------

    @contextmanager
    def alone(self, study_key: str) -> Iterator[bool]:
        """Whether this process alone delivers for the study meanwhile: by a lock in Postgres that dies with it."""
        key = int.from_bytes(hashlib.sha256(f"medai delivery {study_key}".encode()).digest()[:8], "big", signed=True)
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            connection.detach()  # outside the pool: closing it ends the session, and with it the lock
            yield bool(connection.scalar(sa.text("SELECT pg_try_advisory_lock(:key)"), {"key": key}))
        finally:
            connection.close()

    def begin(self, delivery: Delivery, run_id: str, now: datetime) -> bool:
        """One attempt more. False when it is not to be sent any more."""
        attempts = deliveries.c.attempts + 1
        return self._move(delivery, ("pending",), "", {}, True, attempts=attempts, run_id=run_id, updated_at=now)

    def name(self, delivery: Delivery, objects: Sequence[Object], now: datetime) -> bool:
        """Notes what is about to be sent, before it is. False when it is not to be sent any more."""
        known = {one["sop_instance_uid"]: one for one in (*delivery.objects, *objects)}
        return self._move(
            delivery, ("pending",), "", {}, True,
            objects=[dict(one) for one in known.values()], sop_instance_uids=list(known), updated_at=now,
        )  # fmt: skip

    def sent(
        self, delivery: Delivery, objects: Sequence[Object], left_out: str, commit_at: datetime | None, now: datetime
    ) -> bool:
        """`objects` lie there, all that the destination takes. `commit_at`: when it is asked to commit to them."""
        detail = {"objects": len(objects), **({"left_out": left_out} if left_out else {})}
        return self._move(
            delivery, ("pending",), "delivery.sent", detail,
            state="sent", reason=left_out, objects=[dict(one) for one in objects], next_attempt_at=commit_at,
            updated_at=now,
        )  # fmt: skip

    def committed(self, delivery: Delivery, now: datetime) -> bool:
        """The node has taken responsibility for every object (PS3.4 Annex J)."""
        return self._move(
            delivery, ("sent",), "delivery.committed", {},
            state="committed", reason="", next_attempt_at=None, updated_at=now,
        )  # fmt: skip

    def uncommitted(self, delivery: Delivery, reason: str, again_at: datetime | None, now: datetime) -> bool:
        """It is there, but the node has not answered for it; asked again at `again_at` (None: no more)."""
        return self._move(
            delivery, ("sent",), "", {},
            reason=reason, next_attempt_at=again_at, asked=deliveries.c.asked + 1, updated_at=now,
        )  # fmt: skip

    def failed(
        self, delivery: Delivery, reason: str, again_at: datetime | None, now: datetime, refused: bool = False
    ) -> bool:
        """The attempt failed: pending until `again_at`, or failed for good (None). `reason`: one line, no identity.

        `refused`: it was answered; else the destination was away, which is no refusal.
        """
        state = "failed" if again_at is None else "pending"
        return self._move(
            delivery, ("pending", "sent"), "delivery.failed", {"reason": reason, "again": again_at is not None},
            state=state, reason=reason, next_attempt_at=again_at, refusals=deliveries.c.refusals + int(refused),
            updated_at=now,
        )  # fmt: skip

    def postpone(
        self, delivery: Delivery, reason: str, until: datetime, now: datetime, attempts: int | None = None
    ) -> bool:
        """Not now; `attempts` are counted in all (None: as many as before)."""
        return self._move(
            delivery, ("pending", "sent"), "", {},
            reason=reason, next_attempt_at=until, attempts=delivery.attempts if attempts is None else attempts,
            updated_at=now,
        )  # fmt: skip

    def retry(self, actor: str, now: datetime, study_keys: Sequence[str] | None = None) -> list[str]:
        """A person asks once more for what has not arrived (`study_keys` None: for all of it); the study keys concerned."""
        where = sa.true() if study_keys is None else reports.c.study_key.in_(study_keys)
        stuck = sa.select(deliveries.c.id).join(reports, reports.c.id == deliveries.c.report_id)
        waiting = deliveries.c.state.in_(("pending", "failed"))
        with self._engine.begin() as connection:
            again = connection.execute(
                sa.update(deliveries)
                .where(deliveries.c.id.in_(stuck.where(where, waiting)))
                .values(state="pending", attempts=0, refusals=0, next_attempt_at=now, updated_at=now)
                .returning(deliveries.c.report_id, deliveries.c.destination)
            ).all()
            keys = _keys(connection, {row.report_id for row in again})
            for row in again:
                self._audit.append_in(
                    connection, actor, "delivery.retry", keys[row.report_id], {"destination": row.destination}
                )
        return sorted(set(keys.values()))

    def _move(
        self,
        delivery: Delivery,
        states: tuple[str, ...],
        action: str,
        detail: Mapping[str, Any],
        may_go: bool = False,
        **values: Any,
    ) -> bool:
        """False when the row is in none of `states` any more, or (`may_go`) has been stopped."""
        where = (deliveries.c.id == delivery.id) & deliveries.c.state.in_(states)
        where &= deliveries.c.next_attempt_at.isnot(None) if may_go else sa.true()
        with self._engine.begin() as connection:
            moved = connection.execute(sa.update(deliveries).where(where).values(**values).returning(deliveries.c.id))
            if moved.first() is None:
                return False
            if action:
                told = {"destination": delivery.destination, "edition": delivery.edition, **detail}
                self._audit.append_in(connection, ACTOR, action, delivery.study_key, told)
        return True

    def _rows(self, where: sa.ColumnElement[bool]) -> list[Delivery]:
        columns = [deliveries.c[name] for name in _PLAIN]
        query = (
            sa.select(
                *columns, reports.c.study_key, reports.c.revision, reports.c.created_at.label("reported_at"),
                sa.func.coalesce(reviews.c.decision, "").label("decision"),
                sa.func.coalesce(reviews.c.reviewer, "").label("reviewer"),
                reviews.c.created_at.label("reviewed_at"),
            )
            .join(reports, reports.c.id == deliveries.c.report_id)
            .outerjoin(reviews, reviews.c.id == deliveries.c.review_id)
            .where(where)
            .order_by(deliveries.c.edition, deliveries.c.destination)
        )  # fmt: skip
        with self._engine.connect() as connection:
            return [Delivery(**row._mapping) for row in connection.execute(query)]


_PLAIN = (
    "id", "report_id", "destination", "state", "reason", "attempts", "edition", "withdrawal", "objects",
    "next_attempt_at", "created_at", "updated_at", "run_id", "asked", "refusals",
)  # fmt: skip


def _keys(connection: Connection, report_ids: set[UUID]) -> dict[UUID, str]:
    query = sa.select(reports.c.id, reports.c.study_key).where(reports.c.id.in_(report_ids))
    return {row.id: row.study_key for row in connection.execute(query)}
