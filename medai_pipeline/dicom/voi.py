"""VOI LUT (PS3.3 C.11.2): which values an image itself wants shown, as a window or as a table."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from medai_pipeline.dicom.attributes import Attributes
from medai_pipeline.dicom.functional_groups import FRAME_VOI_LUT, FunctionalGroups
from medai_pipeline.dicom.lut import Table, table
from medai_pipeline.errors import UndecodablePixels

_CENTRE, _WIDTH, _FUNCTION, _VOI_LUT_SEQUENCE = 0x00281050, 0x00281051, 0x00281056, 0x00283010
_LARGEST = 1e30
_STEEPEST = 50.0  # beyond it exp() adds nothing


@dataclass(frozen=True, slots=True)
class Voi:
    """The first window with its VOI LUT Function (LINEAR, LINEAR_EXACT, SIGMOID), or the first table."""

    centre: float = 0.0
    width: float = 1.0
    function: str = "LINEAR"
    lut: Table | None = field(default=None, compare=False)

    @property
    def window(self) -> tuple[float, float]:
        """(centre, width) in terms of LINEAR (C.11.2.1.2.1): an exact window (C.11.2.1.3.2) is shifted and widened."""
        if self.function == "LINEAR_EXACT":
            return self.centre + 0.5, self.width + 1
        return self.centre, self.width


def voi(attributes: Attributes, groups: FunctionalGroups, frame: int, signed_input: bool) -> Voi | None:
    """What frame `frame` (from 1) carries; None when nothing usable. Of several alternatives the first counts."""
    source = groups.of(frame, FRAME_VOI_LUT) or attributes
    centres, widths = source.numbers(_CENTRE), source.numbers(_WIDTH)
    if centres and widths and abs(centres[0]) < _LARGEST:
        found = Voi(centres[0], widths[0], source.text(_FUNCTION) or "LINEAR")
        if _usable(found):
            return found
    for item in attributes.items(_VOI_LUT_SEQUENCE)[:1]:
        try:
            return Voi(lut=table(item, signed_input))
        except UndecodablePixels:  # a table that is not whole: the image is still good without it
            return None
    return None


def voi_windows(source: Attributes) -> list[Voi]:
    """All usable windows of an image, or of a frame's VOI macro, in their order: a person may choose among them."""
    pairs = zip(source.numbers(_CENTRE), source.numbers(_WIDTH), strict=False)
    function = source.text(_FUNCTION) or "LINEAR"
    found = [Voi(centre, width, function) for centre, width in pairs if abs(centre) < _LARGEST]
    return [one for one in found if _usable(one)]


def _usable(found: Voi) -> bool:
    """LINEAR needs a width of at least 1, the others a positive one (C.11.2.1.2.1, C.11.2.1.3)."""
    smallest = 1.0 if found.function not in ("LINEAR_EXACT", "SIGMOID") else math.ulp(1.0)
    return smallest <= found.width < _LARGEST


def presented(values: np.ndarray, found: Voi | None) -> tuple[np.ndarray, tuple[float, float] | None]:
    """Modality values and the LINEAR window (centre, width) that shows them.

    A SIGMOID (C.11.2.1.3.1) and a table are not linear: they are applied, and the window is the range of their output.
    """
    if found is None:
        return values, None
    if found.lut is not None:
        return found.lut.apply(values).astype(np.float32), _whole_range(found.lut.largest)
    if found.function == "SIGMOID":
        steepness = np.clip(-4 * (values - found.centre) / found.width, -_STEEPEST, _STEEPEST)
        return (1 / (1 + np.exp(steepness))).astype(np.float32), _whole_range(1)
    return values, found.window


def _whole_range(largest: int) -> tuple[float, float]:
    """The LINEAR window whose lowest value is 0 and whose highest is `largest`."""
    return (largest + 1) / 2, largest + 1
