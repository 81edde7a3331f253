"""Lookup tables of DICOM: Modality LUT (PS3.3 C.11.1), VOI LUT (C.11.2), palette colours (C.7.6.3.1.5 and C.7.9.2).

A table is read with the bounds that its descriptor states; what claims more than its data holds is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medai_pipeline.dicom.attributes import Attributes
from medai_pipeline.errors import UndecodablePixels

_DESCRIPTOR, _DATA = 0x00283002, 0x00283006
_PALETTE = ((0x00281101, 0x00281201, 0x00281221), (0x00281102, 0x00281202, 0x00281222), (0x00281103, 0x00281203, 0x00281223))  # fmt: skip
_UNFIT = "a lookup table does not fit its descriptor; correct the object at its source"


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """`entries` (n,) unsigned; input value `first` gives `entries[0]`, what is below or above gives the end's. `bits` of output."""

    entries: np.ndarray
    first: int
    bits: int

    def apply(self, values: np.ndarray) -> np.ndarray:
        """The table's outputs, in the shape of `values`; real values are rounded to the nearest input."""
        if values.dtype.kind == "f":
            values = np.rint(np.nan_to_num(values, posinf=2**31, neginf=-(2**31))).clip(-(2**31), 2**31 - 1)
        index = values.astype(np.int64) - self.first
        return self.entries[np.clip(index, 0, len(self.entries) - 1)]

    @property
    def largest(self) -> int:
        """The largest output the table can give: by its bits, or by its data where these need fewer than half of that."""
        highest, claimed = int(self.entries.max()), (1 << self.bits) - 1
        return claimed if highest > claimed // 2 else max(1, highest)


def table(item: Attributes, signed_input: bool) -> Table:
    """The table of one LUT sequence item. `signed_input`: input values may be negative (C.11.1.1, US or SS).

    Raises UndecodablePixels.
    """
    count, first, bits = _descriptor(item, _DESCRIPTOR, signed_input)
    return Table(_entries(item, _DATA, count), first, bits)


def palette(attributes: Attributes, stored: np.ndarray, signed: bool) -> np.ndarray:
    """Indices (rows, columns) as RGB (rows, columns, 3), uint8 for tables of 8 bits, uint16 else.

    Raises UndecodablePixels.
    """
    planes = []
    for descriptor, data, segmented in _PALETTE:
        count, first, bits = _descriptor(attributes, descriptor, signed)
        whole = data in attributes
        entries = _entries(attributes, data, count) if whole else _expanded(attributes, segmented, count, bits)
        if bits == 8 and entries.max(initial=0) > 255:
            entries = entries >> 8  # writers that scale 8-bit tables to 16
        planes.append(Table(entries, first, bits).apply(stored).astype(np.uint8 if bits == 8 else np.uint16))
    return np.stack(planes, axis=-1)


def _descriptor(attributes: Attributes, tag: int, signed: bool) -> tuple[int, int, int]:
    """(number of entries, first input value, bits); 0 entries stand for 65536 (C.11.1.1)."""
    unsigned = attributes.binary(tag, "H")
    if len(unsigned) != 3:
        raise UndecodablePixels(_UNFIT)
    count, first, bits = (int(value) for value in unsigned)
    vr = attributes.elements[tag].vr
    if vr == b"SS" or (vr != b"US" and signed):
        first -= (first >= 1 << 15) << 16
    if vr == b"US" and signed and first >= 1 << 15:
        first -= 1 << 16  # a negative input in an unsigned descriptor: so written by many
    if not 1 <= bits <= 16:
        raise UndecodablePixels(_UNFIT)
    return count or 1 << 16, first, bits


def _entries(attributes: Attributes, tag: int, count: int) -> np.ndarray:
    """Table data as uint16: 16 bits an entry, or 8 bits packed, whichever its length says."""
    element = attributes.elements.get(tag)
    if element is None or element.items is not None:
        raise UndecodablePixels(_UNFIT)
    value, order = bytes(element.value), "<" if element.encoding.little else ">"
    if len(value) >= 2 * count:
        return np.frombuffer(value, f"{order}u2", count).astype(np.uint16)
    if len(value) >= count:
        packed = np.frombuffer(value, np.uint8)
        if order == ">" and element.vr == b"OW" and len(packed) % 2 == 0:
            packed = packed.reshape(-1, 2)[:, ::-1].reshape(-1)
        return packed[:count].astype(np.uint16)
    raise UndecodablePixels(_UNFIT)


def _expanded(attributes: Attributes, tag: int, count: int, bits: int) -> np.ndarray:
    """Segmented palette data (C.7.9.2): runs of values, lines, and repetitions of earlier segments; `count` entries at most."""
    words = [int(word) for word in attributes.binary(tag, "H")]
    made: list[int] = []
    _expand(words, 0, len(words), made, count, nested=False)
    if len(made) < count:
        raise UndecodablePixels(_UNFIT)
    return np.array(made[:count], np.uint16)


def _expand(words: list[int], at: int, segments: int, made: list[int], count: int, nested: bool) -> None:
    """`segments` segments from word `at`. An indirect segment may not point at another, so nothing recurses twice."""
    while at + 2 < len(words) and segments > 0 and len(made) < count:
        kind, length = words[at : at + 2]
        if kind == 0:
            made.extend(words[at + 2 : at + 2 + length])
            at += 2 + length
        elif kind == 1 and made:
            line = np.linspace(made[-1], words[at + 2], length + 1)[1:]
            made.extend(np.rint(line).astype(int).tolist())
            at += 3
        elif kind == 2 and not nested and at + 3 < len(words):
            # 16-bit data: the offset is in bytes from the first segment, low word first
            _expand(words, (words[at + 2] | words[at + 3] << 16) // 2, length, made, count, nested=True)
            at += 4
        else:
            raise UndecodablePixels(_UNFIT)
        segments -= 1
