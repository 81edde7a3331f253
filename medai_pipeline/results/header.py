"""Data sets that stand for source images: what a result copies from them and refers to, under the original UIDs.

No pixels, and by allow-list nothing of the person: those values are written last, by `written`, as the vault has them.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, SecondaryCaptureImageStorage

from medai_pipeline.records import Heatmap, Instance
from medai_pipeline.results.evidence import Evidence

_KEPT = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PositionReferenceIndicator", "Modality",
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored",
    "ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "ImagerPixelSpacing", "SliceThickness",
    "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod", "BodyPartExamined",
    "PatientOrientation",
)  # fmt: skip
_SAME_DIRECTION = 2e-3
_UIDS = ("SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
# of the patient and study modules (PS3.3 C.7.1.1, C.7.2.1): empty until `written` puts the person's values in
_EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber",
    "StudyID", "ReferringPhysicianName",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """Where an image lies in the patient (PS3.3 C.7.6.2.1.1): direction cosines (6,), first pixel's centre (3,), mm."""

    orientation: np.ndarray
    position_mm: np.ndarray
    spacing_mm: tuple[float, float]
    thickness_mm: float

    @property
    def _steps(self) -> tuple[np.ndarray, np.ndarray]:
        """From one column, and from one row, to the next."""
        return self.orientation[:3] * self.spacing_mm[1], self.orientation[3:] * self.spacing_mm[0]

    def polygon(self, box: tuple[int, int, int, int]) -> np.ndarray:
        """A box (x0, y0, x1, y1) of pixel edges as a closed polygon: (5, 3) in mm (equation C.7.6.2.1-1)."""
        across, down = self._steps
        x0, y0, x1, y1 = (value - 0.5 for value in box)
        corners = ((x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0))
        return np.array([self.position_mm + x * across + y * down for x, y in corners])

    def coarser(self, rows: float, columns: float) -> Plane:
        """The same field in pixels that are `rows` and `columns` times as large."""
        across, down = self._steps
        first = self.position_mm + across * (columns - 1) / 2 + down * (rows - 1) / 2
        spacing = (self.spacing_mm[0] * rows, self.spacing_mm[1] * columns)
        return Plane(self.orientation, first, spacing, self.thickness_mm)


def reference(evidence: Evidence, instance: Instance) -> Dataset:
    """Just enough to refer to an image: study, series, SOP class and instance."""
    made = named(
        evidence,
        instance.sop_class_uid,
        evidence.original(instance.sop_instance_uid),
        evidence.original(instance.series_instance_uid),
    )
    made.Modality, made.Rows, made.Columns = instance.modality, instance.rows, instance.columns
    if instance.frames > 1:
        made.NumberOfFrames = instance.frames
    return made


def named(evidence: Evidence, sop_class_uid: str, sop_instance_uid: str, series_instance_uid: str) -> Dataset:
    """The least that stands for an object of this study."""
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID, made.SeriesInstanceUID = sop_class_uid, sop_instance_uid, series_instance_uid
    made.StudyInstanceUID = evidence.origin.identity.study_instance_uid
    for keyword in _EMPTY:
        setattr(made, keyword, None)
    return made


def header(evidence: Evidence, heatmap: Heatmap) -> Dataset:
    """The heatmap's image under the original UIDs, without what is not needed."""
    source = evidence.headers[heatmap.item.sop_instance_uid]
    made = named(evidence, "", "", "")
    for keyword in _KEPT:
        if keyword in source and source[keyword].value not in (None, ""):
            made[keyword] = copy.deepcopy(source[keyword])
    for keyword in _UIDS:
        if keyword in made:
            setattr(made, keyword, evidence.original(str(made.get(keyword))))
    if "BodyPartExamined" not in made and evidence.content["body_part"]:
        made.BodyPartExamined = evidence.content["body_part"]
    return made


def frame_header(evidence: Evidence, heatmap: Heatmap, plane: Plane | None) -> Dataset:
    """The one frame as if it were an image of its own, in `plane` (None: without a frame of reference).

    It has a SOP Instance UID of its own here, so that frames of one object can be told apart, and the SOP Class of an
    image that has so much geometry; `refer_to_sources` puts the object's own and the frame's number in their place.
    """
    made = header(evidence, heatmap)
    made.SOPInstanceUID = _stand_in(evidence, heatmap)
    made.SOPClassUID = SecondaryCaptureImageStorage if plane is None else CTImageStorage
    for keyword in ("NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient"):
        if keyword in made:
            delattr(made, keyword)
    if plane is None:
        if "FrameOfReferenceUID" in made:
            del made.FrameOfReferenceUID
        return made
    made.ImageOrientationPatient, made.ImagePositionPatient = _decimals(plane.orientation), _decimals(plane.position_mm)
    made.PixelSpacing, made.SliceThickness = _decimals(plane.spacing_mm), _decimals([plane.thickness_mm])[0]
    made.PositionReferenceIndicator = made.get("PositionReferenceIndicator")
    return made


