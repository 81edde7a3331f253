"""A heatmap as DICOM Parametric Map: float values with their meaning, for who wants to draw it another way."""

from __future__ import annotations

from typing import Any

import highdicom as hd
import numpy as np

from medai_pipeline import __version__
from medai_pipeline.records import Heatmap
from medai_pipeline.results import concepts
from medai_pipeline.results.evidence import Drawn, Evidence, Kind, short
from medai_pipeline.results.header import Plane, frame_header, plane_of, refer_to_sources
from medai_pipeline.results.written import MANUFACTURER, SERIES_NUMBERS, DicomResult, finished


def parametric_maps(evidence: Evidence) -> list[DicomResult]:
    """One object for each map that counts as evidence."""
    shown = [drawn for drawn in evidence.drawn if drawn.is_evidence]
    return [_parametric_map(evidence, drawn, number) for number, drawn in enumerate(shown, 1)]


def _parametric_map(evidence: Evidence, drawn: Drawn, number: int) -> DicomResult:
    heatmap = drawn.heatmap
    plane = plane_of(evidence, heatmap)
    source = frame_header(evidence, heatmap, plane or _plane_of_film(heatmap))
    if plane is None:
        source.FrameOfReferenceUID = evidence.uid("frame of reference", source.SOPInstanceUID)
    made = hd.pm.ParametricMap(
        source_images=[source],
        pixel_array=drawn.heat[None].astype(np.float32),
        series_instance_uid=evidence.uid(Kind.PARAMETRIC_MAP, "series"),
        series_number=SERIES_NUMBERS[Kind.PARAMETRIC_MAP],
        sop_instance_uid=evidence.uid(Kind.PARAMETRIC_MAP, number),
        instance_number=number,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=short(evidence.model["name"]),
        software_versions=__version__,
        device_serial_number=evidence.model["weights_sha256"],
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[_meaning(heatmap.method, heatmap.label)],
        voi_lut_transformations=[hd.VOILUTTransformation(window_center=0.5, window_width=1.0)],
        content_label="AI_HEATMAP",
        content_description=short(f"{heatmap.label}: where the model looked. Research use only"),
        content_qualification="RESEARCH",
        **_geometry(drawn, plane or _plane_of_film(heatmap)),
    )
    refer_to_sources(made, evidence, [heatmap])
    return finished(made, Kind.PARAMETRIC_MAP, evidence)


def _plane_of_film(heatmap: Heatmap) -> Plane:
    """The IOD wants a frame of reference (PS3.3 A.75): a film gets one of its own, in which nothing else lies."""
    return Plane(np.array([1.0, 0, 0, 0, 1, 0]), np.zeros(3), heatmap.item.spacing_mm or (1.0, 1.0), 1.0)


def _geometry(drawn: Drawn, plane: Plane) -> dict[str, Any]:
    placement = drawn.heatmap.item.placement
    rows, columns = drawn.heat.shape
    own = plane.coarser(placement.source_rows / rows, placement.source_columns / columns)
    position = [round(float(value), 6) for value in own.position_mm]
    return {
        "pixel_measures": hd.PixelMeasuresSequence(
            pixel_spacing=[round(value, 6) for value in own.spacing_mm], slice_thickness=round(own.thickness_mm, 6)
        ),
        "plane_orientation": hd.PlaneOrientationSequence("PATIENT", [round(float(v), 6) for v in own.orientation]),
        "plane_positions": [hd.PlanePositionSequence("PATIENT", position)],
    }


def _meaning(method: str, label: str) -> hd.pm.RealWorldValueMapping:
    """Values are what they are: the share of the greatest evidence on the image, without a unit."""
    return hd.pm.RealWorldValueMapping(
        lut_label="evidence",
        lut_explanation=short(f"Evidence for {label}, 0 to 1 ({method})"),
        unit=concepts.NO_UNITS,
        value_range=(0.0, 1.0),
        slope=1.0,
        intercept=0.0,
        quantity_definition=concepts.explanation(method),
    )
