"""What is left of an identity in elements that were written: a second look, by other means than de-identification's own.

Here belongs counting, for the instance table. It asks no table of actions: private elements that no safe-private table
explains, and values equal to a name, identifier or birth date of the source. Zero of both is what quality checks demand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from medai_pipeline.dicom.cleaning import DUMMIES
from medai_pipeline.dicom.elements import Element, dictionary_vr, read_items
from medai_pipeline.dicom.private import safe_elements
from medai_pipeline.dicom.words import vocabulary

_TEXTS = frozenset({"AE", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
_IDENTIFIERS = frozenset({0x00100020, 0x00101000, 0x00080050, 0x00101090, 0x00380010, 0x00101040, 0x00102154})
_BIRTH = 0x00100030
_SHORTEST = 4
_LONGEST = 1024
_HARMLESS = frozenset(value.strip() for value in DUMMIES.values()) | {word.upper().encode() for word in vocabulary()}


class Residue(NamedTuple):
    """Counts over all nesting levels; both are 0 in what was de-identified well."""

    private_elements: int = 0
    identity_values: int = 0


def secrets(source: Iterable[Element]) -> frozenset[bytes]:
    """The whole values of a source's own data set that must not be found again."""
    found = (
        _plain(element)
        for element in source
        if dictionary_vr(element.tag) == "PN" or element.tag in _IDENTIFIERS or element.tag == _BIRTH
    )
    return frozenset(value for value in found if len(value) >= _SHORTEST and value not in _HARMLESS)


def residue(written: list[Element], hidden: frozenset[bytes], safe_private: bool) -> Residue:
    """Counts in the elements of one data set as they were written, against the `secrets` of its source.

    `safe_private`: elements of the safe-private table (PS3.15 Table E.3.10-1) may be there; `written` must then hold
    all private elements of the data set.
    """
    private = identity = 0
    for level in _levels(written):
        has_private = any(element.tag >> 16 & 1 for element in level)
        safe = safe_elements(level) if safe_private and has_private else {}
        for element in level:
            private += bool(element.tag >> 16 & 1) and element.tag not in safe
            identity += _plain(element) in hidden
    return Residue(private, identity)


def _levels(elements: list[Element]) -> Iterator[list[Element]]:
    yield elements
    for element in elements:
        if element.items is not None or element.vr == b"SQ" or (not element.vr and dictionary_vr(element.tag) == "SQ"):
            for item in read_items(element):
                yield from _levels(item)


def _plain(element: Element) -> bytes:
    """A text as found, without padding, upper case; b"" for what is none."""
    if element.items is not None or not _SHORTEST <= len(element.value) <= _LONGEST:
        return b""
    vr = element.vr.decode("ascii", "replace") if element.vr else dictionary_vr(element.tag)
    return bytes(element.value).strip(b"\0 ").upper() if vr in _TEXTS or element.tag >> 16 & 1 else b""
