"""The states of a study revision from ready to reported or failed, and which run may work on it.

Who has a revision is decided here alone, by row locks: a write of a run that does not hold the revision changes
nothing. `reported` is set in `results`, together with the report.

    ready -> queued -> running -> reported | failed
      ^________|__________|  unqueue, release, steal, fail with retry; retry by a person from failed
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, Row

from medai_pipeline.records import StudyState
from medai_pipeline.storage.rows import StudyRow
from medai_pipeline.storage.tables import reports, studies

Pair = tuple[str, int]


class Studies:
    """Study revisions and their runs. `now` is always an aware datetime."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def study(self, study_key: str) -> StudyRow | None:
        """The latest revision."""
        query = sa.select(studies).where(studies.c.study_key == study_key).order_by(studies.c.revision.desc()).limit(1)
        rows = self._rows(query)
        return rows[0] if rows else None

    def revisions(self, study_key: str) -> list[StudyRow]:
        """All revisions, oldest first."""
        return self._rows(sa.select(studies).where(studies.c.study_key == study_key).order_by(studies.c.revision))

    def requestable(self, now: datetime, limit: int) -> list[StudyRow]:
        """Latest revisions that are ready and due while no other revision of the study is queued or running.

        Never-tried ones first, then the oldest.
        """
        other = studies.alias()
        same_study = other.c.study_key == studies.c.study_key
        hindered = sa.exists().where(same_study, (other.c.revision > studies.c.revision) | other.c.state.in_(_ACTIVE))
        due = studies.c.next_attempt_at.is_(None) | (studies.c.next_attempt_at <= now)
        return self._rows(
            sa.select(studies)
            .where(studies.c.state == StudyState.READY, due, ~hindered)
            .order_by(studies.c.attempts > 0, studies.c.ready_at, studies.c.study_key)
            .limit(limit)
        )

    def active(self) -> list[StudyRow]:
        """Every revision, also a superseded one, that is queued or running."""
        return self._rows(sa.select(studies).where(studies.c.state.in_(_ACTIVE)).order_by(studies.c.ready_at))

    def mark_queued(self, pairs: Iterable[Pair], now: datetime) -> list[Pair]:
        """Ready revisions become queued; returns those that did."""
        return self._update(
            _among(pairs) & (studies.c.state == StudyState.READY),
            state=StudyState.QUEUED, run_requested_at=now, updated_at=now,
        )  # fmt: skip

    def unqueue(self, pairs: Iterable[Pair], now: datetime) -> list[Pair]:
        """Queued revisions whose request was lost are ready again; returns those that are."""
        return self._update(
            _among(pairs) & (studies.c.state == StudyState.QUEUED),
            state=StudyState.READY, run_requested_at=None, updated_at=now,
        )  # fmt: skip

    def claim(self, study_key: str, run_id: str, now: datetime, only_reported: bool = False) -> StudyRow | None:
        """The revision that this run works on from now on: the latest one, or the one it holds already.

        None when another run is at work on any revision of the study, or the study is not known or forgotten. Every run but the
        one that held it before counts as an attempt; a new effort on a reported study starts counting at one.
        `only_reported`: None also for a study that has no report and is not to get one again, whose own run is to come.
        """
        with self._engine.begin() as connection:
            query = sa.select(studies).where(studies.c.study_key == study_key).order_by(studies.c.revision.desc())
            rows = connection.execute(query.with_for_update()).all()
            running = [row for row in rows if row.state == StudyState.RUNNING]
            if running:
                return StudyRow.of(running[0]) if running[0].run_id == run_id else None
            if not rows or rows[0].state == StudyState.FORGOTTEN or (only_reported and not _has_a_report(rows[0])):
                return None
            _return_superseded(connection, rows[1:], now)
            return _start(connection, rows[0], run_id, now)

    def steal(self, study_key: str, from_run_id: str, reason: str, now: datetime) -> bool:
        """Takes one study from a run that is known to be dead: it is ready again. False when that run has it no more."""
        return bool(
            self._update(
                (studies.c.study_key == study_key) & _held_by(from_run_id),
                state=StudyState.READY, reason=reason, run_id=None, next_attempt_at=None, updated_at=now,
            )
        )  # fmt: skip

    def release(self, run_id: str, reason: str, now: datetime, max_attempts: int) -> list[Pair]:
        """Every study of a run that is dead is ready again, or failed when it was its last attempt."""
        spent = (studies.c.state == StudyState.RUNNING) & (studies.c.attempts >= max_attempts)
        return self._update(
            (studies.c.run_id == run_id) & studies.c.state.in_(_ACTIVE),
            state=sa.case((spent, StudyState.FAILED), else_=StudyState.READY),
            run_id=sa.case((spent, studies.c.run_id), else_=None),
            finished_at=sa.case((spent, now), else_=None),
            reason=reason, next_attempt_at=None, updated_at=now,
        )  # fmt: skip

    def keep_report(self, study_key: str, revision: int, run_id: str, now: datetime) -> bool:
        """A run over some stages only is over: the report that was there counts on, as old as it is. False when there is none."""
        made = sa.select(reports.c.created_at).where(reports.c.id == studies.c.report_id).scalar_subquery()
        return bool(
            self._update(
                _one(study_key, revision) & _held_by(run_id) & studies.c.report_id.is_not(None),
                state=StudyState.REPORTED, finished_at=made, updated_at=now,
            )
        )  # fmt: skip

    def advance(self, study_key: str, revision: int, run_id: str, stage: str, now: datetime) -> bool:
        """The run is at `stage` now. False when it holds the revision no more: it must stop."""
        return bool(self._update(_one(study_key, revision) & _held_by(run_id), stage=stage, updated_at=now))

    def fail(
        self,
        study_key: str,
        revision: int,
        run_id: str,
        stage: str,
        reason: str,
        retry: bool,
        now: datetime,
        max_attempts: int,
        retry_seconds: float,
    ) -> StudyState | None:
        """The revision failed at `stage` with one line of `reason`: ready again after a pause, or failed for good.

        The pause is retry_seconds * 2 ** (attempts - 1). None when the run holds the revision no more.
        """
        with self._engine.begin() as connection:
            where = _one(study_key, revision) & _held_by(run_id)
            row = connection.execute(sa.select(studies).where(where).with_for_update()).first()
            if row is None:
                return None
            values: dict[str, Any] = {"state": StudyState.FAILED, "finished_at": now}
            if retry and row.attempts < max_attempts:
                pause = timedelta(seconds=retry_seconds * 2 ** max(row.attempts - 1, 0))
                values = {"state": StudyState.READY, "next_attempt_at": now + pause, "run_id": None}
            connection.execute(
                sa.update(studies).where(where).values(**values, stage=stage, reason=reason, updated_at=now)
            )
            return StudyState(values["state"])

    def retry(self, study_key: str, now: datetime) -> bool:
        """A person asks for a failed study once more: ready at once, all attempts before it."""
        newer = studies.alias()
        superseded = sa.exists().where(newer.c.study_key == study_key, newer.c.revision > studies.c.revision)
        return bool(
            self._update(
                (studies.c.study_key == study_key) & (studies.c.state == StudyState.FAILED) & ~superseded,
                state=StudyState.READY, attempts=0, run_id=None, next_attempt_at=None, finished_at=None, updated_at=now,
            )
        )  # fmt: skip

    def _update(self, where: sa.ColumnElement[bool], **values: Any) -> list[Pair]:
        statement = sa.update(studies).where(where).values(**values)
        with self._engine.begin() as connection:
            rows = connection.execute(statement.returning(studies.c.study_key, studies.c.revision)).all()
        return [(row.study_key, row.revision) for row in rows]

    def _rows(self, query: sa.Select[Any]) -> list[StudyRow]:
        with self._engine.connect() as connection:
            return [StudyRow.of(row) for row in connection.execute(query)]


