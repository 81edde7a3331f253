"""Services over a home and a database of a test's own, without the web and without Dagster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medai_pipeline.services import Services
from medai_pipeline.settings import read_settings
from medai_pipeline.storage.keys import SiteKeys


@contextmanager
def fresh_services(home: Path, database_url: str, **settings: Any) -> Iterator[Services]:
    """With keys of its own; `settings` as `read_settings` takes them."""
    SiteKeys.load(None, home / "keys" / "site.key", create=True)
    made = Services(read_settings({}, home=str(home), database_url=database_url, **settings))
    try:
        yield made
    finally:
        made.engine.dispose()
