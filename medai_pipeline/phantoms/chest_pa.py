"""The chest seen from the front (PA): anatomy as layers of X-ray density. The patient's left is the image's right.

Density: 0 air outside, about 0.25 lung, 0.8 soft tissue, above 1 bone over soft tissue. No findings here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from medai_pipeline.phantoms import findings_xray
from medai_pipeline.phantoms.canvas import Canvas, Place, Points, spline
from medai_pipeline.phantoms.image import TrueBox


@dataclass(eq=False)
class Chest:
    """The layers of one film on their way; a finding changes them before they are put together."""

    canvas: Canvas
    view: str
    lungs: dict[str, Points]  # outline by side: "right" is the patient's right
    hila: dict[str, tuple[float, float]]
    body: np.ndarray
    lung: np.ndarray
    vessels: np.ndarray
    heart: np.ndarray
    mediastinum: np.ndarray
    bones: np.ndarray
    extra: np.ndarray  # added density
    aeration: np.ndarray  # factor on what is dark in the lung: 1 as usual, above 1 darker
    notes: list[str] = field(default_factory=list)


def render(
    canvas: Canvas, rng: np.random.Generator, disease: np.random.Generator, labels: Sequence[str]
) -> tuple[np.ndarray, list[TrueBox], list[str]]:
    chest, heart_box = _anatomy(canvas, rng, disease, "Cardiomegaly" in labels)
    boxes = findings_xray.apply(chest, disease, labels)
    if "Cardiomegaly" in labels:
        boxes.append(heart_box)
    _distractors(chest, rng)
    return compose(chest, rng), boxes, chest.notes


def compose(chest: Chest, rng: np.random.Generator) -> np.ndarray:
    """Layers to density. The heart and mediastinum displace lung; ribs lie over everything."""
    canvas = chest.canvas
    solid = np.maximum(chest.heart, chest.mediastinum)
    air = chest.lung * (1 - 0.93 * solid)
    texture = 0.035 * canvas.cloud(rng, 34, 2) + 0.03 * canvas.cloud(rng, 5, 2)
    density = chest.body * (0.80 + 0.05 * canvas.cloud(rng, 2.5, 2))
    density -= chest.body * air * np.clip(0.53 * chest.aeration, 0, 0.72)
    density += air * (0.16 * chest.vessels + texture * (chest.aeration <= 1.01))
    density += chest.body * 0.10 * solid + chest.bones * (1 - 0.45 * solid) + chest.extra
    return np.maximum(density, 0)


def _jitter(rng: np.random.Generator, points: Sequence[tuple[float, float]], size: float) -> Points:
    return np.asarray(points) + rng.normal(0, size, (len(points), 2))


def _anatomy(
    canvas: Canvas, rng: np.random.Generator, disease: np.random.Generator, big_heart: bool
) -> tuple[Chest, TrueBox]:
    width, height = rng.uniform(0.92, 1.04), rng.uniform(0.93, 1.03)
    shift = np.array([rng.uniform(-0.015, 0.015), rng.uniform(-0.02, 0.02)])

    def place(points: ArrayLike) -> Points:
        return (np.asarray(points) - 0.5) * (width, height) + 0.5 + shift

    deep = rng.uniform(-0.03, 0.03)  # how deep the patient breathed in
    right = [(0.375, 0.115), (0.30, 0.125), (0.225, 0.21), (0.165, 0.36), (0.135, 0.52), (0.122, 0.68 + deep)]
    right += [(0.120, 0.790 + deep), (0.128, 0.800 + deep), (0.165, 0.752 + deep), (0.24, 0.712 + deep)]
    right += [(0.32, 0.705 + deep), (0.40, 0.738 + deep), (0.435, 0.60), (0.452, 0.45), (0.455, 0.30), (0.43, 0.165)]
    left = [(1 - x, y + (0.022 if 0.68 < y < 0.79 else 0)) for x, y in right]
    lungs = {
        side: place(spline(_jitter(rng, points, 0.004), closed=True, steps=8))
        for side, points in (("right", right), ("left", left))
    }
    hila = {"right": tuple(place([(0.425, 0.43)])[0]), "left": tuple(place([(0.578, 0.415)])[0])}
    body = _body(canvas, place, rng)
    # A pleural edge is sharp: that is how films look, and what makes a thin line beside it visible.
    lung = np.maximum(*(canvas.fill(outline, 0.003) for outline in lungs.values()))
    heart, heart_box = _heart(canvas, place, rng, disease, big_heart)
    mediastinum = _mediastinum(canvas, place, rng)
    bones, extra = _bones(canvas, place, lungs, rng)
    extra += _airway_and_stomach(canvas, place, rng, deep)
    vessels = canvas.strokes(
        [s for side in lungs for s in _vessel_tree(rng, np.array(hila[side]), -1 if side == "right" else 1)], 0.0012
    )
    chest = Chest(canvas, "PA", lungs, hila, body, lung, vessels, heart, mediastinum, bones, extra, np.ones_like(body))
    return chest, heart_box


def _body(canvas: Canvas, place: Place, rng: np.random.Generator) -> np.ndarray:
    girth = rng.uniform(-0.02, 0.03)
    half = [(0.5, -0.2), (0.40, -0.1), (0.395, 0.03), (0.34, 0.085), (0.20, 0.115), (0.08, 0.17), (0.0, 0.26)]
    half += [(-0.06, 0.5), (-0.1, 0.8), (-0.1, 1.3)]
    outer = np.array(half + [(1 - x, y) for x, y in reversed(half)])
    body = canvas.fill(place(spline(outer, steps=6)), 0.004)
    axilla = np.array([(-0.3, 0.42), (0.02 - girth, 0.40), (0.045 - girth, 0.52), (0.035 - girth, 0.9), (-0.3, 0.9)])
    for mirrored in (axilla, np.stack([1 - axilla[:, 0], axilla[:, 1]], 1)):
        body = body * (1 - 0.85 * canvas.fill(place(spline(mirrored, closed=True)), 0.008))
    x, y = canvas.grid()
    profile = 1 + 0.12 * np.exp(-(((x - 0.5) / 0.16) ** 2)) + 0.16 * np.clip((y - 0.68) / 0.2, 0, 1)
    return (body * profile).astype(np.float32)


def _heart(
    canvas: Canvas, place: Place, rng: np.random.Generator, disease: np.random.Generator, big: bool
) -> tuple[np.ndarray, TrueBox]:
    """Heart shadow by its cardiothoracic ratio: 0.40 to 0.48 is usual, from 0.56 on it is called enlarged."""
    usual = rng.uniform(0.38, 0.465)
    ratio = disease.uniform(0.56, 0.70) if big else usual
    across = ratio * 0.76
    right, left = 0.5 - across * rng.uniform(0.31, 0.36), 0.5 + across * rng.uniform(0.64, 0.68)
    grow = max(0.0, ratio - 0.47)
    outline = [(0.455, 0.44), (right + 0.012, 0.53 - grow * 0.3), (right, 0.62), (right + 0.03, 0.745), (0.5, 0.79)]
    outline += [(left - 0.07, 0.785), (left - 0.005, 0.725), (left - 0.02, 0.655 - grow * 0.3)]
    outline += [(0.5 + (left - 0.5) * 0.66, 0.53 - grow * 0.35), (0.577, 0.45), (0.54, 0.41)]
    curve = place(spline(_jitter(rng, outline, 0.004), closed=True))
    mask = canvas.fill(curve, 0.005)
    x0, y0 = curve.min(axis=0)
    x1, y1 = curve.max(axis=0)
    columns, rows = canvas.columns, canvas.rows
    box = TrueBox("Cardiomegaly", (int(x0 * columns), int(y0 * rows), int(x1 * columns) + 1, int(y1 * rows)))
    return mask, box


def _mediastinum(canvas: Canvas, place: Place, rng: np.random.Generator) -> np.ndarray:
    knob = rng.uniform(0.575, 0.597)
    outline = [(0.455, 0.02), (0.448, 0.2), (0.448, 0.32), (0.445, 0.45), (0.45, 0.8), (0.55, 0.8), (0.56, 0.5)]
    outline += [(0.572, 0.425), (0.565, 0.385), (knob, 0.345), (knob - 0.006, 0.305), (0.556, 0.27), (0.545, 0.02)]
    mask = canvas.fill(place(spline(_jitter(rng, outline, 0.002), closed=True)), 0.005)
    hila = np.maximum(
        canvas.disc(place([(0.435, 0.435)])[0], 0.024, 0.05, 12, 0.010),
        canvas.disc(place([(0.572, 0.415)])[0], 0.024, 0.046, -12, 0.010),
    )
    return np.maximum(mask, 0.62 * hila * rng.uniform(0.7, 1.1))


def _bones(
    canvas: Canvas, place: Place, lungs: dict[str, Points], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    step, first, thick = rng.uniform(0.062, 0.069), rng.uniform(0.105, 0.125), rng.uniform(0.017, 0.022)
    droop = rng.uniform(0.05, 0.08)
    behind, front = [], []
    for side, outline in lungs.items():
        sign = -1 if side == "right" else 1
        for i in range(10):
            y = first + step * i
            edge = _wall(outline, y + droop, sign) + 0.004 * sign
            start = place([(0.5 + sign * 0.035, y)])[0]
            curve = spline([start, (0.5 * start[0] + 0.5 * edge, y - 0.018 + 0.002 * i), (edge, y + droop)])
            behind.append((curve, thick))
            if 0 < i < 8:
                low = y + droop
                reach = 0.5 + sign * (0.135 + 0.012 * i)
                bend = (edge - sign * 0.012, low + 0.055)
                front.append(
                    (spline([(edge, low), bend, (0.5 * (edge + reach), low + 0.115), (reach, low + 0.125)]), thick)
                )
    ribs = 0.155 * _rib_layer(canvas, behind) + 0.085 * _rib_layer(canvas, front)
    collar = []
    for sign in (-1, 1):
        tilt = rng.uniform(-0.012, 0.012)
        points = [(0.5 + sign * 0.035, 0.185), (0.5 + sign * 0.13, 0.158 + tilt), (0.5 + sign * 0.24, 0.135 + tilt)]
        points += [(0.5 + sign * 0.345, 0.095 + tilt)]
        collar.append((place(spline(points)), 0.026))
    bones = ribs + 0.15 * _rib_layer(canvas, collar)
    return bones, _spine(canvas, place, rng) + _shoulders(canvas, place, rng)


def _wall(outline: Points, y: float, sign: int) -> float:
    """x of the lung's outer border at height y."""
    near = outline[np.abs(outline[:, 1] - np.clip(y, outline[:, 1].min() + 0.02, outline[:, 1].max() - 0.02)) < 0.02]
    return float(near[:, 0].min() if sign < 0 else near[:, 0].max())


