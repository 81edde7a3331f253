"""What a change of models means for studies: by which version each was read, what two versions said, how long a study takes.

Only reads. Which version a study should have is not known here: `registering` asks the models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine

from medai_pipeline.records import StudyState
from medai_pipeline.storage.tables import expired, inference_results, reports, studies

Kinds = tuple[tuple[str, str], ...]  # (modality, body part), the most frequent first
_AT_ONCE = 500  # results of two versions in memory
_RECENT = 500  # reported studies that tell how long one takes


@dataclass(frozen=True, slots=True)
class ReadStudy:
    """A reported study as what it was read, and by which version ("" for none). `images` is how many it holds.

    `kinds`: (modality, body part) of every kind of image in it, the most frequent first; what was read is among them.
    `failed_at`: it was to be read anew and failed then; what its report says is older.
    """

    study_key: str
    revision: int
    modality: str
    body_part: str
    model: str
    weights_sha256: str
    images: int
    failed_at: datetime | None = None
    kinds: Kinds = ()


class Changes:
    """Reads over studies, reports and results."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def read_studies(self) -> list[ReadStudy]:
        """The latest revision of every study that has a report and can be read again, longest ago first."""
        latest = _latest()
        query = (
            sa.select(
                latest.c.study_key, latest.c.revision, latest.c.instance_count.label("images"),
                _modality(latest), latest.c.read_body_part.label("body_part"), latest.c.read_kinds,
                reports.c.read_by, reports.c.read_weights,
                sa.case((latest.c.state == StudyState.FAILED, latest.c.finished_at)).label("failed_at"),
            )
            .join(reports, reports.c.id == latest.c.report_id)
            .where(latest.c.state.in_((StudyState.REPORTED, StudyState.FAILED)), ~_is_spent(latest))
            .order_by(reports.c.created_at, latest.c.study_key)
        )  # fmt: skip
        with self._engine.connect() as connection:
            return [
                ReadStudy(
                    row.study_key,
                    row.revision,
                    row.modality,
                    row.body_part,
                    row.read_by,
                    row.read_weights,
                    row.images,
                    row.failed_at,
                    _kinds(row),
                )
                for row in connection.execute(query)
            ]

    def revisions(self) -> dict[str, int]:
        """Study key -> its latest revision."""
        latest = sa.func.max(studies.c.revision).label("latest")
        query = sa.select(studies.c.study_key, latest).group_by(studies.c.study_key)
        with self._engine.connect() as connection:
            return {row.study_key: row.latest for row in connection.execute(query)}

    def undecided_since(self, moment: datetime) -> bool:
        """Whether a study is at work of which nobody knows yet by which version its report will be.

        One whose run began before `moment` may be read by the versions of then. One that has a report already gets that
        back as it was when its run dies.
        """
        open_ones = (studies.c.started_at < moment) | studies.c.report_id.is_not(None)
        query = sa.select(sa.exists().where(studies.c.state == StudyState.RUNNING, open_ones))
        with self._engine.connect() as connection:
            return bool(connection.scalar(query))

    def seconds_a_study(self) -> tuple[float, int] | None:
        """Seconds a study took of late, from claim to report in the runs as they were, and over how many; None for none."""
        recent = (
            sa.select(studies.c.run_id, studies.c.started_at, studies.c.finished_at)
            .join(reports, reports.c.id == studies.c.report_id)
            .where(
                studies.c.state == StudyState.REPORTED,
                studies.c.finished_at.is_not(None),
                reports.c.created_at >= studies.c.started_at,  # an older report was only put back
            )
            .order_by(studies.c.finished_at.desc())
            .limit(_RECENT)
            .subquery()
        )
        spent = sa.func.extract("epoch", sa.func.max(recent.c.finished_at) - sa.func.min(recent.c.started_at))
        runs = sa.select(spent.label("seconds"), sa.func.count().label("studies")).group_by(recent.c.run_id).subquery()
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(sa.func.sum(runs.c.seconds), sa.func.sum(runs.c.studies))).one()
        return (float(row[0]) / int(row[1]), int(row[1])) if row[1] else None

    def in_both(self, old: str, new: str) -> Iterator[tuple[tuple[str, int], dict[str, Any], dict[str, Any]]]:
        """What two versions (name@version) said, the last of each, of every study revision that both have read: (study key,
        revision), the old one's result, the new one's. In the order of study keys, read as they are taken."""
        one, other = (_said(label).subquery() for label in (old, new))
        same = (one.c.study_key == other.c.study_key) & (one.c.revision == other.c.revision)
        query = (
            sa.select(one.c.study_key, one.c.revision, one.c.result.label("old"), other.c.result.label("new"))
            .join(other, same)
            .order_by(one.c.study_key, one.c.revision)
            .execution_options(yield_per=_AT_ONCE)
        )
        with self._engine.connect() as connection:
            for row in connection.execute(query):
                yield (row.study_key, row.revision), row.old, row.new

    def priorities(self, label: str) -> dict[tuple[str, int], str]:
        """(study key, revision) -> the priority in the last report that an answer of the version (name@version) led to."""
        query = (
            sa.select(reports.c.study_key, reports.c.revision, reports.c.priority)
            .where(reports.c.read_by == label)
            .order_by(reports.c.created_at)
        )
        with self._engine.connect() as connection:
            return {(row.study_key, row.revision): row.priority for row in connection.execute(query)}

    def answered(self, model: str, version: str) -> set[str]:
        """Keys of the studies about whose latest revision the version has said something that counted."""
        latest = _latest()
        query = sa.select(latest.c.study_key).where(
            sa.exists().where(*_about(latest, model, version), inference_results.c.role == "primary")
        )
        with self._engine.connect() as connection:
            return set(connection.scalars(query))

    def in_common(self, old: str, new: str) -> int:
        """Of how many study revisions both versions (name@version) have said something."""
        sides = [_answered(label) for label in (old, new)]
        with self._engine.connect() as connection:
            return int(connection.scalar(sa.select(sa.func.count()).select_from(sa.intersect(*sides).subquery())) or 0)

    def unasked(self, model: str, version: str, since: datetime) -> list[tuple[str, Kinds]]:
        """(key, kinds of images as `ReadStudy` has them) of the studies reported after `since` about whose latest revision
        the version has said nothing yet."""
        latest = _latest()
        kind = _modality(latest), latest.c.read_body_part.label("body_part"), latest.c.read_kinds
        query = sa.select(latest.c.study_key, *kind).where(
            latest.c.state == StudyState.REPORTED,
            latest.c.ready_at >= since,
            ~sa.exists().where(*_about(latest, model, version)),
            ~_is_spent(latest),
        )
        with self._engine.connect() as connection:
            return [(row.study_key, _kinds(row)) for row in connection.execute(query.order_by(latest.c.finished_at))]


