"""What happens to each attribute: PS3.15 Table E.1-1 (`ps315.csv`), the Basic Profile under the options chosen.

Here belongs the decision alone, one for a tag at a place in an object of an IOD; `cleaning` carries it out. It is an
allow-list: what the table does not name stays only if the standard dictionary knows it, it is not retired, and its VR
cannot name a person, place or date.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping
from enum import Enum
from functools import cache
from importlib import resources
from typing import NamedTuple

from pydicom.datadict import DicomDictionary

from medai_pipeline.dicom.elements import dictionary_vr
from medai_pipeline.dicom.iod_types import attribute_type
from medai_pipeline.dicom.options import DATES, Option, Options, in_order

EDITION = "DICOM PS3.15 Table E.1-1, an edition after 2024c: it names attributes that PS3.6 2024c has not"


class Action(Enum):
    """What is done with one attribute. In a sequence all but REMOVE and EMPTY apply the profile to each item."""

    KEEP = "keep"
    REMOVE = "remove"
    EMPTY = "empty"
    DUMMY = "dummy"
    REMAP = "remap"
    CLEAN = "clean"  # words and numbers that are known to be safe
    SHIFT = "shift"  # dates by the patient's number of days


class Decision(NamedTuple):
    """`action`, and what is done where it fails (nothing safe is left, no date can be read)."""

    action: Action
    otherwise: Action
    chosen: bool = False  # an option of the site asks for this attribute, so its codes and identities stay


_SIMPLE: Mapping[str, Action] = {
    "X": Action.REMOVE,
    "Z": Action.EMPTY,
    "D": Action.DUMMY,
    "U": Action.REMAP,
    "K": Action.KEEP,
}

# What a Type (PS3.5 7.4) asks for at least. Whether a condition holds is not known, so 1C counts as 1 and 2C as 2
# where the code leaves a choice.
_NEEDED: Mapping[str, Action] = {
    "1": Action.DUMMY,
    "1C": Action.DUMMY,
    "2": Action.EMPTY,
    "2C": Action.EMPTY,
    "3": Action.REMOVE,
}
_MILDEST_FIRST = (Action.REMOVE, Action.EMPTY, Action.DUMMY)

# Where the table's VR rules end: attributes it does not name.
_BY_VR: Mapping[str, Action] = {
    **dict.fromkeys(("PN", "AE", "DA", "DT", "TM", "UR"), Action.EMPTY),
    "UI": Action.REMAP,
    "UN": Action.REMOVE,
    "": Action.REMOVE,
}
VRS_BY_RULE = frozenset({"PN", "AE", "DA", "DT", "TM", "UR"})
_DATE_VRS = frozenset({"DA", "DT", "TM"})
_NO_DATASET = frozenset({0x0000, 0x0002, 0x0004, 0xFFFE})  # commands, file meta, DICOMDIR, delimiters
# Not in the table. The first describes private blocks of the source: whether they are here and safe is for us to say; the
# others are opaque: keys of records, a document of its own language (HPGL), what is signed or encrypted
_REMOVED = frozenset({0x00080300, 0x0008041B, 0x0008041C, 0x00686300, 0x04000120, 0x04000520})

# Attributes that the table does not name and that name an institution or its authority, as rows of it: PS3.3 10.14, the
# issuers of identifiers whose text forms are X in the table.
_ISSUER = {"basic": "X/Z/D", "retain_institution_identity": "K"}
_BEYOND: Mapping[int, Mapping[str, str]] = dict.fromkeys(
    (
        0x00080051,  # Issuer of Accession Number Sequence
        0x00100024,  # Issuer of Patient ID Qualifiers Sequence
        0x00400026,  # Order Placer Identifier Sequence
        0x00400027,  # Order Filler Identifier Sequence
        0x00400031,  # Local Namespace Entity ID
        0x00400032,  # Universal Entity ID
        0x00400036,  # Assigning Facility Sequence
        0x00400039,  # Assigning Jurisdiction Code Sequence
        0x0040003A,  # Assigning Agency or Department Code Sequence
    ),
    _ISSUER,
)

# Texts the table does not name, of a purpose that known words serve: they are cleaned under every profile.
_LONG_TEXTS = frozenset({"LT", "ST", "UC", "UT"})
_CLOSED_TEXTS = frozenset(
    {
        0x00181160,  # Filter Type
        0x00181401,  # Acquisition Device Processing Code
        0x00209056,  # Stack ID
        0x00281054,  # Rescale Type
        0x00281055,  # Window Center & Width Explanation
        0x00283003,  # LUT Explanation
        0x00283004,  # Modality LUT Type
        0x00700081,  # Content Description
    }
)
# Dates as text, which the table does not name: birth and death in another calendar
_DATES_AS_TEXT = frozenset({0x00100033, 0x00100034})
_CODED_TEXTS = frozenset({0x00080119, 0x00080120})  # Long and URN Code Value: `codes` judges them


def resource(name: str) -> str:
    """A data file of this package as text."""
    return resources.files("medai_pipeline.dicom").joinpath(name).read_text(encoding="utf-8")


@cache
def table() -> tuple[Mapping[str, str], ...]:
    """The rows of Table E.1-1 with every option's column, sorted by tag."""
    return tuple(csv.DictReader(io.StringIO(resource("ps315.csv"))))


