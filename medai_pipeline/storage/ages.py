"""Which studies are done so long ago that a kind of their data goes, and what of them has gone already."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.dialects.postgresql import insert

from medai_pipeline.records import StudyState
from medai_pipeline.storage.tables import expired, forgotten, studies

_DONE = (StudyState.REPORTED, StudyState.FAILED, StudyState.VANISHED)


class Ages:
    """Reads and notes. A study's age counts from the end of its last run; one that is not done has none."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def older(self, until: datetime, kind: str, most: int | None = None) -> list[str]:
        """Keys of studies done before `until` whose data of this kind has not gone since, the oldest first."""
        newer = studies.alias()
        gone = sa.exists().where(
            expired.c.study_key == studies.c.study_key, expired.c.kind == kind, expired.c.at > studies.c.finished_at
        )
        latest = ~sa.exists().where(newer.c.study_key == studies.c.study_key, newer.c.revision > studies.c.revision)
        query = (
            sa.select(studies.c.study_key)
            .where(studies.c.finished_at < until, studies.c.state.in_(_DONE), latest, ~gone)
            .order_by(studies.c.finished_at)
            .limit(most)
        )
        with self._engine.connect() as connection:
            return list(connection.scalars(query))

    def note(self, study_keys: Iterable[str], kind: str, now: datetime) -> None:
        rows = [{"study_key": key, "kind": kind, "at": now} for key in study_keys]
        if rows:
            statement = insert(expired)
            once = statement.on_conflict_do_update(constraint=expired.primary_key, set_={"at": statement.excluded.at})
            with self._engine.begin() as connection:
                connection.execute(once, rows)

    def gone(self, study_key: str) -> dict[str, datetime]:
        """What was deleted of a study because of its age, by kind."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(expired).where(expired.c.study_key == study_key))
            return {row.kind: row.at for row in rows}

    def forgotten_since(self, since: datetime) -> list[str]:
        """Studies forgotten lately: a writer that was at work may have left a file behind, which nothing can open."""
        with self._engine.connect() as connection:
            return list(connection.scalars(sa.select(forgotten.c.study_key).where(forgotten.c.at >= since)))
