"""Findings in a stack of brain MR slices: each paints its slices and says where it lies. No anatomy here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from medai_pipeline.phantoms.canvas import spline
from medai_pipeline.phantoms.image import TrueBox, box_of

if TYPE_CHECKING:
    from medai_pipeline.phantoms.brain_mr import Section

_FLATTEN = 230.0 / 120.0  # a unit of z is shorter than one of x and y


def apply(sections: list[Section], rng: np.random.Generator, labels: Sequence[str]) -> list[TrueBox]:
    """Draw every finding of `labels`, in a fixed order."""
    return [box for label, draw in _DRAWERS.items() if label in labels for box in draw(sections, rng)]


def _home(
    sections: list[Section], rng: np.random.Generator, deep: float, shallow: float = 1.0
) -> tuple[Section, float, float]:
    """A cerebral slice and a place in its brain between two distances from the surface."""
    fit = [section for section in sections if 0.30 <= section.z <= 0.78] or [sections[len(sections) // 2]]
    section = fit[int(rng.random() * len(fit))]
    rows, columns = np.nonzero((section.depth > deep) & (section.depth < shallow) & (section.brain > 0.5))
    pick = int(rng.random() * len(rows))
    return section, (columns[pick] + 0.5) / section.canvas.columns, (rows[pick] + 0.5) / section.canvas.rows


def _blob(x: float, y: float, size: float, wobble: np.ndarray) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, len(wobble), endpoint=False)
    return spline(
        np.stack([x + size * wobble * np.cos(angle), y + size * wobble * np.sin(angle)], 1), closed=True, steps=5
    )


def _ball(sections: list[Section], home: Section, radius: float) -> Iterator[tuple[int, Section, float]]:
    """Slices that cut a ball about the home slice, with the cut's radius; the home slice always does."""
    for frame, section in enumerate(sections):
        left = radius**2 - ((section.z - home.z) / _FLATTEN) ** 2
        if left > (0.45 * radius) ** 2:
            yield frame, section, float(np.sqrt(left))


def _tumour(sections: list[Section], rng: np.random.Generator) -> list[TrueBox]:
    """A lumpy mass: bright uneven rim, a core of another signal, and fingers of oedema in the white matter."""
    home, x, y = _home(sections, rng, 0.07)
    radius = rng.uniform(0.045, 0.085)
    wobble, wide = 1 + rng.normal(0, 0.11, 11), 1 + rng.normal(0, 0.20, 13)
    core, oedema = rng.uniform(0.35, 0.62), rng.uniform(1.25, 1.8)
    boxes = []
    for frame, section, size in _ball(sections, home, radius):
        canvas, tissue = section.canvas, section.tissue
        inside = section.brain
        texture = canvas.cloud(np.random.default_rng([int(x * 1e6), 7]), 22, 2)
        swelling = canvas.fill(_blob(x, y, size * oedema, wide), 0.010) * inside * (section.depth > 0.02)
        section.paint(0.55 * swelling, tissue["lesion"])
        mass = canvas.fill(_blob(x, y, size, wobble), 0.003) * np.maximum(inside, section.fluid)
        section.paint(mass, 0.86 * tissue["lesion"] + 0.07 * tissue["lesion"] * texture)
        heart = canvas.fill(_blob(x, y, size * 0.58, wobble[::-1]), 0.006) * mass
        section.paint(heart, tissue["lesion"] * core * (1 + 0.10 * texture))
        box = box_of(mass, "Tumour", frame, level=0.5, least=20)
        boxes += [box] if box else []
    return boxes


def _haemorrhage(sections: list[Section], rng: np.random.Generator) -> list[TrueBox]:
    """Deoxygenated blood: very dark, with a thin bright border."""
    home, x, y = _home(sections, rng, 0.060)
    radius = rng.uniform(0.038, 0.075)
    wobble = 1 + rng.normal(0, 0.13, 10)
    boxes = []
    for frame, section, size in _ball(sections, home, radius):
        canvas, tissue = section.canvas, section.tissue
        inside = np.maximum(section.brain, section.fluid)
        border = canvas.fill(_blob(x, y, size + 0.014, wobble), 0.004) * inside
        section.paint(0.65 * border, tissue["lesion"])
        clot = canvas.fill(_blob(x, y, size, wobble), 0.003) * inside
        texture = canvas.cloud(np.random.default_rng([int(x * 1e6), 8]), 18, 1)
        section.paint(clot, tissue["blood"] * (1 + 0.3 * texture))
        box = box_of(clot, "Haemorrhage", frame, level=0.5, least=14)
        boxes += [box] if box else []
    return boxes


def _infarct(sections: list[Section], rng: np.random.Generator) -> list[TrueBox]:
    """A wedge of even brightness that reaches the cortex: one artery's territory."""
    home, x, y = _home(sections, rng, 0.02, 0.045)
    centre = np.array([0.5, 0.5])
    away = np.array([x, y]) - centre
    angle = np.arctan2(away[1], away[0])
    spread, deep = rng.uniform(0.20, 0.42), rng.uniform(0.40, 0.62)
    reach, bright = rng.uniform(0.10, 0.24), rng.uniform(0.78, 1.0)
    jag = rng.normal(0, 0.018, 8)
    boxes = []
    for frame, section in enumerate(sections):
        if abs(section.z - home.z) > reach / 2 and section is not home:
            continue
        narrow = spread * (1 - 0.5 * abs(section.z - home.z) / reach)
        length = float(np.hypot(*away))
        rays = angle + np.linspace(-narrow, narrow, 8)
        outer = centre + np.stack([np.cos(rays), np.sin(rays)], 1) * 0.5
        inner = centre + np.stack([np.cos(rays[::-1]), np.sin(rays[::-1])], 1) * (length * deep + jag)[:, None]
        mask = section.canvas.fill(np.concatenate([outer, inner]), 0.006) * section.brain
        section.paint(0.88 * mask, bright * section.tissue["lesion"])
        box = box_of(mask, "Infarct", frame, level=0.5, least=60)
        boxes += [box] if box else []
    return boxes


_DRAWERS: dict[str, Callable[[list[Section], np.random.Generator], list[TrueBox]]] = {
    "Infarct": _infarct,
    "Tumour": _tumour,
    "Haemorrhage": _haemorrhage,
}
