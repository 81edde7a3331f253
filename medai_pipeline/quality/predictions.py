"""What must hold for a prediction before anything is concluded from it: a probability for every class, and all sane."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import polars as pl

from medai_pipeline.quality.engine import STUDY, Check, validate
from medai_pipeline.records import QualityResult, StudyPrediction

CHECKS: tuple[Check, ...] = (
    Check(
        "every class has an answer",
        "ExpectColumnValuesToNotBeNull",
        "probability",
        "{count} class(es) have no probability",
    ),
    Check(
        "classes are named once",
        "ExpectColumnValuesToBeInSet",
        "named_once",
        "the classes are not named, or not apart",
        options={"value_set": [True]},
    ),
    Check(
        "probabilities are between 0 and 1",
        "ExpectColumnValuesToBeBetween",
        "probability",
        "{count} class(es) have a probability outside 0 to 1",
        options={"min_value": 0, "max_value": 1},
    ),
    Check(
        "every image has its probabilities",
        "ExpectColumnValuesToBeInSet",
        "images_answered",
        "{count} class(es) lack a probability between 0 and 1 for some image",
        options={"value_set": [True]},
    ),
    Check(
        "thresholds lie between 0 and 1",
        "ExpectColumnValuesToBeInSet",
        "threshold_fits",
        "{count} class(es) have no threshold between 0 and 1; correct the model's catalog entry",
        options={"value_set": [True]},
    ),
    Check(
        "uncertainty is a deviation, where it was measured",
        "ExpectColumnValuesToBeInSet",
        "uncertainty_fits",
        "{count} class(es) have no uncertainty between 0 and 0.5",
        options={"value_set": [True]},
    ),
    Check(
        "exclusive classes add up to 1",
        "ExpectColumnValuesToBeInSet",
        "adds_up",
        "the probabilities of exclusive classes do not add up to 1",
        blocking=False,
        options={"value_set": [True]},
    ),
)
_SLACK = 0.02  # a mean over images and members keeps the sum, up to rounding


def check_predictions(predictions: Iterable[StudyPrediction]) -> dict[str, tuple[QualityResult, ...]]:
    """Study key -> results, for any number of predictions, one a study."""
    rows = [row for prediction in predictions for row in _rows(prediction)]
    return validate("predictions", pl.DataFrame(rows, infer_schema_length=None), CHECKS) if rows else {}


def _rows(prediction: StudyPrediction) -> Iterator[dict[str, Any]]:
    """One row a class; one row of nothing for a prediction without classes."""
    count = max(1, len(prediction.labels))
    probability = _padded(prediction.probabilities, count)
    threshold = _padded(prediction.thresholds, count)
    uncertainty = np.zeros(count) if prediction.uncertainty is None else _padded(prediction.uncertainty, count)
    answered = _images_answered(prediction, count)
    exclusive = not prediction.multi_label
    adds_up = not exclusive or bool(abs(np.nansum(probability) - 1) <= _SLACK)
    named_once = len(set(prediction.labels)) == len(prediction.labels) > 0
    for index in range(count):
        value = float(probability[index])
        yield {
            STUDY: prediction.study_key,
            "named_once": named_once,
            "probability": value if np.isfinite(value) else None,
            "threshold_fits": bool(0 < threshold[index] < 1),
            "uncertainty_fits": bool(0 <= uncertainty[index] <= 0.5),
            "images_answered": bool(answered[index]),
            "adds_up": adds_up,
        }


def _padded(values: np.ndarray, count: int) -> np.ndarray:
    """`values` as float64 of length `count`, NaN where there are none; all NaN when there are too many."""
    padded = np.full(count, np.nan)
    if values.ndim == 1 and values.shape[0] <= count:
        padded[: values.shape[0]] = values
    return padded


def _images_answered(prediction: StudyPrediction, count: int) -> np.ndarray:
    """For each class, whether every image has a probability in [0, 1] (NaN compares false)."""
    table = prediction.image_probabilities
    if table.shape != (len(prediction.items), count) or not len(prediction.items):
        return np.zeros(count, dtype=bool)
    return np.all((table >= 0) & (table <= 1), axis=0)
