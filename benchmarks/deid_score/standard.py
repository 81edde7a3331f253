"""The tables of PS3.15 as published (Table E.1-1, E.3.10-1, E.3.4-1), read from the folder of the standard's tables.

What is not in them, and a key needs, stands here too: the Type (PS3.3) of the attributes with a compound code in the
kinds of objects that `specimens` makes.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from pydicom import uid

# The options of PS3.15 E.3, by their columns in Table E.1-1; the last have no column.
OPTIONS = (
    "retain_safe_private",
    "retain_uids",
    "retain_device_identity",
    "retain_institution_identity",
    "retain_patient_characteristics",
    "retain_long_full_dates",
    "retain_long_modified_dates",
    "clean_descriptors",
    "clean_structured_content",
    "clean_graphics",
    "clean_pixel_data",
)
_WITHOUT_COLUMN = frozenset({"clean_pixel_data"})
_TAG = re.compile(r"\(([0-9A-Fa-f]{4}),([0-9A-Fa-fx]{4})\)")

# Types (PS3.3) of attributes whose code leaves a choice: by SOP Class, or anywhere (None). Not named: Type 3.
_SR, _GSPS, _MF = uid.ComprehensiveSRStorage, uid.GrayscaleSoftcopyPresentationStateStorage, uid.EnhancedMRImageStorage
_DX = uid.DigitalXRayImageStorageForPresentation
TYPES: dict[tuple[str | None, int], int] = {
    (None, 0x00100020): 2,  # Patient ID, C.7.1.1
    (None, 0x00180010): 2,  # Contrast/Bolus Agent, C.7.6.4
    (_SR, 0x00080023): 1,  # Content Date, C.17.2
    (_SR, 0x00080033): 1,
    (_SR, 0x00081111): 2,  # Referenced Performed Procedure Step Sequence, C.17.1
    (_GSPS, 0x00700084): 2,  # Content Creator's Name, C.11.10
    (_MF, 0x00080023): 1,  # C.7.6.16.1
    (_MF, 0x00080033): 1,
    (_MF, 0x0008002A): 1,  # Acquisition DateTime, C.8.13.1, Type 1C: ImageType ORIGINAL
    (_MF, 0x00181000): 1,  # Device Serial Number, C.7.5.2
    (_DX, 0x00400555): 2,  # Acquisition Context Sequence, C.7.6.14
}


# Issuers of identifiers name an institution, as (0010,0021) does, and Table E.1-1 does not name these.
_ISSUER = {"basic": "X/Z/D", "retain_institution_identity": "K", "source": "names an issuer"}
_ISSUERS = dict.fromkeys((0x00400031, 0x00400032), _ISSUER)
# Encapsulated Document Length (0042,0015) tells the size of a document that is itself D: it follows the dummy.
_FOLLOWS = {0x00420015: 0x00420011}


@dataclass(frozen=True, slots=True)
class Tables:
    """The three tables, looked up by tag."""

    rows: dict[int, dict[str, str]]
    private_row: dict[str, str]
    safe_private: dict[tuple[int, str, int], str]
    content: dict[tuple[str, str], dict[str, str]]
    safe_vm: dict[tuple[int, str, int], int]  # how many values; 1 where the table leaves it open

    def row(self, tag: int) -> dict[str, str] | None:
        group = tag >> 16
        if group & 1:
            return self.private_row
        if 0x5000 <= group < 0x5100:
            return self.rows[0x50000000]
        if 0x6000 <= group < 0x6100:
            return self.rows.get(0x60000000 | tag & 0xFFFF)
        return self.rows.get(tag)

    def source(self, tag: int) -> str:
        """Which table speaks about the attribute."""
        return (self.row(tag) or {}).get("source", "Table E.1-1")

    def code(self, tag: int, options: frozenset[str]) -> str | None:
        """The action code under the options; None for what the table does not name.

        Where options disagree, K wins over C, but for dates: one that stays beside others that moved tells by how much
        (E.3.6).
        """
        row = self.row(tag)
        if row is None:
            return None
        if "retain_long_modified_dates" in options and row.get("retain_long_modified_dates"):
            return row["retain_long_modified_dates"]
        chosen = {row[name] for name in options - _WITHOUT_COLUMN if row.get(name)}
        return "K" if "K" in chosen else "C" if "C" in chosen else row["basic"]


def load(folder: Path) -> Tables:
    """Reads `ps3.15_e1-1.csv` and its neighbours in `folder`."""
    rows: dict[int, dict[str, str]] = {}
    private: dict[str, str] = {}
    for row in _read(folder / "ps3.15_e1-1.csv"):
        match = re.search(r"\(([0-9A-Fx]{4}),([0-9A-Fx]{4})\)", row["tag"])
        if match is None:
            private = row
        else:
            rows[int("".join(match.groups()).replace("x", "0"), 16)] = row
    rows |= _ISSUERS
    rows |= {tag: rows[other] for tag, other in _FOLLOWS.items()}
    safe, vm = {}, {}
    for row in _read(folder / "ps3.15_e3.10-1_safe_private.csv"):
        found = _TAG.fullmatch(row["data_element"].strip())
        if found:
            key = int(found[1], 16), row["private_creator"].strip(), int(found[2][2:], 16)
            safe[key] = row["vr"].strip()
            vm[key] = int(row["vm"]) if row["vm"].strip().isdecimal() else 1
    content = {
        (r["coding_scheme_designator"], r["code_value"]): r
        for r in _read(folder / "ps3.15_e3.4-1_structured_content.csv")
    }
    return Tables(rows, private, safe, content, vm)


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
