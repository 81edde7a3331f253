"""A model version's card: from the TOML file that a person writes, to the JSON that the registry keeps, and back. No torch.

What is not said is not guessed: classes, thresholds, contract, modality, body part and licence must stand there.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from medai_pipeline.dicom.coding_schemes import has_form
from medai_pipeline.dicom.select import IMAGE_MODALITIES
from medai_pipeline.errors import CardRefused
from medai_pipeline.models.aggregation import is_known
from medai_pipeline.models.catalog import PROGRAMS, CatalogEntry, region
from medai_pipeline.records import InputContract

KINDS = ("timm", "torchxrayvision", "torchscript", "export")
SCALINGS = ("xray", "ct-chest", "ct-lung", "ct-brain", "mr")
FITS = ("pad", "stretch")
MOST_PIXELS = 4096  # of a side of the input
REQUIRED = ("name", "version", "classes", "thresholds", "multi_label", "contract", "modality", "body_parts", "licence")
_LISTS = ("classes", "codes", "modality", "body_parts", "thresholds")
_TEXT, _NUMBER, _WHOLE, _BOOLEAN = "a text", "a number", "a whole number", "true or false"
_TEXTS, _NUMBERS, _TABLE = "a list of texts", "a list of numbers", "a table"
_TYPES = {
    "name": _TEXT, "version": _TEXT, "architecture": _TEXT, "kind": _TEXT, "licence": _TEXT, "notes": _TEXT,
    "aggregation": _TEXT, "weights_sha256": _TEXT, "features_sha256": _TEXT, "multi_label": _BOOLEAN, "demo": _BOOLEAN,
    "temperature": _NUMBER, "dropout": _NUMBER, "classes": _TEXTS, "codes": _TEXTS, "modality": _TEXTS,
    "body_parts": _TEXTS, "thresholds": _NUMBERS, "contract": _TABLE, "options": _TABLE, "calibration": _TABLE,
    "members": _TABLE,
}  # fmt: skip
_CONTRACT = {
    "height": _WHOLE, "width": _WHOLE, "channels": _WHOLE, "low": _NUMBER, "high": _NUMBER, "scaling": _TEXT, "fit": _TEXT,
}  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}\Z")
_CODE = re.compile(r"[A-Za-z0-9-]+:[A-Za-z0-9.-]+\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


def read_card(path: Path) -> CatalogEntry:
    """The card of a TOML file. Raises CardRefused that names every fault."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CardRefused(f"{path.name} is no TOML file ({error}): correct it there") from error
    return from_card(values, path.name)


def from_card(values: Mapping[str, Any], where: str = "the card") -> CatalogEntry:
    """The entry of a card's values. Raises CardRefused that names every fault."""
    faults = [f"{name} is missing" for name in REQUIRED if name not in values]
    faults += _wrong_types(values, _TYPES)
    if isinstance(contract := values.get("contract"), Mapping):
        faults += [f"contract.{name} is missing" for name in ("height", "width") if name not in contract]
        faults += [f"contract.{fault}" for fault in _wrong_types(contract, _CONTRACT)]
    if not faults:
        made = from_registry(values)
        faults = list(_faults(made))
    if faults:
        raise CardRefused(f"{where}: {'; '.join(faults)}")
    return made


def from_registry(values: Mapping[str, Any]) -> CatalogEntry:
    """The entry of a card that was judged when it was registered: a rule that came later does not take it out of service."""
    given = dict(values)
    given["contract"] = InputContract(**given["contract"])
    for name in _LISTS:
        if name in given:
            given[name] = tuple(given[name])
    given["thresholds"] = tuple(float(value) for value in given["thresholds"])
    given["temperature"] = float(given.get("temperature", 1.0))
    given["dropout"] = float(given.get("dropout", 0.0))
    given.setdefault("architecture", "")
    return CatalogEntry(**given)


def _wrong_types(values: Mapping[str, Any], types: Mapping[str, str]) -> list[str]:
    """Names that there are not, and values that are of another type than theirs: nothing is converted, nothing guessed."""
    faults = [f"{name} is not known{_near(name, types)}" for name in sorted(set(values) - set(types))]
    wrong = [name for name in types if values.get(name) is not None and not _is(values[name], types[name])]
    return faults + [
        f"{name} must be {types[name]}, not {json.dumps(values[name], default=str)[:40]}" for name in wrong
    ]


def _is(value: Any, wanted: str) -> bool:
    if wanted in {_TEXTS, _NUMBERS}:
        one = _TEXT if wanted == _TEXTS else _NUMBER
        return isinstance(value, list | tuple) and all(_is(part, one) for part in value)
    kinds = {_TEXT: str, _BOOLEAN: bool, _WHOLE: int, _NUMBER: int | float, _TABLE: Mapping}
    return isinstance(value, kinds[wanted]) and (wanted == _BOOLEAN or not isinstance(value, bool))


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _wrong_codes(codes: Iterable[str]) -> list[str]:
    """Those that their scheme cannot have: of another form, or with a wrong check digit."""
    return [code for code in codes if code and _CODE.match(code) and not has_form(*code.split(":", 1))]


