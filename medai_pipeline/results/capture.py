"""The overlay as Secondary Capture: what any viewer shows. The picture has its words, "Research use only" among them."""

from __future__ import annotations

import cv2
import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from medai_pipeline.errors import ModelError
from medai_pipeline.results.evidence import Drawn, Evidence, Kind
from medai_pipeline.results.header import header
from medai_pipeline.results.written import MANUFACTURER, SERIES_NUMBERS, DicomResult, finished


def captures(evidence: Evidence) -> list[DicomResult]:
    """One object for each picture with heat in it."""
    shown = [drawn for drawn in evidence.drawn if drawn.is_evidence]
    return [_capture(evidence, drawn, number) for number, drawn in enumerate(shown, 1)]


def _capture(evidence: Evidence, drawn: Drawn, number: int) -> DicomResult:
    source = header(evidence, drawn.heatmap)
    made = hd.sc.SCImage.from_ref_dataset(
        source,
        pixel_array=_pixels(drawn.overlay),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        series_instance_uid=evidence.uid(Kind.CAPTURE, "series"),
        series_number=SERIES_NUMBERS[Kind.CAPTURE],
        sop_instance_uid=evidence.uid(Kind.CAPTURE, number),
        instance_number=number,
        manufacturer=MANUFACTURER,
        patient_orientation=("L", "F"),  # the constructor wants some: what is known stands below
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    made.PatientOrientation = _orientation(drawn)
    made.ConversionType = "WSD"
    # C.7.6.1.1.2: whether it tells the patient and the date: its words are the finding, the image's number, the disclaimer
    made.BurnedInAnnotation = "NO"
    made.DerivationDescription = f"{drawn.heatmap.method} over the image, {drawn.heatmap.label}; research use only"
    made.SourceImageSequence = [_source(source, drawn)]
    return finished(made, Kind.CAPTURE, evidence)


def _pixels(png: bytes) -> np.ndarray:
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise ModelError("an overlay picture cannot be read; compute the heatmaps again")
    return np.ascontiguousarray(picture[..., ::-1])


def _orientation(drawn: Drawn) -> list[str]:
    """Where rows and columns go to (C.7.6.1.1.1): what lies at the picture's right and bottom; empty if unknown."""
    edges = drawn.heatmap.place.edges if drawn.heatmap.place else ()
    return [edges[1], edges[3]] if len(edges) == 4 and set(edges) <= set("LRAPHF") else []


def _source(source: Dataset, drawn: Drawn) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    if int(source.get("NumberOfFrames") or 1) > 1:
        item.ReferencedFrameNumber = drawn.heatmap.item.frame
    return item
