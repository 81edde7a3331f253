"""Findings on chest films: each changes the layers of a chest and says where it truly lies. No anatomy here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from medai_pipeline.phantoms.canvas import spline
from medai_pipeline.phantoms.image import TrueBox, box_of

if TYPE_CHECKING:
    from medai_pipeline.phantoms.chest_pa import Chest


def apply(chest: Chest, rng: np.random.Generator, labels: Sequence[str]) -> list[TrueBox]:
    """Draw every finding of `labels` that this view can show, in a fixed order."""
    return [box for label, draw in _DRAWERS.items() if label in labels for box in draw(chest, rng)]


def _side(chest: Chest, rng: np.random.Generator) -> str:
    return str(rng.choice(sorted(chest.lungs)))


def _outer(side: str) -> int:
    return -1 if side == "right" else 1


def _pneumothorax(chest: Chest, rng: np.random.Generator) -> list[TrueBox]:
    """Air between lung and wall: no vessels, darker, with the fine white line of the visceral pleura."""
    if chest.view != "PA":
        return []
    canvas, side = chest.canvas, _side(chest, rng)
    outline = chest.lungs[side]
    hilum = np.array(chest.hila[side])
    depth = rng.uniform(0.10, 0.42)
    away = outline - hilum
    up = np.clip((0.62 - outline[:, 1]) / 0.5, 0, 1)  # air gathers at the apex of a standing patient
    out = np.clip(_outer(side) * away[:, 0] / 0.25, 0, 1)
    shrink = 1 - depth * np.clip(0.25 + 0.75 * up, 0, 1) * np.clip(out + 0.8 * up, 0, 1)
    lowest = rng.uniform(0.5, 0.78)
    shrink = np.where(outline[:, 1] > lowest, 1 - (1 - shrink) * np.exp(-((outline[:, 1] - lowest) / 0.05)), shrink)
    collapsed = hilum + away * shrink[:, None]
    whole, rest = canvas.fill(outline), canvas.fill(collapsed)
    air = np.clip(whole - rest, 0, 1)
    seen = air * (1 - np.maximum(chest.mediastinum, chest.heart))
    chest.vessels = chest.vessels * (1 - air)
    chest.aeration = chest.aeration + 0.26 * air - 0.25 * depth * rest * whole
    line = canvas.strokes([(np.concatenate([collapsed, collapsed[:1]]), 0.0035, 1.0)], 0.0008)
    near_air = np.clip(3 * canvas.soften(air, 0.006), 0, 1)
    chest.extra += rng.uniform(0.12, 0.2) * line * near_air * whole * (1 - chest.mediastinum)
    box = box_of(canvas.soften(seen, 0.004), "Pneumothorax", level=0.6)
    return [box] if box else []


def _effusion(chest: Chest, rng: np.random.Generator) -> list[TrueBox]:
    """Fluid in the costophrenic angle with its meniscus, higher at the wall than in the middle."""
    canvas, side = chest.canvas, _side(chest, rng)
    outline = chest.lungs[side]
    lung = canvas.fill(outline, 0.004)
    floor = outline[:, 1].max()
    if chest.view == "PA":
        wall = outline[:, 0].min() if side == "right" else outline[:, 0].max()
        medial = 0.5
    else:
        wall, medial = outline[:, 0].max(), outline[:, 0].min()
    low, high = (0.12, 0.36) if chest.view == "PA" else (0.17, 0.38)
    level = floor - rng.uniform(low, high)  # top of the fluid at the wall
    drop = rng.uniform(0.07, 0.12)
    t = np.linspace(0, 1, 24)
    x = wall + (medial - wall) * t
    y = level + drop * (1 - np.exp(-t * 5)) - 0.03 * np.clip(t - 0.7, 0, 1)
    beyond = wall + 0.06 * np.sign(wall - medial)
    fluid = canvas.fill(
        np.concatenate([[(beyond, level - 0.02)], np.stack([x, y], 1), [(medial, 1.0), (beyond, 1.0)]]), 0.008
    )
    if chest.view == "PA":  # the other lung stays dry
        own = canvas.soften(
            (np.sign(canvas.grid()[0] - 0.5) == _outer(side)).astype(np.float32) + canvas.blank(), 0.004
        )
        fluid = fluid * own
    chest.aeration = chest.aeration * (1 - rng.uniform(0.85, 0.98) * fluid)
    chest.vessels = chest.vessels * (1 - fluid)
    chest.extra += 0.05 * fluid * lung
    box = box_of(fluid * (lung > 0.5), "Effusion", level=0.5)
    return [box] if box else []


def _spot(chest: Chest, rng: np.random.Generator, margin: float) -> tuple[float, float]:
    """A place inside a lung and outside the heart's centre, `margin` away from the border."""
    canvas = chest.canvas
    solid = np.maximum(chest.heart, chest.mediastinum)
    free = canvas.soften(chest.lung * (1 - solid), margin)
    rows, columns = np.nonzero(free > 0.72)
    pick = int(rng.random() * len(rows))
    return (columns[pick] + 0.5) / canvas.columns, (rows[pick] + 0.5) / canvas.rows


