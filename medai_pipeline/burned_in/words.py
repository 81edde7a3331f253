"""Which words may stay in a picture, and which identify: the header's own words, and a list of harmless ones.

It fails closed: what is neither harmless nor noise of the reader is taken to identify. No pixels here.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

_IDENTIFIERS = (
    "PatientID",
    "OtherPatientIDs",
    "IssuerOfPatientID",
    "AccessionNumber",
    "StudyID",
    "PatientAddress",
    "PatientTelephoneNumbers",
    "InstitutionName",
    "InstitutionAddress",
    "InstitutionalDepartmentName",
    "StationName",
    "DeviceSerialNumber",
    "AdmissionID",
    "MedicalRecordLocator",
    "RequestedProcedureID",
)
_DATES = ("%Y%m%d", "%d%m%Y", "%m%d%Y", "%y%m%d", "%d%m%y", "%m%d%y", "%d%b%Y", "%b%d%Y", "%d%B%Y", "%B%d%Y", "%Y%b%d")

# Letters that readers take for one another, as one of them.
_ALIKE = str.maketrans("OQDIL|!J]ZSBGT", "00011111125861")

HARMLESS = frozenset(
    word
    for words in tomllib.loads(files("medai_pipeline.burned_in").joinpath("harmless.toml").read_text("utf-8")).values()
    for word in words
)
_FOLDED = frozenset("".join(letter for letter in word if letter.isalnum()).translate(_ALIKE) for word in HARMLESS)
_LONG = tuple(sorted(word for word in _FOLDED if len(word) >= 8))
_UNITS = frozenset({"BPM", "CM", "CM/S", "DB", "FPS", "HZ", "KHZ", "KV", "MA", "MAS", "MHZ", "MM", "MM/S", "MS"})
_RARE = frozenset({"BPM", "FPS", "KHZ", "MHZ"})  # no name is like them but for a letter
_FOLDED_UNITS = frozenset(unit.translate(_ALIKE) for unit in _UNITS)
_NUMBER = re.compile(r"[+\-~=<>*]*\d{1,3}([.,]\d{1,2})?[%°+\-]*$")
_MEASURE = re.compile(
    r"([A-Z%/]{1,8})?[+\-=]*(\d{1,3}([.,]\d{1,2})?)([A-Z%/°2]{1,6})?$"
)  # a quantity: letters, number, unit
_QUANTITY = re.compile(r"((?:[A-Za-z]{1,5}\s*)?\d{1,3}(?:[.,]\d)?)\s*([A-Za-z/]{2,4})")
_LENGTH = re.compile(r"[CAOEM][MNA]{1,2}")  # a misread "cm" or "mm"
_NUMBERS_JOINED = re.compile(r"\d\s?[:/\-–]\s?\d|\d[.,]\d+[.,]\d|\d{4}")
_LONG_NUMBER = 7  # digits
_JOINED = re.compile(
    r"WW?\d{1,4}W?[LC]-?\d{1,4}|[LR][AP]|[AP]R|PL|[IS][APLR]|[HF][PLR]"
)  # a window; directions, without names as "AL", "LI", "HA"
_SPLIT = re.compile(r"[\s:;,/\\()\[\]{}|_=]+")


def plain(text: str) -> str:
    """Upper case letters and digits alone, without accents."""
    return "".join(letter for letter in unicodedata.normalize("NFKD", text).upper() if letter.isalnum())


def fold(text: str) -> str:
    """`plain`, and letters that readers take for one another made equal."""
    return plain(text).translate(_ALIKE)


@dataclass(frozen=True, slots=True)
class IdentityWords:
    """Words of one header: folded ones of four and more letters, `short` ones as they are. It is not for showing."""

    words: frozenset[str]
    short: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return "IdentityWords(<hidden>)"

    def matches(self, text: str) -> bool:
        """Whether `text` holds one of them: as a word, inside the run of its letters, or but for a misread letter."""
        run = fold(text)
        tokens = [fold(token) for token in _SPLIT.split(text)]
        if self.short.intersection(plain(token) for token in _SPLIT.split(text)):
            return True
        return any(
            word in run or (len(word) >= 5 and any(_near(word, token) for token in (*tokens, run)))
            for word in self.words
        )

    def comes_near(self, text: str) -> bool:
        """`matches`, more widely: whether a text that was read badly could be one of them.

        One letter may be misread in three or four, two in longer words.
        """
        run = fold(text)
        tokens = {run, *(fold(token) for token in _SPLIT.split(text))} - {""}
        return self.matches(text) or any(
            _edits(word, token) <= (len(word) >= 3) + (len(word) >= 5)
            for word in (*self.words, *(fold(short) for short in self.short))
            for token in tokens
        )


def identity_words(dataset: Dataset) -> IdentityWords:
    """The words of a header that identify: names, numbers, places and dates, at every nesting level."""
    found: set[str] = set()
    for element in dataset.iterall():
        if element.VR == "PN":
            for name in _values(element.value):
                found |= _parts(str(name).replace("^", " ").replace("=", " "))
        elif element.keyword in _IDENTIFIERS:
            for value in _values(element.value):
                found |= _parts(str(value)) | {plain(str(value))}
        elif element.VR in ("DA", "DT"):
            for value in _values(element.value):
                found |= _date_forms(str(value))
    return IdentityWords(
        frozenset(word.translate(_ALIKE) for word in found if len(word) >= 4),
        frozenset(word for word in found if 2 <= len(word) <= 3),
    )


def _values(value: object) -> Iterable[object]:
    return value if isinstance(value, (list, tuple, MultiValue)) else (() if value is None else (value,))


def _parts(text: str) -> set[str]:
    return {plain(part) for part in _SPLIT.split(text)} - {""}


def _date_forms(value: str) -> set[str]:
    import datetime

    try:
        day = datetime.datetime.strptime(value[:8], "%Y%m%d")
    except ValueError:
        return set()
    forms = {plain(day.strftime(form)) for form in _DATES}
    return forms | {f"{day.day}{day.month}{day.year}", f"{day.month}{day.day}{day.year}"}


def _near(word: str, token: str) -> bool:
    """Whether `token` is `word` but for one edit (two from 9 letters on)."""
    allowed = 2 if len(word) >= 9 else 1
    return abs(len(word) - len(token)) <= allowed and _edits(word, token) <= allowed


def _edits(word: str, token: str) -> int:
    """Letters to insert, drop or change between two words."""
    before = list(range(len(token) + 1))
    for row, letter in enumerate(word, 1):
        now = [row]
        for column, other in enumerate(token, 1):
            now.append(min(before[column] + 1, now[-1] + 1, before[column - 1] + (letter != other)))
        before = now
    return before[-1]


def is_harmless(text: str) -> bool:
    """Whether every word of `text` is a marker, a term of technique, a unit or a number of a scale. No date or time is."""
    if _NUMBERS_JOINED.search(unicodedata.normalize("NFKC", text)) or _number_in_groups(text):
        return False
    return all(_harmless(token) for token in _tokens(text))


def _number_in_groups(text: str) -> bool:
    """Whether whole numbers follow each other that make one of seven digits and more, and are not evenly spaced marks."""
    run: list[str] = []
    for token in [*text.split(), ""]:
        if token.isdecimal():
            run.append(token)
            continue
        steps = {int(after) - int(before) for before, after in pairwise(run)}
        if len(steps) > 1 and sum(map(len, run)) >= _LONG_NUMBER:
            return True
        run = []
    return False


def _tokens(text: str) -> Iterator[str]:
    bare = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    for token in _SPLIT.split(bare.upper()):
        token = token.strip(".'\"`^*#<>~-—–·•°\u2191\u2193")
        if token:
            yield token


def _harmless(token: str) -> bool:
    if len(token) == 1 or _known(token) or _NUMBER.match(token) or _JOINED.fullmatch(token):
        return True
    if all(len(part) == 1 or _known(part) for part in re.split(r"[-.+&]", token) if part):
        return True
    measure = _MEASURE.match(token)
    if measure and _measures(measure[1], measure[4]):
        return True
    # two words that were read as one: the longer of them must be a word of its own
    return any(
        _known(token[:cut]) and _known(token[cut:]) and max(cut, len(token) - cut) >= 3 for cut in range(1, len(token))
    )


def _measures(label: str | None, unit: str | None) -> bool:
    return (not label or _known(label)) and (not unit or _known(unit) or unit.translate(_ALIKE) in _FOLDED_UNITS)


def with_units_mended(text: str) -> str:
    """A quantity as it was written, where one letter of its unit was misread: "10 cn", "HR 72 lpm". Else `text` itself."""
    quantity = _QUANTITY.fullmatch(text.strip())
    if not quantity:
        return text
    said = quantity[2].upper()
    for unit in sorted(_UNITS):
        if len(unit) == len(said) and _edits(unit, said) <= (unit in _RARE):
            return f"{quantity[1]} {unit}"
    length = _LENGTH.fullmatch(said)
    return f"{quantity[1]} {'MM' if said[0] in 'MN' else 'CM'}" if length else text


def long_word_like(text: str) -> str:
    """The harmless word of eight letters and more that a badly read word is like, but for a third of its letters; or ""."""
    run = fold(text)
    return next((known for known in _LONG if _edits(known, run) <= len(known) // 3), "")


def _known(word: str) -> bool:
    if word in HARMLESS or (len(word) >= 3 and fold(word) in _FOLDED):
        return True
    return len(word) >= 6 and any(_near(known, fold(word)) for known in _FOLDED if len(known) >= 7)
