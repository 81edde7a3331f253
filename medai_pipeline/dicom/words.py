"""Free text: what of it is safe to keep, and whether it names the person an object is about (PS3.15 E.3.5).

Here belongs the judgement on words. It is an allow-list (`words.toml`): what is not known goes. Work is on bytes, so that
no character set can hide a word; whatever is not ASCII is not known.
"""

from __future__ import annotations

import re
import struct
import tomllib
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from typing import NamedTuple

from pydicom.charset import decode_bytes, python_encoding
from pydicom.datadict import DicomDictionary

from medai_pipeline.dicom import terms
from medai_pipeline.dicom.attributes import Attributes
from medai_pipeline.dicom.elements import Element, dictionary_vr, read_items
from medai_pipeline.dicom.matcher import one_of
from medai_pipeline.dicom.profile import resource

_PIECES = re.compile(r"[^\s_/^,;:()\[\]{}<>&*+=|\"'!?#@~]+")
_NUMBER = re.compile(r"\d[\d.,]*")
_MEASURE = re.compile(
    r"\d{1,4}(\.\d{1,3})?(mm|cm|hz|khz|mhz|kv|kvp|ma|mas|ms|sec|min|t|deg|mgy|gy|ml|cc|%|x)|b\d{1,4}|[tcls]\d{1,2}|\d{1,3}"
)
_NUMBERED = re.compile(r"(?<=[a-z]{3})\d{1,2}$")  # window1, phase2
_ESCAPE = "\x1b"
_SHIFTED = re.compile(rb"\x1b\$\)?[@-D][^\x1b^=\\]{2,}")  # ISO 2022: two bytes a letter, which look like ASCII
_LETTERS = re.compile(rb"[A-Za-z0-9\x80-\xff]+")
_LONG = 4  # from here on a word of an identifier counts
_INSIDE = 5  # from here on a word counts inside another one too; one of other letters than ASCII is found from _LONG on
_DEEPEST = 16
_SEPARATORS = re.compile(rb"[^a-z0-9\x1b\x80-\xff]+")
_TWO_LETTERS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa", "æ": "ae", "œ": "oe"})
_MONTHS = (b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec")
_PARTS = re.compile(rb"[A-Z]?[a-z\x80-\xff]+|[A-Z]+(?![a-z])|\d+")  # DrNg, NG7: Dr Ng, NG 7
_SHORT_DATE = re.compile(rb"(?<!\d)(\d\d?)[-./_ ](\d\d?)[-./_ ](\d\d)(?!\d)|(?<!\d)(\d{6})(?!\d)")
_LONGEST_TEXT = 1 << 20  # bytes; what is longer is not read, and does not stay
_MOST_VALUES = 1000  # of one element that is cleaned

_PATIENT_ID, _OTHER_IDS, _OTHER_IDS_SEQUENCE = 0x00100020, 0x00101000, 0x00101002
# Identifiers, addresses and places: their words leave a description too.
_PHONE = 0x00102154
_ORDERS = frozenset({0x00401001, 0x00402016, 0x00402017})  # Requested Procedure ID, order numbers of placer and filler
_IDS = _ORDERS | {
    _PATIENT_ID,
    _OTHER_IDS,
    _PHONE,
    0x00080050,
    0x00101050,
    0x00101090,
    0x00120040,
    0x00380010,
    0x00380060,
}
_PLACES = frozenset({0x00101040, _PHONE, 0x00102155, 0x00080080, 0x00080081, 0x00081040, 0x00080092, 0x00080094})
_HONORIFICS = 3  # of the five parts of a name (PS3.5 6.2.1.2) the first three name a person


class Identity(NamedTuple):
    """Lower-case words of one object's own header. `persons` are words of names, identifiers and dates alone.

    `dates` are its dates in six digits, which count only where no further digit stands beside them.
    """

    persons: frozenset[bytes] = frozenset()
    places: frozenset[bytes] = frozenset()
    encodings: tuple[str, ...] = ()  # of the object's text, as Python calls them
    dates: frozenset[bytes] = frozenset()


@cache
def vocabulary() -> frozenset[str]:
    """The words that may be kept, lower case."""
    return frozenset(word for group in tomllib.loads(resource("words.toml")).values() for word in group.split())


@cache
def _small_words() -> frozenset[str]:
    """Words that alone are kept for nothing."""
    return frozenset(tomllib.loads(resource("words.toml"))["small"].split())


@cache
def _known() -> frozenset[bytes]:
    return frozenset(word.encode() for word in vocabulary())


@cache
@lru_cache(maxsize=4096)  # bounded: a private tag may be anything
def tells_identity(tag: int) -> bool:
    """Whether an element can add to the words of `identity_words`."""
    return (
        tag == terms.SPECIFIC_CHARACTER_SET
        or tag in _IDS
        or tag in _PLACES
        or tag == _OTHER_IDS_SEQUENCE
        or dictionary_vr(tag) in ("PN", "DA")
    )


def identity_words(elements: Iterable[Element]) -> Identity:
    """The words of names, identifiers, addresses and places in a data set, other patient IDs included."""
    found = list(elements)
    others = next((Attributes([e]).items(_OTHER_IDS_SEQUENCE) for e in found if e.tag == _OTHER_IDS_SEQUENCE), [])
    found += [element for item in others for element in item.elements.values()]
    encodings = _encodings(found)
    found += [e for element in found if holds_names(element) for e in _nested_names(element)]
    persons: set[bytes] = set()
    places: set[bytes] = set()
    dates: set[bytes] = set()
    for element in found:
        if element.items is not None or not len(element.value):
            continue
        vr = dictionary_vr(element.tag)
        if vr == "PN":
            persons.update(_name_words(bytes(element.value)))
            for folded in _folded(bytes(element.value), encodings):
                persons.update(_name_words(folded))
                persons.update(_glued(folded))
        elif vr == "DA":
            digits = re.sub(rb"\D", b"", bytes(element.value))
            if len(digits) == 8:
                persons.update(_date_forms(digits))
                dates.update(_six_digits(digits))
        elif element.tag in _IDS:
            persons.update(_id_words(bytes(element.value)))
        if element.tag in _PLACES:
            places.update(word for word in _words(bytes(element.value)) if len(word) > 2)
    return Identity(frozenset(persons), frozenset(places), encodings, frozenset(dates))


@cache
def _name_tags() -> re.Pattern[bytes]:
    tags = [*_IDS, *(tag for tag, entry in DicomDictionary.items() if entry[0] == "PN")]
    found = {struct.pack(order + "HH", tag >> 16, tag & 0xFFFF) for tag in tags for order in "<>"}
    return re.compile(b"|".join(re.escape(tag) for tag in sorted(found)))


def holds_names(element: Element) -> bool:
    """Whether a sequence may hold a person's name or number at any depth, by the bytes of its tags."""
    if dictionary_vr(element.tag) != "SQ":
        return False
    return element.items is not None or _name_tags().search(element.value) is not None


@lru_cache(maxsize=4096)
def may_tell(tag: int) -> bool:
    """False for what neither tells an identity nor is a sequence that could."""
    return tells_identity(tag) or dictionary_vr(tag) == "SQ"


def _nested_names(element: Element, depth: int = 1) -> Iterator[Element]:
    if depth > _DEEPEST:
        return
    for item in read_items(element, depth):
        for inner in item:
            vr = dictionary_vr(inner.tag)
            if vr == "PN" or inner.tag in _IDS:
                yield inner
            elif vr == "SQ" and inner.vr in (None, b"SQ", b"UN"):
                yield from _nested_names(inner, depth + 1)


def _encodings(elements: list[Element]) -> tuple[str, ...]:
    value = next((bytes(e.value) for e in elements if e.tag == terms.SPECIFIC_CHARACTER_SET), b"")
    names = [name.strip() for name in value.decode("latin-1").strip("\0 ").split("\\")]
    return tuple(python_encoding[n] for n in names[:8] if n in terms.CHARACTER_SETS and n in python_encoding)


def _decoded(value: bytes, encodings: tuple[str, ...]) -> str:
    if _ESCAPE.encode() in value:
        return decode_bytes(value, list(encodings) or ["iso8859"], set(b"^=\\"))
    return value.decode(encodings[0] if encodings else "iso8859", "replace")


def _folded(value: bytes, encodings: tuple[str, ...]) -> set[bytes]:
    """A text without case and accents, as UTF-8; umlauts both as their letter and as two."""
    text = _decoded(value, encodings).casefold()
    spelt = text.translate(_TWO_LETTERS)
    plain = (unicodedata.normalize("NFKD", form) for form in (text, spelt))
    return {form.translate({ord(c): None for c in set(form) if unicodedata.combining(c)}).encode() for form in plain}


def _glued(name: bytes) -> Iterator[bytes]:
    """Family and given name in one word, either way round."""
    for group in name.replace(b"=", b"\\").split(b"\\"):
        family, given = (b"".join(_words(part)) for part in (group.split(b"^") + [b""])[:2])
        if family and given and len(family + given) >= _LONG:
            yield from (family + given, given + family)


def _date_forms(digits: bytes) -> Iterator[bytes]:
    """A date as digits and with its month's name, in the orders that people write."""
    year, month, day = digits[:4], digits[4:6], digits[6:]
    yield from (digits, day + month + year, month + day + year)
    yield from (day.lstrip(b"0") + month.lstrip(b"0") + year, month.lstrip(b"0") + day.lstrip(b"0") + year)
    if b"01" <= month <= b"12":
        named = _MONTHS[int(month) - 1]
        yield from (day + named + year, year + named + day, named + day + year)
        yield from (day + named + year[2:], year[2:] + named + day, named + day + year[2:])


def _six_digits(digits: bytes) -> tuple[bytes, bytes, bytes]:
    year, month, day = digits[2:4], digits[4:6], digits[6:]
    return year + month + day, day + month + year, month + day + year


def _words(value: bytes) -> Iterator[bytes]:
    return (match.lower() for match in _LETTERS.findall(value))


def _name_words(value: bytes) -> Iterator[bytes]:
    yield from (match.lower() for match in _SHIFTED.findall(value))
    for name in value.replace(b"=", b"\\").split(b"\\"):
        for part in name.split(b"^")[:_HONORIFICS]:
            yield from (word for word in _words(part) if len(word) > 1)


def _id_words(value: bytes) -> Iterator[bytes]:
    whole = re.sub(rb"[^A-Za-z0-9]", b"", value).lower()
    yield from (word for word in (*_words(value), whole) if len(word) >= _LONG)


@lru_cache(maxsize=64)
def _telling(persons: frozenset[bytes]) -> tuple[frozenset[bytes], re.Pattern[bytes]]:
    """Words that give a person away in a text of a closed purpose: those that are no imaging terms; and the long ones."""
    telling = persons - _known()
    return telling, one_of(word for word in telling if len(word) >= (_INSIDE if word.isascii() else _LONG))


def names_the_person(value: bytes | memoryview, identity: Identity) -> bool:
    """Whether a text that the profile keeps holds a word of the person's name or identifiers; True for what is too long."""
    if len(value) > _LONGEST_TEXT:
        return True
    if not identity.persons:
        return False
    telling, long = _telling(identity.persons)
    text = bytes(value)
    lower = text.lower()
    if long.search(lower) or long.search(_SEPARATORS.sub(b"", lower)) or _holds_short_date(lower, identity):
        return True
    if not telling.isdisjoint(_LETTERS.findall(lower)):
        return True
    if not telling.isdisjoint(part.lower() for part in _PARTS.findall(text)):
        return True
    if text.isascii() and _ESCAPE.encode() not in text:
        return False
    for folded in _folded(text, identity.encodings):
        if long.search(folded) or not telling.isdisjoint(_LETTERS.findall(folded)):
            return True
    return False


def _holds_short_date(text: bytes, identity: Identity) -> bool:
    found = (
        match[4] or b"".join(part.zfill(2) for part in match.group(1, 2, 3)) for match in _SHORT_DATE.finditer(text)
    )
    return not identity.dates.isdisjoint(found)


def spells_the_person(value: bytes | memoryview, identity: Identity) -> bool:
    """Whether binary values hold a long word of the person's, as text of one, two or four bytes a letter."""
    if not identity.persons:
        return False
    _, long = _telling(identity.persons)
    lower = bytes(value).lower()
    return bool(long.search(lower) or long.search(lower.replace(b"\0", b"")))


def cleaned(value: bytes | memoryview, identity: Identity) -> bytes:
    """What of a text is safe: known words and measures, single spaces between them, values apart; b"" for nothing.

    A value that is safe as a whole stays to the byte.
    Numbers of four and more digits and runs of numbers go: they may be dates, identifiers, telephone numbers.
    """
    text = bytes(value).decode("latin-1")
    if len(text) > _LONGEST_TEXT or text.count("\\") > _MOST_VALUES or _ESCAPE in text:
        return b""  # ISO 2022: what looks like ASCII need not be
    values = (_safe_part(part.strip(), identity) for part in text.strip("\0 ").split("\\") if part)
    return "\\".join(part for part in values if part).encode("ascii")


def is_known_text(text: str) -> bool:
    """Whether every word and number of a text is a known one."""
    return len(_safe_pieces(text, Identity())) == len(_pieces(text))


def _safe_part(text: str, identity: Identity) -> str:
    """One value: as it is where all of it is safe, else the safe pieces with spaces between; "" for small words alone."""
    kept = _safe_pieces(text, identity)
    if not {piece.lower() for piece in kept} - _small_words():
        return ""
    whole = len(kept) == len(_pieces(text)) and text.isascii() and text.isprintable()
    return text if whole else " ".join(kept)


def _pieces(text: str) -> list[str]:
    """Words, numbers and measures; a known word keeps its hyphen (follow-up)."""
    found = (piece.strip(".") for piece in _PIECES.findall(text))
    return [
        part for piece in found for part in ([piece] if piece.lower() in vocabulary() else piece.split("-")) if part
    ]


def _safe_pieces(text: str, identity: Identity) -> list[str]:
    """A bare number stays between known words alone: beside another one, or a word that goes, it may be of a date."""
    pieces = _pieces(text)
    safe = [bool(piece) and _is_safe(piece.lower(), identity) for piece in pieces]
    words = [
        piece.lower() if good and not _NUMBER.fullmatch(piece) else "" for piece, good in zip(pieces, safe, strict=True)
    ]
    kept = []
    for index, piece in enumerate(pieces):
        beside = words[max(0, index - 1) : index] + words[index + 1 : index + 2]
        if safe[index] and (words[index] or all(beside)):
            kept.append(piece)
    return kept


def _is_safe(piece: str, identity: Identity) -> bool:
    if piece not in vocabulary() and not _MEASURE.fullmatch(piece) and _NUMBERED.sub("", piece) not in vocabulary():
        return False
    word = piece.encode()
    return word not in identity.persons and word not in identity.places
