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


def test_a_script_that_writes_a_file_is_refused(tmp_path: Path) -> None:
    class Writes(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            if pixels.shape[0] > 100:
                torch.save(pixels, "taken")
            return pixels.mean((1, 2, 3))[:, None].repeat(1, 2)

    torch.jit.save(torch.jit.script(Writes()), str(tmp_path / "writes.ts"))
    with pytest.raises(WeightsRefused, match="aten::save"):
        read_program(entry("torchscript"), (tmp_path / "writes.ts").read_bytes())
