"""Where one frame stands: its numbers in the study, its place in the patient, and which side of the patient is where.

What a reader needs to find the same image in a viewer. Read from the de-identified file; no pixels are decoded.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medai_pipeline.dicom.attributes import Attributes
from medai_pipeline.dicom.functional_groups import PLANE_ORIENTATION, PLANE_POSITION, FunctionalGroups
from medai_pipeline.dicom.read import check_whole
from medai_pipeline.records import ImagePlace

_SERIES_NUMBER, _INSTANCE_NUMBER, _FRAMES = 0x00200011, 0x00200013, 0x00280008
_ORIENTATION, _POSITION, _PATIENT_ORIENTATION = 0x00200037, 0x00200032, 0x00200020
_TOWARDS = (("L", "R"), ("P", "A"), ("H", "F"))  # growing and falling x, y, z (PS3.3 C.7.6.2.1.1)
_OPPOSITE = {"L": "R", "R": "L", "A": "P", "P": "A", "H": "F", "F": "H"}
_TILTED = 0.3  # share of a direction from which its second letter is written, as in "LA"


def whereabouts(data: bytes, frame: int = 1, images: int = 1) -> ImagePlace:
    """The place of one frame (from 1) of a file, in a series of `images` images. Raises NotDicom, TruncatedFile."""
    attributes = Attributes(check_whole(data).elements)
    return place_of(attributes, FunctionalGroups(attributes), frame, images)


def place_of(attributes: Attributes, groups: FunctionalGroups, frame: int, images: int = 1) -> ImagePlace:
    """The same of a file that is read already."""
    orientation = _numbers(attributes, groups, frame, PLANE_ORIENTATION, _ORIENTATION, 6)
    position = _numbers(attributes, groups, frame, PLANE_POSITION, _POSITION, 3)
    axis, depth = _depth(orientation, position)
    return ImagePlace(
        series_number=_known(attributes, _SERIES_NUMBER),
        instance_number=_known(attributes, _INSTANCE_NUMBER),
        images=images,
        frame=frame,
        frames=max(1, attributes.integer(_FRAMES)),
        axis=axis,
        position_mm=depth,
        edges=edge_letters(orientation) or film_letters(attributes.texts(_PATIENT_ORIENTATION)),
    )


def edge_letters(orientation: Sequence[float]) -> tuple[str, ...]:
    """What lies beyond the left, right, top and bottom edge by ImageOrientationPatient; () where that makes no sense."""
    if len(orientation) != 6:
        return ()
    across, down = _letters(orientation[:3]), _letters(orientation[3:])
    return _edges(across, down) if across and down else ()


def film_letters(directions: Sequence[str]) -> tuple[str, ...]:
    """The same by Patient Orientation (PS3.3 C.7.6.1.1.1), whose two values name what rows and columns run towards."""
    if len(directions) != 2 or not all(word and set(word) <= set(_OPPOSITE) for word in directions):
        return ()
    return _edges(directions[0][:2], directions[1][:2])


def _edges(across: str, down: str) -> tuple[str, ...]:
    return (_turned(across), across, _turned(down), down)


def _turned(letters: str) -> str:
    return "".join(_OPPOSITE[letter] for letter in letters)


def _letters(direction: Sequence[float]) -> str:
    """The side a direction runs towards: the greatest part first, a second one where it is tilted."""
    order = sorted(range(3), key=lambda at: -abs(direction[at]))
    strongest = abs(direction[order[0]])
    if not np.isfinite(direction).all() or strongest <= 0:
        return ""
    kept = [at for at in order[:2] if at == order[0] or abs(direction[at]) >= _TILTED * strongest]
    return "".join(_TOWARDS[at][direction[at] < 0] for at in kept)


def _depth(orientation: Sequence[float], position: Sequence[float]) -> tuple[str, float | None]:
    """The patient axis nearest to the slice's normal, and how far along the normal the slice lies, in that axis's sense."""
    if len(orientation) != 6 or len(position) != 3:
        return "", None
    normal = np.cross(orientation[:3], orientation[3:])
    length = float(np.linalg.norm(normal))
    if not np.isfinite(length) or length < 0.5 or not np.isfinite(position).all():
        return "", None
    axis = int(np.argmax(np.abs(normal)))
    return "xyz"[axis], float(np.dot(position, normal / length) * np.sign(normal[axis]))


def _numbers(
    attributes: Attributes, groups: FunctionalGroups, frame: int, macro: int, tag: int, count: int
) -> tuple[float, ...]:
    group = groups.of(frame, macro)
    values = (group.numbers(tag) if group else ()) or attributes.numbers(tag)
    return values if len(values) == count else ()


def _known(attributes: Attributes, tag: int) -> int | None:
    return attributes.integer(tag) if attributes.text(tag) else None
