"""Reading DICOM files: tolerant of how they are written, strict about whether they are whole.

Here: one file as a pydicom data set, who it is about, and which files of a folder make which study. Nothing is changed.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import UID

from medai_pipeline.dicom.attributes import Attributes
from medai_pipeline.dicom.elements import PIXEL_DATA, Part10, looks_like_dataset, read_part10
from medai_pipeline.dicom.heading import STUDY_INSTANCE_UID, heading
from medai_pipeline.dicom.limits import MAX_FILE_BYTES
from medai_pipeline.dicom.scan import Shared, scan
from medai_pipeline.errors import DicomError, NotDicom, TruncatedFile
from medai_pipeline.records import Identity, Problem

HEAD_BYTES = 132  # the preamble and "DICM" (PS3.10 7.1)
_NOT_CANDIDATES = frozenset({"DICOMDIR", "LOCKFILE", "VERSION"})
_PYTHON_TROUBLE = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)
PYDICOM_TROUBLE = (*_PYTHON_TROUBLE, struct.error, InvalidDicomError, BytesLengthException)


def parse(data: bytes, *, pixels: bool = True) -> Dataset:
    """One file as a data set, checked to be whole. Without `pixels` reading stops before the pixel data.

    A missing preamble or file meta information is tolerated and filled in.
    Raises NotDicom, TruncatedFile; their messages hold nothing of the file.
    """
    part = check_whole(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom quotes values in its warnings
            dataset = pydicom.dcmread(BytesIO(data), force=True, stop_before_pixels=not pixels)
            _fill_meta(dataset, part)
        return dataset
    except PYDICOM_TROUBLE:
        pass
    raise NotDicom("the file begins as DICOM but its elements cannot be read; send it again")


def check_whole(data: bytes, shared: Shared | None = None) -> Part10:
    """The file taken apart. Raises NotDicom, TruncatedFile (also when native pixel data is too short, PS3.5 8.1.1).

    `shared`: the memory of `scan`, of who reads many files of a series.
    """
    part = scan(data, shared) or read_part10(data)
    missing = _missing_pixel_bytes(part)
    if missing > 0:
        raise TruncatedFile(
            f"the pixel data is {missing} bytes too short for its rows, columns and frames; send it again"
        )
    return part


def _missing_pixel_bytes(part: Part10) -> int:
    attributes = Attributes(part.elements)
    element = attributes.elements.get(PIXEL_DATA)
    if element is None or element.undefined:
        return 0
    samples = max(1, attributes.short(0x00280002))
    frames = max(1, attributes.integer(0x00280008))
    values = attributes.short(0x00280010) * attributes.short(0x00280011) * samples * frames
    if attributes.text(0x00280004) == "YBR_FULL_422":
        values = values * 2 // 3
    return (values * attributes.short(0x00280100) + 7) // 8 - len(element.value)


def _fill_meta(dataset: Dataset, part: Part10) -> None:
    if not hasattr(dataset, "file_meta"):
        dataset.file_meta = FileMetaDataset()
    if not dataset.file_meta.get("TransferSyntaxUID"):
        dataset.file_meta.TransferSyntaxUID = UID(part.transfer_syntax)


def identity_of(dataset: Dataset) -> Identity:
    """Who a data set is about, as the file says it; `uids` and `orthanc_id` are left to the caller."""

    def text(keyword: str) -> str:
        value = dataset.get(keyword)
        return "" if value is None else str(value)

    return Identity(
        study_instance_uid=text("StudyInstanceUID"),
        patient_id=text("PatientID"),
        patient_name=text("PatientName"),
        birth_date=text("PatientBirthDate"),
        sex=text("PatientSex"),
        accession_number=text("AccessionNumber"),
        study_id=text("StudyID"),
        study_date=text("StudyDate"),
        study_time=text("StudyTime"),
        referring_physician=text("ReferringPhysicianName"),
    )


OLDEST = 90  # years: who is older could be told by it (45 CFR 164.514(b)(2)(i)(C))


def age_years(dataset: Dataset) -> int | None:
    """The patient's age at the study in whole years, at most OLDEST; None where the file does not say.

    From Patient's Age (PS3.5 6.2, AS), else from the dates of birth and study.
    """
    stated = re.fullmatch(r"(\d{3})([DWMY])", str(dataset.get("PatientAge") or "").strip())
    if stated:
        return min(OLDEST, int(int(stated[1]) / {"D": 365.25, "W": 52.18, "M": 12, "Y": 1}[stated[2]]))
    days = [re.fullmatch(r"\d{8}", str(dataset.get(keyword) or "")) for keyword in ("PatientBirthDate", "StudyDate")]
    if not all(days):
        return None
    born, seen = (int(day[0]) for day in days if day)
    years = (seen - born) // 10_000  # of the two dates as numbers: a birthday still to come takes one away
    return min(OLDEST, years) if years >= 0 else None


def is_dicom_candidate(path: Path) -> bool:
    """A cheap look at a file's first bytes: whether `parse` may succeed. Raises OSError when it cannot be opened."""
    with path.open("rb") as file:
        return begins_as_dicom(file.read(HEAD_BYTES))


