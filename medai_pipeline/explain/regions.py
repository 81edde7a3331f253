"""Where a heatmap is hot, as boxes on the original image. Whether the map may be believed is for `quality`."""

from __future__ import annotations

import math

import cv2
import numpy as np

from medai_pipeline.explain.geometry import heat_on_image
from medai_pipeline.records import Placement, Region

_LONG_SIDE = 256  # heat comes from a coarse grid: searching it finer than this finds nothing more
_LEAST_SHARE = 0.02  # of all heat; less is a speck


def regions(
    values: np.ndarray,
    placement: Placement,
    tensor_size: tuple[int, int],
    spacing_mm: tuple[float, float] | None = None,
    *,
    threshold: float = 0.5,
    most: int = 3,
) -> tuple[Region, ...]:
    """Connected regions with heat of at least `threshold` times the greatest: at most `most`, most heat first.

    `values` (h, w) in [0, 1] covers a tensor of `tensor_size` (H, W). Boxes are integer pixels of the original image,
    inside it, x1 and y1 exclusive. A region's score is its share of all heat on the image, 0 to 1;
    its area is in mm2 where the spacing (row, column) is known. A map without finite heat has no regions.
    """
    if not np.isfinite(values).all():
        return ()
    heat = heat_on_image(values, placement, tensor_size, _search_size(placement))
    total, peak = float(heat.sum()), float(heat.max())
    if peak <= 0:
        return ()
    count, marks, stats, _ = cv2.connectedComponentsWithStats((heat >= threshold * peak).astype(np.uint8))
    sums = np.bincount(marks.ravel(), weights=heat.ravel(), minlength=count)
    order = [mark for mark in np.argsort(-sums[1:], kind="stable") + 1 if sums[mark] >= _LEAST_SHARE * total][:most]
    return tuple(_region(stats[mark], float(sums[mark]) / total, heat.shape, placement, spacing_mm) for mark in order)


def _search_size(placement: Placement) -> tuple[int, int]:
    shrink = min(1.0, _LONG_SIDE / max(placement.source_rows, placement.source_columns))
    return max(1, round(placement.source_rows * shrink)), max(1, round(placement.source_columns * shrink))


def _region(
    stats: np.ndarray, score: float, size: tuple[int, ...], placement: Placement, spacing_mm: tuple[float, float] | None
) -> Region:
    x, y, width, height, area = (int(value) for value in stats)
    across, down = placement.source_columns / size[1], placement.source_rows / size[0]
    box = (
        math.floor(x * across),
        math.floor(y * down),
        min(placement.source_columns, math.ceil((x + width) * across)),
        min(placement.source_rows, math.ceil((y + height) * down)),
    )
    area_mm2 = round(area * across * down * spacing_mm[0] * spacing_mm[1], 1) if spacing_mm else None
    return Region(box=box, score=round(min(1.0, score), 4), area_mm2=area_mm2)
