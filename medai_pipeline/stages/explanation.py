"""gradcam_maps: maps for the top findings, and a picture of each over its source image."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from medai_pipeline.errors import ModelError
from medai_pipeline.records import (
    DeidentifiedStudy,
    Extent,
    Heatmap,
    OverlayParts,
    StudyHeatmaps,
    StudyPrediction,
    StudyTensors,
)
from medai_pipeline.stages.objects import Objects
from medai_pipeline.stages.prediction import Inference

if TYPE_CHECKING:
    from medai_pipeline.explain.network import Network


@dataclass(frozen=True, slots=True)
class Drawing:
    """How heatmaps are made and drawn."""

    method: str = "gradcam"
    layers: tuple[str, ...] = ()
    colormap: str = "inferno"
    alpha: float = 0.45


def explain_study(
    prediction: StudyPrediction,
    tensors: StudyTensors,
    study: DeidentifiedStudy,
    objects: Objects,
    drawing: Drawing,
    inference: Inference | None = None,
) -> StudyHeatmaps:
    """Maps for the top findings, and a picture of each that says which image it is, in the window that the model saw.

    Heat that is not reliable, or of a finding that is not present, is kept but not drawn. `inference` finds the network
    that predicted, to be asked again; without it maps come from the kept features alone, and are judged by themselves.
    """
    from medai_pipeline.dicom.render import display
    from medai_pipeline.dicom.whereabouts import whereabouts
    from medai_pipeline.explain.extent import extent_of
    from medai_pipeline.explain.overlay import overlay, overlay_parts
    from medai_pipeline.explain.study import caption, explain
    from medai_pipeline.models.device_memory import at_last
    from medai_pipeline.models.precision import float32
    from medai_pipeline.results.report import overlay_name

    if not prediction.labels:
        return StudyHeatmaps(prediction.study_key, prediction.revision, (), model=prediction.model)
    network = network_of(prediction, inference, drawing.layers) if inference else None
    by_uid = {i.sop_instance_uid: i for i in study.instances}

    def asked() -> tuple[StudyHeatmaps, list[Extent | None]]:
        with float32(network.device if network else "cpu"):
            made = explain(prediction, tensors, method=drawing.method, network=network)
            return made, [extent_of(prediction, heatmap, by_uid, tensors, network) for heatmap in made.heatmaps]

    maps, extents = at_last(asked, prediction.model.name)
    in_series = Counter(i.series_instance_uid for i in study.instances)
    overlays: dict[str, bytes] = {}
    parts: dict[str, OverlayParts] = {}
    found: list[Heatmap] = []
    for number, heatmap in enumerate(maps.heatmaps):
        instance = by_uid[heatmap.item.sop_instance_uid]
        source = objects.get(instance.object_key)
        place = whereabouts(source, heatmap.item.frame, in_series[instance.series_instance_uid])
        found.append(replace(heatmap, place=place, extent=extents[number]))
        drawn: dict[str, Any] = {
            "display": display(source, heatmap.item.frame, tensors.contract.scaling if tensors.contract else ""),
            "values": heatmap.values,
            "placement": heatmap.item.placement,
            "tensor_size": (tensors.pixels.shape[2], tensors.pixels.shape[3]),
            "colormap": drawing.colormap,
            "alpha": drawing.alpha,
            "spacing_mm": heatmap.item.spacing_mm,
            "withheld": heatmap.withheld,
        }
        name = overlay_name(number, heatmap)
        parts[name] = overlay_parts(**drawn)
        overlays[name] = overlay(
            **drawn,
            title=caption(prediction, heatmap),
            place=place.text,
            edges=place.edges,
            regions=heatmap.regions,
        )
    return replace(maps, heatmaps=tuple(found), overlays=overlays, parts=parts, model=prediction.model)


def network_of(prediction: StudyPrediction, inference: Inference, layers: tuple[str, ...] = ()) -> Network | None:
    """The very network that predicted, of an ensemble its first; None for a whole program, whose inside is not known.

    Raises ModelError when other weights lie in its place now.
    """
    from medai_pipeline.explain.network import Network
    from medai_pipeline.models.catalog import PROGRAMS
    from medai_pipeline.models.infer import predict
    from medai_pipeline.models.load import load

    said = prediction.members[0] if prediction.members else prediction.model  # of an ensemble the first one explains
    made_by = inference.models.entry(f"{said.name}@{said.version}")
    if made_by.kind in PROGRAMS:
        return None
    model = load(made_by, inference.models_path, "cuda" if inference.gpu else "cpu")
    if model.weights_sha256 != said.weights_sha256:
        raise ModelError(f"the weights of {model.entry.name} have changed since the prediction: predict again")

    def answer(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        given = predict(model, images, inference.batch_size)
        return given.probabilities, given.logits, given.features

    return Network(model.network, answer, model.device, layers)
