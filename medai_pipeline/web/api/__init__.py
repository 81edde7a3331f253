"""The REST API under /api/v1: a router a subject, in `ROUTERS`. Answers are JSON; errors are problem+json (RFC 9457)."""

from fastapi import APIRouter

from medai_pipeline.web.api import annotations, audit, fhir, health, images, inference, orthanc, registry, studies
from medai_pipeline.web.api.common import PREFIX

_VERSIONED = (
    images.uploading,
    images.router,
    inference.router,
    studies.router,
    fhir.router,
    orthanc.searching,
    orthanc.router,
    annotations.router,
    registry.router,
    audit.router,
)

v1 = APIRouter(prefix=PREFIX)
for _router in _VERSIONED:
    v1.include_router(_router)

ROUTERS: tuple[APIRouter, ...] = (health.router, v1)