def _consolidation(chest: Chest, rng: np.random.Generator) -> list[TrueBox]:
    """A cloudy opacity with dark air bronchograms, bounded by the pleura."""
    canvas = chest.canvas
    x, y = _spot(chest, rng, 0.03)
    rx, ry = rng.uniform(0.055, 0.12), rng.uniform(0.05, 0.13)
    shape = canvas.ellipse(x, y, rx, ry, rng.uniform(0, 180), 0.02)
    cloud = canvas.cloud(rng, 11, 3)
    patch = 1 / (1 + np.exp(-6 * (shape + 0.20 * cloud - 0.55)))
    patch *= canvas.soften(shape, 0.012) > 0.03
    patch = canvas.soften(patch.astype(np.float32), 0.004) * chest.lung
    tubes = []
    for _ in range(int(rng.integers(2, 5))):
        angle = rng.uniform(0, 2 * np.pi)
        away = np.array([np.cos(angle) * rx, np.sin(angle) * ry])
        tubes.append((spline([(x, y) - 0.4 * away, (x, y) + rng.normal(0, 0.008, 2), (x, y) + 0.7 * away]), 0.005, 0.8))
    air = canvas.strokes(tubes, 0.0015)
    opacity = rng.uniform(0.45, 0.9)
    chest.aeration = chest.aeration * (1 - opacity * patch * (1 - 0.55 * air) * (1 + 0.08 * cloud).clip(0.7, 1.1))
    box = box_of(patch, "Consolidation", level=0.4)
    return [box] if box else []


def _nodule(chest: Chest, rng: np.random.Generator) -> list[TrueBox]:
    """One, seldom two, round opacities of 15 to 42 mm; may lie under a rib."""
    canvas, boxes = chest.canvas, []
    for _ in range(2 if rng.random() < 0.15 else 1):
        x, y = _spot(chest, rng, 0.016)
        radius = rng.uniform(0.022, 0.052)
        angle = np.linspace(0, 2 * np.pi, 14, endpoint=False)
        wobble = radius * (1 + rng.normal(0, 0.09, 14))
        rim = np.stack([x + wobble * np.cos(angle), y + wobble * np.sin(angle)], 1)
        mask = canvas.fill(spline(rim, closed=True, steps=5), 0.0030)
        chest.extra += rng.uniform(0.26, 0.44) * mask * (0.75 + 0.25 * canvas.soften(mask, radius * 0.4))
        box = box_of(mask, "Nodule")
        boxes += [box] if box else []
    return boxes


_DRAWERS: dict[str, Callable[[Chest, np.random.Generator], list[TrueBox]]] = {
    "Consolidation": _consolidation,
    "Effusion": _effusion,
    "Nodule": _nodule,
    "Pneumothorax": _pneumothorax,
}
