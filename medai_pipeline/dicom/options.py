"""The options of PS3.15 Annex E as one table: name, code (PS3.16 CID 7050), column of Table E.1-1, and what is done.

Here belongs which options exist and which go together; what an option does with one attribute is in `profile`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from medai_pipeline.errors import SettingsError

BASIC_CODE = ("113100", "Basic Application Confidentiality Profile")


@dataclass(frozen=True, slots=True)
class About:
    """One row of the table. `column` is the column of `ps315.csv`, "" where the option is about no attribute."""

    name: str
    code: str
    meaning: str
    column: str
    done: str


class Option(Enum):
    """An option of the Basic Profile (PS3.15 E.3). The value is its row of the table."""

    SAFE_PRIVATE = About(
        "retain-safe-private",
        "113111",
        "Retain Safe Private Option",
        "retain_safe_private",
        "private elements of Table E.3.10-1 are kept, with their creators; their texts keep known words, their UIDs are"
        " replaced; every other private element is removed",
    )
    UIDS = About(
        "retain-uids",
        "113110",
        "Retain UIDs Option",
        "retain_uids",
        "UIDs are kept where they are well formed; others are replaced",
    )
    DEVICE = About(
        "retain-device-identity",
        "113109",
        "Retain Device Identity Option",
        "retain_device_identity",
        "device names, serial numbers and UIDs are kept; AE titles only as far as their words are known to be safe",
    )
    INSTITUTION = About(
        "retain-institution-identity",
        "113112",
        "Retain Institution Identity Option",
        "retain_institution_identity",
        "names, addresses and codes of institutions are kept",
    )
    PATIENT = About(
        "retain-patient-characteristics",
        "113108",
        "Retain Patient Characteristics Option",
        "retain_patient_characteristics",
        "sex, age, size, weight and the like are kept; free text about them only as far as its words are safe",
    )
    FULL_DATES = About(
        "retain-full-dates",
        "113106",
        "Retain Longitudinal Temporal Information Full Dates Option",
        "retain_long_full_dates",
        "dates and times are kept where they are well formed; Patient ID becomes a pseudonym under the site's key",
    )
    MODIFIED_DATES = About(
        "retain-modified-dates",
        "113107",
        "Retain Longitudinal Temporal Information Modified Dates Option",
        "retain_long_modified_dates",
        "dates move back by a number of whole days that is one for all studies of a patient and secret under the"
        " site's key; times of day and zones stay; without a Patient ID the Study Instance UID takes its place, so"
        " that intervals hold inside one study; Patient ID becomes a pseudonym under the site's key",
    )
    DESCRIPTORS = About(
        "clean-descriptors",
        "113105",
        "Clean Descriptors Option",
        "clean_descriptors",
        "of a description only words of a list of imaging terms, and numbers that are no date or identifier, are"
        " kept; words that stand in the object's own identity go first",
    )
    STRUCTURED = About(
        "clean-structured-content",
        "113104",
        "Clean Structured Content Option",
        "clean_structured_content",
        "content items by Table E.3.4-1; the text of others is cleaned as descriptions are, names are replaced",
    )
    GRAPHICS = About(
        "clean-graphics",
        "113103",
        "Clean Graphics Option",
        "clean_graphics",
        "shapes of graphic annotations are kept and their text is cleaned; overlays are kept only where the caller"
        " has screened them; curves are removed",
    )
    PIXELS = About(
        "clean-pixel-data",
        "113101",
        "Clean Pixel Data Option",
        "",
        "an object with pixels is refused unless the caller has screened them",
    )
    VISUAL = About(
        "clean-recognizable-visual-features",
        "113102",
        "Clean Recognizable Visual Features Option",
        "",
        "not done here: it is refused",
    )

    @property
    def about(self) -> About:
        return self.value


Options = frozenset[Option]
BY_NAME = {option.about.name: option for option in Option}
DATES = frozenset({Option.FULL_DATES, Option.MODIFIED_DATES})


def parse_options(names: str | Iterable[str]) -> Options:
    """Options by name, from a list or a text with commas or spaces. Raises SettingsError as `checked` does."""
    words = names.replace(",", " ").split() if isinstance(names, str) else list(names)
    unknown = sorted(set(words) - set(BY_NAME))
    if unknown:
        known = ", ".join(BY_NAME)
        raise SettingsError(f"no such de-identification option: {', '.join(unknown)}; there are {known}")
    return checked(BY_NAME[word] for word in words)


def checked(options: Iterable[Option]) -> Options:
    """The options as a set. Raises SettingsError for what cannot be done, or contradicts itself."""
    chosen = frozenset(options)
    if Option.VISUAL in chosen:
        raise SettingsError(
            "clean-recognizable-visual-features cannot be done: nothing here removes faces from images;"
            " deface the images before, and leave this option out"
        )
    if chosen >= DATES:
        raise SettingsError("retain-full-dates and retain-modified-dates contradict each other: choose one")
    return chosen


def in_order(options: Options) -> tuple[Option, ...]:
    """The options chosen, in the order of the table."""
    return tuple(option for option in Option if option in options)
