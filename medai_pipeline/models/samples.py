"""Training images with their truth: what is there, and which cells of the class activation map it covers. Arrays only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

ClassBox: TypeAlias = tuple[int, tuple[float, float, float, float]]  # class index, (x0, y0, x1, y1) in tensor pixels

SMALLEST_AREA = 25.0  # tensor pixels; less is the last slice of a ball: neither there nor absent


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One image as the model sees it, of study number `study`.

    `pixels` float16 (C, H, W); `targets` 0 or 1 (K,); `weights` (K,), 0 leaves a class out; `masks` uint8 (K, h, w), 255
    where a box covers a cell most; `boxes` in tensor pixels.
    """

    study: int
    pixels: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    masks: np.ndarray
    boxes: tuple[ClassBox, ...]


def sample(
    study: int, pixels: np.ndarray, classes: int, present: Sequence[int], boxes: Sequence[ClassBox], stride: int
) -> Sample:
    """`present`: indices of the classes that are there, boxed or not; `stride`: tensor pixels in a cell of the map."""
    targets, weights = np.zeros(classes, np.float32), np.ones(classes, np.float32)
    masks = np.zeros((classes, pixels.shape[1] // stride, pixels.shape[2] // stride), np.float32)
    targets[list(present)] = 1
    for k, box in boxes:
        targets[k] = 1
        masks[k] = np.maximum(masks[k], _cover(box, masks.shape[1:], stride))
    for k in range(classes):
        own = [(x1 - x0) * (y1 - y0) for j, (x0, y0, x1, y1) in boxes if j == k]
        if own and max(own) < SMALLEST_AREA:
            weights[k] = 0
    return Sample(study, pixels.astype(np.float16), targets, weights, (masks * 255).astype(np.uint8), tuple(boxes))


def _cover(box: tuple[float, float, float, float], cells: tuple[int, ...], stride: int) -> np.ndarray:
    """The share of each cell that the box covers, over the largest such share."""
    x0, y0, x1, y1 = box
    left, top = np.arange(cells[1]) * stride, np.arange(cells[0]) * stride
    across = np.clip(np.minimum(x1, left + stride) - np.maximum(x0, left), 0, None)
    down = np.clip(np.minimum(y1, top + stride) - np.maximum(y0, top), 0, None)
    cover = np.outer(down, across)
    return cover / max(1e-6, cover.max())
