"""The first attributes of a file, also of one that ends too early: which study it belongs to, and whose it is.

Nothing here says that a file can be used: `read.check_whole` does.
"""

from __future__ import annotations

import struct
import zlib
from collections import defaultdict
from collections.abc import Iterable

from pydicom.uid import DeflatedExplicitVRLittleEndian

from medai_pipeline.dicom import elements
from medai_pipeline.dicom.attributes import Attributes
from medai_pipeline.errors import DicomError

PATIENT_ID, ISSUER_OF_PATIENT_ID, STUDY_INSTANCE_UID = 0x00100020, 0x00100021, 0x0020000D
_LAST = 0x0020FFFF
_INFLATED_BYTES = 1 << 20


def heading(data: bytes) -> Attributes:
    """The top-level attributes up to group 0020, as far as they can be read; none of what is no DICOM file."""
    found: list[elements.Element] = []
    try:
        part = elements.Part10()
        view = memoryview(data)
        part.dataset = view[elements._read_meta(view, elements._start(view), part) :]
        if part.transfer_syntax == DeflatedExplicitVRLittleEndian:
            part.dataset = memoryview(zlib.decompressobj(-zlib.MAX_WBITS).decompress(part.dataset, _INFLATED_BYTES))
        encoding, reader = elements._dataset_encoding(part), elements.Reader(part.dataset)
        position, end = 0, len(part.dataset)
        while end - position >= 8:
            element, position = reader._element(position, end, encoding, 0)
            if element.tag > _LAST:
                break
            found.append(element)
    except (DicomError, struct.error, zlib.error):
        pass  # what came before is what there is
    return Attributes(found)


def patient_of(data: bytes) -> tuple[str, str]:
    """(Patient ID, Issuer of Patient ID) of a file, each "" where it has none. They identify: not for showing."""
    first = heading(data)
    return first.text(PATIENT_ID), first.text(ISSUER_OF_PATIENT_ID)


def count_patients(patients: Iterable[tuple[str, str]]) -> int:
    """How many patients `patient_of` has told of. One issuer and none may be the same; without a Patient ID all are one."""
    issuers: defaultdict[str, set[str]] = defaultdict(set)
    for patient_id, issuer in patients:
        issuers[patient_id].update({issuer} - {""})
    return sum(max(1, len(of_id)) for of_id in issuers.values())
