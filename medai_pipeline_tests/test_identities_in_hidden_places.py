"""Names where no list of attributes looks for them: written byte by byte, as no library writes them."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.datadict import DicomDictionary

from medai_pipeline.dicom.deidentify import Deidentifier
from medai_pipeline.dicom.options import Option
from medai_pipeline.errors import MedaiError

KEY = b"a key that only this test knows!"
BIG, LITTLE, IMPLICIT = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
LONG = (b"OB", b"OW", b"OF", b"OD", b"OL", b"SQ", b"UN", b"UC", b"UT", b"UR", b"OV", b"SV", b"UV")
UNDEFINED = 0xFFFFFFFF
FAMILY, GIVEN, OPERATOR, NUMBER = "Quxbergson", "Zoltanius", "Brzezicki", "4711234"
KANJI, KANA = "竹内", "たけうち"
CLASS, ROOT = "1.2.840.10008.5.1.4.1.1.4.1", "1.2.826.0.1.987654321"


class Writer:
    """Raw elements in one of the encodings (PS3.5 chapter 7), with whatever length and delimiter is asked for."""

    def __init__(self, syntax: str) -> None:
        self.mark, self.explicit = "><"[syntax != BIG], syntax != IMPLICIT

    def element(self, tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
        size = len(value) if length is None else length
        head = struct.pack(f"{self.mark}HH", tag >> 16, tag & 0xFFFF)
        if not self.explicit:
            return head + struct.pack(f"{self.mark}L", size) + value
        if vr in LONG:
            return head + vr + b"\0\0" + struct.pack(f"{self.mark}L", size) + value
        return head + vr + struct.pack(f"{self.mark}H", size) + value

    def text(self, tag: int, vr: bytes, text: str | bytes) -> bytes:
        value = text if isinstance(text, bytes) else text.encode("utf-8")
        return self.element(tag, vr, value + b" " * (len(value) & 1))

    def delimiter(self, tag: int, length: int = 0) -> bytes:
        return struct.pack(f"{self.mark}HHL", tag >> 16, tag & 0xFFFF, length)

    def sequence(self, tag: int, *items: bytes, vr: bytes = b"SQ", defined: bool = False) -> bytes:
        if defined:
            body = b"".join(self.delimiter(0xFFFEE000, len(item)) + item for item in items)
            return self.element(tag, vr, body)
        ends = self.delimiter(0xFFFEE00D)
        body = b"".join(self.delimiter(0xFFFEE000, UNDEFINED) + item + ends for item in items)
        return self.element(tag, vr, body, UNDEFINED) + self.delimiter(0xFFFEE0DD)

    def private(self, group: int, creator: str, *elements: tuple[int, bytes, bytes]) -> bytes:
        made = [self.text(group << 16 | 0x10, b"LO", creator)]
        return b"".join(
            made + [self.element(group << 16 | 0x1000 | number, vr, value) for number, vr, value in elements]
        )


Place = Callable[[Writer, bytes], dict[int, bytes]]  # what stands at which tag; 0 for behind everything else


def _implicit_inside(w: Writer, name: bytes) -> dict[int, bytes]:
    inner = Writer(IMPLICIT)
    hidden = inner.text(0x00081030, b"LO", b"of " + name) + inner.text(0x00100010, b"PN", name)
    return {0x00081140: w.sequence(0x00081140, hidden, vr=b"UN" if w.explicit else b"SQ", defined=not w.explicit)}


def _functional_group(w: Writer, name: bytes) -> dict[int, bytes]:
    inner = w.private(0x2001, "Philips Imaging DD 001", (0x5A, b"ST", name), (0xFE, b"LO", name))
    own = w.private(0x0029, name.decode("latin-1"), (0x10, b"LO", name), (0x11, b"OB", name))
    deeper = w.sequence(0x2001105F, inner + w.text(0x00100010, b"PN", name))
    item = w.sequence(0x00209111, w.text(0x00209056, b"SH", name) + own, defined=True) + inner + deeper
    return {0x52009229: w.sequence(0x52009229, item), 0x52009230: w.sequence(0x52009230, item, item)}


def _items_with_odd_delimiters(w: Writer, name: bytes) -> dict[int, bytes]:
    padded = name + b" " * (len(name) & 1)
    body = w.delimiter(0xFFFEE000, UNDEFINED) + w.text(0x00081030, b"LO", name) + w.delimiter(0xFFFEE00D, len(padded))
    return {0x00081140: w.element(0x00081140, b"SQ", body + padded, UNDEFINED) + w.delimiter(0xFFFEE0DD, 0)}


def _twice(w: Writer, name: bytes) -> dict[int, bytes]:
    both = [w.text(0x00181020, b"LO", text) for text in (name, b"syngo", b"of " + name, b"syngo", name)]
    names = w.text(0x00100010, b"PN", name) + w.text(0x00100010, b"PN", b"A^B")
    return {0x00181020: b"".join(both), 0x00100010: names}


def _apart(name: bytes, letters: int, between: bytes) -> bytes:
    """Other letters than ASCII have several bytes, which do not stand apart."""
    return between.join(name[i : i + letters] for i in range(0, len(name), letters)) if name.isascii() else name


# fmt: off
PLACES: dict[str, Place] = {
    "functional groups": _functional_group,
    "sequence of VR UN, implicit inside": _implicit_inside,
    "delimiter with data": _items_with_odd_delimiters,
    "the same element several times": _twice,
    "group lengths": lambda w, n: {t: w.element(t, b"LO", n) for t in (0x00080000, 0x00100000, 0x00180000, 0x00280000)},
    "command group": lambda w, n: {0x00000110: w.text(0x00000110, b"US", n), 0x00041130: w.text(0x00041130, b"CS", n)},
    "padding inside a value": lambda w, n: {
        0x00180015: w.text(0x00180015, b"CS", b"CHEST\0\0" + n),
        0x00200052: w.text(0x00200052, b"UI", ROOT.encode() + b".4\0" + n),
        0x00180060: w.text(0x00180060, b"DS", b"120\0" + n),
        0x00181000: w.text(0x00181000, b"LO", b"SN1" + b"\0" * 70 + n),
    },
    "odd lengths": lambda w, n: {0x00181016: w.element(0x00181016, b"LO", b"x" + n), 0x00189004: w.element(0x00189004, b"CS", n)},
    "behind the pixels": lambda w, n: {
        0: w.text(0x00100010, b"PN", n) + w.text(0x00081090, b"LO", b"of " + n) + w.text(0x7FE10010, b"LO", n)
    },
    "trailing padding": lambda w, n: {0: w.element(0xFFFCFFFC, b"OB", n + b"\0" * 7) + bytes(64)},
    "signatures": lambda w, n: {0: w.sequence(0xFFFAFFFA, w.text(0x04000115, b"OB", n) + w.text(0x00100010, b"PN", n))},
    "unknown VRs": lambda w, n: {0x00181030: w.text(0x00181030, b"ZZ", n), 0x00180024: w.text(0x00180024, b"UN", n)},
    "numbers that are text": lambda w, n: {
        0x00180081: w.text(0x00180081, b"DS", n),
        0x00189073: w.text(0x00189073, b"FD", n.ljust(16)),
        0x00280106: w.text(0x00280106, b"US", n),
        0x00280009: w.text(0x00280009, b"AT", n.ljust(12)),
        0x00281201: w.text(0x00281201, b"OW", n * 3),
    },
    "safe private blocks": lambda w, n: {
        0x20010010: w.private(
            0x2001, "Philips Imaging DD 001", (0x04, b"CS", n), (0x50, b"LO", n), (0x5A, b"ST", n), (0x7D, b"OB", n * 2)
        )
        + w.sequence(0x2001105F, w.text(0x00080070, b"LO", n) + w.private(0x2001, "Philips Imaging DD 001", (0x80, b"LO", n)))
    },
    "codes": lambda w, n: {
        0x00082218: w.sequence(
            0x00082218,
            b"".join(w.text(t, v, n) for t, v in ((0x00080100, b"SH"), (0x00080103, b"SH"), (0x00080104, b"LO"), (0x00080105, b"CS"))),
            w.text(0x00080102, b"SH", b"SCT") + w.text(0x00080104, b"LO", n) + w.text(0x0008010F, b"CS", n),
            w.text(0x00080102, b"SH", n) + w.text(0x00080119, b"UC", n) + w.text(0x00080122, b"LO", n),
        )
    },
    "device and institution": lambda w, n: {
        0x00080080: w.text(0x00080080, b"LO", b"House of " + n),
        0x00081010: w.text(0x00081010, b"SH", n),
        0x00181000: w.text(0x00181000, b"LO", n + b"-1"),
        0x00189004: w.text(0x00181200, b"DA", n),
    },
    "letters apart": lambda w, n: {
        0x00181020: w.text(0x00181020, b"LO", _apart(n, 1, b" ")),
        0x00181016: w.text(0x00181016, b"LO", _apart(n, 2, b"-")),
    },
    "colours": lambda w, n: {0x00282000: w.element(0x00282000, b"OB", n.ljust(600, b"\0"))},
    "a block of fragments": lambda w, n: {
        0x00281201: w.element(0x00281201, b"OB", w.delimiter(0xFFFEE000, len(n)) + n, UNDEFINED) + w.delimiter(0xFFFEE0DD)
    },
}
# fmt: on
CHARACTERS = {"ISO_IR 192": "utf-8", "ISO_IR 100": "latin-1", "\\ISO 2022 IR 87": "iso2022_jp", "GB18030": "gb18030"}


def the_file(syntax: str, characters: str, places: list[str], name: bytes) -> bytes:
    """An enhanced MR image of two frames with the header's own identity, and `name` in further places."""
    w = Writer(syntax)
    encoding = CHARACTERS[characters]
    japanese = f"{FAMILY}^{GIVEN}={KANJI}^{KANJI}={KANA}^{KANA}".encode(encoding, "ignore")
    short = "US"
    found = {
        0x00080005: w.text(0x00080005, b"CS", characters),
        0x00080016: w.element(0x00080016, b"UI", CLASS.encode() + b"\0"),
        0x00080018: w.text(0x00080018, b"UI", f"{ROOT}.1"),
        0x00080060: w.text(0x00080060, b"CS", "MR"),
        0x00081070: w.text(0x00081070, b"PN", f"{OPERATOR}^Ola"),
        0x00100010: w.text(0x00100010, b"PN", japanese),
        0x00100020: w.text(0x00100020, b"LO", NUMBER),
        0x0020000D: w.text(0x0020000D, b"UI", f"{ROOT}.2"),
        0x0020000E: w.text(0x0020000E, b"UI", f"{ROOT}.3"),
        0x00280002: w.element(0x00280002, short.encode(), struct.pack(f"{w.mark}H", 1)),
        0x00280004: w.text(0x00280004, b"CS", "MONOCHROME2"),
        0x00280008: w.text(0x00280008, b"IS", "2"),
        **{
            tag: w.element(tag, b"US", struct.pack(f"{w.mark}H", number))
            for tag, number in ((0x00280010, 4), (0x00280011, 4), (0x00280100, 8), (0x00280101, 8), (0x00280102, 7), (0x00280103, 0))
        },
        0x7FE00010: w.element(0x7FE00010, b"OB", bytes(32)),
    }  # fmt: skip
    behind = b""
    for place in places:
        for tag, data in PLACES[place](w, name).items():
            if tag:
                found[tag] = data + (found.get(tag, b"") if tag in (0x00100010,) else b"")
            else:
                behind += data
    meta_writer = Writer(LITTLE)
    meta = meta_writer.text(0x00020010, b"UI", syntax.encode() + b"\0" * (len(syntax) & 1))
    meta += meta_writer.text(0x00020016, b"AE", name) + meta_writer.text(0x00020100, b"UI", f"{ROOT}.9")
    meta += meta_writer.text(0x00020102, b"OB", name) + meta_writer.text(0x00021234, b"LO", name)
    return name.ljust(128)[:128] + b"DICM" + meta + b"".join(found[tag] for tag in sorted(found)) + behind


