"""What a header says of its pixels (PS3.3 C.7.6.3), taken once and checked before a byte is decoded."""

from __future__ import annotations

from dataclasses import dataclass

from medai_pipeline.dicom.attributes import Attributes
from medai_pipeline.dicom.elements import PIXEL_DATA, Element
from medai_pipeline.dicom.limits import check_frame_claim
from medai_pipeline.errors import NoPixels, UndecodablePixels

FLOAT_PIXEL_DATA, DOUBLE_FLOAT_PIXEL_DATA = 0x7FE00008, 0x7FE00009
_SAMPLES = {"MONOCHROME1": 1, "MONOCHROME2": 1, "PALETTE COLOR": 1}
_COLOURS = frozenset(
    {"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT", "XYB"}
)
PHOTOMETRIC = _COLOURS | frozenset(_SAMPLES)


@dataclass(frozen=True, slots=True)
class Description:
    """`high_bit` counts from 0. `floating`: values are FL or FD, and only rows, columns and frames mean anything."""

    rows: int
    columns: int
    frames: int
    samples: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    photometric: str
    planar: bool
    floating: bool

    @property
    def frame_bits(self) -> int:
        """Bits of one decoded frame, as allocated."""
        return self.rows * self.columns * self.samples * self.bits_allocated

    @property
    def frame_bytes(self) -> int:
        return (self.frame_bits + 7) // 8


def pixel_element(attributes: Attributes) -> Element:
    """The element that holds the pixels. Raises NoPixels."""
    for tag in (PIXEL_DATA, FLOAT_PIXEL_DATA, DOUBLE_FLOAT_PIXEL_DATA):
        element = attributes.elements.get(tag)
        if element is not None and len(element.value):
            return element
    raise NoPixels("the object has no image; it is kept but not analyzed")


def describe(attributes: Attributes) -> Description:
    """Raises NoPixels; UndecodablePixels when the attributes contradict each other or claim too much."""
    element = pixel_element(attributes)
    rows, columns = attributes.short(0x00280010), attributes.short(0x00280011)
    if not rows or not columns:
        raise NoPixels("the object has no image; it is kept but not analyzed")
    frames = max(1, attributes.integer(0x00280008))
    floating = {FLOAT_PIXEL_DATA: 32, DOUBLE_FLOAT_PIXEL_DATA: 64}.get(element.tag, 0)
    photometric = attributes.text(0x00280004)
    samples = attributes.short(0x00280002) or _SAMPLES.get(photometric, 3 if photometric in _COLOURS else 1)
    allocated = floating or attributes.short(0x00280100) or (16 if element.vr == b"OW" else 8)
    stored = attributes.short(0x00280101) or allocated
    check_frame_claim(rows, columns, samples, allocated, frames)
    if samples not in (1, 3) or (samples == 1) != (photometric not in _COLOURS):
        raise UndecodablePixels("samples per pixel and photometric interpretation disagree; correct the object")
    if stored > allocated:
        raise UndecodablePixels(f"{stored} bits are stored in {allocated} allocated; correct the object")
    high = attributes.short(0x00280102) if 0x00280102 in attributes else stored - 1
    return Description(
        rows=rows,
        columns=columns,
        frames=frames,
        samples=samples,
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=high if stored - 1 <= high < allocated else stored - 1,
        signed=attributes.short(0x00280103) == 1,
        photometric=photometric,
        planar=attributes.short(0x00280006) == 1,
        floating=bool(floating),
    )
