"""Which results should lie where they are returned to, against what was sent: the rows of `deliveries` that are missing.

Looked at again and again, so nothing depends on having been there when a report was made, a review written or a
destination added. A study's results are numbered: a new edition whenever something else counts than what was sent last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, Row

from medai_pipeline.storage.tables import SCHEMA, deliveries

AT_ONCE, AFTER_REVIEW = "at-once", "after-review"
AT_ONCE_MOST = 200
DROPPED = "something newer took its place before it was delivered"
WAITS = "waits for a person to accept or edit the report"
_LOCK = 0x6D656461_69000005

# The report that counts of each study on which nobody works, its last review, and the last edition of the study's results;
# without those where nothing can be missing: most studies, of which nothing more is looked at.
_STANDING = sa.text(f"""
SELECT s.study_key, s.report_id, jsonb_array_length(r.content -> 'models') > 0 AS speaks,
    v.id AS review_id, coalesce(v.decision, '') AS decision,
    coalesce(e.edition, 0) AS edition, e.report_id AS sent_report, e.review_id AS sent_review, e.withdrawal,
    coalesce(e.begun, false) AS begun, coalesce(e.decision, '') AS sent_decision, coalesce(e.dropped, false) AS dropped, coalesce(e.destinations, ARRAY[]::text[]) AS destinations,
    EXISTS (SELECT FROM {SCHEMA}.deliveries AS b JOIN {SCHEMA}.reports AS c ON c.id = b.report_id
        WHERE c.study_key = s.study_key AND cardinality(b.sop_instance_uids) > 0) AS attempted
FROM {SCHEMA}.studies AS s
JOIN {SCHEMA}.reports AS r ON r.id = s.report_id
LEFT JOIN LATERAL (
    SELECT w.id, w.decision, w.created_at FROM {SCHEMA}.reviews AS w
    WHERE w.report_id = s.report_id ORDER BY w.created_at DESC LIMIT 1
) AS v ON true
LEFT JOIN LATERAL (
    SELECT d.edition, d.report_id, d.review_id, d.withdrawal, x.decision, array_agg(d.destination) AS destinations,
        bool_and(d.state = 'dropped') AS dropped, bool_or(cardinality(d.sop_instance_uids) > 0) AS begun
    FROM {SCHEMA}.deliveries AS d
    JOIN {SCHEMA}.reports AS q ON q.id = d.report_id
    LEFT JOIN {SCHEMA}.reviews AS x ON x.id = d.review_id
    WHERE q.study_key = s.study_key
    GROUP BY d.edition, d.report_id, d.review_id, d.withdrawal, x.decision ORDER BY d.edition DESC LIMIT 1
) AS e ON true
WHERE s.report_id IS NOT NULL AND s.state = 'reported'
    AND NOT EXISTS (SELECT FROM {SCHEMA}.studies AS n
        WHERE n.study_key = s.study_key AND n.revision > s.revision)
    AND NOT EXISTS (SELECT FROM {SCHEMA}.arrivals AS a
        WHERE a.study_key = s.study_key AND NOT a.settled AND NOT a.vanished)
    AND s.study_key IN (SELECT z.study_key FROM {SCHEMA}.studies AS z WHERE z.finished_at >= :since
        UNION SELECT y.study_key FROM {SCHEMA}.reviews AS w JOIN {SCHEMA}.reports AS y ON y.id = w.report_id
        WHERE w.created_at >= :since)
    AND (s.finished_at >= :since OR v.created_at >= :since)
    AND (CAST(:keys AS text[]) IS NULL OR s.study_key = ANY(CAST(:keys AS text[])))
    AND NOT coalesce(e.report_id = s.report_id AND NOT e.withdrawal AND v.id IS NOT DISTINCT FROM e.review_id
        AND e.destinations @> CAST(:destinations AS text[]), false)
    AND NOT (:when = 'after-review' AND v.id IS NULL AND e.edition IS NULL)
ORDER BY s.finished_at
""")

# What is still to be sent stops where it may not go, as when a site now wants a review first or a person has rejected it,
# and goes on where it may. A dropped row is replaced by another edition; this one stays what it is.
_STOP_OR_GO = sa.text(f"""
UPDATE {SCHEMA}.deliveries AS d SET updated_at = :now, attempts = 0,
    next_attempt_at = CASE WHEN p.may_go THEN CAST(:now AS timestamptz) END, reason = CASE WHEN p.may_go THEN '' ELSE :waits END
FROM (
    SELECT o.id, o.withdrawal OR coalesce(v.decision, '') IN ('accepted', 'edited')
        OR (:when = 'at-once' AND coalesce(v.decision, '') <> 'rejected') AS may_go
    FROM {SCHEMA}.deliveries AS o
    JOIN {SCHEMA}.reports AS r ON r.id = o.report_id
    LEFT JOIN LATERAL (
        SELECT w.decision FROM {SCHEMA}.reviews AS w WHERE w.report_id = o.report_id ORDER BY w.created_at DESC LIMIT 1
    ) AS v ON true
    WHERE o.state = 'pending' AND (CAST(:keys AS text[]) IS NULL OR r.study_key = ANY(CAST(:keys AS text[])))
) AS p
WHERE p.id = d.id AND d.state = 'pending' AND p.may_go = (d.next_attempt_at IS NULL)
""")
_EVER = datetime.min.replace(year=1970)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What should be sent next for a study: a report as a review left it, or (`withdrawal`) that nothing counts."""

    report_id: UUID
    review_id: UUID | None = None
    withdrawal: bool = False