def forms(word: str) -> set[bytes]:
    """The word in every encoding, in small letters; ISO 2022 without its escapes."""
    made = set()
    for encoding in ("utf-8", "latin-1", "utf-16-le", "utf-16-be", "shift_jis", "euc_jp", "iso2022_jp", "gb18030"):
        try:
            made.add(word.lower().encode(encoding).removeprefix(b"\x1b$B").removesuffix(b"\x1b(B").lower())
        except UnicodeEncodeError:
            continue
    return made


def left(data: bytes, words: set[str]) -> set[str]:
    haystack = data.lower()
    apart = haystack.replace(b" ", b"").replace(b"-", b"").replace(b"\0", b"")
    return {word for word in words if any(form in haystack or form in apart for form in forms(word))}


SECRETS = {FAMILY, GIVEN, OPERATOR, NUMBER, KANJI, KANA, ROOT}
ALL = [option for option in Option if option not in (Option.VISUAL, Option.PIXELS, Option.FULL_DATES)]


def leaks(data: bytes, options: set[Option]) -> set[str]:
    """What is left in the file; nothing where it is refused, if the reason says nothing either."""
    words = SECRETS - ({ROOT} if Option.UIDS in options else set())
    try:
        return left(Deidentifier(KEY, options).deidentify(data).data, words)
    except MedaiError as refused:
        return left(str(refused).encode(), words)


