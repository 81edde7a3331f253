"""Rows of the tables as frozen records: what the repository gives back. No SQL here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row

from medai_pipeline.records import Priority, StudyState


@dataclass(frozen=True, slots=True)
class Arrival:
    """What the PACS was last seen to hold of a study. `digest` is that of the last settled content."""

    study_key: str
    fingerprint: str
    instance_count: int
    first_seen_at: datetime
    changed_at: datetime
    settled: bool
    vanished: bool
    digest: str | None

    @classmethod
    def of(cls, row: Row[Any]) -> Arrival:
        return cls(**row._mapping)


@dataclass(frozen=True, slots=True)
class StudyRow:
    """One revision of a study, as in table `studies`. Times are aware, UTC."""

    study_key: str
    revision: int
    source_digest: str
    state: StudyState
    stage: str
    reason: str
    attempts: int
    instance_count: int
    modality: str
    run_id: str | None
    report_id: UUID | None
    run_requested_at: datetime | None
    next_attempt_at: datetime | None
    first_seen_at: datetime
    ready_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime

    @classmethod
    def of(cls, row: Row[Any]) -> StudyRow:
        values = {field.name: row._mapping[field.name] for field in fields(cls)}
        return cls(**{**values, "state": StudyState(values["state"])})


@dataclass(frozen=True, slots=True)
class ReviewRow:
    """A person's decision about a report. `decision`: accepted, edited or rejected."""

    report_id: UUID
    decision: str
    reviewer: str
    at: datetime


@dataclass(frozen=True, slots=True)
class WorklistRow:
    """One reported study. `findings` are the labels that are present, the most probable first.

    `models`: name@version of what answered. `demo`: it was trained on synthetic phantoms and means nothing clinically.
    `waiting_since`: when what nobody has read yet arrived. `review`: the decision by which it is read; None while open.
    """

    study_key: str
    revision: int
    report_id: UUID
    modality: str
    priority: Priority
    review_required: bool
    reasons: tuple[str, ...]
    findings: tuple[str, ...]
    models: tuple[str, ...]
    demo: bool
    object_prefix: str
    first_seen_at: datetime
    reported_at: datetime
    first_reported_at: datetime  # earlier when another model version has read the revision before
    waiting_since: datetime
    review: ReviewRow | None
    body_part: str = ""  # as which its images were read
    prioritized_by: str = ""  # who has set its priority, "" when the report's counts

    @property
    def seconds_to_report(self) -> float:
        """From the first image seen to the revision's first report."""
        return (self.first_reported_at - self.first_seen_at).total_seconds()


@dataclass(frozen=True, slots=True)
class ProgressRow:
    """One study that has no report for what the PACS holds now. `revision` 0: its images still arrive."""

    study_key: str
    revision: int
    state: StudyState
    stage: str
    reason: str
    attempts: int
    instance_count: int
    run_id: str | None
    next_attempt_at: datetime | None
    since: datetime


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One version in the registry. `replaced`: name@version of what it took the place of, with commas; `behind`: of the
    versions before that, whose studies it reads because a backfill had not ended."""

    name: str
    version: str
    architecture: str
    weights_sha256: str
    state: str
    card: Mapping[str, Any]
    measured: Mapping[str, Any]
    prepared: Mapping[str, Any]
    registered_by: str
    registered_at: datetime
    promoted_by: str
    promoted_at: datetime | None
    backfill_since: datetime | None
    replaced: str
    behind: str

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"

    @classmethod
    def of(cls, row: Row[Any]) -> ModelRow:
        return cls(**{field.name: row._mapping[field.name] for field in fields(cls)})
