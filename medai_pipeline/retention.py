"""How long each kind of data is kept: the kinds, and how MEDAI_RETENTION is read. Nothing is deleted here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of data. `objects`: how the names of its objects begin; none for what is not kept so, study by study.
    `days`: how long it is kept where nothing is said; None: for ever."""

    name: str
    meaning: str
    objects: tuple[str, ...] = ()
    days: float | None = None


# in the order in which they go; the audit chain is no kind: it is kept for ever
KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("raw", "the files as the PACS sent them, with identity", ("raw", "assets/raw_dicom")),
        Kind(
            "tensors",
            "normalized images; without them no other model version reads the study",
            ("assets/normalized_tensors",),
        ),
        Kind("deidentified", "the de-identified files; without them no image is shown", ("anonymized",)),
        Kind("reports", "everything of the study: it is forgotten as by `medai forget`"),
        Kind(
            "quarantine", "files that came by C-STORE or the inbox and were refused; the PACS never had them", days=90
        ),
        Kind("events", "Dagster's log lines of runs that are over; what it knows of assets stays"),
        Kind("logs", "the logs of the services under MEDAI_HOME/logs"),
    )
}


def parse_retention(text: str) -> dict[str, float]:
    """Kind -> days, from `raw=30,reports=3650,quarantine=never`, without those that never go. Raises ValueError that
    says what is wrong."""
    rules = {kind.name: kind.days for kind in KINDS.values()}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, days = (piece.strip() for piece in part.partition("="))
        if name == "audit":
            raise ValueError("the audit chain is never deleted")
        if name not in KINDS:
            raise ValueError(f"{name!r} is no kind of data: {', '.join(KINDS)}")
        if days == "never":
            rules[name] = None
            continue
        value = float(days) if days.replace(".", "", 1).isdecimal() else math.nan
        if not 0 < value < 100_000:
            raise ValueError(f"{name} needs a number of days above 0, or never")
        rules[name] = value
    return {name: value for name, value in rules.items() if value is not None}