@pytest.mark.parametrize("syntax", [LITTLE, IMPLICIT, BIG])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("options", [frozenset(), frozenset(ALL)], ids=["Basic Profile", "all options"])
def test_no_hidden_place_keeps_the_person(syntax, place, options):
    for name in (FAMILY.upper().encode(), OPERATOR.encode(), NUMBER.encode()):
        data = the_file(syntax, "ISO_IR 192", [place], name)
        assert left(data, SECRETS) >= {FAMILY, NUMBER, OPERATOR}
        assert leaks(data, set(options)) == set()


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([LITTLE, IMPLICIT, BIG]),
    st.sampled_from(sorted(CHARACTERS)),
    st.lists(st.sampled_from(sorted(PLACES)), min_size=1, max_size=5, unique=True),
    st.sampled_from([FAMILY, GIVEN.upper(), f"{OPERATOR}, {GIVEN}", f"Dr.{FAMILY}", KANJI, f"{KANA} {KANJI}", NUMBER, f"MRN{NUMBER}"]),
    st.sets(st.sampled_from(ALL)),
)  # fmt: skip
def test_no_mixture_of_hidden_places_and_options_keeps_the_person(syntax, characters, places, name, options):
    written = name.encode(CHARACTERS[characters], "replace")
    assert leaks(the_file(syntax, characters, places, written), options) == set()


