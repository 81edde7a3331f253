"""Pixel data as de-identification writes it: what the header describes, and nothing beside it.

Native pixels lose what follows them and what stands in unused bits; compressed ones are written frame by frame
(`codestreams`). What needs no change is copied byte for byte.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate

from medai_pipeline.dicom import codestreams
from medai_pipeline.dicom.attributes import Attributes
from medai_pipeline.dicom.description import Description, describe
from medai_pipeline.dicom.elements import PIXEL_DATA, Element
from medai_pipeline.dicom.encapsulated import Frames
from medai_pipeline.dicom.transfer_syntax import Kind, name, syntax
from medai_pipeline.dicom.unused_bits import cleared
from medai_pipeline.errors import DeidentificationError, NoPixels, UndecodablePixels

PIXEL_GROUP = 0x7FE0
ANY_PIXELS = frozenset({PIXEL_DATA, 0x7FE00008, 0x7FE00009})
_OFFSETS, _LENGTHS = 0x7FE00001, 0x7FE00002  # the extended tables
_ROOT = "1.2.840.10008.1.2."
_JPEG = frozenset({f"{_ROOT}4.{end}" for end in (*range(50, 67), 70, 80, 81)})
_JPEG_2000 = frozenset({f"{_ROOT}4.{end}" for end in (90, 91, 92, 93, 201, 202, 203)})
_RLE = f"{_ROOT}5"
_PADDING = (b"", b"\0", b"\xff")  # to an even length


def cleaned_pixels(elements: list[Element], attributes: Attributes, transfer_syntax: str) -> list[Element]:
    """All elements, those of group 7FE0 as they are to be written.

    Raises DeidentificationError for pixels whose header does not describe them, or that cannot be walked.
    """
    held = [element for element in attributes.elements.values() if element.tag >> 16 == PIXEL_GROUP and _holds(element)]
    if not held:
        return elements
    made = _written(held, attributes, transfer_syntax)
    found: list[Element] = []
    for element in elements:
        if element.tag >> 16 != PIXEL_GROUP or not _holds(element):
            found.append(element)
        elif element is attributes.elements[element.tag] and element.tag in made:
            found.append(made[element.tag])
    return found


def _holds(element: Element) -> bool:
    return element.items is not None or len(element.value) > 0


def _written(held: list[Element], attributes: Attributes, transfer_syntax: str) -> dict[int, Element]:
    pixels = [element for element in held if element.tag in ANY_PIXELS]
    if len(pixels) != 1 or pixels[0].items is not None:
        raise DeidentificationError("the object's pixel data is not one image; correct the object")
    try:
        what = describe(attributes)
        if syntax(transfer_syntax).kind is Kind.NATIVE:
            return {pixels[0].tag: _native(pixels[0], attributes, what)}
        return _encapsulated(pixels[0], attributes, what, transfer_syntax)
    except NoPixels:
        raise DeidentificationError("the object has pixel data without rows or columns; correct the object") from None
    except UndecodablePixels as error:
        raise DeidentificationError(f"the object's pixel data cannot be cleaned: {error.reason}") from None


def _native(element: Element, attributes: Attributes, what: Description) -> Element:
    if element.undefined:
        raise UndecodablePixels("the pixel data is not written as the transfer syntax says; send the object again")
    length = native_length(attributes, what, element)
    value = element.value[:length] if length < len(element.value) else element.value
    clean = cleared(value, what, element.encoding.little)
    return element if clean is element.value else replace(element, value=clean)


def native_length(attributes: Attributes, what: Description, pixels: Element) -> int:
    """Bytes of native pixel data by rows, columns, frames, samples and bits (PS3.5 8.1.1)."""
    whole = (what.frame_bits * what.frames + 7) // 8
    if what.photometric in ("YBR_FULL_422", "YBR_PARTIAL_422") and len(pixels.value) < whole:
        whole = whole * 2 // 3  # some writers say so and do not subsample
    return whole


def _encapsulated(
    element: Element, attributes: Attributes, what: Description, transfer_syntax: str
) -> dict[int, Element]:
    clean = _cleaner(what, transfer_syntax)
    table = attributes.elements.get(_OFFSETS)
    frames = Frames(element.value, what.frames, bytes(table.value) if table else b"")
    streams, same = [], frames.well_told
    for number in range(1, what.frames + 1):
        before = frames.frame(number)
        after = clean(before)
        same = same and before.startswith(after) and before[len(after) :] in _PADDING
        streams.append(after + b"\0" * (len(after) & 1))
    made = element if same else replace(element, value=_items(streams, frames.has_table), undefined=True)
    found = {element.tag: made}
    if table is not None and not frames.has_table and (frames.one_each or not same):
        found.update(_extended_tables(attributes, [len(stream) for stream in streams]))
    return found


def _extended_tables(attributes: Attributes, sizes: list[int]) -> dict[int, Element]:
    """The Extended Offset Table and its lengths made anew (PS3.3 C.7.6.3.1.8), where the object has them."""
    offsets = accumulate((size + 8 for size in sizes[:-1]), initial=0)
    told = {_OFFSETS: offsets, _LENGTHS: sizes}
    return {
        tag: replace(attributes.elements[tag], value=struct.pack(f"<{len(sizes)}Q", *numbers), undefined=False)
        for tag, numbers in told.items()
        if tag in attributes
    }


def _items(streams: list[bytes], table: bool) -> bytes:
    """Each frame one fragment, behind a Basic Offset Table that is true or empty (PS3.5 A.4)."""
    offsets = list(accumulate((len(stream) + 8 for stream in streams[:-1]), initial=0)) if table else []
    if offsets and offsets[-1] >= 1 << 32:
        offsets = []
    parts = [struct.pack(f"<{len(offsets)}L", *offsets), *streams]
    return b"".join(piece for part in parts for piece in (b"\xfe\xff\x00\xe0" + struct.pack("<L", len(part)), part))


def _cleaner(what: Description, transfer_syntax: str) -> Callable[[bytes], bytes]:
    if transfer_syntax in _JPEG:
        return codestreams.jpeg
    if transfer_syntax in _JPEG_2000:
        return codestreams.jpeg2000
    if transfer_syntax == _RLE:
        segment = what.rows * what.columns if what.bits_allocated > 1 else what.frame_bytes
        return lambda stream: codestreams.rle(stream, segment)
    kind = syntax(transfer_syntax).kind
    if kind is Kind.NATIVE_FRAMES:
        return lambda frame: bytes(cleared(frame[: what.frame_bytes], what))
    if kind is Kind.DEFLATED_FRAMES:
        return lambda frame: _deflated(frame, what)
    raise UndecodablePixels(f"{name(transfer_syntax)} has no cleaner here; send it in another transfer syntax")


def _deflated(frame: bytes, what: Description) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        pixels = inflater.decompress(frame, what.frame_bytes + 1)
        pixels += inflater.decompress(inflater.unconsumed_tail, 1) if len(pixels) <= what.frame_bytes else b""
    except zlib.error:
        raise UndecodablePixels("a deflated frame cannot be inflated; send the object again") from None
    clean = bytes(cleared(pixels[: what.frame_bytes], what))
    if inflater.eof and clean == pixels:
        return frame[: len(frame) - len(inflater.unused_data)]
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(clean) + deflater.flush()
