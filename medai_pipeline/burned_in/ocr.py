"""Optical character recognition: where lines of text lie in a picture, and what they say. Nothing about identities.

The models (PP-OCRv6 small, detector and recogniser) come inside the package `rapidocr`; only its model files are used,
by ONNX Runtime on a bounded number of threads, so nothing is ever fetched. Sessions are made once in a process, at first
use: importing this module imports neither.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from importlib.metadata import files
from typing import Any

import cv2
import numpy as np

Box = tuple[int, int, int, int]
Slant = tuple[tuple[float, float], tuple[float, float], float]  # centre, (length, thickness), degrees

_DETECTOR, _RECOGNISER = "PP-OCRv6_det_small.onnx", "PP-OCRv6_rec_small.onnx"
_INK = 0.3  # probability from which a pixel of the detector's map is text
_LINE_HEIGHT = 48  # what the recogniser was trained on
_TILT = 12  # degrees from which a line is turned before it is read
_BLANK = 0  # the CTC blank's class


@dataclass(frozen=True, slots=True)
class Line:
    """One line as read. `box`: (x0, y0, x1, y1) in pixels; `found`, `read`: how sure detector and recogniser are, 0..1."""

    box: Box
    found: float
    text: str
    read: float


@cache
def _session(model: str) -> Any:
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = max(1, int(os.environ.get("OMP_NUM_THREADS") or 1))
    options.inter_op_num_threads = 1
    path = next(file for file in files("rapidocr") or () if file.name == model)
    return onnxruntime.InferenceSession(str(path.locate()), options, providers=["CPUExecutionProvider"])


@cache
def _characters() -> tuple[str, ...]:
    """The recogniser's classes after the blank, as its own metadata lists them."""
    listed = _session(_RECOGNISER).get_modelmeta().custom_metadata_map["character"].split("\n")
    return ("", *listed, " ")


def text_map(picture: np.ndarray) -> np.ndarray:
    """The detector's probability of text for each pixel of `picture`, uint8 (rows, columns) or (rows, columns, 3)."""
    rows, columns = picture.shape[:2]
    padded_rows, padded_columns = max(64, -(-rows // 32) * 32), max(64, -(-columns // 32) * 32)
    if picture.ndim == 2:
        picture = np.repeat(picture[..., np.newaxis], 3, axis=2)
    padded = cv2.copyMakeBorder(picture, 0, padded_rows - rows, 0, padded_columns - columns, cv2.BORDER_REPLICATE)
    values = padded.transpose(2, 0, 1)[np.newaxis].astype(np.float32) * np.float32(2 / 255) - np.float32(1)
    return _session(_DETECTOR).run(None, {"x": values})[0][0, 0, :rows, :columns]


def boxes_of(probability: np.ndarray, least: float) -> list[tuple[Box, float]]:
    """Boxes around the connected text of a map, with their mean probability (at least `least`)."""
    ink = (probability > _INK).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(ink, connectivity=8)
    if count < 2:
        return []
    sums = np.bincount(labels.ravel(), weights=probability.ravel(), minlength=count)
    found = []
    for label in range(1, count):
        x, y, width, height, area = (int(value) for value in stats[label])
        score = float(sums[label] / area)
        if score < least or min(width, height) < 3:
            continue
        grow = int(np.ceil(width * height * 1.6 / (2 * (width + height))))  # the detector marks shrunken lines
        box = (max(0, x - grow), max(0, y - grow), x + width + grow, y + height + grow)
        found.append(((*box[:2], min(probability.shape[1], box[2]), min(probability.shape[0], box[3])), score))
    return found


def slanted(probability: np.ndarray, least: float) -> list[tuple[Slant, float]]:
    """Elongated rectangles around connected text of a map that runs neither across nor up, with their mean probability."""
    ink = (probability > _INK).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(ink, connectivity=8)
    found = []
    for label in range(1, count):
        x, y, width, height, area = (int(value) for value in stats[label])
        if area < 60 or min(width, height) < 12 or area > 0.7 * width * height:
            continue
        here = labels[y : y + height, x : x + width] == label
        (cx, cy), (long, thick), angle = cv2.minAreaRect(np.argwhere(here)[:, ::-1].astype(np.float32))
        if long < thick:
            long, thick, angle = thick, long, angle + 90
        angle = (angle + 90) % 180 - 90  # read from left to right
        if long < 2.5 * thick or area < 0.5 * long * thick or not _TILT < abs(angle) < 90 - _TILT:
            continue
        score = float(probability[y : y + height, x : x + width][here].mean())
        if score >= least:
            grow = long * thick * 1.6 / (long + thick)  # the detector marks shrunken lines
            found.append((((cx + x, cy + y), (long + grow, thick + grow), angle), score))
    return found


def straightened(picture: np.ndarray, slant: Slant) -> np.ndarray:
    """What a slanted rectangle holds, turned to run across."""
    (cx, cy), (long, thick), angle = slant
    matrix = cv2.getRotationMatrix2D((cx, cy), angle, 1)
    matrix[:, 2] += np.array((long / 2 - cx, thick / 2 - cy))
    return cv2.warpAffine(picture, matrix, (max(3, round(long)), max(3, round(thick))), borderMode=cv2.BORDER_REPLICATE)


def read(crop: np.ndarray) -> tuple[str, float]:
    """What a crop (uint8, one line of text, upright) says, and how sure that is.

    Lines are read one by one: side by side in a batch, each would be read differently for the length of its neighbours.
    """
    width = min(2000, max(16, round(_LINE_HEIGHT * crop.shape[1] / crop.shape[0])))
    shrink = crop.shape[0] > _LINE_HEIGHT
    line = cv2.resize(crop, (width, _LINE_HEIGHT), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_CUBIC)
    if line.ndim == 2:
        line = np.repeat(line[..., np.newaxis], 3, axis=2)
    values = np.zeros((1, 3, _LINE_HEIGHT, max(48, -(-width // 8) * 8)), np.float32)
    values[0, :, :, :width] = line.transpose(2, 0, 1).astype(np.float32) * np.float32(2 / 255) - np.float32(1)
    return _decoded(_session(_RECOGNISER).run(None, {"x": values})[0][0])


def _decoded(probabilities: np.ndarray) -> tuple[str, float]:
    """Greedy CTC: repeats and blanks dropped; the mean probability of what stays."""
    best = probabilities.argmax(axis=1)
    kept = np.flatnonzero((best != _BLANK) & (np.diff(best, prepend=-1) != 0))
    if not len(kept):
        return "", 0.0
    characters = _characters()
    text = "".join(characters[best[step]] for step in kept)
    return text, float(probabilities[kept, best[kept]].mean())
