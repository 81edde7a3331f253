"""One line of the instance table, from the elements of the de-identified file as it was written.

Everything here is measured or from a fixed vocabulary: no text of the source.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from medai_pipeline.dicom.attributes import Attributes
from medai_pipeline.dicom.bodypart import body_part
from medai_pipeline.dicom.own import is_own_result
from medai_pipeline.dicom.residue import Residue
from medai_pipeline.records import Instance


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TERM = re.compile(r"[A-Z0-9_]{1,8}")
_IMAGE_TYPES = _words("""
    ORIGINAL DERIVED PRIMARY SECONDARY AXIAL LOCALIZER SCOUT OTHER MPR REFORMATTED PROJECTION IMAGE MIXED VOLUME
    M P R I MAGNITUDE PHASE REAL NONE NORM DIS2D DIS3D FFE SE ADC DIFFUSION PERFUSION RESAMPLED SUBTRACTION MIP
    SCREEN CAPTURE AVERAGE MINIP MAX_IP MIN_IP MEAN_IP CURVED VRT RENDERING VOLREN 3D EADC FA TRACEW COLFA QUANTITY SUMMARY
    CBF CBV MTT TTP TMAX RCBF RCBV RMTT PHASE_MAP T1_MAP T2_MAP REPORT DOSE DOSE_INFO GRAPH RESULT STRUCTURED PROT