def _rib_layer(canvas: Canvas, curves: list[tuple[Points, float]]) -> np.ndarray:
    """Tubes: bright cortex at both edges, less in the middle."""
    tubes = canvas.strokes([(points, width, 1.0) for points, width in curves])
    cores = canvas.strokes([(points, width * 0.62, 1.0) for points, width in curves])
    return canvas.soften(tubes - 0.42 * cores, 0.0016)


def _spine(canvas: Canvas, place: Place, rng: np.random.Generator) -> np.ndarray:
    bend = rng.normal(0, 0.004)
    layer, discs = [], []
    for i in range(15):
        y = 0.03 + 0.066 * i
        x = 0.5 + bend * np.sin(i / 3)
        layer.append((place([(x, y - 0.022), (x, y + 0.022)]), 0.072, 1.0))
        discs.append((place([(x, y - 0.006), (x, y + 0.012)]), 0.012, 1.0))
    body = canvas.strokes(layer, 0.004)
    return 0.055 * body + 0.05 * canvas.strokes(discs, 0.003)


def _shoulders(canvas: Canvas, place: Place, rng: np.random.Generator) -> np.ndarray:
    """Shoulder blades (their medial edge may cross the lung) and heads of the upper arms."""
    total = canvas.blank()
    turned = rng.uniform(0.0, 0.045)
    for sign in (-1, 1):
        blade = [(0.5 + sign * (0.40 - turned), 0.14), (0.5 + sign * (0.345 - turned), 0.24)]
        blade += [(0.5 + sign * (0.375 - turned), 0.43), (0.5 + sign * 0.44, 0.30), (0.5 + sign * 0.47, 0.19)]
        total += 0.075 * canvas.fill(place(spline(np.array(blade), closed=True)), 0.003)
        total += 0.13 * canvas.disc(place([(0.5 + sign * 0.475, 0.175)])[0], 0.055, 0.06, 0, 0.004)
    return total


