"""Which study a file is of, and which patient's, as far as its first attributes tell; also of a file that is not whole."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from pydicom.charset import convert_encodings, decode_bytes

from medai_pipeline.dicom.heading import PATIENT_ID, STUDY_INSTANCE_UID, heading

_CHARACTER_SETS = 0x00080005


@dataclass(frozen=True, slots=True, repr=False)
class Whose:
    """Identifies: not for showing. `patient_ids`: the Patient ID as each of the character sets that it may be in reads it."""

    study_instance_uid: str
    patient_ids: frozenset[str]

    def __repr__(self) -> str:
        return "Whose(<hidden>)"


def whose(data: bytes) -> Whose:
    """ "" and nothing for what is no DICOM file, or does not say."""
    first = heading(data)
    latin = first.text(PATIENT_ID)
    raw, names = latin.encode("latin-1"), first.texts(_CHARACTER_SETS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom quotes values in its warnings
        told = decode_bytes(raw, convert_encodings(list(names) or None), set())
    ids = {text.strip() for text in (latin, told, raw.decode("utf-8", "replace"))}
    return Whose(first.text(STUDY_INSTANCE_UID), frozenset(text for text in ids if text and "\ufffd" not in text))
