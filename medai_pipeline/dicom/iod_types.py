"""The Type (PS3.5 7.4: 1, 1C, 2, 2C, 3) of an attribute where it stands: `iod_types.csv`, made by `generate_iod_types`.

Here belongs the lookup alone. Types decide what a compound action code of PS3.15 Table E.1-1 means for one object.
Source: module tables of PS3.3 as highdicom 0.28 carries them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources

SOURCE = "DICOM PS3.3 module tables, by way of highdicom 0.28"
_ANY = "*"


def _rows(name: str, *columns: str) -> Iterator[list[str]]:
    """The rows of a table, as lists: dictionaries would take most of the first object's time."""
    text = resources.files("medai_pipeline.dicom").joinpath(name).read_text(encoding="utf-8")
    rows = csv.reader(io.StringIO(text))
    if next(rows) != list(columns):
        raise ValueError(f"{name} has other columns than its reader; make it again")
    return rows


@cache
def _iods() -> Mapping[str, str]:
    return dict(_rows("sop_classes.csv", "sop_class_uid", "iod"))


@cache
def _types() -> Mapping[tuple[int, int], Mapping[str, str]]:
    types: dict[tuple[int, int], dict[str, str]] = {}
    for tag, parent, kind, iods in _rows("iod_types.csv", "tag", "parent", "type", "iods"):
        types.setdefault((int(tag, 16), int(parent, 16)), {}).update(dict.fromkeys(iods.split(), kind))
    return types


def iod_of(sop_class_uid: str) -> str:
    """The IOD's name; "" for a SOP Class that is private, retired or newer than the table."""
    return _iods().get(sop_class_uid, "")


def attribute_type(iod: str, parent: int, tag: int) -> str:
    """The Type of `tag` in the items of the sequence `parent` (0: in the data set itself).

    "3" where no IOD puts the attribute there: a Standard Extended SOP Class may hold it as an option (PS3.2 3.11).
    """
    here = _types().get((tag, parent))
    return here.get(iod) or here[_ANY] if here else "3"


@cache
def types_of(tag: int) -> tuple[str, ...]:
    """The Types an attribute has anywhere, strongest first; Type 3 always, for Standard Extended SOP Classes."""
    found = {kind for (listed, _), by_iod in _types().items() if listed == tag for kind in by_iod.values()}
    return tuple(sorted(found | {"3"}))
