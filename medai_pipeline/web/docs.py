"""The API's description for people (Swagger UI, ReDoc) and programs. Their scripts come from here, not from a CDN."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from medai_pipeline.web.access import Permission, Principal, needs
from medai_pipeline.web.middleware import POLICY
from medai_pipeline.web.templating import page

# the package fastapi-offline carries the scripts of both; only its files are used
ASSETS = Path(str(files("fastapi_offline") / "static"))
# both style themselves from their scripts, and ReDoc searches in a worker: so much more than other pages, and no more
_POLICY = {
    "Content-Security-Policy": POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")
    + "; worker-src 'self' blob:"
}
Anybody = Annotated[Principal, Depends(needs(Permission.ACCOUNT))]

router = APIRouter(prefix="/api", include_in_schema=False)


@router.get("/openapi.json")
def openapi(request: Request, principal: Anybody) -> dict[str, Any]:
    return request.app.openapi()


@router.get("/docs")
def swagger_ui(request: Request, principal: Anybody) -> Response:
    return page(request, "docs.html", headers=_POLICY, title="API", viewer="swagger-ui")


@router.get("/redoc")
def redoc(request: Request, principal: Anybody) -> Response:
    return page(request, "docs.html", headers=_POLICY, title="API", viewer="redoc")
