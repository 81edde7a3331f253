"""What is wrong with an object, as a list: what a person at the source would want to know. Nothing here raises or stops.

Reasons name attributes and numbers, never other values. Whether a model may see an image is `select`'s to say; whether
slices make a whole series is `series.series_problems`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import numpy as np

from medai_pipeline.dicom.attributes import Attributes
from medai_pipeline.dicom.description import DOUBLE_FLOAT_PIXEL_DATA, FLOAT_PIXEL_DATA, PHOTOMETRIC
from medai_pipeline.dicom.elements import PIXEL_DATA, Element, Part10, dictionary_vr
from medai_pipeline.dicom.functional_groups import FunctionalGroups
from medai_pipeline.dicom.read import check_whole
from medai_pipeline.dicom.transfer_syntax import name, syntax
from medai_pipeline.errors import DicomError
from medai_pipeline.records import Problem

_REQUIRED = {
    0x00080016: "SOPClassUID", 0x00080018: "SOPInstanceUID", 0x0020000D: "StudyInstanceUID",
    0x0020000E: "SeriesInstanceUID", 0x00080060: "Modality",
}  # fmt: skip
_REQUIRED_OF_IMAGES = {
    0x00280010: "Rows", 0x00280011: "Columns", 0x00280002: "SamplesPerPixel", 0x00280004: "PhotometricInterpretation",
    0x00280100: "BitsAllocated",
}  # fmt: skip
_REQUIRED_OF_INTEGERS = {0x00280101: "BitsStored", 0x00280102: "HighBit", 0x00280103: "PixelRepresentation"}
_UIDS = {
    0x00080018: "SOPInstanceUID",
    0x0020000D: "StudyInstanceUID",
    0x0020000E: "SeriesInstanceUID",
    0x00200052: "FrameOfReferenceUID",
}
_UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")  # PS3.5 9.1
_CODE_STRING = re.compile(r"[A-Z0-9_ ]{0,16}")
_DATE = re.compile(r"\d{4}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])")
_CHARACTER_SETS = re.compile(r"(ISO_IR (6|13|100|101|109|110|126|127|138|144|148|166|192|203)|ISO 2022 IR (6|13|58|87|100|101|109|110|126|127|138|144|148|149|159|166|203)|GB18030|GBK)?")  # fmt: skip
_AT_MOST_NAMED = 5


def problems(data: bytes) -> list[Problem]:
    """Every problem found in one file; empty when there is none. A file that cannot be read at all has one: why."""
    try:
        part = check_whole(data)
    except DicomError as error:
        return [Problem(error.code, error.reason)]
    attributes = Attributes(part.elements)
    return [Problem(code, reason) for check in CHECKS for code, reason in check(part, attributes)]


def _is_image(attributes: Attributes) -> bool:
    return any(tag in attributes for tag in (PIXEL_DATA, FLOAT_PIXEL_DATA, DOUBLE_FLOAT_PIXEL_DATA))


def _missing(part: Part10, attributes: Attributes) -> Iterator[tuple[str, str]]:
    required = dict(_REQUIRED)
    if _is_image(attributes):
        required |= _REQUIRED_OF_IMAGES
    if PIXEL_DATA in attributes:
        required |= _REQUIRED_OF_INTEGERS
    for tag, keyword in required.items():
        element = attributes.elements.get(tag)
        if element is None or not bytes(element.value).strip(b"\0 " if element.vr in (b"UI", b"CS", None) else b""):
            yield "missing-attribute", f"{keyword} is missing"


def _file_meta(part: Part10, attributes: Attributes) -> Iterator[tuple[str, str]]:
    """PS3.10 7.1: the file meta information names the object and its transfer syntax."""
    if not part.meta:
        yield "file-meta", "the file meta information is missing"
        return
    meta = Attributes(part.meta.values())
    for tag, other, keyword in ((0x00020002, 0x00080016, "SOPClassUID"), (0x00020003, 0x00080018, "SOPInstanceUID")):
        if meta.text(tag) and attributes.text(other) and meta.text(tag) != attributes.text(other):
            yield "file-meta", f"the file meta information names another {keyword} than the data set"
    if 0x00020010 not in part.meta:
        yield "file-meta", "the file meta information names no transfer syntax"
    elif reason := syntax(part.transfer_syntax).reason:
        yield "transfer-syntax", f"{name(part.transfer_syntax)} {reason}"


def _identifiers(part: Part10, attributes: Attributes) -> Iterator[tuple[str, str]]:
    """PS3.5 chapter 9: digits and dots, 64 characters, no leading zeros."""
    for tag, keyword in _UIDS.items():
        text = attributes.text(tag)
        if text and (len(text) > 64 or not _UID.fullmatch(text)):
            yield "uid", f"{keyword} is not a valid UID"


def _values(part: Part10, attributes: Attributes) -> Iterator[tuple[str, str]]:
    """Values against their VR (PS3.5 6.2): codes, dates, numbers, text lengths; the first few are named by their tag."""
    bad = [element.tag for element in part.elements if element.items is None and _breaks_its_vr(element, attributes)]
    for tag in bad[:_AT_MOST_NAMED]:
        yield "value", f"({tag >> 16:04X},{tag & 0xFFFF:04X}) holds what its VR {dictionary_vr(tag)} does not allow"
    if len(bad) > _AT_MOST_NAMED:
        yield "value", f"{len(bad) - _AT_MOST_NAMED} more elements hold what their VR does not allow"
    wrong = sum(_other_vr(element) for element in part.elements)
    if wrong:
        yield "vr", f"{wrong} elements have another VR than the standard's dictionary"


def _breaks_its_vr(element: Element, attributes: Attributes) -> bool:
    vr, longest = dictionary_vr(element.tag), {"LO": 64, "SH": 16, "DS": 16, "IS": 12, "CS": 16}
    if element.tag >> 16 & 1 or vr not in {*longest, "DA"} or not len(element.value):
        return False
    parts = [part.strip("\0 ") for part in attributes.text(element.tag).split("\\")]
    if vr == "CS":
        return not all(_CODE_STRING.fullmatch(part) for part in parts)
    if vr == "DA":
        return not all(part == "" or _DATE.fullmatch(part) for part in parts)
    if vr in ("DS", "IS"):
        return not attributes.numbers(element.tag) and any(parts)
    return any(len(part) > 4 * longest[vr] for part in parts)  # bytes: a character may take four


def _other_vr(element: Element) -> bool:
    standard = dictionary_vr(element.tag)
    return element.vr not in (None, b"UN") and bool(standard) and element.vr.decode("latin-1") not in standard


def _character_set(part: Part10, attributes: Attributes) -> Iterator[tuple[str, str]]:
    """PS3.3 C.12.1.1.2."""
    if not all(_CHARACTER_SETS.fullmatch(term) for term in attributes.texts(0x00080005)):
        yield "character-set", "SpecificCharacterSet is none of the standard's"


def _bits(part: Part10, attributes: Attributes) -> Iterator[tuple[str, str]]:
    """PS3.5 8.1.1: Bits Stored within Bits Allocated, High Bit its last."""
    if PIXEL_DATA not in attributes:
        return
    allocated, stored, high, signed = (
        attributes.short(tag) for tag in (0x00280100, 0x00280101, 0x00280102, 0x00280103)
    )
    if allocated and allocated != 1 and allocated % 8:
        yield "bits", f"BitsAllocated is {allocated}, not 1 or a multiple of 8"
    if allocated and not 0 < stored <= allocated:
        yield "bits", f"BitsStored is {stored} of {allocated} allocated"
    if stored and high != stored - 1:
        yield "bits", f"HighBit is {high} with BitsStored {stored}"
    if signed > 1:
        yield "bits", f"PixelRepresentation is {signed}, not 0 or 1"


def _photometric(part: Part10, attributes: Attributes) -> Iterator[tuple[str, str]]:
    """PS3.3 C.7.6.3.1.2."""
    photometric, samples = attributes.text(0x00280004), attributes.short(0x00280002)
    if not _is_image(attributes) or not photometric:
        return
    if photometric not in PHOTOMETRIC:
        yield "photometric", "PhotometricInterpretation is not one of the standard's"
        return
    expected = 1 if photometric in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR") else 3
    if samples and samples != expected:
        yield "photometric", f"SamplesPerPixel is {samples} where {expected} is expected"
    if expected == 3 and 0x00280006 not in attributes:
        yield "photometric", "PlanarConfiguration is missing"
    if photometric == "PALETTE COLOR" and not all(tag in attributes for tag in (0x00281101, 0x00281102, 0x00281103)):
        yield "photometric", "the palette is missing"
    if photometric == "MONOCHROME1" and attributes.text(0x20500020) == "IDENTITY":
        yield "photometric", "PresentationLUTShape is IDENTITY with MONOCHROME1"


def _geometry(part: Part10, attributes: Attributes) -> Iterator[tuple[str, str]]:
    """PS3.3 C.7.6.2.1.1: direction cosines of unit length and at right angles; positive spacing."""
    for tag, keyword in ((0x00280030, "PixelSpacing"), (0x00181164, "ImagerPixelSpacing")):
        values = attributes.numbers(tag)
        if attributes.text(tag) and (len(values) != 2 or min(values) <= 0):
            yield "geometry", f"{keyword} is not two positive numbers"
    if not attributes.text(0x00200037):
        return
    values = attributes.numbers(0x00200037)
    if len(values) != 6 or max(map(abs, values)) > 2:
        yield "geometry", "ImageOrientationPatient is not six direction cosines"
        return
    row, column = np.array(values[:3]), np.array(values[3:])
    if abs(row @ row - 1) > 1e-2 or abs(column @ column - 1) > 1e-2 or abs(row @ column) > 1e-2:
        yield "geometry", "ImageOrientationPatient is not of unit length and at right angles"
    if len(attributes.numbers(0x00200032)) != 3:
        yield "geometry", "ImagePositionPatient is missing or not three numbers"


def _presentation(part: Part10, attributes: Attributes) -> Iterator[tuple[str, str]]:
    """PS3.3 C.11.1 and C.11.2: slopes and windows that can be applied."""
    if attributes.numbers(0x00281053)[:1] == (0.0,):
        yield "rescale", "RescaleSlope is 0"
    if bool(attributes.text(0x00281053)) != bool(attributes.text(0x00281052)):
        yield "rescale", "RescaleSlope and RescaleIntercept belong together, one is missing"
    centres, widths = attributes.numbers(0x00281050), attributes.numbers(0x00281051)
    if len(centres) != len(widths):
        yield "window", f"{len(centres)} window centers with {len(widths)} widths"
    function = attributes.text(0x00281056) or "LINEAR"
    smallest = 1.0 if function == "LINEAR" else 0.0
    if any(width < smallest or not width for width in widths):
        yield "window", "WindowWidth is too small for its function"


def _frames(part: Part10, attributes: Attributes) -> Iterator[tuple[str, str]]:
    """PS3.3 C.7.6.16: one item for each frame."""
    groups = FunctionalGroups(attributes)
    frames = max(1, attributes.integer(0x00280008))
    if groups.present and groups.count and groups.count != frames:
        yield "frames", f"{groups.count} items of functional groups for {frames} frames"


CHECKS: tuple[Callable[[Part10, Attributes], Iterator[tuple[str, str]]], ...] = (
    _missing, _file_meta, _identifiers, _values, _character_set, _bits, _photometric, _geometry, _presentation, _frames,
)  # fmt: skip
