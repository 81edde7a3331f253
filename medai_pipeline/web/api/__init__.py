"""The REST API under /api/v1: a router a subject, in `ROUTERS`. Answers are JSON; errors are problem+json (RFC 9457)."""

from fastapi import APIRouter

from medai_pipeline.web.api import health

ROUTERS: tuple[APIRouter, ...] = (health.router,)
