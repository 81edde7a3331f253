"""Which parts of an outline could hold letters: steps of the picture, counted. For what the detector took for one letter.

Letters are many short steps, up and down, along both axes, close together; anatomy has long edges and soft ones. So the
share of strong steps in each of the four directions is taken in windows of the size of a few letters, and the least of
the four counts. Three sizes of picture cover letters from about 7 to 60 pixels. Whether a picture is looked at in the first
place is decided by `letters`, which is stricter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

CELL = 4  # pixels of a cell's side
_SIZES = 3
_WINDOW = (7, 3)  # cells


@dataclass(frozen=True, slots=True)
class Gate:
    """`step` of 255 between neighbours counts; `least`: share of such steps in the direction that has fewest."""

    step: int
    least: float


WIDE = Gate(30, 0.05)


def text_like(picture: np.ndarray, gate: Gate = WIDE) -> np.ndarray:
    """Where text could be: bool cells of 4 x 4 pixels for a uint8 picture (rows, columns)."""
    rows, columns = picture.shape
    cells = np.zeros((max(1, rows // CELL), max(1, columns // CELL)), np.uint8)
    for size in range(_SIZES):
        if size:
            picture = cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        if min(picture.shape) < 16:
            break
        hot = _hot(picture, gate)
        if hot.any():
            np.maximum(cells, cv2.resize(hot, cells.shape[::-1], interpolation=cv2.INTER_NEAREST), out=cells)
    return cells > 0


def clusters(
    cells: np.ndarray, shape: tuple[int, ...], largest: int, cell: int = CELL
) -> Iterator[tuple[int, int, int, int]]:
    """Boxes in pixels around cells that lie close together, with room around them; none has a side over `largest`.

    `cell`: pixels of a cell's side.
    """
    near = cv2.dilate(cells.astype(np.uint8), np.ones((24 // cell | 1, 48 // cell | 1), np.uint8))
    count, _, stats, _ = cv2.connectedComponentsWithStats(near, connectivity=8)
    for left, top, width, height, _ in stats[1:count].tolist():
        x0, y0 = max(0, left * cell - 8), max(0, top * cell - 8)
        x1, y1 = min(shape[1], (left + width) * cell + 8), min(shape[0], (top + height) * cell + 8)
        for y in _starts(y0, y1, largest):
            for x in _starts(x0, x1, largest):
                yield x, y, min(x1, x + largest), min(y1, y + largest)


def _starts(low: int, high: int, largest: int) -> Iterator[int]:
    """Where pieces of `largest` begin that overlap by more than the height of any letter."""
    yield low
    step = largest - 64
    for number in range(1, 1 + max(0, -(-(high - low - largest) // step))):
        yield low + number * step


def _hot(picture: np.ndarray, gate: Gate) -> np.ndarray:
    shape = ((picture.shape[1] - 1) // CELL, (picture.shape[0] - 1) // CELL)
    width, height = shape[0] * CELL, shape[1] * CELL  # whole cells: other factors are slow to average
    here, right, below = picture[:height, :width], picture[:height, 1 : width + 1], picture[1 : height + 1, :width]
    shares = []
    for one, other in ((here, right), (right, here), (here, below), (below, here)):
        steps = cv2.threshold(cv2.subtract(one, other), gate.step, 255, cv2.THRESH_BINARY)[1]
        shares.append(cv2.resize(steps, shape, interpolation=cv2.INTER_AREA))
    along = _least(shares, _WINDOW)
    return (cv2.max(along, _least(shares, _WINDOW[::-1])) > gate.least * 255).astype(np.uint8)


def _least(shares: list[np.ndarray], window: tuple[int, int]) -> np.ndarray:
    blurred = [cv2.blur(share, window) for share in shares]
    return cv2.min(cv2.min(blurred[0], blurred[1]), cv2.min(blurred[2], blurred[3]))
