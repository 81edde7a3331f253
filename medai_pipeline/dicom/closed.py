"""Texts that the table of PS3.15 does not name and that have a closed purpose: what they may say.

Here belongs which values of such an attribute are known. Anything else in them is no value of the standard and may be a
name, so it goes. Technical attributes may hold a vendor's own terms, but nothing that looks like a date, number of a
person or address; all others hold known words alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import cache

from pydicom.datadict import DicomDictionary

from medai_pipeline.dicom import terms
from medai_pipeline.dicom.codes import PUBLISHED_SCHEMES
from medai_pipeline.dicom.profile import resource
from medai_pipeline.dicom.words import is_known_text, vocabulary

_LONGEST_LIST = 4096  # bytes of a Code String whose values are judged one by one
_CODE_STRING = re.compile(rb"[A-Z0-9_ ]{0,16}(?:\\[A-Z0-9_ ]{0,16})*\0?")
_ORIENTATION = re.compile(r"[APRLHFDVMTWICZ]{0,3}")
_LOSSY_METHOD = re.compile(r"ISO_\d{4,5}(_\d{1,2}[A-Z]?)?")
_MATERIAL_NAMES = ("ALUMINUM COPPER LEAD MOLYBDENUM NIOBIUM RHODIUM SILVER TIN TUNGSTEN EUROPIUM ERBIUM "
                       "YTTERBIUM GADOLINIUM HOLMIUM YTTRIUM MIXED SAMARIUM ACRYLIC")  # fmt: skip
_IMAGE_TYPE_WORDS = """
    ORIGINAL DERIVED PRIMARY SECONDARY AXIAL LOCALIZER SCOUT OTHER MPR REFORMATTED PROJECTION IMAGE MIXED VOLUME NONE
    MAGNITUDE PHASE REAL IMAGINARY NORM DIS2D DIS3D FFE ADC DIFFUSION PERFUSION RESAMPLED SUBTRACTION MIP SCREEN CAPTURE
    DEFAULT QUANTITY RESAMPLED MINIP MEDIAN MEAN STDEV ANGIO CARDIAC OVERVIEW LABEL THUMBNAIL VOLUME RESAMPLED MONO ENERGY
    EPI STATIC DYNAMIC GATED TOMO EMISSION TRANSMISSION WHOLE BODY RECON DOSE GSP SINGLE BIPLANE PLANE A B STRESS REST
    FILTERED LOSSY COMBINED TRACEW MOSAIC FM FMRI TENSOR DENSITY MAP WATER FAT IN OUT POST PRE PROCESSED CSA RESULT PARALLEL
    SUM MULTIPLANAR ROTATION MAXIMUM MINIMUM LEFT RIGHT SCANOGRAM TOPOGRAM POSTERIOR ANTERIOR BONE SOFT TISSUE STITCHED
    GENERATED 2D 3D CINE CPR SEGMENTED SPECTROSCOPY UNSPECIFIED SYNTHETIC TOMOSYNTHESIS
