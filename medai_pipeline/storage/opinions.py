"""What people say of a study: reviews of its report, and its urgency. Rows are added; each with its record in the audit chain.

Two people do not overwrite each other: who writes says what the last word was that they have seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from medai_pipeline.errors import ChangedMeanwhile, NotFound
from medai_pipeline.storage.audit import Audit
from medai_pipeline.storage.tables import reports, reviews, studies
from medai_pipeline.storage.web_tables import priority_overrides

NONE = "0"  # the version of what nobody has said anything about yet


@dataclass(frozen=True, slots=True)
class Review:
    id: UUID
    report_id: UUID
    reviewer: str
    decision: str
    note: str
    content: Mapping[str, Any] | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Override:
    """A person's word on a study's urgency; `priority` None: the report's own counts again."""

    id: int
    study_key: str
    revision: int
    priority: str | None
    reason: str
    actor: str
    created_at: datetime


class Opinions:
    """`actor` is who says it, `seen` the version of the last word that they know ("" does not ask for that)."""

    def __init__(self, engine: Engine, audit: Audit) -> None:
        self._engine = engine
        self._audit = audit

    def reviews(self, report_id: UUID) -> list[Review]:
        """The last one first."""
        query = sa.select(reviews).where(reviews.c.report_id == report_id).order_by(reviews.c.created_at.desc())
        with self._engine.connect() as connection:
            return [Review(**row) for row in connection.execute(query).mappings()]

    def review(
        self,
        report_id: UUID,
        actor: str,
        decision: str,
        note: str,
        content: Mapping[str, Any] | None,
        seen: str,
        now: datetime,
    ) -> Review:
        """Raises NotFound, ChangedMeanwhile when somebody else has decided since, or another report counts by now."""
        made = Review(uuid4(), report_id, actor, decision, note, content, now)
        with self._engine.begin() as connection:
            report = connection.execute(sa.select(reports).where(reports.c.id == report_id).with_for_update()).first()
            if report is None:
                raise NotFound("there is no such report: `GET /api/v1/studies/{study_uid}` names the one that counts")
            self._require_counting(connection, report)
            last = connection.scalar(
                sa.select(reviews.c.id)
                .where(reviews.c.report_id == report_id)
                .order_by(reviews.c.created_at.desc())
                .limit(1)
            )
            _require_seen(seen, str(last or NONE), "reviewed this report")
            connection.execute(sa.insert(reviews).values(**{n: getattr(made, n) for n in Review.__dataclass_fields__}))
            detail = {"report": str(report_id), "review": str(made.id), "decision": decision}
            self._audit.append_in(connection, actor, "report.reviewed", report.study_key, detail)
        return made

    def overrides(self, study_key: str) -> list[Override]:
        """The last one first: that one counts."""
        query = sa.select(priority_overrides).where(priority_overrides.c.study_key == study_key)
        with self._engine.connect() as connection:
            rows = connection.execute(query.order_by(priority_overrides.c.id.desc())).mappings()
            return [Override(**row) for row in rows]

    def prioritize(
        self, study_key: str, priority: str | None, reason: str, actor: str, seen: str, now: datetime
    ) -> Override:
        """Raises NotFound for a study without images so far, ChangedMeanwhile when somebody else has spoken since."""
        with self._engine.begin() as connection:
            latest = connection.execute(
                sa.select(studies.c.revision)
                .where(studies.c.study_key == study_key)
                .order_by(studies.c.revision.desc())
                .limit(1)
                .with_for_update()
            ).first()
            if latest is None:
                raise NotFound("the study's images still arrive: set its priority when they are complete")
            mine = priority_overrides.c.study_key == study_key
            last = connection.scalar(sa.select(sa.func.max(priority_overrides.c.id)).where(mine))
            _require_seen(seen, str(last or NONE), "changed the priority")
            row = {"study_key": study_key, "revision": latest.revision, "priority": priority, "reason": reason}
            made = connection.execute(
                sa.insert(priority_overrides)
                .values(**row, actor=actor, created_at=now)
                .returning(*priority_overrides.c)
            )
            override = Override(**made.mappings().one())
            # the reason is free text, and could name somebody: the chain points to it
            detail = {"override": override.id, "priority": priority}
            self._audit.append_in(connection, actor, "study.prioritized", study_key, detail)
        return override

    @staticmethod
    def _require_counting(connection: Connection, report: Any) -> None:
        counts = sa.select(sa.exists().where(studies.c.report_id == report.id))
        newer = sa.select(
            sa.exists().where(
                studies.c.study_key == report.study_key,
                studies.c.revision > report.revision,
                studies.c.report_id.is_not(None),
            )
        )
        if not connection.scalar(counts) or connection.scalar(newer):
            raise ChangedMeanwhile("another report of this study counts by now: read that one, then decide")


def _require_seen(seen: str, last: str, what: str) -> None:
    if seen and seen != last:
        raise ChangedMeanwhile(f"somebody has {what} since you looked: load it again, then decide")
