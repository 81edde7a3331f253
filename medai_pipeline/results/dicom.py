"""What goes back to a PACS: every DICOM object that is made of one study's result. The one door into this room's modules."""

from __future__ import annotations

from medai_pipeline.results.capture import captures
from medai_pipeline.results.evidence import Evidence
from medai_pipeline.results.keyobject import key_objects, superseded, withdrawn
from medai_pipeline.results.parametric_map import parametric_maps
from medai_pipeline.results.seg import segmentations
from medai_pipeline.results.sr import report
from medai_pipeline.results.written import DicomResult


def objects(evidence: Evidence) -> list[DicomResult]:
    """The report first, then regions, pictures, maps and key images; last, what takes earlier results back.

    Maps that are not reliable, or of a finding that is not present, make no object. A study that no model covers has none
    at all: there is nothing to say. The same evidence gives the same bytes, and the same revision by the same model
    version the same UIDs, so that sending again replaces.
    """
    if not evidence.content["models"] or not evidence.instances:
        return []
    return [
        report(evidence),
        *segmentations(evidence),
        *captures(evidence),
        *parametric_maps(evidence),
        *key_objects(evidence),
        *superseded(evidence),
    ]


def withdrawal(evidence: Evidence) -> list[DicomResult]:
    """What says that earlier results no longer count and nothing takes their place; none where there are none."""
    return withdrawn(evidence)
