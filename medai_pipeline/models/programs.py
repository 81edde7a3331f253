"""Whole programs as models: TorchScript, and what `torch.export` saves. They answer images with logits, and are asked no more.

A program brings its own graph, so nothing of its inside is assumed: it has no heatmaps and no sampled head. Loading one
runs none of its code: `exported` and `scripted` look it through first.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from typing import Any

import torch
from torch import nn

from medai_pipeline.errors import WeightsRefused
from medai_pipeline.models.catalog import CatalogEntry
from medai_pipeline.models.exported import cleaned
from medai_pipeline.models.scripted import opened


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


def read_program(entry: CatalogEntry, data: bytes, device: str = "cpu") -> nn.Module:
    """The program of a file's bytes, to compute on `device`. Raises WeightsRefused when it is none, or holds numbers that are not finite."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        raise WeightsRefused(
            f"the file of {entry.label} is no {entry.kind} program: save it with {_SAVED_BY[entry.kind]}"
        )
    try:
        body = _READERS[entry.kind](data, entry.label, device)
    except (RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsRefused(
            f"the file of {entry.label} is no {entry.kind} program ({type(error).__name__}): save it with "
            f"{_SAVED_BY[entry.kind]}"
        ) from error
    wrong = [name for name, value in body.state_dict().items() if not bool(value.isfinite().all())]
    if wrong:
        raise WeightsRefused(f"weights of {entry.label} do not fit (not finite: {', '.join(wrong[:4])})")
    return Program(body, len(entry.classes))


def _exported(data: bytes, label: str, device: str) -> Any:
    program = torch.export.load(io.BytesIO(cleaned(data, label)))
    if device != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)  # its graph names the device that its constants are made on
    return program.module()


_READERS = {"torchscript": opened, "export": _exported}
_SAVED_BY = {"torchscript": "torch.jit.save", "export": "torch.export.save"}
