"""Weights from a file to a network that answers: found, digest-checked, finite, complete; cached per process."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medai_pipeline.errors import WeightsMissing, WeightsRefused
from medai_pipeline.models.catalog import PACKAGED_WEIGHTS, CatalogEntry
from medai_pipeline.models.checkpoint import matched
from medai_pipeline.models.familiarity import Familiarity, features_file, read

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

_CACHE: dict[tuple[str, str, str, str], LoadedModel] = {}


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A network with its weights on a device. `head_weight` (K, D) and `head_bias` (K,) are its linear head's.

    `pooled`: the head sees the mean of the last feature maps, so that explanations need no gradient. Asked, not assumed.
    """

    entry: CatalogEntry
    network: torch.nn.Module
    device: str
    weights_sha256: str
    head_weight: np.ndarray
    head_bias: np.ndarray
    pooled: bool = True
    familiarity: Familiarity | None = None  # what its training's features look like, where that is known


def weights_path(entry: CatalogEntry, models_path: Path | None) -> Path:
    """Where the weights lie: a demo model's in the package, a site's under MODEL_PATH. Raises WeightsMissing that says where."""
    place = PACKAGED_WEIGHTS if entry.demo else models_path
    if place is None:
        raise WeightsMissing(
            f"{entry.name} needs weights of the site: set MODEL_PATH to the folder of {entry.weights_file}"
        )
    path = Path(place) / entry.weights_file
    if not path.is_file():
        raise WeightsMissing(f"no weights for {entry.name}@{entry.version}: put the file at {path}")
    return path


def load(entry: CatalogEntry, models_path: Path | None = None, device: str = "cpu") -> LoadedModel:
    """The model ready to answer, on "cpu" or "cuda" (the CPU when there is no CUDA device).

    Raises WeightsMissing; WeightsRefused when the digest, the names, the shapes or the values are wrong.
    """
    path = weights_path(entry, models_path)
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if entry.weights_sha256 and digest != entry.weights_sha256:
        raise WeightsRefused(
            f"weights of {entry.name}@{entry.version} have digest {digest[:12]}, expected {entry.weights_sha256[:12]}: "
            "restore the file"
        )
    device = _device(device)
    key = (entry.name, entry.version, digest, device)
    if key not in _CACHE:
        _CACHE[key] = replace(
            _build(entry, data, digest, device), familiarity=read(path.with_name(features_file(entry)))
        )
    return _CACHE[key]


def _device(wanted: str) -> str:
    import torch

    if wanted.startswith("cuda") and not torch.cuda.is_available():
        log.info("no CUDA device here: the CPU serves")
        return "cpu"
    return wanted


def _build(entry: CatalogEntry, data: bytes, digest: str, device: str) -> LoadedModel:
    from safetensors import SafetensorError
    from safetensors.torch import load as read_weights

    from medai_pipeline.models.network import build, has_pooled_head, head_of

    try:
        state = read_weights(data)
    except SafetensorError as error:
        raise WeightsRefused(f"weights of {entry.name} are not a safetensors file: {error}") from error
    network = build(entry)
    state, prefix = matched(state, network.state_dict(), f"{entry.name}@{entry.version}")
    if prefix:
        log.info("%s: names of its weights begin with %r, which was taken off", entry.name, prefix)
    network.load_state_dict(state, strict=False)  # only batch counters may be absent: `matched` has looked
    network = network.eval().to(device)
    head = head_of(network)
    weight = head.weight.detach().float().cpu().numpy()
    bias = head.bias.detach().float().cpu().numpy()
    pooled = has_pooled_head(network, entry.contract, device)
    return LoadedModel(entry, network, device, digest, weight, bias, pooled)
