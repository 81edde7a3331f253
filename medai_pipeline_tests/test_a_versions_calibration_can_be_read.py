"""What training measured of a version's probabilities stays with it: in the card, in the registry, and for who asks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from medai_pipeline.cli import main
from medai_pipeline.local.model_commands import calibration_lines
from medai_pipeline.models.cards import from_card, read_card, to_card, write_toml
from medai_pipeline.models.catalog import catalog, entry
from medai_pipeline.models.measured import calibration_of
from medai_pipeline.registering import entry_of, register, register_packaged
from medai_pipeline.services import Services
from medai_pipeline.stages.registration import examine
from medai_pipeline_tests.model_versions import CARD, small_network, write_weights

BINS = [{"confidence": 0.1, "frequency": 0.15, "low": 0.05, "high": 0.3, "many": 40}]
HELD_OUT: dict[str, Any] = {
    "classes": {"Pneumothorax": {"calibration_error": 0.0312}, "Effusion": {"calibration_error": None}},
    "calibration_error": 0.0275,
    "reliability": BINS,
    "images": 80,
    "studies": 40,
}


def shown(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["models", "show", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_registry_keeps_it_and_show_says_it(cli_services: Services, tmp_path: Path) -> None:
    measured = calibration_of(HELD_OUT, multi_label=True)
    (tmp_path / "card.toml").write_text(write_toml(replace(from_card(CARD), calibration=measured)))
    weights = write_weights(tmp_path, small_network())
    made = examine(read_card(tmp_path / "card.toml"), weights, accept_maps=True)
    assert register(cli_services.registry, made, cli_services.settings.models_path, "ann", cli_services.now())
    assert entry_of(cli_services.registry.version("small-chest", "1")).calibration == measured
    assert not register(cli_services.registry, made, cli_services.settings.models_path, "ann", cli_services.now()), (
        "the same card"
    )
    lines = [line.split() for line in shown("small-chest@1").splitlines()]
    for words in ("over all (each class) 0.0275", "Pneumothorax 0.0312", "0.1 0.15 (0.05 to 0.3) 40"):
        assert words.split() in lines
    assert json.loads(shown("small-chest@1", "--json"))["card"]["calibration"] == measured


def test_the_packaged_models_bring_theirs(cli_services: Services) -> None:
    register_packaged(cli_services.registry, (), cli_services.settings.models_path, cli_services.now())
    for known in (model for model in catalog() if model.demo):
        held = json.loads(known.card.with_suffix(".json").read_text())["held_out"]
        lines = [line.split() for line in shown(f"{known.name}@1").splitlines()]
        for label, figures in held["classes"].items():
            assert [label, str(figures["calibration_error"])] in lines
        assert f"over all (each class) {held['calibration_error']}".split() in lines


@pytest.mark.parametrize(("multi_label", "over"), [(True, "each class"), (False, "top label")])
def test_a_card_survives_its_file_and_says_what_the_error_is_of(tmp_path: Path, multi_label: bool, over: str) -> None:
    known = replace(from_card({**CARD, "multi_label": multi_label}), calibration=calibration_of(HELD_OUT, multi_label))
    (tmp_path / "card.toml").write_text(write_toml(known))
    assert read_card(tmp_path / "card.toml") == known == from_card(json.loads(json.dumps(to_card(known))))
    assert known.calibration["over"] == over
    assert known.calibration["classes"] == [["Pneumothorax", 0.0312]]  # a class that was not measured is not zero


@pytest.mark.parametrize(
    "written", [{"by": "hand"}, {**calibration_of(HELD_OUT, True), "classes": "none"}, {"error": [1]}]
)
def test_what_a_person_wrote_there_is_shown_as_it_stands(written: dict[str, Any]) -> None:
    text = "\n".join(calibration_lines(written))
    assert all(name in text for name in written)


def test_where_nobody_measured_it_that_is_said() -> None:
    assert "not measured" in calibration_lines(entry("chest-xray-resnet50").calibration)[0]
