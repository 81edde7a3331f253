"""Makes `ps315.csv`, `ps315_private.csv` and `ps315_content.csv` from the tables of PS3.15 Annex E.

`python -m medai_pipeline.dicom.generate_profile FOLDER`, where FOLDER holds Tables E.1-1, E.3.10-1 and E.3.4-1 as CSV.
Only needed when the standard changes. What the tables mean is in `profile`, `private` and `content`.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).parent
TARGET = HERE / "ps315.csv"
ACTIONS = frozenset({"D", "Z", "X", "K", "C", "U", "Z/D", "X/Z", "X/D", "X/Z/D", "X/Z/U*"})
_TAG = re.compile(r"\(([0-9A-Fx]{4}),([0-9A-Fx]{4})\)")
_PRIVATE_TAG = re.compile(r"\(([0-9A-F]{4}),xx([0-9A-Fa-f]{2})\)")
_OPTIONS = {  # the columns of Table E.3.4-1, by their names in Table E.1-1
    "basic_prof.": "basic",
    "rtn._uids_opt.": "retain_uids",
    "rtn._dev._id._opt.": "retain_device_identity",
    "rtn._inst._id._opt.": "retain_institution_identity",
    "rtn._pat._chars._opt.": "retain_patient_characteristics",
    "rtn._long._full_dates_opt.": "retain_long_full_dates",
    "rtn._long._modif._dates_opt.": "retain_long_modified_dates",
    "clean_desc._opt.": "clean_descriptors",
}


def _read(source: Path) -> list[dict[str, str]]:
    with source.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def rows(source: Path) -> list[dict[str, str]]:
    """The rows of Table E.1-1 with `tag` as 8 hex digits; x stands for any digit, "odd" for private groups.

    Raises ValueError for a tag or an action that the table does not define.
    """
    found = [{**row, "tag": _tag(row["tag"]), "basic": _action(row["basic"])} for row in _read(source)]
    return sorted(found, key=lambda row: row["tag"])


def private_rows(source: Path) -> list[dict[str, str]]:
    """The rows of Table E.3.10-1: creator, group, last two digits of the element, VR ("" where the table has none), VM."""
    found = []
    for row in _read(source):
        match = _PRIVATE_TAG.fullmatch(row["data_element"].strip())
        if match is None:
            raise ValueError(f"not a private element: {row['data_element']!r}")
        group, element = match.group(1).upper(), match.group(2).upper()
        place = {"creator": row["private_creator"].strip(), "group": group, "element": element}
        found.append({**place, "vr": row["vr"], "vm": row["vm"]})
    return sorted(found, key=lambda row: (row["creator"], row["group"], row["element"]))


def content_rows(source: Path) -> list[dict[str, str]]:
    """The rows of Table E.3.4-1: concept, value type, and the same columns of actions as Table E.1-1."""
    found = []
    for row in _read(source):
        actions = {name: row[column].strip() for column, name in _OPTIONS.items()}
        _action(actions["basic"])
        concept = {"code": row["code_value"], "scheme": row["coding_scheme_designator"], "type": row["value_type"]}
        found.append({"name": row["code_meaning"], **concept, **actions})
    return sorted(found, key=lambda row: (row["scheme"], row["code"], row["type"]))


def _tag(text: str) -> str:
    if "odd" in text:
        return "odd"
    match = _TAG.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not a tag: {text!r}")
    return "".join(match.groups())


def _action(text: str) -> str:
    if text not in ACTIONS:
        raise ValueError(f"not an action of the Basic Profile: {text!r}")
    return text


def _write(target: Path, table: Iterable[dict[str, str]]) -> int:
    table = list(table)
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    return len(table)


def write(folder: Path, target: Path = HERE) -> list[int]:
    """Writes the three tables into `target`; returns how many rows each has."""
    return [
        _write(target / "ps315.csv", rows(folder / "ps3.15_e1-1.csv")),
        _write(target / "ps315_private.csv", private_rows(folder / "ps3.15_e3.10-1_safe_private.csv")),
        _write(target / "ps315_content.csv", content_rows(folder / "ps3.15_e3.4-1_structured_content.csv")),
    ]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m medai_pipeline.dicom.generate_profile FOLDER")
    print(f"rows written: {write(Path(sys.argv[1]))}")
