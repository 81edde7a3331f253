"""The plain case of a DICOM file read fast: explicit VR little endian, with nothing unusual at the top level.

That is what nearly every file is. Whatever else there is, `scan` gives None and `elements.read_part10` reads the file, or
names what is wrong with it; where `scan` gives something, it is what that would give (a test holds this).
"""

from __future__ import annotations

from struct import Struct

from medai_pipeline.dicom.elements import (
    KNOWN_VRS,
    LONG_VRS,
    META_ENCODING,
    PIXEL_DATA,
    TRANSFER_SYNTAX,
    UNDEFINED,
    Element,
    Encoding,
    Part10,
    Reader,
)
from medai_pipeline.dicom.transfer_syntax import Kind, syntax
from medai_pipeline.errors import DicomError

_HEADER, _LENGTH = Struct("<HH2sH"), Struct("<L")
_EXPLICIT = Encoding(explicit=True, little=True)
_NOT_PLAIN = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"})
_PLAIN_ELEMENTS = 10_000  # at the top level
_SHORT_VRS = KNOWN_VRS - LONG_VRS
_SHARED = 256  # bytes, of an element that is remembered
_MOST_SHARED = 4096

Shared = dict[bytes, Element]


def scan(data: bytes, shared: Shared | None = None) -> Part10 | None:
    """The file taken apart, None where it is not plain.

    `shared` remembers short elements by their bytes: most of a slice's stand in the others of its series, too. It is
    bounded, and holds copies, so that no file stays in memory.
    """
    view = memoryview(data)
    if view[128:132] != b"DICM":
        return None
    shared = {} if shared is None else shared
    if len(shared) >= _MOST_SHARED:
        shared.clear()
    meta, position = _elements(data, view, 132, META_ENCODING, 2, shared)
    if meta is None:
        return None
    part = Part10(meta={element.tag: element for element in meta}, encoding=_EXPLICIT)
    if TRANSFER_SYNTAX not in part.meta:
        return None
    part.transfer_syntax = bytes(part.meta[TRANSFER_SYNTAX].value).decode("ascii", "replace").strip("\0 ")
    if part.transfer_syntax in _NOT_PLAIN or syntax(part.transfer_syntax).kind is Kind.REFUSED:
        return None
    part.dataset = view[position:]
    elements, end = _elements(data, view, position, _EXPLICIT, 0, shared)
    if not elements or end != len(view):
        return None
    part.elements = elements
    return part


def _elements(
    data: bytes, view: memoryview, position: int, encoding: Encoding, group: int, shared: Shared
) -> tuple[list[Element] | None, int]:
    """Elements from `position` on: all of them, or those of one group; None for whatever is not plain."""
    header, length_of, short, long, known = _HEADER.unpack_from, _LENGTH.unpack_from, _SHORT_VRS, LONG_VRS, shared.get
    found: list[Element] = []
    size = len(data)
    last = size - 8
    for _ in range(_PLAIN_ELEMENTS):
        if position > last:
            return found, position
        start = position
        in_group, number, vr, length = header(data, position)
        if group and in_group != group:
            return found, position
        if vr in short:
            position += 8
        elif vr in long and position + 12 <= size:
            (length,) = length_of(data, position + 8)
            position += 12
        else:
            return None, position
        tag = in_group << 16 | number
        if length == UNDEFINED:
            return _with_fragments(found, tag, vr, view, position, encoding)
        end = position + length
        if end > size or in_group == 0xFFFE or (in_group <= 2 and not group):
            return None, position
        if end - start <= _SHARED:
            raw = data[start:end]
            element = known(raw)
            if element is None:
                element = shared[raw] = Element(tag, vr, raw[position - start :], False, None, encoding, raw)
        else:
            element = Element(tag, vr, view[position:end], False, None, encoding)
        found.append(element)
        position = end
    return None, position


def _with_fragments(
    found: list[Element], tag: int, vr: bytes, view: memoryview, position: int, encoding: Encoding
) -> tuple[list[Element] | None, int]:
    """Encapsulated pixel data as the last element; anything else of undefined length is not plain."""
    if tag != PIXEL_DATA or vr not in (b"OB", b"OW"):
        return None, position
    try:
        (start, stop), end = Reader(view)._fragments(position, len(view), encoding)
    except DicomError:
        return None, position
    found.append(Element(tag, vr, view[start:stop], True, None, encoding))
    return found, end
