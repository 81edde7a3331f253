"""Which instances a model may see: a table of rules, each with the reason that is shown.

Decoding is not tried here. Rules look at the instance table alone, so they can be applied to stored rows again.
"""

from __future__ import annotations

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
    ("88.", "a structured report"),
    ("11.", "a presentation state"),
    ("66", "a segmentation or registration"),
    ("481.", "a radiotherapy object"),
    ("9.", "a waveform"),
    ("104.", "an encapsulated document"),
    ("30", "a parametric map"),
    ("91.", "annotations"),
    ("67", "a real world value mapping"),
    ("4.2", "spectroscopy"),
)


@dataclass(frozen=True, slots=True)
class Rule:
    """`applies` gives the reason why an instance may not be seen, or ""."""

    name: str
    applies: Callable[[Instance], str]


def _not_an_image(instance: Instance) -> str:
    if not instance.sop_class_uid.startswith(_ROOT):
        return ""
    rest = instance.sop_class_uid.removeprefix(_ROOT)
    return next((f"not an image but {what}" for start, what in NOT_IMAGES if _begins(rest, start)), "")


def _begins(rest: str, start: str) -> bool:
    return rest.startswith(start) if start.endswith(".") else rest == start or rest.startswith(start + ".")


def _no_pixels(instance: Instance) -> str:
    return "" if instance.rows and instance.columns else "no image: rows or columns are missing"


def _unknown_modality(instance: Instance) -> str:
    if instance.modality in IMAGE_MODALITIES:
        return ""
    return f"unknown modality {instance.modality}" if instance.modality else "no modality stated"


def _localizer(instance: Instance) -> str:
    return "a localizer" if {"LOCALIZER", "SCOUT"} & set(instance.image_type) else ""


def _screen(instance: Instance) -> str:
    return "a picture of a screen" if "SCREEN" in instance.image_type and instance.modality in {"CT", "MR"} else ""


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
    Rule("screen", _screen),
    Rule("colour", _colour),
    Rule("size", _too_small),
)


def select(instances: Iterable[Instance]) -> tuple[Instance, ...]:
    """The same instances, each with `usable` and the first reason against it ("" when usable).

    A Secondary Capture or DERIVED image is no reason by itself: digitized films and recompressed images are both.
    """
    return tuple(_judged(instance) for instance in instances)


def _judged(instance: Instance) -> Instance:
    reason = next((reason for rule in RULES if (reason := rule.applies(instance))), "")
    return replace(instance, usable=not reason, reason=reason)
