"""What the viewer draws: the stored values of one frame, and the heat of one finding on the image's grid.

Images are the de-identified ones of the object store, found by their row: no name of a file comes from outside.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import Response

from medai_pipeline.dicom.viewing import viewed
from medai_pipeline.errors import NotFound
from medai_pipeline.services import Services
from medai_pipeline.web.access import Permission, Principal, needs
from medai_pipeline.web.pages.heat import packed_heat

router = APIRouter(include_in_schema=False)

StudyKey = Annotated[str, Path(pattern=r"^[A-Z2-7]{26}$")]
Viewer = Annotated[Principal, Depends(needs(Permission.IMAGES_READ))]
Revision = Annotated[int, Path(ge=1, le=10**6)]
_BYTES = "application/octet-stream"


@router.get("/studies/{study_key}/{revision}/frames/{sop_instance_uid}/{frame}")
def frame(
    request: Request,
    study_key: StudyKey,
    revision: Revision,
    sop_instance_uid: Annotated[str, Path(pattern=r"^[0-9.]{1,64}$")],
    frame: Annotated[int, Path(ge=1, le=10**6)],
    _: Viewer,
) -> Response:
    """One frame as `dicom.viewing` packs it."""
    services: Services = request.app.state.services
    image = services.history.image(study_key, revision, sop_instance_uid)
    if image is None or not image.object_key:
        raise NotFound("this revision of the study has no such image: load the study page again")
    return Response(viewed(services.objects.get(image.object_key), frame), media_type=_BYTES)


@router.get("/studies/{study_key}/reports/{report_id}/heat/{number}")
def heat(
    request: Request,
    study_key: StudyKey,
    report_id: Annotated[str, Path(pattern=r"^[0-9a-f-]{36}$")],
    number: Annotated[int, Path(ge=0, le=1000)],
    _: Viewer,
) -> Response:
    """The heat of one finding, never of one that is withheld."""
    services: Services = request.app.state.services
    report = next((one for one in services.history.reports(study_key) if str(one.id) == report_id), None)
    if report is None:
        raise NotFound("this study has no such report: load the study page again")
    return Response(packed_heat(services, study_key, report, number), media_type=_BYTES)
