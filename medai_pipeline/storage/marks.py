"""When something that repeats was last done, by name: the sensor's looks, the hourly retention."""

from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.dialects.postgresql import insert

from medai_pipeline.storage.tables import marks

SENSOR = "sensor"


class Marks:
    """One row a name."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def note(self, name: str, now: datetime) -> None:
        statement = insert(marks).values(name=name, at=now)
        with self._engine.begin() as connection:
            connection.execute(statement.on_conflict_do_update(index_elements=[marks.c.name], set_={"at": now}))

    def last(self, name: str) -> datetime | None:
        with self._engine.connect() as connection:
            return connection.scalar(sa.select(marks.c.at).where(marks.c.name == name))

    def due(self, name: str, every: timedelta, now: datetime) -> bool:
        """Whether `name` was last noted longer ago than `every`; then it is noted now, for one caller alone."""
        statement = insert(marks).values(name=name, at=now)
        again = statement.on_conflict_do_update(
            index_elements=[marks.c.name], set_={"at": now}, where=marks.c.at <= now - every
        )
        with self._engine.begin() as connection:
            return connection.execute(again.returning(marks.c.name)).first() is not None
