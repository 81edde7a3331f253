"""Through which slices a finding reaches: with a region's box in the key slice, its box in three dimensions.

A map knows its own slice alone. Which neighbours show the finding too is known from the prediction of each image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medai_pipeline.dicom.series import slice_depths_mm
from medai_pipeline.records import Extent, Heatmap, Instance, StudyPrediction, TensorItem


def extent_of(prediction: StudyPrediction, heatmap: Heatmap, instances: Mapping[str, Instance]) -> Extent | None:
    """The run of slices about the map's own, in one series, that the model calls present; None where it is one image.

    `instances` by SOP Instance UID. The images of a prediction lie in the order of their geometry.
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
    return Extent(
        images=tuple(item.sop_instance_uid for item in run),
        numbers=tuple(sorted((_number(run[0], instances), _number(run[-1], instances)))),
        span_mm=_span_mm([instances[item.sop_instance_uid] for item in run]),
    )


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
