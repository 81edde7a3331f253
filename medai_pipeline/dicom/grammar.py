"""Values by the grammar of their VR (PS3.5 6.2) and their Value Multiplicity (PS3.6): what is none is not kept as found.

Here belongs form alone: numbers as text, UIDs, and how many values there may be. Dates are in `dates`, words in `words`.
"""

from __future__ import annotations

import re
from functools import cache

from pydicom.datadict import DicomDictionary
from pydicom.valuerep import format_number_as_ds

_DS_LENGTH, _IS_LENGTH = 16, 12  # PS3.5 Table 6.2-1, of one value
_DECIMAL = rb"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_INTEGER = rb"[+-]?\d+"


def _list_of(form: bytes, length: int) -> re.Pattern[bytes]:
    one = rb"(?=[^\\]{0,%d}(?:\\|[ \0]?\Z)) *(?:%s)? *" % (length, form)
    return re.compile(rb"%s(?:\\%s)*[ \0]?" % (one, one))


_LISTS = {"DS": _list_of(_DECIMAL, _DS_LENGTH), "IS": _list_of(_INTEGER, _IS_LENGTH)}
_NUMBER = re.compile(_DECIMAL)
_UID = re.compile(r"[0-2](?:\.(?:0|[1-9]\d*))+")  # ISO/IEC 9834-1: there are three roots
_UID_LENGTH = 64
_LARGEST = 1 << 31
_LARGEST_DECIMAL = 1e300
_VM = re.compile(r"(\d+)(?:-(?:(\d+)|\d*n))?")
# Bytes of one value of the VRs whose lists are told apart by their length
SIZES = {"AT": 4, "FD": 8, "FL": 4, "SL": 4, "SS": 2, "SV": 8, "UL": 4, "US": 2, "UV": 8}
_WORDS_OF = {"OD": 8, "OF": 4, "OL": 4, "OV": 8}


def numbers(vr: str, value: bytes | memoryview) -> bytes | memoryview | None:
    """A DS or IS as it is; numbers that are longer than their VR allows rewritten; None where one is no number."""
    if _LISTS[vr].fullmatch(value):
        return value
    rewrite = _decimal if vr == "DS" else _integer
    texts = [rewrite(part.strip(b"\0 ")) for part in bytes(value).split(b"\\")]
    return None if None in texts else b"\\".join(text for text in texts if text is not None)


def _decimal(text: bytes) -> bytes | None:
    """The nearest number that 16 characters can say (PS3.5 6.2)."""
    if not text or (len(text) <= _DS_LENGTH and _NUMBER.fullmatch(text)):
        return text
    number = float(text) if _NUMBER.fullmatch(text) else float("inf")
    return format_number_as_ds(number).encode("ascii") if abs(number) < _LARGEST_DECIMAL else None


def _integer(text: bytes) -> bytes | None:
    """An integer that was written with a decimal point or too many zeros."""
    number = float(text) if _NUMBER.fullmatch(text) else 0.5
    if not text or (number.is_integer() and abs(number) <= _LARGEST):
        return b"%d" % int(number) if text else text
    return None


def whole_numbers(value: bytes | memoryview) -> set[bytes]:
    """The integers among the values of a DS or IS, as digits, in whatever way they are written."""
    parts = (part.strip(b"\0 ") for part in bytes(value).split(b"\\"))
    found = {part for part in parts if _NUMBER.fullmatch(part)}
    plain = {part.lstrip(b"+-") for part in found if part.lstrip(b"+-").isdigit()}
    others = (float(part) for part in found if len(part) <= 32 and not part.lstrip(b"+-").isdigit())
    whole = {b"%d" % abs(int(number)) for number in others if abs(number) < 1e15 and number.is_integer()}
    return plain | {part.lstrip(b"0") for part in plain} | whole


def is_uid(text: str) -> bool:
    """PS3.5 9.1: components without leading zeros, at least two, under one of the three roots; 64 characters at most."""
    return len(text) <= _UID_LENGTH and _UID.fullmatch(text) is not None


@cache
def most_values(tag: int) -> int:
    """The largest Value Multiplicity that PS3.6 gives an attribute; 0 for no limit."""
    entry = DicomDictionary.get(tag)
    found = _VM.match(entry[1]) if entry else None
    if found is None or found[0].endswith("n"):
        return 0
    return int(found[2] or found[1])


def has_room(tag: int, vr: str, value: bytes | memoryview) -> bool:
    """Whether a value holds no more values than PS3.6 allows; `vr` as in the dictionary ("US or SS")."""
    choices = vr.split(" or ")
    sizes = {SIZES.get(choice) or _WORDS_OF.get(choice, 1) for choice in choices}
    if len(value) % min(sizes):
        return False
    most = most_values(tag)
    if not most:
        return True
    if choices[0] in ("DS", "IS"):
        return bytes(value).count(b"\\") < most
    return not all(choice in SIZES for choice in choices) or len(value) <= most * max(sizes)
