"""Carries the decisions of `profile` out on elements, at every nesting level (PS3.15 Annex E).

Here belongs what happens inside one data set. What a file needs around it (file meta, declarations, refusals) is in
`deidentify`. Kept values are copied byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import NamedTuple

from medai_pipeline.dicom import closed, codes, content, dates, grammar, icc, terms, words
from medai_pipeline.dicom.elements import LONG_VRS, PIXEL_DATA, Element, Encoding, dictionary_vr, read_items
from medai_pipeline.dicom.options import Option, Options
from medai_pipeline.dicom.private import safe_elements
from medai_pipeline.dicom.profile import Action, Decision, decide

# What a dummy of each VR is (code D): valid, and the same for everybody.
_TEXTS = ("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT")
DUMMIES: Mapping[bytes, bytes] = {
    **{vr.encode(): b"ANONYMIZED" for vr in _TEXTS},
    b"AS": b"000Y",
    b"DA": b"19000101",
    b"DS": b"0 ",
    b"DT": b"19000101000000",
    b"IS": b"0 ",
    b"TM": b"000000",
    b"UR": b"urn:anonymized",
    **dict.fromkeys((b"OB", b"OW", b"UN", b"US", b"SS"), bytes(2)),
    **dict.fromkeys((b"AT", b"FL", b"OF", b"OL", b"SL", b"UL"), bytes(4)),
    **dict.fromkeys((b"FD", b"OD", b"OV", b"SV", b"UV"), bytes(8)),
}
_FREE_TEXT = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
_TEXT_VRS = frozenset({"LO", "LT", "SH", "ST", "UC", "UT", "AE", "CS"})
_DATE_VRS = frozenset({"DA", "TM", "DT", "AS"})
# Texts whose code is D in the profile, and that the options for structured content and graphics clean instead
_CLEANED_TEXTS = frozenset({content.TEXT_VALUE, 0x00700006})

# VRs that writers mix up without changing what a value means; any other disagreement with PS3.6 removes the element.
_FAMILIES = (
    frozenset({"LO", "LT", "SH", "ST", "UC", "UT"}),
    frozenset({"OB", "OW", "US", "SS"}),
    frozenset({"DS", "IS"}),
    frozenset({"UL", "SL"}),
)
_LONG_NUMBER = 5
_TIMEZONE = 0x00080201
_PIXEL_GROUP = 0x7FE0
# Elements of an overlay plane (PS3.3 C.9.2) that hold no text; xx is left out
_OVERLAY_VRS = {0x10: "US", 0x11: "US", 0x15: "IS", 0x40: "CS", 0x50: "SS", 0x51: "US", 0x100: "US", 0x102: "US"}
_OVERLAY_DATA = 0x3000

_KEEP = Decision(Action.KEEP, Action.REMOVE)
# Safe private elements: a text that is not safe as it is keeps its safe words; UIDs may be the source's
_PRIVATE = {
    **dict.fromkeys(("LO", "SH", "ST", "LT", "UC", "UT"), Decision(Action.KEEP, Action.CLEAN)),
    "CS": Decision(Action.KEEP, Action.EMPTY),
    "UI": Decision(Action.REMAP, Action.REMOVE),
}
_OVERLAY_GROUPS = range(0x6000, 0x6020, 2)


class Text(Enum):
    """What happens to free text that the profile itself would keep."""

    AS_IS = "kept unless it names the person"
    CLEANED = "only safe words"
    BLANK = "a dummy"
    CHOSEN = "kept, an option of the site asks for it"


class Plan(dict[int, Decision]):
    """Tag -> decision in the items of one sequence of one IOD; filled as tags are met."""

    def __init__(self, parent: int, iod: str, options: Options) -> None:
        super().__init__()
        self._place = (parent, iod, options)

    def __missing__(self, tag: int) -> Decision:
        decision = decide(tag, *self._place)
        if len(self) < 10_000:  # tags come from outside
            self[tag] = decision
        return decision


@dataclass(slots=True)
class Subject:
    """What one file's cleaning needs to know beyond the table."""

    target: Encoding
    options: Options
    plan: Callable[[int], Plan]  # by the tag of the enclosing sequence
    other_uid: Callable[[str, int], str]
    identity: words.Identity
    days: int = 0  # dates go back by so many
    overlays: bool = False


