"""The byte structure of a DICOM file: elements, sequences, items, and how they are written again (PS3.5 chapter 7, PS3.10).

Here belongs structure alone: where each value lies and whether the file is whole. What values mean is for pydicom
(`read.parse`) and the siblings. De-identification works on this level, because untouched values are then copied
byte for byte, whatever their transfer syntax, and most of the time of a full parse is saved.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from struct import Struct
from typing import NamedTuple

from pydicom.datadict import DicomDictionary
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from medai_pipeline.errors import NotDicom, TruncatedFile

UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
PIXEL_DATA = 0x7FE00010
TRANSFER_SYNTAX = 0x00020010
MAX_DEPTH = 32  # real objects nest to about 10
MAX_ELEMENTS = 500_000  # of one file, at all levels read at once; an enhanced object of 5000 frames has 300,000
MAX_INFLATED_BYTES = 1 << 30
_INFLATED_AT_LEAST, _MAX_RATIO = 16 << 20, 200  # a blank image deflates 1000 to 1, real ones 2 to 1

# VRs whose explicit header has a 32-bit length (PS3.5 table 7.1-1)
LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_SHORT_VRS = b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US"
_TEXT_VRS = frozenset(b"AE AS CS DA DS DT IS LO LT PN SH ST TM UC UR UT".split())  # padded with a space (PS3.5 6.2)
KNOWN_VRS = LONG_VRS | frozenset(_SHORT_VRS.split())

# Attributes of PS3.6 that an option of PS3.15 may keep and that are newer than pydicom's dictionary
_NEWER_VRS = {
    0x00081301: "SQ",  # Principal Diagnosis Code Sequence
    0x00081302: "SQ",  # Primary Diagnosis Code Sequence
    0x00081303: "SQ",  # Secondary Diagnoses Code Sequence
    0x00081304: "SQ",  # Histological Diagnoses Code Sequence
    0x00100042: "LT",  # Sex Parameters for Clinical Use Category Comment
    0x00100043: "SQ",  # Sex Parameters for Clinical Use Category Sequence
    0x00100046: "SQ",  # Sex Parameters for Clinical Use Category Code Sequence
    0x00100047: "UR",  # Sex Parameters for Clinical Use Category Reference
    0x00102162: "UC",  # Ethnic Groups
    0x0040A034: "DT",  # Effective Start DateTime
    0x0040A035: "DT",  # Effective Stop DateTime
    0x0040B034: "DT",  # Annotation DateTime
    0x0040B036: "DT",  # Segment Definition DateTime
}


class Encoding(NamedTuple):
    """How element headers are written in a data set (PS3.5 annex A)."""

    explicit: bool
    little: bool


META_ENCODING = Encoding(explicit=True, little=True)


@dataclass(slots=True)
class Element:
    """One data element. `value` is its value field as found; `items` is set for a sequence that was read already.

    An undefined length with a value (encapsulated pixel data) keeps its item headers, without the delimiter.
    `vr` is None where the encoding names none.
    """

    tag: int
    vr: bytes | None
    value: memoryview | bytes
    undefined: bool = False
    items: list[list[Element]] | None = None
    encoding: Encoding = META_ENCODING
    raw: bytes | None = field(default=None, compare=False, repr=False)  # header and value, of one that slices may share
    text: str | None = field(default=None, init=False, compare=False, repr=False)  # once somebody has read it as one


@dataclass(slots=True)
class Part10:
    """A file taken apart: group 0002, and the data set's elements in file order."""

    meta: dict[int, Element] = field(default_factory=dict)
    elements: list[Element] = field(default_factory=list)
    transfer_syntax: str = ""
    encoding: Encoding = META_ENCODING
    dataset: memoryview = field(default_factory=lambda: memoryview(b""))  # inflated where the file is deflated


class _Structs(NamedTuple):
    tag_length: Struct
    tag_vr_short: Struct
    length: Struct


_STRUCTS = {
    little: _Structs(Struct(f"{mark}HHL"), Struct(f"{mark}HH2sH"), Struct(f"{mark}L"))
    for little, mark in ((True, "<"), (False, ">"))
}


