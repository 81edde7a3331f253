"""What people look at: reported studies by urgency, the others by state. Only reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine, Row

from medai_pipeline.records import Priority, StudyState
from medai_pipeline.storage.arrivals import VANISHED_REASON
from medai_pipeline.storage.rows import ProgressRow, WorklistRow
from medai_pipeline.storage.tables import arrivals, reports, studies


class Worklist:
    """Reads over studies, arrivals and reports."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def worklist(self, limit: int | None = None) -> list[WorklistRow]:
        """The report that counts of each study, most urgent first, then the longest waiting."""
        newest = (
            sa.select(studies)
            .where(studies.c.report_id.is_not(None))
            .distinct(studies.c.study_key)
            .order_by(studies.c.study_key, studies.c.revision.desc())
            .subquery()
        )
        query = (
            sa.select(
                newest.c.study_key, newest.c.revision, newest.c.report_id, newest.c.modality, newest.c.first_seen_at,
                reports.c.priority, reports.c.review_required, reports.c.object_prefix, reports.c.created_at,
                _first_report(newest).label("first_reported_at"),
                reports.c.content["reasons"].label("reasons"), reports.c.content["findings"].label("findings"),
                reports.c.content["models"].label("models"), reports.c.content["demo_model"].label("demo_model"),
            )
            .join(reports, reports.c.id == newest.c.report_id)
            .order_by(reports.c.priority_rank, newest.c.first_seen_at, newest.c.study_key)
            .limit(limit)
        )  # fmt: skip
        with self._engine.connect() as connection:
            return [_worklist_row(row) for row in connection.execute(query)]

    def in_progress(self) -> list[ProgressRow]:
        """Every study without a report for what the PACS holds now, also failed and vanished ones; longest first."""
        view = _current()
        query = sa.select(view).where(view.c.state != StudyState.REPORTED).order_by(view.c.since, view.c.study_key)
        with self._engine.connect() as connection:
            rows = connection.execute(query)
            return [ProgressRow(**{**row._mapping, "state": StudyState(row.state)}) for row in rows]

    def counts_by_state(self) -> dict[StudyState, int]:
        """How many studies are in each state; each study counts once, states without any are 0."""
        view = _current()
        query = sa.select(view.c.state, sa.func.count()).where(view.c.state.is_not(None)).group_by(view.c.state)
        with self._engine.connect() as connection:
            counts = {StudyState(state): count for state, count in connection.execute(query)}
        return {state: counts.get(state, 0) for state in StudyState}


def _current() -> sa.Subquery:
    """One row a study as it is now: its latest revision, or its arrival when newer images are still coming.

    An arrival that settled empty (no image, or only results of our own) has state NULL.
    """
    latest = (
        sa.select(studies)
        .where(studies.c.study_key == arrivals.c.study_key)
        .order_by(studies.c.revision.desc())
        .limit(1)
        .lateral("latest")
    )
    at_work = latest.c.state.in_((StudyState.READY, StudyState.QUEUED, StudyState.RUNNING))
    receiving = ~arrivals.c.settled & ~arrivals.c.vanished & ~sa.func.coalesce(at_work, False)
    gone = arrivals.c.vanished & latest.c.state.is_(None)

    def pick(of_revision: Any, when_receiving: Any, when_gone: Any) -> sa.Case[Any]:
        return sa.case((receiving, when_receiving), (gone, when_gone), else_=of_revision)

    return (
        sa.select(
            arrivals.c.study_key,
            pick(sa.func.coalesce(latest.c.revision, 0), 0, 0).label("revision"),
            pick(latest.c.state, StudyState.RECEIVING, StudyState.VANISHED).label("state"),
            pick(latest.c.stage, "", "").label("stage"),
            pick(latest.c.reason, "", VANISHED_REASON).label("reason"),
            pick(latest.c.attempts, 0, 0).label("attempts"),
            pick(latest.c.instance_count, arrivals.c.instance_count, arrivals.c.instance_count).label("instance_count"),
            pick(latest.c.run_id, sa.null(), sa.null()).label("run_id"),
            pick(latest.c.next_attempt_at, sa.null(), sa.null()).label("next_attempt_at"),
            pick(latest.c.updated_at, arrivals.c.changed_at, arrivals.c.changed_at).label("since"),
        )
        .select_from(arrivals.outerjoin(latest, sa.true()))
        .subquery("current")
    )


def _first_report(of: sa.Subquery) -> sa.ScalarSelect[Any]:
    """When the revision was reported first: a backfill reports it again."""
    every = reports.alias()
    same = (every.c.study_key == of.c.study_key) & (every.c.revision == of.c.revision)
    return sa.select(sa.func.min(every.c.created_at)).where(same).scalar_subquery()


def _worklist_row(row: Row) -> WorklistRow:
    return WorklistRow(
        study_key=row.study_key,
        revision=row.revision,
        report_id=row.report_id,
        modality=row.modality,
        priority=Priority(row.priority),
        review_required=row.review_required,
        reasons=tuple(row.reasons or ()),
        findings=_present(row.findings or []),
        models=tuple(f"{model['name']}@{model['version']}" for model in row.models or ()),
        demo=bool(row.demo_model),
        object_prefix=row.object_prefix,
        first_seen_at=row.first_seen_at,
        reported_at=row.created_at,
        first_reported_at=row.first_reported_at,
    )


def _present(findings: list[Mapping[str, Any]]) -> tuple[str, ...]:
    present = [finding for finding in findings if finding.get("present")]
    return tuple(f["label"] for f in sorted(present, key=lambda f: -f.get("probability", 0.0)))
