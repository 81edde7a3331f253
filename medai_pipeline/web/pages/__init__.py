"""The pages for a browser: a router a page, in `ROUTERS`. Markup lies in `templates`, what a browser loads in `static`."""

from fastapi import APIRouter

from medai_pipeline.web.pages import frames, study, worklist

ROUTERS: tuple[APIRouter, ...] = (worklist.router, study.router, frames.router)