class Way(NamedTuple):
    """Where in an object we are. `published`: published codes stay where text is blank."""

    plan: Plan
    depth: int = 0
    text: Text = Text.AS_IS
    published: bool = True
    coded: bool = False  # in an item whose code was judged


class Cleaner:
    """Cleans the data set of one file and everything nested in it."""

    def __init__(self, subject: Subject, ours: frozenset[int]) -> None:
        self._subject = subject
        self._ours = ours  # tags that are ours to write

    def clean(self, elements: Iterable[Element], way: Way) -> list[Element]:
        """What stays of one data set. Of a repeated element the last counts, as every reader does it."""
        elements = list(elements)
        kept: dict[int, Element] = {}
        safe: dict[int, str] | None = None
        little, plan, ours = self._subject.target.little, way.plan, self._ours
        for element in elements:
            tag = element.tag
            if tag in ours or element.encoding.little != little:
                continue  # ours to say; or binary values of the other byte order
            if way.depth and tag >> 16 == _PIXEL_GROUP:
                continue  # an image inside a sequence, which nobody has screened
            cleaned: Element | None
            if tag >> 16 & 1:
                if safe is None:
                    safe = safe_elements(elements) if Option.SAFE_PRIVATE in self._subject.options else {}
                cleaned = self._private(element, safe[tag], way) if tag in safe else None
            elif tag >> 16 in _OVERLAY_GROUPS:
                cleaned = self._overlay(element, way) if self._subject.overlays else None
            else:
                decision = plan[tag]
                removed = decision.action is Action.REMOVE
                cleaned = None if removed else self._cleaned(element, decision, dictionary_vr(tag), way)
            if cleaned is not None:
                kept[tag] = cleaned
            else:
                kept.pop(tag, None)
        return list(kept.values())

    def _private(self, element: Element, standard: str, way: Way) -> Element | None:
        """A safe private element; what it says is judged as everything else, and is emptied where that is not safe."""
        if element.tag & 0xFFFF <= 0xFF:
            return Element(element.tag, b"LO", element.value)  # a creator, which the table knows
        decision = _PRIVATE.get(standard, _KEEP)
        if standard == "UI" and Option.UIDS in self._subject.options:
            decision = _KEEP
        kept = self._cleaned(element, decision, standard, way)
        if kept is None and decision.otherwise is Action.CLEAN and agrees(element, standard):
            return Element(element.tag, standard.encode(), b"")
        return kept

    def _overlay(self, element: Element, way: Way) -> Element | None:
        number = element.tag & 0xFFFF
        vr = "OB or OW" if number == _OVERLAY_DATA else _OVERLAY_VRS.get(number)
        return self._cleaned(element, _KEEP, vr, way) if vr else None

    def _cleaned(self, element: Element, decision: Decision, standard: str, way: Way) -> Element | None:
        if not agrees(element, standard):
            return None
        if standard == "SQ":
            return self._sequence(element, decision, way)
        vr = standard.encode() if element.vr in (None, b"UN") and len(standard) == 2 else element.vr
        if not len(element.value):
            return Element(element.tag, vr, b"")
        action = decision.action
        if way.text is not Text.AS_IS:
            action = _in_text(element.tag, action, standard, way)
        for tried in (action, decision.otherwise if decision.otherwise is not Action.KEEP else Action.DUMMY):
            chosen = decision.chosen or way.text is Text.CHOSEN or (way.coded and element.tag in codes.JUDGED)
            value = self._value(element, tried, not chosen, standard, vr)
            if value is not None:
                return Element(element.tag, vr, value, element.undefined and value is element.value)
        return None

    def _sequence(self, element: Element, decision: Decision, way: Way) -> Element:
        action = decision.action
        items = [] if action is Action.EMPTY else read_items(element, way.depth + 1)
        of_content = element.tag in content.sequences()
        inner = Way(self._subject.plan(element.tag), way.depth + 1, way.text, way.published)
        if Option.STRUCTURED in self._subject.options and of_content:
            inner = inner._replace(text=Text.CLEANED)
        elif action is Action.DUMMY:
            inner = inner._replace(text=Text.BLANK, published=of_content)
        elif action is Action.CLEAN:
            inner = inner._replace(text=Text.CLEANED)
        elif decision.chosen and way.text is Text.AS_IS:
            inner = inner._replace(text=Text.CHOSEN)
        found = (self._item(item, of_content, inner) for item in items)
        return Element(element.tag, b"SQ", b"", items=[item for item in found if item is not None])

    def _item(self, item: list[Element], of_content: bool, way: Way) -> list[Element] | None:
        if of_content:
            options = self._subject.options if Option.STRUCTURED in self._subject.options else frozenset()
            decision = content.decide_item(item, options)
            if decision is not None:
                if decision.action is Action.REMOVE:
                    return None
                way = way._replace(text=_CONTENT_TEXT.get(decision.action, way.text))
        elif way.text is not Text.CHOSEN and way.published and codes.is_code(item):
            return self._code(item, way)
        return self.clean(item, way)

    def _code(self, item: list[Element], way: Way) -> list[Element]:
        judged = codes.judge(item, self._subject.identity)
        sure = {e.tag: _with_text(e, judged.values[e.tag]) for e in item if _is_text_of(e, judged.values)}
        others = (element for element in item if element.tag not in sure)
        kept = self.clean(others, way._replace(text=Text.BLANK if judged.local else Text.AS_IS, coded=True))
        if judged.meaning is not None:
            said = judged.meaning
            kept = [replace(e, value=said) if e.tag == codes.CODE_MEANING else e for e in kept]
        return [*kept, *sure.values()]

    def _value(
        self, element: Element, action: Action, unlisted: bool, standard: str, vr: bytes | None
    ) -> bytes | memoryview | None:
        """The value under one action; None where the action cannot be carried out safely."""
        if action is Action.KEEP:
            return self._kept_value(element, standard, unlisted)
        if action is Action.EMPTY:
            return b""
        if action is Action.DUMMY:
            return icc.standard_profile() if element.tag == icc.ICC_PROFILE else DUMMIES[vr or b"UN"]
        if action is Action.REMAP:
            return self._remapped(element)
        if action is Action.CLEAN and standard in _TEXT_VRS:
            if terms.is_defined(element.tag, standard, element.value):
                return element.value
            text = words.cleaned(element.value, self._subject.identity)
            return (closed.code_string(text) if standard == "CS" else text) or None
        if action is Action.SHIFT:
            return dates.shifted(standard, element.value, self._subject.days)
        return None

    def _kept_value(self, element: Element, standard: str, unlisted: bool) -> bytes | memoryview | None:
        """The value where it is what its VR promises and, being text, does not name the person; else None."""
        value, identity = element.value, self._subject.identity
        if standard in _TEXT_VRS:
            kept = self._kept_text(element.tag, value, standard)
            if kept is None or not unlisted:
                return kept
            return kept if closed.tells_nothing(element.tag, standard, kept) else None
        if standard in _DATE_VRS:
            return value if dates.well_formed(standard, value) else None
        if standard == "UI":
            return self._kept_uids(element)
        if element.tag == icc.ICC_PROFILE:
            return icc.cleaned(value)
        if not grammar.has_room(element.tag, standard, value):
            return None
        if standard in ("DS", "IS"):
            return self._kept_numbers(standard, value)
        if element.tag >> 16 == _PIXEL_GROUP:
            return value
        names = words.names_the_person if standard in _FREE_TEXT else words.spells_the_person
        return None if standard == "PN" or names(value, identity) else value

    def _kept_numbers(self, vr: str, value: bytes | memoryview) -> bytes | memoryview | None:
        """Numbers; none where one of them is an identifier or a date of the person's."""
        kept = grammar.numbers(vr, value)
        if kept is None or len(kept) <= _LONG_NUMBER:
            return kept
        found = {number for number in grammar.whole_numbers(kept) if len(number) >= _LONG_NUMBER}
        identity = self._subject.identity
        return kept if found.isdisjoint(identity.persons) and found.isdisjoint(identity.dates) else None

    def _kept_text(self, tag: int, value: bytes | memoryview, vr: str) -> bytes | memoryview | None:
        if tag == _TIMEZONE:
            return value if dates.well_formed("SH", value) else None
        if tag == terms.SPECIFIC_CHARACTER_SET:
            return terms.character_set(value)
        if terms.is_defined(tag, vr, value):
            return value
        if closed.has_rule(tag):
            return closed.kept(tag, value, lambda text: words.names_the_person(text, self._subject.identity))
        if words.names_the_person(value, self._subject.identity):
            return None  # whatever option keeps it: a device may be called by its operator's name
        return closed.code_string(value) if vr == "CS" else value

    def _kept_uids(self, element: Element) -> bytes | memoryview:
        """Each UID as it is where it is well formed, else another one."""
        uids = [uid.strip("\0 ") for uid in bytes(element.value).decode("latin-1").split("\\")]
        kept = [uid if grammar.is_uid(uid) else self._subject.other_uid(uid, element.tag) for uid in uids]
        written = "\\".join(kept).encode("ascii")
        return element.value if bytes(element.value).rstrip(b"\0") == written else written

    def _remapped(self, element: Element) -> bytes:
        uids = bytes(element.value).decode("latin-1").split("\\")
        return "\\".join(self._subject.other_uid(uid.strip("\0 "), element.tag) for uid in uids).encode("ascii")