def _airway_and_stomach(canvas: Canvas, place: Place, rng: np.random.Generator, deep: float) -> np.ndarray:
    """Negative density: windpipe, main bronchi and the gastric bubble under the left dome."""
    x = 0.5 - rng.uniform(-0.004, 0.012)
    fork = rng.uniform(0.355, 0.375)
    tubes = [(place(spline([(x, -0.05), (x, 0.15), (x - 0.004, fork)])), 0.030, 1.0)]
    tubes += [(place(spline([(x - 0.004, fork), (x - 0.035, fork + 0.045), (x - 0.06, fork + 0.08)])), 0.022, 0.75)]
    tubes += [(place(spline([(x - 0.004, fork), (x + 0.04, fork + 0.05), (x + 0.065, fork + 0.065)])), 0.020, 0.75)]
    air = 0.17 * canvas.strokes(tubes, 0.003)
    if rng.random() < 0.85:
        rx, ry = rng.uniform(0.035, 0.07), rng.uniform(0.018, 0.035)
        cx, cy = place([(rng.uniform(0.66, 0.73), 0.785 + deep + ry * 0.6)])[0]
        air += rng.uniform(0.2, 0.36) * canvas.ellipse(cx, cy, rx, ry, rng.uniform(-12, 5), 0.004)
    for _ in range(int(rng.integers(0, 4))):
        cx, cy = place([(rng.uniform(0.55, 0.85), rng.uniform(0.88, 0.96))])[0]
        air += 0.12 * canvas.ellipse(cx, cy, rng.uniform(0.02, 0.05), rng.uniform(0.015, 0.03), 20, 0.006)
    return -air