def to_card(entry: CatalogEntry) -> dict[str, Any]:
    """The card as JSON values: what `from_card` reads."""
    values = {field.name: getattr(entry, field.name) for field in fields(entry) if field.name != "prepared"}
    values["contract"] = {field.name: getattr(entry.contract, field.name) for field in fields(entry.contract)}
    values |= {name: list(values[name]) for name in _LISTS}
    if entry.features_sha256 is None:  # cards that were registered before there was such a line are the same cards
        del values["features_sha256"]
    return values | {name: dict(values[name]) for name in ("options", "calibration", "members")}


def write_toml(entry: CatalogEntry) -> str:
    """The card as a TOML file: what `read_card` reads. JSON's strings, numbers, booleans and lists are TOML's as well."""
    values = {name: value for name, value in to_card(entry).items() if value not in (None, {}, [])}
    plain = [f"{name} = {json.dumps(value)}" for name, value in values.items() if not isinstance(value, dict)]
    tables = [
        f"\n[{name}]\n" + "\n".join(f"{key} = {json.dumps(part)}" for key, part in value.items())
        for name, value in values.items()
        if isinstance(value, dict)
    ]
    return "\n".join([*plain, *tables]) + "\n"


def _faults(entry: CatalogEntry) -> Iterator[str]:
    """Everything that can be known without the weights."""
    contract, named = entry.contract, [label for label in entry.classes if label]
    rules = (
        (bool(_NAME.match(entry.name)), "name must be letters, digits and . _ + - (at most 64)"),
        (bool(_NAME.match(entry.version)), "version must be letters, digits and . _ + - (at most 64)"),
        (entry.kind in KINDS, f"kind must be one of {', '.join(KINDS)}"),
        (bool(entry.architecture or entry.members) or entry.kind in PROGRAMS, "architecture is missing (a timm name)"),
        (bool(named), "classes names none"),
        (len(named) == len(entry.classes), "a class has no name"),
        (len({label.casefold() for label in named}) == len(named), "a class is named twice"),
        (
            len(entry.thresholds) == len(entry.classes),
            f"{len(entry.thresholds)} thresholds for {len(entry.classes)} classes: give one each",
        ),
        (all(0 < value < 1 for value in entry.thresholds), "thresholds must lie between 0 and 1"),
        (not entry.codes or len(entry.codes) == len(entry.classes), "codes must be one a class, or none at all"),
        (all(not code or _CODE.match(code) for code in entry.codes), 'codes look like "SCT:36118008"'),
        (
            not _wrong_codes(entry.codes),
            "no such code can exist (form or check digit): " + ", ".join(_wrong_codes(entry.codes)),
        ),
        (
            set(entry.modality) <= IMAGE_MODALITIES,
            f"modality {', '.join(sorted(set(entry.modality) - IMAGE_MODALITIES))} is none of DICOM's for images: "
            f"choose of {', '.join(sorted(IMAGE_MODALITIES))}",
        ),
        (math.isfinite(entry.temperature) and entry.temperature > 0, "temperature must be above 0"),
        (not entry.dropout or entry.kind not in PROGRAMS, "dropout must be 0: a program has no head to sample"),
        (0 <= entry.dropout < 1, "dropout must be at least 0 and below 1"),
        (is_known(entry.aggregation), "aggregation must be max, noisy-or or topK-mean (top3-mean, say)"),
        (contract.scaling in SCALINGS, f"contract.scaling must be one of {', '.join(SCALINGS)}"),
        (contract.fit in FITS, f"contract.fit must be one of {', '.join(FITS)}"),
        (
            0 < min(contract.height, contract.width) <= max(contract.height, contract.width) <= MOST_PIXELS,
            f"contract.height and contract.width must lie between 1 and {MOST_PIXELS}",
        ),
        (contract.channels in {1, 3}, "contract.channels must be 1 or 3"),
        (-math.inf < contract.low < contract.high < math.inf, "contract.low must be below contract.high, both finite"),
        (
            bool(entry.modality) and bool(entry.body_parts) and all(entry.body_parts),
            "modality and body_parts must name one at least",
        ),
        (
            all(part == region(part) for part in entry.body_parts),
            "body_parts must be regions, as "
            + ", ".join(f"{region(part)} for {part}" for part in entry.body_parts if part != region(part)),
        ),
        (not entry.weights_sha256 or bool(_SHA256.match(entry.weights_sha256)), "weights_sha256 is no SHA-256"),
        (not entry.features_sha256 or bool(_SHA256.match(entry.features_sha256)), "features_sha256 is no SHA-256"),
        (
            all(_is(value, _NUMBER) and 0 < value < math.inf for value in entry.members.values()),
            "members need weights above 0",
        ),
        (
            all(name and version for name, _, version in (label.partition("@") for label in entry.members)),
            'members are named with their version: "chest@1" = 1.0',
        ),
        (
            not entry.members
            or (entry.temperature, entry.aggregation, entry.dropout, entry.architecture, dict(entry.options))
            == (1.0, "max", 0.0, "", {}),
            "temperature, aggregation, dropout, architecture and options are not an ensemble's: its members have their own",
        ),
        (bool(entry.licence), "licence is empty: say under which terms the weights may be used"),
    )
    yield from (words for holds, words in rules if not holds)
