"""What an answer key demands of a tool: the action types of the MIDI-B challenge (arXiv 2507.23608), one `Expected` each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Action(StrEnum):
    """The words are the challenge's."""

    DATE_SHIFTED = (
        "date shifted"  # the original date or time is not there; where dates are kept modified: moved by one interval
    )
    PATID_CONSISTENT = "patid consistent"  # one Patient ID a patient, never shared by two unless it is the dummy of all
    PIXELS_HIDDEN = "pixels hidden"  # burned-in text can no longer be read
    PIXELS_RETAINED = "pixels retained"  # every other pixel is bit for bit the same
    TAG_RETAINED = "tag retained"  # the element is there, with any value or none
    TEXT_NOTNULL = "text notnull"  # the element is there and has a value
    TEXT_REMOVED = "text removed"  # the words are not there
    TEXT_RETAINED = "text retained"  # the words are there
    UID_CHANGED = "uid changed"
    UID_CONSISTENT = "uid consistent"  # the same new UID wherever the old one stood, and for no other


@dataclass(frozen=True, slots=True)
class Private:
    """A private element by its creator: a tool may move a block (PS3.5 7.8.1)."""

    group: int
    creator: str
    offset: int

    def __str__(self) -> str:
        return f"({self.group:04X},xx{self.offset:02X} {self.creator})"


@dataclass(frozen=True, slots=True)
class Concept:
    """The content item of an SR that has this concept: a tool may leave items out."""

    code: str

    def __str__(self) -> str:
        return f"[{self.code}]"


Step = int | Private | Concept  # a tag and an item's number by turns
Path = tuple[Step, ...]


def shown(path: Path) -> str:
    """A path for people: (0008,1140)[0](0008,1155)."""
    parts = []
    for number, step in enumerate(path):
        if isinstance(step, int):
            parts.append(f"[{step}]" if number % 2 else f"({step >> 16:04X},{step & 0xFFFF:04X})")
        else:
            parts.append(str(step))
    return "".join(parts) or "whole file"


@dataclass(frozen=True, slots=True)
class Expected:
    """One demand. `value`: the original value as text; `words`: what must be gone or must stay.

    `optional`: a tool may also remove the element (a removed element has no UID to be changed). `interval_of`: the patient
    whose dates move by one interval, or whose ID it is.
    """

    action: Action
    file: str
    path: Path
    value: str = ""
    words: tuple[str, ...] = ()
    optional: bool = False
    interval_of: str = ""
    why: str = ""


NO_FILE = "no file"  # what was found of a file that a tool did not write


@dataclass(frozen=True, slots=True)
class Verdict:
    expected: Expected
    correct: bool
    found: str = ""
