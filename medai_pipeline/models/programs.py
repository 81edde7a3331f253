"""Whole programs as models: TorchScript, and what `torch.export` saves. They answer images with logits, and are asked no more.

A program brings its own graph, so nothing of its inside is assumed: it has no heatmaps and no sampled head. Loading one
runs none of Python's code: `exported` looks an exported program through first, and TorchScript is a language of its own,
of which the calls that touch files are refused.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from medai_pipeline.errors import WeightsRefused
from medai_pipeline.models.catalog import CatalogEntry
from medai_pipeline.models.exported import cleaned


class Program(nn.Module):
    """A program in the shape the rest knows: its logits (N, K) are what a head that changes nothing sees."""

    def __init__(self, body: Any, classes: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(classes, classes)
        with torch.no_grad():
            self.head.weight.copy_(torch.eye(classes))
            self.head.bias.zero_()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.head(self.forward_features(pixels))

    def forward_features(self, pixels: torch.Tensor) -> torch.Tensor:
        logits = self.body(pixels)
        if not isinstance(logits, torch.Tensor) or logits.shape != (len(pixels), self.head.in_features):
            shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise WeightsRefused(
                f"the program answers {shape} for {len(pixels)} images, not ({len(pixels)}, {self.head.in_features}): "
                "it must give the logits of the card's classes"
            )
        return logits.float()

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        return features if pre_logits else self.head(features)

    def get_classifier(self) -> nn.Linear:
        return self.head

    def train(self, mode: bool = True) -> Program:
        """An exported program has one mode, that of its export."""
        return self


def read_program(entry: CatalogEntry, data: bytes) -> nn.Module:
    """The program of a file's bytes. Raises WeightsRefused when it is none, or holds numbers that are not finite."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        raise WeightsRefused(
            f"the file of {entry.label} is no {entry.kind} program: save it with {_SAVED_BY[entry.kind]}"
        )
    try:
        body = _READERS[entry.kind](data, entry.label)
    except (RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsRefused(
            f"the file of {entry.label} is no {entry.kind} program ({type(error).__name__}): save it with "
            f"{_SAVED_BY[entry.kind]}"
        ) from error
    wrong = [name for name, value in body.state_dict().items() if not bool(value.isfinite().all())]
    if wrong:
        raise WeightsRefused(f"weights of {entry.label} do not fit (not finite: {', '.join(wrong[:4])})")
    return Program(body, len(entry.classes))


def _scripted(data: bytes, label: str) -> Any:
    body = torch.jit.load(io.BytesIO(data), map_location="cpu").eval()
    found = sorted({kind for graph in _graphs(body) for kind in _calls(graph) if kind in _TOUCH_FILES})
    if found:
        raise WeightsRefused(f"the file of {label} is refused: its program calls {', '.join(found)}, which touch files")
    return body


def _graphs(body: Any) -> Iterator[Any]:
    """The code of every method of every module in it."""
    for module in body.modules():
        for name in module._c._method_names():
            yield module._c._get_method(name).graph


def _calls(block: Any) -> Iterator[str]:
    for node in block.nodes():
        yield node.kind()
        for inner in node.blocks():
            yield from _calls(inner)


def _exported(data: bytes, label: str) -> Any:
    return torch.export.load(io.BytesIO(cleaned(data, label))).module()


_READERS = {"torchscript": _scripted, "export": _exported}
_SAVED_BY = {"torchscript": "torch.jit.save", "export": "torch.export.save"}
_TOUCH_FILES = frozenset({"aten::save", "aten::load", "aten::from_file"})
