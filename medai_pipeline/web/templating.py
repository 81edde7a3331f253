"""Pages out of templates: one Jinja environment, all text escaped, and what every page knows."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from medai_pipeline import DISCLAIMER, __version__
from medai_pipeline.wording import percent


@cache
def environment() -> Environment:
    """The templates of this room. Filters that a page needs are added here."""
    made = Environment(
        loader=PackageLoader("medai_pipeline.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["percent"] = percent
    return made


def page(
    request: Request, template: str, status_code: int = 200, headers: Mapping[str, str] | None = None, **context: Any
) -> HTMLResponse:
    """A page. Every template knows `request`, `principal` (None before login), `csrf_token`, `disclaimer`, `version`."""
    known = {
        "request": request,
        "principal": getattr(request.state, "principal", None),
        "csrf_token": getattr(request.state, "csrf_token", ""),
        "disclaimer": DISCLAIMER,
        "version": __version__,
    }
    text = environment().get_template(template).render(**known, **context)
    return HTMLResponse(text, status_code, headers=dict(headers or {}))
