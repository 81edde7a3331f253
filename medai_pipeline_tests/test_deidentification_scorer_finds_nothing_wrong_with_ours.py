"""The gate of the scorer: each action of ours on the planted files is correct, under the Basic Profile and with options."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from medai_pipeline_tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from deid_score import ours, tools
from deid_score.actions import NO_FILE, shown
from deid_score.judge import judge
from deid_score.key import answer_key
from deid_score.specimens import make_specimens
from deid_score.standard import load

RETAINED = frozenset(
    {
        "retain_safe_private",
        "retain_device_identity",
        "retain_institution_identity",
        "retain_patient_characteristics",
        "retain_long_modified_dates",
        "clean_graphics",
    }
)


@pytest.fixture(scope="module")
def planted(test_data: Path, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("planted")
    tables = load(test_data / "standard")
    return tables, folder, make_specimens(tables, folder)


@pytest.mark.parametrize("options", [frozenset(), RETAINED], ids=["Basic Profile", "retaining options"])
def test_no_action_of_ours_is_wrong_in_a_file_that_is_written(planted, options) -> None:
    tables, folder, specimens = planted
    key = [expected for specimen in specimens for expected in answer_key(specimen, tables, options)]
    verdicts = judge(key, tools.ours(folder, ours.deidentifier(options)).files, specimens)
    wrong = [v for v in verdicts if not v.correct and v.found != NO_FILE]
    assert [(v.expected.file, v.expected.action, shown(v.expected.path), v.found) for v in wrong] == []
    assert len(verdicts) > 7000
    # an encapsulated document may be refused: that is said, and nothing of it leaves
    assert {v.expected.file for v in verdicts if v.found == NO_FILE} <= {"ambrose-doc3.dcm"}
