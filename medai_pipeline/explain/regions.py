"""Where a heatmap is hot, as boxes on the original image. Whether the map may be believed is for `quality`.

A coarse grid blurs a small finding more than a large one, so no one threshold serves both: a box at half of the greatest
heat is 12 times as large as a lung nodule and 0.9 times as large as a heart. A hot place is therefore cut the higher the
smaller it is, by a rule in cells of the grid that was fitted on phantoms; `benchmarks/localization.py` measures it. How large
it is, its hot core says: weaker heat that touches a nodule's, as of the mediastinum beside it, must not make one box of both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import cv2
import numpy as np

from medai_pipeline.explain.geometry import heat_on_image
from medai_pipeline.records import Placement, Region

_LONG_SIDE = 256  # heat comes from a coarse grid: searching it finer than this finds nothing more
_LEAST_SHARE = 0.1  # of the heat of the greatest region; less is a speck
_CORE = 0.7  # of a place's greatest heat: what is connected above it is the core
_CELLS = (6.0, 20.0)  # a hot place of so many cells above half of its own greatest heat, or fewer, or more,
_CUTS = (0.8, 0.45)  # is cut at this share of that heat


def regions(
    values: np.ndarray,
    placement: Placement,
    tensor_size: tuple[int, int],
    spacing_mm: tuple[float, float] | None = None,
    *,
    most: int = 3,
) -> tuple[Region, ...]:
    """Connected hot regions: at most `most`, most heat first.

    `values` (h, w) in [0, 1] covers a tensor of `tensor_size` (H, W). Boxes are integer pixels of the original image,
    inside it, x1 and y1 exclusive. A region's score is its share of all heat on the image, 0 to 1;
    its area is in mm2 where the spacing (row, column) is known. A map without finite heat has no regions.
    """
    kept, total, size = _kept_parts(values, placement, tensor_size, most)
    return tuple(_region(stats, amount / total, size, placement, spacing_mm) for amount, stats, _ in kept)


def region_mask(values: np.ndarray, placement: Placement, tensor_size: tuple[int, int], *, most: int = 3) -> np.ndarray:
    """The places whose boxes `regions` gives: bool (rows, columns) of the original image."""
    kept, _, size = _kept_parts(values, placement, tensor_size, most)
    mask = np.zeros(size, np.uint8)
    for _, _, part in kept:
        mask |= part
    shape = (placement.source_columns, placement.source_rows)
    return cv2.resize(mask, shape, interpolation=cv2.INTER_NEAREST).astype(bool)


def _kept_parts(
    values: np.ndarray, placement: Placement, tensor_size: tuple[int, int], most: int
) -> tuple[list[tuple[float, np.ndarray, np.ndarray]], float, tuple[int, int]]:
    """The parts that count, most heat first; all heat; and the size of the picture that was searched."""
    size = _search_size(placement)
    if not np.isfinite(values).all():
        return [], 0.0, size
    heat = heat_on_image(values, placement, tensor_size, size)
    total = float(heat.sum())
    if total <= 0:
        return [], 0.0, size
    found = sorted(
        _hot_parts(heat, _pixels_per_cell(values.shape, heat.shape, placement, tensor_size)), key=lambda part: -part[0]
    )
    return [part for part in found if part[0] >= _LEAST_SHARE * found[0][0]][:most], total, size


def cut_of(cells: float) -> float:
    """The share of its greatest heat at which a hot place ends that has `cells` grid cells above half of that heat."""
    return float(np.interp(math.log(max(cells, 1e-6)), np.log(_CELLS), _CUTS))


def _hot_parts(heat: np.ndarray, pixels_per_cell: float) -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
    """(heat, stats as OpenCV has them, uint8 mask) of each part, of each place that is connected at the lowest cut."""
    count, places, _, _ = cv2.connectedComponentsWithStats((heat >= _CUTS[1] * heat.max()).astype(np.uint8))
    for place in range(1, count):
        own = np.where(places == place, heat, np.float32(0))
        peak = float(own.max())
        cut = cut_of(_half_size(own, peak) / pixels_per_cell)
        parts, marks, stats, _ = cv2.connectedComponentsWithStats((own >= cut * peak).astype(np.uint8))
        amounts = np.bincount(marks.ravel(), weights=own.ravel(), minlength=parts)
        yield from ((float(amounts[part]), stats[part], (marks == part).astype(np.uint8)) for part in range(1, parts))


def _half_size(own: np.ndarray, peak: float) -> float:
    """Pixels above half of the peak that a place of this core would have if it were a bell, whose area goes by the logarithm."""
    _, places = cv2.connectedComponents((own >= _CORE * peak).astype(np.uint8))
    core = places == places[np.unravel_index(own.argmax(), own.shape)]
    return float(core.sum()) * math.log(2) / math.log(1 / _CORE)


def _pixels_per_cell(
    grid: tuple[int, ...], size: tuple[int, ...], placement: Placement, tensor_size: tuple[int, int]
) -> float:
    """Pixels of the searched picture that one cell of the map covers."""
    down = tensor_size[0] / grid[0] / placement.scale_y * size[0] / placement.source_rows
    across = tensor_size[1] / grid[1] / placement.scale_x * size[1] / placement.source_columns
    return down * across


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
