"""Boxes blackened in a file's pixels, and not a bit beside them.

Native pixel data is patched where it lies in the file. Compressed frames are decoded, masked and written again without
loss, as RLE Lossless or natively; what a lossy compression once did stays declared (PS3.3 C.7.6.1.1.5).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

import numpy as np
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import RLELosslessEncoder

from medai_pipeline.burned_in.ocr import Box
from medai_pipeline.dicom.elements import META_ENCODING, PIXEL_DATA, TRANSFER_SYNTAX, Element, Part10, encode
from medai_pipeline.dicom.image import Image
from medai_pipeline.errors import DeidentificationError

_EXPLICIT, _RLE = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5"
_NATIVE = frozenset({"1.2.840.10008.1.2", _EXPLICIT, "1.2.840.10008.1.2.2"})
# Lossy transfer syntaxes, and the Defined Term of Lossy Image Compression Method for each (PS3.3 C.7.6.1.1.5.1).
_LOSSY = {
    **{f"1.2.840.10008.1.2.4.{end}": "ISO_10918_1" for end in ("50", "51")},
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
    "1.2.840.10008.1.2.4.91": "ISO_15444_1",
    "1.2.840.10008.1.2.4.203": "ISO_15444_15",
}
_LARGEST = 0xFFFFFFFE
_ENCODED = frozenset({0x7FE00001, 0x7FE00002, 0x7FE00003})  # extended offset tables: of the old frames


def masked(data: bytes, part: Part10, image: Image, boxes: Mapping[int, Iterable[Box]]) -> bytes:
    """The file with `boxes` of each frame (from 1) in the darkest value of that frame.

    Raises DeidentificationError where such pixel data cannot be written.
    """
    if image.what.floating or image.what.bits_allocated == 1:
        raise DeidentificationError("text stands in pixels that cannot be masked (floating point or single bits)")
    if part.transfer_syntax in _NATIVE and not image.what.photometric.startswith("YBR_PARTIAL"):
        return _patched(data, part, image, boxes)
    return _rewritten(part, image, boxes)


def stored_bits(values: np.ndarray, image: Image) -> np.ndarray:
    """A decoded frame with nothing above Bits Stored, which a codestream may carry; `values` itself where that is so."""
    what = image.what
    spare = values.dtype.itemsize * 8 - what.bits_stored
    if what.floating or spare <= 0 or values.dtype.kind not in "iu":
        return values
    most = (1 << what.bits_stored - (values.dtype.kind == "i")) - 1
    least = -most - 1 if values.dtype.kind == "i" else 0
    within = least <= int(values.min()) and int(values.max()) <= most
    return values if within else (values << spare) >> spare


def _patched(data: bytes, part: Part10, image: Image, boxes: Mapping[int, Iterable[Box]]) -> bytes:
    element = next(element for element in part.elements if element.tag == PIXEL_DATA)
    offset = _address(element.value) - _address(data)
    if not 0 <= offset <= len(data) - len(element.value):  # not a view of this file
        return _rewritten(part, image, boxes)
    written = bytearray(data)
    what, little = image.what, element.encoding.little
    per_frame = len(element.value) // what.frames if _subsampled(element, image) else what.frame_bytes
    swapped = what.bits_allocated == 8 and not little and element.vr == b"OW"
    if swapped or _subsampled(element, image):
        per_frame = what.rows * what.columns * 2 if not swapped else per_frame
    for number, wanted in boxes.items():
        at = offset + (number - 1) * per_frame
        if swapped:
            return _rewritten(part, image, boxes)
        view = np.frombuffer(written, np.uint8, per_frame, at)
        if _subsampled(element, image):
            _black_pairs(view.reshape(what.rows, what.columns // 2, 4), wanted)
        else:
            _black(_samples(view, image, little), image, image.stored(number), wanted)
    return bytes(written)


def _address(buffer: memoryview | bytes) -> int:
    return np.frombuffer(buffer, np.uint8).ctypes.data


def _subsampled(element: Element, image: Image) -> bool:
    what = image.what
    return what.photometric == "YBR_FULL_422" and len(element.value) // what.frames < what.frame_bytes


def _samples(view: np.ndarray, image: Image, little: bool) -> np.ndarray:
    """Stored words as (rows, columns, samples), a view in whatever order they lie."""
    what = image.what
    dtype = np.dtype(f"u{what.bits_allocated // 8}").newbyteorder("<" if little else ">")
    words = view.view(dtype)
    if what.samples > 1 and what.planar:
        return np.moveaxis(words.reshape(what.samples, what.rows, what.columns), 0, -1)
    return words.reshape(what.rows, what.columns, what.samples)


def _black(words: np.ndarray, image: Image, stored: np.ndarray, boxes: Iterable[Box]) -> None:
    """Blacken boxes of (rows, columns, samples) in place. Bits beside the stored ones (overlays) go with them."""
    black = _darkest(image, stored)
    for x0, y0, x1, y1 in boxes:
        words[y0:y1, x0:x1] = black


def _darkest(image: Image, stored: np.ndarray) -> np.ndarray:
    """The samples of black, as stored words: no value that the frame did not have, so that no window changes."""
    what = image.what
    if what.samples > 1:
        black = [0, 128, 128] if what.photometric.startswith("YBR_FULL") else [0, 0, 0]
        return np.array(black)
    if what.photometric == "PALETTE COLOR":
        from medai_pipeline.dicom.lut import palette

        used = np.unique(stored)
        value = int(
            used[palette(image.attributes, used[np.newaxis], what.signed)[0].astype(np.int64).sum(axis=-1).argmin()]
        )
    else:
        value = int(stored.max() if image.inverted else stored.min())
    return np.array([(value & (1 << what.bits_stored) - 1) << (what.high_bit + 1 - what.bits_stored)])


def _black_pairs(quads: np.ndarray, boxes: Iterable[Box]) -> None:
    """YBR_FULL_422: two pixels share their chrominance, so the box widens to whole pairs."""
    for x0, y0, x1, y1 in boxes:
        quads[y0:y1, x0 // 2 : -(-x1 // 2)] = (0, 0, 128, 128)


def _rewritten(part: Part10, image: Image, boxes: Mapping[int, Iterable[Box]]) -> bytes:
    """Every frame decoded, masked and written again. Colour is RGB then, colour by pixel."""
    what = image.what
    frames = []
    for number in range(1, what.frames + 1):
        stored = np.array(stored_bits(image.stored(number), image))
        words = stored.reshape(what.rows, what.columns, -1)
        for x0, y0, x1, y1 in boxes.get(number, ()):
            words[y0:y1, x0:x1] = 0 if what.samples > 1 else _signed_darkest(image, stored)
        frames.append(stored)
    bits = frames[0].dtype.itemsize * 8
    attributes = {
        0x00280100: bits,
        0x00280101: min(what.bits_stored, bits),
        0x00280102: min(what.bits_stored, bits) - 1,
    }
    if what.samples > 1:
        attributes[0x00280006] = 0
    changed = [Element(tag, b"US", struct.pack("<H", value)) for tag, value in attributes.items()]
    if what.samples > 1:
        changed.append(Element(0x00280004, b"CS", b"RGB"))
    syntax, pixels = _encoded(frames, image, bits, compressed=part.transfer_syntax not in _NATIVE)
    changed += [pixels, *_lossy_history(part, image, frames)]
    replaced = {element.tag for element in changed} | _ENCODED
    kept = [element for element in part.elements if element.tag not in replaced]
    if part.encoding != META_ENCODING:
        raise DeidentificationError(
            "text stands in pixels of a byte order that cannot be masked; send it as Explicit VR Little Endian"
        )
    return _file(encode([*kept, *changed], META_ENCODING), syntax)


def _signed_darkest(image: Image, stored: np.ndarray) -> int:
    value = int(_darkest(image, stored)[0]) >> (image.what.high_bit + 1 - image.what.bits_stored)
    return value - (1 << image.what.bits_stored) if image.what.signed and value >> image.what.bits_stored - 1 else value


def _encoded(frames: list[np.ndarray], image: Image, bits: int, compressed: bool) -> tuple[str, Element]:
    """(transfer syntax, pixel data): RLE Lossless where the source was compressed and this makes it smaller."""
    vr = b"OB" if bits == 8 else b"OW"
    native = b"".join(frame.astype(frame.dtype.newbyteorder("<"), copy=False).tobytes() for frame in frames)
    if compressed and bits in (8, 16, 32):
        coded = [_rle(frame, image, bits) for frame in frames]
        if sum(map(len, coded)) < len(native):
            value = encapsulate(coded)  # with its sequence delimiter, which `encode` writes itself
            return _RLE, Element(PIXEL_DATA, b"OB", value[: len(value) - _delimiter(value)], undefined=True)
    if len(native) > _LARGEST:
        raise DeidentificationError("the masked image would be larger than 4 GiB; split it into parts")
    return _EXPLICIT, Element(PIXEL_DATA, vr, native + b"\0" * (len(native) & 1))


def _delimiter(value: bytes) -> int:
    return 8 if value[-8:] == b"\xfe\xff\xdd\xe0\0\0\0\0" else 0


def _rle(frame: np.ndarray, image: Image, bits: int) -> bytes:
    what = image.what
    return RLELosslessEncoder.encode(
        frame,
        rows=what.rows,
        columns=what.columns,
        samples_per_pixel=what.samples,
        number_of_frames=1,
        bits_allocated=bits,
        bits_stored=min(what.bits_stored, bits),
        pixel_representation=int(what.signed),
        photometric_interpretation="RGB" if what.samples > 1 else what.photometric,
        planar_configuration=0,
    )


def _lossy_history(part: Part10, image: Image, frames: list[np.ndarray]) -> list[Element]:
    """What a lossy source must go on to say of itself, where it did not say it."""
    method = _LOSSY.get(part.transfer_syntax)
    if method is None or image.attributes.text(0x00282110) == "01":
        return []
    compressed = next(len(element.value) for element in part.elements if element.tag == PIXEL_DATA)
    ratio = f"{sum(frame.nbytes for frame in frames) / max(1, compressed):.4g}"[:16]
    values = {0x00282110: "01", 0x00282112: ratio, 0x00282114: method}
    return [
        Element(tag, vr, value.encode("ascii"))
        for (tag, value), vr in zip(values.items(), (b"CS", b"DS", b"CS"), strict=True)
    ]


def _file(body: bytes, syntax: str) -> bytes:
    """Part 10 around a data set: file meta information as short as a reader needs; the de-identifier writes its own."""
    meta = encode([Element(TRANSFER_SYNTAX, b"UI", syntax.encode("ascii"))], META_ENCODING)
    group = encode([Element(0x00020000, b"UL", struct.pack("<L", len(meta)))], META_ENCODING)
    return b"".join((bytes(128), b"DICM", group, meta, body))
