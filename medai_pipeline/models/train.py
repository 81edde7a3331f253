"""The training loop: arrays in, weights out. What the images show is not known here.

Beside the usual loss on the pooled logits, each cell of the class activation map learns whether a finding lies there:
the boxes of the training images are true, so the map may be taught to point. The trained network is a plain timm model.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from medai_pipeline.models.catalog import CatalogEntry
from medai_pipeline.models.network import build, forward, head_of, require_pooled_head

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class TrainingSet:
    """N images, K classes. `images` float16 (N, C, H, W); `targets` 0 or 1 (N, K); `weights` (N, K), 0 leaves a class out;
    `masks` uint8 (N, K, h, w): 255 where the finding lies."""

    images: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    masks: np.ndarray


@dataclass(frozen=True, slots=True)
class Schedule:
    """`pointing_weight` of what cells say against what classes say; `hottest_weight` of where the hottest cell lies.

    `mirrored`: half of the images are, left to right: only where sides mean nothing. `turn` in radians and `stretch` as a
    share are the largest by which an image is moved, `intensity_jitter` that of contrast and brightness.
    """

    epochs: int
    batch_size: int = 16
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    pointing_weight: float = 2.0
    hottest_weight: float = 0.0
    intensity_jitter: float = 0.15
    turn: float = 0.10
    stretch: float = 0.10
    mirrored: bool = False


def fit(
    entry: CatalogEntry,
    data: TrainingSet,
    schedule: Schedule,
    seed: int,
    progress: Callable[[int, int, float], None] | None = None,
) -> nn.Module:
    """A network trained from random weights. Same data, seed and thread count give the same weights on one machine.

    `progress(step, steps, loss)` is called after every batch. Raises ModelError for a network whose head does not see the
    mean of its last feature maps.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = build(entry)
    require_pooled_head(model, entry)
    model = model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    reading = _Reading(len(entry.classes))
    nn.init.constant_(head_of(model).bias, -2.0)  # a finding is the exception; an empty map says no
    optimizer = _optimizer(model, reading, schedule)
    batches = math.ceil(len(data.images) / schedule.batch_size)
    steps = schedule.epochs * batches
    # a fifth warms up; of five steps torch would divide by the none that are left
    rates = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        [group["lr"] for group in optimizer.param_groups],
        total_steps=steps,
        pct_start=0.4 if steps == 5 else 0.2,
    )
    for epoch in range(schedule.epochs):
        order = torch.randperm(len(data.images), generator=generator)
        for batch in range(batches):
            rows = order[batch * schedule.batch_size : (batch + 1) * schedule.batch_size].numpy()
            if len(rows) < 2:  # batch normalization needs two
                continue
            loss = _loss(model, reading, data, rows, schedule, generator, entry)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            rates.step()
            if progress:
                progress(epoch * batches + batch + 1, steps, float(loss.detach()))
    reading.settle(head_of(model))
    return model.eval()


def _optimizer(model: nn.Module, reading: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """The head learns faster: a small finding must outweigh the mean over the whole map."""
    head = list(head_of(model).parameters())
    own = {id(parameter) for parameter in head}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in own]
    return torch.optim.AdamW(
        [
            {"params": rest, "lr": schedule.learning_rate, "weight_decay": schedule.weight_decay},
            {"params": [*head, *reading.parameters()], "lr": 5 * schedule.learning_rate, "weight_decay": 0.0},
        ]
    )


