"""Invented identities, planted into a dataset wherever DICOM files carry them; each with a marker that can be searched for.

A marker is a token such as ZZMARK2A7NAM (seed in hexadecimal, field): it occurs nowhere by chance. What a
de-identified file, a database or a log may not hold is the tuple of markers this module returns. No pixels here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import UID

PRIVATE_CREATOR = "MEDAI PHANTOM"
_STUDY_COMPONENT = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management, retired: what old files refer to


def uid(seed: int, *parts: object) -> UID:
    """A UID under 2.25 (PS3.5 B.2), the same for the same seed and parts."""
    digest = hashlib.sha256(repr((seed, *parts)).encode()).digest()
    return UID(f"2.25.{int.from_bytes(digest[:15], 'big')}")


@dataclass(frozen=True, slots=True)
class Planted:
    """One invented patient: tokens by field, and dates and times nobody would write by chance."""

    seed: int
    birth_date: str
    study_date: str
    study_time: str

    def token(self, field: str) -> str:
        """At most 16 characters, so that it fits into SH."""
        return f"ZZMARK{self.seed & 0xFFFFFF:X}{field}"

    @property
    def name(self) -> str:
        return f"{self.token('FAM')}^{self.token('GIV')}"

    @property
    def patient_id(self) -> str:
        return self.token("PID")


def invent(seed: int) -> Planted:
    rng = np.random.default_rng([seed, 41])
    return Planted(
        seed=seed,
        birth_date=f"19{rng.integers(11, 40)}{rng.integers(1, 13):02d}{rng.integers(10, 29)}",
        study_date=f"19{rng.integers(81, 89)}{rng.integers(1, 13):02d}{rng.integers(10, 29)}",
        study_time=f"{rng.integers(0, 24):02d}{rng.integers(0, 60):02d}{rng.integers(0, 60):02d}.{rng.integers(100000, 999999)}",
    )


def plant(ds: Dataset, who: Planted, study_words: str, series_words: str) -> tuple[str, ...]:
    """Write the identity into every place of `ds` that carries one; returns the markers that are now in it."""
    seen: list[str] = [who.birth_date, who.study_date, who.study_time]

    def mark(field: str) -> str:
        seen.append(who.token(field))
        return seen[-1]

    family, given = mark("FAM"), mark("GIV")
    ds.PatientName = f"{family}^{given}"
    ds.PatientID = mark("PID")
    ds.IssuerOfPatientID = mark("ISS")
    ds.PatientBirthDate = who.birth_date
    ds.PatientSex = "F" if who.seed % 2 else "M"
    ds.OtherPatientNames = f"{mark('OPN')}^{given}"
    ds.PatientMotherBirthName = mark("MOM")
    ds.PatientAddress = f"{mark('ADR')} Street 1"
    ds.PatientTelephoneNumbers = mark("TEL")
    ds.PatientComments = f"Patient {given} {family}, {mark('PCO')}"
    ds.AdditionalPatientHistory = f"{family} was seen before as {mark('HIS')}"
    other = Dataset()
    other.PatientID, other.TypeOfPatientID, other.IssuerOfPatientID = mark("OID"), "TEXT", mark("OIS")
    ds.OtherPatientIDsSequence = Items([other])
    ds.AccessionNumber, ds.StudyID = mark("ACC"), mark("SID")
    _when(ds, who)
    for keyword, field in _PEOPLE.items():
        setattr(ds, keyword, f"{mark(field)}^DR")
    ds.InstitutionName = f"{mark('HOS')} Hospital"
    ds.InstitutionAddress = f"{mark('HAD')} Road 2"
    ds.InstitutionalDepartmentName = mark("DEP")
    ds.StationName, ds.DeviceSerialNumber = mark("STA"), mark("SER")
    ds.StudyDescription = f"{study_words} {family}"
    ds.SeriesDescription = f"{series_words} {mark('SED')}"
    ds.ImageComments = f"Image of {given} {family} {mark('IMC')}"
    seen += _nested(ds, who, family)
    seen += _private(ds, who)
    return tuple(dict.fromkeys(seen))


_PEOPLE = {
    "ReferringPhysicianName": "REF",
    "PerformingPhysicianName": "PER",
    "NameOfPhysiciansReadingStudy": "REA",
    "PhysiciansOfRecord": "REC",
    "OperatorsName": "OPE",
    "RequestingPhysician": "REQ",
}


def _when(ds: Dataset, who: Planted) -> None:
    for part in ("Study", "Series", "Acquisition", "Content"):
        setattr(ds, f"{part}Date", who.study_date)
        setattr(ds, f"{part}Time", who.study_time)
    ds.AcquisitionDateTime = who.study_date + who.study_time


def _nested(ds: Dataset, who: Planted, family: str) -> list[str]:
    request = Dataset()
    request.RequestedProcedureID, request.ScheduledProcedureStepID = who.token("RPI"), who.token("SPS")
    request.ScheduledProcedureStepDescription = f"For {family} {who.token('SPD')}"
    ds.RequestAttributesSequence = Items([request])
    earlier = Dataset()
    earlier.ReferencedSOPClassUID, earlier.ReferencedSOPInstanceUID = _STUDY_COMPONENT, uid(who.seed, "earlier study")
    ds.ReferencedStudySequence = Items([earlier])
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = who.token("PCV"), "99MEDAI"
    code.CodeMeaning = f"Examination of {family} {who.token('PCM')}"
    ds.ProcedureCodeSequence = Items([code])
    fields = ("RPI", "SPS", "SPD", "PCV", "PCM")
    return [*map(who.token, fields), str(earlier.ReferencedSOPInstanceUID)]


def _private(ds: Dataset, who: Planted) -> list[str]:
    """Private elements in a reserved block (PS3.5 7.8), one of them a sequence with a private block of its own."""
    inner = Dataset()
    inside = inner.private_block(0x0011, PRIVATE_CREATOR, create=True)
    inside.add_new(0x01, "PN", f"{who.token('PRN')}^INNER")
    block = ds.private_block(0x0009, PRIVATE_CREATOR, create=True)
    block.add_new(0x01, "LO", who.token("PRL"))
    block.add_new(0x02, "SQ", Items([inner]))
    block.add_new(0x03, "UT", f"Free text about {who.token('PRT')}")
    return [who.token("PRN"), who.token("PRL"), who.token("PRT")]


def file_meta(ds: Dataset, transfer_syntax_uid: str) -> FileMetaDataset:
    """File meta information (PS3.10 7.1) with this package's own implementation UID."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    meta.ImplementationClassUID = UID("2.25.302019870135917249117045713365712096513")
    meta.ImplementationVersionName = "MEDAI_PHANTOM"
    return meta


def burn(stored: np.ndarray, lines: Sequence[str], value: int) -> None:
    """Write `lines` into the pixels (rows, columns) in place, top left, as old modalities did."""
    import cv2

    ink = np.zeros(stored.shape, np.uint8)
    scale = max(0.35, min(stored.shape) / 1000)
    for number, line in enumerate(lines, 1):
        cv2.putText(ink, line, (6, int(34 * scale * number) + 4), cv2.FONT_HERSHEY_SIMPLEX, scale, 255, 1, cv2.LINE_8)
    stored[ink > 0] = value
