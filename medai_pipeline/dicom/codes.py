"""Codes (PS3.3 8.8): which are published, and what they mean. A site's own code may be, and mean, anything.

Here belongs that judgement alone; what is done with a code is in `cleaning`. The published codes are those of PS3.16's
context groups, as pydicom carries them; a scheme holds more than these, so an unknown code stays if it has the form of
its scheme, and its meaning as far as its words are known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from medai_pipeline.dicom import words
from medai_pipeline.dicom.attributes import Attributes
from medai_pipeline.dicom.coding_schemes import OLD_SNOMED, has_form
from medai_pipeline.dicom.elements import Element

# PS3.16 Table 8-1, by the designators that objects hold
_DESIGNATORS = """
    ACR ACR-NEMA BARI BI C4 C5 CD2 DC DCM DCMUID FMA HPC I10 I10P I11 I9 I9C ICDO3 IBSI ISO3166_1 ISO639_1 ISO639_2
    ITIS_TSN LN MA MDC MGI MSH NCDR NCIt NDC NEU NYUMCCG PATHLEX POS PUBCHEM_CID RADELEMENT RADLEX RFC3066 RFC5646 RO RXNORM
    SCT SDM SNM3 SRT UBERON UCUM UMLS UNS UPC X12DE SNOMED-RT 99SDM
"""
PUBLISHED_SCHEMES = frozenset(_DESIGNATORS.split()) | {"NCDR [2.0b]"}
# Code Value, Long Code Value, URN Code Value
CODE_VALUES = (0x00080100, 0x00080119, 0x00080120)
CODING_SCHEME, CODE_MEANING = 0x00080102, 0x00080104
JUDGED = frozenset({*CODE_VALUES, CODING_SCHEME, CODE_MEANING})


class Judgement(NamedTuple):
    """`local`: value and meaning are free text. `meaning`: what stands for the meaning found, where it may not stay.

    `values`: scheme, and value of a known code, which stay whatever the person is called.
    """

    local: bool
    meaning: bytes | None = None
    values: Mapping[int, bytes] = {}


def is_code(item: list[Element]) -> bool:
    """Whether an item is a code, or says what a code means without one."""
    return any(element.tag in CODE_VALUES or element.tag == CODE_MEANING for element in item)


def judge(item: list[Element], identity: words.Identity) -> Judgement:
    """Whether a code is published, and whether its meaning can be kept."""
    attributes = Attributes(item)
    scheme = attributes.text(CODING_SCHEME)
    values = {tag: text for tag in CODE_VALUES if (text := attributes.text(tag))}
    if scheme not in PUBLISHED_SCHEMES or len(set(values.values())) != 1:
        return Judgement(local=True)
    value = next(iter(values.values()))
    known = _meanings().get((scheme, value))
    if known is None and (not has_form(scheme, value) or words.names_the_person(value.encode("latin-1"), identity)):
        return Judgement(local=True)
    sure = {CODING_SCHEME: scheme.encode("ascii")}
    if known is not None:
        sure |= dict.fromkeys(values, value.encode("ascii"))
    found = attributes.text(CODE_MEANING).encode("latin-1")
    if not found or found.decode("latin-1") == known or _is_plain(found, identity):
        return Judgement(local=False, values=sure)
    meaning = known.encode("ascii", "ignore") if known else words.cleaned(found, identity)
    return Judgement(local=False, meaning=meaning or b"ANONYMIZED", values=sure)


def _is_plain(meaning: bytes, identity: words.Identity) -> bool:
    """Whether every word of a meaning stands in the meaning of some published code, or in our own list."""
    found = {word.lower() for word in re.findall(rb"[A-Za-z\x80-\xff]+", meaning)}
    if any(len(run) > 3 for run in re.findall(rb"\d+", meaning)) or words.names_the_person(meaning, identity):
        return False
    return all(len(word) == 1 or word in _words() for word in found)


@cache
def _meanings() -> Mapping[tuple[str, str], str]:
    """(scheme, code) -> meaning; SNOMED RT codes by the SNOMED CT codes that replaced them."""
    from pydicom.sr import _concepts_dict  # 1.8 MB of tables: only where an object holds a code
    from pydicom.sr._snomed_dict import mapping

    concepts: Any = _concepts_dict.concepts
    found: dict[tuple[str, str], str] = {}
    for scheme, by_keyword in concepts.items():
        for by_code in by_keyword.values():
            for code, (meaning, *_) in by_code.items():
                found[scheme, code] = min(found.get((scheme, code), meaning), meaning, key=len)
    by_old = {code: found["SCT", new] for code, new in mapping["SRT"].items() if ("SCT", new) in found}
    return found | {(scheme, code): meaning for scheme in OLD_SNOMED for code, meaning in by_old.items()}


@cache
def _words() -> frozenset[bytes]:
    meanings = (word for meaning in _meanings().values() for word in re.findall(r"[A-Za-z]+", meaning.lower()))
    return frozenset(word.encode() for word in meanings) | {word.encode() for word in words.vocabulary()}
