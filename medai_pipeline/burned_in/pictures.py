"""Frames as a reader sees them: stored values to 8-bit pictures. Nothing is found or changed here."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from medai_pipeline.dicom.image import Image, rescale
from medai_pipeline.dicom.lut import palette

_CT_TONES = ((-1100, 0), (-850, 50), (-300, 80), (300, 200), (2000, 255))  # HU, grey
_CT_RANGE = (-1100.0, 2000.0)  # HU: beyond lie padding and metal, which would flatten everything else


def picture_of(image: Image, stored: np.ndarray) -> np.ndarray:
    """One frame (`Image.stored`) as uint8: (rows, columns), or (rows, columns, 3) for colour; larger is brighter.

    Raises UndecodablePixels when a palette cannot be applied.
    """
    if stored.ndim == 2 and image.what.photometric == "PALETTE COLOR":
        looked_up = palette(image.attributes, stored, image.what.signed)
        most = int(looked_up.max(initial=1))
        return _eight_bits(looked_up, 8 if most < 256 else 16)
    if stored.ndim == 3:
        return _eight_bits(stored, image.what.bits_stored)
    low, high = _range(image, stored)
    return _scaled(stored, low, high, image.inverted)


def window_picture(image: Image, stored: np.ndarray, number: int) -> np.ndarray | None:
    """Frame `number` through its own VOI window where that shows much less than `picture_of` does; else None."""
    voi = image.voi(number) if stored.ndim == 2 else None
    if voi is None or voi.lut is not None:
        return None
    slope, intercept = rescale(image.attributes)
    centre, width = (voi.centre - intercept) / slope, voi.width / abs(slope)
    low, high = _range(image, stored)
    if width > 0.5 * (high - low) or width < 2:
        return None
    return _scaled(stored, centre - width / 2, centre + width / 2, image.inverted)


def toned_picture(image: Image, stored: np.ndarray) -> np.ndarray | None:
    """A CT frame with air and soft tissue spread, so that faint letters stand out there too; None for what is no CT.

    Values beyond what a CT can measure are shown too, where a frame has many of them.
    """
    if image.modality != "CT" or stored.ndim != 2 or stored.dtype not in (np.int16, np.uint16):
        return None
    slope, intercept = rescale(image.attributes)
    table = _tones(slope, intercept, stored.dtype == np.int16)
    picture = cv2.LUT(np.ascontiguousarray(stored).view(np.uint16), table)
    return 255 - picture if image.inverted else picture


@lru_cache(maxsize=8)
def _tones(slope: float, intercept: float, signed: bool) -> np.ndarray:
    """The grey of each stored word of 16 bits."""
    words = np.arange(1 << 16, dtype=np.uint16)
    values = (words.view(np.int16) if signed else words).astype(np.float64) * slope + intercept
    at, grey = np.array(_CT_TONES, float).T
    return np.interp(values, at, grey).astype(np.uint8)


def beyond_picture(image: Image, stored: np.ndarray) -> np.ndarray | None:
    """What `picture_of` shows as even black or white, with its own differences; None where there is hardly any."""
    if stored.ndim != 2 or stored.dtype.itemsize == 1 or image.what.photometric == "PALETTE COLOR":
        return None
    low, high = _range(image, stored)
    least, most = float(stored.min()), float(stored.max())
    enough, span = stored.size // 500, high - low  # less than a line of text with what lies around it
    parts = [
        (outside, ends)
        for outside, ends, far in (
            (stored < low, (least, low), low - least),
            (stored > high, (high, most), most - high),
        )
        if far > 0.02 * span and np.count_nonzero(outside) > enough
    ]
    if not parts:
        return None
    picture = np.full(stored.shape, 128, np.uint8)
    for outside, (start, end) in parts:
        values = stored[outside].astype(np.float32)
        if values.min() == values.max():
            continue
        picture[outside] = (values - np.float32(start)) * np.float32(255 / (end - start))
    return None if (picture == picture[0, 0]).all() else picture


def bulk_picture(image: Image, stored: np.ndarray) -> np.ndarray | None:
    """A frame in the range of its middle 96 %, where that is much less than `picture_of` shows; else None."""
    if stored.ndim != 2 or image.what.photometric == "PALETTE COLOR":
        return None
    some = np.sort(stored[::8, ::8], axis=None)
    start, end = float(some[some.size // 50]), float(some[some.size - 1 - some.size // 50])
    low, high = _range(image, stored)
    if not (end > start and np.isfinite(end - start)) or end - start > 0.5 * (high - low):
        return None
    return _scaled(stored, start, end, image.inverted)


def _eight_bits(values: np.ndarray, bits: int) -> np.ndarray:
    if values.dtype == np.uint8 and bits == 8:
        return np.ascontiguousarray(values)
    return np.clip(values.astype(np.float32) * (255 / ((1 << bits) - 1)), 0, 255).astype(np.uint8)


def _range(image: Image, stored: np.ndarray) -> tuple[float, float]:
    """What is shown from black to white: all but the outermost values, within what a CT can measure."""
    if stored.dtype.itemsize == 1:
        return float(stored.min()), float(stored.max())
    some = stored[::4, ::4].ravel()
    ranks = some.size // 1000, some.size - 1 - some.size // 1000
    some = np.partition(some, ranks)
    low, high = (float(some[rank]) for rank in ranks)
    if image.modality == "CT":
        slope, intercept = rescale(image.attributes)
        ends = sorted((value - intercept) / slope for value in _CT_RANGE)
        if max(low, ends[0]) < min(high, ends[1]):
            low, high = max(low, ends[0]), min(high, ends[1])
    if not (np.isfinite(low) and np.isfinite(high) and high > low):
        finite = stored[np.isfinite(stored)]
        return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return low, high


def _scaled(stored: np.ndarray, low: float, high: float, inverted: bool) -> np.ndarray:
    factor = 255 / (high - low) if high > low else 1.0
    if stored.dtype in (np.int16, np.uint16, np.uint8):
        limits = np.iinfo(stored.dtype)
        floor = stored.dtype.type(np.clip(np.ceil(low), limits.min, limits.max))
        picture = cv2.convertScaleAbs(np.maximum(stored, floor), alpha=factor, beta=-low * factor)
    else:
        values = (np.nan_to_num(stored.astype(np.float32)) - np.float32(low)) * np.float32(factor)
        picture = np.clip(values, 0, 255).astype(np.uint8)
    return 255 - picture if inverted else picture
