"""What must hold for the tensors of a study before a model sees them: shape, finite, range, not constant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import polars as pl

from medai_pipeline.quality.engine import STUDY, Check, validate
from medai_pipeline.records import QualityResult, StudyTensors

_TOLERANCE = 1e-3  # of the contract's range: float32 and interpolation may step over it by a hair
_CONSTANT = 1e-6

CHECKS: tuple[Check, ...] = (
    Check(
        "the shape is the contract's",
        "ExpectColumnValuesToBeInSet",
        "shape_fits",
        "the tensor has another shape than the model's contract",
        options={"value_set": [True]},
    ),
    Check(
        "every image is described",
        "ExpectColumnValuesToBeInSet",
        "described",
        "the tensor has another number of images than descriptions",
        options={"value_set": [True]},
    ),
    Check(
        "all values are finite",
        "ExpectColumnValuesToBeInSet",
        "not_finite",
        "{count} image(s) hold values that are not finite",
        options={"value_set": [0]},
    ),
    Check(
        "values lie in the contract's range",
        "ExpectColumnValuesToBeBetween",
        "outside",
        "{count} image(s) hold values outside the contract's range",
        options={"max_value": _TOLERANCE},
    ),
    Check(
        "some image has content",
        "ExpectColumnValuesToBeInSet",
        "all_constant",
        "every image is constant",
        options={"value_set": [False]},
    ),
    Check(
        "no image is constant",
        "ExpectColumnValuesToBeInSet",
        "constant",
        "{count} image(s) are constant",
        blocking=False,
        options={"value_set": [False]},
    ),
)


def check_tensors(studies: Iterable[StudyTensors]) -> dict[str, tuple[QualityResult, ...]]:
    """Study key -> results. A study without a model has no contract and nothing to hold to: its results are empty."""
    studies = list(studies)
    rows = [row for study in studies if study.contract for row in _rows(study)]
    results = validate("tensors", pl.DataFrame(rows, infer_schema_length=None), CHECKS) if rows else {}
    return {study.study_key: results.get(study.study_key, ()) for study in studies}


def _rows(study: StudyTensors) -> Iterator[dict[str, Any]]:
    """One row an image; one row for a tensor without images, which its shape then fails."""
    contract, pixels = study.contract, study.pixels
    assert contract is not None
    fits = pixels.dtype == np.float32 and pixels.shape[1:] == (contract.channels, contract.height, contract.width)
    span = contract.high - contract.low
    statistics = [_statistics(image, contract.low, contract.high, span) for image in pixels]
    shared = {
        STUDY: study.study_key,
        "shape_fits": bool(fits and len(pixels)),
        "described": len(study.items) == len(pixels),
        "all_constant": all(row["constant"] for row in statistics),
    }
    yield from ({**shared, **row} for row in statistics or [{"not_finite": 0, "outside": 0.0, "constant": True}])


def _statistics(image: np.ndarray, low: float, high: float, span: float) -> dict[str, Any]:
    """How many values are not finite, how far the others leave the range (as a share of it), and whether they differ."""
    smallest, largest = (float(image.min()), float(image.max())) if image.size else (low, low)
    not_finite = 0
    if not np.isfinite(smallest + largest):  # NaN or infinity shows in either
        good = image[np.isfinite(image)]
        not_finite = int(image.size - good.size)
        smallest, largest = (float(good.min()), float(good.max())) if good.size else (low, low)
    outside = max(low - smallest, largest - high, 0.0) / span
    return {"not_finite": not_finite, "outside": outside, "constant": largest - smallest <= _CONSTANT * span}
