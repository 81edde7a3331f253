"""What runs leave behind: image rows, predictions and reports. Nothing is ever overwritten."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.dialects.postgresql import insert

from medai_pipeline.records import Instance, ModelRef, Priority, StudyPrediction, StudyState
from medai_pipeline.storage.tables import images, inference_results, reports, studies

_SAME_NAME = [c.name for c in images.c if c.name in Instance.__dataclass_fields__]


class Results:
    """Writes the results of a study revision. `now` is always an aware datetime."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def save_images(self, study_key: str, revision: int, instances: Iterable[Instance]) -> None:
        """The instance table of a revision; saving it again changes nothing."""
        rows = [_image_row(study_key, revision, instance) for instance in instances]
        if not rows:
            return
        statement = insert(images)
        key = {c.name for c in images.primary_key}
        changes = {c.name: statement.excluded[c.name] for c in images.c if c.name not in key}
        with self._engine.begin() as connection:
            connection.execute(statement.on_conflict_do_update(constraint=images.primary_key, set_=changes), rows)
            (modality, _), *_ = Counter(row["modality"] for row in rows).most_common(1)
            connection.execute(sa.update(studies).where(_of(studies, study_key, revision)).values(modality=modality))

    def frames(self, study_key: str, revision: int) -> int:
        """How many frames the images of a revision have that a model may see; 0 before they are known."""
        mine = _of(images, study_key, revision) & images.c.usable
        query = sa.select(sa.func.coalesce(sa.func.sum(sa.func.greatest(images.c.frames, 1)), 0)).where(mine)
        with self._engine.connect() as connection:
            return int(connection.scalar(query) or 0)

    def save_reading(
        self,
        study_key: str,
        revision: int,
        modality: str,
        body_part: str,
        kinds: Sequence[tuple[str, str]] = (),
    ) -> None:
        """As what the images of a revision were read, and of which `kinds` (modality, body part) they are, the most frequent
        first: by these a model is chosen, also when models change."""
        values = {"read_modality": modality, "read_body_part": body_part, "read_kinds": [list(kind) for kind in kinds]}
        with self._engine.begin() as connection:
            connection.execute(sa.update(studies).where(_of(studies, study_key, revision)).values(**values))

    def save_prediction(
        self, prediction: StudyPrediction, run_id: str, now: datetime | None = None, seconds: float | None = None
    ) -> bool:
        """One model's answer as numbers a person can query; False when the same answer is there, or no model spoke.

        `now` defaults to the database's clock. `seconds`: what it took to compute, the study's share of its batch.
        """
        if not prediction.labels:
            return False
        result = _summary(prediction)
        digest = hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()
        return self.save_inference(
            prediction.study_key, prediction.revision, result, prediction.model, digest, run_id, now, seconds
        )

    def save_inference(
        self,
        study_key: str,
        revision: int,
        result: Mapping[str, Any],
        model: ModelRef,
        inputs_digest: str,
        run_id: str,
        now: datetime | None = None,
        seconds: float | None = None,
    ) -> bool:
        """Adds a result; False when the version has one of the same weights and `inputs_digest`."""
        statement = insert(inference_results).values(
            study_key=study_key,
            revision=revision,
            model_name=model.name,
            model_version=model.version,
            weights_sha256=model.weights_sha256,
            role=model.role,
            inputs_digest=inputs_digest,
            run_id=run_id,
            result=dict(result),
            created_at=now or sa.func.now(),
            seconds=seconds,
        )
        once = statement.on_conflict_do_nothing(constraint="inference_results_inputs")
        with self._engine.begin() as connection:
            return connection.execute(once.returning(inference_results.c.id)).first() is not None

    def save_report(
        self,
        study_key: str,
        revision: int,
        run_id: str,
        inputs_digest: str,
        content: Mapping[str, Any],
        priority: Priority,
        review_required: bool,
        object_prefix: str,
        now: datetime,
    ) -> bool:
        """The report and the state `reported`, together. False, and nothing is written, unless the run holds the study.

        A report of the same inputs is kept as it was and counts again.
        """
        held = (
            _of(studies, study_key, revision) & (studies.c.state == StudyState.RUNNING) & (studies.c.run_id == run_id)
        )
        with self._engine.begin() as connection:
            study = connection.execute(sa.select(studies).where(held).with_for_update()).first()
            if study is None:
                return False
            row = {
                "id": uuid4(),
                "study_key": study_key,
                "revision": revision,
                "inputs_digest": inputs_digest,
                "run_id": run_id,
                "priority": Priority(priority),
                "priority_rank": Priority(priority).rank,
                "review_required": review_required,
                "content": dict(content),
                "object_prefix": object_prefix,
                "created_at": now,
                # a later report of the same images answers another question: how long a backfill took
                "seconds_to_report": None if study.report_id else (now - study.first_seen_at).total_seconds(),
            }
            values = {
                "state": StudyState.REPORTED,
                "reason": "",
                "report_id": _report_id(connection, row),
                "finished_at": now,
                "updated_at": now,
                **({"modality": content["modality"]} if content.get("modality") else {}),
            }
            connection.execute(sa.update(studies).where(held).values(**values))
            return True

    def report(self, report_id: UUID) -> Mapping[str, Any] | None:
        """The content of a report, as report.json."""
        with self._engine.connect() as connection:
            return connection.scalar(sa.select(reports.c.content).where(reports.c.id == report_id))


