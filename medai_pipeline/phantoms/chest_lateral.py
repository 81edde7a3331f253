"""The chest seen from the side (lateral, patient facing left): anatomy as layers of X-ray density. No findings here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from medai_pipeline.phantoms import findings_xray
from medai_pipeline.phantoms.canvas import Canvas, Place, Points, spline
from medai_pipeline.phantoms.chest_pa import Chest, branches, compose
from medai_pipeline.phantoms.image import TrueBox


def render(
    canvas: Canvas, rng: np.random.Generator, disease: np.random.Generator, labels: Sequence[str]
) -> tuple[np.ndarray, list[TrueBox], list[str]]:
    chest, heart_box = _anatomy(canvas, rng, disease, "Cardiomegaly" in labels)
    boxes = findings_xray.apply(chest, disease, labels)
    if "Cardiomegaly" in labels:
        boxes.append(heart_box)
    return compose(chest, rng), boxes, chest.notes


def _anatomy(
    canvas: Canvas, rng: np.random.Generator, disease: np.random.Generator, big_heart: bool
) -> tuple[Chest, TrueBox]:
    size = rng.uniform(0.93, 1.03)
    shift = np.array([rng.uniform(-0.02, 0.02), rng.uniform(-0.02, 0.02)])

    def place(points: ArrayLike) -> Points:
        return (np.asarray(points) - 0.5) * size + 0.5 + shift

    def jitter(points: Sequence[tuple[float, float]], amount: float = 0.004) -> Points:
        return np.asarray(points) + rng.normal(0, amount, (len(points), 2))

    lung_points = [(0.52, 0.11), (0.43, 0.15), (0.32, 0.25), (0.255, 0.40), (0.225, 0.55), (0.225, 0.69)]
    lung_points += [(0.30, 0.685), (0.42, 0.675), (0.54, 0.70), (0.66, 0.765), (0.745, 0.85), (0.775, 0.875)]
    lung_points += [(0.795, 0.84), (0.825, 0.65), (0.825, 0.45), (0.77, 0.27), (0.68, 0.15), (0.60, 0.11)]
    outline = place(spline(jitter(lung_points), closed=True, steps=8))
    body_points = [(0.36, -0.2), (0.38, 0.02), (0.27, 0.10), (0.17, 0.24), (0.13, 0.42), (0.12, 0.62), (0.14, 1.3)]
    body_points += [(0.95, 1.3), (0.94, 0.8), (0.96, 0.55), (0.94, 0.3), (0.84, 0.10), (0.72, 0.0), (0.70, -0.2)]
    body = canvas.fill(place(spline(jitter(body_points, 0.006), closed=True)), 0.006)
    x, y = canvas.grid()
    profile = 1.02 + 0.22 * np.clip((y - 0.66) / 0.2, 0, 1) + 0.16 * np.clip((0.22 - y) / 0.2, 0, 1)
    lung = canvas.fill(outline, 0.004)
    heart, heart_box = _heart(canvas, place, rng, disease, big_heart)
    hilum = tuple(place([(0.535, 0.43)])[0])
    chest = Chest(
        canvas=canvas,
        view="LATERAL",
        lungs={"both": outline},
        hila={"both": hilum},
        body=(body * profile).astype(np.float32),
        lung=lung * 0.9,
        vessels=0.6 * canvas.strokes(_vessels(rng, np.array(hilum)), 0.0018),
        heart=heart,
        mediastinum=_mediastinum(canvas, place, rng),
        bones=_bones(canvas, place, rng),
        extra=_spine(canvas, place, rng) + _airway(canvas, place, rng),
        aeration=np.ones_like(lung) + 0.12 * canvas.disc(place([(0.33, 0.36)])[0], 0.07, 0.12, 25, 0.03),
    )
    return chest, heart_box


def _heart(
    canvas: Canvas, place: Place, rng: np.random.Generator, disease: np.random.Generator, big: bool
) -> tuple[np.ndarray, TrueBox]:
    size = disease.uniform(1.30, 1.62) if big else rng.uniform(0.88, 1.05)
    rx, ry, tilt = 0.125 * size, 0.105 * size, rng.uniform(25, 42)
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    turn = np.deg2rad(tilt)
    cos, sin = rx * np.cos(angle), ry * np.sin(angle) * (1 + 0.16 * np.cos(angle))  # egg: blunt at the front
    centre = np.array([0.375 + 0.07 * (size - 1), 0.60 - 0.02 * (size - 1)])
    curve = centre + np.stack([cos * np.cos(turn) - sin * np.sin(turn), cos * np.sin(turn) + sin * np.cos(turn)], 1)
    curve = place(curve)
    mask = 0.68 * canvas.fill(curve, 0.013)
    (x0, y0), (x1, y1) = curve.min(axis=0), curve.max(axis=0)
    columns, rows = canvas.columns, canvas.rows
    box = TrueBox("Cardiomegaly", (int(x0 * columns), int(y0 * rows), int(x1 * columns) + 1, int(y1 * rows) + 1))
    return mask, box


def _mediastinum(canvas: Canvas, place: Place, rng: np.random.Generator) -> np.ndarray:
    arch = spline([(0.44, 0.46), (0.47, 0.36), (0.54, 0.325), (0.61, 0.36), (0.63, 0.46), (0.65, 0.62), (0.68, 0.8)])
    aorta = 0.30 * canvas.strokes([(place(arch), 0.05, 1.0)], 0.008)
    hilum = 0.5 * canvas.disc(place([(0.535, 0.44)])[0], 0.04, 0.05, 30, 0.012)
    return np.maximum(aorta, hilum * rng.uniform(0.7, 1.1))


def _spine_line(rng: np.random.Generator) -> Points:
    curve = rng.uniform(-0.01, 0.015)
    return spline(
        [(0.655, 0.0), (0.70, 0.13), (0.765 + curve, 0.32), (0.785 + curve, 0.52), (0.765, 0.72), (0.73, 1.0)], steps=10
    )


def _spine(canvas: Canvas, place: Place, rng: np.random.Generator) -> np.ndarray:
    """Vertebral bodies as blocks along a curved line, denser at their end plates; darker toward the diaphragm."""
    line = _spine_line(rng)
    length = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
    total = canvas.blank()
    blocks, plates = [], []
    for at in np.arange(0.03, length[-1] - 0.13, 0.064):
        centre = np.array([np.interp(at, length, line[:, i]) for i in (0, 1)])
        ahead = np.array([np.interp(at + 0.01, length, line[:, i]) for i in (0, 1)])
        along = (ahead - centre) / np.hypot(*(ahead - centre))
        across = np.array([-along[1], along[0]]) * 0.031
        corners = [centre + along * 0.024 * a + across * b for a, b in ((-1, -1), (-1, 1), (1, 1), (1, -1))]
        blocks.append(np.array(corners))
        plates += [(np.array([corners[0], corners[1]]), 0.005, 1.0), (np.array([corners[2], corners[3]]), 0.005, 1.0)]
        back = centre - across * 2.6
        blocks.append(
            np.array([back, back + along * 0.03 - across, back + along * 0.045 - across, back + along * 0.02])
        )
    for block in blocks:
        total = np.maximum(total, canvas.fill(place(block)))
    return 0.13 * canvas.soften(total, 0.003) + 0.10 * canvas.strokes([(place(p), w, s) for p, w, s in plates], 0.0015)


def _bones(canvas: Canvas, place: Place, rng: np.random.Generator) -> np.ndarray:
    """Ribs slope forward and down, both sides on top of each other; breast bone and shoulder blades."""
    step, first = rng.uniform(0.062, 0.07), rng.uniform(0.14, 0.17)
    total = canvas.blank()
    for offset in (0.0, rng.uniform(0.015, 0.03)):
        curves = []
        for i in range(9):
            y = first + step * i + offset
            front = 0.29 - 0.012 * min(i, 5)
            curves.append(
                (place(spline([(0.80, y - 0.03), (0.66, y + 0.03), (0.48, y + 0.11), (front, y + 0.20)])), 0.013)
            )
        tubes = canvas.strokes([(c, w, 1.0) for c, w in curves])
        cores = canvas.strokes([(c, w * 0.5, 1.0) for c, w in curves])
        total += 0.055 * canvas.soften(tubes - 0.5 * cores, 0.002)
    breastbone = spline([(0.335, 0.18), (0.255, 0.30), (0.205, 0.45), (0.185, 0.58)])
    total += 0.16 * canvas.strokes([(place(breastbone), 0.022, 1.0)], 0.003)
    for x in (0.80, 0.84):
        blade = spline([(x - 0.02, 0.12), (x + 0.01, 0.25), (x - 0.01, 0.40)])
        total += 0.09 * canvas.strokes([(place(blade), 0.012, 1.0)], 0.003)
    return total


def _airway(canvas: Canvas, place: Place, rng: np.random.Generator) -> np.ndarray:
    tube = spline([(0.49, -0.05), (0.505, 0.15), (0.535, 0.40)])
    air = 0.17 * canvas.strokes([(place(tube), 0.032, 1.0)], 0.004)
    if rng.random() < 0.8:
        air += 0.25 * canvas.disc(place([(0.44, 0.735)])[0], rng.uniform(0.04, 0.07), 0.025, -8, 0.005)
    return -air


def _vessels(rng: np.random.Generator, root: np.ndarray) -> list[tuple[Points, float, float]]:
    angles = np.linspace(0, 2 * np.pi, 11)[:-1] + rng.normal(0, 0.15, 10)
    return branches(rng, root, angles, rng.uniform(0.09, 0.11, 10), 0.010)
