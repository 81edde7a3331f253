"""Attention regions as DICOM Segmentation: binary, one segment a finding. A region says where the model looked: it is no
outline of the finding, and is coded as a region of interest, not as anatomy or disease."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import highdicom as hd
import numpy as np

from medai_pipeline import __version__
from medai_pipeline.results import concepts
from medai_pipeline.results.evidence import Drawn, Evidence, Kind, short
from medai_pipeline.results.header import frame_header, header, plane_of, refer_to_sources
from medai_pipeline.results.written import MANUFACTURER, SERIES_NUMBERS, DicomResult, finished


def segmentations(evidence: Evidence) -> list[DicomResult]:
    """One object for each series of slices that has regions, each multi-frame object and each film."""
    groups: dict[str, list[Drawn]] = {}
    for drawn in evidence.drawn:
        if drawn.is_evidence and drawn.region.any():
            groups.setdefault(_together(evidence, drawn), []).append(drawn)
    return [_segmentation(evidence, found, number) for number, found in enumerate(groups.values(), 1)]


def _together(evidence: Evidence, drawn: Drawn) -> str:
    """What one object can hold: slices of one series that are parallel and of one size."""
    image, plane = evidence.instance[drawn.heatmap.item.sop_instance_uid], plane_of(evidence, drawn.heatmap)
    if plane is None:
        return f"{image.sop_instance_uid} {drawn.heatmap.item.frame}"
    return f"{image.series_instance_uid} {image.rows} {image.columns} {plane.orientation.round(3)} {plane.spacing_mm}"


def _segmentation(evidence: Evidence, drawn: Sequence[Drawn], number: int) -> DicomResult:
    labels = list(dict.fromkeys(one.heatmap.label for one in drawn))
    frames = {(one.heatmap.item.sop_instance_uid, one.heatmap.item.frame): one.heatmap for one in drawn}
    made = hd.seg.Segmentation(
        source_images=[frame_header(evidence, found, plane_of(evidence, found)) for found in frames.values()],
        pixel_array=_masks(drawn, list(frames), labels),
        segmentation_type="BINARY",
        segment_descriptions=[_segment(evidence, label, place) for place, label in enumerate(labels, 1)],
        series_instance_uid=evidence.uid(Kind.SEGMENTATION, "series"),
        series_number=SERIES_NUMBERS[Kind.SEGMENTATION],
        sop_instance_uid=evidence.uid(Kind.SEGMENTATION, number),
        instance_number=number,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=short(evidence.model["name"]),
        software_versions=__version__,
        device_serial_number=evidence.model["weights_sha256"],
        content_label="AI_ATTENTION",
        content_description="Where the model looked; no outline. Research use only",
    )
    if "FrameOfReferenceUID" not in made:  # PS3.3 C.7.6.1: then the patient's directions are said, if only as unknown
        made.PatientOrientation = header(evidence, drawn[0].heatmap).get("PatientOrientation")
    refer_to_sources(made, evidence, list(frames.values()))
    return finished(made, Kind.SEGMENTATION, evidence)


def _masks(drawn: Sequence[Drawn], frames: Sequence[tuple[str, int]], labels: Sequence[str]) -> np.ndarray:
    """uint8 (frames, rows, columns, segments)."""
    masks = np.zeros((len(frames), *drawn[0].region.shape, len(labels)), dtype=np.uint8)
    for one in drawn:
        item = one.heatmap.item
        masks[frames.index((item.sop_instance_uid, item.frame)), :, :, labels.index(one.heatmap.label)] |= one.region
    return masks


def _segment(evidence: Evidence, label: str, number: int) -> hd.seg.SegmentDescription:
    model: Any = evidence.model
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=short(f"Attention: {label}"),
        segmented_property_category=concepts.REGION_CATEGORY,
        segmented_property_type=concepts.REGION,
        algorithm_type="AUTOMATIC",
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=short(model["name"]),
            family=concepts.AI,
            version=short(model["version"]),
            source=MANUFACTURER,
            parameters={"weights_sha256": model["weights_sha256"]},
        ),
        tracking_uid=hd.UID(evidence.uid("segment", label)),
        tracking_id=label,
    )
