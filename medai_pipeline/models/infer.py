"""Pixels to probabilities: one forward pass, batches over images and studies, and what follows for a study."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medai_pipeline.errors import ModelError
from medai_pipeline.models.aggregation import aggregate
from medai_pipeline.models.backends import Outputs, out_of_memory
from medai_pipeline.models.catalog import CatalogEntry
from medai_pipeline.models.uncertainty import sampled, spread_of
from medai_pipeline.records import ModelRef, StudyPrediction, StudyTensors

if TYPE_CHECKING:
    from medai_pipeline.models.load import LoadedModel

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class ImagePredictions:
    """N images: calibrated `probabilities` and `logits` (N, K), last `features`, what the head saw of them `pooled` (N, D).

    `features` (N, D, h, w) when the head is pooled, else as the network has them.
    """

    probabilities: np.ndarray
    logits: np.ndarray
    features: np.ndarray
    pooled: np.ndarray


def predict(model: LoadedModel, pixels: np.ndarray, batch_size: int = 16) -> ImagePredictions:
    """Probabilities and features of `pixels` float32 (N, C, H, W), in one forward pass a batch, on the model's device.

    A batch that does not fit into the device's memory is halved until it does.
    Raises ModelError when the shape is not the contract's or an output is not finite.
    """
    contract = model.entry.contract
    shape = (contract.channels, contract.height, contract.width)
    if pixels.ndim != 4 or pixels.shape[1:] != shape:
        raise ModelError(f"{model.entry.name} expects images of shape {shape}, not {tuple(pixels.shape[1:])}")
    if not len(pixels):
        raise ModelError(f"{model.entry.name} was given no image")
    parts = []
    start = 0
    while start < len(pixels):
        part, batch_size = _one_batch(model, pixels, start, batch_size)
        parts.append(part)
        start += len(part[0])
    features, pooled, logits = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    if not np.isfinite(logits).all():
        raise ModelError(f"{model.entry.name}@{model.entry.version} gave a result that is not a number")
    return ImagePredictions(probabilities_of(logits, model.entry), logits, features, pooled)


def _one_batch(model: LoadedModel, pixels: np.ndarray, start: int, size: int) -> tuple[Outputs, int]:
    while True:
        try:
            return model.backend(pixels[start : start + size]), size
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if size == 1:
                raise ModelError(f"{model.entry.name}: the device has no memory for one image; free some") from error
            size = max(1, min(size, len(pixels) - start) // 2)
            log.warning("out of device memory: batches of %d from here on", size)


def probabilities_of(logits: np.ndarray, entry: CatalogEntry) -> np.ndarray:
    """Logits (..., K) over the temperature, through sigmoid (multi-label) or softmax."""
    z = np.asarray(logits, np.float64) / entry.temperature
    if entry.multi_label:
        return (1 / (1 + np.exp(-np.clip(z, -60, 60)))).astype(np.float32)
    z = np.exp(z - z.max(axis=-1, keepdims=True))
    return (z / z.sum(axis=-1, keepdims=True)).astype(np.float32)


def predict_study(model: LoadedModel, tensors: StudyTensors, *, batch_size: int = 16, seed: int = 0) -> StudyPrediction:
    """What `model` says about one study. Raises ModelError as `predict` does."""
    return predict_studies(model, [tensors], batch_size=batch_size, seed=seed)[0]


def predict_studies(
    model: LoadedModel, studies: Sequence[StudyTensors], *, batch_size: int = 16, seed: int = 0
) -> list[StudyPrediction]:
    """Several studies at once: their images share batches, their results do not depend on each other.

    Studies are taken in groups of a few batches, so that features of many images never pile up.
    """
    results: list[StudyPrediction] = []
    group: list[StudyTensors] = []
    for tensors in studies:
        group.append(tensors)
        if sum(len(member.pixels) for member in group) >= 4 * batch_size:
            results += _predict_group(model, group, batch_size, seed)
            group = []
    return results + (_predict_group(model, group, batch_size, seed) if group else [])


def _predict_group(
    model: LoadedModel, group: Sequence[StudyTensors], batch_size: int, seed: int
) -> list[StudyPrediction]:
    images = predict(model, np.concatenate([tensors.pixels for tensors in group]), batch_size)
    results, start = [], 0
    for tensors in group:
        rows = slice(start, start + len(tensors.pixels))
        part = ImagePredictions(
            images.probabilities[rows], images.logits[rows], images.features[rows], images.pooled[rows]
        )
        results.append(_study(model, tensors, part, seed))
        start = rows.stop
    return results


def _study(model: LoadedModel, tensors: StudyTensors, images: ImagePredictions, seed: int) -> StudyPrediction:
    entry = model.entry
    study, keys = aggregate(images.probabilities, entry)
    kept = sorted({row for rows in keys for row in rows})
    deciding = sorted({rows[0] for rows in keys})
    samples = images.probabilities[None, deciding]
    if model.samples:
        samples = sampled(model, tensors.pixels[deciding], images.pooled[deciding], seed=seed)
    spread = spread_of(samples, entry.multi_label)
    own = [deciding.index(rows[0]) for rows in keys], range(len(keys))  # each class by the image that decides it
    return StudyPrediction(
        study_key=tensors.study_key,
        revision=tensors.revision,
        model=ModelRef(entry.name, entry.version, model.weights_sha256),
        labels=entry.classes,
        multi_label=entry.multi_label,
        items=tensors.items,
        image_probabilities=images.probabilities,
        probabilities=study,
        uncertainty=spread.deviation[own] if model.samples else None,
        thresholds=np.asarray(entry.thresholds, np.float32),
        key_images=keys,
        features=images.features[kept].astype(np.float32)
        if model.pooled
        else np.zeros((len(kept), 0, 0, 0), np.float32),
        feature_rows=tuple(kept),
        head=model.head_weight if model.pooled else np.zeros((0, 0), np.float32),
        demo=entry.demo,
        novelty=model.familiarity.novelty(images.pooled) if model.familiarity else None,
        entropy=spread.entropy[own],
        information=spread.information[own] if model.samples else None,
    )
