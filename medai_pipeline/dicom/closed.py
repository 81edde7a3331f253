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

# Technical attributes: acquisition, image, nuclear medicine; Manufacturer, its model, software versions of the standard
_TECHNICAL_GROUPS = frozenset({0x0018, 0x0028, 0x0054})
_TECHNICAL = frozenset({0x00080070, 0x00081090})
_SUSPICIOUS = re.compile(
    r"""(?<!\d)(?:1[89]|20)\d\d[-./_ ]\d{1,2}[-./_ ]\d{1,2}(?!\d)
    |(?<!\d)\d{1,2}[-./_ ]\d{1,2}[-./_ ](?:1[89]|20)\d\d(?!\d)
    |\d{1,2}[-./_ ]*(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*[-./_ ]*\d{2}
    |@|://|www\.|(?:\d[-/ ()]{0,2}){6}""",
    re.IGNORECASE | re.VERBOSE,
)
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\x00-\x7f]+")
_SHORT_NUMBER = 3
_DOCUMENT_TYPES = frozenset({"application/pdf", "text/xml", "model/stl", "model/obj", "model/mtl", "text/plain"})
_TEMPLATE = re.compile(r"\d{1,5}")
_NUMBERED_BY_STANDARD: Mapping[int, Callable[[str], bool]] = {
    0x0040DB00: lambda text: _TEMPLATE.fullmatch(text) is not None,
    0x00080102: lambda text: text in PUBLISHED_SCHEMES,
    0x00420012: lambda text: text in _DOCUMENT_TYPES,
}


@cache
def _label_words() -> frozenset[str]:
    """Words of names of attributes and of defined terms, and our own list, lower case."""
    names = (entry[2] for entry in DicomDictionary.values())
    said = (word for text in (*names, *terms.CODE_STRINGS) for word in re.findall(r"[A-Za-z]+", text.lower()))
    return frozenset(said) | vocabulary()


def _is_label(text: str) -> bool:
    """Whether every word is one of the standard's own or a known one, and no number is long."""
    return all(
        len(word) <= _SHORT_NUMBER if word.isdigit() else word in _label_words()
        for word in map(str.lower, _WORDS.findall(text))
    )


def tells_nothing(tag: int, vr: str, value: bytes | memoryview) -> bool:
    """Whether a text of an attribute that the table of PS3.15 does not name can be about no person."""
    if tag in _RULES or tag == terms.SPECIFIC_CHARACTER_SET or terms.is_defined(tag, vr, value):
        return True
    text = bytes(value).decode("latin-1").strip("\0 ")
    if tag in _NUMBERED_BY_STANDARD:
        return _NUMBERED_BY_STANDARD[tag](text)
    if tag >> 16 in _TECHNICAL_GROUPS or tag in _TECHNICAL:
        return _SUSPICIOUS.search(text) is None
    return _is_label(text) or (vr != "CS" and is_known_text(text))


def has_rule(tag: int) -> bool:
    """Whether the attribute's values are known one by one."""
    return tag in _RULES


def kept(tag: int, value: bytes | memoryview) -> bytes | memoryview | None:
    """A Code String (PS3.5 6.2: upper case) with what is unknown in it replaced; None where nothing may take its place."""
    rule = _RULES.get(tag)
    if rule is None:
        return value if _CODE_STRING.fullmatch(value) else None
    texts = [text.strip() for text in bytes(value).decode("latin-1").strip("\0 ").split("\\")]
    good = [text if not text or rule(text) else _OTHERWISE.get(tag) for text in texts]
    if None in good:
        return None
    return value if good == texts else "\\".join(map(str, good)).encode("ascii")
