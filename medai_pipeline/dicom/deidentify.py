"""De-identification of one file by PS3.15 Annex E, Basic Profile, at every nesting level; it fails closed.

Here the decisions of `profile` are carried out on elements; the same key always gives the same new UIDs, so references
hold across files, studies and revisions. Pixel data and every kept value are copied byte for byte.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import struct
import uuid
import zlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pydicom.uid import UID_dictionary

from medai_pipeline.dicom.attributes import Attributes
from medai_pipeline.dicom.elements import (
    LONG_VRS,
    META_ENCODING,
    PIXEL_DATA,
    TRANSFER_SYNTAX,
    Element,
    Encoding,
    Part10,
    dictionary_vr,
    encode,
    read_items,
)
from medai_pipeline.dicom.profile import PROFILE, Action, action
from medai_pipeline.dicom.read import check_whole
from medai_pipeline.dicom.row import instance_row
from medai_pipeline.errors import DeidentificationError
from medai_pipeline.records import DeidentifiedInstance

__all__ = ["IMPLEMENTATION_CLASS_UID", "PROFILE", "Deidentifier"]

IMPLEMENTATION_CLASS_UID = "2.25.209310385418279023447019253498311540983"
IMPLEMENTATION_VERSION = "MEDAI_PIPELINE"
DEFLATED = "1.2.840.10008.1.2.1.99"

_SOP_CLASS, _SOP_INSTANCE, _STUDY, _SERIES, _FRAME_OF_REFERENCE = (
    0x00080016,
    0x00080018,
    0x0020000D,
    0x0020000E,
    0x00200052,
)
_CLASS_TAGS = frozenset({_SOP_CLASS, 0x0008001A, 0x0008001B, 0x00081150, 0x0008115A})
_STANDARD_CLASS = re.compile(r"1\.2\.840\.10008\.5\.1\.4(\.\d{1,3}){1,6}")
_STANDARD_SYNTAX = re.compile(r"1\.2\.840\.10008\.1\.2(\.\d{1,3}){0,3}")
_BUGS = (ArithmeticError, AttributeError, BufferError, LookupError, RuntimeError, TypeError, ValueError)
_TROUBLE = (*_BUGS, struct.error, zlib.error)

# What a dummy of each VR is (code D): valid, and the same for everybody.
_TEXTS = ("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT")
_DUMMIES: Mapping[bytes, bytes] = {
    **{vr.encode(): b"ANONYMIZED" for vr in _TEXTS},
    b"AS": b"000Y",
    b"DA": b"19000101",
    b"DS": b"0 ",
    b"DT": b"19000101000000",
    b"IS": b"0 ",
    b"TM": b"000000",
    b"UR": b"urn:anonymized",
    **dict.fromkeys((b"OB", b"OW", b"UN", b"US", b"SS"), bytes(2)),
    **dict.fromkeys((b"AT", b"FL", b"OF", b"OL", b"SL", b"UL"), bytes(4)),
    **dict.fromkeys((b"FD", b"OD", b"OV", b"SV", b"UV"), bytes(8)),
}
_FREE_TEXT = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})

# VRs that writers mix up without changing what a value means; any other disagreement with PS3.6 removes the element.
_FAMILIES = (
    frozenset({"LO", "LT", "SH", "ST", "UC", "UT"}),
    frozenset({"OB", "OW", "US", "SS"}),
    frozenset({"DS", "IS"}),
    frozenset({"UL", "SL"}),
)
_DIGITS = b"0123456789+-.eE\\ \0"

# Coding schemes whose codes are published (PS3.16 Table 8-1). A site's own code may be, and mean, anything.
_PUBLISHED_SCHEMES = frozenset(
    [
        "ACR",
        "BARI",
        "BI",
        "C4",
        "C5",
        "CD2",
        "DC",
        "DCM",
        "DCMUID",
        "FMA",
        "HPC",
        "I10",
        "I10P",
        "I11",
        "I9",
        "I9C",
        "ICDO3",
        "IBSI",
        "ISO3166_1",
        "ISO639_1",
        "ISO639_2",
        "ITIS_TSN",
        "LN",
        "MA",
        "MDC",
        "MGI",
        "NCIt",
        "NDC",
        "NYUMCCG",
        "PATHLEX",
        "POS",
        "PUBCHEM_CID",
        "RADELEMENT",
        "RADLEX",
        "RFC3066",
        "RFC5646",
        "RO",
        "SCT",
        "SDM",
        "SNM3",
        "SRT",
        "UBERON",
        "UCUM",
        "UMLS",
        "UNS",
        "UPC",
        "X12DE",
    ]
)
_CODE_VALUES = frozenset({0x00080100, 0x00080119, 0x00080120})  # Code Value, Long Code Value, URN Code Value
_CODING_SCHEME = 0x00080102


class _Way(NamedTuple):
    """Where in an object we are. `blank`: inside a sequence that is itself replaced, so every free text is a dummy."""

    target: Encoding
    document: bool
    depth: int = 0
    blank: bool = False


class Deidentifier:
    """De-identifies files under one secret key. Holds no state between files; may be shared by threads."""

    def __init__(self, key: bytes) -> None:
        if len(key) < 16:
            raise ValueError("the de-identification key must have at least 16 bytes")
        self._key = hmac.digest(key, b"medai dicom uid", "sha256")

    def __repr__(self) -> str:
        return "Deidentifier(<hidden>)"

    def deidentify(self, data: bytes) -> DeidentifiedInstance:
        """The de-identified file, its table row, and original UID -> new UID of study, series, instance and frame of reference.

        Raises NotDicom, TruncatedFile; DeidentificationError for whatever cannot be done safely. No message names
        anything of the file.
        """
        try:
            return self._deidentify(data)
        except _TROUBLE as error:
            trouble = type(error).__name__  # its text may hold a value: it must not even be chained
        raise DeidentificationError(
            f"the object could not be de-identified and was left out ({trouble}); report this file"
        )

    def new_uid(self, uid: str, tag: int = 0) -> str:
        """The UID that stands for `uid`: 2.25 and 128 bits of HMAC-SHA-256 (PS3.5 B.2). UIDs of the standard stay."""
        if not uid or uid in UID_dictionary or (tag in _CLASS_TAGS and _STANDARD_CLASS.fullmatch(uid)):
            return uid
        digest = hmac.digest(self._key, uid.encode("latin-1", "replace"), "sha256")
        return f"2.25.{uuid.UUID(bytes=digest[:16], version=4).int}"

    def _deidentify(self, data: bytes) -> DeidentifiedInstance:
        part = check_whole(data)
        attributes = Attributes(part.elements)
        _require(attributes)
        syntax = _transfer_syntax(part)
        way = _Way(part.encoding, document=PIXEL_DATA not in attributes)
        kept = self._clean(part.elements, way)
        _require(Attributes(kept))
        row = instance_row(attributes, self.new_uid, syntax, hashlib.sha256(data).hexdigest())
        meta = _meta(row.sop_class_uid, row.sop_instance_uid, syntax)
        body = encode([*kept, *_declared()], part.encoding)
        if syntax == DEFLATED:
            body = _deflate(body)
        originals = (attributes.text(tag) for tag in (_STUDY, _SERIES, _SOP_INSTANCE, _FRAME_OF_REFERENCE))
        uids = {uid: self.new_uid(uid) for uid in originals if uid}
        return DeidentifiedInstance(b"".join((bytes(128), b"DICM", meta, body)), row, uids)

    def _clean(self, elements: Iterable[Element], way: _Way) -> list[Element]:
        """What stays of one data set."""
        kept: dict[int, Element] = {}  # of a repeated element the last counts, as every reader does it
        for element in elements:
            if element.tag >> 16 & 1 or element.tag in _DECLARED or element.encoding.little != way.target.little:
                continue  # private; ours to say; or binary values of the other byte order
            decision = action(element.tag, way.document)
            cleaned = None if decision is Action.REMOVE else self._cleaned(element, decision, way)
            if cleaned is not None:
                kept[element.tag] = cleaned
        return list(kept.values())

    def _cleaned(self, element: Element, decision: Action, way: _Way) -> Element | None:
        standard = dictionary_vr(element.tag)
        if not _agrees(element, standard):
            return None
        if standard == "SQ":
            items = [] if decision is Action.EMPTY else read_items(element, way.depth + 1)
            inner = way._replace(depth=way.depth + 1, blank=way.blank or decision is Action.DUMMY)
            cleaned = [self._clean(item, inner._replace(blank=inner.blank or _is_local_code(item))) for item in items]
            return Element(element.tag, b"SQ", b"", items=cleaned)
        if way.blank and decision is Action.KEEP and standard in _FREE_TEXT:
            decision = Action.DUMMY
        vr = standard.encode() if element.vr in (None, b"UN") and len(standard) == 2 else element.vr
        if decision is Action.EMPTY or not len(element.value):
            return Element(element.tag, vr, b"")
        if decision is Action.DUMMY:
            return Element(element.tag, vr, _DUMMIES[vr or b"UN"])
        if decision is Action.REMAP:
            return Element(element.tag, vr, self._remapped(element))
        if standard in ("DS", "IS") and bytes(element.value).translate(None, _DIGITS):
            return None  # a number that is none may be anything
        return Element(element.tag, vr, element.value, element.undefined)

    def _remapped(self, element: Element) -> bytes:
        uids = bytes(element.value).decode("latin-1").split("\\")
        return "\\".join(self.new_uid(uid.strip("\0 "), element.tag) for uid in uids).encode("ascii")


def _is_local_code(item: list[Element]) -> bool:
    """Whether an item is a code (PS3.3 8.8) of a scheme that is not published: value and meaning are free text then."""
    if not any(element.tag in _CODE_VALUES for element in item):
        return False
    return Attributes(item).text(_CODING_SCHEME) not in _PUBLISHED_SCHEMES


def _agrees(element: Element, standard: str) -> bool:
    """Whether the VR found is the dictionary's, or one that is written for it without harm."""
    if element.vr in (None, b"UN"):
        return not element.undefined or element.tag == PIXEL_DATA
    found = element.vr.decode("ascii", "replace")
    allowed = standard.split(" or ")
    if element.undefined and found != "SQ" and element.tag != PIXEL_DATA:
        return False
    return found in allowed or any(found in family and not family.isdisjoint(allowed) for family in _FAMILIES)