class _Reading(nn.Module):
    """How the class activation map is read while training: as a study's logit, and cell by cell.

    A nodule lights one cell of two hundred, and the mean over the map must still tell it: the mean is read with a gain
    for each class, which goes into the head's weights when training ends. Cells where nothing is are asked to be dark,
    not to be negative, or their sum would drown what lights up.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.log_gain = nn.Parameter(torch.full((classes,), 4.0))
        self.log_scale = nn.Parameter(torch.zeros(classes))
        self.offset = nn.Parameter(torch.full((classes,), -3.0))

    def logits(self, pooled: torch.Tensor, head: nn.Linear) -> torch.Tensor:
        return functional.linear(pooled, head.weight) * self.log_gain.exp() + head.bias

    def pointing(self, maps: torch.Tensor, masks: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        scale, offset = (value[None, :, None, None] for value in (self.log_scale.exp(), self.offset))
        cells = functional.binary_cross_entropy_with_logits(maps.clamp(min=0) * scale + offset, masks, reduction="none")
        inside, outside = masks, 1 - masks
        # Each image counts the finding's cells as much as all others together, however small the finding is.
        lit = (cells * inside).sum((2, 3)) / inside.sum((2, 3)).clamp(min=1)
        dark = (cells * outside).sum((2, 3)) / outside.sum((2, 3)).clamp(min=1)
        hardest = (cells * outside).flatten(2).topk(3, dim=2).values.mean(2)
        below = maps.clamp(max=0).square().mean((2, 3)) + (-maps).clamp(min=0).mul(inside).mean((2, 3))
        return ((lit + dark + 0.1 * hardest + 0.5 * below) * weights).mean()

    def hottest(self, maps: torch.Tensor, masks: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """The cells as one choice: how little of it falls on the finding. What the pointing game asks, made smooth."""
        scale = self.log_scale.exp()[None, :, None]
        cells = masks.flatten(2)
        most = cells.amax(2, keepdim=True)
        share = (maps.flatten(2) * scale).log_softmax(2).masked_fill(cells < 0.5 * most.clamp(min=1e-3), -30.0)
        there = (most[..., 0] > 0) * weights
        return -(share.logsumexp(2) * there).sum() / there.sum().clamp(min=1)

    def settle(self, head: nn.Linear) -> None:
        """The gains into the head: from here on it is an ordinary linear layer on pooled features."""
        with torch.no_grad():
            head.weight.mul_(self.log_gain.exp()[:, None])


def _loss(
    model: nn.Module,
    reading: _Reading,
    data: TrainingSet,
    rows: np.ndarray,
    schedule: Schedule,
    generator: torch.Generator,
    entry: CatalogEntry,
) -> torch.Tensor:
    images = torch.from_numpy(data.images[rows].astype(np.float32))
    masks = torch.from_numpy(data.masks[rows].astype(np.float32) / 255)
    targets = torch.from_numpy(data.targets[rows].astype(np.float32))
    weights = torch.from_numpy(data.weights[rows].astype(np.float32))
    images, masks = _augment(images, masks, generator, schedule)
    features, pooled, _ = forward(model, images.contiguous(memory_format=torch.channels_last))
    head = head_of(model)
    logits = reading.logits(functional.dropout(pooled, entry.dropout), head)
    maps = torch.einsum("ndhw,kd->nkhw", features, head.weight)
    boxed = weights * (
        (targets == 0) | (masks.amax((2, 3)) > 0)
    )  # of a finding without a box nobody knows where it lies
    loss = _said(logits, targets, weights, entry.multi_label) + schedule.pointing_weight * reading.pointing(
        maps, masks, boxed
    )
    if schedule.hottest_weight:
        loss = loss + schedule.hottest_weight * reading.hottest(maps, masks, boxed)
    return loss


def _said(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, multi_label: bool) -> torch.Tensor:
    if multi_label:
        return (functional.binary_cross_entropy_with_logits(logits, targets, reduction="none") * weights).mean()
    return functional.cross_entropy(logits, targets.argmax(1))


def _augment(
    images: torch.Tensor, masks: torch.Tensor, generator: torch.Generator, schedule: Schedule
) -> tuple[torch.Tensor, torch.Tensor]:
    """Small turns, shifts and sizes, contrast and noise. Mirrored only if asked: left and right mean something."""
    n, jitter = len(images), schedule.intensity_jitter

    def uniform(size: float) -> torch.Tensor:
        return (torch.rand(n, generator=generator) * 2 - 1) * size

    angle, scale = uniform(schedule.turn), 1 + uniform(schedule.stretch)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = scale * angle.cos()
    theta[:, 0, 1] = -scale * angle.sin()
    theta[:, 1, 0] = scale * angle.sin()
    theta[:, 0, 2], theta[:, 1, 2] = uniform(0.10), uniform(0.10)
    if schedule.mirrored:
        theta[:, :, 0] *= torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)[:, None]
    images = functional.grid_sample(
        images, functional.affine_grid(theta, list(images.shape), align_corners=False), align_corners=False
    )
    masks = functional.grid_sample(
        masks, functional.affine_grid(theta, list(masks.shape), align_corners=False), align_corners=False
    )
    gain, shift = (1 + uniform(jitter))[:, None, None, None], uniform(jitter / 2)[:, None, None, None]
    gamma = torch.exp(uniform(jitter * 1.5))[:, None, None, None]
    noise = (
        torch.randn(images.shape, generator=generator)
        * (torch.rand(n, generator=generator) * 0.02)[:, None, None, None]
    )
    images = (images.clamp(0, 1) ** gamma * gain + shift + noise).clamp(0, 1)
    return images, masks.clamp(0, 1)


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state as float32 tensors, ready to be written; counters that only training needs are left out."""
    return {
        name: value.detach().contiguous().float().cpu()
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
