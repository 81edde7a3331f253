"""The gate of the scorer: each action of ours on the planted files is correct, under the Basic Profile and with options."""

from __future__ import annotations

import ast
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

CLEANED = frozenset({"retain_uids", "retain_long_full_dates", "clean_descriptors", "clean_structured_content"})
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


@pytest.mark.parametrize(
    "options", [frozenset(), RETAINED, CLEANED], ids=["Basic Profile", "retaining options", "cleaning options"]
)
def test_no_action_of_ours_is_wrong(planted, options) -> None:
    tables, folder, specimens = planted
    key = [expected for specimen in specimens for expected in answer_key(specimen, tables, options)]
    verdicts = judge(key, tools.ours(folder, ours.deidentifier(options)).files, specimens)
    wrong = [v for v in verdicts if not v.correct]
    assert [(v.expected.file, v.expected.action, shown(v.expected.path), v.found) for v in wrong] == []
    assert len(verdicts) > 7000
    assert not any(v.found == NO_FILE for v in verdicts)


def test_the_key_knows_nothing_of_how_the_product_decides() -> None:
    """The modules of the key and of the planted places import nothing of the product but what draws the phantoms."""
    folder = ROOT / "benchmarks" / "deid_score"
    for name in ("actions", "content", "judge", "key", "objects", "people", "plants", "specimens", "standard"):
        for node in ast.walk(ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            foreign = {module for module in names if module.startswith("medai_pipeline")}
            assert all(module.startswith("medai_pipeline.phantoms.") for module in foreign), (name, foreign)
