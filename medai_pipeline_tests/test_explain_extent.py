"""A finding of a volume is told with the slices through which it reaches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medai_pipeline.explain.extent import extent_of
from medai_pipeline.explain.study import explain
from medai_pipeline.records import TensorItem
from medai_pipeline_tests.report_samples import instance, placement, prediction, tensors, uid
from medai_pipeline_tests.test_report_content import make, problems_with
from medai_pipeline_tests.test_report_page import Page

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SHOWS = [0.9, 0.1, 0.6, 0.93, 0.7, 0.2, 0.8]


def volume(series: str = "2.25.10", **changes):
    """Seven slices 5 mm apart; a pneumothorax above 0.5 on the first, the third to fifth and the last."""
    said = np.zeros((7, 5), np.float32)
    said[:, 0] = SHOWS
    study = tensors(7, items=tuple(TensorItem(uid(n), 1, placement()) for n in range(7)))
    answer = prediction(
        (0.93, 0, 0, 0, 0),
        items=study.items,
        image_probabilities=said,
        key_images=((3, 6, 0),) * 5,
        feature_rows=(3, 6),
    )
    rows = [
        instance(n, instance_number=20 - n, orientation=AXIAL, position_mm=(0.0, 0.0, 5.0 * n), slice_thickness_mm=5.0)
        for n in range(7)
    ]
    return answer, study, {row.sop_instance_uid: replace(row, **changes) for row in rows}


def found(answer, study):
    return explain(answer, study).heatmaps[0]


def test_the_run_of_slices_about_the_key_slice_is_told():
    answer, study, instances = volume()
    extent = extent_of(answer, found(answer, study), instances, study)
    assert extent is not None
    assert extent.images == (uid(2), uid(3), uid(4))
    assert extent.span_mm == 15
    assert extent.text == "on 3 slices, images 16 to 18, 15 mm"


def test_another_series_ends_the_run():
    answer, study, instances = volume()
    instances[uid(4)] = replace(instances[uid(4)], series_instance_uid="2.25.11")
    extent = extent_of(answer, found(answer, study), instances, study)
    assert extent is not None
    assert extent.images == (uid(2), uid(3))


def test_without_geometry_there_is_no_length():
    answer, study, instances = volume(position_mm=None)
    assert extent_of(answer, found(answer, study), instances, study).span_mm is None


def test_a_single_film_and_an_absent_finding_have_no_extent():
    answer, study, instances = volume()
    films = {key: replace(row, series_instance_uid=f"2.25.{n}") for n, (key, row) in enumerate(instances.items())}
    assert extent_of(answer, found(answer, study), films, study) is None
    assert extent_of(answer, replace(found(answer, study), present=False), instances, study) is None


def test_the_report_says_so():
    answer, study, instances = volume()
    maps = explain(answer, study)
    shown = tuple(replace(m, extent=extent_of(answer, m, instances, study)) for m in maps.heatmaps)
    report = make(answer, study=study, heatmaps=replace(maps, heatmaps=shown), instances=list(instances.values()))
    assert problems_with(report) == []
    assert "Seen on 3 slices, images 16 to 18, 15 mm." in Page(report.html).text


@pytest.mark.parametrize("frames", [7])
def test_frames_of_one_object_are_counted_as_frames(frames):
    answer, study, instances = volume()
    items = tuple(TensorItem(uid(0), n + 1, placement()) for n in range(frames))
    answer, study = replace(answer, items=items), replace(study, items=items)
    extent = extent_of(answer, found(answer, study), {uid(0): replace(instances[uid(0)], frames=frames)}, study)
    assert extent.numbers == (3, 5)
    assert extent.span_mm is None


def test_the_box_in_three_dimensions_holds_the_heat_of_every_key_slice_of_the_run_that_overlaps():
    answer, study, instances = volume()
    features = np.array(answer.features)
    features[1, 0] = 0
    features[1, 0, 2:5, 5] = 2.0  # reaches two cells further down than on the key slice
    items = tuple(replace(item, spacing_mm=(0.5, 0.8)) for item in study.items)
    study = replace(study, items=items)
    near = replace(answer, items=items, features=features, feature_rows=(3, 4), key_images=((3, 4, 0),) * 5)
    far = replace(near, feature_rows=(3, 6), key_images=((3, 6, 0),) * 5)
    alone = extent_of(far, found(far, study), instances, study)
    both = extent_of(near, found(near, study), instances, study)
    assert alone.box == found(far, study).regions[0].box  # the seventh slice does not belong to the run
    assert both.box[3] > alone.box[3] and both.box[:2] <= alone.box[:2]
    x0, y0, x1, y1 = both.box
    assert both.size_mm == (round((x1 - x0) * 0.8, 1), round((y1 - y0) * 0.5, 1), 15)
    assert both.text.endswith(f"; heat over {both.size_mm[0]:.0f} x {both.size_mm[1]:.0f} x 15 mm")
