"""The last step of every DICOM result: identity, times and file meta information, and the object as a file's bytes.

The person's values are written as the vault has them, valid or not: what the PACS has accepted it must get back unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO

from pydicom import config, dcmwrite
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from medai_pipeline import __version__
from medai_pipeline.dicom.deidentify import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from medai_pipeline.dicom.own import MANUFACTURER, TITLES, series_description
from medai_pipeline.records import Identity
from medai_pipeline.results.evidence import Evidence, Kind, Reference, short

_IDENTITY = {
    "PatientName": "patient_name",
    "PatientID": "patient_id",
    "PatientBirthDate": "birth_date",
    "PatientSex": "sex",
    "StudyInstanceUID": "study_instance_uid",
    "StudyDate": "study_date",
    "StudyTime": "study_time",
    "AccessionNumber": "accession_number",
    "StudyID": "study_id",
    "ReferringPhysicianName": "referring_physician",
}
# above what modalities use, so that our series stand last in a viewer
SERIES_NUMBERS = {kind: 9001 + place for place, kind in enumerate(Kind)}
_TITLES = dict(zip(Kind, TITLES, strict=True))


@dataclass(frozen=True, slots=True)
class DicomResult:
    """One object to be returned: a whole DICOM file, which holds an identity and is not for showing."""

    kind: Kind
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    data: bytes = field(repr=False)

    @property
    def reference(self) -> Reference:
        return Reference(self.sop_class_uid, self.sop_instance_uid, self.series_instance_uid)


def finished(made: Dataset, kind: Kind, evidence: Evidence) -> DicomResult:
    """The object as it goes out, the same bytes for the same evidence."""
    _say_what_it_is(made, kind, evidence)
    _stamp(made, evidence.origin.identity)
    made.file_meta = _meta(made)
    made.preamble = bytes(128)
    file = BytesIO()
    dcmwrite(file, made, enforce_file_format=True)
    return DicomResult(kind, made.SOPClassUID, made.SOPInstanceUID, made.SeriesInstanceUID, file.getvalue())


def _say_what_it_is(made: Dataset, kind: Kind, evidence: Evidence) -> None:
    made.SpecificCharacterSet = "ISO_IR 192"
    made.SeriesDescription = series_description(_TITLES[kind], evidence.content["revision"])
    made.Manufacturer, made.ManufacturerModelName = MANUFACTURER, short(evidence.model["name"])
    made.SoftwareVersions = [__version__, short(evidence.model["version"])]
    day, time = evidence.at.strftime("%Y%m%d"), evidence.at.strftime("%H%M%S")
    for keyword in ("InstanceCreation", "Series", "Content"):
        setattr(made, f"{keyword}Date", day)
        setattr(made, f"{keyword}Time", time)
    if "DateOfSecondaryCapture" in made:
        made.DateOfSecondaryCapture, made.TimeOfSecondaryCapture = day, time
    if "BodyPartExamined" not in made and evidence.content["body_part"] and "Rows" in made:
        made.BodyPartExamined = evidence.content["body_part"]
    for equipment in made.get("ContributingEquipmentSequence") or []:
        equipment.ContributionDateTime = day + time
    organization = evidence.uid(kind, made.SOPInstanceUID, "dimensions")
    for item in _dimensions(made):
        item.DimensionOrganizationUID = organization


def _dimensions(made: Dataset) -> Iterator[Dataset]:
    for keyword in ("DimensionOrganizationSequence", "DimensionIndexSequence"):
        yield from made.get(keyword) or []


def _stamp(made: Dataset, identity: Identity) -> None:
    for keyword, name in _IDENTITY.items():
        tag = tag_for_keyword(keyword)
        assert tag is not None
        # what a file's character set did not explain is kept as surrogates: no character set can write them
        value = getattr(identity, name).encode("utf-8", "replace").decode("utf-8")
        made[tag] = DataElement(tag, dictionary_VR(tag), value, validation_mode=config.IGNORE)


def _meta(made: Dataset) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = made.SOPClassUID, made.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID, meta.ImplementationVersionName = UID(IMPLEMENTATION_CLASS_UID), IMPLEMENTATION_VERSION
    return meta