_CONTENT_TEXT = {Action.DUMMY: Text.BLANK, Action.CLEAN: Text.CLEANED, Action.KEEP: Text.CHOSEN}


def _in_text(tag: int, action: Action, standard: str, way: Way) -> Action:
    """The action on a text inside a sequence that is itself cleaned, replaced or kept by an option."""
    if way.text is Text.BLANK:
        return Action.DUMMY if action in (Action.KEEP, Action.CLEAN) and standard in _FREE_TEXT else action
    if way.text is Text.CLEANED:
        if tag in _CLEANED_TEXTS or (action is Action.KEEP and standard in _FREE_TEXT):
            return Action.CLEAN
        return action
    return Action.KEEP if tag in content.VALUES else action


def _is_text_of(element: Element, values: Mapping[int, bytes]) -> bool:
    return bool(values.get(element.tag)) and element.items is None and agrees(element, dictionary_vr(element.tag))


def _with_text(element: Element, value: bytes) -> Element:
    vr = dictionary_vr(element.tag).encode() if element.vr in (None, b"UN") else element.vr
    return Element(element.tag, vr, value)


def agrees(element: Element, standard: str) -> bool:
    """Whether the VR found is the dictionary's, or one that is written for it without harm."""
    if element.vr in (None, b"UN"):
        return not element.undefined or element.tag == PIXEL_DATA
    found = element.vr.decode("ascii", "replace")
    allowed = standard.split(" or ")
    if element.undefined and found != "SQ" and element.tag != PIXEL_DATA:
        return False
    return found in allowed or any(found in family and not family.isdisjoint(allowed) for family in _FAMILIES)


assert frozenset(DUMMIES) >= LONG_VRS - {b"SQ"}, "every VR with a value has a dummy"