def _kinds(row: sa.Row[Any]) -> Kinds:
    """Of studies that were read before kinds were kept, what was read."""
    return tuple((modality, part) for modality, part in row.read_kinds) or ((row.modality, row.body_part),)


def _latest() -> sa.Subquery:
    return (
        sa.select(studies)
        .distinct(studies.c.study_key)
        .order_by(studies.c.study_key, studies.c.revision.desc())
        .subquery()
    )


def _modality(latest: sa.Subquery) -> sa.Label[str]:
    """As what a study's images were read, or what most of them are."""
    return sa.func.coalesce(sa.func.nullif(latest.c.read_modality, ""), latest.c.modality).label("modality")


def _about(latest: sa.Subquery, model: str, version: str) -> tuple[sa.ColumnElement[bool], ...]:
    """Results of the version about a study's latest revision."""
    return (
        inference_results.c.study_key == latest.c.study_key,
        inference_results.c.revision == latest.c.revision,
        inference_results.c.model_name == model,
        inference_results.c.model_version == version,
    )


def _is_spent(latest: sa.Subquery) -> sa.ColumnElement[bool]:
    """What another version would read was deleted because of its age."""
    return sa.exists().where(
        expired.c.study_key == latest.c.study_key,
        expired.c.kind.in_(("tensors", "deidentified")),
        expired.c.at > latest.c.finished_at,
    )


def _said(label: str) -> sa.Select[Any]:
    """The last result of a version (name@version) about each study revision."""
    name, version = label.split("@", 1)
    key = (inference_results.c.study_key, inference_results.c.revision)
    return (
        sa.select(inference_results)
        .distinct(*key)
        .where(inference_results.c.model_name == name, inference_results.c.model_version == version)
        .order_by(*key, inference_results.c.id.desc())
    )


def _answered(label: str) -> sa.Select[Any]:
    name, version = label.split("@", 1)
    return sa.select(inference_results.c.study_key, inference_results.c.revision).where(
        inference_results.c.model_name == name, inference_results.c.model_version == version
    )
