"""Codes (PS3.3 8.8): which coding schemes are published. A site's own code may be, and mean, anything.

Here belongs that distinction alone; what is done with a code is in `cleaning`.
"""

from __future__ import annotations

from medai_pipeline.dicom.attributes import Attributes
from medai_pipeline.dicom.elements import Element

# PS3.16 Table 8-1, by the designators that objects hold
_DESIGNATORS = """
    ACR ACR-NEMA BARI BI C4 C5 CD2 DC DCM DCMUID FMA HPC I10 I10P I11 I9 I9C ICDO3 IBSI ISO3166_1 ISO639_1 ISO639_2
    ITIS_TSN LN MA MDC MGI MSH NCDR NCIt NDC NYUMCCG PATHLEX POS PUBCHEM_CID RADELEMENT RADLEX RFC3066 RFC5646 RO RXNORM
    SCT SDM SNM3 SRT UBERON UCUM UMLS UNS UPC X12DE SNOMED-RT
"""
PUBLISHED_SCHEMES = frozenset(_DESIGNATORS.split()) | {"NCDR [2.0b]"}
# Code Value, Long Code Value, URN Code Value
CODE_VALUES = frozenset({0x00080100, 0x00080119, 0x00080120})
CODING_SCHEME = 0x00080102
CODE_MEANING = 0x00080104
VALUES_AND_MEANING = CODE_VALUES | {CODING_SCHEME, CODE_MEANING, 0x00080103}


def is_code(item: list[Element]) -> bool:
    return any(element.tag in CODE_VALUES for element in item)


def is_local_code(item: list[Element]) -> bool:
    """Whether an item is a code of a scheme that is not published: value and meaning are free text then."""
    return is_code(item) and Attributes(item).text(CODING_SCHEME) not in PUBLISHED_SCHEMES
