"""The network is asked whether the maps of one image are right: in few passes, shared by all maps of the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from medai_pipeline.explain import faithfulness
from medai_pipeline.explain.cam import class_map
from medai_pipeline.explain.gradients import layer_maps
from medai_pipeline.explain.methods import SCORECAM, SCORECAM_EXACT
from medai_pipeline.explain.network import Network
from medai_pipeline.records import StudyPrediction, StudyTensors


def ask(
    prediction: StudyPrediction,
    tensors: StudyTensors,
    row: int,
    maps: Sequence[tuple[int, np.ndarray]],
    method: str,
    network: Network | None,
) -> dict[int, Mapping[str, float]]:
    """What the network says about the maps (class, heat) of one image: for each class the numbers of `faithfulness`.

    Two batches: the image blurred, flat and mirrored; then the probes of all maps. What stands for a place that is taken
    away is the one of blurred and flat that speaks less for the finding; where neither says less than the image itself,
    taking away can show nothing, and there is no `gain`.
    """
    maps = [(index, values) for index, values in maps if np.isfinite(values).all() and values.max() > values.min()]
    if network is None or not maps:
        return {}
    image = tensors.pixels[row]
    bases = np.stack([faithfulness.blurred(image), np.full_like(image, image.mean())])
    mirrored = np.ascontiguousarray(image[:, :, ::-1])
    said, _, features = network.answer(np.concatenate([bases, mirrored[None]]))
    numbers: dict[int, dict[str, float]] = {index: {} for index, _ in maps}
    chosen = {index: int(said[:2, index].argmin()) for index, _ in maps}
    whole = {index: float(prediction.image_probabilities[row, index]) for index, _ in maps}
    telling = [(i, v) for i, v in maps if whole[i] - said[chosen[i], i] >= faithfulness.LEAST_CHANGE]
    if telling:
        probes = np.concatenate([faithfulness.probes(image, bases[chosen[i]], v) for i, v in telling])
        answers = network.probabilities(probes).reshape(len(telling), faithfulness.PASSES, -1)
        for (index, _), answer in zip(telling, answers, strict=True):
            base = float(said[chosen[index], index])
            numbers[index].update(faithfulness.areas(answer[:, index].tolist(), whole[index], base))
    for (index, values), other in zip(
        maps, _mirrored(prediction, mirrored, maps, method, network, features), strict=False
    ):
        numbers[index]["mirrored"] = faithfulness.agreement(values, other[:, ::-1])
    return {**numbers}


def _mirrored(
    prediction: StudyPrediction,
    image: np.ndarray,
    maps: Sequence[tuple[int, np.ndarray]],
    method: str,
    network: Network,
    features: np.ndarray,
) -> list[np.ndarray]:
    """The maps of the mirrored image; none for Score-CAM, which would cost as much again."""
    if method in (SCORECAM, SCORECAM_EXACT):
        return []
    if prediction.head.size and not network.layers:
        return [class_map(features[-1], prediction.head[index], method) for index, _ in maps]
    return layer_maps(network.views(image, [index for index, _ in maps]), method)
