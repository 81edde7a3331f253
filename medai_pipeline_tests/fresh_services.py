"""Services over a home and a database of a test's own, without the web and without Dagster; also as a command finds them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

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


@pytest.fixture
def cli_services(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    """Those that `medai` finds: the environment names their home and database."""
    monkeypatch.setenv("MEDAI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DATABASE_URL", database_url)
    with fresh_services(tmp_path / "home", database_url) as made:
        yield made