PLAIN_TEXT = sorted(
    tag
    for tag, entry in DicomDictionary.items()
    if entry[0] in ("LO", "SH", "ST", "LT", "UT", "UC", "CS", "DS", "IS", "UI", "AE", "DA", "TM", "DT", "AS", "UR", "PN", "OB", "OW", "UN")
    and tag >> 16 not in (0x0000, 0x0002, 0x0004, 0x7FE0, 0xFFFE)
    and tag not in (0x00080005, 0x00080016, 0x00080018, 0x0020000D, 0x0020000E, 0x00280004, 0x00280008, 0x00420011)
)  # fmt: skip


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("options", [frozenset(), frozenset(ALL)], ids=["Basic Profile", "all options"])
@pytest.mark.parametrize("name", [FAMILY.upper(), f"of {OPERATOR}", NUMBER])
def test_no_attribute_of_the_dictionary_keeps_the_person(nested, options, name):
    """Every text, number and opaque value of PS3.6, in the data set and in the items of a sequence that nothing names."""
    data, w, deidentifier = the_file(LITTLE, "ISO_IR 192", [], b""), Writer(LITTLE), Deidentifier(KEY, options)
    kept = []
    for start in range(0, len(PLAIN_TEXT), 100):
        body = b"".join(w.text(t, DicomDictionary[t][0].encode(), name) for t in PLAIN_TEXT[start : start + 100])
        more = w.sequence(0x00089215, body, w.sequence(0x00089215, body)) if nested else body
        if left(deidentifier.deidentify(data + more).data, SECRETS - {ROOT}):
            kept.append([hex(tag) for tag in PLAIN_TEXT[start : start + 100]])
    assert kept == []
