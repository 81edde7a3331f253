"""A few attributes read straight from elements, without building a pydicom data set.

Only what grouping, the length check and the instance table need. A value that is not what its VR promises reads as
absent: these readers never fail.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping

from medai_pipeline.dicom.elements import Element, dictionary_vr, read_items
from medai_pipeline.errors import DicomError


class Attributes:
    """Values of one data set by tag."""

    def __init__(self, elements: Iterable[Element]) -> None:
        self.elements: Mapping[int, Element] = {element.tag: element for element in elements}

    def __contains__(self, tag: int) -> bool:
        return tag in self.elements

    def text(self, tag: int) -> str:
        """The whole value as text (backslashes kept), "" when absent; Latin-1 where a character set is unknown here."""
        element = self.elements.get(tag)
        if element is None:
            return ""
        if element.text is None:
            unread = element.items is not None or len(element.value) > 4096
            element.text = "" if unread else str(element.value, "latin-1").strip("\0 ")
        return element.text

    def texts(self, tag: int) -> tuple[str, ...]:
        value = self.text(tag)
        return tuple(part.strip() for part in value.split("\\")) if value else ()

    def short(self, tag: int) -> int:
        """An unsigned 16-bit value, 0 when absent."""
        element = self.elements.get(tag)
        if element is None or len(element.value) < 2:
            return 0
        return int.from_bytes(element.value[:2], "little" if element.encoding.little else "big")

    def binary(self, tag: int, kind: str) -> tuple[float, ...]:
        """Binary values in the element's byte order; `kind` is a struct code: "H", "h", "L", "f", "d". () when absent."""
        element = self.elements.get(tag)
        size = struct.calcsize(f"<{kind}")
        if element is None or element.items is not None or not len(element.value) or len(element.value) % size:
            return ()
        mark = "<" if element.encoding.little else ">"
        return struct.unpack(f"{mark}{len(element.value) // size}{kind}", element.value)

    def unsigned_longs(self, tag: int) -> tuple[int, ...]:
        return tuple(int(value) for value in self.binary(tag, "L"))

    def integer(self, tag: int) -> int:
        """An Integer String, 0 when absent or not a number."""
        numbers = self.numbers(tag)
        return int(numbers[0]) if numbers and abs(numbers[0]) < 2**31 else 0

    def numbers(self, tag: int) -> tuple[float, ...]:
        """The values of a Decimal or Integer String; () when one of them is not a finite number."""
        try:
            values = tuple(float(part) for part in self.texts(tag))
        except ValueError:
            return ()
        return values if all(map(math.isfinite, values)) else ()

    def items(self, tag: int) -> list[Attributes]:
        """The items of a sequence; none when it is absent or broken."""
        element = self.elements.get(tag)
        if element is None or (element.vr not in (b"SQ", None, b"UN") or dictionary_vr(tag) != "SQ"):
            return []
        try:
            return [Attributes(item) for item in read_items(element)]
        except DicomError:
            return []

    def first(self, *tags: int) -> Attributes:
        """The first item of a sequence in the first item of a sequence...; an empty data set when one is missing."""
        here = self
        for tag in tags:
            items = here.items(tag)
            if not items:
                return Attributes(())
            here = items[0]
        return here
