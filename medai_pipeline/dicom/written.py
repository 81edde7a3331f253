"""Elements as they are written, each read again from its bytes; what the slices of a series share is made once.

Here belongs the bounded memory of one person's objects: the same element value gives the same bytes. It lives in the
process alone, and holds no element longer than 512 bytes, no private one and no sequence.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from medai_pipeline.dicom.cleaning import Cleaner, Way
from medai_pipeline.dicom.elements import Element, Encoding, Reader, encode, pieces
from medai_pipeline.dicom.residue import Residue, residue

_LONGEST = 512
_MOST = 1024
_COPIED = 1 << 16
_Key = bytes | tuple[int, bytes | None, bytes]  # all of the element; or tag, VR, value


class Written(NamedTuple):
    """One element: its bytes in the file in pieces, what a reader finds in them, and what is left of an identity there."""

    data: tuple[bytes | memoryview, ...]
    element: Element
    left: Residue


class Person:
    """Cleans and writes elements of objects that agree in everything cleaning asks of an object as a whole."""

    def __init__(self, cleaner: Cleaner, way: Way, encoding: Encoding, hidden: frozenset[bytes], safe: bool) -> None:
        self._cleaner = cleaner
        self._way = way
        self._encoding = encoding
        self._hidden = hidden
        self._safe = safe  # safe private elements are kept
        self._declared: dict[tuple[int, None, bytes], tuple[Element, Written]] = {}
        self._made: dict[_Key | None, Written | None] = {}

    def write(self, elements: Iterable[Element]) -> dict[int, Written]:
        """Tag -> what is written for it. Of a repeated element the last counts."""
        found: dict[int, Written] = {}
        private: list[Element] = []
        known = self._made
        for element in elements:
            tag = element.tag
            if tag >> 16 & 1:
                private.append(element)
                continue
            key: _Key | None = element.raw
            if key is None and element.items is None and len(element.value) <= _LONGEST:
                key = (tag, element.vr, bytes(element.value))
            made = known[key] if key in known else self._one(element, key)
            if made is None:
                found.pop(tag, None)
            else:
                found[tag] = made
        if private and self._safe:
            found.update({made.element.tag: made for made in self._private(private)})
        return found

    def as_is(self, element: Element) -> Written:
        """An element that needs no cleaning. What is long (pixels) is not copied here, and stands for itself."""
        if element.items is None and len(element.value) > _COPIED:
            return Written(tuple(pieces([element], self._encoding)), element, Residue())
        data = encode([element], self._encoding)
        seen, _ = Reader(memoryview(data)).elements(0, len(data), self._encoding)
        return Written((data,), seen[0], residue(seen, self._hidden, self._safe))

    def declared(self, element: Element) -> Written:
        """The same for what is ours to say, which is the same in every object."""
        key = (element.tag, None, b"" if element.items is not None else bytes(element.value))
        made = self._declared.get(key)
        if made is None or (made[0] is not element and element.items is not None):
            made = self._declared[key] = (element, self.as_is(element))
        return made[1]

    def _one(self, element: Element, key: _Key | None) -> Written | None:
        made = self._made_now(element)
        if key is not None and len(self._made) < _MOST:
            self._made[key] = made
        return made

    def _made_now(self, element: Element) -> Written | None:
        kept = self._cleaner.clean([element], self._way)
        return self.as_is(kept[0]) if kept else None

    def _private(self, elements: list[Element]) -> list[Written]:
        """Together, because a creator speaks for other elements; what is left of them is counted at the first."""
        made = [self.as_is(element) for element in self._cleaner.clean(elements, self._way)]
        left = residue([one.element for one in made], self._hidden, self._safe)
        return [one._replace(left=left if one is made[0] else Residue()) for one in made]