@cache
def rows_by_tag() -> Mapping[int, Mapping[str, str]]:
    """The rows that name one tag."""
    return {int(row["tag"], 16): row for row in table() if row["tag"] != "odd" and "x" not in row["tag"]}


def resolve(code: str, kind: str) -> Action:
    """What an action code means for an attribute of Type `kind` (PS3.15 E.2, Table E.1-1a).

    "U*" is always chosen: references stay whole, under new UIDs. X and Z give way where the Type would be violated.
    """
    if code == "X/Z/U*":
        return Action.REMAP
    if code in ("X", "Z") and kind in ("1", "2"):
        return max(_SIMPLE[code], _NEEDED[kind], key=_MILDEST_FIRST.index)
    if code in _SIMPLE:
        return _SIMPLE[code]
    allowed = [_SIMPLE[letter] for letter in code.split("/")]
    enough = [action for action in allowed if _MILDEST_FIRST.index(action) >= _MILDEST_FIRST.index(_NEEDED[kind])]
    return min(enough or allowed[-1:], key=_MILDEST_FIRST.index)


def under_options(row: Mapping[str, str], basic: Action, options: Options) -> Decision:
    """A row's decision: what an option keeps or cleans, else `basic`.

    Modified dates win over every option that keeps: one date left as it was would tell the shift of all.
    """
    cells = {option: row.get(option.about.column, "") for option in options}
    if cells.get(Option.MODIFIED_DATES):
        return Decision(Action.SHIFT, basic)
    if "K" in cells.values():
        return Decision(Action.KEEP, basic, chosen=True)
    if "C" in cells.values():
        return Decision(Action.CLEAN, basic)
    return Decision(basic, basic)


@cache
def decide(tag: int, parent: int = 0, iod: str = "", options: Options = frozenset()) -> Decision:
    """What the profile does with a standard attribute in the items of `parent` (0: in the data set itself)."""
    vr = dictionary_vr(tag)
    if _never_stays(tag, vr):
        return Decision(Action.REMOVE, Action.REMOVE)
    kind = attribute_type(iod, parent, tag)
    row = rows_by_tag().get(tag) or _BEYOND.get(tag)
    if row is None:
        return _unlisted(tag, vr, kind, options)
    basic = resolve(row["basic"], kind)
    if basic is Action.DUMMY and vr == "UI":
        basic = Action.REMAP
    return under_options(row, basic, options)


def in_data_set(tag: int) -> bool:
    """Whether an element can stand in the data set of a file: not a command, file meta, DICOMDIR or delimiter."""
    return tag >> 16 not in _NO_DATASET


def _never_stays(tag: int, vr: str) -> bool:
    group = tag >> 16
    if not in_data_set(tag) or group & 1 or group >> 8 in (0x50, 0x60) or tag in _REMOVED:
        return True  # curves and overlays whole: their geometry means nothing without their data
    if not vr or not tag & 0xFFFF:
        return True  # group lengths are retired, and would no longer be true
    retired = tag in DicomDictionary and DicomDictionary[tag][3]
    return bool(retired) and tag not in rows_by_tag()  # retired: the table no longer looks at it


def _unlisted(tag: int, vr: str, kind: str, options: Options) -> Decision:
    if tag in _DATES_AS_TEXT:
        kept = Option.FULL_DATES in options
        return Decision(Action.KEEP if kept else Action.REMOVE, Action.REMOVE, chosen=kept)
    basic = _BY_VR.get(vr, Action.KEEP)
    if basic is Action.KEEP:
        cleaned = tag in _CLOSED_TEXTS or (vr in _LONG_TEXTS and tag not in _CODED_TEXTS)
        return Decision(Action.CLEAN if cleaned else Action.KEEP, _NEEDED[kind])
    if basic is Action.EMPTY and kind in ("1", "1C"):
        basic = Action.DUMMY
    if vr in _DATE_VRS and options & DATES:
        return Decision(Action.SHIFT if Option.MODIFIED_DATES in options else Action.KEEP, basic)
    if vr == "UI" and Option.UIDS in options:
        return Decision(Action.KEEP, basic)
    return Decision(basic, basic)


def digest() -> str:
    """Which table was used: the first 12 hex digits of the SHA-256 of `ps315.csv`."""
    return hashlib.sha256(resource("ps315.csv").encode()).hexdigest()[:12]


# At most 64 characters: it is a value of Deidentification Method (LO).
PROFILE = f"Basic Profile, DICOM PS3.15 Table E.1-1 [{digest()}]"


def profile_name(options: Options) -> str:
    """The profile and its options in one line."""
    return ", ".join([PROFILE, *(option.about.name for option in in_order(options))])
