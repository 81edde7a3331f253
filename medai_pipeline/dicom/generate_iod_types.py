"""Makes `iod_types.csv`, `sop_classes.csv` and `body_parts.json`: `python -m medai_pipeline.dicom.generate_iod_types`.

Source: the module tables of PS3.3, the SOP Classes of PS3.4 and the body parts of PS3.16 Annex L as highdicom carries them (`highdicom/_standard/*.json`).
Only attributes that the confidentiality profile may empty or remove are taken. What Types are for is in `iod_types`.
"""

from __future__ import annotations

import csv
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from pydicom.datadict import tag_for_keyword

from medai_pipeline.dicom.elements import dictionary_vr
from medai_pipeline.dicom.profile import VRS_BY_RULE, rows_by_tag

_TEXTS = frozenset({"CS", "LO", "LT", "SH", "ST", "UC", "UT"})

HERE = Path(__file__).parent
STRONGEST_FIRST = ("1", "1C", "2", "2C", "3")


def _source(name: str) -> Any:
    return json.loads(resources.files("highdicom").joinpath("_standard", name).read_text(encoding="utf-8"))


def _wanted(tag: int) -> bool:
    listed = rows_by_tag()
    return tag in listed or dictionary_vr(tag) in VRS_BY_RULE | _TEXTS


def _uses(modules: dict[str, Any], iods: dict[str, Any]) -> Iterator[tuple[str, int, int, str]]:
    """(IOD, tag of the enclosing sequence or 0, tag, Type) of every attribute wanted."""
    tags = {a["keyword"]: tag_for_keyword(a["keyword"]) or 0 for module in modules.values() for a in module}
    wanted = {keyword for keyword, tag in tags.items() if tag and _wanted(tag)}
    for iod, used in iods.items():
        for module in used:
            for attribute in modules.get(module["key"], ()):
                if attribute["keyword"] in wanted and attribute["type"] in STRONGEST_FIRST:
                    parent = tags.get(attribute["path"][-1], 0) if attribute["path"] else 0
                    yield iod, parent, tags[attribute["keyword"]], attribute["type"]


def type_rows() -> list[tuple[str, str, str, str]]:
    """(tag, parent, Type, IODs): "*" for the Type of most IODs, or a list of those that differ from it.

    Where an IOD names an attribute at several places under one sequence, the strongest Type counts. In the data set
    itself an attribute counts as Type 3 for every IOD that does not name it.
    """
    modules, iods = _source("module_attribute_map.json"), _source("iod_module_map.json")
    found: dict[tuple[int, int], dict[str, str]] = defaultdict(dict)
    for iod, parent, tag, kind in _uses(modules, iods):
        here = found[tag, parent]
        here[iod] = min(here.get(iod, "3"), kind, key=STRONGEST_FIRST.index)
    for (_, parent), by_iod in found.items():
        if not parent:
            by_iod.update({iod: "3" for iod in iods if iod not in by_iod})
    return sorted(
        row
        for (tag, parent), by_iod in found.items()
        for row in _compact(tag, parent, by_iod)
        if set(by_iod.values()) != {"3"}
    )


def _compact(tag: int, parent: int, by_iod: dict[str, str]) -> Iterator[tuple[str, str, str, str]]:
    kinds = sorted(set(by_iod.values()), key=lambda kind: (-_count(by_iod, kind), STRONGEST_FIRST.index(kind)))
    names = (f"{tag:08X}", f"{parent:08X}")
    yield (*names, kinds[0], "*")
    for kind in kinds[1:]:
        yield (*names, kind, " ".join(sorted(iod for iod, other in by_iod.items() if other == kind)))


def _count(by_iod: dict[str, str], kind: str) -> int:
    return sum(other == kind for other in by_iod.values())


def _write(path: Path, header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def write(folder: Path = HERE) -> None:
    """The tables, in the order of their keys."""
    body_parts = json.dumps(sorted(_source("anatomic_regions.json")), indent=0) + "\n"
    (folder / "body_parts.json").write_text(body_parts, encoding="utf-8")
    _write(folder / "iod_types.csv", ("tag", "parent", "type", "iods"), type_rows())
    _write(folder / "sop_classes.csv", ("sop_class_uid", "iod"), sorted(_source("sop_class_iod_map.json").items()))


if __name__ == "__main__":
    if len(sys.argv) != 1:
        sys.exit("usage: python -m medai_pipeline.dicom.generate_iod_types")
    write()
    print(f"written from highdicom {metadata.version('highdicom')}")
