"""Through which slices a finding reaches, and its box in three dimensions.

A map knows its own slice alone. Which neighbours show the finding too is known from the prediction of each image; how far
the heat reaches on them, from the maps of those whose features were kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medai_pipeline.dicom.series import slice_depths_mm
from medai_pipeline.explain.network import Network
from medai_pipeline.explain.regions import regions
from medai_pipeline.explain.study import class_maps
from medai_pipeline.records import Extent, Heatmap, Instance, StudyPrediction, StudyTensors, TensorItem

Box = tuple[int, int, int, int]


def extent_of(
    prediction: StudyPrediction,
    heatmap: Heatmap,
    instances: Mapping[str, Instance],
    tensors: StudyTensors,
    network: Network | None = None,
) -> Extent | None:
    """The run of slices about the map's own, in one series, that the model calls present; None where it is one image.

    `instances` by SOP Instance UID. The images of a prediction lie in the order of their geometry. The box is that of the
    hottest region, widened by what overlaps it on the key slices of the run.
    """
    index, row = prediction.labels.index(heatmap.label), prediction.items.index(heatmap.item)
    shows = prediction.image_probabilities[:, index] >= prediction.thresholds[index]
    series = [instances[item.sop_instance_uid].series_instance_uid for item in prediction.items]
    if not heatmap.present or not shows[row] or series.count(series[row]) < 2:
        return None
    first = last = row
    while first > 0 and shows[first - 1] and series[first - 1] == series[row]:
        first -= 1
    while last + 1 < len(series) and shows[last + 1] and series[last + 1] == series[row]:
        last += 1
    run = prediction.items[first : last + 1]
    span_mm = _span_mm([instances[item.sop_instance_uid] for item in run])
    box = _box(
        prediction, heatmap, [row for row in prediction.key_images[index] if first <= row <= last], tensors, network
    )
    return Extent(
        images=tuple(item.sop_instance_uid for item in run),
        numbers=tuple(sorted((_number(run[0], instances), _number(run[-1], instances)))),
        span_mm=span_mm,
        box=box,
        size_mm=_size_mm(box, heatmap.item.spacing_mm, span_mm),
    )


def _box(
    prediction: StudyPrediction,
    heatmap: Heatmap,
    rows: Sequence[int],
    tensors: StudyTensors,
    network: Network | None,
) -> Box | None:
    """The hottest region's box, and what overlaps it on other slices of the same geometry, in pixels of the image."""
    if not heatmap.regions:
        return None
    box, index = heatmap.regions[0].box, prediction.labels.index(heatmap.label)
    for row in rows:
        item = prediction.items[row]
        if item == heatmap.item or item.placement != heatmap.item.placement:
            continue
        for values in class_maps(prediction, tensors, row, [index], heatmap.method, network):
            for region in regions(values, item.placement, tensors.pixels.shape[2:], item.spacing_mm):
                if _overlap(region.box, heatmap.regions[0].box):
                    box = _union(box, region.box)
    return box


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _union(one: Box, other: Box) -> Box:
    return min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])


def _size_mm(
    box: Box | None, spacing_mm: tuple[float, float] | None, span_mm: float | None
) -> tuple[float, float, float] | None:
    """Across, down and through; Pixel Spacing gives rows first (PS3.3 10.7.1.3)."""
    if box is None or spacing_mm is None or span_mm is None:
        return None
    return round((box[2] - box[0]) * spacing_mm[1], 1), round((box[3] - box[1]) * spacing_mm[0], 1), span_mm


def _number(item: TensorItem, instances: Mapping[str, Instance]) -> int:
    """What a viewer calls the image: its frame in an object of many, else its Instance Number."""
    instance = instances[item.sop_instance_uid]
    return item.frame if instance.frames > 1 else instance.instance_number


def _span_mm(run: Sequence[Instance]) -> float | None:
    """From the first slice's middle to the last one's, and the thickness of one; None without geometry."""
    if len({instance.sop_instance_uid for instance in run}) < len(run):
        return None  # frames of one object: their places are not in the table
    depths = slice_depths_mm(tuple(run))
    if depths is None:
        return None
    return round(max(depths) - min(depths) + (run[0].slice_thickness_mm or 0.0), 1)
