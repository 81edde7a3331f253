"""Choosing a model: by modality and body part, by name, and what is said when there is none or its weights are absent."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from medai_pipeline.errors import ModelNotFound, WeightsMissing
from medai_pipeline.models.catalog import ModelSet, catalog, entry, packaged
from medai_pipeline.models.load import load, weights_path


@pytest.mark.parametrize(
    ("modality", "body_part", "name", "assumed"),
    [
        ("DX", "CHEST", "demo-chest-xray", False),
        ("CR", "chest", "demo-chest-xray", False),
        ("RG", "THORAX", "demo-chest-xray", False),
        ("DX", "", "demo-chest-xray", True),
        ("CT", "CHEST", "demo-chest-ct", False),
        ("CT", "LUNG", "demo-chest-ct", False),
        ("CT", " ", "demo-chest-ct", True),
        ("MR", "BRAIN", "demo-brain-mr", False),
        ("MR", "HEAD", "demo-brain-mr", False),
        ("MR", "", "demo-brain-mr", True),
        ("CT", "ABDOMEN", None, False),
        ("CT", "BRAIN", None, False),
        ("MR", "CHEST", None, False),
        ("DX", "KNEE", None, False),
        ("US", "CHEST", None, False),
        ("", "", None, False),
    ],
)
def test_modality_and_body_part_choose_the_model(
    modality: str, body_part: str, name: str | None, assumed: bool
) -> None:
    choice = packaged().choose(modality, body_part)
    assert (choice.entry.name if choice.entry else None) == name
    assert choice.assumed is assumed
    assert bool(choice.reason) is (assumed or name is None)
    assert "\n" not in choice.reason


def test_a_body_part_that_is_not_stated_is_not_guessed_between_models_of_several() -> None:
    chest = entry("demo-chest-ct@1")
    head = replace(chest, name="head-ct", body_parts=("BRAIN",))
    assert ModelSet((chest, replace(chest, version="2"))).choose("CT", "").assumed
    for order in ((chest, head), (head, chest)):
        choice = ModelSet(order).choose("CT", "")
        assert choice.entry is None and "body part not stated" in choice.reason


def test_free_text_in_the_body_part_is_not_repeated() -> None:
    choice = packaged().choose("CT", "Doe^Jane knee")
    assert choice.entry is None
    assert "Doe" not in choice.reason and "DOE" not in choice.reason


def test_a_model_that_the_site_names_goes_before_the_demo_model_for_what_it_is_made_for() -> None:
    preferred = ("brain-mr-densenet121", "chest-xray-resnet50@1")
    assert packaged(preferred).choose("DX", "CHEST").entry == entry("chest-xray-resnet50@1")
    assert packaged(preferred).choose("CT", "CHEST").entry == entry("demo-chest-ct")
    assert packaged(preferred).choose("DX", "KNEE").entry is None
    with pytest.raises(ModelNotFound, match="resnet9000"):
        packaged(("resnet9000",)).choose("DX", "CHEST")


def test_an_unknown_model_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ModelNotFound, match="demo-chest-ct@1"):
        entry("resnet9000")
    with pytest.raises(ModelNotFound, match="99"):
        entry("demo-chest-ct@99")


def test_the_three_clinical_architectures_are_listed_with_their_inputs() -> None:
    rows = {e.architecture: (len(e.classes), e.contract.height, e.modality[0]) for e in catalog() if not e.demo}
    assert rows == {"resnet50": (14, 512, "DX"), "efficientnet_b0": (3, 512, "CT"), "densenet121": (1, 512, "MR")}


@pytest.mark.parametrize("name", [e.name for e in catalog() if not e.demo])
def test_a_site_model_without_weights_says_where_the_file_must_lie(name: str, tmp_path) -> None:
    with pytest.raises(WeightsMissing) as caught:
        load(entry(name), tmp_path)
    assert str(tmp_path / f"{name}-1.safetensors") in str(caught.value)
    with pytest.raises(WeightsMissing, match="MODEL_PATH"):
        weights_path(entry(name), None)


def test_names_and_versions_are_unique_and_thresholds_fit_the_classes() -> None:
    assert len({(e.name, e.version) for e in catalog()}) == len(catalog())
    for known in catalog():
        assert len(known.thresholds) == len(known.classes)
        assert all(0 < threshold < 1 for threshold in known.thresholds)


def test_the_catalog_does_not_import_torch() -> None:
    code = "import sys, medai_pipeline.models.catalog; sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