class Reader:
    """Reads elements from one buffer; positions are absolute, and nothing outside [0, end) is touched."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self._count = 0
        self._zeros_from = -1

    def elements(
        self, position: int, end: int, encoding: Encoding, depth: int = 0, closed_by: int = 0
    ) -> tuple[list[Element], int]:
        """Elements from `position` to `end`, or to the delimiter `closed_by`; and where reading stopped.

        Raises TruncatedFile when an element runs past `end`, NotDicom when the nesting makes no sense.
        """
        if depth > MAX_DEPTH:
            raise NotDicom("sequences are nested too deeply to be a DICOM object; check the file's source")
        found: list[Element] = []
        while position < end:
            if end - position < 8:
                if not any(self.data[position:end]):
                    return found, end  # some writers pad the file with zeros
                raise TruncatedFile("the file ends inside an element header; send it again")
            element, position = self._element(position, end, encoding, depth)
            if element.tag == closed_by:
                return found, position
            if element.tag == 0 and not depth and self._only_zeros(position):
                return found, end
            found.append(element)
            self._count += 1
            if self._count > MAX_ELEMENTS:
                raise NotDicom(f"the file has more than {MAX_ELEMENTS} elements; check the file's source")
        if closed_by:
            raise TruncatedFile("the file ends inside a sequence; send it again")
        return found, position

    def _only_zeros(self, position: int) -> bool:
        """Whether nothing but zeros follows; looked for once, however often a hostile file makes one ask."""
        if self._zeros_from < 0:
            self._zeros_from = len(bytes(self.data).rstrip(b"\0"))
        return position >= self._zeros_from

    def _element(self, position: int, end: int, encoding: Encoding, depth: int) -> tuple[Element, int]:
        tag, vr, length, position = self._header(position, end, encoding)
        if tag >> 16 == 0xFFFE:
            return Element(tag, None, b"", encoding=encoding), position
        if length != UNDEFINED:
            if position + length > end:
                raise TruncatedFile("the file ends inside an element; send it again")
            return Element(tag, vr, self.data[position : position + length], encoding=encoding), position + length
        if vr == b"UN":  # PS3.5 6.2.2: its content is implicit VR little endian
            encoding = Encoding(explicit=False, little=True)
        if vr in (b"SQ", b"UN") or (vr is None and (dictionary_vr(tag) in ("SQ", "") or tag >> 16 & 1)):
            items, position = self._items(position, end, encoding, depth + 1, closed=True)
            return Element(tag, b"SQ", b"", True, items, encoding), position
        fragments_end, position = self._fragments(position, end, encoding)
        return Element(tag, vr, self.data[fragments_end[0] : fragments_end[1]], True, None, encoding), position

    def _header(self, position: int, end: int, encoding: Encoding) -> tuple[int, bytes | None, int, int]:
        structs = _STRUCTS[encoding.little]
        if encoding.explicit:
            group, element, vr, length = structs.tag_vr_short.unpack_from(self.data, position)
            if vr in LONG_VRS:
                if position + 12 > end:
                    raise TruncatedFile("the file ends inside an element header; send it again")
                return group << 16 | element, vr, structs.length.unpack_from(self.data, position + 8)[0], position + 12
            if vr.isalpha() and vr.isupper():
                return group << 16 | element, vr, length, position + 8
        # implicit VR, also where a writer switches to it inside an explicit data set, and for item tags
        group, element, length = structs.tag_length.unpack_from(self.data, position)
        return group << 16 | element, None, length, position + 8

    def _items(
        self, position: int, end: int, encoding: Encoding, depth: int, closed: bool
    ) -> tuple[list[list[Element]], int]:
        """The items of a sequence up to its delimiter (`closed`), or exactly to `end`."""
        items: list[list[Element]] = []
        structs = _STRUCTS[encoding.little]
        while closed or position < end:
            if position + 8 > end:
                raise TruncatedFile("the file ends inside a sequence; send it again")
            group, element, length = structs.tag_length.unpack_from(self.data, position)
            tag, position = group << 16 | element, position + 8
            if tag == SEQUENCE_END:
                break
            if tag != ITEM:
                raise NotDicom("a sequence holds something that is not an item; check the file's source")
            inner = self._item_encoding(position, end, encoding)
            if length == UNDEFINED:
                content, position = self.elements(position, end, inner, depth, closed_by=ITEM_END)
            elif position + length > end:
                raise TruncatedFile("the file ends inside a sequence item; send it again")
            else:
                content, position = self.elements(position, position + length, inner, depth)
            items.append(content)
        return items, position

    def _item_encoding(self, position: int, end: int, encoding: Encoding) -> Encoding:
        """Some writers use implicit VR inside the items of an explicit data set."""
        if (
            not encoding.explicit
            or position + 8 > end
            or self.data[position : position + 2] in (b"\xfe\xff", b"\xff\xfe")
        ):
            return encoding
        vr = bytes(self.data[position + 4 : position + 6])
        return encoding if vr.isalpha() and vr.isupper() else Encoding(False, encoding.little)

    def _fragments(self, position: int, end: int, encoding: Encoding) -> tuple[tuple[int, int], int]:
        """Where encapsulated fragments (PS3.5 A.4) begin and end, and the position behind their delimiter."""
        start = position
        unpack = _STRUCTS[encoding.little].tag_length.unpack_from
        while position + 8 <= end:
            group, element, length = unpack(self.data, position)
            tag = group << 16 | element
            if tag == SEQUENCE_END:
                return (start, position), position + 8
            if tag != ITEM:
                raise NotDicom("encapsulated data holds something that is not an item; check the file's source")
            position += 8 + length
        raise TruncatedFile("the file ends inside its compressed pixel data; send it again")


def read_items(element: Element, depth: int = 1) -> list[list[Element]]:
    """The items of a sequence element. Raises NotDicom when its content is not whole."""
    if element.items is not None:
        return element.items
    encoding = Encoding(False, True) if element.vr == b"UN" else element.encoding
    try:
        items, _ = Reader(memoryview(element.value))._items(0, len(element.value), encoding, depth, closed=False)
    except TruncatedFile as error:
        raise NotDicom("an element runs past the end of its sequence; check the file's source") from error
    return items


def read_part10(data: bytes) -> Part10:
    """Takes a file apart. A missing preamble or group 0002 is tolerated where the rest is clearly DICOM.

    Raises NotDicom, TruncatedFile.
    """
    view = memoryview(data)
    start = _start(view)
    part = Part10()
    position = _read_meta(view, start, part)
    part.dataset = view[position:]
    if part.transfer_syntax == DeflatedExplicitVRLittleEndian:
        part.dataset = memoryview(_inflate(part.dataset))
    part.encoding = _dataset_encoding(part)
    part.elements, _ = Reader(part.dataset).elements(0, len(part.dataset), part.encoding)
    part.elements = [element for element in part.elements if element.tag >> 16 > 2]  # not the command set (PS3.7)
    if not part.elements:
        raise TruncatedFile("the file ends before its data set begins; send it again")
    return part


def _start(view: memoryview) -> int:
    if view[128:132] == b"DICM":
        return 132
    if looks_like_dataset(view):
        return 0
    if len(view) < 132 and not any(view[:128]):
        raise TruncatedFile("the file is empty or ends inside its preamble; send it again")
    raise NotDicom("not a DICOM file; leave it out")


def looks_like_dataset(view: memoryview) -> bool:
    """Whether bytes without a preamble begin as group 0002 or 0008 of a data set does."""
    if len(view) < 16:
        return False
    for little in (True, False):
        group, element, vr, _ = _STRUCTS[little].tag_vr_short.unpack_from(view, 0)
        if group not in (2, 8) or (element and group << 16 | element not in DicomDictionary):
            continue
        if vr in KNOWN_VRS:
            return True
        length = _STRUCTS[little].tag_length.unpack_from(view, 0)[2]
        if little and group == 8 and length <= min(64, len(view) - 8):
            return True
    return False


def _read_meta(view: memoryview, position: int, part: Part10) -> int:
    """Group 0002, always explicit VR little endian (PS3.10 7.1); returns where the data set begins."""
    reader = Reader(view)
    while position + 8 <= len(view) and view[position : position + 2] == b"\x02\x00":
        element, position = reader._element(position, len(view), META_ENCODING, 0)
        part.meta[element.tag] = element
    if position >= len(view):
        raise TruncatedFile("the file ends before its data set begins; send it again")
    if TRANSFER_SYNTAX in part.meta:
        part.transfer_syntax = bytes(part.meta[TRANSFER_SYNTAX].value).decode("ascii", "replace").strip("\0 ")
    return position


def _inflate(deflated: memoryview) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    most = min(MAX_INFLATED_BYTES, _INFLATED_AT_LEAST + _MAX_RATIO * len(deflated))
    try:
        data = inflater.decompress(deflated, most)
    except zlib.error as error:
        raise NotDicom("the deflated data set cannot be inflated; send the file again") from error
    if len(data) == most:
        raise NotDicom(f"the deflated data set would take more than {most >> 20} MiB; check the file's source")
    if not inflater.eof:
        raise TruncatedFile("the deflated data set ends too early; send the file again")
    return data


def _dataset_encoding(part: Part10) -> Encoding:
    """By transfer syntax, corrected by what the first element shows: writers get it wrong, and some omit group 0002."""
    little = part.transfer_syntax != ExplicitVRBigEndian
    if len(part.dataset) < 8:
        return Encoding(part.transfer_syntax != ImplicitVRLittleEndian, little)
    group, _, vr, _ = _STRUCTS[little].tag_vr_short.unpack_from(part.dataset, 0)
    explicit = vr in KNOWN_VRS
    if not part.transfer_syntax:
        little = not (explicit and group >= 0x0100)
        part.transfer_syntax = str(
            ImplicitVRLittleEndian if not explicit else "1.2.840.10008.1.2.1" if little else ExplicitVRBigEndian
        )
    return Encoding(explicit, little)


@cache
def dictionary_vr(tag: int) -> str:
    """The VR of the standard dictionary (PS3.6); "" for what it does not know; "US or SS" where it names several."""
    entry = DicomDictionary.get(tag)
    return entry[0] if entry else _NEWER_VRS.get(tag, "")


def encode(elements: Iterable[Element], encoding: Encoding) -> bytes:
    """Elements as bytes, in tag order, sequences with defined lengths."""
    return b"".join(pieces(elements, encoding))


def pieces(elements: Iterable[Element], encoding: Encoding) -> Iterator[bytes | memoryview]:
    """The same in pieces, values as they lie: for a caller that joins them with more, and copies each byte once."""
    return _encoded(sorted(elements, key=lambda element: element.tag), encoding)


def _encoded(elements: Iterable[Element], encoding: Encoding) -> Iterator[bytes | memoryview]:
    for element in elements:
        value = element.value
        if element.items is not None:
            value = b"".join(_item(encode(item, encoding), encoding) for item in element.items)
        elif len(value) & 1:
            value = bytes(value) + (b" " if element.vr in _TEXT_VRS else b"\0")
        undefined = element.undefined and element.items is None
        yield _header(element, UNDEFINED if undefined else len(value), encoding)
        yield value
        if undefined:
            yield _STRUCTS[encoding.little].tag_length.pack(SEQUENCE_END >> 16, SEQUENCE_END & 0xFFFF, 0)


def _item(content: bytes, encoding: Encoding) -> bytes:
    return _STRUCTS[encoding.little].tag_length.pack(ITEM >> 16, ITEM & 0xFFFF, len(content)) + content


def _header(element: Element, length: int, encoding: Encoding) -> bytes:
    structs, group, number = _STRUCTS[encoding.little], element.tag >> 16, element.tag & 0xFFFF
    if not encoding.explicit:
        return structs.tag_length.pack(group, number, length)
    vr = element.vr or _writable_vr(element.tag)
    if vr not in LONG_VRS and length > 0xFFFF:
        vr = b"UN"  # PS3.5 6.2.2 note: too long for this VR
    if vr in LONG_VRS:
        return structs.tag_vr_short.pack(group, number, vr, 0) + structs.length.pack(length)
    return structs.tag_vr_short.pack(group, number, vr, length)


def _writable_vr(tag: int) -> bytes:
    """The VR of an element that was implicit; UN where the dictionary leaves a choice (PS3.5 6.2.2 allows it)."""
    vr = dictionary_vr(tag)
    return vr.encode("ascii") if len(vr) == 2 else b"UN"
