"""From modality values to the tensor a model expects: fit, intensity rule, inversion, range.

Here belongs what depends on the InputContract alone. Decoding and the Modality LUT are in `pixels`.
The order is resize first, window after: fewer values to map, and the window then acts on what the model sees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import cv2
import numpy as np

from medai_pipeline.errors import UnsupportedImage
from medai_pipeline.records import InputContract, Placement

Bounds: TypeAlias = tuple[float, float]
Rule: TypeAlias = Callable[[np.ndarray, "Bounds | None"], Bounds]

_LARGEST = 1e30  # beyond this, float32 differences overflow; only floating point images with rubbish reach it
_MR_BACKGROUND = 0.05  # air in a magnitude image stays below this share of the bright tissue


def window_bounds(centre: float, width: float) -> Bounds:
    """The values that a VOI window maps to the lowest and highest output (PS3.3 C.11.2.1.2.1, LINEAR)."""
    return centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2


def _percentiles(values: np.ndarray, lower: float, upper: float) -> Bounds:
    low, high = np.percentile(values, (lower, upper))
    return float(low), float(high)


def _xray(values: np.ndarray, window: Bounds | None) -> Bounds:
    """The image's own VOI window where it has a usable one, else robust percentiles.

    Usable: a width of at least 1 (C.11.2.1.2.1), and not all of the image black or all of it white.
    """
    if window is not None and np.isfinite(window).all() and window[1] >= 1:
        lower, upper = window_bounds(*window)
        if lower < values.max() and upper > values.min():
            return lower, upper
    return _percentiles(values, 0.5, 99.5)


def _hounsfield(lower: float, upper: float) -> Rule:
    """Fixed bounds in Hounsfield units: the Modality LUT of a CT gives these (PS3.3 C.8.2.1.1.5), so 0 is always water."""
    return lambda values, window: (lower, upper)


def _mr(values: np.ndarray, window: Bounds | None) -> Bounds:
    """Percentiles of the foreground: MR has no absolute scale, and the share of air differs from image to image.

    MR values have no unit (PS3.3 C.8.3.1, no Rescale Type): gain and offset are the scanner's choice. The bounds follow
    both, so that a * image + b gives the same tensor; a single bright vessel does not set the scale.
    """
    darkest, bright = float(values.min()), float(np.percentile(values, 99.5))
    foreground = values[values > darkest + _MR_BACKGROUND * (bright - darkest)]
    return _percentiles(foreground if foreground.size else values, 1, 99.5)


RULES: Mapping[str, Rule] = {
    "xray": _xray,
    "ct-lung": _hounsfield(-1350, 150),
    "ct-chest": _hounsfield(-1200, 400),
    "ct-brain": _hounsfield(0, 80),
    "mr": _mr,
}


def normalize(
    values: np.ndarray,
    contract: InputContract,
    *,
    invert: bool = False,
    window: tuple[float, float] | None = None,
    padding: np.ndarray | None = None,
) -> tuple[np.ndarray, Placement]:
    """Modality values (R, C) float32 as tensor (channels, height, width) float32 in [contract.low, contract.high].

    `invert` is for MONOCHROME1 (PS3.3 C.7.6.3.1.2): larger results are always brighter. `window` is the VOI
    (centre, width), which only "xray" heeds. A constant image becomes `low` everywhere. Channels are copies.
    `padding` (R, C) bool marks pixels that are no image (C.7.5.1.1.2): no statistic counts them, and they become `low`.
    The placement maps pixel edges: column x of the source covers [x, x + 1).

    Raises UnsupportedImage when the image is empty or the contract names no known rule.
    """
    if values.ndim != 2 or not values.size:
        raise UnsupportedImage("an image without rows and columns cannot be normalized; leave it out")
    if contract.scaling not in RULES:
        raise UnsupportedImage(f"unknown intensity rule in the input contract; use one of {', '.join(sorted(RULES))}")
    values, constant = _finite(np.asarray(values, dtype=np.float32))
    placement = place(values.shape[0], values.shape[1], contract)
    plane: np.ndarray | None = None
    if not constant:
        resized = _resize(values, placement)
        outside = _padded(padding, resized.shape)
        seen = resized if outside is None else resized[~outside]
        resized = _mapped(resized, RULES[contract.scaling](seen, window), contract, invert)
        if outside is not None:
            resized[outside] = contract.low
        plane = resized if resized.shape == (contract.height, contract.width) else _framed(resized, placement, contract)
    if plane is None:
        plane = np.full((contract.height, contract.width), contract.low, dtype=np.float32)
    stacked = plane[None]
    return (np.repeat(stacked, contract.channels, axis=0) if contract.channels > 1 else stacked), placement


def _framed(resized: np.ndarray, placement: Placement, contract: InputContract) -> np.ndarray:
    """The image at its place in a plane of `low`."""
    plane = np.full((contract.height, contract.width), contract.low, dtype=np.float32)
    top, left = int(placement.offset_y), int(placement.offset_x)
    plane[top : top + resized.shape[0], left : left + resized.shape[1]] = resized
    return plane


def place(rows: int, columns: int, contract: InputContract) -> Placement:
    """Where an image of that size lies in the tensor: centred with its aspect ratio kept ("pad"), or stretched.

    Raises UnsupportedImage when `contract.fit` is neither.
    """
    if contract.fit == "stretch":
        height, width = contract.height, contract.width
    elif contract.fit == "pad":
        scale = min(contract.height / rows, contract.width / columns)
        height = min(contract.height, max(1, round(rows * scale)))
        width = min(contract.width, max(1, round(columns * scale)))
    else:
        raise UnsupportedImage("unknown fit in the input contract; use pad or stretch")
    return Placement(
        source_rows=rows,
        source_columns=columns,
        scale_x=width / columns,
        scale_y=height / rows,
        offset_x=float((contract.width - width) // 2),
        offset_y=float((contract.height - height) // 2),
    )


def _finite(values: np.ndarray) -> tuple[np.ndarray, bool]:
    """The values without NaN and infinities (as the smallest), and whether they are constant."""
    smallest, largest = values.min(), values.max()
    if not (smallest > -_LARGEST and largest < _LARGEST):
        good = values[np.abs(values) < _LARGEST]  # NaN compares false
        fill = good.min() if good.size else np.float32(0)
        values = np.where(np.abs(values) < _LARGEST, values, fill)
        smallest, largest = values.min(), values.max()
    return values, bool(smallest == largest)


def _resize(values: np.ndarray, placement: Placement) -> np.ndarray:
    """Resized, or the very image where it fits: area averaging when shrinking (no aliasing), else bilinear."""
    height = round(placement.source_rows * placement.scale_y)
    width = round(placement.source_columns * placement.scale_x)
    if (height, width) == values.shape:
        return values
    shrinks = height < placement.source_rows or width < placement.source_columns
    return cv2.resize(values, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _padded(padding: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray | None:
    """Which pixels of the resized image are padding for the larger part; None where none or all are."""
    if padding is None:
        return None
    shrinks = shape[0] < padding.shape[0] or shape[1] < padding.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    outside = cv2.resize(padding.astype(np.uint8) * 255, (shape[1], shape[0]), interpolation=interpolation) > 127
    return outside if outside.any() and not outside.all() else None


def _mapped(values: np.ndarray, bounds: Bounds, contract: InputContract, invert: bool) -> np.ndarray:
    """Bounds to [low, high], clipped; bounds that coincide make a step, as a window of width 1 does."""
    lower, upper = np.float32(bounds[0]), np.float32(bounds[1])
    if upper > lower:
        values = np.clip(values, lower, upper)
        values -= lower
        values /= upper - lower
    else:
        values = (values > lower).astype(np.float32)
    if invert:
        np.subtract(np.float32(1), values, out=values)
    span, low = np.float32(contract.high - contract.low), np.float32(contract.low)
    if span != 1 or low != 0:
        values *= span
        values += low
        np.clip(values, contract.low, contract.high, out=values)
    return values
