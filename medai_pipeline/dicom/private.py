"""Which private elements are safe: PS3.15 Table E.3.10-1 (`ps315_private.csv`), found by creator, not by block number.

Here belongs that lookup for one data set. A private element that the table does not name is removed, and so is one
whose block has no creator, or two.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from functools import cache

from medai_pipeline.dicom.elements import Element
from medai_pipeline.dicom.profile import resource

EDITION = "DICOM PS3.15 Table E.3.10-1"


@cache
def table() -> tuple[Mapping[str, str], ...]:
    return tuple(csv.DictReader(io.StringIO(resource("ps315_private.csv"))))


# Bytes of one value, where a VR has a fixed size: text written as such a VR is found by its length
_SIZES = {"AT": 4, "FD": 8, "FL": 4, "SL": 4, "SS": 2, "UL": 4, "US": 2}


@cache
def _multiplicities() -> Mapping[tuple[str, int, int], str]:
    return {(row["creator"], int(row["group"], 16), int(row["element"], 16)): row["vm"] for row in table()}


@cache
def _safe() -> Mapping[tuple[str, int, int], str]:
    """(creator, group, last two digits of the element) -> VR, "OB or OW" where there are two, "" where none is told."""
    return {
        (row["creator"], int(row["group"], 16), int(row["element"], 16)): row["vr"].replace("/", " or ")
        for row in table()
    }


@cache
def _creators() -> frozenset[str]:
    return frozenset(row["creator"] for row in table())


def safe_elements(elements: Iterable[Element]) -> dict[int, str]:
    """Tag -> VR of the private elements of one data set that may stay; creators (LO) of blocks that hold one too."""
    private = [element for element in elements if element.tag >> 16 & 1]
    blocks: dict[int, str] = {}
    for element in private:
        if 0x10 <= element.tag & 0xFFFF <= 0xFF:
            block = element.tag & 0xFFFF0000 | (element.tag & 0xFF) << 8
            name = _name(element)
            blocks[block] = name if blocks.get(block, name) == name else ""
    safe: dict[int, str] = {}
    for element in private:
        creator = blocks.get(element.tag & 0xFFFFFF00, "")
        key = (creator, element.tag >> 16, element.tag & 0xFF)
        vr = _safe().get(key) if creator else None
        if vr and _has_size(element, vr, _multiplicities()[key]):
            safe[element.tag] = vr
            safe[element.tag & 0xFFFF0000 | (element.tag >> 8 & 0xFF)] = "LO"
    return safe


def _has_size(element: Element, vr: str, multiplicity: str) -> bool:
    size = _SIZES.get(vr)
    if size is None or not len(element.value):
        return True
    count = int(multiplicity) if multiplicity.isdecimal() else 0
    return len(element.value) == count * size if count else len(element.value) % size == 0


def _name(element: Element) -> str:
    """A creator that the table knows, else ""."""
    if element.items is not None or len(element.value) > 64:
        return ""
    name = bytes(element.value).decode("latin-1").strip("\0 ")
    return name if name in _creators() else ""
