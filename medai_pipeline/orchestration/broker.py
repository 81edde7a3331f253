"""What the warm workers leave in Postgres when it is their broker: delivered messages and results nobody reads again.

Celery itself would clean up by a further process (beat) only, and kombu never. Runs are known by Dagster, not by these.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Engine, text

KEPT = timedelta(days=2)

# table -> which of its rows are over; times are kept without a zone: the first in the client's, the second in UTC
_OVER = {
    "kombu_message": "NOT visible AND timestamp < :local",
    "celery_taskmeta": "status IN ('SUCCESS', 'FAILURE', 'REVOKED') AND date_done < :utc",
}


def purge(engine: Engine, now: datetime, kept: timedelta = KEPT) -> int:
    """Deletes delivered messages and ended results older than `kept`; returns how many. Other brokers have no such tables."""
    until = now - kept
    times = {"local": until.astimezone().replace(tzinfo=None), "utc": until.replace(tzinfo=None)}
    gone = 0
    with engine.begin() as connection:
        for table, over in _OVER.items():
            if connection.scalar(text("SELECT to_regclass(:table)"), {"table": table}) is not None:
                gone += connection.execute(text(f"DELETE FROM {table} WHERE {over}"), times).rowcount
    return gone
