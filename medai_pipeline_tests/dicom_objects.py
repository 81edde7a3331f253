"""Small DICOM objects for tests, with an unmistakable marker wherever an identity can stand."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

MARKER = "ZQXMARKER"
UID_MARKER = "1.2.826.0.1.987654321"  # below it lie all original UIDs


def image(rows: int = 40, columns: int = 48, **attributes: object) -> FileDataset:
    """A CT slice without identities, 16 bit signed, a ramp; `attributes` by keyword replace or add."""
    dataset = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=bytes(128))
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    dataset.SOPInstanceUID = f"{UID_MARKER}.1"
    dataset.StudyInstanceUID = f"{UID_MARKER}.2"
    dataset.SeriesInstanceUID = f"{UID_MARKER}.3"
    dataset.FrameOfReferenceUID = f"{UID_MARKER}.4"
    dataset.Modality = "CT"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = rows, columns, 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
    dataset.PixelData = np.arange(rows * columns, dtype="<i2").tobytes()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def planted() -> FileDataset:
    """The same with markers in names, dates, free text, nested and private elements, overlay, file meta and preamble."""
    dataset = image(preamble=MARKER.encode().ljust(128, b"Z"))
    dataset.file_meta.SourceApplicationEntityTitle = MARKER
    dataset.file_meta.PrivateInformationCreatorUID = f"{UID_MARKER}.9"
    dataset.file_meta.PrivateInformation = MARKER.encode() + b"0"
    dataset.SpecificCharacterSet = "ISO_IR 100"
    for keyword in ("PatientName", "ReferringPhysicianName", "OperatorsName", "PhysiciansOfRecord"):
        setattr(dataset, keyword, f"{MARKER}^JANE")
    texts = "PatientID AccessionNumber StudyID InstitutionName StationName DeviceSerialNumber ProtocolName"
    for keyword in texts.split():
        setattr(dataset, keyword, MARKER)
    for keyword in (
        "StudyDescription",
        "SeriesDescription",
        "ImageComments",
        "PatientComments",
        "AdditionalPatientHistory",
    ):
        setattr(dataset, keyword, f"free text about {MARKER}")
    for keyword in ("PatientBirthDate", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        setattr(dataset, keyword, "19770707")
    dataset.EvaluatorName = f"{MARKER}^NOT IN THE TABLE"
    dataset.ReferencedImageSequence = [_reference()]
    dataset.RequestAttributesSequence = [_nested(3)]
    dataset.AnatomicRegionSequence = [_code("T-D3000", "SRT", "Chest")]
    block = dataset.private_block(0x0029, f"{MARKER} CREATOR", create=True)
    block.add_new(0x10, "LO", MARKER)
    block.add_new(0x11, "SQ", [_nested(1)])
    dataset.add_new(0x60000010, "US", 8)
    dataset.add_new(0x60003000, "OW", MARKER.encode() + b"0")
    dataset.add_new(0x50000005, "US", 1)
    dataset.add_new(0x00080001, "UL", 3)
    dataset.add_new(0x00080041, "LO", MARKER)  # Data Set Subtype: retired, and not in the table
    dataset.add_new(0xFFFCFFFC, "OB", MARKER.encode() + b"0")
    return dataset


def _reference() -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    item.ReferencedSOPInstanceUID = f"{UID_MARKER}.1"
    item.PatientName = f"{MARKER}^NESTED"
    return item


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _nested(depth: int) -> Dataset:
    item = Dataset()
    item.PatientID = MARKER
    item.ScheduledProcedureStepDescription = MARKER
    item.PerformedProcedureStepStartDate = "19770707"
    if depth:
        item.SourceImageSequence = [_reference()]
        item.PurposeOfReferenceCodeSequence = [_nested(depth - 1)]
    return item


def written(dataset: Dataset) -> bytes:
    """The data set as a file's bytes, in the transfer syntax of its file meta information."""
    file = BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()
