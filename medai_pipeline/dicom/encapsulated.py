"""Frames of encapsulated pixel data (PS3.5 A.4): which fragments belong to which frame. Nothing is decoded here.

Offset tables are a help, not the truth: writers leave them empty, and wrong ones are found and done without.
"""

from __future__ import annotations

import struct
from itertools import pairwise

from medai_pipeline.errors import UndecodablePixels

_ITEM = b"\xfe\xff\x00\xe0"
_END_OF_IMAGE = b"\xff\xd9"  # of all JPEG families; a pad byte may stand behind it


class Frames:
    """The frames of one element's value: `value` holds item headers and fragments, without the sequence delimiter.

    Raises UndecodablePixels when the fragments cannot be told apart into `count` frames.
    """

    def __init__(self, value: memoryview | bytes, count: int, extended_offsets: bytes = b"") -> None:
        self._value = memoryview(value)
        self._fragments = _fragments(self._value)
        offsets = self._offsets(count, extended_offsets)
        position, length = self._fragments[0]
        self.table = self._value[position : position + length]  # the Basic Offset Table
        self._fragments = self._fragments[1:]
        self._first = _by_offsets(self._fragments, offsets, count) or self._by_content(count)
        if len(self._first) < count:
            raise UndecodablePixels(
                f"the compressed data holds {len(self._first)} of {count} frames; send the object again"
            )

    def __len__(self) -> int:
        return len(self._first)

    @property
    def has_table(self) -> bool:
        return len(self.table) > 0

    @property
    def one_each(self) -> bool:
        """Whether each frame is one fragment."""
        return len(self._fragments) == len(self._first)

    @property
    def well_told(self) -> bool:
        """Whether nothing is beside the frames: the basic table is empty or true, and no bytes follow the fragments."""
        origin = self._fragments[0][0]
        offsets = [self._fragments[first][0] - origin for first in self._first]
        last, length = self._fragments[-1]
        told = not self.has_table
        if not told and offsets[-1] < 1 << 32:
            told = bytes(self.table) == struct.pack(f"<{len(offsets)}L", *offsets)
        return told and last + length == len(self._value)

    def frame(self, number: int) -> bytes:
        """The codestream of one frame, counted from 1."""
        start = self._first[number - 1]
        end = self._first[number] if number < len(self._first) else len(self._fragments)
        return b"".join(self._value[position : position + length] for position, length in self._fragments[start:end])

    def _offsets(self, count: int, extended: bytes) -> list[int]:
        """Offsets of the frames' items from the first fragment's, from the extended or the basic table; [] for none."""
        if not self._fragments:
            raise UndecodablePixels("the compressed pixel data is empty; send the object again")
        if len(extended) >= 8 * count:
            return list(struct.unpack_from(f"<{count}Q", extended))
        position, length = self._fragments[0]
        if length < 4 * count:
            return []
        return list(struct.unpack_from(f"<{count}L", self._value, position))

    def _by_content(self, count: int) -> list[int]:
        """Without a table: one frame has all fragments, or each frame one, or a frame ends where its codestream does."""
        if count == 1:
            return [0] if self._fragments else []
        if len(self._fragments) == count:
            return list(range(count))
        ends = (n for n, place in enumerate(self._fragments) if _END_OF_IMAGE in self._tail(place))
        first = [0, *(n + 1 for n in ends)]
        return [n for n in first if n < len(self._fragments)][:count] if len(self._fragments) > count else []

    def _tail(self, place: tuple[int, int]) -> bytes:
        position, length = place
        return bytes(self._value[max(position, position + length - 3) : position + length])


def _fragments(value: memoryview) -> list[tuple[int, int]]:
    """(position, length) of each item's content, the offset table's first."""
    found, position = [], 0
    while position + 8 <= len(value) and value[position : position + 4] == _ITEM:
        length = int.from_bytes(value[position + 4 : position + 8], "little")
        if position + 8 + length > len(value):
            raise UndecodablePixels("a fragment claims more bytes than the file has; send the object again")
        found.append((position + 8, length))
        position += 8 + length
    return found


def _by_offsets(fragments: list[tuple[int, int]], offsets: list[int], count: int) -> list[int]:
    """The first fragment of each frame; [] when the offsets do not point at fragments in ascending order."""
    if not offsets or not fragments:
        return []
    origin = fragments[0][0]
    numbers = {position - origin: number for number, (position, _) in enumerate(fragments)}
    first = [numbers.get(offset, -1) for offset in offsets]
    ascending = all(a < b for a, b in pairwise(first))
    return first if first[0] == 0 and ascending and len(first) == count else []
