"""Weights from a file to a network that answers: found, digest-checked, finite, complete; kept by the process (`kept`)."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medai_pipeline.errors import ModelError, WeightsMissing, WeightsRefused
from medai_pipeline.models.backends import Backend, Subject, eager, in_a_line
from medai_pipeline.models.catalog import PACKAGED_WEIGHTS, PROGRAMS, CatalogEntry
from medai_pipeline.models.checkpoint import matched
from medai_pipeline.models.digests import known_digest
from medai_pipeline.models.familiarity import Familiarity, beside, read
from medai_pipeline.models.kept import Kept
from medai_pipeline.models.machine import this_machine
from medai_pipeline.models.precision import float32
from medai_pipeline.models.prepared import Opened, folder_of, opened, stamp, wrapped
from medai_pipeline.models.uncertainty import drops_inside

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

SUFFIXES = {"timm": ".safetensors", "torchxrayvision": ".safetensors", "torchscript": ".ts", "export": ".pt2"}
_KEPT = Kept()
keep_only = _KEPT.keep_only


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
    drops_inside: bool = False  # dropout before what the head sees: `models/uncertainty` asks, and passes it again
    familiarity: Familiarity | None = None  # what its training's features look like, where that is known
    backend_name: str = "eager"
    prepared: Backend | None = None  # None: the network itself answers, as torch has it

    @property
    def samples(self) -> bool:
        """Whether it has any dropout to sample. Without, it answers the same each time, which says nothing of how sure it is."""
        return self.drops_inside or self.entry.dropout > 0

    @cached_property
    def network(self) -> torch.nn.Module:
        return self.source()

    @cached_property
    def backend(self) -> Backend:
        """Pixels to features, what the head sees, and logits."""
        return self.prepared or eager(Subject(self.network, self.pooled, self.image_shape, self.device))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return _shape(self.entry)


def stored_path(models_path: Path, sha256: str, kind: str = "timm") -> Path:
    """Where registered weights lie: by their digest, so that no version ever takes the place of another."""
    return Path(models_path) / "objects" / f"{sha256}{SUFFIXES[kind]}"


def weights_path(entry: CatalogEntry, models_path: Path | None) -> Path:
    """Where the weights lie: registered ones by digest under MODEL_PATH, a demo model's in the package, else by name under
    MODEL_PATH. Raises WeightsMissing that says where."""
    if entry.members:
        raise WeightsMissing(f"{entry.label} is an ensemble: its members have the weights")
    if models_path and entry.weights_sha256:
        registered = stored_path(models_path, entry.weights_sha256, entry.kind)
        if registered.is_file():
            return registered
    packaged = entry.demo and (PACKAGED_WEIGHTS / entry.weights_file).is_file()
    place = PACKAGED_WEIGHTS if packaged else models_path
    if place is None:
        raise WeightsMissing(
            f"{entry.name} needs weights of the site: set MODEL_PATH to the folder of {entry.weights_file}"
        )
    path = Path(place) / entry.weights_file
    if not path.is_file():
        raise WeightsMissing(f"no weights for {entry.name}@{entry.version}: put the file at {path}")
    return path


def features_path(entry: CatalogEntry, weights: Path, models_path: Path | None) -> Path | None:
    """What its training's features look like: a registered version's by its own digest, else beside the weights."""
    if models_path and entry.features_sha256:
        kept = stored_features(models_path, entry.features_sha256)
        if kept.is_file():
            return kept
    return beside(weights, entry)


def stored_features(models_path: Path, sha256: str) -> Path:
    return Path(models_path) / "objects" / f"{sha256}.features"


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
    this machine answers, and the model is kept for the next call; where nothing was prepared, or it cannot be used, plain
    torch answers, and the log says so.
    Raises WeightsMissing; WeightsRefused when the digest, the names, the shapes or the values are wrong.
    """
    path = weights or weights_path(entry, models_path)
    if not path.is_file():
        raise WeightsMissing(f"no weights for {entry.name}@{entry.version}: put the file at {path}")
    digest = _expected(entry, known_digest(path))
    device = available(device)
    features = features_path(entry, path, models_path)
    if not prepared:
        return _loaded(entry, path, digest, device, None, features)
    folder = folder_of(entry, digest, this_machine(device), models_path) if models_path else None
    return _KEPT.get(
        (entry.label, device, folder is not None),
        (digest, stamp(folder) if folder else 0, entry),
        partial(_loaded, entry, path, digest, device, folder, features),
    )


def load_anew(entry: CatalogEntry, weights: Path, device: str = "cpu", features: Path | None = None) -> LoadedModel:
    """As `load`, of a file anywhere, in plain torch and never from the cache. `features`: statistics of its training."""
    digest = checked_digest(entry, weights.read_bytes())
    return _loaded(entry, weights, digest, available(device), None, features)


def checked_digest(entry: CatalogEntry, data: bytes) -> str:
    """The SHA-256 of the weights. Raises WeightsRefused when the card names another."""
    return _expected(entry, hashlib.sha256(data).hexdigest())


