"""What Dagster keeps of a study, taken out of its tables: pictures and tables in events, log lines, check results.

Dagster itself wipes whole assets only. Its tables lie in the same database as ours, so that a study is forgotten in one
transaction. What is left is its key: as a partition, in tags of runs and backfills.
"""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

AT_ONCE = 20_000

_OF_STUDY = """
CREATE TEMPORARY TABLE medai_forgotten_events ON COMMIT DROP AS
WITH named AS (
    SELECT id, run_id FROM event_logs WHERE asset_key IN (SELECT asset_key FROM asset_keys) AND partition = :key
)
SELECT id FROM named
UNION
SELECT e.id FROM event_logs AS e
WHERE e.run_id IN (SELECT run_id FROM named UNION SELECT unnest(CAST(:runs AS text[]))
        UNION SELECT run_id FROM asset_check_executions WHERE partition = :key)
    AND strpos(e.event, :key) > 0
"""
_DELETE = (
    "DELETE FROM asset_event_tags WHERE event_id IN (SELECT id FROM medai_forgotten_events)",
    "DELETE FROM asset_check_executions WHERE partition = :key"
    " OR evaluation_event_storage_id IN (SELECT id FROM medai_forgotten_events)",
    "UPDATE asset_keys SET last_materialization = NULL WHERE strpos(last_materialization, :key) > 0",
    "DELETE FROM event_logs WHERE id IN (SELECT id FROM medai_forgotten_events)",
    "DROP TABLE medai_forgotten_events",
)

# Events of assets stay: staleness and backfills rest on them. Runs that are not over stay whole.
_OLD = """
DELETE FROM event_logs WHERE id IN (
    SELECT e.id FROM event_logs AS e JOIN runs AS r ON r.run_id = e.run_id
    WHERE e.asset_key IS NULL AND e.timestamp < :until AND r.status IN ('SUCCESS', 'FAILURE', 'CANCELED')
    LIMIT :most
)
"""
_COUNT_OLD = """
SELECT count(*) FROM (
    SELECT FROM event_logs AS e JOIN runs AS r ON r.run_id = e.run_id
    WHERE e.asset_key IS NULL AND e.timestamp < :until AND r.status IN ('SUCCESS', 'FAILURE', 'CANCELED')
    LIMIT :most
) AS old
"""


def wipe(connection: Connection, study_key: str) -> None:
    """Within the caller's transaction: every event that names the study, by partition or in the runs that worked on it."""
    if not _is_here(connection):
        return
    runs = connection.scalars(
        sa.text(
            "SELECT run_id FROM medai.studies WHERE study_key = :key AND run_id IS NOT NULL"
            " UNION SELECT run_id FROM medai.reports WHERE study_key = :key"
            " UNION SELECT run_id FROM medai.inference_results WHERE study_key = :key"
            " UNION SELECT d.run_id FROM medai.deliveries AS d JOIN medai.reports AS r ON r.id = d.report_id"
            " WHERE r.study_key = :key AND d.run_id IS NOT NULL"
        ),
        {"key": study_key},
    ).all()
    connection.execute(sa.text(_OF_STUDY), {"key": study_key, "runs": list(runs)})
    for statement in _DELETE:
        connection.execute(sa.text(statement), {"key": study_key} if ":key" in statement else {})


def old_events(engine: Engine, until: datetime, most: int | None = None) -> int:
    """How many events of runs, not of assets, are older; counted up to `most`."""
    with engine.connect() as connection:
        given = {"until": _naive(until), "most": most}
        return int(connection.scalar(sa.text(_COUNT_OLD), given) or 0) if _is_here(connection) else 0


def delete_old_events(engine: Engine, until: datetime) -> int:
    """Deletes at most AT_ONCE of them; returns how many."""
    with engine.begin() as connection:
        if not _is_here(connection):
            return 0
        return connection.execute(sa.text(_OLD), {"until": _naive(until), "most": AT_ONCE}).rowcount


def _is_here(connection: Connection) -> bool:
    return connection.scalar(sa.text("SELECT to_regclass('event_logs')")) is not None


def _naive(at: datetime) -> datetime:
    """Dagster keeps UTC without a zone."""
    return at.astimezone(UTC).replace(tzinfo=None)
