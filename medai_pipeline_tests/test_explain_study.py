"""Which findings of a study get a heatmap, and on which image."""

from __future__ import annotations

import numpy as np

from medai_pipeline.explain.study import caption, explain
from medai_pipeline_tests.report_samples import prediction, tensors


def test_present_findings_are_explained_surest_first():
    found = explain(prediction(), tensors())
    assert [heatmap.label for heatmap in found.heatmaps] == ["Pneumothorax", "Effusion"]
    assert all(heatmap.reliable and heatmap.regions for heatmap in found.heatmaps)


def test_the_region_lies_where_the_features_speak_for_the_finding():
    (heatmap, _) = explain(prediction(), tensors()).heatmaps
    x0, y0, x1, y1 = heatmap.regions[0].box
    # cell (2, 5) of 8 x 8 over 128 pixels: x 88, y 40 in the tensor; 2.5 source pixels each, 12.8 columns of padding
    assert x0 < (88 - 12.8) * 2.5 < x1
    assert y0 < 40 * 2.5 < y1


def test_a_study_without_findings_gets_the_map_of_the_most_probable_one():
    found = explain(prediction((0.1, 0.2, 0.05, 0.3, 0.0)), tensors())
    assert [heatmap.label for heatmap in found.heatmaps] == ["Nodule"]
    assert found.heatmaps[0].reliable
    assert found.heatmaps[0].regions == ()
    assert found.heatmaps[0].withheld == "Below threshold: no heat drawn"
    assert found.heatmaps[0].values.max() > 0.9
    assert caption(prediction((0.1, 0.2, 0.05, 0.3, 0.0)), found.heatmaps[0]) == "Nodule 30% (below threshold)"


def test_at_most_the_top_findings_are_explained():
    found = explain(prediction((0.9, 0.9, 0.95, 0.9, 0.9)), tensors(), top=2)
    assert len(found.heatmaps) == 2


def test_normal_is_never_explained():
    labels = ("Normal", "Effusion", "Consolidation", "Nodule", "Cardiomegaly")
    found = explain(prediction((0.99, 0.1, 0.2, 0.1, 0.1), labels=labels), tensors())
    assert [heatmap.label for heatmap in found.heatmaps] == ["Consolidation"]


def test_the_best_key_image_whose_features_were_kept_is_shown():
    kept = prediction(feature_rows=(1,), features=prediction().features[1:])
    (heatmap, _) = explain(kept, tensors()).heatmaps
    assert heatmap.item.sop_instance_uid == tensors().items[1].sop_instance_uid


def test_several_images_come_on_request():
    found = explain(prediction(), tensors(), images=2)
    assert len({heatmap.item.sop_instance_uid for heatmap in found.heatmaps}) == 2


def test_a_network_without_a_pooled_linear_head_has_no_maps_here():
    assert explain(prediction(head=np.zeros((0, 0), dtype=np.float32)), tensors()).heatmaps == ()


def test_features_that_speak_against_the_finding_give_a_map_that_is_marked():
    found = explain(prediction(head=-np.eye(5, dtype=np.float32)), tensors())
    assert not any(heatmap.reliable or heatmap.regions for heatmap in found.heatmaps)
    assert all(heatmap.reason for heatmap in found.heatmaps)