""") | {"SCREEN SAVE", "CSA MPR", "CSA REPORT", "CSA RESULT", "CT_SOM5 PROT", "CT_SOM7 PROT", "MIP THIN", "PROJECTION IMAGE",
        "PHASE MAP", "VOLUME RENDERING", "SECONDARY CAPTURE"}  # fmt: skip
_PHOTOMETRIC = _words(
    "MONOCHROME1 MONOCHROME2 RGB YBR_FULL YBR_FULL_422 YBR_PARTIAL_422 YBR_PARTIAL_420 YBR_ICT YBR_RCT XYB"
) | {"PALETTE COLOR"}
_VIEWS = _words("AP PA LL RL LAT LLD LLO RLD RLO CC MLO ML LM LATERAL")
# Conversion Type (PS3.3 C.8.6.1) -> what a Secondary Capture was made from
_CONVERSIONS = {
    "WSD": "workstation", "SYN": "synthetic", "DRW": "drawing", "SD": "scanned-document", "SI": "scanned-image",
    "DF": "digitized-film", "DV": "video", "DI": "digital-interface",
}  # fmt: skip
# Series Description, Protocol Name and Image Comments are removed; what they say of the object is found before that.
_DESCRIPTIONS = (0x0008103E, 0x00181030, 0x00204000)
_DESCRIBED = (
    ("dose-sheet", re.compile(r"\bDOSE[ _-]*(REPORT|INFO|RECORD|SHEET|SUMMARY|PAGE)|PATIENT[ _]PROTOCOL|EXAM[ _]PROTOCOL", re.I)),
    ("screen", re.compile(r"\bSCREEN[ _-]*(SAVE|SHOT|CAPTURE)", re.I)),
    ("localizer", re.compile(r"^\W*(LOCALI[SZ]ERS?|SCOUTS?|TOPOGRAMS?|SURVIEWS?|SCANOGRAMS?|SURVEY|LOC)\b", re.I)),
)  # fmt: skip
OWN_RESULT = "own-result"
CONTENTS = frozenset(_CONVERSIONS.values()) | {term for term, _ in _DESCRIBED} | {OWN_RESULT}
_SHARED, _PER_FRAME = 0x52009229, 0x52009230


def instance_row(
    attributes: Attributes,
    new_uid: Callable[[str, int], str],
    transfer_syntax: str,
    sha256: str,
    source: Attributes | None = None,
    left: Residue = Residue(),  # noqa: B008 - a tuple that nobody changes
) -> Instance:
    """The columns of one instance; UIDs through `new_uid(uid, tag)`; `left` is what a second look found of an identity.

    Body part and content are looked for in the descriptions of `source`, where `attributes` have none left: terms of a
    fixed vocabulary, so nothing else of it can be carried over.
    """
    described = source or attributes
    pixels = 0x00280010 in attributes
    return Instance(
        sop_instance_uid=new_uid(attributes.text(0x00080018), 0x00080018),
        series_instance_uid=new_uid(attributes.text(0x0020000E), 0x0020000E),
        study_instance_uid=new_uid(attributes.text(0x0020000D), 0x0020000D),
        sop_class_uid=new_uid(attributes.text(0x00080016), 0x00080016),
        transfer_syntax_uid=transfer_syntax,
        modality=_term(attributes.text(0x00080060)),
        source_sha256=sha256,
        body_part=body_part(described),
        view_position=_among(attributes.text(0x00185101), _VIEWS),
        laterality=_among(attributes.text(0x00200062) or attributes.text(0x00200060), frozenset("LRBU")),
        photometric=_among(attributes.text(0x00280004), _PHOTOMETRIC),
        rows=attributes.short(0x00280010),
        columns=attributes.short(0x00280011),
        frames=max(1, attributes.integer(0x00280008)) if pixels else 0,
        samples_per_pixel=attributes.short(0x00280002) or 1,
        bits_stored=attributes.short(0x00280101),
        instance_number=attributes.integer(0x00200013),
        spacing_mm=_spacing(attributes),
        orientation=_numbers(attributes, 0x00200037, 6, 0x00209116),
        position_mm=_numbers(attributes, 0x00200032, 3, 0x00209113),  # type: ignore[arg-type]
        slice_thickness_mm=_thickness(attributes),
        image_type=tuple(value for value in attributes.texts(0x00080008) if value in _IMAGE_TYPES),
        burned_in_annotation=_among(attributes.text(0x00280301), frozenset({"YES", "NO"})),
        patient_identity_removed=_among(attributes.text(0x00120062), frozenset({"YES", "NO"})),
        content=content_of(described),
        private_elements=left.private_elements,
        identity_values=left.identity_values,
    )


def content_of(attributes: Attributes) -> str:
    """A term of CONTENTS for what is no acquisition, or was no file at first; "" for everything else."""
    if is_own_result(attributes.text(0x00080070), attributes.text(0x00080016)):
        return OWN_RESULT
    for tag in _DESCRIPTIONS:
        if found := _described(attributes.text(tag)):
            return found
    return _CONVERSIONS.get(attributes.text(0x00080064), "")


@lru_cache(maxsize=64)  # slices of a series say the same
def _described(text: str) -> str:
    return next((term for term, pattern in _DESCRIBED if pattern.search(text)), "") if text else ""


def _term(text: str) -> str:
    return text if _TERM.fullmatch(text) else ""


def _among(text: str, known: frozenset[str]) -> str:
    return text if text in known else ""


def _spacing(attributes: Attributes) -> tuple[float, float] | None:
    """Pixel Spacing, else Imager Pixel Spacing (at the detector, PS3.3 10.7.1.3); only what is positive."""
    ways: tuple[Callable[[], tuple[float, ...]], ...] = (
        lambda: attributes.numbers(0x00280030),
        lambda: _functional_group(attributes, 0x00289110).numbers(0x00280030),
        lambda: attributes.numbers(0x00181164),
    )
    for way in ways:
        values = way()
        if len(values) == 2 and min(values) > 0:
            return values[0], values[1]
    return None


def _thickness(attributes: Attributes) -> float | None:
    values = attributes.numbers(0x00180050) or _functional_group(attributes, 0x00289110).numbers(0x00180050)
    return values[0] if len(values) == 1 and values[0] > 0 else None


def _numbers(attributes: Attributes, tag: int, count: int, group: int) -> tuple[float, ...] | None:
    values = attributes.numbers(tag) or _functional_group(attributes, group).numbers(tag)
    return values if len(values) == count else None


def _functional_group(attributes: Attributes, tag: int) -> Attributes:
    """A functional group of an enhanced object (PS3.3 C.7.6.16): shared, else of the first frame."""
    shared = attributes.first(_SHARED, tag)
    return shared if shared.elements else attributes.first(_PER_FRAME, tag)