class Editions:
    """Writes the rows that are missing. `now` is always an aware datetime."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def want(
        self,
        when: str,
        destinations: Sequence[str],
        since: datetime | None,
        now: datetime,
        study_keys: Sequence[str] | None = None,
    ) -> list[str]:
        """The study keys for which something became due. `when`: at-once or after-review.

        What is entered already and may not go any more waits, whatever its age. `since`: only what was reported or
        reviewed since then becomes due (None: ever). `study_keys`: only these (None: all).
        """
        given = {
            "since": since or _EVER, "keys": list(study_keys) if study_keys is not None else None,
            "destinations": list(destinations), "when": when, "now": now, "waits": WAITS,
        }  # fmt: skip
        with self._engine.begin() as connection:
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            rows = connection.execute(_STANDING, given).all()
            due = (row.study_key for row in rows if _enter(connection, row, when, destinations, now))
            entered = list(islice(due, AT_ONCE_MOST))  # a look stays short; the rest is found at the next
            connection.execute(_STOP_OR_GO, given)
            return entered

    def being_renewed(self, study_key: str) -> bool:
        """Whether other images of the study have come than those that its last report is about: then it may be another's."""
        query = sa.text(f"""
            SELECT EXISTS (SELECT FROM {SCHEMA}.arrivals AS a
                WHERE a.study_key = :key AND NOT a.settled AND NOT a.vanished)
            OR (SELECT max(s.revision) FROM {SCHEMA}.studies AS s WHERE s.study_key = :key)
                > (SELECT max(s.revision) FROM {SCHEMA}.studies AS s
                    WHERE s.study_key = :key AND s.report_id IS NOT NULL)
        """)
        with self._engine.connect() as connection:
            return bool(connection.scalar(query, {"key": study_key}))


def wanted(row: Any, when: str) -> Wanted | None:
    """What should be sent for a study as it stands; None when nothing is missing or nothing may be sent.

    A rejected result is never sent, and taken back where it was. An accepted one that was sent at once is not sent
    again; one of which nothing has left yet says so. What a later review says takes the place of what an earlier one said.
    """
    same_report = row.sent_report == row.report_id and not row.withdrawal and not row.dropped
    if row.decision == "rejected":
        return Wanted(row.report_id, row.review_id, True) if row.attempted and not row.withdrawal else None
    if not row.speaks:
        return Wanted(row.report_id, None, True) if row.attempted and not row.withdrawal else None
    if row.decision == "edited":
        return None if same_report and row.sent_review == row.review_id else Wanted(row.report_id, row.review_id)
    if row.decision == "accepted":
        said = row.begun or row.sent_review == row.review_id
        return None if same_report and said and row.sent_decision != "edited" else Wanted(row.report_id, row.review_id)
    return None if same_report or when != AT_ONCE else Wanted(row.report_id)


def _enter(connection: Connection, row: Row[Any], when: str, destinations: Sequence[str], now: datetime) -> bool:
    next_one = wanted(row, when)
    if next_one is not None:
        _drop(connection, row.study_key, now)
        _insert(connection, next_one, row.edition + 1, destinations, now)
        return True
    if row.decision == "rejected":
        if not row.withdrawal:
            _drop(connection, row.study_key, now)  # what was to be sent and never was
        return False
    if when == AFTER_REVIEW and not row.decision:
        return False  # it went elsewhere at once, when the site still wanted that
    missing = [name for name in destinations if name not in row.destinations]
    if not missing or not row.edition or row.withdrawal or row.sent_report != row.report_id:
        return False
    _insert(connection, Wanted(row.sent_report, row.sent_review), row.edition, missing, now)  # a new destination
    return True


def _insert(connection: Connection, one: Wanted, edition: int, destinations: Sequence[str], now: datetime) -> None:
    rows: list[dict[str, Any]] = [
        {
            "id": uuid4(), "report_id": one.report_id, "review_id": one.review_id, "withdrawal": one.withdrawal,
            "edition": edition, "destination": name, "sop_instance_uids": [], "state": "pending",
            "created_at": now, "updated_at": now, "next_attempt_at": now,
        }
        for name in destinations
    ]  # fmt: skip
    if rows:
        connection.execute(sa.insert(deliveries), rows)


def _drop(connection: Connection, study_key: str, now: datetime) -> None:
    """What is still to be sent of earlier editions is not sent any more; what was sent needs nothing further."""
    connection.execute(
        sa.text(f"""
            UPDATE {SCHEMA}.deliveries AS d SET next_attempt_at = NULL, updated_at = :now,
                reason = CASE WHEN d.state IN ('pending', 'failed') THEN :reason ELSE d.reason END,
                state = CASE WHEN d.state IN ('pending', 'failed') THEN 'dropped' ELSE d.state END
            FROM {SCHEMA}.reports AS r
            WHERE r.id = d.report_id AND r.study_key = :key
                AND (d.state IN ('pending', 'failed') OR d.next_attempt_at IS NOT NULL)
        """),
        {"now": now, "key": study_key, "reason": DROPPED},
    )
