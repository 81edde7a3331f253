"""Pixels to probabilities: one forward pass, batches over images and studies, and what follows for a study."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medai_pipeline.errors import ModelError
from medai_pipeline.models.aggregation import KEY_IMAGES, aggregate, best_rows
from medai_pipeline.models.backends import Outputs
from medai_pipeline.models.catalog import CatalogEntry
from medai_pipeline.models.device_memory import in_batches
from medai_pipeline.models.uncertainty import sampled, spread_of
from medai_pipeline.records import ModelRef, StudyPrediction, StudyTensors

if TYPE_CHECKING:
    from medai_pipeline.models.load import LoadedModel


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

    A batch that does not fit into the device's memory is halved until it does. All feature maps are kept: `predict_studies`
    keeps fewer.
    Raises ModelError when the shape is not the contract's or an output is not finite.
    """
    parts = [part for _, part in _batches(model, [pixels], batch_size)]
    features, pooled, logits = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return ImagePredictions(probabilities_of(logits, model.entry), logits, features, pooled)


def _batches(model: LoadedModel, arrays: Sequence[np.ndarray], size: int) -> Iterator[tuple[int, Outputs]]:
    """What the network gives for the images of all arrays, a batch at a time, with the number of the first image in it."""
    contract = model.entry.contract
    shape = (contract.channels, contract.height, contract.width)
    for pixels in arrays:
        if pixels.ndim != 4 or pixels.shape[1:] != shape:
            raise ModelError(f"{model.entry.name} expects images of shape {shape}, not {tuple(pixels.shape[1:])}")
        if not len(pixels):
            raise ModelError(f"{model.entry.name} was given no image")
    start = 0
    for part in in_batches(model.backend, _Joined(arrays), size, model.entry.name):
        if not np.isfinite(part[2]).all():
            raise ModelError(f"{model.entry.name}@{model.entry.version} gave a result that is not a number")
        yield start, part
        start += len(part[2])


class _Joined:
    """Several arrays of images as one. Only what a batch takes of them is copied, and that only across a border."""

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self._arrays = arrays
        self._ends = np.cumsum([len(array) for array in arrays])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, wanted: slice, /) -> np.ndarray:
        start, stop = wanted.start, wanted.stop
        begins = (0, *self._ends[:-1])
        parts = [a[max(start - b, 0) : max(stop - b, 0)] for a, b in zip(self._arrays, begins, strict=True)]
        parts = [part for part in parts if len(part)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


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

    Studies are taken in groups of a few batches. Of each study only the feature maps of images that may still be among the
    best of a class are kept from one batch to the next.
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
    found = [_Found(model) for _ in group]
    ends = np.cumsum([len(tensors.pixels) for tensors in group])
    for start, part in _batches(model, [tensors.pixels for tensors in group], batch_size):
        stop = start + len(part[2])
        for one, tensors, end in zip(found, group, ends, strict=True):
            begin = end - len(tensors.pixels)
            rows = slice(max(begin - start, 0), max(min(end, stop) - start, 0))
            if rows.start < rows.stop:
                one.add(*(array[rows] for array in part))
    return [_study(model, tensors, one, seed) for tensors, one in zip(group, found, strict=True)]


class _Found:
    """What is known of one study's images so far: all numbers, and the feature maps of those that may still be key images."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._pooled: list[np.ndarray] = []
        self._logits: list[np.ndarray] = []
        self.features: dict[int, np.ndarray] = {}  # by row; float32, of a pooled head alone

    @property
    def pooled(self) -> np.ndarray:
        return np.concatenate(self._pooled)

    @property
    def probabilities(self) -> np.ndarray:
        return probabilities_of(np.concatenate(self._logits), self._model.entry)

    def add(self, features: np.ndarray, pooled: np.ndarray, logits: np.ndarray) -> None:
        """The next images, in their order."""
        first = sum(map(len, self._logits))
        self._pooled.append(np.array(pooled))  # copies: a view would hold the whole batch
        self._logits.append(np.array(logits))
        if not self._model.pooled:
            return
        kept = {row for rows in best_rows(self.probabilities) for row in rows}
        self.features = {row: values for row, values in self.features.items() if row in kept}
        new = sorted(row for row in kept if row >= first)
        self.features |= {row: np.array(features[row - first], np.float32) for row in new}


def _study(model: LoadedModel, tensors: StudyTensors, found: _Found, seed: int) -> StudyPrediction:
    entry, probabilities, pooled = model.entry, found.probabilities, found.pooled
    study, keys = aggregate(probabilities, entry)
    kept = sorted({row for rows in keys for row in rows})
    samples = _samples(model, tensors.pixels, probabilities, pooled, seed) if model.samples else study[None, None]
    spread = spread_of(samples, entry.multi_label)
    return StudyPrediction(
        study_key=tensors.study_key,
        revision=tensors.revision,
        model=ModelRef(entry.name, entry.version, model.weights_sha256),
        labels=entry.classes,
        multi_label=entry.multi_label,
        items=tensors.items,
        image_probabilities=probabilities,
        probabilities=study,
        uncertainty=spread.deviation[0] if model.samples else None,
        thresholds=np.asarray(entry.thresholds, np.float32),
        key_images=keys,
        features=np.stack([found.features[row] for row in kept])
        if model.pooled
        else np.zeros((len(kept), 0, 0, 0), np.float32),
        feature_rows=tuple(kept),
        head=model.head_weight if model.pooled else np.zeros((0, 0), np.float32),
        demo=entry.demo,
        novelty=model.familiarity.novelty(pooled) if model.familiarity else None,
        entropy=spread.entropy[0],
        information=spread.information[0] if model.samples else None,
    )


def _samples(
    model: LoadedModel, pixels: np.ndarray, probabilities: np.ndarray, pooled: np.ndarray, seed: int
) -> np.ndarray:
    """The study's probability by each sampled network, (S, 1, K): one draw of dropout sees every image, and its answers are
    brought together as the model's own are.

    Where each draw is a pass of its own, images that do not decide keep their probability: of "max" all but the best of
    each class, of the other rules all but the best three. The deviation is then a lower bound.
    """
    best = 1 if model.entry.aggregation == "max" else KEY_IMAGES
    rows = np.arange(len(probabilities))
    if model.drops_inside:
        rows = np.array(sorted({row for rows in best_rows(probabilities) for row in rows[:best]}))
        pixels, pooled = pixels[rows], pooled[rows]
    drawn = sampled(model, pixels, pooled, seed=seed)
    every = np.repeat(probabilities[None], len(drawn), axis=0)
    every[:, rows] = drawn
    return np.stack([aggregate(each, model.entry)[0] for each in every])[:, None]
