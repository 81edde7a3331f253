"""What there is to look up: studies as they are now, their images, reports and results. Only reads; what is urgent is decided
elsewhere, and whose study it is stands in the vault.

Studies are named by study key or by their (new) Study Instance UID, images by their (new) SOP Instance UID.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import Engine

from medai_pipeline.records import StudyState
from medai_pipeline.storage.tables import deliveries, identities, images, inference_results, reports, reviews, studies
from medai_pipeline.storage.web_tables import priority_overrides, uploads
from medai_pipeline.storage.worklist import _current

Found = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StudyFilter:
    """What a listing is narrowed to; None and "" mean any. `priority` is the one that counts, a person's before the report's."""

    state: StudyState | None = None
    modality: str = ""
    priority: str = ""
    finding: str = ""
    review_required: bool | None = None
    reviewed: bool | None = None
    since: datetime | None = None
    until: datetime | None = None
    patient_token: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an image is: its study, and its revision, None while the pipeline has not de-identified it yet."""

    study_key: str
    revision: int | None


class Catalogue:
    """Reads over everything that runs and people leave behind."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def study_key(self, name: str) -> str | None:
        """The study key that `name` stands for: itself in any case, or the new Study Instance UID."""
        if "\0" in name:
            return None
        view = _current()
        by_uid = sa.select(images.c.study_key).where(images.c.study_instance_uid == name).limit(1).scalar_subquery()
        query = sa.select(view.c.study_key).where(
            (view.c.study_key == sa.func.upper(name)) | (view.c.study_key == by_uid)
        )
        with self._engine.connect() as connection:
            return connection.scalar(query)

    def studies(self, wanted: StudyFilter, limit: int, offset: int) -> tuple[list[Found], int]:
        """A page of studies, the most urgent first, then the longest waiting; and how many there are in all."""
        listing = _listing()
        query = sa.select(listing).where(*_conditions(listing, wanted))
        total = sa.select(sa.func.count()).select_from(query.subquery())
        page = query.order_by(listing.c.rank.nulls_last(), listing.c.arrived_at, listing.c.study_key)
        with self._engine.connect() as connection:
            rows = connection.execute(page.limit(limit).offset(offset)).mappings()
            return [dict(row) for row in rows], int(connection.scalar(total) or 0)

    def study(self, study_key: str) -> Found | None:
        listing = _listing()
        found = self._rows(sa.select(listing).where(listing.c.study_key == study_key))
        return found[0] if found else None

    def images(self, study_key: str, revision: int | None = None) -> list[Found]:
        """The images of a revision (default: the last that was de-identified), by series and Instance Number."""
        last = sa.select(sa.func.max(images.c.revision)).where(images.c.study_key == study_key).scalar_subquery()
        query = (
            sa.select(images)
            .where(images.c.study_key == study_key, images.c.revision == (last if revision is None else revision))
            .order_by(images.c.series_instance_uid, images.c.instance_number, images.c.sop_instance_uid)
        )
        return self._rows(query)

    def image(self, sop_instance_uid: str) -> Found | None:
        """The row of the image in the newest revision that has it."""
        if "\0" in sop_instance_uid:
            return None
        query = (
            sa.select(images)
            .where(images.c.sop_instance_uid == sop_instance_uid)
            .order_by(images.c.revision.desc())
            .limit(1)
        )
        found = self._rows(query)
        return found[0] if found else None

    def place(self, sop_instance_uid: str) -> Place | None:
        """Where an image is, also one that was uploaded and is on its way."""
        if row := self.image(sop_instance_uid):
            return Place(row["study_key"], row["revision"])
        if "\0" in sop_instance_uid:
            return None
        query = sa.select(uploads.c.study_key).where(uploads.c.sop_instance_uid == sop_instance_uid)
        with self._engine.connect() as connection:
            study_key = connection.scalar(query)
        return Place(study_key, None) if study_key else None

    def images_of(self, study_keys: Sequence[str], limit: int, offset: int) -> tuple[list[Found], int]:
        """A page of the images of several studies, of each the last revision; and how many there are in all."""
        newer = images.alias()
        last = sa.select(sa.func.max(newer.c.revision)).where(newer.c.study_key == images.c.study_key).scalar_subquery()
        query = sa.select(images).where(images.c.study_key.in_(study_keys), images.c.revision == last)
        total = sa.select(sa.func.count()).select_from(query.subquery())
        order = (images.c.study_key, images.c.series_instance_uid, images.c.instance_number, images.c.sop_instance_uid)
        with self._engine.connect() as connection:
            rows = connection.execute(query.order_by(*order).limit(limit).offset(offset)).mappings()
            return [dict(row) for row in rows], int(connection.scalar(total) or 0)

    def studies_of_patient(self, patient_token: str) -> list[str]:
        query = sa.select(identities.c.study_key).where(identities.c.patient_token == patient_token)
        with self._engine.connect() as connection:
            return sorted(connection.scalars(query)) if patient_token else []

    def reports(self, study_key: str) -> list[Found]:
        """Every report of a study, the one that counts first, then the newest. `reviews`: how often it was decided about."""
        counts = sa.exists().where(studies.c.report_id == reports.c.id)
        said = sa.select(sa.func.count()).where(reviews.c.report_id == reports.c.id).scalar_subquery()
        query = (
            sa.select(reports, counts.label("counts"), said.label("reviews"))
            .where(reports.c.study_key == study_key)
            .order_by(reports.c.revision.desc(), counts.desc(), reports.c.created_at.desc())
        )
        return self._rows(query)

    def report(self, report_id: UUID) -> Found | None:
        found = self._rows(sa.select(reports).where(reports.c.id == report_id))
        return found[0] if found else None

    def counting_report(self, study_key: str) -> Found | None:
        """The report that counts of the newest reported revision."""
        query = (
            sa.select(reports)
            .join(studies, studies.c.report_id == reports.c.id)
            .where(studies.c.study_key == study_key)
            .order_by(studies.c.revision.desc())
            .limit(1)
        )
        found = self._rows(query)
        return found[0] if found else None

    def results(self, study_key: str, limit: int = 100) -> list[Found]:
        """What model versions said of a study, the newest first."""
        query = sa.select(inference_results).where(inference_results.c.study_key == study_key)
        return self._rows(query.order_by(inference_results.c.id.desc()).limit(limit))

    def result_in(self, report: Mapping[str, Any]) -> Found | None:
        """What the first model of a report said: the result of that version, of these weights, the last before it."""
        model = next(iter(report["content"]["models"]), None)
        if model is None:
            return None
        query = sa.select(inference_results).where(
            inference_results.c.study_key == report["study_key"],
            inference_results.c.revision == report["revision"],
            inference_results.c.model_name == model["name"],
            inference_results.c.model_version == model["version"],
            inference_results.c.weights_sha256 == model["weights_sha256"],
        )
        before = inference_results.c.created_at <= report["created_at"]
        found = self._rows(query.order_by(before.desc(), inference_results.c.id.desc()).limit(1))
        return found[0] if found else None

    def result(self, result_id: int) -> Found | None:
        found = self._rows(sa.select(inference_results).where(inference_results.c.id == result_id))
        return found[0] if found else None

    def report_of_result(self, result: Found) -> Found | None:
        """The last report that the result went into; None for a shadow's."""
        model = {"name": result["model_name"], "version": result["model_version"]}
        said = reports.c.content["models"].contains([{**model, "weights_sha256": result["weights_sha256"]}])
        query = (
            sa.select(reports)
            .where(reports.c.study_key == result["study_key"], reports.c.revision == result["revision"], said)
            .order_by(reports.c.created_at.desc())
            .limit(1)
        )
        found = self._rows(query)
        return found[0] if found else None

    def deliveries(
        self, study_key: str = "", state: str = "", limit: int = 50, offset: int = 0
    ) -> tuple[list[Found], int]:
        """A page of deliveries with their study, the newest first; and how many there are in all."""
        query = sa.select(deliveries, reports.c.study_key, reports.c.revision).join(reports)
        if study_key:
            query = query.where(reports.c.study_key == study_key)
        if state:
            query = query.where(deliveries.c.state == state)
        total = sa.select(sa.func.count()).select_from(query.subquery())
        page = query.order_by(deliveries.c.updated_at.desc(), deliveries.c.id).limit(limit).offset(offset)
        with self._engine.connect() as connection:
            rows = connection.execute(page).mappings()
            return [dict(row) for row in rows], int(connection.scalar(total) or 0)

    def _rows(self, query: sa.Select[Any]) -> list[Found]:
        with self._engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]


