"""A program from elsewhere computes on tensors, or is refused before any of its code runs."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from medai_pipeline.errors import WeightsRefused
from medai_pipeline.models import programs
from medai_pipeline.models import scripted as scripted_module
from medai_pipeline.models.cards import from_card
from medai_pipeline.models.catalog import CatalogEntry
from medai_pipeline.models.programs import read_program
from medai_pipeline_tests.model_versions import CARD

Change = Callable[[str, bytes], bytes]


def entry(kind: str) -> CatalogEntry:
    return from_card({**CARD, "kind": kind, "architecture": "", "options": {}})


class Network(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, stride=2), torch.nn.BatchNorm2d(4), torch.nn.ReLU())
        self.last = torch.nn.Linear(4, 2)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.last(self.body(pixels).mean((2, 3)))


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return Network().eval()


@pytest.fixture(scope="module")
def exported(network: torch.nn.Module) -> bytes:
    images = torch.export.Dim("images", min=1, max=64)
    program = torch.export.export(network, (torch.zeros(2, 1, 64, 64),), dynamic_shapes=({0: images},))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def changed(data: bytes, change: Change) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w") as target:
        for name in source.namelist():
            target.writestr(name, change(name, source.read(name)))
    return buffer.getvalue()


def in_graph(change: Callable[[dict[str, Any]], None]) -> Change:
    def applied(name: str, content: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return content
        held = json.loads(content)
        change(held)
        return json.dumps(held).encode()

    return applied


def nodes(held: dict[str, Any]) -> list[dict[str, Any]]:
    return held["graph_module"]["graph"]["nodes"]


class Command:
    """What unpickling would run."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


def test_an_exported_program_answers_as_its_network_does(network: torch.nn.Module, exported: bytes) -> None:
    images = torch.rand(3, 1, 64, 64)
    torch.testing.assert_close(read_program(entry("export"), exported)(images), network(images))


def test_pickled_sample_inputs_are_not_run(exported: bytes, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save((Command(tmp_path / "ran"),), buffer)
    hostile = changed(exported, lambda name, held: buffer.getvalue() if "sample_inputs" in name else held)
    with pytest.raises(WeightsRefused, match="sample inputs"):
        read_program(entry("export"), hostile)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("target", ["torch.os.system", "torch.ops.load_library", "torch.hub.load", "#ext:x",
                                    "torch.ops.aten.from_file.default"])  # fmt: skip
def test_only_operators_of_tensors_are_called(exported: bytes, target: str) -> None:
    hostile = changed(exported, in_graph(lambda held: nodes(held)[0].update(target=target)))
    with pytest.raises(WeightsRefused, match="no operator"):
        read_program(entry("export"), hostile)


@pytest.mark.parametrize("size", ["__import__('os').system('true')", "exec(chr(49))", "s0.__class__", "open('x')"])
def test_sizes_are_expressions_of_sizes(exported: bytes, size: str) -> None:
    def put(held: dict[str, Any]) -> None:
        values = held["graph_module"]["graph"]["tensor_values"]
        next(iter(values.values()))["sizes"][0] = {"as_expr": {"expr_str": size, "hint": None}}

    with pytest.raises(WeightsRefused, match="no expression of sizes"):
        read_program(entry("export"), changed(exported, in_graph(put)))


def test_guards_in_python_are_left_out(network: torch.nn.Module, exported: bytes, tmp_path: Path) -> None:
    code = [f"__import__('os').system('touch {tmp_path / 'ran'}') == 0"]
    program = read_program(entry("export"), changed(exported, in_graph(lambda held: held.update(guards_code=code))))
    images = torch.rand(1, 1, 64, 64)
    torch.testing.assert_close(program(images), network(images))
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_and_files_of_other_kinds_are_refused(exported: bytes) -> None:
    def pickled(name: str, content: bytes) -> bytes:
        return content.replace(b'"use_pickle": false', b'"use_pickle": true') if "weights_config" in name else content

    with pytest.raises(WeightsRefused, match="kept as a pickle"):
        read_program(entry("export"), changed(exported, pickled))
    buffer = io.BytesIO(exported)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(f"{archive.namelist()[0].split('/')[0]}/data/weights/model.pt", b"")
    with pytest.raises(WeightsRefused, match="no part of a graph"):
        read_program(entry("export"), buffer.getvalue())


def scripted(module: torch.nn.Module) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(module), buffer)
    return buffer.getvalue()