def _vessel_tree(rng: np.random.Generator, root: np.ndarray, sign: int) -> list[tuple[Points, float, float]]:
    """Pulmonary vessels: from the hilum outward, thinner at each fork."""
    fan = np.deg2rad(np.linspace(-75, 82, 8)) + rng.normal(0, 0.09, 8)
    return branches(rng, root, fan, rng.uniform(0.09, 0.13, 8), 0.011 * rng.uniform(0.75, 1.15), sign)


def branches(
    rng: np.random.Generator, root: np.ndarray, angle: np.ndarray, length: np.ndarray, width: float, sign: int = 1
) -> list[tuple[Points, float, float]]:
    """Curves that fork in two five times, level by level; `sign` -1 grows to the image's left."""
    strokes: list[tuple[Points, float, float]] = []
    start = np.repeat(root[None], len(angle), axis=0)
    for _ in range(5):
        ends = [start]
        for _ in range(3):
            angle = angle + rng.normal(0, 0.12, len(angle))
            step = np.stack([sign * np.cos(angle), np.sin(angle)], 1) * (length / 3)[:, None]
            ends.append(ends[-1] + step)
        strokes.append((np.stack(ends, axis=1), width, min(1.0, 0.25 + width / 0.011)))
        forks = np.concatenate([rng.uniform(0.15, 0.5, len(angle)), -rng.uniform(0.15, 0.5, len(angle))])
        start, angle = np.tile(ends[-1], (2, 1)), np.tile(angle, 2) + forks
        length = np.tile(length, 2) * rng.uniform(0.68, 0.85, len(angle))
        width *= 0.68
    return strokes[::-1]  # the wide ones on top


def _distractors(chest: Chest, rng: np.random.Generator) -> None:
    """What may be mistaken for a finding: skin fold, nipple, granuloma, ECG lead, breast shadow."""
    canvas = chest.canvas
    if rng.random() < 0.4:
        strength = rng.uniform(0.05, 0.10)
        for x in (0.285, 0.715):
            breast = canvas.ellipse(x, rng.uniform(0.63, 0.66), 0.15, 0.15, 0, 0.012)
            chest.extra += strength * breast
        chest.notes.append("breast shadow")
    if rng.random() < 0.18:
        y = rng.uniform(0.62, 0.68)
        for x in (0.26, 0.74):
            chest.extra += rng.uniform(0.03, 0.06) * canvas.ellipse(x, y, 0.009, 0.008, 0, 0.004)
        chest.notes.append("nipple shadow")
    if rng.random() < 0.18:
        x, y = rng.uniform(0.2, 0.4), rng.uniform(0.25, 0.6)
        x = 1 - x if rng.random() < 0.5 else x
        chest.extra += 0.28 * canvas.ellipse(x, y, 0.005, 0.005, 0, 0.0012)
        chest.notes.append("calcified granuloma")
    if rng.random() < 0.22:
        _skin_fold(chest, rng)
    if rng.random() < 0.2:
        _ecg_lead(chest, rng)


def _skin_fold(chest: Chest, rng: np.random.Generator) -> None:
    """A fold: a step of density with lung vessels on both sides, running past the lung's border."""
    side = rng.choice([-1, 1])
    x = 0.5 + side * rng.uniform(0.22, 0.3)
    lean = rng.uniform(-0.03, 0.06) * side
    curve = spline([(x, 0.22), (x + lean * 0.6, 0.45), (x + lean, 0.75), (x + lean * 1.4, 0.9)])
    beyond = np.concatenate([curve, [(x + side * 0.09, 0.9), (x + side * 0.09, 0.22)]])
    step = chest.canvas.fill(beyond)
    faded = step * (1 - chest.canvas.soften(step, 0.03))
    chest.extra += rng.uniform(0.08, 0.14) * faded * chest.canvas.soften(chest.lung, 0.02)
    chest.notes.append("skin fold")


def _ecg_lead(chest: Chest, rng: np.random.Generator) -> None:
    x, y = rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.55)
    cable = spline([(x, y), (x + rng.normal(0, 0.05), y + 0.2), (x + rng.normal(0, 0.15), 1.02)])
    wire = chest.canvas.strokes([(cable, 0.004, 0.7)], 0.0008)
    patch = chest.canvas.ellipse(x, y, 0.016, 0.016, 0, 0.001)
    stud = chest.canvas.ellipse(x, y, 0.006, 0.006, 0, 0.001)
    chest.extra += 0.22 * wire + 0.10 * patch + 0.35 * stud
    chest.notes.append("ECG lead")
