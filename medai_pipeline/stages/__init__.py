"""One plain function a stage: each joins the rooms below (dicom, models, explain, triage, quality, results) for one study.

Knows no Dagster, no database and no settings. Problems of one file become `Problem` records; what stops the whole
study is raised as StudyError with one line that may be shown to anybody. Bytes go in and out through `Objects`.
"""

from medai_pipeline.stages.batching import IMAGES_AT_ONCE, IMAGES_PER_STUDY, STUDIES_AT_ONCE, batches
from medai_pipeline.stages.checking import (
    all_checks,
    check_deidentified,
    check_predictions,
    check_tensors,
    refuse_blocked,
)
from medai_pipeline.stages.comparison import compare
from medai_pipeline.stages.explanation import Drawing, explain_study
from medai_pipeline.stages.images import normalize_study
from medai_pipeline.stages.intake import SHORT_DIGEST, deidentify_study, fetch_study
from medai_pipeline.stages.objects import Objects
from medai_pipeline.stages.prediction import Inference, ask_model, model_ref, no_prediction, predict_studies, warm
from medai_pipeline.stages.reporting import Run, report_study
from medai_pipeline.stages.returning import Edition, bundle_of, evidence_of, identity_in, results_of
from medai_pipeline.stages.sampling import sample_images

__all__ = [
    "IMAGES_AT_ONCE",
    "IMAGES_PER_STUDY",
    "SHORT_DIGEST",
    "STUDIES_AT_ONCE",
    "Drawing",
    "Edition",
    "Inference",
    "Objects",
    "Run",
    "all_checks",
    "ask_model",
    "batches",
    "bundle_of",
    "check_deidentified",
    "check_predictions",
    "check_tensors",
    "compare",
    "deidentify_study",
    "evidence_of",
    "explain_study",
    "fetch_study",
    "identity_in",
    "model_ref",
    "no_prediction",
    "normalize_study",
    "predict_studies",
    "refuse_blocked",
    "report_study",
    "results_of",
    "sample_images",
    "warm",
]
