"""Findings in a stack of chest CT slices: each paints its slices and says where it lies. No anatomy here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from medai_pipeline.phantoms.canvas import spline
from medai_pipeline.phantoms.image import TrueBox, box_of

if TYPE_CHECKING:
    from medai_pipeline.phantoms.chest_ct import Slice

_FLATTEN = 380.0 / 300.0  # a unit of z is shorter than one of x and y


def apply(planes: list[Slice], rng: np.random.Generator, labels: Sequence[str]) -> list[TrueBox]:
    """Draw every finding of `labels`, in a fixed order."""
    return [box for label, draw in _DRAWERS.items() if label in labels for box in draw(planes, rng)]


def _middle(planes: list[Slice], rng: np.random.Generator, low: float, high: float) -> Slice:
    """A slice with lung in it, between two heights."""
    fit = [plane for plane in planes if low <= plane.z <= high and plane.air.mean() > 0.03]
    return fit[int(rng.random() * len(fit))] if fit else max(planes, key=lambda plane: float(plane.air.mean()))


def _place(plane: Slice, rng: np.random.Generator, margin: int) -> tuple[float, float]:
    core = cv2.erode((plane.air > 0.9).astype(np.uint8), np.ones((margin, margin), np.uint8))
    rows, columns = np.nonzero(core if core.any() else plane.air > 0.9)
    pick = int(rng.random() * len(rows))
    return (columns[pick] + 0.5) / plane.canvas.columns, (rows[pick] + 0.5) / plane.canvas.rows


def _nodule(planes: list[Slice], rng: np.random.Generator) -> list[TrueBox]:
    """A solid ball of 17 to 38 mm; seldom two."""
    boxes = []
    for _ in range(2 if rng.random() < 0.25 else 1):
        home = _middle(planes, rng, 0.12, 0.74)
        x, y = _place(home, rng, max(3, home.canvas.rows // 40))
        radius, hu = rng.uniform(0.023, 0.050), rng.uniform(10, 80)
        angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        wobble = 1 + rng.normal(0, 0.10, 12)
        for frame, plane in enumerate(planes):
            left = radius**2 - ((plane.z - home.z) / _FLATTEN) ** 2
            if left <= (0.4 * radius) ** 2:
                continue
            size = np.sqrt(left) * wobble
            rim = np.stack([x + size * np.cos(angle), y + size * np.sin(angle)], 1)
            mask = plane.canvas.fill(spline(rim, closed=True, steps=5), 0.0016) * plane.air
            plane.paint(mask, hu)
            box = box_of(mask, "Nodule", frame)
            boxes += [box] if box else []
    return boxes


def _consolidation(planes: list[Slice], rng: np.random.Generator) -> list[TrueBox]:
    """Airspace filled in a lobe's part, its edge patchy, with open bronchi."""
    home = _middle(planes, rng, 0.2, 0.75)
    canvas = home.canvas
    x, y = _place(home, rng, max(3, canvas.rows // 16))
    rx, ry, rz = rng.uniform(0.06, 0.12), rng.uniform(0.05, 0.11), rng.uniform(0.08, 0.20)
    turn, hu = rng.uniform(0, 180), rng.uniform(-160, 40)
    boxes = []
    for frame, plane in enumerate(planes):
        left = 1 - ((plane.z - home.z) / rz) ** 2
        if left <= 0.12:
            continue
        size = np.sqrt(left)
        shape = canvas.ellipse(x, y, rx * size, ry * size, turn, 0.02)
        cloud = canvas.cloud(np.random.default_rng([int(x * 1e6), frame]), 14, 3)
        patch = 1 / (1 + np.exp(-7 * (shape + 0.2 * cloud - 0.55)))
        patch = patch * (shape > 0.05) * plane.air
        tubes = []
        for _ in range(3):
            angle = rng.uniform(0, 2 * np.pi)
            away = np.array([np.cos(angle) * rx, np.sin(angle) * ry]) * size
            tubes.append(
                (spline([(x, y) - 0.3 * away, (x, y) + rng.normal(0, 0.006, 2), (x, y) + 0.7 * away]), 0.008, 0.8)
            )
        patch = patch.astype(np.float32) * (1 - 0.8 * canvas.strokes(tubes, 0.001))
        plane.paint(np.clip(patch, 0, 1), hu)
        box = box_of(patch, "Consolidation", frame, level=0.5, least=max(8, canvas.rows * canvas.columns // 2500))
        boxes += [box] if box else []
    return boxes


def _effusion(planes: list[Slice], rng: np.random.Generator) -> list[TrueBox]:
    """Fluid lies at the back of the lower chest of a patient on the back; a crescent that thickens downward."""
    side = str(rng.choice(["left", "right"]))
    top, depth, hu = rng.uniform(0.38, 0.62), rng.uniform(0.05, 0.13), rng.uniform(2, 25)
    boxes = []
    for frame, plane in enumerate(planes):
        if plane.z < top:
            continue
        thick = depth * (0.35 + 0.65 * min(1.0, (plane.z - top) / 0.2))
        lifted = plane.lungs[side] * (1, 1) - (0, thick)
        lifted[:, 0] += (plane.lungs[side][:, 0].mean() - lifted[:, 0]) * 0.06
        fluid = np.clip(plane.masks[side] - plane.canvas.fill(lifted, 0.002), 0, 1)
        x, y = plane.canvas.grid()
        fluid = fluid * (y > plane.lungs[side][:, 1].mean() - 0.02)
        fluid = (fluid * np.maximum(plane.air, 0)).astype(np.float32)
        plane.paint(fluid, hu)
        plane.air = plane.air * (1 - fluid)
        box = box_of(
            fluid, "Effusion", frame, level=0.5, least=max(8, plane.canvas.rows * plane.canvas.columns // 2000)
        )
        boxes += [box] if box else []
    return boxes


def _pneumothorax(planes: list[Slice], rng: np.random.Generator) -> list[TrueBox]:
    """Air rises to the front of a patient on the back: black, without vessels, behind it the thin pleura."""
    side = str(rng.choice(["left", "right"]))
    depth, shrink = rng.uniform(0.035, 0.11), rng.uniform(0.02, 0.14)
    first, last = rng.uniform(0.0, 0.22), rng.uniform(0.55, 0.85)
    boxes = []
    inside = [plane for plane in planes if first <= plane.z <= last] or [planes[len(planes) // 2]]
    for frame, plane in enumerate(planes):
        if not any(plane is member for member in inside):
            continue
        canvas, outline = plane.canvas, plane.lungs[side]
        fade = np.clip(min(plane.z - first, last - plane.z) / 0.12 + 0.4, 0.4, 1)
        root = np.array([0.5 + 0.1 * (1 if side == "left" else -1), outline[:, 1].mean() + 0.03])
        front = np.clip((root[1] + 0.05 - outline[:, 1]) / 0.16, 0, 1)[:, None]
        collapsed = outline + (root - outline) * shrink * fade * (0.4 + 0.6 * front) + front * (0, depth * fade)
        air = np.clip(plane.masks[side] - canvas.fill(collapsed), 0, 1)
        air = (air * np.clip(3 * canvas.soften(plane.air, 0.004), 0, 1) * (plane.air > 0.3)).astype(np.float32)
        plane.paint(air, -1000)
        line = canvas.strokes([(np.concatenate([collapsed, collapsed[:1]]), 0.004, 1.0)], 0.0008)
        plane.paint(0.75 * line * plane.masks[side] * (canvas.soften(air, 0.006) > 0.08) * (plane.air > 0.3), -150)
        plane.air = plane.air * (1 - air)
        box = box_of(air, "Pneumothorax", frame, level=0.5, least=max(8, canvas.rows * canvas.columns // 3500))
        boxes += [box] if box else []
    return boxes


_DRAWERS: dict[str, Callable[[list[Slice], np.random.Generator], list[TrueBox]]] = {
    "Pneumothorax": _pneumothorax,
    "Effusion": _effusion,
    "Consolidation": _consolidation,
    "Nodule": _nodule,
}
