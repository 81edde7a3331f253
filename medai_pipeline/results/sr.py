"""The report as DICOM SR: TID 1500, one measurement group a finding, preliminary and unverified.

Comprehensive 3D SR where the images lie in a frame of reference (regions as SCOORD3D), Comprehensive SR for films (SCOORD).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import highdicom as hd
import numpy as np
from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

from medai_pipeline import __version__
from medai_pipeline.records import Heatmap, Instance
from medai_pipeline.results import concepts
from medai_pipeline.results.evidence import Drawn, Evidence, Kind, uid_of
from medai_pipeline.results.header import plane_of, plane_of_instance, reference
from medai_pipeline.results.written import MANUFACTURER, SERIES_NUMBERS, DicomResult, finished

Group = (
    sr.PlanarROIMeasurementsAndQualitativeEvaluations
    | sr.VolumetricROIMeasurementsAndQualitativeEvaluations
    | sr.MeasurementsAndQualitativeEvaluations
)

_MOST_SOURCES = 5


def report(evidence: Evidence) -> DicomResult:
    """The structured report of one study."""
    groups = [group for row in evidence.content["findings"] for group in _groups(evidence, row)]
    content = sr.MeasurementReport(
        observation_context=_observer(evidence),
        procedure_reported=concepts.procedure(evidence.content["modality"]),
        imaging_measurements=groups,
        title=concepts.REPORT_TITLE,
    )
    _say_first(content[0], [*_words(evidence), *_library(evidence)])
    made = _document(evidence)(
        evidence=_evidence_images(evidence),
        content=content[0],
        series_instance_uid=evidence.uid(Kind.REPORT, "series"),
        series_number=SERIES_NUMBERS[Kind.REPORT],
        sop_instance_uid=evidence.uid(Kind.REPORT, 1),
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        is_final=False,
        is_verified=False,
    )
    _name_predecessors(made, evidence)
    return finished(made, Kind.REPORT, evidence)


def _document(evidence: Evidence) -> type[Dataset]:
    in_space = any(plane_of(evidence, drawn.heatmap) for drawn in evidence.drawn if drawn.is_evidence)
    return sr.Comprehensive3DSR if in_space else sr.ComprehensiveSR


def _observer(evidence: Evidence) -> sr.ObservationContext:
    """The device observer (TID 1004). Its UID stands for this version of this model, on every machine."""
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=UID(uid_of(*(evidence.model[part] for part in ("name", "version", "weights_sha256")))),
        name=f"{MANUFACTURER} {__version__}",
        manufacturer_name=MANUFACTURER,
        model_name=f"{evidence.model['name']} {evidence.model['version']}",
    )
    return sr.ObservationContext(
        observer_device_context=sr.ObserverContext(
            observer_type=concepts.DEVICE, observer_identifying_attributes=device
        )
    )


def _groups(evidence: Evidence, row: Mapping[str, Any]) -> Iterator[Group]:
    """One group a finding; of a present one with reliable maps one for each hot region instead."""
    drawn = [found for found in evidence.drawn if found.is_evidence and found.heatmap.label == row["label"]]
    made = [group for found in drawn for group in _regions(evidence, row, found)]
    yield from made or [_whole_image(evidence, row)]


def _regions(evidence: Evidence, row: Mapping[str, Any], drawn: Drawn) -> Iterator[Group]:
    for number, region in enumerate(drawn.heatmap.regions, 1):
        shared = _shared(evidence, row, f"{row['label']} {number}", (drawn.heatmap.item, number))
        surface = _surface(evidence, drawn.heatmap) if number == 1 else None
        if surface is not None:
            yield sr.VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_volume_surface=surface, **shared)
            continue
        yield sr.PlanarROIMeasurementsAndQualitativeEvaluations(
            referenced_region=_planar(evidence, drawn.heatmap, region.box), **shared
        )


def _whole_image(evidence: Evidence, row: Mapping[str, Any]) -> Group:
    """TID 1501: what is not there has no place, and what is present without a reliable map neither."""
    images = [evidence.instance[uid] for uid in row["images"][:_MOST_SOURCES]] if row["present"] else []
    sources = [
        sr.SourceImageForMeasurementGroup(image.sop_class_uid, evidence.original(image.sop_instance_uid))
        for image in images
    ]
    return sr.MeasurementsAndQualitativeEvaluations(
        source_images=sources or None, **_shared(evidence, row, row["label"], ())
    )


def _shared(evidence: Evidence, row: Mapping[str, Any], name: str, place: object) -> dict[str, Any]:
    """What every group says. Where a person says something else, nothing in it is the algorithm's."""
    said_by_model = row["label"] not in evidence.changed
    return {
        "tracking_identifier": sr.TrackingIdentifier(
            uid=UID(evidence.uid("finding", row["label"], place)), identifier=name
        ),
        "finding_type": concepts.coded(evidence.concept(row["label"])),
        "algorithm_id": _algorithm(evidence, row) if said_by_model else None,
        "measurements": _certainty(row) if said_by_model else None,
        "qualitative_evaluations": [
            sr.QualitativeEvaluation(
                name=concepts.PRESENCE, value=concepts.PRESENT if row["present"] else concepts.ABSENT
            )
        ],
    }


