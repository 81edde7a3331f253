"""A quick look at a picture: where letters could stand. It spares plain pictures the reader, which is slow.

A small convolutional network (`letters.onnx`, 21,000 numbers, made by benchmarks/train_letters.py) looks at cells of
8 x 8 pixels. It knows letters of 6 to 20 pixels, in any direction, lighter or darker than what lies behind them; a pyramid
of pictures, each half the size of the one before, brings larger letters to that size.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import cv2
import numpy as np

CELL = 8  # pixels of a cell's side
LIKELY = 1.0  # the network's answer (log odds) from which a cell may be of a letter
LARGEST_LETTER = 30  # pixels of a line's height within a level: higher ones are found in the next
_LEVELS = 4
_LEAST_SIDE = 64  # pixels of a level after the first: below, the whole body looks like a letter
_FLAT = 10  # of 255: steps between neighbours that are no stroke
_COARSER = 0.7  # by how much surer the network must be of letters that are larger than it sees in the picture itself


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """One picture of the pyramid, `scale` of the first in size, and its cells (rows / 8, columns / 8) that could be letters."""

    picture: np.ndarray
    scale: float
    cells: np.ndarray


@cache
def _session() -> Any:
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = max(1, int(os.environ.get("OMP_NUM_THREADS") or 1))
    options.inter_op_num_threads = 1
    model = files("medai_pipeline.burned_in").joinpath("letters.onnx").read_bytes()
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def levels(picture: np.ndarray, least: float = LIKELY, first: int = 0) -> list[Level]:
    """The levels of a uint8 picture (rows, columns) that hold cells of at least `least`; none for a plain one.

    `first`: levels before it are left out (0 is the picture itself).
    """
    found = []
    for number in range(_LEVELS):
        if number:
            picture = cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        if number and min(picture.shape) < _LEAST_SIDE:
            break
        if number >= first:
            cells = answers(picture) > (least + _COARSER if number else least)
            if cells.any():
                found.append(Level(picture, 0.5**number, cells))
    return found


def answers(picture: np.ndarray) -> np.ndarray:
    """The network's log odds of letters for each cell of a uint8 picture (rows, columns): float32, rounded up to cells."""
    rows, columns = picture.shape
    result = np.full((-(-rows // CELL), -(-columns // CELL)), -np.inf, np.float32)
    top, bottom, left, right = _busy(picture)
    if top >= bottom:
        return result
    part = picture[top:bottom, left:right]
    below, beside = -part.shape[0] % CELL, -part.shape[1] % CELL
    if below or beside:
        part = cv2.copyMakeBorder(part, 0, below, 0, beside, cv2.BORDER_REPLICATE)
    answer = _session().run(None, {"x": np.ascontiguousarray(part)[np.newaxis, np.newaxis]})[0][0, 0]
    result[top // CELL : top // CELL + answer.shape[0], left // CELL : left // CELL + answer.shape[1]] = answer
    return result


def _busy(picture: np.ndarray) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of the part with more than single steps in it, in whole cells, with two around it."""
    steps = cv2.absdiff(picture[:, 2:], picture[:, :-2])
    downs = cv2.absdiff(picture[2:], picture[:-2])
    across = np.flatnonzero(_strokes(steps, 0) > 1)
    along = np.flatnonzero(_strokes(downs, 1) > 1)
    if not len(across) or not len(along):
        return 0, 0, 0, 0
    top, left = (max(0, int(start) - 2 * CELL) // CELL * CELL for start in (along[0], across[0]))
    ends = along[-1] + 2 * CELL + 2, across[-1] + 2 * CELL + 2
    bottom, right = (min(size, -(-int(end) // CELL) * CELL) for end, size in zip(ends, picture.shape, strict=True))
    return top, bottom, left, right


def _strokes(steps: np.ndarray, axis: int) -> np.ndarray:
    """How many steps are high, by column (axis 0) or by row."""
    high = cv2.threshold(steps, _FLAT, 1, cv2.THRESH_BINARY)[1]
    return cv2.reduce(high, axis, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel()
