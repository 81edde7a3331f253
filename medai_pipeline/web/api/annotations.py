"""Annotations: labels, boxes, polygons, masks, measurements and notes on images. Every version is kept; deletion hides."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from medai_pipeline.errors import Conflict, NotFound, Unprocessable
from medai_pipeline.services import Services
from medai_pipeline.storage.annotations import Annotation
from medai_pipeline.web.access import Permission, Principal, needs
from medai_pipeline.web.api.common import (
    PROBLEMS,
    Has,
    Idempotent,
    IfMatch,
    Page,
    Reader,
    image_named,
    listed,
    seen_version,
    study_named,
    with_etag,
)

router = APIRouter(prefix="/annotations", tags=["annotations"], responses=PROBLEMS, route_class=Idempotent)
Writer = Annotated[Principal, Depends(needs(Permission.ANNOTATE))]

Coordinate = Annotated[float, Field(ge=-0.5, le=65536, allow_inf_nan=False)]
Point = Annotated[list[Coordinate], Field(min_length=2, max_length=2, description="x (column), y (row)")]
Words = Annotated[str, Field(max_length=2000, pattern=r"^[^\x00]*$")]


class Geometry(BaseModel):
    """Where it lies, in pixels of the image, x to the right and y down, the first pixel's outer corner at 0, 0: as a report's
    regions, and as spatial coordinates in an SR (PS3.3 C.18.6)."""

    model_config = ConfigDict(extra="forbid")
    box: Annotated[list[Coordinate], Field(min_length=4, max_length=4, description="x0, y0, x1, y1")] | None = None
    points: Annotated[list[Point], Field(min_length=2, max_length=10_000)] | None = None
    runs: Annotated[
        list[Annotated[int, Field(ge=0, le=2**32)]],
        Field(max_length=200_000, description="run lengths, row by row: outside, inside, outside, ..."),
    ] | None = None  # fmt: skip
    note: Words = ""


class Drawn(BaseModel):
    """A box has `box`; a polygon `points` (3 or more); a measurement 2 `points`; a mask `runs`; a note `note`; a label is its
    label alone."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["label", "box", "polygon", "mask", "measurement", "note"]
    label: Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")] = ""
    geometry: Geometry = Geometry()

    @model_validator(mode="after")
    def fits(self) -> Drawn:
        given = self.geometry
        right = {
            "label": bool(self.label),
            "box": given.box is not None and given.box[0] < given.box[2] and given.box[1] < given.box[3],
            "polygon": given.points is not None and len(given.points) >= 3,
            "mask": bool(given.runs),
            "measurement": given.points is not None and len(given.points) == 2,
            "note": bool(given.note),
        }
        if not right[self.kind]:
            raise ValueError(f"a {self.kind} without what makes one: {self.__doc__}")
        return self


class NewAnnotation(Drawn):
    image_id: Annotated[str, Field(max_length=128)]
    frame: Annotated[int, Field(ge=1, le=1 << 20)] = 1


@router.post("", status_code=201)
def add(given: NewAnnotation, services: Has, principal: Writer) -> Response:
    """A new annotation; it belongs to the revision of the study that holds the image now."""
    uid, place = image_named(services, principal, given.image_id)
    row = services.catalogue.image(uid)
    if row is None or place.revision is None:
        raise Conflict("the image is not de-identified yet: annotate it when its study is reported")
    if given.frame > max(1, row["frames"]):
        raise Unprocessable(f"the image has {max(1, row['frames'])} frame(s)")
    geometry = _checked(given, row)
    where = (place.study_key, place.revision, uid, given.frame)
    made = services.annotations.add(where, given.kind, given.label, geometry, principal.actor, services.now())
    return with_etag(_told(made), made.version, 201, f"/api/v1/annotations/{made.id}")


