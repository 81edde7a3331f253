"""The worklist page has a row for a study in whatever state it is, a forgotten one among them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from medai_pipeline.records import StudyState
from medai_pipeline.storage.rows import ProgressRow
from medai_pipeline.web.pages.worklist_rows import _progress

AT = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize("state", sorted(set(StudyState) - {StudyState.REPORTED}))
def test_a_study_without_a_report_is_a_row_in_words(state: StudyState) -> None:
    row = _progress(ProgressRow("K" * 26, 1, state, "", "", 1, 2, None, None, AT), reported=False)
    assert row.state and row.retry == (state is StudyState.FAILED)


def test_a_forgotten_study_is_not_among_the_open_ones() -> None:
    row = _progress(ProgressRow("K" * 26, 1, StudyState.FORGOTTEN, "", "", 0, 0, None, None, AT), reported=False)
    assert (row.kind, row.state, row.marks) == ("read", "forgotten", ())
