"""Which instances a model may see: a table of rules, each with the reason that is shown.

Decoding is not tried here. Rules look at the instance table alone, so they can be applied to stored rows again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from medai_pipeline.records import Instance

SMALLEST_SIDE = 32  # pixels; less is an icon or a test pattern

# Modalities of PS3.3 C.7.3.1.1.1 whose objects are images of a patient.
IMAGE_MODALITIES = frozenset(
    {"CR", "CT", "DX", "ES", "GM", "IO", "IVUS", "MG", "MR", "NM", "OCT", "OP", "OT", "PT", "PX", "RF", "RG", "SM", "US",
     "XA", "XC"}
)  # fmt: skip
GREY_MODALITIES = frozenset({"CR", "CT", "DX", "MG", "MR", "RG", "PT", "NM", "XA", "RF", "PX", "IO"})

# SOP Classes that are no images of a patient, by what their UIDs begin with below 1.2.840.10008.5.1.4.1.1.
_ROOT = "1.2.840.10008.5.1.4.1.1."
NOT_IMAGES: tuple[tuple[str, str], ...] = (
    ("88.59", "a key object selection"),
    ("88.67", "a radiation dose report"),
    ("88.68", "a radiopharmaceutical dose report"),
    ("88.76", "a radiation dose report"),
    ("88.", "a structured report"),
    ("11.", "a presentation state"),
    ("66.4", "a segmentation"),
    ("66.5", "a segmentation"),
    ("66.7", "a segmentation"),
    ("66.6", "tractography"),
    ("66.", "a registration"),
    ("66", "raw data"),
    ("481.", "a radiotherapy object"),
    ("9.", "a waveform"),
    ("104.", "an encapsulated document"),
    ("30", "a parametric map"),
    ("68", "a surface scan"),
    ("78", "a measurement"),
    ("79", "a measurement"),
    ("80", "a measurement"),
    ("77.1.5.3", "a stereometric relationship"),
    ("131", "a display layout"),
    ("200", "a protocol"),
    ("91.", "annotations"),
    ("67", "a real world value mapping"),
    ("4.2", "spectroscopy"),
)

# Images of a patient (PS3.4 B.5): what is neither here nor above is not known to be one.
_IMAGES = re.compile(r"(1|1\.[123](\.1)?|2|2\.[12]|3|3\.1|4|4\.[134]|5|6|6\.[12]|7|7\.[1-4]|12\.[123]|12\.[12]\.1|13\.1\.[1-5]|14\.[12]|20|77\.1\.\d+(\.\d+)?|128|128\.1|130)")  # fmt: skip
_SECONDARY_CAPTURE = re.compile(r"7(\.\d)?")
_CROSS_SECTIONS = frozenset({"CT", "MR", "PT", "NM"})
_LOSSY = frozenset(f"1.2.840.10008.1.2.4.{end}" for end in (50, 51, 81, 91, 203))

# Values of Image Type that name what was computed from acquired images -> what to call it
DERIVED: dict[str, str] = {
    **dict.fromkeys(("MPR", "CSA MPR", "REFORMATTED", "CURVED", "RESAMPLED"), "a reformatted image"),
    **dict.fromkeys(
        ("MIP", "MINIP", "MAX_IP", "MIN_IP", "MEAN_IP", "MIP THIN", "PROJECTION IMAGE", "AVERAGE"), "a projection"
    ),
    **dict.fromkeys(("VRT", "RENDERING", "VOLREN", "VOLUME RENDERING", "3D"), "a rendering"),
    **dict.fromkeys(("ADC", "EADC", "FA", "COLFA", "QUANTITY", "T1_MAP", "T2_MAP"), "a computed map"),
    **dict.fromkeys(("CBF", "CBV", "MTT", "TTP", "TMAX", "RCBF", "RCBV", "RMTT"), "a perfusion map"),
    **dict.fromkeys(("PHASE", "PHASE MAP", "PHASE_MAP", "P"), "a phase image"),
    "I": "an imaginary image",
    "SUBTRACTION": "a subtraction",
}
SHEETS = frozenset({"DOSE", "DOSE_INFO", "PROT", "CT_SOM5 PROT", "CT_SOM7 PROT"})
SCREENS = frozenset({"SCREEN", "SCREEN SAVE", "CAPTURE", "SECONDARY CAPTURE", "REPORT", "CSA REPORT", "CSA RESULT", "RESULT", "GRAPH", "SUMMARY"})  # fmt: skip
# Instance.content -> reason
CONTENTS: dict[str, str] = {
    "own-result": "a result of this pipeline, not an image",
    "dose-sheet": "a dose sheet",
    "screen": "a picture of a screen",
    "localizer": "a localizer",
    "workstation": "made at a workstation, not acquired",
    "synthetic": "synthetic, not acquired",
    "drawing": "a drawing",
    "scanned-document": "a scanned document",
    "scanned-image": "a scanned picture",
}

MADE_FROM_OTHERS = "derived from other images"
# Reasons that yield where a study holds nothing better: these are still pictures of the patient's body.
LAST_RESORT = frozenset({MADE_FROM_OTHERS, CONTENTS["workstation"]})


@dataclass(frozen=True, slots=True)
class Rule:
    """`applies` gives the reason why an instance may not be seen, or ""."""

    name: str
    applies: Callable[[Instance], str]


def known_no_image(instance: Instance) -> bool:
    """Whether its SOP Class says that it is no image: a report, a key object, a presentation state, ..."""
    rest = instance.sop_class_uid.removeprefix(_ROOT)
    return rest != instance.sop_class_uid and any(_begins(rest, start) for start, _ in NOT_IMAGES)


def _not_an_image(instance: Instance) -> str:
    """By SOP Class: reports, presentation states, dose reports, segmentations; and what is not known to be an image."""
    uid = instance.sop_class_uid
    rest = uid.removeprefix(_ROOT)
    if uid == rest:
        return "not an image of a patient: its SOP Class is private or holds no image"
    what = next((what for start, what in NOT_IMAGES if _begins(rest, start)), "")
    if what:
        return f"not an image but {what}"
    return "" if _IMAGES.fullmatch(rest) else "not known to be an image: its SOP Class is new or retired"


def _begins(rest: str, start: str) -> bool:
    return rest.startswith(start) if start.endswith(".") else rest == start or rest.startswith(start + ".")


def _no_pixels(instance: Instance) -> str:
    return "" if instance.rows and instance.columns else "no image: rows or columns are missing"


def _unknown_modality(instance: Instance) -> str:
    if instance.modality in IMAGE_MODALITIES:
        return ""
    return f"unknown modality {instance.modality}" if instance.modality else "no modality stated"


def _localizer(instance: Instance) -> str:
    """PS3.3 C.8.2.1.1.1 and C.8.3.1.1.1: value 3 of Image Type; enhanced objects say it frame by frame (see `pixels`)."""
    return "a localizer" if {"LOCALIZER", "SCOUT"} & set(instance.image_type) else ""


def _sheet(instance: Instance) -> str:
    return "a dose sheet" if SHEETS & set(instance.image_type) else ""


def _screen(instance: Instance) -> str:
    return "a picture of a screen" if SCREENS & set(instance.image_type) and _cross_section(instance) else ""


def _content(instance: Instance) -> str:
    return CONTENTS.get(instance.content, "")


def _secondary_capture(instance: Instance) -> str:
    """A digitized film is a Secondary Capture too; a slice of CT, MR, PET or NM never is."""
    capture = _SECONDARY_CAPTURE.fullmatch(instance.sop_class_uid.removeprefix(_ROOT))
    return f"a secondary capture of modality {instance.modality}" if capture and _cross_section(instance) else ""


def _derived(instance: Instance) -> str:
    """PS3.3 C.7.6.1.1.2. DERIVED alone may mean lossy compression or a film's processing: then nothing is against it."""
    if not _cross_section(instance):
        return "a subtraction" if "SUBTRACTION" in instance.image_type else ""
    named = next((DERIVED[value] for value in instance.image_type if value in DERIVED), "")
    if named:
        return named
    made_later = instance.image_type[:2] == ("DERIVED", "SECONDARY")
    return MADE_FROM_OTHERS if made_later and instance.transfer_syntax_uid not in _LOSSY else ""


