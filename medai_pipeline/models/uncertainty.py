"""How sure a model is: Monte Carlo dropout (Gal and Ghahramani 2016), and what samples of probabilities say.

Where dropout lies directly before the linear head, the head is sampled on kept features: no new pass, and the same numbers as
full passes with the same masks. Where a network drops inside its blocks, it is passed again, each pass with its own seed;
batch normalization keeps its statistics. Masks depend on the seed alone, never on which images are asked together.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from medai_pipeline.models.catalog import CatalogEntry
from medai_pipeline.models.device_memory import in_batches
from medai_pipeline.models.precision import float32

if TYPE_CHECKING:
    import torch

    from medai_pipeline.models.load import LoadedModel

SAMPLES = 20
_LEAST = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """What samples say of N images and K classes, each (N, K).

    `deviation`: standard deviation of the probability, 0..0.5. `entropy`: of the mean probability, in nats; all there is to
    be unsure of. `information`: how much of that the samples disagree about (mutual information, epistemic). For
    multi-label models a class is a yes or no of its own (entropy up to ln 2); exclusive classes share one number (up to ln K).
    """

    deviation: np.ndarray
    entropy: np.ndarray
    information: np.ndarray


def spread_of(samples: np.ndarray, multi_label: bool, weights: np.ndarray | None = None) -> Spread:
    """Of probabilities (S, N, K), each sample of equal weight or of `weights` (S,)."""
    samples = np.asarray(samples, np.float64)
    mean = np.average(samples, axis=0, weights=weights)
    deviation = np.sqrt(np.average((samples - mean) ** 2, axis=0, weights=weights))
    entropy = _entropy(mean, multi_label)
    information = entropy - np.average(_entropy(samples, multi_label), axis=0, weights=weights)
    return Spread(
        *(np.maximum(part, 0).astype(np.float32) for part in (np.minimum(deviation, 0.5), entropy, information))
    )


def _entropy(p: np.ndarray, multi_label: bool) -> np.ndarray:
    def part(q: np.ndarray) -> np.ndarray:
        return -q * np.log(np.maximum(q, _LEAST))

    if multi_label:
        return part(p) + part(1 - p)
    return np.broadcast_to(part(p).sum(axis=-1, keepdims=True), p.shape)


def sampled(
    model: LoadedModel, pixels: np.ndarray, pooled: np.ndarray, *, samples: int = SAMPLES, seed: int = 0
) -> np.ndarray:
    """Probabilities (samples, N, K) of images `pixels` (N, C, H, W) whose pooled features (N, D) are known."""
    if model.drops_inside:
        return full_samples(model, pixels, samples=samples, seed=seed)
    return head_samples(pooled, model.head_weight, model.head_bias, model.entry, samples=samples, seed=seed)


def head_samples(
    pooled: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    entry: CatalogEntry,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    masks: np.ndarray | None = None,
) -> np.ndarray:
    """Probabilities (samples, N, K) of `pooled` (N, D) under dropout masks (samples, D) drawn from the seed, or given."""
    from medai_pipeline.models.infer import probabilities_of

    keep = 1 - entry.dropout
    if masks is None:
        masks = np.random.default_rng(seed).random((samples, pooled.shape[1])) < keep
    seen, head = np.asarray(pooled, np.float64), weight.astype(np.float64)
    # the mask on the head's columns: the same products, without a copy of every image's features for each sample
    return probabilities_of(np.stack([seen @ (head * (mask / keep)).T + bias for mask in masks]), entry)


def full_samples(model: LoadedModel, pixels: np.ndarray, *, samples: int = SAMPLES, seed: int = 0) -> np.ndarray:
    """Probabilities (samples, N, K) by whole passes with dropout drawn anew in each; each image goes alone."""
    import torch

    from medai_pipeline.models.infer import probabilities_of

    def passed(image: np.ndarray, number: int) -> torch.Tensor:
        torch.manual_seed(seed * samples + number)
        return model.network(torch.from_numpy(np.ascontiguousarray(image)).to(model.device)).float().cpu()

    logits = []
    cuda = [torch.device(model.device)] if model.device.startswith("cuda") else []
    with (
        torch.random.fork_rng(devices=cuda),
        dropping(model.network),
        torch.inference_mode(),
        float32(model.device),
    ):
        for number in range(samples):
            row = in_batches(partial(passed, number=number), pixels, 1, model.entry.name)
            logits.append(torch.cat(list(row)).numpy())
    return probabilities_of(np.stack(logits), model.entry)


@contextmanager
def dropping(network: torch.nn.Module) -> Iterator[None]:
    """The network draws its dropout, while normalization goes on with the statistics of training."""
    from torch.nn.modules.batchnorm import _NormBase

    was = {module: module.training for module in network.modules()}
    for module in was:
        module.training = not isinstance(module, _NormBase)
    try:
        yield
    finally:
        for module, training in was.items():
            module.training = training


def drops_inside(network: torch.nn.Module, shape: tuple[int, int, int], device: str = "cpu") -> bool:
    """Whether it drops anything before what its linear head sees. Asked: a pass that drops takes numbers from the generator.

    `shape` (C, H, W) of its images.
    """
    import torch

    images = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0)).to(device)
    cuda = device.startswith("cuda")
    with torch.random.fork_rng(devices=[torch.device(device)] if cuda else []), torch.inference_mode():
        with dropping(network):
            torch.manual_seed(0)
            before = _generator_state(device)
            features = network.forward_features(images)  # type: ignore[operator]
            if not torch.equal(before, _generator_state(device)):
                return True
            seen = network.forward_head(features, pre_logits=True)  # type: ignore[operator]
        steady = network.forward_head(features, pre_logits=True)  # type: ignore[operator]
    # A layer between two dropouts shows as values that are neither dropped nor kept in proportion.
    kept = seen[seen != 0] / steady[seen != 0]
    return bool(kept.numel() and (kept.max() - kept.min()) > 1e-3 * kept.abs().max())


def _generator_state(device: str) -> torch.Tensor:
    import torch

    return torch.cuda.get_rng_state(device) if device.startswith("cuda") else torch.get_rng_state()
