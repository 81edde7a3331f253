"""ICC profiles (ISO 15076-1) without a word: what a matrix profile computes is kept, everything said beside it is not.

Here belongs which tags carry colour alone. Description, copyright, makers, dates, identifiers and private tags are
written anew or left out; a table-based profile is opaque and is not kept.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import cache

ICC_PROFILE = 0x00282000
_HEADER, _ENTRY = 128, 12
_MOST_TAGS = 100
_CLASSES = (b"mntr", b"scnr", b"prtr", b"spac")
_SPACES = (b"RGB ", b"GRAY")
_FROM_MATRIX = {b"RGB ": (b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC", b"gTRC", b"bTRC"), b"GRAY": (b"kTRC",)}
_COLOUR = {b"wtpt": b"XYZ ", b"chad": b"sf32", b"rXYZ": b"XYZ ", b"gXYZ": b"XYZ ", b"bXYZ": b"XYZ ",
           b"rTRC": b"curv", b"gTRC": b"curv", b"bTRC": b"curv", b"kTRC": b"curv"}  # fmt: skip
_PARAMETERS = {0: 1, 1: 3, 2: 4, 3: 5, 4: 7}  # of a parametric curve, by its function
_NUMBERS_OF = {b"XYZ ": 3, b"sf32": 9}
_LARGEST = 4.0  # no coordinate, matrix element or exponent is larger: text read as such a number is
_DESCRIPTION, _COPYRIGHT = b"colour profile", b"none"
_D50 = struct.pack(">3l", 63190, 65536, 54061)


def cleaned(profile: bytes | memoryview) -> bytes | None:
    """The profile with its colour alone; None for what is no matrix or grey profile whose numbers make sense."""
    data = bytes(profile)
    if len(data) < _HEADER + 4 or data[36:40] != b"acsp" or data[12:16] not in _CLASSES or data[16:20] not in _SPACES:
        return None
    found = {signature: kept for signature, raw in _tags(data).items() if (kept := _number_tag(signature, raw))}
    needed = (*_FROM_MATRIX[data[16:20]], b"wtpt")
    return _profile(data[12:16], data[16:20], found) if set(needed) <= set(found) else None


def _tags(data: bytes) -> Mapping[bytes, bytes]:
    count = min(_MOST_TAGS, int.from_bytes(data[_HEADER : _HEADER + 4], "big"))
    entries = data[_HEADER + 4 : _HEADER + 4 + count * _ENTRY]
    entries = entries[: len(entries) // _ENTRY * _ENTRY]
    return {name: data[offset : offset + size] for name, offset, size in struct.iter_unpack(">4sLL", entries)}


def _number_tag(signature: bytes, raw: bytes) -> bytes | None:
    """A tag of numbers written anew; None for other tags and for numbers that are out of any range."""
    kind = raw[:4]
    if kind == b"para" and _COLOUR.get(signature) == b"curv":
        return _parametric(raw)
    if len(raw) < 12 or kind != _COLOUR.get(signature):
        return None
    if kind == b"curv":
        return _curve(raw)
    size = 4 * _NUMBERS_OF[kind]
    return kind + bytes(4) + raw[8 : 8 + size] if _small(raw[8 : 8 + size], size) else None


def _small(numbers: bytes, size: int) -> bool:
    """Whether these are numbers with 16 bits behind the point, and none is large."""
    return len(numbers) == size and all(abs(n) <= _LARGEST * 65536 for (n,) in struct.iter_unpack(">l", numbers))


def _parametric(raw: bytes) -> bytes | None:
    function = int.from_bytes(raw[8:10], "big")
    size = 4 * _PARAMETERS.get(function, 0)
    numbers = raw[12 : 12 + size]
    return b"para" + bytes(4) + struct.pack(">HH", function, 0) + numbers if size and _small(numbers, size) else None


def _curve(raw: bytes) -> bytes | None:
    """A gamma, or a table that rises: letters read as numbers do not."""
    count = int.from_bytes(raw[8:12], "big")
    points = [point for (point,) in struct.iter_unpack(">H", raw[12 : 12 + 2 * count] if 2 * count < len(raw) else b"")]
    if len(points) != count or (count == 1 and points[0] > _LARGEST * 256) or points != sorted(points):
        return None
    return b"curv" + bytes(4) + struct.pack(f">L{count}H", count, *points)


def _profile(kind: bytes, space: bytes, tags: Mapping[bytes, bytes]) -> bytes:
    newer = any(value.startswith(b"para") for value in tags.values())  # parametric curves came with version 4
    texts = (
        (_localized(_DESCRIPTION), _localized(_COPYRIGHT)) if newer else (_described(_DESCRIPTION), _plain(_COPYRIGHT))
    )
    said = {b"desc": texts[0], b"cprt": texts[1], **tags}
    offset, table, body = _HEADER + 4 + _ENTRY * len(said), b"", b""
    for signature, value in said.items():
        value += bytes(-len(value) % 4)
        table += struct.pack(">4sLL", signature, offset + len(body), len(value))
        body += value
    header = (
        struct.pack(">L4xL", offset + len(body), 0x04300000 if newer else 0x02400000)
        + kind
        + space
        + b"XYZ "
        + bytes(12)
        + b"acsp"
    )
    header += bytes(28) + _D50
    return header.ljust(_HEADER, b"\0") + struct.pack(">L", len(said)) + table + body


def _plain(text: bytes) -> bytes:
    return b"text" + bytes(4) + text + b"\0"


def _described(text: bytes) -> bytes:
    return b"desc" + bytes(4) + struct.pack(">L", len(text) + 1) + text + b"\0" + bytes(78)


def _localized(text: bytes) -> bytes:
    wide = text.decode("ascii").encode("utf-16-be")
    return b"mluc" + bytes(4) + struct.pack(">2L4s2L", 1, 12, b"enUS", len(wide), 28) + wide


@cache
def standard_profile() -> bytes:
    """What takes the place of a profile that an IOD needs and that is not kept: the colours of sRGB (IEC 61966-2-1)."""
    points = {
        b"wtpt": (62289, 65536, 71372),
        b"rXYZ": (28576, 14581, 912),
        b"gXYZ": (25238, 46981, 6362),
        b"bXYZ": (9376, 3974, 46799),
    }
    tags = {name: b"XYZ " + bytes(4) + struct.pack(">3l", *numbers) for name, numbers in points.items()}
    curve = b"curv" + bytes(4) + struct.pack(">L1024H", 1024, *(_srgb(step / 1023) for step in range(1024)))
    return _profile(b"mntr", b"RGB ", {**tags, **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)})


def _srgb(value: float) -> int:
    linear = value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
    return round(linear * 65535)
