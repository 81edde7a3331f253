"""Weights from a file to a network that answers: found, digest-checked, finite, complete; cached per process."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medai_pipeline.errors import ModelError, WeightsMissing, WeightsRefused
from medai_pipeline.models.backends import Backend, Subject, eager
from medai_pipeline.models.catalog import PACKAGED_WEIGHTS, CatalogEntry
from medai_pipeline.models.checkpoint import matched
from medai_pipeline.models.familiarity import Familiarity, features_file, read
from medai_pipeline.models.machine import this_machine
from medai_pipeline.models.prepared import Opened, folder_of, opened, stamp, wrapped

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

_CACHE: dict[tuple[str, str, str, str, int], LoadedModel] = {}


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model that answers on a device. `head_weight` (K, D) and `head_bias` (K,) are its linear head's.

    `pooled`: the head sees the mean of the last feature maps, so that explanations need no gradient. Asked, not assumed.
    `source` gives the network itself, which a prepared backend does without until an explanation or sampling asks for it.
    """

    entry: CatalogEntry
    source: Callable[[], torch.nn.Module]
    device: str
    weights_sha256: str
    head_weight: np.ndarray
    head_bias: np.ndarray
    pooled: bool = True
    familiarity: Familiarity | None = None  # what its training's features look like, where that is known
    backend_name: str = "eager"
    prepared: Backend | None = None  # None: the network itself answers, as torch has it

    @cached_property
    def network(self) -> torch.nn.Module:
        return self.source()

    @cached_property
    def backend(self) -> Backend:
        """Pixels to features, what the head sees, and logits."""
        return self.prepared or eager(Subject(self.network, self.pooled, self.image_shape, self.device))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.entry.contract.channels, self.entry.contract.height, self.entry.contract.width


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


def has_weights(entry: CatalogEntry, models_path: Path | None) -> bool:
    """Whether the weights are where they are looked for."""
    try:
        return weights_path(entry, models_path).is_file()
    except WeightsMissing:
        return False


def load(
    entry: CatalogEntry,
    models_path: Path | None = None,
    device: str = "cpu",
    *,
    weights: Path | None = None,
    prepared: bool = True,
) -> LoadedModel:
    """The model ready to answer, on "cpu" or "cuda" (the CPU when there is no CUDA device).

    `weights` names the file where it lies elsewhere than `weights_path` says. With `prepared`, what `prepare` chose for
    this machine answers; where nothing was prepared, or it cannot be used, plain torch does, and the log says so.
    Raises WeightsMissing; WeightsRefused when the digest, the names, the shapes or the values are wrong.
    """
    path = weights or weights_path(entry, models_path)
    if not path.is_file():
        raise WeightsMissing(f"no weights for {entry.name}@{entry.version}: put the file at {path}")
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if entry.weights_sha256 and digest != entry.weights_sha256:
        raise WeightsRefused(
            f"weights of {entry.name}@{entry.version} have digest {digest[:12]}, expected {entry.weights_sha256[:12]}: "
            "restore the file"
        )
    device = _device(device)
    folder = folder_of(entry, digest, this_machine(device), models_path) if prepared and models_path else None
    key = (entry.name, entry.version, digest, device, stamp(folder) if folder else -1)
    if key not in _CACHE:
        _CACHE[key] = _loaded(entry, path, digest, device, folder)
    return _CACHE[key]


def _loaded(entry: CatalogEntry, path: Path, digest: str, device: str, folder: Path | None) -> LoadedModel:
    known = read(path.with_name(features_file(entry)))
    found = _opened(entry, folder) if folder else None
    if found:
        return LoadedModel(
            entry,
            lambda: _network(entry, path, digest, device),
            device,
            digest,
            found.head_weight,
            found.head_bias,
            found.pooled,
            known,
            found.name,
            found.backend,
        )
    from medai_pipeline.models.network import has_pooled_head, head_of

    network = _network(entry, path, digest, device)
    head = head_of(network)
    weight, bias = (tensor.detach().float().cpu().numpy() for tensor in (head.weight, head.bias))
    pooled = has_pooled_head(network, entry.contract, device)
    model = LoadedModel(entry, lambda: network, device, digest, weight, bias, pooled, known)
    if folder and stamp(folder):
        name, backend = wrapped(folder, Subject(network, pooled, model.image_shape, device))
        return replace(model, backend_name=name, prepared=backend)
    return model


def _opened(entry: CatalogEntry, folder: Path) -> Opened | None:
    try:
        found = opened(folder)
    except ModelError as error:
        log.warning("%s@%s: %s; plain torch serves", entry.name, entry.version, error.reason)
        return None
    if found is None and not stamp(folder):
        log.info("%s@%s is not prepared for this machine: plain torch serves", entry.name, entry.version)
    return found


def _device(wanted: str) -> str:
    import torch

    if wanted.startswith("cuda") and not torch.cuda.is_available():
        log.info("no CUDA device here: the CPU serves")
        return "cpu"
    return wanted


def _network(entry: CatalogEntry, path: Path, digest: str, device: str) -> torch.nn.Module:
    from safetensors import SafetensorError
    from safetensors.torch import load as read_weights

    from medai_pipeline.models.network import build

    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise WeightsRefused(
            f"weights of {entry.name}@{entry.version} have changed while they were in use: start again"
        )
    try:
        state = read_weights(data)
    except SafetensorError as error:
        raise WeightsRefused(f"weights of {entry.name} are not a safetensors file: {error}") from error
    network = build(entry)
    state, prefix = matched(state, network.state_dict(), f"{entry.name}@{entry.version}")
    if prefix:
        log.info("%s: names of its weights begin with %r, which was taken off", entry.name, prefix)
    network.load_state_dict(state, strict=False)  # only batch counters may be absent: `matched` has looked
    return network.eval().to(device)
