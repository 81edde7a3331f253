"""The key for the content tree of a structured report under the Clean Structured Content Option (PS3.15 E.3.4, Table E.3.4-1)."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from deid_score.actions import Action, Concept, Expected, Path
from deid_score.specimens import Specimen
from deid_score.standard import Tables

_COLUMNS = {
    "rtn._uids_opt.": "retain_uids",
    "rtn._dev._id._opt.": "retain_device_identity",
    "rtn._inst._id._opt.": "retain_institution_identity",
    "rtn._pat._chars._opt.": "retain_patient_characteristics",
    "rtn._long._full_dates_opt.": "retain_long_full_dates",
    "rtn._long._modif._dates_opt.": "retain_long_modified_dates",
    "clean_desc._opt.": "clean_descriptors",
}
# Where each value type keeps its value (PS3.3 C.17.3).
_VALUES: dict[str, tuple[int, ...]] = {
    "TEXT": (0x0040A160,),
    "PNAME": (0x0040A123,),
    "UIDREF": (0x0040A124,),
    "DATETIME": (0x0040A120,),
    "DATE": (0x0040A121,),
    "TIME": (0x0040A122,),
    "CODE": (0x0040A168, 0, 0x00080100),
    "NUM": (0x0040A300, 0, 0x0040A30A),
    "IMAGE": (0x00081199, 0, 0x00081155),
}


def content_items(
    specimen: Specimen, sequence: DataElement, path: Path, tables: Tables, options: frozenset[str]
) -> Iterator[Expected]:
    """The demands on each content item, found again by its concept."""
    for item in sequence.value:
        concept = item.ConceptNameCodeSequence[0]
        at = (*path, Concept(str(concept.CodeValue)))
        row = tables.content.get((str(concept.CodingSchemeDesignator), str(concept.CodeValue)))
        code = _code(row, options) if row and row["value_type"] == item.ValueType else None
        yield from _item(specimen, item, at, code, options)
        if "ContentSequence" in item:
            yield from content_items(specimen, item["ContentSequence"], (*at, 0x0040A730), tables, options)


def _code(row: dict[str, str], options: frozenset[str]) -> str:
    chosen = {row[column] for column, option in _COLUMNS.items() if option in options and row.get(column)}
    return "K" if "K" in chosen else "C" if "C" in chosen else row["basic_prof."]


def _item(specimen: Specimen, item: Dataset, at: Path, code: str | None, options: frozenset[str]) -> Iterator[Expected]:
    where = (*at, *_VALUES[item.ValueType])
    value = _value(item, _VALUES[item.ValueType])
    why = f"Table E.3.4-1: {code}" if code else "not in Table E.3.4-1"
    secrets = tuple(sorted(word for word in specimen.secrets if word.lower() in value.lower()))
    if item.ValueType in ("IMAGE", "UIDREF") and code != "K" and "retain_uids" not in options:
        optional = code is not None
        for action in (Action.UID_CHANGED, Action.UID_CONSISTENT):
            yield Expected(action, specimen.name, (*where, 0), value, optional=optional, why=why)
    elif code == "K" or (code is None and not secrets):
        yield Expected(Action.TEXT_RETAINED, specimen.name, where, value, why=why)
    elif code == "C" and item.ValueType == "TEXT":
        if secrets:
            yield Expected(Action.TEXT_REMOVED, specimen.name, where, value, secrets, why=why)
        useful = specimen.useful.get(value, ())
        if useful:
            yield Expected(Action.TEXT_RETAINED, specimen.name, where, value, useful, why=why)
    elif code == "C":
        yield Expected(Action.DATE_SHIFTED, specimen.name, where, value, why=why, interval_of=specimen.patient)
    else:
        yield Expected(Action.TEXT_REMOVED, specimen.name, where, value, secrets, why=why)
        if code == "D":
            yield Expected(Action.TEXT_NOTNULL, specimen.name, where, why=why)


def _value(item: Dataset, steps: tuple[int, ...]) -> str:
    for tag, number in zip(steps[:-1:2], steps[1:-1:2], strict=True):
        item = item[tag].value[number]
    return str(item[steps[-1]].value)
