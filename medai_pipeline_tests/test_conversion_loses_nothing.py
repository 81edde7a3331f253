"""`medai models convert`: the weights are taken, what is left out is named, and no file that was there is lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from medai_pipeline.cli import main

WEIGHTS = {"conv.weight": torch.arange(8.0).reshape(2, 4), "fc.bias": torch.ones(2)}


def convert(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["models", "convert", *map(str, arguments)])
    return result.exit_code, " ".join(result.output.split())


def saved(folder: Path, held: object) -> Path:
    path = folder / "a.pth"
    torch.save(held, path)
    return path


def is_taken(target: Path) -> bool:
    found = load_file(target)
    return found.keys() == WEIGHTS.keys() and all(torch.equal(found[name], WEIGHTS[name]) for name in WEIGHTS)


@pytest.mark.parametrize(
    ("beside", "said"),
    [
        ({"best_acc1": torch.tensor(71.0), "epoch": 3}, "left out, 2 names: best_acc1 (1 tensor), epoch"),
        ({"class_weights": torch.ones(14)}, "left out, 1 name: class_weights (1 tensor)"),
        ({"model_ema": WEIGHTS, "step": 1}, "left out, 2 names: model_ema (2 tensors), step"),
        ({"optimizer": {"state": {0: {"exp_avg": torch.ones(2), "step": torch.tensor(1.0)}, 1: [torch.ones(1)]}}},
         "left out, 1 name: optimizer (3 tensors)"),
    ],
    ids=["figures", "stray", "second", "optimizer"],
)  # fmt: skip
def test_a_wrapper_goes_before_what_lies_beside_it_and_that_is_named(tmp_path: Path, beside: dict, said: str) -> None:
    for wrapper in ("state_dict", "model_state_dict", "net"):
        source = saved(tmp_path, {**beside, wrapper: WEIGHTS})
        code, output = convert(source, tmp_path / f"{wrapper}.safetensors")
        assert code == 0 and said in output and f"taken out of '{wrapper}'" in output and "2 tensors written" in output
        assert is_taken(tmp_path / f"{wrapper}.safetensors")


def test_what_lies_beside_inner_wrappers_and_in_the_state_dict_itself_is_named_too(tmp_path: Path) -> None:
    held = {"ema": {"state_dict": {**WEIGHTS, "note": "x"}, "decay": 0.9}, "lr": 1}
    code, output = convert(saved(tmp_path, held), tmp_path / "b.safetensors")
    assert code == 0 and "left out, 3 names: lr, ema.decay, ema.state_dict.note" in output
    assert is_taken(tmp_path / "b.safetensors")


def test_nothing_is_said_to_be_left_out_of_a_bare_state_dict(tmp_path: Path) -> None:
    code, output = convert(saved(tmp_path, WEIGHTS), tmp_path / "b.safetensors")
    assert (code, output) == (0, "2 tensors written")
    assert is_taken(tmp_path / "b.safetensors")


def test_a_wrapper_that_holds_settings_is_none(tmp_path: Path) -> None:
    held = {**WEIGHTS, "model": {"depth": 18}, "ema": {"decay": 0.9, "step": torch.tensor(3)}}
    code, output = convert(saved(tmp_path, held), tmp_path / "b.safetensors")
    assert code == 0 and "left out, 2 names: ema (1 tensor), model" in output
    assert is_taken(tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    "held",
    [
        {"encoder": WEIGHTS, "best_acc1": torch.tensor(71.0)},
        {"encoder": WEIGHTS, "class_weights": torch.ones(14)},
        {1: torch.ones(1), "1": torch.ones(1)},
    ],
    ids=["figure", "stray", "one name twice"],
)
def test_where_it_is_not_clear_what_the_weights_are_nothing_is_written(tmp_path: Path, held: object) -> None:
    code, output = convert(saved(tmp_path, held), tmp_path / "b.safetensors")
    assert code == 1 and "state_dict() alone, and convert that" in output
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def test_a_dictionary_that_holds_itself_ends_in_a_refusal(tmp_path: Path) -> None:
    held: dict = {"epoch": 1}
    held["model"] = held["net"] = held
    assert "no state dict found" in convert(saved(tmp_path, held), tmp_path / "b.safetensors")[1]


@pytest.mark.parametrize("spelling", ["same", "other", "symbolic", "hard"])
def test_the_checkpoint_is_never_its_own_target(tmp_path: Path, spelling: str) -> None:
    source = saved(tmp_path, {"state_dict": WEIGHTS})
    target = {"same": source, "other": tmp_path / ".." / tmp_path.name / "a.pth"}.get(spelling, tmp_path / "link")
    if spelling == "symbolic":
        target.symlink_to(source)
    if spelling == "hard":
        os.link(source, target)
    before = source.read_bytes()
    for options in ((), ("--overwrite",)):
        code, output = convert(source, target, *options)
        assert code == 1 and "is the checkpoint itself: name another file" in output
    assert source.read_bytes() == before and target.samefile(source)


def test_a_file_that_is_there_is_replaced_only_where_that_is_said(tmp_path: Path) -> None:
    source, target = saved(tmp_path, WEIGHTS), tmp_path / "b.safetensors"
    target.write_bytes(b"the only copy")
    code, output = convert(source, target)
    assert code == 1 and "is there already: name another file, or say --overwrite" in output
    assert target.read_bytes() == b"the only copy"
    assert convert(source, target, "--overwrite")[0] == 0 and is_taken(target)


@pytest.mark.parametrize(
    "place", ["no-folder/b.safetensors", "a.pth/b.safetensors", "b" * 300], ids=lambda text: text[:9]
)
def test_a_target_that_cannot_be_written_says_so(tmp_path: Path, place: str) -> None:
    code, output = convert(saved(tmp_path, WEIGHTS), tmp_path / place)
    assert code == 1 and "cannot be written" in output and "name a file in a folder that is there" in output


def test_a_disk_that_fills_up_leaves_the_file_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = saved(tmp_path, WEIGHTS), tmp_path / "b.safetensors"
    target.write_bytes(b"the only copy")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        code, output = convert(source, target, "--overwrite")
    assert code == 1 and "(No space left on device): make room there" in output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pth", "b.safetensors"]
    assert target.read_bytes() == b"the only copy"


# What makes torch.load raise KeyError, EOFError, UnpicklingError, RuntimeError, IndexError and UnicodeDecodeError.
OTHER = [b"hello world", b"", b"\x80\x04", b"PK\x03\x04", b"2", b"X\x01\x00\x00\x00\xff.", bytes(range(256))]


@pytest.mark.parametrize("data", OTHER, ids=[str(data[:6]) for data in OTHER])
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line_with_what_to_do(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.pth").write_bytes(data)
    code, output = convert(tmp_path / "a.pth", tmp_path / "b.safetensors")
    assert code == 1 and "save its state_dict() where it was made" in output and "unexpected" not in output
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


@pytest.mark.parametrize(
    "tensor",
    [torch.eye(3).to_sparse(), torch.zeros(3, device="meta"), torch.zeros(3, dtype=torch.complex128)],
    ids=["sparse", "meta", "complex128"],
)
def test_tensors_that_safetensors_has_no_form_for_are_refused(tmp_path: Path, tensor: torch.Tensor) -> None:
    code, output = convert(saved(tmp_path, {**WEIGHTS, "odd": tensor}), tmp_path / "b.safetensors")
    assert code == 1 and "save plain, dense ones" in output and "unexpected" not in output
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]
