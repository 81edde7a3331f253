"""C-FIND as SCU (PS3.4 Annexes C and K): what a PACS has under a query, and what a worklist plans. Fetches nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydicom import config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID
from pynetdicom.association import Association
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    ModalityWorklistInformationFind,
    PatientRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelFind,
)
from pynetdicom.status import code_to_category

from medai_pipeline.errors import PacsError, PacsUnreachable
from medai_pipeline.pacs.association import associate
from medai_pipeline.pacs.node import Node
from medai_pipeline.pacs.records import Hidden

FIND_MODELS: Mapping[str, UID] = {
    "patient": PatientRootQueryRetrieveInformationModelFind,
    "study": StudyRootQueryRetrieveInformationModelFind,
}
UNIQUE_KEYS = {
    "PATIENT": "PatientID", "STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID",
}  # fmt: skip
_PATIENT = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex")
_STUDY = (
    "StudyInstanceUID", "StudyDate", "StudyTime", "AccessionNumber", "StudyID", "StudyDescription",
    "ReferringPhysicianName", "ModalitiesInStudy", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances",
)  # fmt: skip
_SERIES = ("SeriesInstanceUID", "Modality", "SeriesNumber", "SeriesDescription", "NumberOfSeriesRelatedInstances")
_IMAGE = ("SOPInstanceUID", "SOPClassUID", "InstanceNumber")
# What is asked for at each level, beside the query's own keys: (information model, level) -> keywords.
RETURNED: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("patient", "PATIENT"): _PATIENT,
    ("patient", "STUDY"): _STUDY,
    ("study", "STUDY"): (*_PATIENT, *_STUDY),
    **{(root, "SERIES"): _SERIES for root in FIND_MODELS},
    **{(root, "IMAGE"): _IMAGE for root in FIND_MODELS},
}
_STEP = (
    "Modality", "ScheduledStationAETitle", "ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime",
    "ScheduledProcedureStepID", "ScheduledProcedureStepDescription", "ScheduledPerformingPhysicianName",
)  # fmt: skip
_WORKLIST = (
    *_PATIENT, "AccessionNumber", "StudyInstanceUID", "RequestedProcedureID", "RequestedProcedureDescription",
    "ReferringPhysicianName",
)  # fmt: skip


@dataclass(frozen=True, slots=True, repr=False)
class Match(Hidden):
    """One answer. It identifies: no repr shows a value."""

    dataset: Dataset

    def text(self, keyword: str) -> str:
        """The value as text, several with backslashes; "" where the node gave none."""
        value = self.dataset.get(keyword)
        if value is None or isinstance(value, Sequence):
            return ""
        return "\\".join(map(str, value)) if isinstance(value, (list, tuple)) or _is_many(value) else str(value)

    def count(self, keyword: str) -> int | None:
        """The value as a whole number; None where the node gave none."""
        text = self.text(keyword).strip()
        return int(text) if text.isdigit() else None


def _is_many(value: object) -> bool:
    return type(value).__name__ == "MultiValue"


def find(
    node: Node, level: str, keys: Mapping[str, str] | None = None, root: str = "study", limit: int | None = None
) -> Iterator[Match]:
    """Everything that matches `keys` (keyword -> value; DICOM's wildcards, ranges and lists) at `level`.

    `level`: PATIENT, STUDY, SERIES or IMAGE; below the root's first level the unique keys of those above belong in `keys`.
    After `limit` matches the query is cancelled. Raises PacsUnreachable, PacsUnauthorized, or PacsError when it is refused.
    """
    model = FIND_MODELS[root]
    with associate(node, [build_context(model)]) as association:
        yield from ask(association, node, query(level, keys or {}, root), model, limit)


def find_worklist(
    node: Node, keys: Mapping[str, str] | None = None, step: Mapping[str, str] | None = None, limit: int | None = None
) -> Iterator[Match]:
    """Planned procedure steps (Modality Worklist, PS3.4 K.6): `step` are keys of the Scheduled Procedure Step Sequence."""
    dataset = _dataset({**dict.fromkeys(_WORKLIST, ""), **(keys or {})})
    planned = _dataset({**dict.fromkeys(_STEP, ""), **(step or {})})
    dataset.ScheduledProcedureStepSequence = [planned]
    with associate(node, [build_context(ModalityWorklistInformationFind)]) as association:
        yield from ask(association, node, dataset, ModalityWorklistInformationFind, limit)


def query(level: str, keys: Mapping[str, str], root: str = "study") -> Dataset:
    """The identifier of a C-FIND: `keys`, and empty what is asked for."""
    dataset = _dataset({**dict.fromkeys(RETURNED[root, level], ""), **keys})
    dataset.QueryRetrieveLevel = level
    return dataset


def query_keys(level: str, keys: Mapping[str, str]) -> Dataset:
    """The identifier of a C-GET or C-MOVE: unique keys alone (PS3.4 C.4.2.1.4)."""
    dataset = _dataset(keys)
    dataset.QueryRetrieveLevel = level
    return dataset


def ask(
    association: Association, node: Node, identifier: Dataset, model: UID, limit: int | None = None
) -> Iterator[Match]:
    """The answers to one C-FIND on an association that is open."""
    if not association.accepted_contexts:
        raise PacsError(
            f"the DICOM node at {node.address} does not offer {model.name}: ask another node or another root"
        )
    told = 0
    for status, answer in association.send_c_find(identifier, model, msg_id=1):
        code = status.get("Status")
        if code is None:
            raise PacsUnreachable(
                f"the DICOM node at {node.address} ends the association in the middle of C-FIND: check its log"
            )
        if code_to_category(code) == "Pending":
            if limit is not None and told >= limit:
                continue  # it had sent these before it heard of the cancel
            if answer is None:
                raise PacsError(f"the DICOM node at {node.address} sends a match that cannot be read: check it there")
            told += 1
            yield Match(answer)
            if told == limit:
                association.send_c_cancel(1, query_model=model)
        elif code_to_category(code) not in {"Success", "Cancel"}:
            raise PacsError(f"the DICOM node at {node.address} refuses the query (C-FIND status 0x{code:04X})")


def _dataset(values: Mapping[str, str]) -> Dataset:
    """Values as they are: wildcards and ranges are no valid dates or UIDs, and must not be judged as such."""
    dataset = Dataset()
    if not all(value.isascii() for value in values.values()):
        dataset.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in values.items():
        tag = tag_for_keyword(keyword)
        if tag is None:
            raise PacsError(f"there is no DICOM attribute {keyword!r}: use a keyword of PS3.6, for example PatientID")
        dataset.add(DataElement(tag, dictionary_VR(tag), value, validation_mode=config.IGNORE))
    return dataset