_ACTIVE = (StudyState.QUEUED, StudyState.RUNNING)


def _has_a_report(row: Row) -> bool:
    """It counts, or counted until the study failed when it was to get another one."""
    return row.state == StudyState.REPORTED or (row.state == StudyState.FAILED and row.report_id is not None)


def _one(study_key: str, revision: int) -> sa.ColumnElement[bool]:
    return (studies.c.study_key == study_key) & (studies.c.revision == revision)


def _among(pairs: Iterable[Pair]) -> sa.ColumnElement[bool]:
    return sa.tuple_(studies.c.study_key, studies.c.revision).in_(list(pairs))


def _held_by(run_id: str) -> sa.ColumnElement[bool]:
    return (studies.c.state == StudyState.RUNNING) & (studies.c.run_id == run_id)


def _start(connection: Connection, latest: Row, run_id: str, now: datetime) -> StudyRow:
    row = connection.execute(
        sa.update(studies)
        .where(_one(latest.study_key, latest.revision))
        .values(
            state=StudyState.RUNNING,
            stage="",
            reason="",
            run_id=run_id,
            attempts=1 if latest.state == StudyState.REPORTED else latest.attempts + 1,
            next_attempt_at=None,
            started_at=now,
            finished_at=None,
            updated_at=now,
        )
        .returning(studies)
    ).one()
    return StudyRow.of(row)


def _return_superseded(connection: Connection, older: Sequence[Row], now: datetime) -> None:
    """An older revision that was queued will not be claimed any more: it must not look as if it would."""
    for row in older:
        if row.state == StudyState.QUEUED:
            connection.execute(
                sa.update(studies)
                .where(_one(row.study_key, row.revision))
                .values(state=StudyState.READY, run_requested_at=None, updated_at=now)
            )