def _listing() -> sa.Subquery:
    """One row a study as it is now, with its newest report, what a person said of its urgency, and the last decision."""
    now = _current()
    newest = (
        sa.select(studies)
        .where(studies.c.study_key == now.c.study_key, studies.c.report_id.is_not(None))
        .order_by(studies.c.revision.desc())
        .limit(1)
        .lateral("newest")
    )
    said = (
        sa.select(priority_overrides)
        .where(priority_overrides.c.study_key == now.c.study_key)
        .order_by(priority_overrides.c.id.desc())
        .limit(1)
        .lateral("said")
    )
    decided = (
        sa.select(reviews)
        .where(reviews.c.report_id == newest.c.report_id)
        .order_by(reviews.c.created_at.desc())
        .limit(1)
        .lateral("decided")
    )
    priority = sa.func.coalesce(said.c.priority, reports.c.priority)
    ranks = {"critical": 0, "urgent": 1, "routine": 2, "normal": 3}
    return (
        sa.select(
            now.c.study_key, now.c.revision, now.c.state, now.c.stage, now.c.reason, now.c.attempts,
            now.c.instance_count, now.c.run_id, now.c.since.label("updated_at"),
            sa.func.coalesce(newest.c.modality, "").label("modality"),
            sa.func.coalesce(newest.c.read_body_part, "").label("body_part"),
            sa.func.coalesce(newest.c.first_seen_at, now.c.since).label("arrived_at"),
            newest.c.revision.label("reported_revision"), newest.c.report_id,
            reports.c.created_at.label("reported_at"), priority.label("priority"),
            sa.case(ranks, value=priority).label("rank"), reports.c.priority.label("report_priority"),
            said.c.id.label("override_id"), said.c.priority.label("override_priority"),
            said.c.reason.label("override_reason"), said.c.actor.label("override_actor"),
            said.c.created_at.label("override_at"),
            reports.c.review_required, reports.c.content["reasons"].label("reasons"),
            reports.c.content["findings"].label("findings"), reports.c.content["models"].label("models"),
            reports.c.content["demo_model"].label("demo_model"), reports.c.object_prefix,
            decided.c.decision.label("review"), decided.c.reviewer, decided.c.created_at.label("reviewed_at"),
            sa.func.coalesce(identities.c.patient_token, "").label("patient_token"),
        )
        .select_from(
            now.outerjoin(newest, sa.true())
            .outerjoin(reports, reports.c.id == newest.c.report_id)
            .outerjoin(said, sa.true())
            .outerjoin(decided, sa.true())
            .outerjoin(identities, identities.c.study_key == now.c.study_key)
        )
        .where(now.c.state.is_not(None))
        .subquery("listing")
    )  # fmt: skip


def _conditions(listing: sa.Subquery, wanted: StudyFilter) -> list[sa.ColumnElement[bool]]:
    column = listing.c
    present = [{"label": wanted.finding, "present": True}]
    findings = sa.type_coerce(column.findings, reports.c.content.type)
    tests: list[tuple[Any, Callable[[Any], sa.ColumnElement[bool]]]] = [
        (wanted.state, lambda value: column.state == value),
        (wanted.modality.upper(), lambda value: column.modality == value),
        (wanted.priority, lambda value: column.priority == value),
        (wanted.finding, lambda _: findings.contains(present)),
        (wanted.since, lambda value: column.arrived_at >= value),
        (wanted.until, lambda value: column.arrived_at < value),
        (wanted.patient_token, lambda value: column.patient_token == value),
    ]
    conditions = [test(given) for given, test in tests if given]
    if wanted.review_required is not None:
        conditions.append(column.review_required.is_(wanted.review_required))
    if wanted.reviewed is not None:
        conditions.append(column.review.is_not(None) if wanted.reviewed else column.review.is_(None))
    return conditions
