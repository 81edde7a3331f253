"""A heatmap that is empty, not finite, beside the patient, or everywhere is never called reliable."""

from __future__ import annotations

import numpy as np

from medai_pipeline.explain.quality import body_mask, judge
from medai_pipeline_tests.report_samples import GRID, body


def heat(*places: tuple[int, int]) -> np.ndarray:
    values = np.zeros((GRID, GRID), dtype=np.float32)
    for place in places:
        values[place] = 1.0
    return values


def test_heat_on_a_lung_is_reliable():
    numbers, reliable, reason = judge(heat((3, 2)), body())
    assert reliable
    assert reason == ""
    assert numbers["inside_body"] > 0.9


def test_heat_beside_the_patient_is_refused_with_its_share():
    numbers, reliable, reason = judge(heat((0, 0), (7, 7)), body())
    assert not reliable
    assert numbers["inside_body"] < 0.2
    assert "lies on the patient" in reason


def test_an_empty_map_is_refused():
    _, reliable, reason = judge(heat(), body())
    assert not reliable
    assert "empty" in reason


def test_a_constant_map_is_refused():
    assert not judge(np.ones((GRID, GRID), dtype=np.float32), body())[1]


def test_a_map_that_is_not_finite_is_refused():
    _, reliable, reason = judge(np.full((GRID, GRID), np.nan, dtype=np.float32), body())
    assert not reliable
    assert "not finite" in reason


def test_heat_everywhere_points_at_nothing():
    values = np.ones((GRID, GRID), dtype=np.float32)
    values[0, 0] = 0.0
    _, reliable, reason = judge(values, np.random.default_rng(1).random((64, 64), dtype=np.float32))
    assert not reliable
    assert "points at nothing" in reason


def test_the_body_mask_holds_the_lungs_and_leaves_out_the_air_around():
    image = body()
    mask = body_mask(image)
    assert mask[image == 0.8].all()
    assert mask[image == 0.25].all()
    assert not mask[0, 0]


def test_an_image_that_is_all_body_has_a_mask_that_is_everything():
    assert body_mask(np.full((32, 32), 0.5, dtype=np.float32)).all()