"""
_SCAN_OPTIONS = frozenset({"PER", "RG", "CG", "PPG", "FC", "PFF", "PFP", "SP", "FS", "CT"})  # PS3.3 C.8.3.1.1.2
_MATERIALS = frozenset(_MATERIAL_NAMES.split())
_IMAGE_TYPES = frozenset(_IMAGE_TYPE_WORDS.split())


@cache
def _body_parts() -> frozenset[str]:
    """Defined terms of Body Part Examined (PS3.16 Annex L)."""
    return frozenset(json.loads(resource("body_parts.json")))


def _is_body_part(text: str) -> bool:
    return text in _body_parts() or is_known_text(text)


def _is_image_type(text: str) -> bool:
    words = re.split(r"[_ ]+", text)
    return text == text.upper() and all(len(word) <= 3 or word in _IMAGE_TYPES or is_known_text(word) for word in words)


def _is_option(text: str) -> bool:
    """Vendors' options are short letters or imaging terms, with or without the vendor's own suffix."""
    return all(len(word) <= 3 or word == "GEMS" or is_known_text(word) for word in re.split(r"[_ ]+", text))


_RULES: Mapping[int, Callable[[str], object]] = {
    0x00080008: _is_image_type,
    0x00180015: _is_body_part,
    0x00180022: _is_option,
    0x00187050: _MATERIALS.__contains__,
    0x00200020: _ORIENTATION.fullmatch,
    0x00282114: _LOSSY_METHOD.fullmatch,
}
_OTHERWISE = {0x00080008: "OTHER"}
# Rules that let short words of any kind pass, and what stays of them whatever the person is called
_OPEN_RULES = {0x00080008: _IMAGE_TYPES, 0x00180022: _SCAN_OPTIONS}

# Technical attributes: acquisition, image, nuclear medicine; Manufacturer, its model, software versions of the standard
_TECHNICAL_GROUPS = frozenset({0x0018, 0x0028, 0x0054})
_TECHNICAL = frozenset({0x00080070, 0x00081090})
_PROSE = re.compile(r"Description|Comment|Text|Reason|ProtocolName|Label$")
_SUSPICIOUS = re.compile(
    r"""(?<!\d)(?:1[89]|20)\d\d[-./_ ]\d{1,2}[-./_ ]\d{1,2}(?!\d)
    |(?<!\d)\d{1,2}[-./_ ]\d{1,2}[-./_ ](?:1[89]|20)\d\d(?!\d)
    |\d{1,2}[-./_ ]*(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*[-./_ ]*\d{2}
    |@|://|www\.|(?:\d[-/ ()]{0,2}){6}|[\x80-\xff]{3}|\x1b""",
    re.IGNORECASE | re.VERBOSE,
)
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\x00-\x7f]+")
_DIGITS_IN_A_ROW = re.compile(r"(?:\d[-./_ ()]{0,2}){6}")
_SHORT_NUMBER = 3
_DOCUMENT_TYPES = frozenset({"application/pdf", "text/xml", "model/stl", "model/obj", "model/mtl", "text/plain"})
_TEMPLATE = re.compile(r"\d{1,5}")
_CONTEXT = re.compile(r"(?:CID ?)?\d{1,5}")
_SCHEME_VERSION = re.compile(
    r"[vV]?\d{1,3}(?:\.\d{1,4}){0,2}|(?:19[89]|20\d)\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])|20\d\d[a-z]?"
)
_NUMBERED_BY_STANDARD: Mapping[int, Callable[[str], bool]] = {
    0x0040DB00: lambda text: _TEMPLATE.fullmatch(text) is not None,
    0x00080102: lambda text: text in PUBLISHED_SCHEMES,
    0x00080103: lambda text: not text or _SCHEME_VERSION.fullmatch(text) is not None,
    0x00080105: lambda text: text in ("", "DCMR", "SDM", "99SDM"),  # Mapping Resource
    0x0008010F: lambda text: not text or _CONTEXT.fullmatch(text) is not None,
    0x00420012: lambda text: text in _DOCUMENT_TYPES,
}


@cache
def _label_words() -> frozenset[str]:
    """Words of names of attributes and of defined terms, and our own list, lower case."""
    names = (entry[2] for entry in DicomDictionary.values())
    said = (word for text in (*names, *terms.CODE_STRINGS) for word in re.findall(r"[A-Za-z]+", text.lower()))
    return frozenset(said) | vocabulary()


def _is_label(text: str) -> bool:
    """Whether every word is one of the standard's own or a known one, and numbers are short and few."""
    return _DIGITS_IN_A_ROW.search(text) is None and all(
        len(word) <= _SHORT_NUMBER if word.isdigit() else word in _label_words()
        for word in map(str.lower, _WORDS.findall(text))
    )


def tells_nothing(tag: int, vr: str, value: bytes | memoryview) -> bool:
    """Whether a text can be about no person: of an attribute that the table of PS3.15 does not name, or a safe private one."""
    if tag in _RULES or tag == terms.SPECIFIC_CHARACTER_SET or terms.is_defined(tag, vr, value):
        return True
    text = bytes(value).decode("latin-1").strip("\0 ")
    if tag in _NUMBERED_BY_STANDARD:
        return _NUMBERED_BY_STANDARD[tag](text)
    if _is_technical(tag) or (tag >> 16 & 1 and vr == "CS"):
        return _SUSPICIOUS.search(text) is None
    return _is_label(text) or (vr != "CS" and is_known_text(text))


@cache
def _is_technical(tag: int) -> bool:
    """A description or comment is prose, whatever it is about."""
    technical = tag >> 16 in _TECHNICAL_GROUPS or tag in _TECHNICAL
    return technical and tag in DicomDictionary and _PROSE.search(DicomDictionary[tag][4]) is None


def has_rule(tag: int) -> bool:
    """Whether the attribute's values are known one by one."""
    return tag in _RULES


def code_string(value: bytes | memoryview) -> bytes | memoryview | None:
    """A Code String that is one (PS3.5 6.2: upper case, 16 characters)."""
    return value if _CODE_STRING.fullmatch(value) else None


def kept(tag: int, value: bytes | memoryview, names: Callable[[bytes], bool]) -> bytes | memoryview | None:
    """A Code String whose values have a rule, with what is unknown in it replaced; None where nothing may take its place.

    `names` says whether a value names the person.
    """
    rule, sure = _RULES[tag], _OPEN_RULES.get(tag)
    if len(value) > _LONGEST_LIST:
        return None
    texts = [text.strip() for text in bytes(value).decode("latin-1").strip("\0 ").split("\\")]
    good = []
    for text in texts:
        known = not text or (rule(text) and (sure is None or text in sure or not names(text.encode("latin-1"))))
        good.append(
            text.upper() if known and code_string(text.upper().encode("utf-8")) is not None else _OTHERWISE.get(tag)
        )
    if None in good:
        return None
    return value if good == texts else "\\".join(map(str, good)).encode("ascii")
