"""All heatmaps of one study, from its prediction: which classes, on which images, with regions and quality."""

from __future__ import annotations

import numpy as np

from medai_pipeline.explain.cam import class_map
from medai_pipeline.explain.quality import judge
from medai_pipeline.explain.regions import regions
from medai_pipeline.records import Heatmap, StudyHeatmaps, StudyPrediction, StudyTensors

NOT_A_FINDING = frozenset({"normal", "no finding", "no tumour", "no tumor"})


def explain(
    prediction: StudyPrediction, tensors: StudyTensors, *, method: str = "gradcam", top: int = 3, images: int = 1
) -> StudyHeatmaps:
    """Heatmaps of the classes that are present (at most `top`, surest first), else of the one most probable class.

    Only a present finding has regions: what is not there has no place.
    Each on its best `images` key images among those whose features were kept. No network is run. A prediction without
    a pooled linear head has no maps here: see `reference`.

    Raises SettingsError when no such method is known.
    """
    maps: list[Heatmap] = []
    if prediction.head.size:
        for index in explained_classes(prediction, top):
            rows = [row for row in prediction.key_images[index] if row in prediction.feature_rows]
            maps.extend(_heatmap(prediction, tensors, index, row, method) for row in rows[:images])
    return StudyHeatmaps(study_key=prediction.study_key, revision=prediction.revision, heatmaps=tuple(maps))


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
    return f"{heatmap.label} {probability:.0%}" + ("" if present else " (below threshold)")


def _heatmap(prediction: StudyPrediction, tensors: StudyTensors, index: int, row: int, method: str) -> Heatmap:
    item = prediction.items[row]
    plane = tensors.pixels[row].mean(axis=0) if tensors.pixels.shape[1] > 1 else tensors.pixels[row, 0]
    values = class_map(prediction.features[prediction.feature_rows.index(row)], prediction.head[index], method)
    numbers, reliable, reason = judge(values, plane)
    present = bool(prediction.probabilities[index] >= prediction.thresholds[index])
    found = regions(values, item.placement, plane.shape, item.spacing_mm) if reliable and present else ()
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
    )