def _cross_section(instance: Instance) -> bool:
    return instance.modality in _CROSS_SECTIONS


def _colour(instance: Instance) -> str:
    colour = instance.samples_per_pixel > 1 or instance.photometric == "PALETTE COLOR"
    return f"a colour image of modality {instance.modality}" if colour and instance.modality in GREY_MODALITIES else ""


def _too_small(instance: Instance) -> str:
    small = min(instance.rows, instance.columns) < SMALLEST_SIDE
    return f"smaller than {SMALLEST_SIDE} pixels" if small else ""


RULES: tuple[Rule, ...] = (
    Rule("sop-class", _not_an_image),
    Rule("no-pixels", _no_pixels),
    Rule("modality", _unknown_modality),
    Rule("localizer", _localizer),
    Rule("dose-sheet", _sheet),
    Rule("screen", _screen),
    Rule("content", _content),
    Rule("secondary-capture", _secondary_capture),
    Rule("derived", _derived),
    Rule("colour", _colour),
    Rule("size", _too_small),
)


def select(instances: Iterable[Instance]) -> tuple[Instance, ...]:
    """The same instances, each with `usable` and the first reason against it ("" when usable).

    A Secondary Capture or DERIVED image is no reason by itself: digitized films are the one, processed or recompressed
    images the other. Slices of CT, MR, PET and NM that were captured, reformatted, projected or computed are left out.
    """
    return tuple(_judged(instance) for instance in instances)


def last_resort(instances: Iterable[Instance]) -> list[Instance]:
    """Images against which nothing speaks but a reason of LAST_RESORT."""
    reasons = ((instance, {rule.applies(instance) for rule in RULES} - {""}) for instance in instances)
    return [instance for instance, against in reasons if against and against <= LAST_RESORT]


def _judged(instance: Instance) -> Instance:
    reason = next((reason for rule in RULES if (reason := rule.applies(instance))), "")
    return replace(instance, usable=not reason, reason=reason)