def _algorithm(evidence: Evidence, row: Mapping[str, Any]) -> sr.AlgorithmIdentification:
    model = evidence.model
    return sr.AlgorithmIdentification(
        name=model["name"],
        version=model["version"],
        parameters=[
            f"weights_sha256={model['weights_sha256']}",
            f"threshold={row['threshold']}",
            *(
                f"member={one['name']} {one['version']} {one['weights_sha256']}"
                for one in evidence.content["models"][1:]
            ),
        ],
        family=concepts.AI,
    )


def _certainty(row: Mapping[str, Any]) -> list[sr.Measurement]:
    """The probability, and its standard deviation where that was measured."""
    probability = sr.Measurement(name=concepts.CERTAINTY, value=_percent(row["probability"]), unit=concepts.PERCENT)
    if row["uncertainty"] is None:
        return [probability]
    return [
        probability,
        sr.Measurement(
            name=concepts.CERTAINTY,
            value=_percent(row["uncertainty"]),
            unit=concepts.PERCENT,
            derivation=concepts.STANDARD_DEVIATION,
        ),
    ]


def _percent(share: float) -> float:
    return round(100 * share, 2)


def _planar(evidence: Evidence, heatmap: Heatmap, box: tuple[int, int, int, int]) -> sr.ImageRegion | sr.ImageRegion3D:
    plane, frame_of_reference = plane_of(evidence, heatmap), _frame_of_reference(evidence, heatmap)
    if plane and frame_of_reference:
        return sr.ImageRegion3D("POLYGON", plane.polygon(box), frame_of_reference)
    x0, y0, x1, y1 = box
    corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)], dtype=float)
    sop_class, instance, frame = _image(evidence, heatmap)
    source = sr.SourceImageForRegion(sop_class, instance, [frame] if frame else None)
    return sr.ImageRegion("POLYLINE", corners, source)


def _surface(evidence: Evidence, heatmap: Heatmap) -> sr.VolumeSurface | None:
    """The heat's box in three dimensions, as a polygon on each slice; None where it lies on one slice, or none is known."""
    extent, frame_of_reference = heatmap.extent, _frame_of_reference(evidence, heatmap)
    if extent is None or extent.box is None or len(set(extent.images)) < 2 or not frame_of_reference:
        return None
    images = [evidence.instance[uid] for uid in extent.images]
    planes = [plane for image in images if (plane := plane_of_instance(image))]
    if len(planes) < len(images):
        return None
    sources = [
        sr.SourceImageForSegmentation(image.sop_class_uid, evidence.original(image.sop_instance_uid))
        for image in images
    ]
    return sr.VolumeSurface(
        "POLYGON", [plane.polygon(extent.box) for plane in planes], frame_of_reference, source_images=sources
    )


def _frame_of_reference(evidence: Evidence, heatmap: Heatmap) -> str:
    uid = evidence.headers[heatmap.item.sop_instance_uid].get("FrameOfReferenceUID")
    return evidence.original(str(uid)) if uid else ""


def _drawn_images(evidence: Evidence) -> list[str]:
    return list(dict.fromkeys(d.heatmap.item.sop_instance_uid for d in evidence.drawn if d.is_evidence))


