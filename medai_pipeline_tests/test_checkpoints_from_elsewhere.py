"""Checkpoints as training frameworks leave them: recognised whole, or refused with what differs; code in them never runs."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from medai_pipeline.errors import WeightsRefused
from medai_pipeline.models.checkpoint import convert, from_torchxrayvision, matched, unwrapped


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


@pytest.mark.parametrize("outside", [("fc.weight", "fc.bias"), ("layer9.weight",), ("student.fc.bias",)])
@pytest.mark.parametrize("same", [False, True], ids=["another", "the same"])
def test_names_outside_of_the_prefix_are_refused_and_listed(
    expected: dict[str, torch.Tensor], outside: tuple[str, ...], same: bool
) -> None:
    """Of two heads one would be left without a word."""
    state = {f"module.{name}": value for name, value in expected.items()}
    other = {name: expected["fc.bias" if name.endswith("bias") else "fc.weight"] + (not same) for name in outside}
    with pytest.raises(
        WeightsRefused, match=r"outside of 'module\.': .*save the state_dict\(\) of that network"
    ) as caught:
        matched(state | other, expected, "a model")
    assert all(name in str(caught.value) for name in outside)


def test_a_head_outside_of_the_prefix_does_not_complete_a_network(expected: dict[str, torch.Tensor]) -> None:
    state = {name if name.startswith("fc.") else f"backbone.{name}": value for name, value in expected.items()}
    with pytest.raises(
        WeightsRefused, match=r"outside of 'backbone\.': fc\.bias, fc\.weight; missing: fc\.bias, fc\.weight"
    ):
        matched(state, expected, "a model")


def test_old_and_new_names_of_one_layer_do_not_hide_each_other() -> None:
    state = {"features.norm.1.weight": torch.zeros(2), "features.norm1.weight": torch.ones(2)}
    assert from_torchxrayvision(state).keys() == state.keys()  # and `matched` refuses the one that it does not know


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64])
def test_weights_that_are_no_floating_point_numbers_are_refused(
    expected: dict[str, torch.Tensor], dtype: torch.dtype
) -> None:
    said = rf"of another type: conv1\.0\.weight {str(dtype).removeprefix('torch.')} instead of float32"
    with pytest.raises(WeightsRefused, match=said):
        matched({**expected, "conv1.0.weight": expected["conv1.0.weight"].to(dtype)}, expected, "a model")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_taken_with_counters_of_any_kind(
    expected: dict[str, torch.Tensor], dtype: torch.dtype
) -> None:
    assert matched({name: value.to(dtype) for name, value in expected.items()}, expected, "a model")[1] == ""


def test_a_number_that_the_network_cannot_hold_is_not_finite(expected: dict[str, torch.Tensor]) -> None:
    state = {**expected, "fc.bias": torch.tensor([0.0, 1e300, 0.0], dtype=torch.float64)}
    with pytest.raises(WeightsRefused, match=r"not finite: fc\.bias"):
        matched(state, expected, "a model")


@pytest.mark.parametrize("held", [{}, {"epoch": 1}, {"model": {"epoch": 1}}, [1], torch.zeros(2)])
def test_a_file_without_a_state_dict_says_what_it_holds(held: object) -> None:
    with pytest.raises(WeightsRefused, match="no state dict found"):
        unwrapped(held)
