"""Bits of native samples that hold no stored value (PS3.5 8.1.1): written as zeros, or as the sign where samples are signed.

Old objects keep overlays there, names among them, and so could anything else. Stored values do not change.
"""

from __future__ import annotations

import numpy as np

from medai_pipeline.dicom.description import Description
from medai_pipeline.errors import DeidentificationError

_WHOLE = (8, 16, 32, 64)


def cleared(value: memoryview | bytes, what: Description, little: bool = True) -> memoryview | bytes:
    """The samples with nothing beside their stored bits; `value` itself where that is so already.

    `value` is all frames, or one. Raises DeidentificationError for bits allocated that are no whole bytes, nor one bit.
    """
    if what.floating:
        return value
    if what.bits_allocated == 1:
        return _without_spare_bits(value, what) if little else value
    if what.bits_allocated not in _WHOLE:
        raise DeidentificationError(
            f"pixels of {what.bits_allocated} bits allocated cannot be cleaned; convert them to 8, 16 or 32"
        )
    if what.bits_stored == what.bits_allocated:
        return value
    size = what.bits_allocated // 8
    order = "<" if little else ">"
    whole = len(value) - len(value) % size
    samples = np.frombuffer(value, np.dtype(f"{order}{'i' if what.signed else 'u'}{size}"), whole // size)
    clean = _signed(samples, what) if what.signed else _unsigned(samples, what)
    if clean is samples:
        return value
    return clean.astype(samples.dtype, copy=False).tobytes() + bytes(value[whole:])


def _without_spare_bits(value: memoryview | bytes, what: Description) -> memoryview | bytes:
    """Of samples of one bit, packed from the lowest bit on (PS3.5 8.1.1), the last byte may have up to 7 to spare."""
    bits = what.frame_bits * what.frames
    if len(value) != (bits + 7) // 8:
        bits = what.frame_bits  # a frame alone
    used = bits % 8
    if not used or len(value) != (bits + 7) // 8 or not value[-1] >> used:
        return value
    return bytes(value[:-1]) + bytes([value[-1] & (1 << used) - 1])


def _unsigned(samples: np.ndarray, what: Description) -> np.ndarray:
    stored = ((1 << what.bits_stored) - 1) << (what.high_bit + 1 - what.bits_stored)
    mask = np.array(stored, samples.dtype)
    if not np.bitwise_or.reduce(samples, initial=0) & ~mask:
        return samples
    return samples & mask


def _signed(samples: np.ndarray, what: Description) -> np.ndarray:
    above, below = what.bits_allocated - 1 - what.high_bit, what.high_bit + 1 - what.bits_stored
    native = samples.astype(samples.dtype.newbyteorder("="), copy=False)
    clean = ((native << above) >> (above + below)) << below
    return samples if np.array_equal(clean, native) else clean
