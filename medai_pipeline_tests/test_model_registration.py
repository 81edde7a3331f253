"""Before a version may answer: whatever is wrong with it is refused with the reason, and what it can do is measured."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from medai_pipeline.errors import CardRefused, MedaiError, ModelError, WeightsRefused
from medai_pipeline.models.cards import from_card, from_registry, read_card, to_card
from medai_pipeline.models.catalog import PACKAGED_WEIGHTS, catalog, entry
from medai_pipeline.models.infer import predict
from medai_pipeline.models.load import load_anew
from medai_pipeline.stages.registration import examine, phantom_images
from medai_pipeline_tests.model_versions import CARD, small_network, write_card, write_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights"), small_network())


def examined(weights: Path, **changes: Any) -> Any:
    return examine(from_card({**CARD, **changes}), weights, accept_maps=True)


def test_what_passes_is_measured_and_answers_alike_on_every_machine(weights: Path) -> None:
    first, again = examined(weights).measured, examined(weights).measured
    assert first["outputs_sha256"] == again["outputs_sha256"]
    assert first["images_per_second"] > 0
    assert first["weights_mb"] == pytest.approx(weights.stat().st_size / 1e6, abs=0.01)
    assert (
        examined(write_weights(weights.parent, small_network(1), "other")).measured["outputs_sha256"]
        != (first["outputs_sha256"])
    )


def test_a_card_survives_the_registry() -> None:
    for known in catalog():
        assert from_card(to_card(known)) == known


FAULTS = [
    ({"thresholds": None}, "thresholds is missing"),
    ({"thresholds": [0.5]}, "1 thresholds for 2 classes"),
    ({"thresholds": [0.5, 1.5]}, "between 0 and 1"),
    ({"licence": ""}, "licence is empty"),
    ({"kind": "keras"}, "kind must be one of"),
    ({"body_parts": ["LUNG"]}, "CHEST for LUNG"),
    ({"codes": ["pneumothorax", "x"]}, "SCT:36118008"),
    ({"classes": ["A", "A"]}, "named twice"),
    ({"name": "../up"}, "name must be letters"),
    ({"colour": "red"}, "colour is not known"),
    ({"aggregation": "mean"}, "aggregation must be max"),
    ({"temperature": 0}, "temperature must be above 0"),
    ({"contract": {"height": 64, "width": 64, "scaling": "sonar"}}, "contract.scaling"),
    ({"contract": {"height": 64}}, "contract.width is missing"),
    ({"contract": {"height": 64, "width": 64, "fit": "banana"}}, "contract.fit must be one of pad, stretch"),
    ({"contract": {"height": 64.5, "width": 64}}, "contract.height must be a whole number, not 64.5"),
    ({"contract": {"height": 64, "width": 100_000}}, "between 1 and 4096"),
    ({"contract": {"height": 64, "width": True}}, "contract.width must be a whole number"),
    ({"contract": {"height": 64, "width": 64, "low": 1.0}}, "both finite"),
    ({"multi_label": "no"}, 'multi_label must be true or false, not "no"'),
    ({"demo": "no"}, "demo must be true or false"),
    ({"classes": ["A", 3]}, "classes must be a list of texts"),
    ({"classes": ["Mass", "mass"]}, "named twice"),
    ({"classes": "AB"}, "classes must be a list of texts"),
    ({"body_parts": [""]}, "must name one at least"),
    ({"options": [1]}, "options must be a table"),
    ({"licence": 5}, "licence must be a text, not 5"),
    ({"prepared": {"x": 1}}, "prepared is not known"),
    ({"members": {"a@1": 1.0, "b": 1.0}}, "named with their version"),
    ({"members": {"a@1": 1.0, "b@1": True}}, "members need weights above 0"),
    ({"members": {"a@1": 1.0, "b@1": 1.0}, "temperature": 7.0}, "not an ensemble's"),
]


@pytest.mark.parametrize(("changes", "words"), FAULTS, ids=[words for _, words in FAULTS])
def test_a_card_that_lacks_something_is_refused_with_what(tmp_path: Path, changes: dict, words: str) -> None:
    with pytest.raises(CardRefused, match=re.escape(words)):
        read_card(write_card(tmp_path, {**CARD, **changes}))


def test_a_card_that_was_registered_before_a_rule_came_is_still_read() -> None:
    known = dataclasses.replace(from_card(CARD), licence="")
    with pytest.raises(CardRefused, match="licence"):
        from_card(to_card(known))
    assert from_registry(to_card(known)) == known


@pytest.mark.parametrize(
    ("modality", "scaling"),
    [(["DX"], "ct-lung"), (["DX"], "ct-brain"), (["CT", "CR"], "ct-chest"), (["MR"], "ct-lung")],
)
def test_a_version_that_could_read_no_study_of_its_modality_is_refused(
    weights: Path, modality: list[str], scaling: str
) -> None:
    contract = {**CARD["contract"], "scaling": scaling}
    with pytest.raises(WeightsRefused, match=f"could read no {modality[-1]} image: .*{scaling}.*Hounsfield"):
        examined(weights, modality=modality, contract=contract)


def _spoilt(weights: Path, change) -> Path:
    state = load_file(str(weights))
    change(state)
    path = weights.with_name("spoilt.safetensors")
    save_file(state, str(path))
    return path


def test_a_wrong_checksum_is_refused(weights: Path) -> None:
    with pytest.raises(WeightsRefused, match="expected 000000000000"):
        examined(weights, weights_sha256="0" * 64)


def test_weights_that_are_not_numbers_are_refused(weights: Path) -> None:
    def spoil(state: dict[str, torch.Tensor]) -> None:
        state["layer1.0.conv1.weight"][0, 0, 0, 0] = float("nan")

    with pytest.raises(WeightsRefused, match=r"not finite: layer1\.0\.conv1\.weight"):
        examined(_spoilt(weights, spoil))


def test_a_head_of_another_class_count_is_refused(weights: Path) -> None:
    with pytest.raises(WeightsRefused, match="made for 2 classes, not 3"):
        examined(weights, classes=["A", "B", "C"], thresholds=[0.5] * 3)


def test_finite_weights_whose_answers_are_not_are_refused(weights: Path) -> None:
    def spoil(state: dict[str, torch.Tensor]) -> None:
        state["conv1.0.weight"] *= 1e38

    with pytest.raises(ModelError, match="not a number"):
        examined(_spoilt(weights, spoil))


def test_a_pickle_is_refused_with_the_command_that_converts_it(tmp_path: Path) -> None:
    torch.save(small_network().state_dict(), tmp_path / "a.pt")
    with pytest.raises(WeightsRefused, match="medai models convert"):
        examined(tmp_path / "a.pt")
    with pytest.raises(WeightsRefused, match=r"torch\.jit\.save"):
        (tmp_path / "b.ts").write_bytes(b"\x80\x04K\x01.")
        examined(tmp_path / "b.ts", kind="torchscript")


def test_a_model_whose_maps_ignore_what_it_learned_needs_a_persons_word(weights: Path, monkeypatch) -> None:
    monkeypatch.setattr("medai_pipeline.explain.randomization.MOST_AGREEMENT", -1.0)  # no map differs so much
    with pytest.raises(ModelError, match="--accept-insensitive-maps"):
        examine(from_card(CARD), weights)
    assert "accepted" in examined(weights).measured["maps"]


def test_the_demo_models_maps_depend_on_what_they_learned() -> None:
    known = entry("demo-brain-mr")
    assert examine(known, PACKAGED_WEIGHTS / known.weights_file).measured["maps_agreement"] < 0.5


# whole programs ---------------------------------------------------------------------------------------------


class Bare(nn.Module):
    """Logits and nothing else, as a program gives them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.network(pixels)


