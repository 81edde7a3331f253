"""What people look at: reported studies, read or not, and the others by state. Only reads.

A study is read when somebody decided about its newest report. A report that another model version made of the same images
later leaves it read, unless it is more urgent than the one that was decided about: a backfill of years asks nobody to read
years again. In which order the open ones are read is not decided here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine, Row
from sqlalchemy.dialects.postgresql import JSONB

from medai_pipeline.records import Priority, StudyState
from medai_pipeline.storage.arrivals import VANISHED_REASON
from medai_pipeline.storage.rows import ProgressRow, ReviewRow, WorklistRow
from medai_pipeline.storage.tables import arrivals, reports, reviews, studies
from medai_pipeline.storage.web_tables import priority_overrides


class Worklist:
    """Reads over studies, arrivals and reports."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def worklist(self, limit: int | None = None) -> list[WorklistRow]:
        """The report that counts of each study, read or not, most urgent first, then the longest waiting."""
        listed = _listed()
        return self._listing(listed, ("priority_rank", "first_seen_at", "study_key"), limit)

    def unread(self) -> list[WorklistRow]:
        """Those that wait for a reader, in no promised order."""
        listed = _listed(read=False)
        return self._listing(listed, ("study_key",))

    def read(self, limit: int | None = None) -> list[WorklistRow]:
        """Those that have been read, the last one first."""
        listed = _listed(read=True)
        return self._listing(listed, ("-decided_at", "study_key"), limit)

    def _listing(self, listed: sa.Subquery, order: Sequence[str], limit: int | None = None) -> list[WorklistRow]:
        with self._engine.connect() as connection:
            return [_worklist_row(row) for row in connection.execute(_with_content(listed, order, limit))]

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


def _listed(read: bool | None = None) -> sa.Subquery:
    """One row a reported study, or only those read or unread: its newest reported revision, and the decision nearest to it.

    A person's word on urgency counts before the report's. Without what stands in the report: a history of years is gone
    through, and few rows of it are shown.
    """
    newest = (
        sa.select(studies)
        .where(studies.c.report_id.is_not(None))
        .distinct(studies.c.study_key)
        .order_by(studies.c.study_key, studies.c.revision.desc())
        .subquery("newest")
    )
    decided = _decided()
    said = (
        sa.select(priority_overrides)
        .where(priority_overrides.c.study_key == newest.c.study_key)
        .order_by(priority_overrides.c.id.desc())
        .limit(1)
        .lateral("said")
    )
    priority = sa.func.coalesce(said.c.priority, reports.c.priority)
    rank = sa.case({one.value: one.rank for one in Priority}, value=priority)
    same = decided.c.revision == newest.c.revision
    enough = (decided.c.report_id == reports.c.id) | (decided.c.priority_rank <= reports.c.priority_rank)
    is_read = sa.func.coalesce(same & enough, False)
    query = (
        sa.select(
            newest.c.study_key, newest.c.revision, newest.c.report_id, newest.c.modality, newest.c.first_seen_at,
            newest.c.read_body_part,
            priority.label("priority"), rank.label("priority_rank"), said.c.actor.label("prioritized_by"),
            reports.c.review_required, reports.c.object_prefix,
            reports.c.created_at, is_read.label("read"), decided.c.revision.label("decided_revision"),
            decided.c.report_id.label("decided_report_id"), decided.c.decision, decided.c.reviewer, decided.c.decided_at,
        )
        .select_from(newest)
        .join(reports, reports.c.id == newest.c.report_id)
        .outerjoin(decided, decided.c.study_key == newest.c.study_key)
        .outerjoin(said, sa.true())
    )  # fmt: skip
    return (query if read is None else query.where(is_read if read else ~is_read)).subquery("listed")


def _with_content(listed: sa.Subquery, order: Sequence[str], limit: int | None) -> sa.Select[Any]:
    """The rows of the list, the first `limit` alone, with what their reports say. A report is unpacked once a row."""
    chosen = sa.select(listed).order_by(*_by(listed, order)).limit(limit).subquery("chosen")
    columns = [sa.column(name, JSONB) for name in ("reasons", "findings", "models", "demo_model")]
    says = (
        sa.func.jsonb_to_record(reports.c.content).table_valued(*columns, name="says").render_derived(with_types=True)
    )
    return (
        sa.select(chosen, *says.c, _first_report(chosen).label("first_reported_at"),
                  _waiting_since(chosen).label("waiting_since"))
        .join(reports, reports.c.id == chosen.c.report_id)
        .join(says, sa.true())
        .order_by(*_by(chosen, order))
    )  # fmt: skip


def _by(rows: sa.Subquery, order: Sequence[str]) -> list[Any]:
    """Columns to sort by; "-" before a name for the greatest first."""
    return [rows.c[name[1:]].desc() if name.startswith("-") else rows.c[name] for name in order]


def _decided() -> sa.Subquery:
    """One row a study: the last decision about the newest revision that anybody decided about."""
    about = reports.alias("about")
    return (
        sa.select(
            about.c.study_key, about.c.revision, about.c.priority_rank, about.c.id.label("report_id"),
            reviews.c.decision, reviews.c.reviewer, reviews.c.created_at.label("decided_at"),
        )
        .join(about, about.c.id == reviews.c.report_id)
        .distinct(about.c.study_key)
        .order_by(about.c.study_key, about.c.revision.desc(), reviews.c.created_at.desc())
        .subquery("decided")
    )  # fmt: skip


def _waiting_since(chosen: sa.Subquery) -> sa.ColumnElement[Any]:
    """When the first images arrived that no decision is about: late ones do not make a study wait anew.

    A study that a later report has opened again waits since that report.
    """
    every = studies.alias("every")
    decided = sa.func.least(sa.func.coalesce(chosen.c.decided_revision, 0), chosen.c.revision - 1)
    first = sa.select(sa.func.min(every.c.first_seen_at)).where(
        every.c.study_key == chosen.c.study_key, every.c.revision <= chosen.c.revision, every.c.revision > decided
    )
    opened = (chosen.c.decided_revision == chosen.c.revision) & ~chosen.c.read
    return sa.case((opened, chosen.c.created_at), else_=first.scalar_subquery())


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
        waiting_since=row.waiting_since,
        review=_review(row) if row.read else None,
        body_part=row.read_body_part,
        prioritized_by=row.prioritized_by or "",
    )


def _review(row: Row) -> ReviewRow:
    return ReviewRow(row.decided_report_id, row.decision, row.reviewer, row.decided_at)


def _present(findings: list[Mapping[str, Any]]) -> tuple[str, ...]:
    present = [finding for finding in findings if finding.get("present")]
    return tuple(f["label"] for f in sorted(present, key=lambda f: -f.get("probability", 0.0)))
