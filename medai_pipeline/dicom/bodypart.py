"""Which body part an image shows, in a fixed vocabulary: what model selection needs and no more.

Body Part Examined is often absent and free text often names it, so several attributes are looked at, before
de-identification removes them. Whatever they say, only a word of `WORDS` leaves: no text of the source is carried on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache

from medai_pipeline.dicom.attributes import Attributes

# Terms of PS3.16 table L-1 (Body Part Examined) -> words that name them, as whole words or beginnings of words.
WORDS: Mapping[str, tuple[str, ...]] = {
    "CHEST": ("CHEST", "THORAX", "THORACIC", "LUNG", "PULMON", "HRCT", "CXR"),
    "BRAIN": ("BRAIN", "CEREBR", "NEURO", "CRANI"),
    "HEAD": ("HEAD", "SKULL"),
    "NECK": ("NECK", "CERVICAL", "CSPINE"),
    "ABDOMEN": ("ABDOM", "LIVER", "KIDNEY", "RENAL", "PANCREAS"),
    "PELVIS": ("PELVI", "PROSTATE", r"HIP(?![A-Z])"),
    "BREAST": ("BREAST", "MAMMO"),
    "SPINE": ("SPINE", "LUMBAR", "TSPINE", "LSPINE"),
    "HEART": ("HEART", "CARDIA", "CORONARY"),
    "EXTREMITY": ("EXTREM", "KNEE", "ANKLE", "FOOT", "HAND", "WRIST", "ELBOW", "SHOULDER", "FEMUR", "TIBIA"),
    "WHOLEBODY": ("WHOLEBODY", "WHOLE BODY"),
}
_PATTERNS = {term: re.compile(r"(?<![A-Z])(?:" + "|".join(words) + ")") for term, words in WORDS.items()}

_BODY_PART_EXAMINED = 0x00180015
_ANATOMIC_REGION = 0x00082218
_CODE_MEANING = 0x00080104
_DESCRIPTIONS = (0x0008103E, 0x00181030, 0x00081030, 0x00321060, 0x00400254)  # series first, then protocol, study


def body_part(attributes: Attributes) -> str:
    """A term of `WORDS`, from Body Part Examined, else the anatomic region, else descriptions; "" when none says."""
    return next((term for text in _texts(attributes) if text and (term := named_in(text))), "")


def _texts(attributes: Attributes) -> Iterator[str]:
    yield attributes.text(_BODY_PART_EXAMINED)
    yield attributes.first(_ANATOMIC_REGION).text(_CODE_MEANING)
    yield attributes.first(0x52009229, 0x00209071, _ANATOMIC_REGION).text(_CODE_MEANING)
    yield from map(attributes.text, _DESCRIPTIONS)


@lru_cache(maxsize=64)  # slices of a series say the same
def named_in(text: str) -> str:
    """The term whose word comes first in the text; "" when there is none."""
    matches = ((match.start(), term) for term, pattern in _PATTERNS.items() if (match := pattern.search(text.upper())))
    return min(matches, default=(0, ""))[1]
