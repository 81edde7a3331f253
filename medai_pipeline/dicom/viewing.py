"""One frame for a viewer that windows by itself: stored values as they are, with what turns them into a picture.

The bytes are 4 of length N (little endian), N of JSON (padded so that what follows lies at a multiple of 8), the pixels row
by row (little endian), and the VOI LUT as uint16 where the image has one. What a model wants is in `pixels`; a finished
picture is made by `render`. Nothing here identifies: numbers, sides and DICOM's own terms.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from medai_pipeline.dicom.attributes import Attributes
from medai_pipeline.dicom.functional_groups import FRAME_VOI_LUT, PIXEL_VALUE_TRANSFORMATION
from medai_pipeline.dicom.image import Image, rescale
from medai_pipeline.dicom.lut import palette
from medai_pipeline.dicom.voi import voi_windows
from medai_pipeline.dicom.whereabouts import place_of

_PIXEL_SPACING, _IMAGER_SPACING, _ASPECT = 0x00280030, 0x00181164, 0x00280034
_PROJECTIONS = frozenset({"CR", "DX", "MG", "IO", "PX", "RF", "RG", "XA"})
_SAMPLED = 1 << 18  # values that tell an image's range
_KINDS = {"u1": "uint8", "u2": "uint16", "i2": "int16", "f4": "float32"}


def viewed(data: bytes, frame: int = 1) -> bytes:
    """Frame `frame` (from 1) of a file. Raises NotDicom, TruncatedFile, NoPixels, UndecodablePixels, UnsupportedImage."""
    image = Image.of(data)
    values, meaning = _values(image, frame)
    table = b"" if values.ndim == 3 else _voi_table(image, frame, meaning)
    header = {
        "rows": values.shape[0],
        "columns": values.shape[1],
        "kind": "rgb" if values.ndim == 3 else _KINDS[values.dtype.str[1:]],
        "bits": image.what.bits_stored,
        "inverted": image.inverted,
        "modality": image.modality,
        "frame": frame,
        "frames": image.frames,
        **meaning,
        **_geometry(image, frame),
    }
    if values.ndim == 2:
        header |= {"range": _range(values, meaning), "windows": _windows(image, frame)}
    return packed(header, np.ascontiguousarray(values).tobytes(), table)


def _values(image: Image, frame: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Values of at most 16 bits, or float32, and how they become modality values; colour as uint8 (rows, columns, 3)."""
    stored = image.stored(frame)
    if stored.ndim == 2 and image.what.photometric == "PALETTE COLOR":
        stored = palette(image.attributes, stored, image.what.signed)
    if stored.ndim == 3:
        colour = stored[..., :3]
        return (colour if colour.dtype == np.uint8 else (colour >> 8).astype(np.uint8)), {}
    padding = image.padding_values
    group = image.groups.of(frame, PIXEL_VALUE_TRANSFORMATION)
    table = image.modality_table if group is None else None
    if stored.dtype.kind not in "iu" or stored.dtype.itemsize > 2 or (table is not None and padding):
        found = image.frame(frame, stored)
        return found.values.astype("<f4"), {"slope": 1.0, "intercept": 0.0, "padding": None}
    if table is not None:
        return table.apply(stored).astype("<u2"), {"slope": 1.0, "intercept": 0.0, "padding": None}
    slope, intercept = rescale(image.attributes if group is None else group)
    if stored.dtype.kind == "i" and stored.dtype.itemsize == 1:
        stored = stored.astype(np.int16)
    return stored.astype(stored.dtype.newbyteorder("<")), {"slope": slope, "intercept": intercept, "padding": padding}


def _range(values: np.ndarray, meaning: Mapping[str, Any]) -> dict[str, float]:
    """Modality values: least and greatest, and the percentiles 0.5 and 99.5, of a sample without padding."""
    step = max(1, int((values.size / _SAMPLED) ** 0.5))
    sample = values[::step, ::step].astype(np.float32)
    if meaning["padding"]:
        low, high = meaning["padding"]
        kept = sample[(sample < low) | (sample > high)]
        sample = kept if kept.size else sample
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        sample = np.zeros(1, np.float32)
    numbers = np.array([sample.min(), *np.percentile(sample, (0.5, 99.5)), sample.max()], float)
    numbers = np.sort(numbers * meaning["slope"] + meaning["intercept"])
    return dict(zip(("least", "low", "high", "greatest"), (round(float(n), 4) for n in numbers), strict=True))


def _windows(image: Image, frame: int) -> list[dict[str, Any]]:
    """The image's own windows in its order (C.11.2.1.2)."""
    found = voi_windows(image.groups.of(frame, FRAME_VOI_LUT) or image.attributes)
    return [{"centre": one.centre, "width": one.width, "function": one.function} for one in found]


def _voi_table(image: Image, frame: int, meaning: dict[str, Any]) -> bytes:
    """The VOI LUT's outputs, and in `meaning` where it begins; b"" where a window comes first, as it does for a model."""
    found = image.voi(frame)
    if found is None or found.lut is None:
        return b""
    meaning["lut"] = {"first": found.lut.first, "entries": len(found.lut.entries), "largest": found.lut.largest}
    return found.lut.entries.astype("<u2").tobytes()


def _geometry(image: Image, frame: int) -> dict[str, Any]:
    place = place_of(image.attributes, image.groups, frame)
    spacing, at_detector = spacing_of(image, frame)
    down, across = spacing or _aspect(image.attributes)
    return {
        "edges": list(place.edges),
        "axis": place.axis,
        "position_mm": place.position_mm,
        "aspect": round(down / across, 6),
        "spacing_mm": list(spacing) if spacing else None,
        "at_detector": at_detector,
    }


def spacing_of(image: Image, frame: int) -> tuple[tuple[float, float] | None, bool]:
    """((between rows, between columns) in mm or None, whether lengths hold at the detector only).

    PS3.3 10.7.1.3: a projection's Pixel Spacing that equals Imager Pixel Spacing was not corrected for magnification.
    """
    own = image.groups.spacing_mm(frame) or _pair(image.attributes, _PIXEL_SPACING)
    imager = _pair(image.attributes, _IMAGER_SPACING)
    spacing = own or imager
    projection = image.modality in _PROJECTIONS
    return spacing, bool(spacing and projection and (imager is None or spacing == imager))


def _pair(attributes: Attributes, tag: int) -> tuple[float, float] | None:
    values = attributes.numbers(tag)
    return (values[0], values[1]) if len(values) == 2 and min(values) > 0 else None


def _aspect(attributes: Attributes) -> tuple[float, float]:
    """Pixel Aspect Ratio, vertical then horizontal (C.7.6.3.1.7)."""
    return _pair(attributes, _ASPECT) or (1.0, 1.0)


def packed(header: Mapping[str, Any], pixels: bytes, table: bytes) -> bytes:
    """Header and two blocks of bytes as this module describes them."""
    text = json.dumps(header, allow_nan=False, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 4) % 8)
    return b"".join((struct.pack("<I", len(text)), text, pixels, b"\0" * (len(pixels) % 2 if table else 0), table))
