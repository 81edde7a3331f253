"""triage_reports: priority with reasons, and the report that says so."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from medai_pipeline import __version__
from medai_pipeline.records import DeidentifiedStudy, Report, StudyHeatmaps, StudyPrediction, StudyTensors
from medai_pipeline.stages.checking import all_checks


@dataclass(frozen=True, slots=True)
class Run:
    """What made a report: the Dagster run ("" without one), when, a site's own triage table, and the run's page."""

    run_id: str
    at: datetime
    rules: Path | None = None
    page: str = ""


def report_study(
    study: DeidentifiedStudy,
    tensors: StudyTensors,
    prediction: StudyPrediction,
    heatmaps: StudyHeatmaps,
    run: Run,
) -> Report:
    """Priority with reasons, and the report as JSON and HTML."""
    from medai_pipeline.results.report import build_report
    from medai_pipeline.triage.decide import triage
    from medai_pipeline.triage.findings import codes_of
    from medai_pipeline.triage.rules import rules_at

    quality = all_checks(study, tensors, prediction)
    decision = triage(
        prediction.labels,
        prediction.probabilities.tolist(),
        prediction.thresholds.tolist(),
        [None] * len(prediction.labels) if prediction.uncertainty is None else prediction.uncertainty.tolist(),
        quality=quality,
        heatmaps=heatmaps,
        problems=(*tensors.problems, *study.warnings),
        no_model_reason=tensors.no_model_reason,
        assumed_body_part=tensors.body_part_assumed,
        novelty=prediction.novelty,
        disagreement=() if prediction.disagreement is None else prediction.disagreement.tolist(),
        age_years=study.age_years,
        views=[tensors.items[rows[0]].view_position if rows else "" for rows in prediction.key_images],
        rules=rules_at(run.rules),
    )
    return build_report(
        tensors,
        prediction if prediction.labels else None,
        heatmaps,
        decision,
        instances=study.instances,
        quality=quality,
        overlays=heatmaps.overlays,
        run_page=run.page,
        codes=codes_of(prediction.labels),
        run_id=run.run_id,
        profile=study.profile,
        code_version=__version__,
        generated_at=run.at.isoformat(timespec="seconds"),
    )
