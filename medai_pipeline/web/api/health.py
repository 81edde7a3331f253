"""/health: this process answers. /ready: what it needs answers, too. For load balancers: no detail, no login."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from medai_pipeline.errors import MedaiError
from medai_pipeline.services import Services
from medai_pipeline.storage.heartbeat import beats

FRESH_S = 3.0
_LOOKING = threading.Lock()

router = APIRouter(tags=["health"])


@router.get("/health")
def health() -> dict[str, str]:
    """This process answers."""
    return {"status": "ok"}


@router.get("/ready")
def ready(request: Request) -> Response:
    """Whether the database, the PACS, Dagster's daemon and the models' weights are there; 503 names what is not."""
    found = _checked(request)
    complete = all(found.values())
    body = {"status": "ready" if complete else "not ready", "checks": found}
    return JSONResponse(body, 200 if complete else 503)


def _checked(request: Request) -> dict[str, bool]:
    """Looked at anew every few seconds at most: anybody may ask, and asking costs the PACS something."""
    state, now = request.app.state, time.monotonic()
    at, found = getattr(state, "readiness", (-math.inf, {}))
    if not _LOOKING.acquire(blocking=False):  # who looks may wait for a PACS that hangs: nobody waits with them
        return found or dict.fromkeys(CHECKS, False)
    try:
        if now - at > FRESH_S:
            found = {name: _holds(check, state.services) for name, check in CHECKS.items()}
            state.readiness = (time.monotonic(), found)
    finally:
        _LOOKING.release()
    return found


def _database(services: Services) -> bool:
    services.users.any()
    return True


def _pacs(services: Services) -> bool:
    return bool(services.pacs.system())


def _daemon(services: Services) -> bool:
    return beats(services.engine, services.now())


def _models(services: Services) -> bool:
    """Every active version's weights are where they belong."""
    from medai_pipeline.models.whereabouts import missing_weights

    models = services.models
    return bool(models.active) and not missing_weights(models, services.settings.models_path)


CHECKS: Mapping[str, Callable[[Services], Any]] = {
    "database": _database,
    "pacs": _pacs,
    "daemon": _daemon,
    "models": _models,
}


def _holds(check: Callable[[Services], Any], services: Services) -> bool:
    try:
        return bool(check(services))
    except MedaiError:
        return False
