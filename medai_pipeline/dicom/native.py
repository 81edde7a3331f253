"""One frame of native pixel data (PS3.5 8.1, 8.2, annex D): bytes to stored values, of either byte order."""

from __future__ import annotations

import numpy as np

from medai_pipeline.dicom.description import Description
from medai_pipeline.errors import TruncatedFile, UndecodablePixels

_INTEGERS = {8: "i1", 16: "i2", 32: "i4"}
_FLOATS = {32: "f4", 64: "f8"}


def frame(
    value: memoryview | bytes, what: Description, number: int, *, little: bool = True, words: bool = False
) -> np.ndarray:
    """Frame `number` (from 1) as (rows, columns) or (rows, columns, samples), in the machine's byte order.

    Only the stored bits count: what lies beside them (overlays, PS3.5 8.1.2) is cut off, the sign is extended, and a
    High Bit above Bits Stored - 1, as old objects have it, is shifted down. `words`: the VR is OW, so that 8-bit
    samples of a big-endian object lie in swapped pairs. A view of `value` where nothing had to be changed.
    Raises TruncatedFile, UndecodablePixels.
    """
    if what.bits_allocated == 1 and not what.floating:
        return _single_bits(value, what, number)
    if what.photometric in ("YBR_FULL_422", "YBR_PARTIAL_422") and _is_subsampled(value, what):
        return _subsampled(value, what, number)
    values = _flat(value, what, number, what.rows * what.columns * what.samples, little, words)
    values = values if what.floating else _stored_bits(values, what)
    return _shaped(values, what)


def _flat(
    value: memoryview | bytes, what: Description, number: int, count: int, little: bool, words: bool
) -> np.ndarray:
    """The samples of one frame, `count` of them, as allocated."""
    kind = (_FLOATS if what.floating else _INTEGERS).get(what.bits_allocated)
    if kind is None:
        raise UndecodablePixels(f"{what.bits_allocated} bits allocated cannot be read; use 1, 8, 16 or 32")
    if not what.floating and not what.signed:
        kind = kind.replace("i", "u")
    dtype = np.dtype(kind).newbyteorder("<" if little else ">")
    start, size = (number - 1) * count * dtype.itemsize, count * dtype.itemsize
    if start + size > len(value):
        raise TruncatedFile(f"the pixel data ends before frame {number}; send the object again")
    if dtype.itemsize == 1 and words and not little:
        return _swapped_pairs(value, start, size).view(dtype)
    values = np.frombuffer(value, dtype, count, start)
    return values if dtype.isnative else values.astype(dtype.newbyteorder("="))


def _swapped_pairs(value: memoryview | bytes, start: int, size: int) -> np.ndarray:
    """Bytes of big-endian 16-bit words in the order of a little-endian object; a frame may begin inside a word."""
    begin, end = start & ~1, min(len(value), (start + size + 1) & ~1)
    pairs = np.frombuffer(value, np.uint8, (end - begin) & ~1, begin).reshape(-1, 2)
    swapped = np.ascontiguousarray(pairs[:, ::-1]).reshape(-1)
    if len(swapped) < start - begin + size:
        raise TruncatedFile("the pixel data ends inside a word; send the object again")
    return swapped[start - begin : start - begin + size]


def _stored_bits(values: np.ndarray, what: Description) -> np.ndarray:
    below = what.high_bit + 1 - what.bits_stored
    above = what.bits_allocated - 1 - what.high_bit
    if not below and not above:
        return values
    return (values << above) >> (above + below) if above else values >> below


def _shaped(values: np.ndarray, what: Description) -> np.ndarray:
    """Planar Configuration 1 (C.7.6.3.1.3) has all of one colour first."""
    if what.samples == 1:
        return values.reshape(what.rows, what.columns)
    if what.planar:
        planes = values.reshape(what.samples, what.rows, what.columns)
        return np.ascontiguousarray(np.moveaxis(planes, 0, -1))
    return values.reshape(what.rows, what.columns, what.samples)


def _single_bits(value: memoryview | bytes, what: Description, number: int) -> np.ndarray:
    """Bits from the least significant on; frames follow each other without padding (PS3.5 8.1.1)."""
    start = (number - 1) * what.frame_bits
    first, last = start // 8, (start + what.frame_bits + 7) // 8
    if last > len(value):
        raise TruncatedFile(f"the pixel data ends before frame {number}; send the object again")
    bits = np.unpackbits(np.frombuffer(value, np.uint8, last - first, first), bitorder="little")
    return _shaped(bits[start % 8 : start % 8 + what.frame_bits], what)


def _is_subsampled(value: memoryview | bytes, what: Description) -> bool:
    """Some writers say 422 and write every sample: the length decides."""
    return what.bits_allocated == 8 and len(value) // what.frames < what.frame_bytes


def _subsampled(value: memoryview | bytes, what: Description, number: int) -> np.ndarray:
    """Y Y Cb Cr for each pair of pixels (C.7.6.3.1.2): each pair shares its chrominance."""
    count = what.rows * what.columns * 2
    if what.columns % 2:
        raise UndecodablePixels("an odd number of columns cannot be subsampled; correct the object")
    quads = _flat(value, what, number, count, True, False).reshape(-1, 4)
    pixels = np.empty((len(quads), 2, 3), quads.dtype)
    pixels[:, :, 0] = quads[:, :2]
    pixels[:, :, 1:] = quads[:, np.newaxis, 2:]
    return pixels.reshape(what.rows, what.columns, 3)
