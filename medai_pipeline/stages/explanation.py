"""gradcam_maps: maps for the top findings, and a picture of each over its source image."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from medai_pipeline.records import DeidentifiedStudy, Heatmap, StudyHeatmaps, StudyPrediction, StudyTensors
from medai_pipeline.stages.objects import Objects


@dataclass(frozen=True, slots=True)
class Drawing:
    """How heatmaps are made and drawn."""

    method: str = "gradcam"
    colormap: str = "inferno"
    alpha: float = 0.45


def explain_study(
    prediction: StudyPrediction,
    tensors: StudyTensors,
    study: DeidentifiedStudy,
    objects: Objects,
    drawing: Drawing,
) -> StudyHeatmaps:
    """Maps for the top findings, and a picture of each that says which image it is, in the window that the model saw.

    Heat that is not reliable, or of a finding that is not present, is kept but not drawn.
    """
    from medai_pipeline.dicom.render import display
    from medai_pipeline.dicom.whereabouts import whereabouts
    from medai_pipeline.explain.overlay import overlay
    from medai_pipeline.explain.study import caption, explain
    from medai_pipeline.results.report import overlay_name

    if not prediction.labels:
        return StudyHeatmaps(prediction.study_key, prediction.revision, ())
    maps = explain(prediction, tensors, method=drawing.method)
    by_uid = {i.sop_instance_uid: i for i in study.instances}
    in_series = Counter(i.series_instance_uid for i in study.instances)
    overlays: dict[str, bytes] = {}
    found: list[Heatmap] = []
    for number, heatmap in enumerate(maps.heatmaps):
        instance = by_uid[heatmap.item.sop_instance_uid]
        source = objects.get(instance.object_key)
        place = whereabouts(source, heatmap.item.frame, in_series[instance.series_instance_uid])
        found.append(replace(heatmap, place=place))
        overlays[overlay_name(number, heatmap)] = overlay(
            display(source, heatmap.item.frame, tensors.contract.scaling if tensors.contract else ""),
            heatmap.values,
            heatmap.item.placement,
            (tensors.pixels.shape[2], tensors.pixels.shape[3]),
            colormap=drawing.colormap,
            alpha=drawing.alpha,
            title=caption(prediction, heatmap),
            place=place.text,
            edges=place.edges,
            regions=heatmap.regions,
            spacing_mm=heatmap.item.spacing_mm,
            withheld=heatmap.withheld,
        )
    return replace(maps, heatmaps=tuple(found), overlays=overlays)
