"""What goes back to a PACS and to other systems, gathered from all stages: `results.dicom` and `results.fhir` write it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from medai_pipeline.records import (
    DeidentifiedStudy,
    Heatmap,
    Identity,
    Report,
    StudyHeatmaps,
    StudyPrediction,
    StudyTensors,
)
from medai_pipeline.stages.objects import Objects

if TYPE_CHECKING:
    from medai_pipeline.results.evidence import Concept, Drawn, Evidence, Reference

_LONGEST_FILM = 1024  # of a film's heat, which comes from a coarse grid: its own size would be 30 MB


def evidence_of(
    report: Report,
    study: DeidentifiedStudy,
    tensors: StudyTensors,
    prediction: StudyPrediction,
    heatmaps: StudyHeatmaps,
    objects: Objects,
    identity: Identity,
    at: datetime,
    previous: Sequence[Reference] = (),
) -> Evidence:
    """What `results.dicom.objects` and `results.fhir.bundle` are made of.

    `identity`: the vault's for the PACS, or `identity_in` for results about the de-identified study. `previous`: the
    objects of an earlier revision or model version that lie in the PACS, and whose place these take.
    """
    from medai_pipeline.dicom.read import parse
    from medai_pipeline.results.evidence import Evidence, Origin

    shown = [found for found in enumerate(heatmaps.heatmaps) if not found[1].withheld]
    by_uid = {instance.sop_instance_uid: instance for instance in study.instances}
    needed = dict.fromkeys(heatmap.item.sop_instance_uid for _, heatmap in shown)
    return Evidence(
        content=report.content,
        drawn=tuple(_drawn(number, heatmap, tensors, heatmaps) for number, heatmap in shown),
        instances=study.instances,
        headers={uid: parse(objects.get(by_uid[uid].object_key), pixels=False) for uid in needed},
        concepts=_concepts(prediction),
        origin=Origin(identity),
        at=at,
        previous=tuple(previous),
    )


def _concepts(prediction: StudyPrediction) -> dict[str, list[Concept]]:
    from medai_pipeline.results.evidence import Concept
    from medai_pipeline.triage.findings import lookup

    return {label: [Concept(*code) for code in lookup(label).codes] for label in prediction.labels}


def _drawn(number: int, heatmap: Heatmap, tensors: StudyTensors, heatmaps: StudyHeatmaps) -> Drawn:
    from medai_pipeline.explain.geometry import heat_on_image
    from medai_pipeline.explain.regions import region_mask
    from medai_pipeline.results.evidence import Drawn
    from medai_pipeline.results.report import overlay_name

    tensor_size = (tensors.pixels.shape[2], tensors.pixels.shape[3])
    placement = heatmap.item.placement
    rows, columns = placement.source_rows, placement.source_columns
    shrink = max(1.0, max(rows, columns) / _LONGEST_FILM)
    size = (max(1, round(rows / shrink)), max(1, round(columns / shrink)))
    return Drawn(
        heatmap=heatmap,
        heat=heat_on_image(heatmap.values, placement, tensor_size, size).astype(np.float32),
        region=region_mask(heatmap.values, placement, tensor_size),
        overlay=heatmaps.overlays[overlay_name(number, heatmap)],
    )


def identity_in(study: DeidentifiedStudy, objects: Objects) -> Identity:
    """What the de-identified files themselves say: results about it name nobody."""
    from medai_pipeline.dicom.read import identity_of, parse

    return identity_of(parse(objects.get(study.instances[0].object_key), pixels=False))
