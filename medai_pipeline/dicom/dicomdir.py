"""A new file-set with its DICOMDIR (PS3.3 Annex F, PS3.10 8) from de-identified files.

A DICOMDIR that came with the source is never read: it repeats names, IDs and dates of every patient on the medium. Here
belongs what its records say where the files are silent; `deidentify` made the files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import pydicom
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.fileset import FileSet

from medai_pipeline.dicom.cleaning import DUMMIES
from medai_pipeline.errors import DeidentificationError

# What directory records must say (Type 1 in PS3.3 F.5): always, and where the kind of object has it at all
_ALWAYS = ("StudyDate", "StudyTime", "StudyID", "SeriesNumber", "InstanceNumber")
_IF_EMPTY = ("ContentDate", "ContentTime", "PresentationCreationDate", "PresentationCreationTime", "ContentLabel")


def write_file_set(files: Iterable[Path], target: Path) -> int:
    """Copies de-identified files into `target` under File IDs (PS3.10 8.5) and writes DICOMDIR; returns how many.

    Raises DeidentificationError when a file has no place in a directory, or `target` holds a DICOMDIR already.
    """
    if (target / "DICOMDIR").exists():
        raise DeidentificationError("the output folder holds a DICOMDIR already: choose another one or remove it")
    by_uid: dict[str, Path] = {}
    file_set = FileSet()
    for path in files:
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        by_uid[dataset.SOPInstanceUID] = path
        try:
            file_set.add(_complete(dataset))
        except (ValueError, AttributeError, NotImplementedError) as error:
            raise DeidentificationError(
                f"an object of the output has no place in a DICOMDIR ({type(error).__name__}); write without --dicomdir"
            ) from None
    target.mkdir(parents=True, exist_ok=True)
    file_set.write(target)
    for instance in file_set:  # the files themselves stay as they were made
        Path(instance.path).write_bytes(by_uid[instance.SOPInstanceUID].read_bytes())
    return len(by_uid)


def _complete(dataset: Dataset) -> Dataset:
    """The data set with a dummy wherever a record needs a value; a study without Patient ID is a patient of its own."""
    for keyword in (*_ALWAYS, *(keyword for keyword in _IF_EMPTY if keyword in dataset)):
        if dataset.get(keyword) in (None, ""):
            vr = dictionary_VR(tag_for_keyword(keyword) or 0)
            setattr(dataset, keyword, DUMMIES[vr.encode()].decode("ascii").strip())
    if not dataset.get("PatientID"):
        dataset.PatientID = hashlib.sha256(dataset.StudyInstanceUID.encode()).hexdigest()[:16].upper()
    return dataset
