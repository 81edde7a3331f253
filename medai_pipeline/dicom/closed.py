"""Texts that the table of PS3.15 does not name and that have a closed purpose: what they may say.

Here belongs which values of such an attribute are known. Anything else in them is no value of the standard and may be a
name, so it goes. Attributes with an open list of vendor's terms are not here: they are kept unless they name the person.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import cache

from medai_pipeline.dicom.profile import resource
from medai_pipeline.dicom.words import is_known_text

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
