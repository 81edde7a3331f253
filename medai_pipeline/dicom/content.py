"""Content items of structured reports: PS3.15 Table E.3.4-1 (`ps315_content.csv`), by concept and value type.

Here belongs which content item is removed, replaced or kept; `cleaning` carries it out.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from functools import cache

from medai_pipeline.dicom.attributes import Attributes
from medai_pipeline.dicom.elements import Element
from medai_pipeline.dicom.options import Options
from medai_pipeline.dicom.profile import Decision, resolve, resource, rows_by_tag, under_options

EDITION = "DICOM PS3.15 Table E.3.4-1"

# Sequences of content items: those whose column "Clean Structured Content" says C.
_CONCEPT_NAME, _VALUE_TYPE = 0x0040A043, 0x0040A040
_CODE_VALUE, _SCHEME = 0x00080100, 0x00080102
TEXT_VALUE = 0x0040A160
VALUES = frozenset({TEXT_VALUE, 0x0040A124})  # of a content item that an option keeps: Text Value and UID
CONTENT_SEQUENCE = 0x0040A730


@cache
def sequences() -> frozenset[int]:
    """The sequences whose items are content items."""
    return frozenset(tag for tag, row in rows_by_tag().items() if row["clean_structured_content"] == "C")


@cache
def table() -> tuple[Mapping[str, str], ...]:
    return tuple(csv.DictReader(io.StringIO(resource("ps315_content.csv"))))


@cache
def _rows() -> Mapping[tuple[str, str, str], Mapping[str, str]]:
    return {(row["scheme"], row["code"], row["type"]): row for row in table()}


@cache
def decide_concept(scheme: str, code: str, value_type: str, options: Options) -> Decision | None:
    """What happens to a content item; None where the table does not name it.

    Whether a template needs the item is not known: where the code leaves a choice it gets a dummy (PS3.15 E.3.4).
    """
    row = _rows().get((scheme, code, value_type))
    return under_options(row, resolve(row["basic"], "1C"), options) if row else None


def decide_item(item: list[Element], options: Options) -> Decision | None:
    """The same for the elements of an item."""
    attributes = Attributes(item)
    concept = attributes.first(_CONCEPT_NAME)
    return decide_concept(concept.text(_SCHEME), concept.text(_CODE_VALUE), attributes.text(_VALUE_TYPE), options)