def _saved(folder: Path, kind: str, network: nn.Module) -> Path:
    images = torch.rand(2, 1, 64, 64)
    path = folder / f"program.{kind}"
    if kind == "torchscript":
        torch.jit.save(torch.jit.trace(network, images), str(path))
    else:
        batch = torch.export.Dim("batch", min=1, max=1024)
        torch.export.save(torch.export.export(network, (images,), dynamic_shapes=({0: batch},)), path)
    return path


@pytest.mark.parametrize("kind", ["torchscript", "export"])
def test_a_program_answers_as_the_network_it_was_made_of(tmp_path: Path, kind: str) -> None:
    network = small_network()
    path = _saved(tmp_path, kind, Bare(network))
    card = from_card({**CARD, "kind": kind, "architecture": ""})
    assert examine(card, path).measured["maps"] == "a program has no heatmaps"
    images = phantom_images(card)
    with torch.inference_mode():
        wanted = torch.sigmoid(network(torch.from_numpy(images))).numpy()
    assert np.allclose(predict(load_anew(card, path), images).probabilities, wanted, atol=1e-5)


def test_a_program_of_another_class_count_is_refused(tmp_path: Path) -> None:
    path = _saved(tmp_path, "torchscript", Bare(small_network()))
    with pytest.raises(MedaiError, match=r"not \(1, 3\)"):
        examined(path, kind="torchscript", classes=["A", "B", "C"], thresholds=[0.5] * 3)


def test_a_program_that_draws_at_random_is_refused(tmp_path: Path) -> None:
    class Noisy(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.rand(pixels.shape[0], 2)

    torch.jit.save(torch.jit.script(Noisy()), str(tmp_path / "noise.ts"))
    with pytest.raises(MedaiError):
        examined(tmp_path / "noise.ts", kind="torchscript")


# TorchXRayVision --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [False, True], ids=["names of today", "names with dots"])
def test_a_torchxrayvision_densenet_is_recognised(tmp_path: Path, old: bool) -> None:
    labels = ["Atelectasis", "Effusion", "Pneumothorax"]
    card = {**CARD, "architecture": "densenet121", "options": {}, "classes": labels, "thresholds": [0.5] * 3}
    card |= {
        "kind": "torchxrayvision",
        "contract": {"height": 64, "width": 64, "low": -1024, "high": 1024, "scaling": "xray"},
    }
    torch.manual_seed(0)
    import timm

    network = timm.create_model("densenet121", pretrained=False, in_chans=1, num_classes=3)
    state = {**network.state_dict(), "op_threshs": torch.full((3,), float("nan"))}
    if old:
        state = {
            re.sub(r"(denselayer\d+\.(?:norm|conv))(\d\.)", r"\1.\2", name): value for name, value in state.items()
        }
    save_file(state, str(tmp_path / "xrv.safetensors"))
    found = examine(from_card(card), tmp_path / "xrv.safetensors", accept_maps=True)
    assert found.entry.weights_sha256
    assert phantom_images(found.entry).min() < -500
