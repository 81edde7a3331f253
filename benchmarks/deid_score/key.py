"""The answer key of one specimen: `answer_key`. Element by element, from the published tables and from what was planted.

The rules, with their paragraphs:
- an action code of Table E.1-1 (or an option's) decides about its attribute (PS3.15 E.2, E.3); D, Z and the compound
  codes demand what the attribute's Type in its IOD demands (E.1.1), see `standard.TYPES`;
- what the table does not name stays (E.1.1: it is a list of what must be protected), unless the planter put an identity
  there, its VR is PN, AE, DA, DT or TM, it is retired, or neither PS3.6 nor the table knows it: those are not demanded back;
- inside a sequence that goes, only what identifies is asked for; inside one that stays the same rules hold (E.2, item 3);
- private elements go, but for those of Table E.3.10-1 where the option is chosen (E.3.10);
- cleaned descriptors keep the words that tell about the image, and need not keep comments about a person (E.3.5);
- no planted word may be found in any byte of the file, in no encoding, unless an option keeps its element.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydicom.datadict import DicomDictionary
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID_dictionary

from deid_score.actions import Action, Expected, Path, Private
from deid_score.content import content_items
from deid_score.specimens import Specimen
from deid_score.standard import TYPES, Tables

_PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_WHEN = frozenset({"DA", "DT", "TM"})
_NOT_DEMANDED = _WHEN | {"PN", "AE", "UN"}
# They describe planes that the profile removes, or a file's layout.
_MEANINGLESS_ALONE = (0x5000, 0x6000)
_OUR_OWN = frozenset({0x00120062, 0x00120063, 0x00120064, 0x00280303, 0x00280301, 0x00080005})
_COMPANIONS = frozenset({0x00400033})  # Universal Entity ID Type: stays or goes with the ID that it types
_ALWAYS_SHORT = 6  # words with fewer characters may stand in a file's bytes by chance


@dataclass(frozen=True)
class Place:
    """Where the walk is. `kept`: the sequences around it stay."""

    path: Path = ()
    kept: bool = True


class Key:
    """Collects the demands on one specimen under a set of options."""

    def __init__(self, specimen: Specimen, tables: Tables, options: frozenset[str]) -> None:
        self.specimen, self.tables, self.options = specimen, tables, options
        self.found: list[Expected] = []
        self.source = specimen.dataset
        self.sop_class = str(self.source.SOPClassUID)

    def demand(self, action: Action, path: Path, value: str = "", why: str = "", **more: object) -> None:
        self.found.append(Expected(action, self.specimen.name, path, value, why=why, **more))  # type: ignore[arg-type]

    def secrets_in(self, text: str) -> tuple[str, ...]:
        lowered = text.lower()
        return tuple(sorted(word for word in self.specimen.secrets if word.lower() in lowered))

    def walk(self, ds: Dataset, place: Place) -> None:
        for element in ds:
            if element.tag.is_private:
                self.private(ds, element, place)
            elif element.tag.element != 0 and element.tag not in _OUR_OWN | _COMPANIONS:
                self.standard(element, place)

    def standard(self, element: DataElement, place: Place) -> None:
        tag, path = int(element.tag), (*place.path, int(element.tag))
        code = self.tables.code(tag, self.options)
        why = f"{self.tables.source(tag)}: {code}" if code else "not in Table E.1-1"
        if tag in _PIXELS and not place.path:
            self.pixels(path)
        elif element.VR == "SQ":
            self.sequence(element, code, place, path, why)
        elif code is None or code == "K":
            self.retained(element, place, path, why, listed=code == "K")
        elif code == "C":
            self.cleaned(element, place, path, why)
        else:
            self.removed(element, code, place, path, why)

    def pixels(self, path: Path) -> None:
        if self.specimen.ink is not None and "clean_pixel_data" in self.options:
            self.demand(Action.PIXELS_HIDDEN, path, why="E.3.1")
        self.demand(Action.PIXELS_RETAINED, path, why="not in Table E.1-1")

    def sequence(self, element: DataElement, code: str | None, place: Place, path: Path, why: str) -> None:
        if code == "C" and element.tag == 0x0040A730 and place.kept:
            self.found += content_items(self.specimen, element, path, self.tables, self.options)
            return
        # "X/Z/U*" leaves the choice: the references may go, but those that stay must be renamed
        kept = place.kept and (code is None or code in "KC")
        if place.kept and not kept and code is not None:
            self.presence(code, path, why, bool(element.value))
        elif kept and not element.value:
            self.demand(Action.TAG_RETAINED, path, why=why)
        for number, item in enumerate(element.value):
            self.walk(item, Place((*path, number), kept and not _is_local(item)))

    def presence(self, code: str, path: Path, why: str, had_value: bool) -> None:
        """What D, Z and the compound codes demand to be there (PS3.15 E.1.1)."""
        kind = TYPES.get((self.sop_class, path[-1])) or TYPES.get((None, path[-1]))  # type: ignore[arg-type]
        if code == "D" or (kind == 1 and "D" in code):
            self.demand(Action.TEXT_NOTNULL if had_value else Action.TAG_RETAINED, path, why=why)
        elif code == "Z" or (kind is not None and "Z" in code):
            self.demand(Action.TAG_RETAINED, path, why=why)

    def retained(self, element: DataElement, place: Place, path: Path, why: str, listed: bool = False) -> None:
        text = as_text(element)
        secrets = self.secrets_in(text)
        if element.VR == "UI":
            self.kept_uid(text, place, path, why, listed)
        elif secrets and not listed:
            self.demand(Action.TEXT_REMOVED, path, text, f"planted; {why}", words=secrets)
        elif place.kept and (listed or self.demanded(element)):
            if text:
                self.demand(Action.TEXT_RETAINED, path, text, why)
            else:
                self.demand(Action.TAG_RETAINED, path, why=why)

    def kept_uid(self, text: str, place: Place, path: Path, why: str, listed: bool) -> None:
        if place.kept and (listed or all(uid in UID_dictionary for uid in text.split("\\"))):
            self.demand(Action.TEXT_RETAINED, path, text, why)

    def demanded(self, element: DataElement) -> bool:
        """Whether what the table does not name is demanded back."""
        tag = int(element.tag)
        entry = DicomDictionary.get(tag)
        group_kind = tag >> 16 & 0xFF00
        return bool(entry and not entry[3] and element.VR not in _NOT_DEMANDED and group_kind not in _MEANINGLESS_ALONE)

    def cleaned(self, element: DataElement, place: Place, path: Path, why: str) -> None:
        text = as_text(element)
        if element.VR in ("DA", "DT"):
            if text and not text.replace("\\", "")[:8].isdigit():
                self.demand(
                    Action.TEXT_REMOVED, path, text, f"{why}; not a date that can be moved", words=self.secrets_in(text)
                )
            elif text and place.kept:
                self.demand(Action.DATE_SHIFTED, path, text, why, interval_of=self.specimen.patient)
        elif element.VR == "TM":
            if text and place.kept:
                self.demand(Action.TEXT_NOTNULL, path, text, why)
        else:
            secrets = self.secrets_in(text)
            if secrets:
                self.demand(Action.TEXT_REMOVED, path, text, why, words=secrets)
            useful = self.specimen.useful.get(text, () if secrets else (text,))
            if place.kept and useful and useful != ("",) and isinstance(element.value, str):
                self.demand(Action.TEXT_RETAINED, path, text, why, words=useful)

    def removed(self, element: DataElement, code: str, place: Place, path: Path, why: str) -> None:
        text = as_text(element)
        if element.VR == "UI":
            self.uid(text, code, place, path, why)
            return
        if path == (0x00100020,):
            self.demand(Action.PATID_CONSISTENT, path, text, why, interval_of=self.specimen.patient)
        if text and (place.kept or self.secrets_in(text) or element.VR in _WHEN):
            action = Action.DATE_SHIFTED if element.VR in _WHEN else Action.TEXT_REMOVED
            self.demand(action, path, text, why, words=self.secrets_in(text))
        if place.kept:
            self.presence(code, path, why, bool(text))

    def uid(self, text: str, code: str, place: Place, path: Path, why: str) -> None:
        optional = not place.kept or "X" in code
        for number, one in enumerate(text.split("\\") if text else ()):
            if one not in UID_dictionary:
                self.demand(Action.UID_CHANGED, (*path, number), one, why, optional=optional)
                self.demand(Action.UID_CONSISTENT, (*path, number), one, why, optional=optional)

    def private(self, ds: Dataset, element: DataElement, place: Place) -> None:
        if element.tag.is_private_creator:
            return  # counted with its elements
        creator = ds.get((element.tag.group, element.tag.element >> 8))
        name = str(creator.value).strip() if creator is not None else ""
        step = Private(element.tag.group, name, element.tag.element & 0xFF) if name else int(element.tag)
        path = (*place.path, step)
        safe = self.tables.safe_private.get((element.tag.group, name, element.tag.element & 0xFF))
        text = as_text(element)
        if safe and safe != "SQ" and "retain_safe_private" in self.options and place.kept and not self.secrets_in(text):
            self.demand(Action.TEXT_RETAINED, path, text, "Table E.3.10-1")
        elif element.VR == "SQ":
            for number, item in enumerate(element.value):
                self.walk(item, Place((*path, number), kept=False))
        elif element.VR == "UI":
            self.uid(text, "X", place, path, "private: X")
        else:
            self.demand(Action.TEXT_REMOVED, path, text, "private: X", words=self.secrets_in(text))


def answer_key(specimen: Specimen, tables: Tables, options: frozenset[str] = frozenset()) -> list[Expected]:
    """Every demand on the de-identified file of `specimen` under PS3.15's Basic Profile and `options` (see `standard.OPTIONS`)."""
    key = Key(specimen, tables, options)
    key.walk(key.source, Place())
    key.demand(Action.TEXT_RETAINED, (0x00120062,), "YES", "E.2: Patient Identity Removed")
    dates = {"retain_long_full_dates": "UNMODIFIED", "retain_long_modified_dates": "MODIFIED"}
    for option in options & set(dates):
        key.demand(Action.TEXT_RETAINED, (0x00280303,), dates[option], "E.3.6")
    kept = _kept_text(key.found)
    key.found = [e for e in key.found if not (e.why.startswith("planted") and all(w.lower() in kept for w in e.words))]
    key.found += _bytes(specimen, key.found, kept)
    return key.found


