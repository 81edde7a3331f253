"""Forgetting a study: its secret, its identity and its rows go in one transaction; what is sealed under the secret, here
and in every copy ever made, cannot be read from then on. What is left: the study key, and in the audit chain that it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.dialects.postgresql import insert

from medai_pipeline.errors import StorageError
from medai_pipeline.records import StudyState
from medai_pipeline.storage.audit import Audit
from medai_pipeline.storage.secrets import FORGET_LOCK, is_forgotten
from medai_pipeline.storage.tables import (
    arrivals,
    audit_log,
    deliveries,
    forgotten,
    identities,
    images,
    metadata,
    reports,
    studies,
    study_secrets,
)
from medai_pipeline.storage.web_tables import idempotency_keys

KEPT = (arrivals, studies, forgotten, audit_log)  # what still names the study, by its key alone
KNOWING = (arrivals, studies, identities, forgotten, study_secrets)  # a study may have come in and be nowhere else
_REMEMBERED = timedelta(minutes=1)  # twice as long as `secrets` remembers

Also = Callable[[Connection, str], None]


class Forgetting:
    """`also` is done in the same transaction: other rooms' rows of the study."""

    def __init__(self, engine: Engine, audit: Audit, also: Also = lambda connection, study_key: None) -> None:
        self._engine = engine
        self._audit = audit
        self._also = also

    def forget(self, study_key: str, actor: str, reason: str, now: datetime) -> Counter[str]:
        """Returns how many objects of it may lie at each destination, whole or in part: those are not ours to delete.

        Forgetting a study again is no error and writes no second record. Raises StorageError for a study that was never
        known here.
        """
        with self._engine.begin() as connection:
            # writers of the study's rows share this lock (trigger refuse_forgotten): none is left behind by them
            connection.execute(FORGET_LOCK, {"key": study_key})
            known = [sa.exists().where(t.c.study_key == study_key) for t in KNOWING]
            if not connection.scalar(sa.select(sa.or_(*known))):
                raise StorageError(f"no study {study_key} is known here: `medai worklist` lists the study keys")
            again = is_forgotten(connection, study_key)
            delivered = _delivered(connection, study_key)
            self._also(connection, study_key)
            _delete_rows(connection, study_key)
            _blank(connection, study_key, now)
            if not again:
                connection.execute(insert(forgotten).values(study_key=study_key, at=now, reason=reason))
                detail = {"reason": reason, "delivered_objects": delivered.total()}
                self._audit.append_in(connection, actor, "study.forget", study_key, detail)
        return delivered

    def lift(self, study_key: str, actor: str, reason: str, now: datetime) -> bool:
        """The study may come again, as one that was never here; False when it was not forgotten.

        Raises StorageError within a minute: a process that still remembers the destroyed secret would seal under it.
        """
        with self._engine.begin() as connection:
            since = connection.scalar(sa.select(forgotten.c.at).where(forgotten.c.study_key == study_key))
            if since and now - since < _REMEMBERED:
                raise StorageError(f"study {study_key} was forgotten just now: wait a minute before it may come again")
            gone = connection.execute(sa.delete(forgotten).where(forgotten.c.study_key == study_key)).rowcount
            if gone:
                for table in (studies, arrivals):
                    connection.execute(sa.delete(table).where(table.c.study_key == study_key))
                self._audit.append_in(connection, actor, "study.forget-lift", study_key, {"reason": reason})
        return bool(gone)


def _delivered(connection: Connection, study_key: str) -> Counter[str]:
    """In whatever state: UIDs are recorded before anything leaves, and some of a failed or dropped delivery may have arrived."""
    count = sa.func.sum(sa.func.cardinality(deliveries.c.sop_instance_uids)).label("n")
    query = sa.select(deliveries.c.destination, count).where(deliveries.c.report_id.in_(_reports_of(study_key)))
    rows = connection.execute(query.group_by(deliveries.c.destination))
    return Counter({row.destination: row.n for row in rows if row.n})


def _delete_rows(connection: Connection, study_key: str) -> None:
    """All rows of the study but those that say that it was there. The append-only tables let forgetting pass."""
    connection.execute(sa.text("SET LOCAL medai.forgetting = 'on'"))
    images_of = sa.select(images.c.sop_instance_uid).where(images.c.study_key == study_key)
    # answers kept for a second asking are text: they name the study, or an image of it
    named = [study_key, *connection.scalars(images_of)]
    body = sa.func.coalesce(idempotency_keys.c.body, "") + sa.func.coalesce(
        sa.cast(idempotency_keys.c.headers, sa.Text), ""
    )
    for name in named if connection.scalar(sa.select(sa.exists(sa.select(idempotency_keys.c.key)))) else ():
        connection.execute(sa.delete(idempotency_keys).where(sa.func.strpos(body, name) > 0))
    for table in reversed(metadata.sorted_tables):
        condition = None if table in KEPT else _of_study(table, study_key)
        if condition is not None:
            connection.execute(sa.delete(table).where(condition))
    connection.execute(sa.text("SET LOCAL medai.forgetting = 'off'"))


def _of_study(table: sa.Table, study_key: str) -> sa.ColumnElement[bool] | None:
    """Which rows of a table are the study's: those that name it, or a row of a table that names it; None for no such table."""
    if "study_key" in table.c:
        return table.c.study_key == study_key
    for key in table.foreign_keys:
        owner = key.column.table
        if "study_key" in owner.c and owner not in KEPT:
            return key.parent.in_(sa.select(key.column).where(owner.c.study_key == study_key))
    return None


def _blank(connection: Connection, study_key: str, now: datetime) -> None:
    """One revision stays, as `forgotten`; nothing in it or in the arrival tells of the study but its key."""
    times = dict.fromkeys(("first_seen_at", "ready_at", "finished_at", "updated_at"), now)
    nothing = dict.fromkeys(("run_id", "report_id", "run_requested_at", "next_attempt_at", "started_at"))
    texts = dict.fromkeys(("source_digest", "stage", "reason", "modality", "read_modality", "read_body_part"), "")
    counts = {"attempts": 0, "instance_count": 0, "read_kinds": []}
    state = {"state": StudyState.FORGOTTEN, "revision": 1}
    row = {"study_key": study_key, **times, **nothing, **texts, **counts, **state}
    connection.execute(sa.delete(studies).where(studies.c.study_key == study_key))
    connection.execute(insert(studies).values(**row))
    seen = {"fingerprint": "", "instance_count": 0, "first_seen_at": now, "changed_at": now, "settled": True}
    left = insert(arrivals).values(study_key=study_key, **seen, vanished=False, digest=None)
    connection.execute(
        left.on_conflict_do_update(
            index_elements=[arrivals.c.study_key], set_={**seen, "vanished": False, "digest": None}
        )
    )


def _reports_of(study_key: str) -> sa.Select[tuple[object]]:
    return sa.select(reports.c.id).where(reports.c.study_key == study_key)
