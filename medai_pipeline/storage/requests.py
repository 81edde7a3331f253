"""What a caller asked to be computed of an image, on its way to an answer; and what came in by uploads.

    pending -> requested -> running -> done | failed
       ^__________|____________|  put back when its run is gone, MOST_ATTEMPTS times

A request whose study is still on its way stays pending until it is reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.dialects.postgresql import insert

from medai_pipeline.storage.audit import Audit
from medai_pipeline.storage.tables import studies
from medai_pipeline.storage.web_tables import analysis_requests, uploads

PENDING, REQUESTED, RUNNING, DONE, FAILED = "pending", "requested", "running", "done", "failed"
MOST_ATTEMPTS = 3
UNCLAIMED = timedelta(seconds=120)  # a run that was asked for and never began


@dataclass(frozen=True, slots=True)
class Request:
    """`asked` as the caller asked it. `report_id`: the report that the answer was taken from, if it was there already."""

    id: UUID
    kind: str
    study_key: str
    revision: int | None
    report_id: UUID | None
    sop_instance_uid: str
    asked: Mapping[str, Any]
    requested_by: str
    state: str
    reason: str
    run_id: str | None
    result: Mapping[str, Any] | None
    object_prefix: str
    attempts: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def over(self) -> bool:
        return self.state in (DONE, FAILED)


class Requests:
    """`now` is always an aware datetime."""

    def __init__(self, engine: Engine, audit: Audit) -> None:
        self._engine = engine
        self._audit = audit

    def add(
        self, kind: str, study_key: str, sop_instance_uid: str, asked: Mapping[str, Any], actor: str, now: datetime
    ) -> Request:
        row = {"kind": kind, "study_key": study_key, "sop_instance_uid": sop_instance_uid, "asked": dict(asked)}
        with self._engine.begin() as connection:
            made = connection.execute(
                sa.insert(analysis_requests)
                .values(id=uuid4(), **row, requested_by=actor, created_at=now)
                .returning(*analysis_requests.c)
            )
            request = Request(**made.mappings().one())
            detail = {"request": str(request.id), **dict(asked)}
            self._audit.append_in(connection, actor, f"{kind}.requested", study_key, detail)
        return request

    def find(self, request_id: UUID) -> Request | None:
        found = self._where(analysis_requests.c.id == request_id)
        return found[0] if found else None

    def of_image(self, sop_instance_uid: str, limit: int = 100) -> list[Request]:
        """The newest first."""
        found = self._where(analysis_requests.c.sop_instance_uid == sop_instance_uid)
        return found[::-1][:limit]

    def waiting(self, limit: int = 32) -> list[Request]:
        """Pending ones whose study has a report, the oldest first."""
        reported = sa.exists().where(
            studies.c.study_key == analysis_requests.c.study_key, studies.c.report_id.is_not(None)
        )
        return self._where((analysis_requests.c.state == PENDING) & reported)[:limit]

    def hopeless(self) -> list[Request]:
        """Pending ones whose study has failed for good, or vanished, before it had any report."""
        latest = (
            sa.select(studies.c.state)
            .where(studies.c.study_key == analysis_requests.c.study_key)
            .order_by(studies.c.revision.desc())
            .limit(1)
            .scalar_subquery()
        )
        reported = sa.exists().where(
            studies.c.study_key == analysis_requests.c.study_key, studies.c.report_id.is_not(None)
        )
        return self._where((analysis_requests.c.state == PENDING) & latest.in_(["failed", "vanished"]) & ~reported)

    def running(self) -> list[Request]:
        return self._where(analysis_requests.c.state == RUNNING)

    def lost(self, now: datetime) -> list[Request]:
        """Those for which a run was asked that never began."""
        return self._where(
            (analysis_requests.c.state == REQUESTED) & (analysis_requests.c.started_at < now - UNCLAIMED)
        )

    def mark_requested(self, ids: Iterable[UUID], now: datetime) -> list[UUID]:
        changed = (
            sa.update(analysis_requests)
            .where(analysis_requests.c.id.in_(list(ids)), analysis_requests.c.state == PENDING)
            .values(state=REQUESTED, started_at=now)
            .returning(analysis_requests.c.id)
        )
        with self._engine.begin() as connection:
            return list(connection.scalars(changed))

    def claim(self, run_id: str, now: datetime) -> Request | None:
        """The next request for a run, which works on it from now on; None when there is none."""
        oldest = (
            sa.select(analysis_requests.c.id)
            .where(analysis_requests.c.state == REQUESTED)
            .order_by(analysis_requests.c.created_at)
            .limit(1)
            .with_for_update(skip_locked=True)
            .scalar_subquery()
        )
        claimed = (
            sa.update(analysis_requests)
            .where(analysis_requests.c.id == oldest)
            .values(state=RUNNING, run_id=run_id, started_at=now, attempts=analysis_requests.c.attempts + 1)
            .returning(*analysis_requests.c)
        )
        with self._engine.begin() as connection:
            row = connection.execute(claimed).mappings().first()
        return Request(**row) if row else None

    def finish(
        self,
        request: Request,
        result: Mapping[str, Any],
        now: datetime,
        *,
        revision: int,
        report_id: UUID | None = None,
        object_prefix: str = "",
    ) -> bool:
        """The answer; False when the request is over already, or another run has it."""
        values = {"revision": revision, "report_id": report_id, "object_prefix": object_prefix, "result": dict(result)}
        return self._end(request, DONE, now, **values)

    def fail(self, request: Request, reason: str, now: datetime) -> bool:
        return self._end(request, FAILED, now, reason=reason)

    def put_back(self, request: Request, now: datetime) -> None:
        """Its run is gone: another one may try, unless several were lost over it."""
        if request.attempts >= MOST_ATTEMPTS:
            self.fail(request, f"its run ended before the answer, {request.attempts} times", now)
            return
        statement = sa.update(analysis_requests).where(analysis_requests.c.id == request.id, _same(request))
        with self._engine.begin() as connection:
            connection.execute(statement.values(state=PENDING, run_id=None, started_at=None))

    def uploaded(self, images: Mapping[str, str], actor: str, now: datetime) -> None:
        """`images`: new SOP Instance UID -> study key, of files that the PACS has taken."""
        if not images:
            return
        rows = [{"sop_instance_uid": uid, "study_key": key, "actor": actor, "at": now} for uid, key in images.items()]
        with self._engine.begin() as connection:
            connection.execute(insert(uploads).on_conflict_do_nothing(), rows)
            for study_key in sorted(set(images.values())):
                count = sum(key == study_key for key in images.values())
                self._audit.append_in(connection, actor, "images.uploaded", study_key, {"images": count})

    def _end(self, request: Request, state: str, now: datetime, **values: Any) -> bool:
        statement = (
            sa.update(analysis_requests)
            .where(analysis_requests.c.id == request.id, _same(request))
            .values(state=state, finished_at=now, **values)
        )
        with self._engine.begin() as connection:
            return connection.execute(statement.returning(analysis_requests.c.id)).first() is not None

    def _where(self, condition: sa.ColumnElement[bool]) -> list[Request]:
        query = sa.select(analysis_requests).where(condition).order_by(analysis_requests.c.created_at)
        with self._engine.connect() as connection:
            return [Request(**row) for row in connection.execute(query).mappings()]


def _same(request: Request) -> sa.ColumnElement[bool]:
    """The request as it was read: its state and its run."""
    run = analysis_requests.c.run_id
    return (analysis_requests.c.state == request.state) & (
        run.is_(None) if request.run_id is None else run == request.run_id
    )
