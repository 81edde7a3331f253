"""The pages for a browser: a router a page, in `ROUTERS`. Markup lies in `templates`, what a browser loads in `static`."""

from fastapi import APIRouter

ROUTERS: tuple[APIRouter, ...] = ()