def _require(attributes: Attributes) -> None:
    required = ((_SOP_CLASS, "SOP Class UID"), (_SOP_INSTANCE, "SOP Instance UID"), (_STUDY, "Study Instance UID"))
    for tag, name in (*required, (_SERIES, "Series Instance UID")):
        if len(attributes.texts(tag)) != 1:
            raise DeidentificationError(
                f"the object has no usable {name} and belongs nowhere; correct it at its source"
            )


def _transfer_syntax(part: Part10) -> str:
    """The file's transfer syntax, corrected where a native data set is not written as its file meta says.

    Raises DeidentificationError for a private one: what its bytes mean is not known.
    """
    syntax = part.transfer_syntax
    if syntax in ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1"):
        return "1.2.840.10008.1.2.1" if part.encoding.explicit else "1.2.840.10008.1.2"
    if not _STANDARD_SYNTAX.fullmatch(syntax):
        raise DeidentificationError("the object has a private transfer syntax; convert it to a standard one")
    return syntax


def _ui(text: str) -> bytes:
    return text.encode("ascii")


_METHOD_CODE = (
    Element(0x00080100, b"SH", b"113100"),
    Element(0x00080102, b"SH", b"DCM"),
    Element(0x00080104, b"LO", b"Basic Application Confidentiality Profile"),
)
_METHOD = f"medai_pipeline\\{PROFILE}".encode("ascii")
_DECLARED = frozenset({0x00120062, 0x00120063, 0x00120064, 0x00280303})


