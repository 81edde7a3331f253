"""Coded concepts of the standard that the results use, by what they mean here. Findings have theirs in triage/findings."""

from __future__ import annotations

from highdicom.sr import CodedConcept
from pydicom.sr.codedict import codes

from medai_pipeline.results.evidence import Concept, short

CERTAINTY = CodedConcept("111012", "DCM", "Certainty of Finding")
STANDARD_DEVIATION = CodedConcept("386136009", "SCT", "Standard Deviation")
PERCENT = CodedConcept("%", "UCUM", "%")
NO_UNITS = CodedConcept("1", "UCUM", "no units")
PRESENCE = CodedConcept("121052", "DCM", "Presence of property")
PRESENT = CodedConcept("52101004", "SCT", "Present")  # CID 240
ABSENT = CodedConcept("272519000", "SCT", "Absent")
COMMENT = CodedConcept("121106", "DCM", "Comment")
SUMMARY = CodedConcept("121111", "DCM", "Summary")
DEVICE = CodedConcept("121007", "DCM", "Device")
REPORT_TITLE = CodedConcept("126000", "DCM", "Imaging Measurement Report")
IMAGE_LIBRARY = CodedConcept("111028", "DCM", "Image Library")
IMAGE_LIBRARY_GROUP = CodedConcept("126200", "DCM", "Image Library Group")
SOURCE = CodedConcept("260753009", "SCT", "Source")
REGION_CATEGORY = CodedConcept("309825002", "SCT", "Spatial and Relational Concept")  # CID 7150
REGION = CodedConcept("C85402", "NCIt", "Imaging Region of Interest")
AI = CodedConcept("123110", "DCM", "Artificial Intelligence")  # CID 7162
OF_INTEREST = CodedConcept("113000", "DCM", "Of Interest")
REJECTED = CodedConcept("113001", "DCM", "Rejected for Quality Reasons")
TITLE_MODIFIER = CodedConcept("113011", "DCM", "Document Title Modifier")
OTHER_FAILURE = CodedConcept("111220", "DCM", "Other failure")  # CID 7011

# Visual explanation, CID 217
_GRADIENT = CodedConcept("130403", "DCM", "Gradient-weighted class activation")
_ACTIVATION = CodedConcept("130402", "DCM", "Class activation")
_ANY_REGION = {
    "CT": codes.LN.CTUnspecifiedBodyRegion,
    "MR": codes.LN.MRIUnspecifiedBodyRegion,
    "NM": codes.LN.NMUnspecifiedBodyRegion,
    "PT": codes.LN.PETUnspecifiedBodyRegion,
}


def coded(concept: Concept) -> CodedConcept:
    return CodedConcept(concept.value, concept.scheme, short(concept.meaning))


def explanation(method: str) -> CodedConcept:
    """What a heatmap shows, by its method: CID 217."""
    return _ACTIVATION if method.startswith("score") else _GRADIENT


def procedure(modality: str) -> CodedConcept:
    """The procedure reported, as far as it is known: a modality (CID 100, LOINC)."""
    code = _ANY_REGION.get(modality, codes.LN.XRUnspecifiedBodyRegion)
    return CodedConcept(code.value, code.scheme_designator, code.meaning)