def _expected(entry: CatalogEntry, digest: str) -> str:
    if entry.weights_sha256 and digest != entry.weights_sha256:
        raise WeightsRefused(
            f"weights of {entry.label} have digest {digest[:12]}, expected {entry.weights_sha256[:12]}: restore the file"
        )
    return digest


def _loaded(
    entry: CatalogEntry, path: Path, digest: str, device: str, folder: Path | None, features: Path | None
) -> LoadedModel:
    found = _opened(entry, folder, device) if folder else None
    if found:
        known = _known(entry, features, found.head_weight)
        return LoadedModel(
            entry,
            lambda: _network(entry, path, digest, device),
            device,
            digest,
            found.head_weight,
            found.head_bias,
            found.pooled,
            found.drops_inside,
            known,
            found.name,
            found.backend,
        )
    model = _plain(entry, path, digest, device, features)
    if folder and stamp(folder):
        try:
            subject = Subject(model.network, model.pooled, model.image_shape, device)
            name, backend = wrapped(folder, subject, len(model.head_bias))
        except ModelError as error:
            log.warning("%s: %s; plain torch serves", entry.label, error.reason)
            return model
        return replace(model, backend_name=name, prepared=backend)
    return model


def _plain(entry: CatalogEntry, path: Path, digest: str, device: str, features: Path | None) -> LoadedModel:
    """The network on its device, asked what it is like. Raises ModelError when it does not compute there."""
    from medai_pipeline.models.network import has_pooled_head, head_of

    try:
        network = _network(entry, path, digest, device)
        head = head_of(network)
        weight, bias = (tensor.detach().float().cpu().numpy() for tensor in (head.weight, head.bias))
        with float32(device):
            pooled = has_pooled_head(network, entry.contract, device)
            inside = drops_inside(network, _shape(entry), device)
    except RuntimeError as error:
        other = "" if device == "cpu" else ", or set GPU_ENABLED=false"
        raise ModelError(
            f"{entry.label} does not compute on {device} ({in_a_line(error)}): free its memory, bring a version that does{other}"
        ) from error
    known = _known(entry, features, weight)
    return LoadedModel(entry, lambda: network, device, digest, weight, bias, pooled, inside, known)


def _known(entry: CatalogEntry, features: Path | None, head_weight: np.ndarray) -> Familiarity | None:
    known = read(features, entry.features_sha256)
    if known and known.mean.shape != head_weight.shape[1:]:
        raise WeightsRefused(
            f"{entry.label}: its .features file is of another network ({known.mean.size} features, the head sees "
            f"{head_weight.shape[1]}): name its own with --features"
        )
    return known


def _shape(entry: CatalogEntry) -> tuple[int, int, int]:
    return entry.contract.channels, entry.contract.height, entry.contract.width


def _opened(entry: CatalogEntry, folder: Path, device: str) -> Opened | None:
    try:
        found = opened(folder, device, _shape(entry))
    except ModelError as error:
        log.warning("%s: %s; plain torch serves", entry.label, error.reason)
        return None
    if found is None and not stamp(folder):
        log.info("%s@%s is not prepared for this machine: plain torch serves", entry.name, entry.version)
    return found


def available(wanted: str) -> str:
    """The device itself, or the CPU where there is no such one."""
    import torch

    if wanted.startswith("cuda") and not torch.cuda.is_available():
        log.info("no CUDA device here: the CPU serves")
        return "cpu"
    return wanted


def _network(entry: CatalogEntry, path: Path, digest: str, device: str) -> torch.nn.Module:
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise WeightsRefused(f"weights of {entry.label} have changed while they were in use: start again")
    network = _program(entry, data, device) if entry.kind in PROGRAMS else _architecture(entry, data)
    return network.eval().to(device)


def _architecture(entry: CatalogEntry, data: bytes) -> torch.nn.Module:
    """A timm architecture with these weights, complete or refused."""
    from safetensors import SafetensorError
    from safetensors.torch import load as read_weights

    from medai_pipeline.models.checkpoint import from_torchxrayvision
    from medai_pipeline.models.network import build

    try:
        state = read_weights(data)
    except SafetensorError as error:
        raise WeightsRefused(f"weights of {entry.label} are not a safetensors file: {_what(data, error)}") from error
    if entry.kind == "torchxrayvision":
        state = from_torchxrayvision(state)
    network = build(entry)
    state, prefix = matched(state, network.state_dict(), entry.label)
    if prefix:
        log.info("%s: names of its weights begin with %r, which was taken off", entry.label, prefix)
    network.load_state_dict(state, strict=False)  # only batch counters may be absent: `matched` has looked
    return network


def _what(data: bytes, error: Exception) -> str:
    """What was given instead, by its first bytes, and what to do."""
    if data[:2] == b"PK" or data[:1] == b"\x80":  # a zip archive, or a pickle: how torch.save writes
        return "it is one of torch.save; `medai models convert FILE weights.safetensors` takes the tensors out of it"
    return f"it is cut, damaged or something else ({error}); copy it again from where it was made"


def _program(entry: CatalogEntry, data: bytes, device: str) -> torch.nn.Module:
    from medai_pipeline.models.programs import read_program

    return read_program(entry, data, device)