def _declared() -> list[Element]:
    """What says that and how the object was de-identified (PS3.15 E.2, PS3.3 C.12.1.1.1.2; CID 7050)."""
    return [
        Element(0x00120062, b"CS", b"YES"),
        Element(0x00120063, b"LO", _METHOD),
        Element(0x00120064, b"SQ", b"", items=[list(_METHOD_CODE)]),
        Element(0x00280303, b"CS", b"REMOVED"),
    ]


def _meta(sop_class: str, sop_instance: str, syntax: str) -> bytes:
    """File meta information of our own (PS3.10 7.1): nothing of the source's is carried over."""
    body = encode(
        [
            Element(0x00020001, b"OB", b"\0\1"),
            Element(0x00020002, b"UI", _ui(sop_class)),
            Element(0x00020003, b"UI", _ui(sop_instance)),
            Element(TRANSFER_SYNTAX, b"UI", _ui(syntax)),
            Element(0x00020012, b"UI", _ui(IMPLEMENTATION_CLASS_UID)),
            Element(0x00020013, b"SH", IMPLEMENTATION_VERSION.encode()),
        ],
        META_ENCODING,
    )
    return encode([Element(0x00020000, b"UL", struct.pack("<L", len(body)))], META_ENCODING) + body


def _deflate(body: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = deflater.compress(body) + deflater.flush()
    return deflated + b"\0" * (len(deflated) & 1)


assert frozenset(_DUMMIES) >= LONG_VRS - {b"SQ"}, "every VR with a value has a dummy"
