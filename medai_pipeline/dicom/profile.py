"""What happens to each attribute: PS3.15 Table E.1-1 (`ps315.csv`), Basic Application Level Confidentiality Profile.

Here belongs the decision alone, one per tag; `deidentify` carries it out. It is an allow-list: what the table does not
name stays only if the standard dictionary knows it, it is not retired, and its VR cannot name a person, place or date.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping
from enum import Enum
from functools import cache
from importlib import resources

from pydicom.datadict import DicomDictionary

from medai_pipeline.dicom.elements import dictionary_vr

EDITION = "DICOM PS3.15 Table E.1-1, current edition of the source table"


class Action(Enum):
    """What is done with one attribute. In a sequence, KEEP and REMAP apply the profile to each item."""

    KEEP = "keep"
    REMOVE = "remove"
    EMPTY = "empty"
    DUMMY = "dummy"
    REMAP = "remap"


# A compound code leaves the choice to the attribute's Type in the IOD (PS3.15 E.3). Where a Type 1 is possible the
# dummy is chosen, which is valid for every Type; "U*" keeps the references of a sequence and renames their UIDs.
_CODES: Mapping[str, Action] = {
    "X": Action.REMOVE,
    "Z": Action.EMPTY,
    "D": Action.DUMMY,
    "U": Action.REMAP,
    "X/Z": Action.EMPTY,
    "Z/D": Action.DUMMY,
    "X/D": Action.DUMMY,
    "X/Z/D": Action.DUMMY,
    "X/Z/U*": Action.REMAP,
    "K": Action.KEEP,
}

# The compound codes whose attribute is Type 2 or 3 wherever an image holds it.
_CHOSEN: Mapping[int, Action] = {
    0x00100020: Action.EMPTY,  # Patient ID, Z/D
    0x00180010: Action.EMPTY,  # Contrast/Bolus Agent, Z/D
    0x00080082: Action.REMOVE,  # Institution Code Sequence, X/Z/D
    0x00081072: Action.REMOVE,  # Operator Identification Sequence, X/D
    0x00081110: Action.REMOVE,  # Referenced Study Sequence, X/Z: where it is Type 3 it must not be empty
    0x00081111: Action.REMOVE,  # Referenced Performed Procedure Step Sequence, X/Z/D
    0x0040B020: Action.REMOVE,  # Waveform Annotation Sequence, X/D
}

# The same for documents (structured reports), where it is Type 2.
_CHOSEN_IN_DOCUMENTS: Mapping[int, Action] = {0x00081111: Action.EMPTY}

_BY_VR: Mapping[str, Action] = {
    **dict.fromkeys(("PN", "AE", "DA", "DT", "TM", "UR"), Action.EMPTY),
    "UI": Action.REMAP,
    "UN": Action.REMOVE,
    "": Action.REMOVE,
}
_NO_DATASET = frozenset({0x0000, 0x0002, 0x0004, 0xFFFE})  # commands, file meta, DICOMDIR, delimiters


def _text() -> str:
    return resources.files("medai_pipeline.dicom").joinpath("ps315.csv").read_text(encoding="utf-8")


@cache
def table() -> tuple[Mapping[str, str], ...]:
    """The rows of Table E.1-1 with every option's column, sorted by tag."""
    return tuple(csv.DictReader(io.StringIO(_text())))


@cache
def _basic() -> Mapping[int, Action]:
    """Tag -> action of the Basic Profile, for the rows that name one tag."""
    exact = {int(row["tag"], 16): row for row in table() if row["tag"] != "odd" and "x" not in row["tag"]}
    return {tag: _CHOSEN.get(tag) or _CODES[row["basic"]] for tag, row in exact.items()}


@cache
def action(tag: int, document: bool = False) -> Action:
    """What the profile does with an attribute of an image, or of an object without pixels (`document`)."""
    if document and tag in _CHOSEN_IN_DOCUMENTS:
        return _CHOSEN_IN_DOCUMENTS[tag]
    group = tag >> 16
    if group in _NO_DATASET or group & 1 or group >> 8 in (0x50, 0x60):
        return Action.REMOVE  # curves and overlays whole: their geometry means nothing without their data
    if not tag & 0xFFFF:
        return Action.REMOVE  # group lengths are retired, and would no longer be true
    vr = dictionary_vr(tag)
    listed = _basic().get(tag)
    if listed is Action.DUMMY and vr == "UI":
        return Action.REMAP
    if listed is not None:
        return listed if vr else Action.REMOVE
    if vr and DicomDictionary[tag][3]:
        return Action.REMOVE  # retired: the table no longer looks at it
    return _BY_VR.get(vr, Action.KEEP)


def digest() -> str:
    """Which table was used: the first 12 hex digits of the SHA-256 of `ps315.csv`."""
    return hashlib.sha256(_text().encode()).hexdigest()[:12]


# At most 64 characters: it is a value of Deidentification Method (LO).
PROFILE = f"Basic Profile, DICOM PS3.15 Table E.1-1 [{digest()}]"
