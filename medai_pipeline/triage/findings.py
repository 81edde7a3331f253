"""What a model's label means: the codes of a finding, or that it is none. The table is `findings.csv`.

The first code is SNOMED CT as DICOM uses it (PS3.16 clause 8.1, designator SCT); RadLex and DICOM's own code (DCM) stand
beside it where there is one. `sources` says where they are from: a context group of PS3.16, the standard elsewhere (PS3.16),
SNOMED CT International, RadLex. A label without a code that is certain has none: an empty code is honest, a wrong one is
not. How urgent a finding is stands in `rules`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class FindingCode:
    """One row: the label as models give it, and the coded concept (scheme, value, meaning; "" when there is none).

    `others`: codes of other schemes for it, as (scheme, value, meaning). `is_listed` is false for a label that the table
    does not know.
    """

    label: str
    aliases: tuple[str, ...]
    is_finding: bool
    scheme: str
    value: str
    meaning: str
    is_listed: bool = True
    others: tuple[tuple[str, str, str], ...] = ()
    sources: tuple[str, ...] = ()

    @property
    def codes(self) -> tuple[tuple[str, str, str], ...]:
        """All codes as (scheme, value, meaning), SNOMED CT first."""
        return (((self.scheme, self.value, self.meaning),) if self.value else ()) + self.others

    @property
    def code(self) -> str:
        """ "scheme:value", or "" without a code."""
        return f"{self.scheme}:{self.value}" if self.value else ""


@cache
def findings() -> tuple[FindingCode, ...]:
    """The whole table, in its order."""
    with (files("medai_pipeline.triage") / "findings.csv").open(encoding="utf-8") as table:
        return tuple(_row(row) for row in csv.DictReader(table))


@lru_cache(1024)  # a comparison of versions asks for every study
def lookup(label: str) -> FindingCode:
    """The row of a label, by name or alias, in any case, with _ for blank; an uncoded finding for an unknown label."""
    return _by_name().get(_key(label)) or FindingCode(label, (), True, "", "", "", is_listed=False)


def code_of(label: str) -> str:
    """ "scheme:value" of a label, "" when it has none."""
    return lookup(label).code


def codes_of(labels: Iterable[str]) -> dict[str, str]:
    """label -> "scheme:value" for the labels that are findings, in their order."""
    return {label: code_of(label) for label in labels if is_finding(label)}


def is_finding(label: str) -> bool:
    """False for labels that say that nothing was found."""
    return lookup(label).is_finding


def _row(row: dict[str, str]) -> FindingCode:
    return FindingCode(
        label=row["label"],
        aliases=tuple(filter(None, row["aliases"].split("|"))),
        is_finding=row["kind"] == "finding",
        scheme=row["scheme"],
        value=row["value"],
        meaning=row["meaning"],
        others=tuple(
            (scheme, row[column], row[f"{column}_meaning"])
            for scheme, column in (("RADLEX", "radlex"), ("DCM", "dcm"))
            if row[column]
        ),
        sources=tuple(filter(None, row["sources"].split("|"))),
    )


@cache
def _by_name() -> dict[str, FindingCode]:
    return {_key(name): row for row in findings() for name in (row.label, *row.aliases)}


def _key(label: str) -> str:
    return " ".join(label.replace("_", " ").casefold().split())
