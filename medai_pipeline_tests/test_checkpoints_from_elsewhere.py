"""Checkpoints as training frameworks leave them: recognised whole, or refused with what differs; code in them never runs."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from medai_pipeline.errors import WeightsRefused
from medai_pipeline.models.checkpoint import convert, matched, unwrapped


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", pretrained=False, in_chans=1, num_classes=3, channels=[8, 8, 16, 16])
    return model.state_dict()


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "model.module.", "net.backbone."])
def test_a_prefix_is_recognised_and_taken_off(expected: dict[str, torch.Tensor], prefix: str) -> None:
    state, found = matched({prefix + name: value for name, value in expected.items()}, expected, "a model")
    assert found == prefix
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


@pytest.mark.parametrize("way", [(), ("state_dict",), ("model",), ("ema", "state_dict"), ("model_state_dict",)])
def test_a_wrapper_is_taken_off_by_conversion(expected: dict[str, torch.Tensor], way: tuple, tmp_path: Path) -> None:
    held: dict = dict(expected)
    for name in reversed(way):
        held = {"epoch": 3, name: held}
    torch.save(held, tmp_path / "a.pth")
    lines = convert(tmp_path / "a.pth", tmp_path / "a.safetensors")
    assert (f"taken out of {'.'.join(way)!r}" in lines) is bool(way)
    assert matched(load_file(tmp_path / "a.safetensors"), expected, "a model")[1] == ""


def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> tuple:
            return (Path.touch, (ran,))

    (tmp_path / "bad.pth").write_bytes(pickle.dumps({"state_dict": Trap()}))
    torch.save({"model": Trap()}, tmp_path / "worse.pth")
    for name in ("bad.pth", "worse.pth"):
        with pytest.raises(WeightsRefused, match=r"save its state_dict\(\)"):
            convert(tmp_path / name, tmp_path / "out.safetensors")
    assert not ran.exists() and not (tmp_path / "out.safetensors").exists()


def test_another_head_is_refused_with_both_numbers_of_classes(expected: dict[str, torch.Tensor]) -> None:
    state = {**expected, "fc.weight": torch.zeros(14, 16), "fc.bias": torch.zeros(14)}
    with pytest.raises(WeightsRefused, match=r"fc\.weight \(14, 16\) instead of \(3, 16\).*made for 14 classes, not 3"):
        matched(state, expected, "a model")


def test_what_is_missing_unknown_or_not_finite_is_listed(expected: dict[str, torch.Tensor]) -> None:
    state = {name: value.clone() for name, value in expected.items() if not name.startswith("layer1.0.conv1")}
    state["layer9.weight"] = torch.zeros(3)
    state["fc.bias"][0] = torch.nan
    with pytest.raises(WeightsRefused) as caught:
        matched(state, expected, "a model")
    for part in ("missing: layer1.0.conv1.weight", "unknown: layer9.weight", "not finite: fc.bias"):
        assert part in str(caught.value)


def test_a_checkpoint_of_another_architecture_is_never_loaded_in_part(expected: dict[str, torch.Tensor]) -> None:
    other = timm.create_model("mobilenetv3_small_050", pretrained=False, num_classes=3).state_dict()
    with pytest.raises(WeightsRefused, match=r"missing: .* and \d+ more; unknown"):
        matched(other, expected, "a model")


@pytest.mark.parametrize("held", [{}, {"epoch": 1}, {"model": {"epoch": 1}}, [1], torch.zeros(2)])
def test_a_file_without_a_state_dict_says_what_it_holds(held: object) -> None:
    with pytest.raises(WeightsRefused, match="no state dict found"):
        unwrapped(held)
