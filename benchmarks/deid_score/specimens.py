"""The planted files as bytes, `make_specimens`: phantoms' films, CT and MR, and further objects, by six patients in seven visits."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom import uid
from pydicom.dataset import Dataset

from deid_score import objects, plants
from deid_score.people import Who, patients
from deid_score.standard import Tables
from medai_pipeline.phantoms.identity import file_meta
from medai_pipeline.phantoms.studies import make_study


@dataclass(frozen=True, eq=False)
class Specimen:
    """One planted file. `secrets`: what identifies; `useful`: free text -> its harmless words; `ink`: burned-in text's pixels."""

    name: str
    patient: str
    data: bytes
    secrets: frozenset[str]
    useful: dict[str, tuple[str, ...]]
    ink: np.ndarray | None = None

    @property
    def dataset(self) -> Dataset:
        return pydicom.dcmread(io.BytesIO(self.data))


def make_specimens(tables: Tables, folder: Path) -> list[Specimen]:
    """Makes the files of all visits and writes them into `folder`; the same bytes each time."""
    people = patients()
    first = _study("chest-ct", 8101, people["xiomara"], slices=3)
    later = _study("chest-ct", 8102, people["xiomara-later"], slices=2)
    films = _study("chest-xray", 8103, people["tadeusz"])
    brain = _study("brain-mr", 8104, people["yuriko"], slices=3)
    fetal = _study("brain-mr", 8105, people["ambrose"], slices=2)
    latin = _study("chest-ct", 8106, people["francoise"], slices=2)
    kanji = _study("brain-mr", 8107, people["hanako"], slices=2)
    screen, ink = objects.capture(fetal[0], people["ambrose"])
    plan = [
        ("xiomara", "xiomara", first, later, [objects.report(first, people["xiomara"]),
            objects.presentation_state(first, people["xiomara"]), objects.structure_set(first, people["xiomara"])]),
        ("xiomara-later", "xiomara", later, first, []),
        ("tadeusz", "tadeusz", films, [], []),
        ("yuriko", "yuriko", brain, [], [objects.enhanced(brain[0], people["yuriko"])]),
        ("ambrose", "ambrose", fetal, [], [screen, objects.document(fetal[0], people["ambrose"])]),
        ("francoise", "francoise", latin, [], [objects.segmentation(latin[0], people["francoise"])]),
        ("hanako", "hanako", kanji, [], []),
    ]  # fmt: skip
    made: list[tuple[str, str, bytes, Who, np.ndarray | None]] = []
    for visit, patient, own, other, further in plan:
        who = people[visit]
        for number, ds in enumerate([*own, *further]):
            _plant(ds, who, own, other, tables)
            ds.SpecificCharacterSet = _CHARACTERS.get(visit, "ISO_IR 192")
            name = f"{visit}-{ds.Modality.lower()}{number}.dcm"
            data = _encode(ds, who, _SPECIAL.get(name) or _SYNTAXES[len(made) % len(_SYNTAXES)])
            made.append((name, patient, data, who, ink if ds is screen else None))
    finished = []
    for name, patient, data, who, mask in made:
        (folder / name).write_bytes(data)
        finished.append(Specimen(name, patient, data, frozenset(who.secrets), dict(who.useful), mask))
    return finished


_SYNTAXES: tuple[str, ...] = (
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
)


# Character sets (PS3.5 6.1.2.3) and transfer syntaxes by name of the file, where they are not the usual.
_SPECIAL: dict[str, str] = {
    "francoise-ct0.dcm": uid.ExplicitVRBigEndian,
    "francoise-ct1.dcm": uid.RLELossless,
    "hanako-mr0.dcm": uid.ImplicitVRLittleEndian,
}
_CHARACTERS = {"francoise": "ISO_IR 100", "hanako": ["", "ISO 2022 IR 87"]}


def _study(kind: str, seed: int, who: Who, slices: int | None = None) -> list[Dataset]:
    study = make_study(kind, seed, rows=64 if slices else 128, columns=64 if slices else 112, slices=slices)
    who.secrets |= {marker for marker in study.markers if not marker.startswith("2.25.")}
    return list(study.datasets)


def _plant(ds: Dataset, who: Who, own: list[Dataset], other: list[Dataset], tables: Tables) -> None:
    plants.patient(ds, who)
    plants.visit(ds, who)
    plants.descriptors(ds, who)
    plants.codes(ds, who)
    if "GraphicAnnotationSequence" not in ds:
        plants.references(ds, own, other)
    plants.private(ds, who, tables)
    plants.oddities(ds, who)
    plants.awkward(ds, who)
    plants.quiet(ds, who)
    ds.PatientSex = "F"
    if who.family == "Takeuchi":  # alphabetic, ideographic and phonetic groups (PS3.5 6.2.1)
        ds.PatientName = f"Takeuchi^Hanako={who.secret('竹内')}^{who.secret('花子')}=たけうち^はなこ"


def _encode(ds: Dataset, who: Who, syntax: str) -> bytes:
    """The file, with identities in its preamble and file meta information too."""
    if "PixelData" not in ds or ds.Modality in ("US", "MR"):
        plants.as_unknown(ds)
    ds.preamble = f"for {who.given} {who.family}".encode().ljust(128, b"\0")[:128]
    ds.file_meta = file_meta(ds, syntax)
    ds.file_meta.SourceApplicationEntityTitle = who.secret("LKRSTORE9")
    ds.file_meta.PrivateInformationCreatorUID = uid.UID(f"{plants.ELSEWHERE}.6")
    ds.file_meta.PrivateInformation = f"queue {who.patient_id}".encode().ljust(32)
    if syntax == str(uid.RLELossless):
        ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        ds.compress(uid.RLELossless, generate_instance_uid=False)
    big = syntax == str(uid.ExplicitVRBigEndian)
    if big and ds.BitsAllocated == 16:
        ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
    implicit = syntax == str(uid.ImplicitVRLittleEndian)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, ds, implicit_vr=implicit, little_endian=not big, enforce_file_format=True)
    return buffer.getvalue()
