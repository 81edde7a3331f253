"""The quality checks of several studies in one pass, and what a failed one means for its study."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from medai_pipeline.errors import StudyError
from medai_pipeline.records import DeidentifiedStudy, QualityResult, StudyPrediction, StudyTensors


def check_deidentified(studies: Sequence[DeidentifiedStudy]) -> dict[str, DeidentifiedStudy]:
    """The studies with their instance checks, in one pass of Great Expectations."""
    from medai_pipeline.dicom.table import instance_table
    from medai_pipeline.quality.instances import check_instances

    results = check_instances({study.study_key: instance_table(study.instances) for study in studies})
    return {study.study_key: replace(study, checks=results[study.study_key]) for study in studies}


def check_tensors(tensors: Sequence[StudyTensors]) -> dict[str, StudyTensors]:
    """The tensors with their checks; a study without a model has nothing to check."""
    from medai_pipeline.quality.tensors import check_tensors as check

    results = check([t for t in tensors if t.model])
    return {t.study_key: replace(t, checks=results.get(t.study_key, ())) for t in tensors}


def check_predictions(predictions: Sequence[StudyPrediction]) -> dict[str, StudyPrediction]:
    from medai_pipeline.quality.predictions import check_predictions as check

    results = check([p for p in predictions if p.labels])
    return {p.study_key: replace(p, checks=results.get(p.study_key, ())) for p in predictions}


def all_checks(*stages: DeidentifiedStudy | StudyTensors | StudyPrediction) -> tuple[QualityResult, ...]:
    return tuple(check for stage in stages for check in stage.checks)


def refuse_blocked(checks: Iterable[QualityResult]) -> None:
    """Raises StudyError when a blocking check failed."""
    failed = [f"{c.name} ({c.detail})" if c.detail else c.name for c in checks if c.blocking and not c.passed]
    if failed:
        raise StudyError(f"quality check failed: {'; '.join(failed)}")
