"""The report that counts as a FHIR R4B bundle. Whom it is about is in it for who may know, when they ask."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response

from medai_pipeline import stages
from medai_pipeline.errors import Conflict, NotAllowed, NotFound
from medai_pipeline.records import Report
from medai_pipeline.services import Services
from medai_pipeline.web.access import Permission
from medai_pipeline.web.api.common import PROBLEMS, Has, Reader, study_named
from medai_pipeline.web.api.studies import StudyUid

router = APIRouter(prefix="/studies", tags=["fhir"], responses=PROBLEMS)
FHIR = "application/fhir+json"
_BUNDLE: dict[int | str, dict[str, Any]] = {200: {"content": {FHIR: {}}, "description": "a Bundle"}}


@router.get("/{study_uid}/fhir", response_class=Response, responses=_BUNDLE)
def bundle(
    study_uid: StudyUid,
    services: Has,
    principal: Reader,
    identified: Annotated[bool, Query(description="with the patient, for who may know")] = False,
) -> Response:
    """A Bundle of DiagnosticReport (preliminary), Observations, ImagingStudy and Device, with the new UIDs."""
    from medai_pipeline.results.fhir import bundle_json

    key = study_named(services, principal, study_uid)
    if identified and not principal.may(Permission.IDENTITIES_READ):
        raise NotAllowed("your role may not know who a study is about: ask without `identified`")
    evidence = _evidence(services, key)
    who = services.vault.read(key, principal.actor, "a FHIR bundle with the patient") if identified else None
    return Response(bundle_json(evidence, who), media_type=FHIR)


def _evidence(services: Services, key: str) -> Any:
    row = services.catalogue.counting_report(key)
    if row is None:
        raise NotFound("the study has no report yet")
    names = ("anonymized_instances", "normalized_tensors", "predictions", "gradcam_maps")
    study, tensors, prediction, maps = (services.value(name, key) for name in names)
    if any(value.revision != row["revision"] for value in (study, tensors, prediction, maps)):
        raise Conflict("the study is being read again: ask when its report is there")
    report = Report(key, row["revision"], row["content"], "", {})
    identity = stages.identity_in(study, services.objects)
    return stages.evidence_of(report, study, tensors, prediction, maps, services.objects, identity, row["created_at"])
