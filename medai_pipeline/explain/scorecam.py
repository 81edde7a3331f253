"""Score-CAM (Wang 2020): each feature map masks the image, and what the network then says weighs it. No gradients.

Exact, it costs one forward pass a feature map: 2048 for resnet50. Feature maps that light the same places mask the image
alike, so by default they are put into at most `PASSES` groups, and one mask, the mean of its group, answers for all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

import cv2
import numpy as np

from medai_pipeline.explain.cam import scale

Score: TypeAlias = Callable[[np.ndarray], np.ndarray]  # images float32 (B, C, H, W) -> logits (B, K)
PASSES = 64
_ROUNDS = 8  # of k-means: the groups hardly move after a few


def score_maps(
    image: np.ndarray, features: np.ndarray, score: Score, *, passes: int | None = PASSES, batch_size: int = 16
) -> np.ndarray:
    """Heat of every class on one image: image (C, H, W), features (D, h, w) -> float32 (K, h, w), each in [0, 1].

    At most `passes` masks are tried, one for each group of alike feature maps; None tries every feature map. Masks are
    made when their batch comes: memory holds one batch. All classes come from the same passes.
    """
    features = np.asarray(features, dtype=np.float32)
    flat = _unit(features.reshape(len(features), -1))
    groups, masks = _grouped(flat, passes)
    logits = []
    for start in range(0, len(masks), batch_size):
        part = masks[start : start + batch_size].reshape(-1, *features.shape[1:])
        logits.append(score(np.stack([image * _enlarged(mask, image.shape[1:]) for mask in part])))
    weights = _softmax(np.concatenate(logits)[groups])
    return np.stack([scale(np.tensordot(weights[:, k], features, axes=1)) for k in range(weights.shape[1])])


def _enlarged(mask: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Bilinear with aligned corners, and again from 0 to 1: as the method was published and `grad-cam` does it."""
    down, across = (_bilinear(small, large) for small, large in zip(mask.shape, size, strict=True))
    return _unit((down @ mask @ across.T).reshape(1, -1)).reshape(size)


@lru_cache(maxsize=8)
def _bilinear(small: int, large: int) -> np.ndarray:
    """Weights (large, small) of linear interpolation whose first and last places coincide."""
    position = np.linspace(0, small - 1, large)
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(small))).astype(np.float32)


def _unit(rows: np.ndarray) -> np.ndarray:
    """Each row from its least to its greatest value, as 0 to 1."""
    low = rows.min(axis=1, keepdims=True)
    return (rows - low) / (rows.max(axis=1, keepdims=True) - low + 1e-8)


def _softmax(scores: np.ndarray) -> np.ndarray:
    raised = np.exp(scores - scores.max(axis=0))
    return raised / raised.sum(axis=0)


def _grouped(rows: np.ndarray, most: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Which group each row is in, and each group's mean row. k-means with a fixed start: the same maps, the same groups."""
    if most is None or len(rows) <= most:
        return np.arange(len(rows)), rows
    cv2.setRNGSeed(0)
    criteria = (cv2.TERM_CRITERIA_MAX_ITER, _ROUNDS, 0)
    _, marks, centres = cv2.kmeans(
        np.ascontiguousarray(rows, np.float32), most, None, criteria, 1, cv2.KMEANS_PP_CENTERS
    )  # type: ignore[call-overload]
    return marks.ravel(), centres
