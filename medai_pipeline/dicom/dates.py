"""Dates and times at the byte level: whether they are well formed, and moved back by whole days (PS3.5 6.2, PS3.15 E.3.6).

Here belongs what DA, TM and DT are allowed to look like, ranges and the old ACR-NEMA forms included. A value that does
not is never kept: it could be anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from functools import lru_cache

_DAY = r"(?:\d{8}|\d{4}\.\d\d\.\d\d)"
_TIME = r"(?:\d\d(?:\d\d(?:\d\d(?:\.\d{1,6})?)?)?|\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?)"
_MOMENT = r"\d{4}(?:\d\d(?:\d\d(?:\d\d(?:\d\d(?:\d\d(?:\.\d{1,6})?)?)?)?)?)?(?:[+-](?:0\d|1[0-4])[0-5]\d)?"


def _ranged(form: str) -> re.Pattern[str]:
    return re.compile(f"{form}|{form}-|-{form}|{form}-{form}")


_FORMS = {
    "DA": _ranged(_DAY),
    "TM": _ranged(_TIME),
    "DT": _ranged(_MOMENT),
    "AS": re.compile(r"\d{3}[DWMY]"),
    "SH": re.compile(r"[+-]\d{4}"),  # Timezone Offset From UTC
}
_START = re.compile(r"(?<![\d.:])(\d{4})(\.?)(\d\d)?(?:\2(\d\d))?")
_FIRST = date(1, 1, 1)


def _values(value: bytes | memoryview) -> list[str]:
    return [part.strip("\0 ") for part in bytes(value).decode("latin-1").split("\\")]


def well_formed(vr: str, value: bytes | memoryview) -> bool:
    """Whether each value is what DA, TM, DT or AS allow, or empty, and there is such a day and time of day."""
    form, exists = _FORMS[vr], _EXISTS.get(vr)
    texts = [text for text in _values(value) if text]
    return all(form.fullmatch(text) and (exists is None or exists(text)) for text in texts)


def _day_exists(text: str) -> bool:
    return all(_is_day(end.replace(".", "")) for end in text.split("-") if end)


def _time_exists(text: str) -> bool:
    return all(_is_time(end.replace(":", "").partition(".")[0]) for end in text.split("-") if end)


def _moment_exists(text: str) -> bool:
    ends = (end.partition(".")[0] for end in re.split(r"[+-]", re.sub(r"[+-]\d{4}(?=-|$)", "", text)) if end)
    return all(_is_day(end[:8]) and _is_time(end[8:]) for end in ends)


def _is_day(digits: str) -> bool:
    """Four to eight digits as year, month and day: none that was before photographs, or is far ahead."""
    try:
        day = date(int(digits[:4]), int(digits[4:6] or 1), int(digits[6:8] or 1))
    except ValueError:
        return False
    return _EARLIEST <= day.year <= _LATEST


def _is_time(digits: str) -> bool:
    return all(
        int(part) <= most
        for part, most in zip((digits[:2], digits[2:4], digits[4:6]), (23, 59, 60), strict=True)
        if part
    )


_EARLIEST, _LATEST = 1800, 2199
_EXISTS: Mapping[str, Callable[[str], bool]] = {"DA": _day_exists, "TM": _time_exists, "DT": _moment_exists}


@lru_cache(maxsize=4096)
def _moved(text: str, days: int, moment: bool) -> str:
    """One value, or the two ends of a range, `days` earlier in the form it has. Raises ValueError before year 1."""
    return "-".join(_end(end, days) if end else "" for end in _ends(text)) if not moment else _moment(text, days)


def _ends(text: str) -> list[str]:
    return text.split("-")


def _end(text: str, days: int) -> str:
    match = _START.match(text)
    if match is None:
        raise ValueError("not a date")
    year, dot, month, day = match.groups()
    earlier = date(int(year), int(month or 1), int(day or 1)) - timedelta(days)
    parts = [f"{earlier.year:04}"] + [f"{earlier.month:02}"] * bool(month) + [f"{earlier.day:02}"] * bool(day)
    return dot.join(parts) + text[match.end() :]


def _moment(text: str, days: int) -> str:
    """A DT. A hyphen and four digits behind a moment is its zone; every other hyphen parts a range."""
    zoned = re.fullmatch(rf"({_MOMENT})?(-)?({_MOMENT})?", text)
    single = re.fullmatch(_MOMENT, text)
    if single:
        return _end(text, days)
    if zoned is None:
        raise ValueError("not a moment")
    return "".join(_end(part, days) if index != 1 and part else part or "" for index, part in enumerate(zoned.groups()))


def shifted(vr: str, value: bytes | memoryview, days: int) -> bytes | None:
    """The value `days` earlier, byte for byte of the same form; None when it is not a date of this VR.

    Times of day, offsets from UTC and zones stay: a whole number of days changes none of them.
    """
    if vr not in _FORMS or not well_formed(vr, value):
        return None
    texts = _values(value)
    if vr in ("DA", "DT"):
        try:
            texts = [_moved(text, days, vr == "DT") if text else "" for text in texts]
        except (ValueError, OverflowError):
            return None
    return "\\".join(texts).encode("ascii")
