"""All heatmaps of one study, from its prediction: which classes, on which images, with regions and quality."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from medai_pipeline.errors import SettingsError
from medai_pipeline.explain.asking import ask
from medai_pipeline.explain.cam import class_map
from medai_pipeline.explain.gradients import layer_maps
from medai_pipeline.explain.methods import ALL_METHODS, SCORECAM, SCORECAM_EXACT
from medai_pipeline.explain.network import Network
from medai_pipeline.explain.quality import judge
from medai_pipeline.explain.regions import regions
from medai_pipeline.explain.scorecam import PASSES, score_maps
from medai_pipeline.records import Heatmap, StudyHeatmaps, StudyPrediction, StudyTensors
from medai_pipeline.wording import percent

NOT_A_FINDING = frozenset({"normal", "no finding", "no tumour", "no tumor"})


def explain(
    prediction: StudyPrediction,
    tensors: StudyTensors,
    *,
    method: str = "gradcam",
    top: int = 3,
    images: int = 1,
    network: Network | None = None,
) -> StudyHeatmaps:
    """Heatmaps of the classes that are present (at most `top`, surest first), else of the one most probable class.

    Only a present finding has regions: what is not there has no place. Each on its best `images` key images.
    With a pooled linear head no pass of the network is needed for a map. Other heads, other layers than the last, and
    Score-CAM ask the `network`; without it a prediction of another head has no maps.

    Raises SettingsError when no such method is known, ModelError when the network has no layer to explain.
    """
    if method not in ALL_METHODS:
        raise SettingsError(f"unknown explanation method {method}; use one of {', '.join(ALL_METHODS)}")
    classes = explained_classes(prediction, top)
    wanted = [(index, row) for index in classes for row in _rows(prediction, index, network)[:images]]
    together: dict[int, list[int]] = defaultdict(list)
    for index, row in wanted:
        together[row].append(index)
    found: dict[tuple[int, int], Heatmap] = {}
    for row, indices in together.items():
        maps = class_maps(prediction, tensors, row, indices, method, network)
        if not maps:
            continue
        present = [at for at, index in enumerate(indices) if _present(prediction, index)]
        asked = ask(prediction, tensors, row, [(indices[at], maps[at]) for at in present], method, network)
        for index, values in zip(indices, maps, strict=True):
            found[index, row] = _heatmap(prediction, tensors, index, row, method, values, network, asked.get(index))
    return StudyHeatmaps(
        prediction.study_key, prediction.revision, tuple(found[pair] for pair in wanted if pair in found)
    )


def class_maps(
    prediction: StudyPrediction,
    tensors: StudyTensors,
    row: int,
    classes: Sequence[int],
    method: str = "gradcam",
    network: Network | None = None,
) -> list[np.ndarray]:
    """The heat of some classes on one image, float32 (h, w) in [0, 1] each: the cheapest way that serves the method."""
    pooled = bool(prediction.head.size) and row in prediction.feature_rows and not (network and network.layers)
    features = prediction.features[prediction.feature_rows.index(row)] if pooled else None
    if method not in (SCORECAM, SCORECAM_EXACT):
        if features is not None:
            return [class_map(features, prediction.head[index], method) for index in classes]
        return layer_maps(network.views(tensors.pixels[row], classes), method) if network else []
    if network is None:
        return []
    if features is None:
        features = network.views(tensors.pixels[row], classes[:1])[0].features
    passes = None if method == SCORECAM_EXACT else PASSES
    maps = score_maps(tensors.pixels[row], features, network.logits, passes=passes)
    return [maps[index] for index in classes]


def _present(prediction: StudyPrediction, index: int) -> bool:
    return bool(prediction.probabilities[index] >= prediction.thresholds[index])


def _rows(prediction: StudyPrediction, index: int, network: Network | None) -> list[int]:
    """The key images of a class that can be explained, best first."""
    rows = list(prediction.key_images[index])
    if prediction.head.size and not (network and network.layers):
        return [row for row in rows if row in prediction.feature_rows]
    return rows if network else []


def explained_classes(prediction: StudyPrediction, top: int) -> list[int]:
    """Indices of the classes worth a map: present ones by their margin over the threshold, else the most probable."""
    findings = [index for index, label in enumerate(prediction.labels) if label.casefold() not in NOT_A_FINDING]
    if not findings:
        return []
    margin = np.asarray(prediction.probabilities, dtype=float) - np.asarray(prediction.thresholds, dtype=float)
    present = sorted((index for index in findings if margin[index] >= 0), key=lambda index: -margin[index])
    return present[:top] or [max(findings, key=lambda index: prediction.probabilities[index])]


def caption(prediction: StudyPrediction, heatmap: Heatmap) -> str:
    """One line for the picture, ASCII: the finding, its probability, and whether it counts as present."""
    index = prediction.labels.index(heatmap.label)
    probability = float(prediction.probabilities[index])
    present = probability >= float(prediction.thresholds[index])
    return f"{heatmap.label} {percent(probability)}" + ("" if present else " (below threshold)")


def _heatmap(
    prediction: StudyPrediction,
    tensors: StudyTensors,
    index: int,
    row: int,
    method: str,
    values: np.ndarray,
    network: Network | None,
    asked: Mapping[str, float] | None,
) -> Heatmap:
    item, image = prediction.items[row], tensors.pixels[row]
    numbers, reliable, reason = judge(values, image.mean(axis=0), asked)
    present = _present(prediction, index)
    found = regions(values, item.placement, image.shape[1:], item.spacing_mm) if reliable and present else ()
    return Heatmap(
        label=prediction.labels[index],
        method=method,
        item=item,
        values=values,
        regions=found,
        quality=numbers,
        reliable=reliable,
        reason=reason,
        present=present,
        layers=tuple(layer.name for layer in network.targets(image)) if network else (),
        tensor_size=(image.shape[1], image.shape[2]),
    )
