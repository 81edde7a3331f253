"""Objects that phantoms do not make: structured report, presentation state, structure set, enhanced MR, capture, PDF.

Each is as small as its identities allow; those who plant into any dataset (`plants`) come on top.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from deid_score.people import Who
from deid_score.plants import ELSEWHERE, code, item
from medai_pipeline.phantoms.identity import burn
from medai_pipeline.phantoms.identity import uid as phantom_uid


def shell(like: Dataset, sop_class: str, modality: str, name: str) -> Dataset:
    """A new object in the study of `like`."""
    ds = item(SOPClassUID=uid.UID(sop_class), Modality=modality, StudyInstanceUID=like.StudyInstanceUID)
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SeriesInstanceUID = phantom_uid(77, str(like.StudyInstanceUID), name, "series")
    ds.SOPInstanceUID = phantom_uid(77, str(like.StudyInstanceUID), name)
    ds.SeriesNumber, ds.InstanceNumber, ds.Manufacturer = 9, 1, "medai_pipeline"
    return ds


def _references(targets: Sequence[Dataset]) -> Items:
    found = [item(ReferencedSOPClassUID=t.SOPClassUID, ReferencedSOPInstanceUID=t.SOPInstanceUID) for t in targets]
    series = item(SeriesInstanceUID=targets[0].SeriesInstanceUID, ReferencedSOPSequence=Items(found))
    return Items([item(StudyInstanceUID=targets[0].StudyInstanceUID, ReferencedSeriesSequence=Items([series]))])


def _content(kind: str, concept: tuple[str, str, str], **values: object) -> Dataset:
    return item(RelationshipType="CONTAINS", ValueType=kind, ConceptNameCodeSequence=Items([code(*concept)]), **values)


def report(targets: Sequence[Dataset], who: Who) -> Dataset:
    """A Comprehensive SR: every value type, identities among findings (PS3.3 A.35.3)."""
    ds = shell(targets[0], uid.ComprehensiveSRStorage, "SR", "report")
    ds.ValueType, ds.ContinuityOfContent = "CONTAINER", "SEPARATE"
    ds.CompletionFlag, ds.VerificationFlag = "COMPLETE", "VERIFIED"
    ds.ConceptNameCodeSequence = Items([code("18748-4", "LN", "Diagnostic imaging report")])
    ds.CurrentRequestedProcedureEvidenceSequence = _references(targets)
    ds.ReferencedPerformedProcedureStepSequence = Items([])
    ds.PerformedProcedureCodeSequence = Items([])
    ds.VerifyingObserverSequence = Items([
        item(VerifyingOrganization=who.hospital, VerificationDateTime=f"{who.day()}150000",
             VerifyingObserverName=who.physician, VerifyingObserverIdentificationCodeSequence=Items([]))
    ])  # fmt: skip
    image = item(ReferencedSOPClassUID=targets[0].SOPClassUID, ReferencedSOPInstanceUID=targets[0].SOPInstanceUID)
    size = item(NumericValue="12.5", MeasurementUnitsCodeSequence=Items([code("mm", "UCUM", "millimeter")]))
    diameter = _content("NUM", ("410668003", "SCT", "Length"), MeasuredValueSequence=Items([size]))
    diameter.ContentSequence = Items([
        item(RelationshipType="INFERRED FROM", ValueType="IMAGE", ReferencedSOPSequence=Items([image]),
             ConceptNameCodeSequence=Items([code("121112", "DCM", "Source of Measurement")]))
    ])  # fmt: skip
    finding = _content("CODE", ("363698007", "SCT", "Finding Site"))
    finding.ConceptCodeSequence = Items([code("39607008", "SCT", "Lung")])
    ds.ContentSequence = Items([
        _content("PNAME", ("121008", "DCM", "Person Observer Name"), PersonName=who.physician),
        _content("UIDREF", ("121012", "DCM", "Device Observer UID"), UID=f"{ELSEWHERE}.1.9"),
        _content("TEXT", ("121013", "DCM", "Device Observer Name"), TextValue=who.station),
        _content("TEXT", ("121029", "DCM", "Subject Name"), TextValue=f"{who.given} {who.family}"),
        _content("TEXT", ("121030", "DCM", "Subject ID"), TextValue=who.patient_id),
        _content("DATETIME", ("111526", "DCM", "DateTime Started"), DateTime=f"{who.day()}101000"),
        _content("TEXT", ("121106", "DCM", "Comment"), TextValue=who.text(
            f"Nodule unchanged. Dictated by {who.physician.split('^')[1]}, {who.day('%m/%d/%Y')}", "Nodule", "unchanged")),
        _content("TEXT", ("121077", "DCM", "Conclusion"), TextValue=who.text("No acute disease", "No", "acute", "disease")),
        finding, diameter,
    ])  # fmt: skip
    return ds


def presentation_state(targets: Sequence[Dataset], who: Who) -> Dataset:
    """A Grayscale Softcopy Presentation State with names in its annotations (PS3.3 A.33.1)."""
    ds = shell(targets[0], uid.GrayscaleSoftcopyPresentationStateStorage, "PR", "state")
    ds.ContentLabel, ds.ContentDescription = "REVIEW", f"review by {who.operator.split('^')[0]}"
    ds.ContentCreatorName = who.operator
    ds.PresentationCreationDate, ds.PresentationCreationTime = who.day(), "151500"
    evidence = _references(targets)[0].ReferencedSeriesSequence[0]
    series = item(SeriesInstanceUID=evidence.SeriesInstanceUID, ReferencedImageSequence=evidence.ReferencedSOPSequence)
    ds.ReferencedSeriesSequence = Items([series])
    text = item(UnformattedTextValue=f"{who.family} nodule", AnchorPoint=[10.0, 10.0], AnchorPointAnnotationUnits="PIXEL",
                AnchorPointVisibility="N")  # fmt: skip
    circle = item(GraphicAnnotationUnits="PIXEL", GraphicDimensions=2, NumberOfGraphicPoints=2, GraphicType="CIRCLE",
                  GraphicData=[20.0, 20.0, 24.0, 20.0], GraphicFilled="N")  # fmt: skip
    note = item(GraphicLayer="NOTES", TextObjectSequence=Items([text]), GraphicObjectSequence=Items([circle]))
    ds.GraphicAnnotationSequence = Items([note])
    ds.GraphicLayerSequence = Items([item(GraphicLayer="NOTES", GraphicLayerOrder=1)])
    area = item(
        DisplayedAreaTopLeftHandCorner=[1, 1],
        DisplayedAreaBottomRightHandCorner=[64, 64],
        PresentationSizeMode="SCALE TO FIT",
    )
    ds.DisplayedAreaSelectionSequence = Items([area])
    ds.PresentationLUTShape = "IDENTITY"
    return ds


def structure_set(targets: Sequence[Dataset], who: Who) -> Dataset:
    """An RT Structure Set: UIDs five levels deep, names in ROIs (PS3.3 A.19)."""
    ds = shell(targets[0], uid.RTStructureSetStorage, "RTSTRUCT", "structures")
    ds.StructureSetLabel, ds.StructureSetName = who.text("PLAN A", "PLAN"), f"plan {who.family}"
    ds.StructureSetDate, ds.StructureSetTime = who.day(), "160000"
    images = Items(
        [item(ReferencedSOPClassUID=t.SOPClassUID, ReferencedSOPInstanceUID=t.SOPInstanceUID) for t in targets]
    )
    series = item(SeriesInstanceUID=targets[0].SeriesInstanceUID, ContourImageSequence=images)
    study = item(ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1", ReferencedSOPInstanceUID=targets[0].StudyInstanceUID)
    study.RTReferencedSeriesSequence = Items([series])
    frame = item(FrameOfReferenceUID=targets[0].FrameOfReferenceUID, RTReferencedStudySequence=Items([study]))
    ds.ReferencedFrameOfReferenceSequence = Items([frame])
    roi = item(ROINumber=1, ReferencedFrameOfReferenceUID=targets[0].FrameOfReferenceUID, ROIName=f"GTV {who.given}")
    roi.ROIGenerationAlgorithm, roi.ROIDescription = "MANUAL", f"drawn by {who.operator.split('^')[0]}"
    ds.StructureSetROISequence = Items([roi])
    contour = item(ContourGeometricType="POINT", NumberOfContourPoints=1, ContourData=[1.5, 2.5, 3.5])
    contour.ContourImageSequence = Items([images[0]])
    ds.ROIContourSequence = Items(
        [item(ReferencedROINumber=1, ROIDisplayColor=[255, 0, 0], ContourSequence=Items([contour]))]
    )
    seen = item(ObservationNumber=1, ReferencedROINumber=1, RTROIInterpretedType="GTV", ROIInterpreter=who.operator)
    ds.RTROIObservationsSequence = Items([seen])
    return ds


def enhanced(like: Dataset, who: Who) -> Dataset:
    """An Enhanced MR image of two frames: dates, references and comments in its functional groups (PS3.3 C.7.6.16)."""
    ds = shell(like, uid.EnhancedMRImageStorage, "MR", "enhanced")
    ds.ImageType = ["ORIGINAL", "PRIMARY", "OTHER", "NONE"]
    ds.ManufacturerModelName, ds.SoftwareVersions, ds.BodyPartExamined = "Phantom", "1", "BRAIN"
    ds.FrameOfReferenceUID, ds.NumberOfFrames, ds.Rows, ds.Columns = like.FrameOfReferenceUID, 2, 32, 32
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.PixelData = np.random.default_rng(5).integers(0, 4096, (2, 32, 32), dtype=np.uint16).tobytes()
    ds["PixelData"].VR = "OW"
    organization = f"{ELSEWHERE}.5.1"
    ds.DimensionOrganizationSequence = Items([item(DimensionOrganizationUID=organization)])
    ds.DimensionIndexSequence = Items([
        item(DimensionOrganizationUID=organization, DimensionIndexPointer=0x00209057, FunctionalGroupPointer=0x00209111)
    ])  # fmt: skip
    ds.SharedFunctionalGroupsSequence = Items([
        item(PixelMeasuresSequence=Items([item(PixelSpacing=[0.9, 0.9], SliceThickness="4.0")]))
    ])  # fmt: skip
    ds.PerFrameFunctionalGroupsSequence = Items([_frame(number, like, who) for number in (1, 2)])
    return ds


def _frame(number: int, like: Dataset, who: Who) -> Dataset:
    moment = item(FrameAcquisitionDateTime=f"{who.day()}1020{number:02d}.125", DimensionIndexValues=[number])
    moment.FrameReferenceDateTime, moment.StackID = f"{who.day()}1021{number:02d}", "1"
    moment.InStackPositionNumber, moment.FrameAcquisitionDuration = number, 2.5
    moment.FrameComments = who.text(f"swallowed during frame, {who.given}", "frame")
    reference = item(ReferencedSOPClassUID=like.SOPClassUID, ReferencedSOPInstanceUID=like.SOPInstanceUID)
    reference.PurposeOfReferenceCodeSequence = Items([code("121311", "DCM", "Localizer")])
    group = item(FrameContentSequence=Items([moment]), ReferencedImageSequence=Items([reference]))
    held = group.private_block(0x2005, "Philips MR Imaging DD 005", create=True)
    held.add_new(0x0F, "SQ", Items([item(AcquisitionTime="102030", OperatorsName=who.operator, FlipAngle="90")]))
    group.PlanePositionSequence = Items([item(ImagePositionPatient=[0.0, 0.0, 4.0 * number])])
    return group


def segmentation(like: Dataset, who: Who) -> Dataset:
    """A Segmentation of one frame, with names in its labels (PS3.3 A.51)."""
    ds = shell(like, uid.SegmentationStorage, "SEG", "segments")
    ds.ImageType, ds.SegmentationType = ["DERIVED", "PRIMARY"], "BINARY"
    ds.ContentLabel, ds.ContentDescription = "LESION", f"segmented by {who.operator.split('^')[0]}"
    ds.ContentCreatorName = who.operator
    ds.FrameOfReferenceUID, ds.NumberOfFrames, ds.Rows, ds.Columns = like.FrameOfReferenceUID, 1, 16, 16
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.LossyImageCompression = 1, 1, 0, "00"
    segment = item(SegmentNumber=1, SegmentLabel=f"lesion {who.family}", SegmentAlgorithmType="MANUAL")
    segment.SegmentDescription = f"of {who.given}, {who.day('%d.%m.%y')}"
    segment.TrackingID, segment.TrackingUID = f"{who.patient_id}-L1", f"{ELSEWHERE}.7.1"
    segment.SegmentedPropertyTypeCodeSequence = Items([code("52988006", "SCT", "Lesion")])
    ds.SegmentSequence = Items([segment])
    source = item(ReferencedSOPClassUID=like.SOPClassUID, ReferencedSOPInstanceUID=like.SOPInstanceUID)
    derived = item(
        SourceImageSequence=Items([source]), DerivationCodeSequence=Items([code("113076", "DCM", "Segmentation")])
    )
    ds.PerFrameFunctionalGroupsSequence = Items([item(DerivationImageSequence=Items([derived]))])
    ds.PixelData = bytes(range(32))
    ds["PixelData"].VR = "OB"
    return ds


def capture(like: Dataset, who: Who) -> tuple[Dataset, np.ndarray]:
    """An ultrasound-like RGB image with name, ID and date burned in; and the mask of the ink (rows, columns)."""
    ds = shell(like, uid.SecondaryCaptureImageStorage, "US", "capture")
    ds.ImageType, ds.ConversionType, ds.BurnedInAnnotation = ["DERIVED", "PRIMARY"], "WSD", "YES"
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PlanarConfiguration = 360, 480, 3, 0
    ds.PhotometricInterpretation, ds.PixelRepresentation = "RGB", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    rng = np.random.default_rng(6)
    row, column = np.mgrid[:360, :480]
    fan = (np.hypot(row - 40, column - 240) < 290) & (np.abs(column - 240) < (row - 40) * 0.9) & (row > 90)
    grey = np.where(fan, rng.integers(20, 130, (360, 480)), 4).astype(np.uint8)
    ink = np.zeros((360, 480), np.uint16)
    burn(ink, (f"{who.family}, {who.given}", who.patient_id, who.day("%d/%m/%Y")), 1)
    grey[ink > 0] = 235
    ds.PixelData = np.repeat(grey[..., None], 3, axis=2).tobytes()
    ds["PixelData"].VR = "OB"
    return ds, ink > 0


def document(like: Dataset, who: Who) -> Dataset:
    """An Encapsulated PDF that names the patient on its page (PS3.3 A.45.1)."""
    ds = shell(like, uid.EncapsulatedPDFStorage, "DOC", "document")
    ds.ConversionType, ds.BurnedInAnnotation, ds.MIMETypeOfEncapsulatedDocument = "WSD", "YES", "application/pdf"
    ds.DocumentTitle, ds.ConceptNameCodeSequence = f"Report on {who.given} {who.family}", Items([])
    page = f"%PDF-1.1\n1 0 obj<</Title({who.family} {who.given} {who.patient_id})>>endobj\ntrailer<</Info 1 0 R>>\n%%EOF\n".encode()
    ds.EncapsulatedDocument = page + b"\0" * (len(page) & 1)
    ds.EncapsulatedDocumentLength = len(page)
    return ds
