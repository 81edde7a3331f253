"""Fixtures that many files need. A missing service or data set fails in CI and is a named skip elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

PLUGINS = (
    "postgres",
    "orthanc",
    "pipeline",
    "browser",
    "versions_in_use",
    "dcmtk",
    "web",
    "reading_room",
    "fresh_services",
)
pytest_plugins = [f"medai_pipeline_tests.{name}" for name in PLUGINS]

ROOT = Path(__file__).resolve().parents[1]


# Files that take minutes begin first, so that no process waits for another's last one.
LONG = ("test_whole_stack.py", "test_training_demo.py", "test_stack_lifecycle.py", "test_burned_in_text.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


def missing(what: str) -> None:
    """Fail in CI, skip by name elsewhere: a green run in CI has run everything."""
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(f"missing in CI: {what}")
    pytest.skip(f"missing here: {what}")


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real test files (MEDAI_TEST_DATA, default ../shared/data beside the repository)."""
    path = Path(os.environ.get("MEDAI_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        missing(f"test data at {path} (set MEDAI_TEST_DATA)")
    return path
