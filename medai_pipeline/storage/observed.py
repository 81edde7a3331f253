"""How the pipeline is doing, in numbers, for metrics and `medai status`: one short look at Postgres, whatever it holds.

Counters and histograms are the rows of `tallies`, which triggers keep; gauges rest on partial indexes over what is open.
No query here reads a row a study but the count of all studies, which reads an index (benchmarks/metrics.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from medai_pipeline.records import StudyState
from medai_pipeline.storage.heartbeat import last_beat
from medai_pipeline.storage.marks import SENSOR
from medai_pipeline.storage.tables import deliveries, marks, tallies

TIMEOUT_MS = 3000
STALE = timedelta(seconds=120)


@dataclass(frozen=True, slots=True)
class Tally:
    """One bucket of a histogram that only grows: `bound` is its upper end in seconds, -1 for what has no duration."""

    name: str
    label: str
    bound: float
    count: int
    sum: float


@dataclass(frozen=True, slots=True)
class Observed:
    """`failed` by stage, `deliveries` by state. Ages in seconds; None for what never was."""

    studies: Mapping[StudyState, int]
    failed: Mapping[str, int]
    deliveries: Mapping[str, int]
    queue_age_s: float
    unreported_age_s: float
    overdue: int
    sensor_age_s: float | None
    daemon_age_s: float | None
    tallies: Sequence[Tally]

    def warnings(self) -> list[str]:
        """What a person should look at, in words; the alert rules of deploy/prometheus say the same."""
        failed = sum(self.failed.values())
        said = {
            f"{self.overdue} studies are overdue, the oldest {self.unreported_age_s / 60:.0f} min": self.overdue > 0,
            "Dagster's daemon does not beat: is `medai up` running?": _is_old(self.daemon_age_s),
            "the sensor has not looked at the PACS: see its ticks in the Dagster page": _is_old(self.sensor_age_s),
            f"{failed} studies have failed: `medai worklist` says why, `medai retry --failed` tries again": failed > 0,
            f"{self.deliveries.get('failed', 0)} deliveries have failed": self.deliveries.get("failed", 0) > 0,
        }
        return [words for words, holds in said.items() if holds]


def observe(engine: Engine, now: datetime, overdue_s: float) -> Observed:
    """Raises StorageError when Postgres needs longer than TIMEOUT_MS."""
    with engine.begin() as connection:
        connection.execute(sa.text(f"SET LOCAL statement_timeout = {TIMEOUT_MS}"))
        open_now = connection.execute(_OPEN, {"until": now - timedelta(seconds=overdue_s)}).one()
        sensor = connection.scalar(sa.select(marks.c.at).where(marks.c.name == SENSOR))
        return Observed(
            studies=_by_state(connection),
            failed={row.stage or "before the first": row.n for row in connection.execute(_FAILED)},
            deliveries={row.state: row.n for row in connection.execute(_DELIVERIES)},
            tallies=[Tally(**row._mapping) for row in connection.execute(_TALLIES)],
            queue_age_s=_age(open_now.waiting_since, now) or 0.0,
            unreported_age_s=_age(open_now.first_seen_at, now) or 0.0,
            overdue=open_now.overdue,
            sensor_age_s=_age(sensor, now),
            daemon_age_s=_age(last_beat(engine), now),
        )


# a study that is reported and read again is not open: its report counts
_OPEN = sa.text("""
WITH open AS (
    SELECT first_seen_at, CASE WHEN state IN ('ready', 'queued') THEN ready_at END AS waiting_since
    FROM medai.studies WHERE state IN ('ready', 'queued', 'running') AND report_id IS NULL
    UNION ALL
    SELECT first_seen_at, NULL FROM medai.arrivals WHERE NOT settled AND NOT vanished
)
SELECT min(first_seen_at) AS first_seen_at, min(waiting_since) AS waiting_since,
    count(*) FILTER (WHERE first_seen_at < :until) AS overdue
FROM open
""")
_LATEST = "NOT EXISTS (SELECT FROM medai.studies AS n WHERE n.study_key = s.study_key AND n.revision > s.revision)"
_FAILED = sa.text(
    f"SELECT stage, count(*) AS n FROM medai.studies AS s WHERE state = 'failed' AND {_LATEST} GROUP BY stage"
)
_OTHERS = sa.text(f"""
SELECT state, count(*) AS n FROM medai.studies AS s WHERE state IN ('ready', 'queued', 'running') AND {_LATEST} GROUP BY state
UNION ALL
SELECT state, count(*) FROM medai.studies AS s
WHERE state IN ('failed', 'vanished', 'forgotten') AND {_LATEST} GROUP BY state
UNION ALL
SELECT 'receiving', count(*) FROM medai.arrivals AS a WHERE NOT settled AND NOT vanished
    AND NOT EXISTS (SELECT FROM medai.studies AS s WHERE s.study_key = a.study_key)
""")
_ALL = sa.text("SELECT count(*) FROM medai.studies WHERE revision = 1")
_DELIVERIES = sa.select(deliveries.c.state, sa.func.count().label("n")).group_by(deliveries.c.state)
_TALLIES = sa.select(tallies).order_by(tallies.c.name, tallies.c.label, tallies.c.bound)


def _by_state(connection: Connection) -> dict[StudyState, int]:
    """Each study once, by its latest revision; what is none of the others is reported."""
    counts = {StudyState(row.state): int(row.n) for row in connection.execute(_OTHERS)}
    known = int(connection.scalar(_ALL) or 0)
    others = sum(count for state, count in counts.items() if state is not StudyState.RECEIVING)
    return {state: counts.get(state, 0) for state in StudyState} | {StudyState.REPORTED: max(known - others, 0)}


def _age(at: datetime | None, now: datetime) -> float | None:
    return None if at is None else max((now - at).total_seconds(), 0.0)


def _is_old(age_s: float | None) -> bool:
    return age_s is None or age_s > STALE.total_seconds()
