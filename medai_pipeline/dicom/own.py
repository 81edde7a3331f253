"""How results of this pipeline are known again by what they say themselves, also where the database that sent them is lost.

By Manufacturer (0008,0070) together with a SOP Class that results are made in; where the class is not told, by Series
Description. Where the Manufacturer is not told, as by C-FIND, by the whole Series Description alone. Pictures that this pipeline makes to test itself have the same Manufacturer, but other classes.
"""

from __future__ import annotations

import re

MANUFACTURER = "medai_pipeline"
TITLES = (
    "AI report", "AI attention regions", "AI overlay", "AI heatmap", "AI key images", "AI results superseded"
)  # fmt: skip
SOP_CLASSES = frozenset(
    f"1.2.840.10008.5.1.4.1.1.{end}"
    for end in (
        "88.33",
        "88.34",
        "66.4",
        "7",
        "30",
        "88.59",
    )  # SR, 3D SR, SEG, SC, Parametric Map, Key Object Selection
)
_DESCRIPTION = re.compile(rf"({'|'.join(TITLES)}), research use only \(rev \d+\)")


def series_description(title: str, revision: int) -> str:
    return f"{title}, research use only (rev {revision})"


def is_own_result(manufacturer: str, sop_class_uid: str, description: str = "") -> bool:
    """Whether an object with these values is a result of this pipeline, of this site or another."""
    described = _DESCRIPTION.fullmatch(description.strip()) is not None
    if manufacturer.strip() == MANUFACTURER:
        return sop_class_uid in SOP_CLASSES if sop_class_uid else described
    return not manufacturer.strip() and described and sop_class_uid in {"", *SOP_CLASSES}
