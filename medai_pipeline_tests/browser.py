"""A real headless Chromium, one a session. A page that breaks the content policy or throws fails its test by name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from medai_pipeline_tests.conftest import missing

_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
NewPage = Callable[..., Page]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    binary = os.environ.get("MEDAI_TEST_CHROMIUM") or shutil.which("chromium")
    if not binary:
        missing("chromium on the path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@pytest.fixture
def new_page(chromium: Browser) -> Iterator[NewPage]:
    """`new_page(width=..., height=..., **of the context)`; what its console complained of stands in `complaints(page)`."""
    contexts: list[BrowserContext] = []

    def new(width: int = 1440, height: int = 900, **more: Any) -> Page:
        context = chromium.new_context(viewport={"width": width, "height": height}, **more)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        return watched(page)

    yield new
    for context in contexts:
        with suppress(Exception):  # a page that is gone already
            context.close()


_COMPLAINTS: dict[Page, list[str]] = {}


def watched(page: Page) -> Page:
    """The page with its errors and broken policies kept."""
    kept = _COMPLAINTS.setdefault(page, [])
    page.on("pageerror", lambda error: kept.append(f"error: {error}"))
    page.on("console", lambda said: kept.append(f"{said.type}: {said.text}") if said.type == "error" else None)
    return page


def complaints(page: Page) -> list[str]:
    """Errors of scripts, refused loads and broken policies so far. Empty on a page that is in order."""
    return list(_COMPLAINTS[page])


def forget_refusals(page: Page) -> None:
    """Chromium writes every refused answer into the console: these were asked for by the test."""
    kept = _COMPLAINTS[page]
    kept[:] = [line for line in kept if "status of 4" not in line and "ERR_FAILED" not in line]
