"""Modality modules of phantom images (PS3.3 A.26 DX, A.3 CT, A.4 MR): what an object needs beside pixels and identity."""

from __future__ import annotations

import pydicom.uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

# Study and series description before the planted name, by kind.
WORDS = {
    "chest-xray": ("Chest two views", "Chest"),
    "chest-ct": ("CT chest", "Axial 5.0"),
    "brain-mr": ("MR brain", "Axial T2"),
}


def _code(value: str, meaning: str, scheme: str = "SCT") -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _common(modality: str, sop_class: str, body_part: str) -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = pydicom.uid.UID(sop_class)
    ds.Modality, ds.BodyPartExamined = modality, body_part
    ds.Manufacturer, ds.ManufacturerModelName, ds.SoftwareVersions = "medai_pipeline", "Phantom", "1"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.PixelRepresentation = 16, 0
    ds.LossyImageCompression = "00"
    ds.AcquisitionNumber = 1
    return ds


def film(view: str, spacing_mm: float, monochrome1: bool) -> Dataset:
    """A DX image for presentation, 12 bits stored."""
    ds = _common("DX", pydicom.uid.DigitalXRayImageStorageForPresentation, "CHEST")
    ds.ImageType = ["ORIGINAL", "PRIMARY", ""]
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.PhotometricInterpretation = "MONOCHROME1" if monochrome1 else "MONOCHROME2"
    ds.PresentationLUTShape = "INVERSE" if monochrome1 else "IDENTITY"
    ds.BitsStored, ds.HighBit = 12, 11
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", 1 if monochrome1 else -1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
    ds.WindowCenter, ds.WindowWidth = "2048", "4096"
    ds.ImagerPixelSpacing = [round(spacing_mm, 4)] * 2
    ds.PixelSpacing = [round(spacing_mm, 4)] * 2
    ds.PixelSpacingCalibrationType, ds.PixelSpacingCalibrationDescription = "GEOMETRY", "phantom"
    ds.DetectorType, ds.DetectorConfiguration = "DIRECT", "AREA"
    ds.ImageLaterality = "U"
    ds.AnatomicRegionSequence = Items([_code("51185008", "Chest")])
    frontal = view == "PA"
    ds.ViewPosition = "PA" if frontal else "LL"
    ds.PatientOrientation = ["L", "F"] if frontal else ["P", "F"]
    ds.ViewCodeSequence = Items(
        [_code("399348003", "postero-anterior") if frontal else _code("399173006", "left lateral")]
    )
    ds["ViewCodeSequence"].value[0].ViewModifierCodeSequence = Items([])
    ds.PositionerType = ""
    ds.AcquisitionContextSequence = Items([])
    ds.KVP = "120"
    return ds


def _plane(ds: Dataset, frame: int, spacing_mm: tuple[float, float, float], shape: tuple[int, int], down: bool) -> None:
    """Axial plane of a patient on the back, head first (PS3.3 C.7.6.2): x to the left, y to the back, z to the head."""
    between, row, column = spacing_mm
    ds.PatientPosition = "HFS"
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    height = (200 - frame * between) if down else (-60 + frame * between)
    corner = [-column * (shape[1] - 1) / 2, -row * (shape[0] - 1) / 2, height]
    ds.ImagePositionPatient = [round(value, 4) for value in corner]
    ds.SliceLocation = round(height, 4)
    ds.PixelSpacing = [round(row, 5), round(column, 5)]
    ds.SliceThickness = round(min(between, 5.0), 3)
    ds.SpacingBetweenSlices = round(between, 4)


def ct(
    frame: int, spacing_mm: tuple[float, float, float], shape: tuple[int, int], intercept: int, signed: bool
) -> Dataset:
    """An axial CT image, 16 bits, Hounsfield units by Rescale Slope and Intercept."""
    ds = _common("CT", pydicom.uid.CTImageStorage, "CHEST")
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 15, int(signed)
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = str(intercept), "1", "HU"
    ds.WindowCenter, ds.WindowWidth = ["-600", "40"], ["1500", "400"]
    ds.KVP, ds.ConvolutionKernel, ds.GantryDetectorTilt = "120", "STANDARD", "0"
    _plane(ds, frame, spacing_mm, shape, down=True)
    del ds.SpacingBetweenSlices
    return ds


def mr(
    frame: int, spacing_mm: tuple[float, float, float], shape: tuple[int, int], flair: bool, brightest: int
) -> Dataset:
    """An axial MR image, T2 weighted or FLAIR, 12 bits stored."""
    ds = _common("MR", pydicom.uid.MRImageStorage, "BRAIN")
    ds.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    ds.BitsStored, ds.HighBit = 12, 11
    ds.ScanningSequence = ["SE", "IR"] if flair else "SE"
    ds.SequenceVariant, ds.ScanOptions, ds.MRAcquisitionType = "SK", "", "2D"
    ds.RepetitionTime, ds.EchoTime, ds.EchoTrainLength = ("9000", "120", "20") if flair else ("5200", "98", "16")
    if flair:
        ds.InversionTime = "2500"
    ds.MagneticFieldStrength, ds.ProtocolName = "1.5", "FLAIR" if flair else "T2 TSE"
    ds.WindowCenter, ds.WindowWidth = str(max(1, brightest // 2)), str(max(2, brightest))
    _plane(ds, frame, spacing_mm, shape, down=False)
    return ds