def _library(evidence: Evidence) -> list[Dataset]:
    """The images that regions lie on (TID 1600), by reference alone: what they are stands in them."""
    images = [_image(evidence, drawn.heatmap) for drawn in evidence.drawn if drawn.is_evidence]
    if not images:
        return []
    library = sr.ContainerContentItem(concepts.IMAGE_LIBRARY, relationship_type="CONTAINS")
    group = sr.ContainerContentItem(concepts.IMAGE_LIBRARY_GROUP, relationship_type="CONTAINS")
    group.ContentSequence = Sequence(
        sr.ImageContentItem(concepts.SOURCE, *image, relationship_type="CONTAINS") for image in dict.fromkeys(images)
    )
    library.ContentSequence = Sequence([group])
    return [library]


def _image(evidence: Evidence, heatmap: Heatmap) -> tuple[str, str, int | None]:
    """SOP Class UID, original SOP Instance UID, and the frame of an object of many."""
    image = evidence.instance[heatmap.item.sop_instance_uid]
    frame = heatmap.item.frame if image.frames > 1 else None
    return image.sop_class_uid, evidence.original(image.sop_instance_uid), frame


def _evidence_images(evidence: Evidence) -> list[Dataset]:
    """Every image that the report refers to."""
    named = _drawn_images(evidence)
    for drawn in evidence.drawn:
        named += drawn.heatmap.extent.images if drawn.is_evidence and drawn.heatmap.extent else ()
    for row in evidence.present:
        named += row["images"]
    images: list[Instance] = [evidence.instance[uid] for uid in dict.fromkeys(named)]
    return [reference(evidence, image) for image in images or _any_read(evidence)]


def _any_read(evidence: Evidence) -> list[Instance]:
    """Nothing present: the images that were looked at, or else any; a document is about at least one."""
    usable = [image for image in evidence.instances if image.usable]
    return (usable or list(evidence.instances))[:_MOST_SOURCES]


def _say_first(root: Dataset, words: list[Dataset]) -> None:
    """Before the images and the findings; TID 1500 is extensible."""
    items = list(root.ContentSequence)
    first = next(place for place, item in enumerate(items) if item.RelationshipType == "CONTAINS")
    root.ContentSequence[first:first] = words


def _words(evidence: Evidence) -> list[Dataset]:
    """What a person reads first: how urgent and why, that it is preliminary and for research."""
    content = evidence.content
    review = "A person must review this result." if content["review_required"] else "No review was asked for."
    if evidence.review:
        review = reviewed(evidence)
    category = f" (ACR category {content['acr_category']} of actionable findings)" if content["acr_category"] else ""
    summary = f"Priority: {content['priority']}{category}. {' '.join(content['reasons'])} {review}"
    unverified = "no verification in the sense of DICOM" if evidence.review else "not verified by a person"
    caution = f"Preliminary, {unverified}. {content['disclaimer']}"
    return [
        hd.sr.TextContentItem(name, value, relationship_type="CONTAINS")
        for name, value in ((concepts.SUMMARY, " ".join(summary.split())), (concepts.COMMENT, caution))
    ]


def reviewed(evidence: Evidence) -> str:
    """Who looked at the result, and what that person says else than the model.

    It does not make the document VERIFIED: that would need a person's legal name and organization, and a duty that a
    review of a research result is not (PS3.3 C.17.2).
    """
    assert evidence.review
    who = f"{evidence.review.decision.capitalize()} by {evidence.review.reviewer} on {evidence.review.at:%Y-%m-%d}."
    rows = {row["label"]: row["present"] for row in evidence.content["findings"]}
    changes = [f"{label} {'present' if rows.get(label) else 'absent'}" for label in sorted(evidence.changed)]
    return f"{who} Said by this person, not by the model: {', '.join(changes)}." if changes else who


def _name_predecessors(made: Dataset, evidence: Evidence) -> None:
    """Predecessor Documents Sequence (PS3.3 C.17.2.2): the reports whose place this one takes."""
    before = [one for one in evidence.previous if UID(one.sop_class_uid) in _SR_CLASSES]
    if not before:
        return
    study = Dataset()
    study.StudyInstanceUID = evidence.origin.identity.study_instance_uid
    study.ReferencedSeriesSequence = []
    for one in before:
        item, series = Dataset(), Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = one.sop_class_uid, one.sop_instance_uid
        series.SeriesInstanceUID, series.ReferencedSOPSequence = one.series_instance_uid, [item]
        study.ReferencedSeriesSequence.append(series)
    made.PredecessorDocumentsSequence = [study]


_SR_CLASSES = frozenset({"1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.88.34"})
