"""What is known of one study over time: its images, every report, every model version's answer, decisions, deliveries.

Only reads. Which report counts is decided in `worklist`; whose study it is stands in the vault.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import Engine

from medai_pipeline.storage.tables import deliveries, identities, images, inference_results, reports, reviews, studies


@dataclass(frozen=True, slots=True)
class StoredImage:
    """One de-identified image of a revision; UIDs are the new ones. `object_key` names its file."""

    sop_instance_uid: str
    series_instance_uid: str
    modality: str
    body_part: str
    view_position: str
    laterality: str
    rows: int
    columns: int
    frames: int
    instance_number: int
    usable: bool
    reason: str
    object_key: str


@dataclass(frozen=True, slots=True)
class StoredReport:
    """One report of a study. `content` is report.json; `counts` for the one that stands in the worklist."""

    id: UUID
    revision: int
    priority: str
    content: Mapping[str, Any]
    object_prefix: str
    run_id: str
    created_at: datetime
    counts: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What one model version said of a revision. `findings`: label, probability, uncertainty, threshold."""

    model: str
    role: str
    revision: int
    findings: tuple[Mapping[str, Any], ...]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person decided about a report. `content` is what they changed, if anything."""

    id: UUID
    report_id: UUID
    revision: int
    reviewer: str
    decision: str
    note: str
    content: Mapping[str, Any] | None
    at: datetime


@dataclass(frozen=True, slots=True)
class PatientStudy:
    """Another study of the same patient, without saying who. `arrived`: its first image here."""

    study_key: str
    modality: str
    body_part: str
    state: str
    priority: str
    findings: tuple[str, ...]
    arrived: datetime


@dataclass(frozen=True, slots=True)
class DeliveryTrouble:
    """A result that did not reach where it should go."""

    study_key: str
    destination: str
    reason: str
    attempts: int


_IMAGE_COLUMNS = [images.c[name] for name in StoredImage.__dataclass_fields__]


class History:
    """Reads by study key."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def images(self, study_key: str, revision: int) -> list[StoredImage]:
        """In the order of series and Instance Number."""
        query = (
            sa.select(*_IMAGE_COLUMNS)
            .where(_revision(images, study_key, revision))
            .order_by(images.c.series_instance_uid, images.c.instance_number, images.c.sop_instance_uid)
        )
        return [StoredImage(**row) for row in self._mappings(query)]

    def image(self, study_key: str, revision: int, sop_instance_uid: str) -> StoredImage | None:
        query = sa.select(*_IMAGE_COLUMNS).where(
            _revision(images, study_key, revision) & (images.c.sop_instance_uid == sop_instance_uid)
        )
        return next((StoredImage(**row) for row in self._mappings(query)), None)

    def reports(self, study_key: str) -> list[StoredReport]:
        """Every report there ever was, the newest first."""
        counts = sa.exists().where(studies.c.report_id == reports.c.id)
        names = ("id", "revision", "priority", "content", "object_prefix", "run_id", "created_at")
        query = (
            sa.select(*(reports.c[name] for name in names), counts.label("counts"))
            .where(reports.c.study_key == study_key)
            .order_by(reports.c.revision.desc(), reports.c.created_at.desc())
        )
        return [StoredReport(**row) for row in self._mappings(query)]

    def counting(self, study_key: str) -> UUID | None:
        """The report that counts of the newest reported revision."""
        query = (
            sa.select(studies.c.report_id)
            .where(studies.c.study_key == study_key, studies.c.report_id.is_not(None))
            .order_by(studies.c.revision.desc())
            .limit(1)
        )
        return next((row["report_id"] for row in self._mappings(query)), None)

    def answers(self, study_key: str) -> list[Answer]:
        """The last answer of each model version about each revision, the newest first."""
        newest = (
            sa.select(inference_results)
            .where(inference_results.c.study_key == study_key)
            .distinct(inference_results.c.revision, inference_results.c.model_name, inference_results.c.model_version)
            .order_by(
                inference_results.c.revision.desc(), inference_results.c.model_name, inference_results.c.model_version,
                inference_results.c.id.desc(),
            )
        )  # fmt: skip
        found = [
            Answer(
                f"{row['model_name']}@{row['model_version']}",
                row["role"],
                row["revision"],
                tuple(row["result"].get("findings", ())),
                row["created_at"],
            )
            for row in self._mappings(newest)
        ]
        return sorted(found, key=lambda answer: (answer.revision, answer.created_at), reverse=True)

    def decisions(self, study_key: str) -> list[Decision]:
        """The last one first."""
        query = (
            sa.select(
                reviews.c.id, reviews.c.report_id, reports.c.revision, reviews.c.reviewer, reviews.c.decision, reviews.c.note,
                reviews.c.content, reviews.c.created_at.label("at"),
            )
            .join(reports, reports.c.id == reviews.c.report_id)
            .where(reports.c.study_key == study_key)
            .order_by(reviews.c.created_at.desc())
        )  # fmt: skip
        return [Decision(**row) for row in self._mappings(query)]

    def undelivered(self, study_keys: Iterable[str] | None = None) -> list[DeliveryTrouble]:
        """Results of the reports that count, whose delivery has failed; `study_keys`: of these studies only."""
        query = (
            sa.select(reports.c.study_key, deliveries.c.destination, deliveries.c.reason, deliveries.c.attempts)
            .join(reports, reports.c.id == deliveries.c.report_id)
            .join(studies, studies.c.report_id == reports.c.id)
            .where(deliveries.c.state == "failed")
            .order_by(reports.c.study_key, deliveries.c.destination)
        )
        if study_keys is not None:
            query = query.where(reports.c.study_key.in_(list(study_keys)))
        return [DeliveryTrouble(**row) for row in self._mappings(query)]

    def same_patient(self, study_key: str) -> list[PatientStudy]:
        """The patient's other studies, the newest first, by the vault's index: no identity is opened."""
        own = sa.select(identities.c.patient_token).where(identities.c.study_key == study_key).scalar_subquery()
        newest = (
            sa.select(studies).distinct(studies.c.study_key).order_by(studies.c.study_key, studies.c.revision.desc())
        ).subquery("newest")
        first = sa.alias(studies)
        arrived = sa.select(sa.func.min(first.c.first_seen_at)).where(first.c.study_key == newest.c.study_key)
        query = (
            sa.select(
                newest.c.study_key, newest.c.modality, newest.c.read_body_part.label("body_part"), newest.c.state,
                sa.func.coalesce(reports.c.priority, "").label("priority"),
                reports.c.content["findings"].label("findings"), arrived.scalar_subquery().label("arrived"),
            )
            .select_from(newest)
            .join(identities, identities.c.study_key == newest.c.study_key)
            .outerjoin(reports, reports.c.id == newest.c.report_id)
            .where(identities.c.patient_token == own, own != "", newest.c.study_key != study_key)
        )  # fmt: skip
        found = [
            PatientStudy(**{**row, "findings": tuple(f["label"] for f in row["findings"] or () if f["present"])})
            for row in self._mappings(query)
        ]
        return sorted(found, key=lambda study: study.arrived, reverse=True)

    def _mappings(self, query: sa.Select[Any]) -> list[dict[str, Any]]:
        with self._engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]


def _revision(table: sa.Table, study_key: str, revision: int) -> sa.ColumnElement[bool]:
    return (table.c.study_key == study_key) & (table.c.revision == revision)
