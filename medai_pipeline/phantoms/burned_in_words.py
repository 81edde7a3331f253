"""Who stands on a picture with burned-in text: an invented patient in a header, and the lines that scanners write of it.

Names are common ones of many languages, combined by chance. What stands here is text; how it is drawn is in
`burned_in_fonts`, where it lies in `burned_in_images`.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

_FAMILIES = [
    "GARCIA",
    "SMITH",
    "NOWAK",
    "JOHANSSON",
    "ROSSI",
    "TANAKA",
    "OKONKWO",
    "KOWALSKI",
    "HERNANDEZ",
    "IVANOVA",
    "MUELLER",
    "DUBOIS",
    "PATEL",
    "WANG",
    "NGUYEN",
    "O'BRIEN",
    "MACDONALD",
    "SCHNEIDER",
    "LINDQVIST",
    "FERRARI",
    "YAMAMOTO",
    "ADEYEMI",
    "POPESCU",
    "VANDENBERG",
    "KIM",
    "LEE",
    "ALI",
    "DIAZ",
    "LOPEZ-RUIZ",
    "ZIELINSKI",
    "HUGHES",
    "BAKER",
    "TURNER",
    "WHITFIELD",
    "XIONG",
    "QUINTERO",
    "JAVORSKI",
    "BLOGGS",
    "UNDERWOOD",
    "FITZGERALD",
    "ILLINGWORTH",
    "LILLY",
]
_GIVENS = [
    "MARIA",
    "JOHN",
    "ANNA",
    "LARS",
    "GIULIA",
    "HIROSHI",
    "CHIDI",
    "EWA",
    "CARLOS",
    "OLGA",
    "HANS",
    "CLAIRE",
    "PRIYA",
    "LI",
    "THI",
    "SEAN",
    "FIONA",
    "KLAUS",
    "INGRID",
    "MARCO",
    "YUKI",
    "FUNMI",
    "ION",
    "WILLEM",
    "JI-WOO",
    "OMAR",
    "ELENA",
    "XAVIER",
    "QUENTIN",
    "ZOE",
    "JO",
    "AL",
    "BEATRICE",
    "WILLIAM",
    "JILL",
    "ILSE",
    "PHILIPPA",
    "GREGORY",
    "UMA",
]
_PLACES = ("ST MARY'S HOSPITAL", "Northfield General Hospital", "Klinikum Westend", "CHU Bellevue", "Lakeside Imaging")
_TIMES = ("{0:%H:%M:%S}", "{0:%H:%M}", "{0:%I:%M:%S %p}")
_DATES = ("%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%d-%b-%Y", "%d %b %Y", "%Y%m%d", "%d/%m/%y", "%b %d, %Y", "%Y/%m/%d")

# Words that say nothing about a person: sides, projections, positions, technique, units, scales.
FILM_MARKERS = (
    "L", "R", "L", "R", "PORTABLE", "AP ERECT", "PA", "AP", "LATERAL", "SUPINE", "ERECT", "PA ERECT", "AP SUPINE",
    "LEFT", "RIGHT", "SEMI-ERECT", "UPRIGHT", "MOBILE", "DECUBITUS", "L LAT", "INSPIRATION",
)  # fmt: skip
SLICE_MARKERS = ("A", "P", "R", "L", "H", "F", "S", "I", "kV 120", "mA 250", "5.0 mm", "W 400 L 40", "10 cm")
SOUND_MARKERS = (
    "FR 22Hz", "RS", "2D", "55%", "C 50", "P Low", "HGen", "MI 1.2", "TIS 0.9", "15cm", "Gain 52", "M3", "TIB 0.9",
    "dB 60", "FPS 34", "Depth 12 cm", "Freq 3.5 MHz", "DR 66", "GN 48", "75 mm/s", "HR 72 bpm",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Person:
    """One invented patient with one examination. Dates are datetimes; the rest as it stands in the header."""

    family: str
    given: str
    patient_id: str
    accession: str
    birth: datetime.datetime
    study: datetime.datetime
    institution: str
    physician: tuple[str, str]

    def fill(self, ds: Dataset) -> None:
        """Write the header attributes that identify."""
        ds.SpecificCharacterSet = "ISO_IR 192"
        ds.PatientName, ds.PatientID = f"{self.family}^{self.given}", self.patient_id
        ds.PatientBirthDate, ds.PatientSex = f"{self.birth:%Y%m%d}", "O"
        ds.AccessionNumber, ds.StudyID = self.accession, "1"
        ds.StudyDate = ds.SeriesDate = ds.ContentDate = f"{self.study:%Y%m%d}"
        ds.StudyTime = ds.SeriesTime = ds.ContentTime = f"{self.study:%H%M%S}"
        ds.InstitutionName = self.institution
        ds.ReferringPhysicianName = "^".join(self.physician)


def invent_person(rng: np.random.Generator) -> Person:
    def one(choices):
        return str(choices[int(rng.integers(len(choices)))])

    def digits(count: int) -> str:
        return "".join(str(rng.integers(10)) for _ in range(count))

    start = datetime.datetime(1925, 1, 1)
    birth = start + datetime.timedelta(days=int(rng.integers(90 * 365)))
    study = birth + datetime.timedelta(days=int(rng.integers(200, 9 * 365)), seconds=int(rng.integers(86400)))
    forms = (digits(7), f"MRN{digits(6)}", f"{digits(3)}-{digits(2)}-{digits(4)}", f"PAT{digits(5)}", f"K{digits(8)}")
    return Person(
        one(_FAMILIES), one(_GIVENS), one(forms), one((digits(8), f"A{digits(7)}", f"{digits(4)}-{digits(4)}")),
        birth, study, one(_PLACES), (one(_FAMILIES), one(_GIVENS)),
    )  # fmt: skip


def identity_lines(person: Person, rng: np.random.Generator, count: int) -> list[str]:
    """`count` different lines that identify, the patient's name among them."""

    def one(*choices: str) -> str:
        return choices[int(rng.integers(len(choices)))]

    family, given = person.family, person.given
    if rng.random() < 0.4:
        family, given = family.title(), given.title()
    doctor = one("{0}", "{1} {0}", "DR {0}").format(*(part.title() for part in person.physician))
    name = one("{0}, {1}", "{0}^{1}", "{1} {0}", "{0} {1}", "Name: {0} {1}").format(family, given)
    born, done = person.birth.strftime(one(*_DATES)), person.study.strftime(one(*_DATES))
    others = [
        one("{0}", "ID: {0}", "PID {0}", "MRN: {0}").format(person.patient_id),
        one("{0}", "DOB: {0}", "* {0}", "Born {0}").format(born),
        one("{0}", "{0} {1}", "Date {0}").format(done, one(*_TIMES).format(person.study)),
        one("{0}", "Acc# {0}", "Acc: {0}").format(person.accession),
        person.institution,
        one("{0}", "Dr. {0}", "Ref: {0}").format(doctor),
    ]
    order = rng.permutation(len(others))[: count - 1]
    return [name, *(others[index] for index in order)]


def written_lines(person: Person, rng: np.random.Generator, count: int) -> list[str]:
    """`count` lines that identify; from eight on, the same things are written again in other forms."""
    lines: list[str] = []
    while len(lines) < count:
        lines += identity_lines(person, rng, min(7, count - len(lines)))
    return lines
