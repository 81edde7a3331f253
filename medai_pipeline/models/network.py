"""A catalog entry as a timm network with a linear head, and its forward pass in one piece. No weights, no data."""

from __future__ import annotations

import difflib
from typing import Any

import torch
from torch import nn

from medai_pipeline.errors import CardRefused, ModelError, WeightsRefused
from medai_pipeline.models.catalog import CatalogEntry
from medai_pipeline.records import InputContract

TRAINABLE = ("resnet18", "resnet50", "densenet121", "efficientnet_b0")  # a test builds each


def build(entry: CatalogEntry) -> nn.Module:
    """The architecture with random weights, in evaluation mode. Raises ModelError when its head is not linear."""
    import timm  # seconds to import

    options: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in entry.options.items()
    }
    if not timm.is_model(entry.architecture):
        raise CardRefused(
            f"{entry.label}: timm knows no architecture {entry.architecture!r}{_near(entry.architecture)}"
        )
    try:
        model = timm.create_model(
            entry.architecture,
            pretrained=False,
            in_chans=entry.contract.channels,
            num_classes=len(entry.classes),
            drop_rate=entry.dropout,
            **options,
        )
    except (TypeError, ValueError, AssertionError, RuntimeError, KeyError) as error:
        raise CardRefused(
            f"{entry.label}: timm cannot build {entry.architecture} with these options ({str(error)[:160]}): correct the card"
        ) from error
    if not isinstance(head_of(model), nn.Linear):
        raise ModelError(f"{entry.name}: its head is not linear; choose an architecture with a linear head")
    return model.eval()


def _near(name: str) -> str:
    import timm

    near = difflib.get_close_matches(name, timm.list_models(), n=3)
    return f": did you mean {', '.join(near)}?" if near else ": timm.list_models() names them"


def head_of(model: nn.Module) -> nn.Linear:
    return model.get_classifier()  # type: ignore[operator,return-value]


def has_pooled_head(model: nn.Module, contract: InputContract, device: str = "cpu") -> bool:
    """Whether its own logits are the linear head of the mean of its last feature maps: asked with an image of noise.

    Architectures that normalize or convolve after pooling (ConvNeXt, MobileNetV3), and those of tokens, are not so.
    Raises ModelError when the head is not even linear in what the network calls its features: no numbers could be trusted.
    """
    noise = _noise(contract).to(device)
    with torch.inference_mode():
        own = model(noise)
        if not own.isfinite().all():
            raise WeightsRefused("its answer to an image of noise is not a number: its weights are of no use")
        features, pooled, logits = forward(model, noise, pooled=False)
        if not _same(logits, own):
            raise ModelError("its last layer does not give its answer; choose an architecture with a linear head")
        if features.ndim != 4 or features.shape[1] != head_of(model).in_features:
            return False
        return _same(head_of(model)(features.mean((2, 3))), own)


def require_pooled_head(model: nn.Module, entry: CatalogEntry) -> None:
    """Raises ModelError for a network that cannot be trained here: training reads class activation maps, so the head must see
    the mean of the last feature maps, or another network would be trained than the one that is served.

    What the head sees is compared, not what it says: the weights are random and may say next to nothing.
    """
    with torch.inference_mode():
        features, seen, _ = forward(model, _noise(entry.contract), pooled=False)
        fits = features.ndim == 4 and features.shape[1] == seen.shape[-1]
        if fits and (features.mean((2, 3)) - seen).abs().max() <= 1e-3 * seen.abs().max():
            return
    raise ModelError(
        f"{entry.label}: {entry.architecture} does more than a mean between its last feature maps and its head, and cannot be "
        f"trained here; choose one that does not, as {', '.join(TRAINABLE)}"
    )


def forward(
    model: nn.Module, pixels: torch.Tensor, pooled: bool = True
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One pass: last feature maps (N, D, h, w), what the linear head sees (N, D) and logits (N, K).

    With a `pooled` head it sees the mean of the maps; otherwise what the network makes of them.
    """
    features = model.forward_features(pixels)  # type: ignore[operator]
    seen = features.mean((2, 3)) if pooled else model.forward_head(features, pre_logits=True)  # type: ignore[operator]
    return features, seen, head_of(model)(seen)


def _noise(contract: InputContract) -> torch.Tensor:
    shape = 1, contract.channels, contract.height, contract.width
    noise = torch.rand(*shape, generator=torch.Generator().manual_seed(0))
    return noise * (contract.high - contract.low) + contract.low


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).abs().max() <= 1e-3 * (1 + other.abs().max()))