def _of(table: sa.Table, study_key: str, revision: int) -> sa.ColumnElement[bool]:
    return (table.c.study_key == study_key) & (table.c.revision == revision)


def _image_row(study_key: str, revision: int, instance: Instance) -> dict[str, Any]:
    row_spacing, column_spacing = instance.spacing_mm or (None, None)
    return {
        **{name: getattr(instance, name) for name in _SAME_NAME},
        "study_key": study_key,
        "revision": revision,
        "row_spacing_mm": row_spacing,
        "column_spacing_mm": column_spacing,
    }


def _summary(prediction: StudyPrediction) -> dict[str, Any]:
    """The study's numbers by label; images by new SOP Instance UID. Arrays of pixels and features stay in the store."""

    def images_of(rows: Iterable[int]) -> list[str]:
        return [prediction.items[row].sop_instance_uid for row in rows]

    return {
        "multi_label": prediction.multi_label,
        "demo": prediction.demo,
        "novelty": None if prediction.novelty is None else round(prediction.novelty, 4),
        "images": len({item.sop_instance_uid for item in prediction.items}),
        "findings": [
            {
                "label": label,
                "probability": round(float(prediction.probabilities[k]), 6),
                "uncertainty": None if prediction.uncertainty is None else round(float(prediction.uncertainty[k]), 6),
                "threshold": round(float(prediction.thresholds[k]), 6),
                **_further(prediction, k),
                "images": images_of(prediction.key_images[k]) if k < len(prediction.key_images) else [],
            }
            for k, label in enumerate(prediction.labels)
        ],
    }


def _further(prediction: StudyPrediction, k: int) -> dict[str, float]:
    """What is known of a class beyond its standard deviation, where it is."""
    known = {name: getattr(prediction, name) for name in ("entropy", "information", "disagreement")}
    return {name: round(float(values[k]), 6) for name, values in known.items() if values is not None}


def _report_id(connection: Connection, row: Mapping[str, Any]) -> UUID:
    """The id of the report with these inputs: this one, or the one that was there."""
    once = insert(reports).values(**row).on_conflict_do_nothing(constraint="reports_inputs")
    new = connection.scalar(once.returning(reports.c.id))
    if new is not None:
        return new
    same = _of(reports, row["study_key"], row["revision"]) & (reports.c.inputs_digest == row["inputs_digest"])
    return connection.execute(sa.select(reports.c.id).where(same)).scalar_one()