@router.get("")
def listing(
    services: Has,
    principal: Reader,
    paging: Page,
    study: Annotated[str, Query(max_length=128)] = "",
    image: Annotated[str, Query(max_length=128)] = "",
    kind: Annotated[str, Query(max_length=16, pattern=r"^[a-z]*$")] = "",
    label: Annotated[str, Query(max_length=200, pattern=r"^[^\x00]*$")] = "",
) -> Any:
    """Annotations that are not deleted, in the order of drawing; of a study, an image, a kind, a label."""
    key = study_named(services, principal, study) if study else ""
    uid = image_named(services, principal, image)[0] if image else ""
    found, total = services.annotations.listed(key, uid, kind, label, paging.limit, paging.offset)
    return listed([_told(one) for one in found], total, paging)


@router.get("/{annotation_id}")
def annotation(annotation_id: Annotated[UUID, Path()], services: Has, principal: Reader) -> Response:
    """One annotation, also a deleted one."""
    found = _found(services, annotation_id)
    return with_etag(_told(found), found.version)


@router.get("/{annotation_id}/versions")
def versions(annotation_id: Annotated[UUID, Path()], services: Has, principal: Reader) -> Any:
    """All that it was, the newest first, and who made it so."""
    _found(services, annotation_id)
    return {"items": services.annotations.versions(annotation_id)}


@router.put(
    "/{annotation_id}", responses={412: {"description": "changed meanwhile"}, 428: {"description": "no If-Match"}}
)
def change(
    annotation_id: Annotated[UUID, Path()], given: Drawn, services: Has, principal: Writer, if_match: IfMatch = None
) -> Response:
    """Another shape, kind or label: a version more. If-Match says which version is changed."""
    found, seen = _found(services, annotation_id), seen_version(if_match)
    row = services.catalogue.image(found.sop_instance_uid)
    geometry = _checked(given, row or {})
    made = services.annotations.change(
        annotation_id, given.kind, given.label, geometry, principal.actor, seen or str(found.version), services.now()
    )
    return with_etag(_told(made), made.version)


@router.delete(
    "/{annotation_id}", responses={412: {"description": "changed meanwhile"}, 428: {"description": "no If-Match"}}
)
def delete(
    annotation_id: Annotated[UUID, Path()], services: Has, principal: Writer, if_match: IfMatch = None
) -> Response:
    """Marks it as deleted; its versions stay."""
    found, seen = _found(services, annotation_id), seen_version(if_match)
    made = services.annotations.delete(annotation_id, principal.actor, seen or str(found.version), services.now())
    return with_etag(_told(made), made.version)


def _found(services: Services, annotation_id: UUID) -> Annotation:
    found = services.annotations.find(annotation_id)
    if found is None:
        raise NotFound("there is no such annotation")
    return found


def _checked(given: Drawn, image: Any) -> dict[str, Any]:
    """The geometry inside the image; a measurement with its length in mm, where the image tells its spacing."""
    rows, columns = image.get("rows") or 0, image.get("columns") or 0
    geometry = given.geometry.model_dump(exclude_none=True)
    box = geometry.get("box")
    points = [*geometry.get("points", []), *([box[:2], box[2:]] if box else [])]
    if rows and any(x > columns or y > rows for x, y in points):
        raise Unprocessable(f"it lies outside of the image, which has {columns} columns and {rows} rows")
    if given.kind == "mask" and sum(geometry["runs"]) != rows * columns:
        raise Unprocessable(f"the runs of a mask cover the image: their sum is {rows * columns} here")
    spacing = (image.get("column_spacing_mm"), image.get("row_spacing_mm"))
    if given.kind == "measurement" and all(spacing):
        (x0, y0), (x1, y1) = geometry["points"]
        geometry["length_mm"] = round(math.hypot((x1 - x0) * spacing[0], (y1 - y0) * spacing[1]), 2)
    return geometry


def _told(found: Annotation) -> dict[str, Any]:
    names = ("study_key", "revision", "frame", "author", "kind", "label", "geometry", "version", "deleted")
    told = {name: getattr(found, name) for name in names}
    times = {"created_at": found.created_at, "updated_at": found.updated_at}
    return {"id": str(found.id), "image_id": found.sop_instance_uid, **told, **times}
