"""A card shows how far probabilities can be believed: the bins, their plot, and the same figures when measured again."""

from __future__ import annotations

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from medai_pipeline.models import metrics
from medai_pipeline.models.calibration import reliability_file, reliability_png
from medai_pipeline.models.catalog import catalog

BLUE, ORANGE = (178, 114, 0), (0, 159, 230)  # BGR


def _inside(said: np.ndarray, truth: np.ndarray) -> float:
    bins = metrics.reliability(said, truth)
    return float(np.mean([row["low"] <= row["confidence"] <= row["high"] for row in bins]))


def test_answers_drawn_as_predicted_lie_within_their_intervals_and_overconfident_ones_do_not() -> None:
    rng = np.random.default_rng(0)
    said = rng.random((40, 2000, 2))
    drawn = (rng.random(said.shape) < said).astype(float)
    sure = np.clip(said * 3 - 1, 0, 1)
    assert np.mean([_inside(*answers) for answers in zip(said, drawn, strict=True)]) > 0.92  # of 95 %
    assert np.mean([_inside(*answers) for answers in zip(sure, drawn, strict=True)]) < 0.5
    assert metrics.calibration_error(said, drawn) < 0.01 < 0.1 < metrics.calibration_error(sure, drawn)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_bins_hold_every_answer_once_and_their_interval_holds_the_frequency(answers) -> None:
    said, truth = (np.array(column, float)[:, None] for column in zip(*answers, strict=True))
    bins = metrics.reliability(said, truth)
    assert sum(row["many"] for row in bins) == len(said)
    for row in bins:
        assert 0 <= row["low"] <= row["frequency"] + 1e-4 and row["frequency"] - 1e-4 <= row["high"] <= 1


def test_the_plot_has_a_point_where_the_bin_is_and_a_diagonal() -> None:
    bins = [
        {"confidence": 0.25, "frequency": 0.75, "low": 0.7, "high": 0.8, "many": 50},
        {"confidence": 0.95, "frequency": 0.1, "low": 0.05, "high": 0.2, "many": 9},
    ]
    picture = cv2.imdecode(np.frombuffer(reliability_png(bins, "a title"), np.uint8), cv2.IMREAD_COLOR)
    rows, columns = np.nonzero((picture == ORANGE).all(axis=2))
    diagonal = (columns.max() - columns.min(), rows.max() - rows.min())
    assert min(diagonal) > 480  # the square; its corner is where the line ends
    left, bottom = columns.min(), rows.max()
    side = columns.max() - left
    for row in bins:
        x, y = round(left + row["confidence"] * side), round(bottom - row["frequency"] * side)
        assert tuple(picture[y, x]) == BLUE


def test_every_demo_card_shows_its_plot_and_the_error_of_each_finding() -> None:
    for known in (model for model in catalog() if model.demo):
        text = known.card.read_text()
        plot = known.card.with_name(reliability_file(known))
        assert f"({plot.name})" in text and "| calibration error |" in text
        assert cv2.imdecode(np.frombuffer(plot.read_bytes(), np.uint8), cv2.IMREAD_COLOR) is not None
        assert plot.stat().st_size < 40_000
