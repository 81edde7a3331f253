"""What a code looks like in each published coding scheme (PS3.16 Table 8-1): its form, and its check digit where it has one.

Here belongs form alone. A scheme that has no form here has no codes but those that `codes` knows one by one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

OLD_SNOMED = ("SRT", "SNM3", "SNOMED-RT", "99SDM")  # PS3.16 8.1: designators of the time before SNOMED CT

_UCUM_ATOM = (
    r"(?:da|[YZEPTGMkhdcmunpfazy])?(?:m|s|g|t|l|L|A|K|J|N|V|W|T|F|H|S|C|R|U|u|B|a|d|h|rad|sr|cd|mol|Hz|Pa|Wb|Ohm|lm|lx|Bq|Gy|Sv|Ci"
    r"|RAD|REM|deg|min|wk|mo|bar|eV|cal|kat|eq|osm|bit|By|Cel|m\[Hg\])"
    r"|%|'|''|10[*^]|\[(?:hnsf'U|IU|iU|in_i|ft_i|lb_av|ppth|ppm|ppb|pi|Bd|diop)\]"
)
_UCUM_PART = rf"(?:\d{{1,3}}|\d{{0,3}}(?:{_UCUM_ATOM})(?:[+-]?\d\d?)?)"
_LANGUAGE = r"[a-z]{2}(?:-[A-Z]{2})?"
_FORMS: Mapping[str, str] = {
    "DCM": r"1[0-3]\d{4}",
    "SCT": r"[1-9]\d{5,17}",
    **dict.fromkeys(OLD_SNOMED, r"(?=.*\d)[A-Z][A-Z0-9]?-[0-9A-F]{4,5}"),
    "LN": r"\d{1,5}-\d",
    "UCUM": rf"/?{_UCUM_PART}(?:[./]{_UCUM_PART}){{0,3}}",
    "UMLS": r"C\d{7}",
    "RADLEX": r"RID\d{1,6}",
    "RADELEMENT": r"RDES?\d{1,6}",
    "NCIt": r"C\d{3,6}",
    "MSH": r"[CD]\d{6,9}",
    "MDC": r"\d{1,6}|\d{1,3}:\d{1,5}",
    "FMA": r"\d{4,6}",
    "IBSI": r"(?=.*\d)[A-Z0-9]{4}",
    **dict.fromkeys(("I10", "I10P"), r"[A-Z]\d[0-9A-Z](?:\.[0-9A-Z]{1,4})?"),
    **dict.fromkeys(("I9", "I9C"), r"\d{3}(?:\.\d{1,2})?|[EV]\d{2,3}(?:\.\d{1,2})?"),
    "ICDO3": r"C\d\d(?:\.\d)?|\d{4}/\d",
    **dict.fromkeys(("C4", "C5", "CD2"), r"\d{4}[0-9FT]|D\d{4}"),
    "HPC": r"[A-V]\d{4}",
    "POS": r"\d\d",
    "ISO639_1": r"[a-z]{2}",
    "ISO3166_1": r"[A-Z]{2}",
    **dict.fromkeys(("RFC3066", "RFC5646"), _LANGUAGE),
}


def has_form(scheme: str, value: str) -> bool:
    """Whether a value could be a code of the scheme."""
    form, check = _FORMS.get(scheme), _CHECKS.get(scheme)
    return form is not None and re.fullmatch(form, value) is not None and (check is None or check(value))


def _is_snomed_ct(value: str) -> bool:
    """A concept's identifier: partition 00 or 10, and the check digit of Verhoeff (SNOMED CT release format, 6)."""
    check = 0
    for place, digit in enumerate(reversed(value)):
        check = _PRODUCTS[check][_PERMUTED[place % 8][int(digit)]]
    return check == 0 and value[-3:-1] in ("00", "10")


def _is_loinc(value: str) -> bool:
    """The last digit by Luhn's rule over those before the hyphen (LOINC users' guide, appendix C)."""
    number, check = value.split("-")
    doubled = (int(digit) * (2 - place % 2) for place, digit in enumerate(reversed(number)))
    return (sum(digit // 10 + digit % 10 for digit in doubled) + int(check)) % 10 == 0


_CHECKS: Mapping[str, Callable[[str], bool]] = {"SCT": _is_snomed_ct, "LN": _is_loinc}


def _product(one: int, other: int) -> int:
    """In the dihedral group of order 10, whose table Verhoeff's digit is computed in."""
    turned = (one + other if one < 5 else one - other) % 5
    return turned + 5 * ((one < 5) != (other < 5))


_PRODUCTS = [[_product(one, other) for other in range(10)] for one in range(10)]
_STEP = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)
_PERMUTED = [list(range(10))]
for _ in range(7):
    _PERMUTED.append([_STEP[digit] for digit in _PERMUTED[-1]])