def test_a_script_answers_as_its_network_does_without_the_traces_of_where_it_was_made(network: torch.nn.Module) -> None:
    images = torch.rand(3, 1, 64, 64)
    for program in (
        torch.jit.script(network),
        torch.jit.trace(network, images),
        torch.jit.freeze(torch.jit.script(network)),
    ):
        buffer = io.BytesIO()
        torch.jit.save(program, buffer, _extra_files={"notes": "a secret of the site"})
        read = read_program(entry("torchscript"), buffer.getvalue())
        torch.testing.assert_close(read(images), network(images))
        saved = io.BytesIO()
        torch.jit.save(read.body, saved)
        assert not any("extra" in name for name in zipfile.ZipFile(saved).namelist())


def test_a_script_that_writes_a_file_is_refused(tmp_path: Path) -> None:
    class Writes(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            if pixels.shape[0] > 100:
                torch.save(pixels, "taken")
            return pixels.mean((1, 2, 3))[:, None].repeat(1, 2)

    with pytest.raises(WeightsRefused, match="reads or writes files"):
        read_program(entry("torchscript"), scripted(Writes()))


# How a program can reach a file: each module makes the file "marker" below the working directory when its code runs.


def _from_file(pixels: torch.Tensor) -> torch.Tensor:
    return torch.from_file("marker", True, 10)  # shared: makes it where it is not


class InFunction(torch.nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.mean((2, 3)).repeat(1, 2) + _from_file(pixels).sum()


class Beside(torch.nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        other = torch.jit.fork(_from_file, pixels)
        return pixels.mean((2, 3)).repeat(1, 2) + torch.jit.wait(other).sum()


class WhileOpened(torch.nn.Module):
    @torch.jit.export
    def __getstate__(self) -> tuple[bool, int]:
        return (self.training, 1)

    @torch.jit.export
    def __setstate__(self, state: tuple[bool, int]) -> None:
        self.training = state[0] and torch.from_file("marker", True, 10).numel() == 0

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.mean((2, 3)).repeat(1, 2)


class Hooked(torch.nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.mean((2, 3)).repeat(1, 2)


def _before(self, input: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    return (input[0] + torch.from_file("marker", True, 10).sum(),)


def hooked() -> torch.nn.Module:
    module = Hooked()
    module.register_forward_pre_hook(_before)
    return module


HOSTILE: dict[str, Callable[[], torch.nn.Module]] = {
    "a function": InFunction,
    "beside": Beside,
    "while it is opened": WhileOpened,
    "a hook": hooked,
}


@pytest.mark.parametrize(
    ("make", "hidden"),
    [*((make, False) for make in HOSTILE), *((make, True) for make in HOSTILE if make != "while it is opened")],
)
def test_no_file_is_touched_by_a_script_however_it_calls(
    make: str, hidden: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`hidden`: past the look at its text, as if somebody had found a way to write it that is not recognised."""
    monkeypatch.chdir(tmp_path)
    data = scripted(HOSTILE[make]())
    if hidden:
        monkeypatch.setattr(scripted_module, "_IN_CODE", ())
    with pytest.raises(WeightsRefused, match="from_file" if hidden else "files|while it is opened"):
        read_program(entry("torchscript"), data)
    assert not (tmp_path / "marker").exists()
    torch.jit.load(io.BytesIO(data))(torch.zeros(1, 1, 8, 8))
    assert (tmp_path / "marker").exists()  # it would have been


def test_a_script_that_reads_a_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripted_module, "_IN_CODE", ())

    class Reads(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            if pixels.shape[0] > 100:
                pixels = pixels + torch.ops.image.read_file("secret").sum()
            return pixels.mean((2, 3)).repeat(1, 2)

    import torchvision  # noqa: F401  # its operators

    with pytest.raises(WeightsRefused, match="image::read_file"):
        read_program(entry("torchscript"), scripted(Reads()))


def test_what_is_no_part_of_a_script_and_what_stands_twice_is_refused(network: torch.nn.Module) -> None:
    for name, words in (("archive/model.json", "no part of a program"), ("archive/version", "two files of one name")):
        buffer = io.BytesIO(scripted(network))
        with zipfile.ZipFile(buffer, "a") as archive:
            archive.writestr(name, b"{}")
        with pytest.raises(WeightsRefused, match=words):
            read_program(entry("torchscript"), buffer.getvalue())


def test_an_exported_program_that_makes_numbers_of_its_own_makes_them_on_the_device_that_computes() -> None:
    """The device of shapes alone stands for a card: torch refuses to mix it with the CPU as it does CUDA."""

    class Counts(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return pixels.mean((2, 3)).repeat(1, 2) + torch.arange(2, device=pixels.device)

    buffer = io.BytesIO()
    torch.export.save(torch.export.export(Counts(), (torch.zeros(2, 1, 8, 8),)), buffer)
    program = programs._exported(buffer.getvalue(), "counts@1", "meta")
    assert program(torch.zeros(2, 1, 8, 8, device="meta")).device.type == "meta"
