"""Functional groups of enhanced multi-frame objects (PS3.3 C.7.6.16): what holds for one frame, and the frames' order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medai_pipeline.dicom.attributes import Attributes

PIXEL_VALUE_TRANSFORMATION, FRAME_VOI_LUT, PIXEL_MEASURES = 0x00289145, 0x00289132, 0x00289110
PLANE_POSITION, PLANE_ORIENTATION, FRAME_CONTENT = 0x00209113, 0x00209116, 0x00209111
_FRAME_TYPES = (0x00189226, 0x00189329, 0x00189751)  # MR, CT and PET image frame type macros
_SHARED, _PER_FRAME = 0x52009229, 0x52009230
_STACK, _IN_STACK, _TEMPORAL = 0x00209056, 0x00209057, 0x00209128
_SAME_DIRECTION = 1e-3


class FunctionalGroups:
    """The groups of one object; each sequence is read once, when first asked for."""

    def __init__(self, attributes: Attributes) -> None:
        self._attributes = attributes
        self._read: tuple[list[Attributes], list[Attributes]] | None = None

    def _items(self) -> tuple[list[Attributes], list[Attributes]]:
        if self._read is None:
            self._read = self._attributes.items(_PER_FRAME), self._attributes.items(_SHARED)[:1]
        return self._read

    @property
    def present(self) -> bool:
        return _PER_FRAME in self._attributes or _SHARED in self._attributes

    @property
    def count(self) -> int:
        """Items of the Per-frame Functional Groups Sequence."""
        return len(self._items()[0])

    def of(self, frame: int, macro: int) -> Attributes | None:
        """A macro's item for one frame (from 1): its own, else the shared one; None when neither is there."""
        if not self.present:
            return None
        own, shared = self._items()
        for group in (*own[frame - 1 : frame], *shared):
            items = group.items(macro)
            if items:
                return items[0]
        return None

    def frame_type(self, frame: int) -> tuple[str, ...]:
        """Frame Type (0008,9007), as Image Type but for one frame; () where there is none."""
        groups = (self.of(frame, macro) for macro in _FRAME_TYPES)
        return next((group.texts(0x00089007) for group in groups if group is not None), ())

    def spacing_mm(self, frame: int) -> tuple[float, float] | None:
        """Pixel Spacing of one frame as (row spacing, column spacing)."""
        group = self.of(frame, PIXEL_MEASURES)
        values = group.numbers(0x00280030) if group else ()
        return (values[0], values[1]) if len(values) == 2 and min(values) > 0 else None

    def order(self, frames: int) -> list[int]:
        """Frame numbers (from 1) as a person scrolls: stack by stack, time by time, along the normal of the slices.

        Stored order where geometry is missing; In-Stack Position Number where a stack's frames have no common normal.
        """
        numbers = range(1, frames + 1)
        if frames == 1 or not self.present:
            return list(numbers)
        content = {n: self.of(n, FRAME_CONTENT) or Attributes(()) for n in numbers}
        stacks: dict[str, list[int]] = {}
        for n in numbers:
            stacks.setdefault(content[n].text(_STACK), []).append(n)
        places: dict[int, float] = {}
        for members in stacks.values():
            depths = self._depths(members) or [_unsigned(content[n], _IN_STACK) for n in members]
            places.update(zip(members, depths, strict=True))
        stack_rank = {n: rank for rank, members in enumerate(stacks.values()) for n in members}
        return sorted(numbers, key=lambda n: (stack_rank[n], _unsigned(content[n], _TEMPORAL), round(places[n], 3), n))

    def _depths(self, members: Sequence[int]) -> list[float] | None:
        orientations = [self._numbers(n, PLANE_ORIENTATION, 0x00200037, 6) for n in members]
        positions = [self._numbers(n, PLANE_POSITION, 0x00200032, 3) for n in members]
        if not all(orientations) or not all(positions):
            return None
        rows = np.array(orientations)
        normals = np.cross(rows[:, :3], rows[:, 3:])
        if np.abs(normals - normals[0]).max() > _SAME_DIRECTION or not normals[0].any():
            return None
        return [float(depth) for depth in np.array(positions) @ normals[0]]

    def _numbers(self, frame: int, macro: int, tag: int, count: int) -> tuple[float, ...]:
        group = self.of(frame, macro)
        values = group.numbers(tag) if group else ()
        return values if len(values) == count and max(map(abs, values)) < 1e9 else ()


def _unsigned(attributes: Attributes, tag: int) -> int:
    values = attributes.unsigned_longs(tag)
    return values[0] if values else 0
