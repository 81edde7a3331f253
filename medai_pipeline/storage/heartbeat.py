"""Whether Dagster's daemon lives, from the table where it says so. Dagster itself is not imported."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import Engine

STALE = timedelta(seconds=120)  # it beats every 30 s
_SENSORS = "SENSOR"
# its column `timestamp` is in whatever zone the daemon's connection had; the body holds POSIX seconds
_QUERY = sa.text("SELECT body FROM public.daemon_heartbeats WHERE daemon_type = :kind")


def last_beat(engine: Engine) -> datetime | None:
    """When the daemon's sensors last showed that they live; None before Dagster first ran on this database."""
    with engine.connect() as connection:
        if connection.scalar(sa.text("SELECT to_regclass('public.daemon_heartbeats')")) is None:
            return None
        body = connection.scalar(_QUERY, {"kind": _SENSORS})
    return datetime.fromtimestamp(json.loads(body)["timestamp"], UTC) if body else None


def beats(engine: Engine, now: datetime) -> bool:
    at = last_beat(engine)
    return at is not None and now - at < STALE