def refer_to_sources(made: Dataset, evidence: Evidence, heatmaps: list[Heatmap]) -> None:
    """Replaces what stands for single frames in all references of a result."""
    frames = {_stand_in(evidence, found): found.item for found in heatmaps}
    for item in (item for element in made.iterall() if element.VR == "SQ" for item in element.value):
        if item.get("ReferencedSOPInstanceUID") in frames:
            place = frames[item.ReferencedSOPInstanceUID]
            image = evidence.instance[place.sop_instance_uid]
            item.ReferencedSOPClassUID = image.sop_class_uid
            item.ReferencedSOPInstanceUID = evidence.original(place.sop_instance_uid)
            if image.frames > 1:
                item.ReferencedFrameNumber = place.frame
    for series in made.get("ReferencedSeriesSequence") or []:  # Common Instance Reference: objects, each once
        once = {item.ReferencedSOPInstanceUID: item for item in series.ReferencedInstanceSequence}
        series.ReferencedInstanceSequence = list(once.values())
        for item in once.values():
            if "ReferencedFrameNumber" in item:
                del item.ReferencedFrameNumber


def _stand_in(evidence: Evidence, heatmap: Heatmap) -> str:
    return evidence.uid("frame", heatmap.item.sop_instance_uid, heatmap.item.frame)


def _decimals(values: object) -> list[float]:
    """Fit for DS, which has 16 characters."""
    return [round(float(value), 6) for value in values]  # type: ignore[attr-defined]


def plane_of(evidence: Evidence, heatmap: Heatmap) -> Plane | None:
    """Where the heatmap's image or frame lies; None without a frame of reference, and for films."""
    source = evidence.headers[heatmap.item.sop_instance_uid]
    if not source.get("FrameOfReferenceUID"):
        return None
    image = evidence.instance[heatmap.item.sop_instance_uid]
    return _plane_of_frame(source, heatmap.item.frame) if image.frames > 1 else plane_of_instance(image)


def plane_of_instance(instance: Instance) -> Plane | None:
    """By the instance table; None for objects of many frames, films and what has no geometry."""
    if instance.frames > 1 or not (instance.orientation and instance.position_mm and instance.spacing_mm):
        return None
    orientation, position = np.array(instance.orientation, float), np.array(instance.position_mm, float)
    return _plane(orientation, position, instance.spacing_mm, instance.slice_thickness_mm)


def _plane_of_frame(image: Dataset, frame: int) -> Plane | None:
    """By the functional groups of an enhanced object (C.7.6.16): the frame's own, else the shared ones."""
    groups = [*(image.get("PerFrameFunctionalGroupsSequence") or [])[frame - 1 : frame]]
    groups += (image.get("SharedFunctionalGroupsSequence") or [])[:1]
    orientation = _numbers(groups, "PlaneOrientationSequence", "ImageOrientationPatient", 6)
    position = _numbers(groups, "PlanePositionSequence", "ImagePositionPatient", 3)
    spacing = _numbers(groups, "PixelMeasuresSequence", "PixelSpacing", 2)
    thickness = _numbers(groups, "PixelMeasuresSequence", "SliceThickness", 1)
    if orientation is None or position is None or spacing is None:
        return None
    size = (float(spacing[0]), float(spacing[1]))
    return _plane(orientation, position, size, None if thickness is None else float(thickness[0]))


def _plane(
    orientation: np.ndarray, position_mm: np.ndarray, spacing_mm: tuple[float, float], thickness_mm: float | None
) -> Plane | None:
    """None where the directions are no unit vectors at right angles: a place computed from them would be wrong."""
    rows, columns = orientation[:3], orientation[3:]
    products = np.array([rows @ rows, columns @ columns, rows @ columns])
    usable = np.isfinite(position_mm).all() and min(spacing_mm) > 0
    if not usable or not np.allclose(products, (1, 1, 0), atol=_SAME_DIRECTION):
        return None
    rows = rows / np.linalg.norm(rows)  # written with few digits, they are made exact
    columns = columns - rows * (rows @ columns)
    exact = np.concatenate([rows, columns / np.linalg.norm(columns)])
    return Plane(exact, position_mm, spacing_mm, thickness_mm if thickness_mm and thickness_mm > 0 else 1.0)


def _numbers(groups: list[Dataset], sequence: str, keyword: str, count: int) -> np.ndarray | None:
    for group in groups:
        for item in group.get(sequence) or []:
            value = item.get(keyword)
            values = [] if value is None else list(value) if count > 1 else [value]
            if len(values) == count:
                return np.array([float(number) for number in values])
    return None
