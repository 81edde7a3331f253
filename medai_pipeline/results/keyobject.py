"""Key Object Selections (PS3.3 A.35.4): the images that show what was found, and earlier results that no longer count."""

from __future__ import annotations

from collections.abc import Sequence

from highdicom import ko, sr
from pydicom.dataset import Dataset

from medai_pipeline.results import concepts
from medai_pipeline.results.evidence import Evidence, Kind, Reference
from medai_pipeline.results.header import named, reference
from medai_pipeline.results.sr import reviewed
from medai_pipeline.results.written import MANUFACTURER, SERIES_NUMBERS, DicomResult, finished

_DOCUMENTS = "1.2.840.10008.5.1.4.1.1.88."  # SR and Key Object Selection storage classes


def key_objects(evidence: Evidence) -> list[DicomResult]:
    """The key images of present findings, as one document; none where nothing is present."""
    uids = dict.fromkeys(uid for row in evidence.present for uid in row["images"])
    if not uids:
        return []
    named = ", ".join(row["label"] for row in evidence.present)
    if evidence.review:
        words = f"Images that show best what was found ({named}). Research use only. {reviewed(evidence)}"
    else:
        words = f"Images that show best what the model found ({named}). Research use only, not verified by a person."
    images = [reference(evidence, evidence.instance[uid]) for uid in uids]
    return [_document(evidence, Kind.KEY_OBJECTS, concepts.OF_INTEREST, images, words)]


def superseded(evidence: Evidence) -> list[DicomResult]:
    """Earlier results taken back, as IHE Imaging Object Change Management does it; none where there are none."""
    words = (
        f"Superseded by revision {evidence.content['revision']} of the AI result ({evidence.model['name']} "
        f"{evidence.model['version']}): these objects no longer count."
    )
    return _taken_back(evidence, words)


def withdrawn(evidence: Evidence) -> list[DicomResult]:
    """Earlier results taken back without anything in their place: a person has rejected them, or no model covers the study."""
    why = reviewed(evidence) if evidence.review else "No model covers the study any more."
    return _taken_back(evidence, f"The AI result was withdrawn: these objects no longer count. {why}")


def _taken_back(evidence: Evidence, words: str) -> list[DicomResult]:
    if not evidence.previous:
        return []
    objects = [_earlier(evidence, one) for one in evidence.previous]
    return [_document(evidence, Kind.SUPERSEDED, concepts.REJECTED, objects, words)]


def _earlier(evidence: Evidence, one: Reference) -> Dataset:
    """An earlier object to be referred to: as an image, by having rows, unless it is a document."""
    made = named(evidence, one.sop_class_uid, one.sop_instance_uid, one.series_instance_uid)
    if not one.sop_class_uid.startswith(_DOCUMENTS):
        made.Rows = made.Columns = 1
    return made


def _document(
    evidence: Evidence, kind: Kind, title: sr.CodedConcept, objects: Sequence[Dataset], words: str
) -> DicomResult:
    content = ko.KeyObjectSelection(document_title=title, referenced_objects=objects, description=words)
    if title == concepts.REJECTED:  # TID 2010 wants a reason (CID 7011) for this title
        content[0].ContentSequence.insert(0, _reason())
    made = ko.KeyObjectSelectionDocument(
        evidence=objects,
        content=content,
        series_instance_uid=evidence.uid(kind, "series"),
        series_number=SERIES_NUMBERS[kind],
        sop_instance_uid=evidence.uid(kind, 1),
        instance_number=1,
        manufacturer=MANUFACTURER,
    )
    return finished(made, kind, evidence)


def _reason() -> sr.CodeContentItem:
    return sr.CodeContentItem(concepts.TITLE_MODIFIER, concepts.OTHER_FAILURE, relationship_type="HAS CONCEPT MOD")
