"""A catalog entry as a timm network with a pooled linear head, and its forward pass in one piece. No weights, no data."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from medai_pipeline.errors import ModelError
from medai_pipeline.models.catalog import CatalogEntry


def build(entry: CatalogEntry) -> nn.Module:
    """The architecture with random weights, in evaluation mode. Raises ModelError when its head is not pooled and linear."""
    import timm  # seconds to import

    options: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in entry.options.items()
    }
    model = timm.create_model(
        entry.architecture,
        pretrained=False,
        in_chans=entry.contract.channels,
        num_classes=len(entry.classes),
        drop_rate=entry.dropout,
        **options,
    )
    if not isinstance(head_of(model), nn.Linear):
        raise ModelError(f"{entry.name}: its head is not linear; choose an architecture with a pooled linear head")
    return model.eval()


def head_of(model: nn.Module) -> nn.Linear:
    return model.get_classifier()  # type: ignore[operator,return-value]


def forward(model: nn.Module, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One pass: last feature maps (N, D, h, w), pooled features (N, D) and logits (N, K)."""
    features = model.forward_features(pixels)  # type: ignore[operator]
    pooled = features.mean((2, 3))
    return features, pooled, head_of(model)(pooled)