def _kept_text(found: list[Expected]) -> str:
    """What must stay, in lower case: a word that an option keeps in its element is no secret elsewhere."""
    texts = [word for e in found if e.action is Action.TEXT_RETAINED for word in e.words or (e.value,)]
    return "\n".join(texts).lower()


def _bytes(specimen: Specimen, found: list[Expected], kept: str) -> Iterator[Expected]:
    """One demand a planted word and UID: nowhere in the file."""
    uids = {e.value for e in found if e.action is Action.UID_CHANGED}
    haystack = searchable(specimen.data, str(specimen.dataset.file_meta.TransferSyntaxUID))
    for word in sorted(specimen.secrets | uids):
        if len(word) >= _ALWAYS_SHORT and word.lower() not in kept and any(form in haystack for form in forms(word)):
            yield Expected(Action.TEXT_REMOVED, specimen.name, (), word, (word,), why="planted: in no byte of the file")


def searchable(data: bytes, syntax: str) -> bytes:
    """The file's bytes in lower case, inflated where its data set is deflated."""
    import zlib

    if syntax == "1.2.840.10008.1.2.1.99":
        start = 132 + 12 + int.from_bytes(data[140:144], "little")
        data = data[:start] + zlib.decompressobj(-zlib.MAX_WBITS).decompress(data[start:])
    return data.lower()


def forms(word: str) -> Iterator[bytes]:
    """The ways in which a word can stand in a file, as `searchable` shows it; ISO 2022 without its escapes."""
    for encoding in ("utf-8", "latin-1", "utf-16-le", "utf-16-be", "shift_jis", "iso2022_jp"):
        try:
            yield word.encode(encoding).removeprefix(b"\x1b$B").removesuffix(b"\x1b(B").lower()
        except UnicodeEncodeError:
            continue


def _is_local(item: Dataset) -> bool:
    """Whether an item is a code of a site's own scheme (PS3.16 8.2: 99...): no part of it is demanded back."""
    return str(item.get("CodingSchemeDesignator", "")).startswith("99")


def as_text(element: DataElement) -> str:
    """The value as text, values of a multi-value by backslash; bytes as latin-1."""
    value = element.value
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, (list, tuple)) or element.VM > 1:
        return "\\".join(str(one) for one in value)
    return str(value)
