"""Makes `ps315.csv` from a table of PS3.15 E.1-1: `python -m medai_pipeline.dicom.generate_profile TABLE.csv`.

Only needed when the standard's table changes. What the table means is in `profile`.
"""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

TARGET = Path(__file__).with_name("ps315.csv")
ACTIONS = frozenset({"D", "Z", "X", "K", "C", "U", "Z/D", "X/Z", "X/D", "X/Z/D", "X/Z/U*"})
_TAG = re.compile(r"\(([0-9A-Fx]{4}),([0-9A-Fx]{4})\)")


def rows(source: Path) -> list[dict[str, str]]:
    """The source's rows with `tag` as 8 hex digits; x stands for any digit, "odd" for private groups.

    Raises ValueError for a tag or an action that Table E.1-1 does not define.
    """
    with source.open(newline="", encoding="utf-8") as file:
        return [{**row, "tag": _tag(row["tag"]), "basic": _action(row["basic"])} for row in csv.DictReader(file)]


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


def write(source: Path, target: Path = TARGET) -> int:
    """Writes the table sorted by tag; returns how many rows it has."""
    table = sorted(rows(source), key=lambda row: row["tag"])
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    return len(table)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m medai_pipeline.dicom.generate_profile TABLE.csv")
    print(f"{write(Path(sys.argv[1]))} rows written to {TARGET.name}")