def begins_as_dicom(head: bytes) -> bool:
    """Whether `parse` may succeed on a file whose first HEAD_BYTES (fewer where it is shorter) are these."""
    return head[128:132] == b"DICM" or looks_like_dataset(memoryview(head))


def find_files(paths: Iterable[str | Path]) -> Iterator[Path]:
    """Files under `paths`, each folder in order of names; hidden files and DICOMDIR are passed over, links not followed.

    A path that is named itself is always given, whatever it is.
    """
    for path in map(Path, paths):
        if not path.is_dir():
            yield path
            continue
        for folder, folders, names in os.walk(path):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            wanted = (
                name for name in sorted(names) if not name.startswith(".") and name.upper() not in _NOT_CANDIDATES
            )
            files = (Path(folder, name) for name in wanted)
            yield from (file for file in files if not file.is_symlink() and file.is_file())


@dataclass(frozen=True, slots=True, repr=False)
class StudyFiles:
    """The files of one study, in the order found. Its UID identifies: it is not for showing."""

    study_instance_uid: str
    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file that belongs to no study, and why. `dicom`: it looks like DICOM, or may be, so that something is lost.

    Its path may identify: it is for the terminal of who named it.
    """

    path: Path = field(repr=False)
    problem: Problem
    dicom: bool = True


def group_by_study(paths: Iterable[str | Path]) -> tuple[list[StudyFiles], list[LeftOut]]:
    """Which files make which study, in the order the studies are found, and which belong to none.

    A file that ends too early belongs to its study as long as that can be read: what is wrong is found when it is used.
    One file is in memory at a time. A problem's subject is the file's digest prefix.
    """
    studies: dict[str, list[Path]] = {}
    left: list[LeftOut] = []
    for path in find_files(paths):
        data = b""
        try:
            data = _bounded(path)
            studies.setdefault(_study_of(data), []).append(path)
        except DicomError as error:
            problem = Problem(error.code, error.reason, hashlib.sha256(data).hexdigest()[:12])
            left.append(LeftOut(path, problem, _may_be_dicom(path, data)))
        except OSError as error:
            reason = f"a file cannot be opened ({error.strerror}); check its permissions"
            left.append(LeftOut(path, Problem("unreadable", reason)))
    return [StudyFiles(uid, tuple(files)) for uid, files in studies.items()], left


def _bounded(path: Path) -> bytes:
    """A file's bytes. A pipe or a device is no file: reading it may never end. Raises NotDicom, OSError."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise NotDicom("not a regular file; leave it out")
    if status.st_size > MAX_FILE_BYTES:
        raise NotDicom(f"the file is larger than {MAX_FILE_BYTES >> 30} GiB; leave it out")
    return path.read_bytes()


def _study_of(data: bytes) -> str:
    uid = heading(data).text(STUDY_INSTANCE_UID) or Attributes(check_whole(data).elements).text(STUDY_INSTANCE_UID)
    if not uid:
        raise NotDicom("a DICOM object without a Study Instance UID belongs to no study; leave it out")
    return uid


def _may_be_dicom(path: Path, data: bytes) -> bool:
    if not data and path.is_file() and path.stat().st_size:
        return True  # too large to be read
    named = path.suffix.lower() in {".dcm", ".dicom"}
    return named or data[128:132] == b"DICM" or looks_like_dataset(memoryview(data[:132]))
