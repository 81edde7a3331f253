"""gradcam_maps: maps for the top findings, and a picture of each over its source image."""

from __future__ import annotations

from dataclasses import dataclass, replace

from medai_pipeline.records import DeidentifiedStudy, StudyHeatmaps, StudyPrediction, StudyTensors
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
    """Maps for the top findings, and an overlay picture of each; one that is not reliable is drawn without its heat."""
    from medai_pipeline.dicom.render import display
    from medai_pipeline.explain.overlay import overlay
    from medai_pipeline.explain.study import caption, explain
    from medai_pipeline.results.report import overlay_name

    if not prediction.labels:
        return StudyHeatmaps(prediction.study_key, prediction.revision, ())
    maps = explain(prediction, tensors, method=drawing.method)
    by_uid = {i.sop_instance_uid: i for i in study.instances}
    overlays: dict[str, bytes] = {}
    for number, heatmap in enumerate(maps.heatmaps):
        source = objects.get(by_uid[heatmap.item.sop_instance_uid].object_key)
        overlays[overlay_name(number, heatmap)] = overlay(
            display(source, heatmap.item.frame),
            heatmap.values,
            heatmap.item.placement,
            (tensors.pixels.shape[2], tensors.pixels.shape[3]),
            colormap=drawing.colormap,
            alpha=drawing.alpha,
            title=caption(prediction, heatmap),
            regions=heatmap.regions,
            spacing_mm=heatmap.item.spacing_mm,
            reliable=heatmap.reliable,
        )
    return replace(maps, overlays=overlays)
