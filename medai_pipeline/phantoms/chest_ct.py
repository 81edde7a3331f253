"""Chest CT in Hounsfield units, slice by slice: `render_chest_ct`. Findings lie in `findings_ct`.

Coordinates: x to the patient's left, y to the back, both 0..1 across the field; z 0..1 from the lung apex down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from medai_pipeline.phantoms import findings_ct
from medai_pipeline.phantoms.canvas import Canvas, Points, spline
from medai_pipeline.phantoms.image import CT_LABELS, PhantomImage, TrueBox
from medai_pipeline.phantoms.labels import chosen

FIELD_MM = 380.0
LENGTH_MM = 300.0
_TOP, _BOTTOM = 0.05, 0.90
_SIDES = (("right", -1), ("left", 1))


@dataclass(eq=False)
class Thorax:
    """One patient's proportions, drawn once, and the vessels of both lungs as points (x, y, z, radius)."""

    rng: np.random.Generator
    girth: float
    cavity: tuple[float, float]
    centre: tuple[float, float]
    fat: float
    contrast: float  # HU of blood
    heart: float
    dome: dict[str, float]
    rib_phase: float
    vessels: np.ndarray
    granuloma: tuple[float, float, float] | None
    dependent: float
    seed: int
    notes: list[str] = field(default_factory=list)


@dataclass(eq=False)
class Slice:
    """One slice on its way: HU so far, and the lungs as masks and outlines."""

    canvas: Canvas
    z: float
    hu: np.ndarray
    lungs: dict[str, Points]
    masks: dict[str, np.ndarray]
    air: np.ndarray  # both lungs without heart, liver and vessels' roots

    def paint(self, mask: np.ndarray, value: float | np.ndarray) -> None:
        self.hu += mask * (value - self.hu)


def render_chest_ct(
    seed: int, findings: Sequence[str] | None = None, slices: int = 24, rows: int = 256, columns: int = 256
) -> PhantomImage:
    """One chest CT of patient `seed`: float32 (slices, rows, columns) in HU, from the apex down.

    `findings`: labels out of CT_LABELS; None draws them by chance. Every finding shows on at least one slice.
    Raises ValueError for an unknown finding.
    """
    labels = chosen(seed, findings, CT_LABELS)
    thorax = _thorax(seed)
    canvas = Canvas(rows, columns)
    heights = np.linspace(_TOP, _BOTTOM, slices)
    if slices < 16:  # a sparse stack may lie anywhere
        heights = np.clip(heights + thorax.rng.uniform(-0.5, 0.5) * (_BOTTOM - _TOP) / slices, 0.03, 0.93)
    planes = [_anatomy(canvas, thorax, float(z)) for z in heights]
    boxes: list[TrueBox] = findings_ct.apply(planes, np.random.default_rng([seed, 22]), labels)
    noise = np.random.default_rng([seed, 23])
    level = noise.uniform(12, 32)
    volume = np.stack([_acquire(plane.hu, noise, level) for plane in planes])
    spacing = (LENGTH_MM * (_BOTTOM - _TOP) / max(1, slices - 1), FIELD_MM / rows, FIELD_MM / columns)
    return PhantomImage(volume, tuple(boxes), labels, spacing, tuple(thorax.notes))


def _acquire(hu: np.ndarray, rng: np.random.Generator, level: float) -> np.ndarray:
    """Point spread and correlated noise, a little more through the middle."""
    size = min(hu.shape) / 256
    noise = cv2.GaussianBlur(rng.standard_normal(hu.shape, dtype=np.float32), (0, 0), 0.7 * size)
    image = cv2.GaussianBlur(hu, (0, 0), 0.55 * size) + 2.2 * level * noise
    return np.round(np.clip(image, -1024, 3071)).astype(np.float32)


def _thorax(seed: int) -> Thorax:
    rng = np.random.default_rng([seed, 21])
    width = rng.uniform(0.31, 0.345)
    centre = (0.5 + rng.normal(0, 0.008), 0.49 + rng.normal(0, 0.008))
    cavity = (width, width * rng.uniform(0.66, 0.74))
    notes = []
    granuloma = None
    if rng.random() < 0.2:
        side = rng.choice([-1, 1])
        granuloma = (
            centre[0] + side * rng.uniform(0.15, 0.24),
            centre[1] + rng.uniform(-0.08, 0.1),
            rng.uniform(0.3, 0.6),
        )
        notes.append("calcified granuloma")
    dependent = float(rng.uniform(40, 180)) if rng.random() < 0.3 else 0.0
    if dependent:
        notes.append("dependent density")
    vessels = np.concatenate([_vessel_points(rng, centre, sign) for _, sign in _SIDES])
    return Thorax(
        rng=rng,
        girth=rng.uniform(0.98, 1.06),
        cavity=cavity,
        centre=centre,
        fat=rng.uniform(0.012, 0.045),
        contrast=rng.choice([45.0, 130.0, 200.0]) + rng.normal(0, 8),
        heart=rng.uniform(0.9, 1.1),
        dome={"right": rng.uniform(0.66, 0.72), "left": rng.uniform(0.70, 0.76)},
        rib_phase=rng.uniform(0, 0.08),
        vessels=vessels,
        granuloma=granuloma,
        dependent=dependent,
        seed=seed,
        notes=notes,
    )


def _vessel_points(rng: np.random.Generator, centre: tuple[float, float], sign: int) -> np.ndarray:
    """Branching vessels of one lung as points (x, y, z, radius)."""
    root = np.array([centre[0] + sign * 0.085, centre[1] + 0.015, 0.44])
    points = []
    front = []
    for elevation in np.linspace(-1.2, 1.2, 7) + rng.normal(0, 0.12, 7):
        for turn in rng.uniform(-1.2, 1.2, 2):
            way = np.array(
                [sign * np.cos(elevation) * np.cos(turn), np.cos(elevation) * np.sin(turn), np.sin(elevation)]
            )
            front.append((root, way, rng.uniform(0.08, 0.11), rng.uniform(0.006, 0.0085), 0))
    while front:
        start, way, length, radius, depth = front.pop()
        steps = np.arange(0, 1, 0.04)[:, None]
        bent = way + rng.normal(0, 0.12, 3)
        line = start + length * (way * steps + 0.5 * (bent - way) * steps**2)
        points.append(np.concatenate([line, np.full((len(line), 1), radius)], 1))
        if depth < 4:
            for _ in range(2):
                onward = bent + rng.normal(0, 0.42, 3)
                onward /= np.linalg.norm(onward)
                front.append((line[-1], onward, length * rng.uniform(0.65, 0.9), radius * 0.74, depth + 1))
    return np.concatenate(points)


def _anatomy(canvas: Canvas, thorax: Thorax, z: float) -> Slice:
    cx, cy = thorax.centre
    plane = Slice(canvas, z, np.full((canvas.rows, canvas.columns), -1000, np.float32), {}, {}, canvas.blank())
    narrow = 0.52 + 0.48 * min(1.0, z / 0.33) ** 0.7
    tx, ty = thorax.cavity[0] * narrow, thorax.cavity[1] * (0.25 + 0.75 * narrow)
    _wall(plane, thorax, tx, ty)
    _lungs(plane, thorax, tx, ty, narrow)
    _vessels(plane, thorax)
    _domes(plane, thorax, tx, ty)
    _mediastinum(plane, thorax)
    _spine(plane, cx, cy + ty * 0.93)
    return plane


def _oval(cx: float, cy: float, rx: float, ry: float, power: float = 2.0, steps: int = 72) -> Points:
    angle = np.linspace(0, 2 * np.pi, steps, endpoint=False)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack(
        [cx + rx * np.sign(cos) * np.abs(cos) ** (2 / power), cy + ry * np.sign(sin) * np.abs(sin) ** (2 / power)], 1
    )


def _wall(plane: Slice, thorax: Thorax, tx: float, ty: float) -> None:
    """Table, skin, fat, muscle, ribs, breast bone, shoulder blades; the cavity is left soft."""
    canvas, (cx, cy) = plane.canvas, thorax.centre
    z, fat, rng = plane.z, thorax.fat, np.random.default_rng([thorax.seed, 24])
    shoulders = max(0.0, 1 - z / 0.28)
    bx = (thorax.cavity[0] + 0.058 + fat + 0.035 * shoulders) * thorax.girth
    by = (thorax.cavity[1] + 0.052 + fat) * (1 - 0.10 * shoulders) * thorax.girth
    back = cy + by * 0.99
    table = spline(
        [
            (cx - 0.36, back - 0.015),
            (cx - 0.2, back + 0.02),
            (cx, back + 0.028),
            (cx + 0.2, back + 0.02),
            (cx + 0.36, back - 0.015),
        ]
    )
    plane.paint(canvas.strokes([(table, 0.010, 1.0), (table + (0, 0.045), 0.006, 1.0)]), -350)
    plane.paint(canvas.fill(_oval(cx, cy + 0.005, bx, by, 2.35)), -105)
    plane.paint(canvas.strokes([(np.vstack([_oval(cx, cy + 0.005, bx, by, 2.35)] * 2)[:74], 0.005, 1.0)]), 10)
    muscle = _oval(cx, cy + 0.01, bx - fat - 0.006, by - fat - 0.006, 2.3)
    plane.paint(canvas.fill(muscle), 48 + 12 * canvas.cloud(rng, 14, 1))
    plane.paint(canvas.fill(_oval(cx, cy, tx + 0.028, ty + 0.026)), -85)
    plane.paint(canvas.fill(_oval(cx, cy, tx + 0.022, ty + 0.020)), 45)
    blades = []
    if z < 0.42:
        for sign in (-1, 1):
            points = [
                (cx + sign * (tx + 0.075), cy + 0.02),
                (cx + sign * (tx + 0.03), cy + 0.13),
                (cx + sign * (tx * 0.72), cy + ty + 0.035),
            ]
            blades.append((spline(points), 0.016 * (1 - z), 1.0))
    plane.paint(canvas.strokes(blades, 0.0015), 420)
    plane.paint(_ribs(canvas, thorax, z, tx + 0.017, ty + 0.015, 0.021), 620)
    plane.paint(_ribs(canvas, thorax, z, tx + 0.017, ty + 0.015, 0.011), 230)
    if 0.1 < z < 0.66:
        plane.paint(canvas.ellipse(cx, cy - ty - 0.014, 0.05 * (1.3 - z), 0.016), 480)
        plane.paint(canvas.ellipse(cx, cy - ty - 0.014, 0.043 * (1.3 - z), 0.010), 170)
    if z < 0.12:
        for sign in (-1, 1):
            plane.paint(canvas.ellipse(cx + sign * 0.10, cy - ty - 0.015, 0.06, 0.017, sign * -18), 520)


def _ribs(canvas: Canvas, thorax: Thorax, z: float, rx: float, ry: float, width: float) -> np.ndarray:
    """Each rib leaves the spine high and ends in front low, so a slice cuts it once a side, ever further forward."""
    cx, cy = thorax.centre
    arcs = []
    for rib in range(-5, 13):
        share = (z - (0.07 * rib + thorax.rib_phase)) / 0.34
        if not 0.04 < share < 0.92:
            continue
        for sign in (-1, 1):
            around = np.linspace(share - 0.055, share + 0.055, 7) * np.pi
            arcs.append((np.stack([cx + sign * rx * np.sin(around), cy + ry * np.cos(around)], 1), width, 1.0))
    return canvas.strokes(arcs, 0.001)


def _lungs(plane: Slice, thorax: Thorax, tx: float, ty: float, narrow: float) -> None:
    canvas, (cx, cy) = plane.canvas, thorax.centre
    rng = np.random.default_rng([thorax.seed, 25])
    texture = canvas.cloud(rng, 40, 2) * 16 + canvas.cloud(rng, 5, 1) * 14
    y = canvas.grid()[1]
    for name, sign in _SIDES:
        lateral = np.deg2rad(np.linspace(-68, 74, 11))
        points = [(cx + sign * tx * np.cos(a), cy + ty * np.sin(a)) for a in lateral]
        points += [(cx + sign * 0.085 * narrow, cy + ty * 0.80), (cx + sign * 0.062 * narrow, cy + ty * 0.35)]
        points += [(cx + sign * 0.075 * narrow, cy - ty * 0.10), (cx + sign * 0.052 * narrow, cy - ty * 0.55)]
        outline = spline(np.array(points), closed=True, steps=6)
        mask = canvas.fill(outline)
        dependent = thorax.dependent * np.clip((y - (cy + ty * 0.62)) / (ty * 0.3), 0, 1) ** 2
        plane.paint(mask, -845 + texture + dependent + 45 * (y - cy) / ty)
        plane.lungs[name], plane.masks[name] = outline, mask
    plane.air = np.maximum(plane.masks["right"], plane.masks["left"])


def _vessels(plane: Slice, thorax: Thorax) -> None:
    canvas = plane.canvas
    near = thorax.vessels[np.abs(thorax.vessels[:, 2] - plane.z) < 0.009]
    layer = np.zeros((canvas.rows, canvas.columns), np.uint8)
    for (x, y), radius in zip(canvas.pixels(near[:, :2]), near[:, 3], strict=True):
        cv2.circle(layer, (int(x), int(y)), max(9, round(radius * canvas.unit * 16)), 255, -1, cv2.LINE_AA, 4)
    mask = layer.astype(np.float32) / 255 * cv2.erode(plane.air, np.ones((3, 3), np.uint8))
    plane.paint(0.8 * cv2.GaussianBlur(mask, (0, 0), 0.5), thorax.contrast)
    if thorax.granuloma and abs(thorax.granuloma[2] - plane.z) < 0.02:
        x, y, _ = thorax.granuloma
        plane.paint(canvas.ellipse(x, y, 0.006, 0.006), 700)


def _domes(plane: Slice, thorax: Thorax, tx: float, ty: float) -> None:
    """Liver under the right dome, spleen and stomach under the left: they rise in the middle of each base."""
    canvas, (cx, cy) = plane.canvas, thorax.centre
    for name, sign in _SIDES:
        low = (plane.z - thorax.dome[name]) / 0.26
        if low <= 0:
            continue
        grow = np.sqrt(min(1.0, low))
        mask = canvas.ellipse(cx + sign * tx * 0.47, cy - ty * 0.06, tx * 0.52 * grow, ty * 0.86 * grow, 0, 0.003)
        mask = mask * np.maximum(plane.masks[name], 0)
        plane.paint(mask, (62 if name == "right" else 50) + 0.25 * (thorax.contrast - 45))
        plane.air = plane.air * (1 - mask)
        if name == "left" and grow > 0.5:
            plane.paint(
                canvas.ellipse(cx + tx * 0.45, cy - ty * 0.42, tx * 0.22 * grow, ty * 0.20 * grow, 0, 0.002) * mask,
                -940,
            )


def _mediastinum(plane: Slice, thorax: Thorax) -> None:
    canvas, (cx, cy), z, blood = plane.canvas, thorax.centre, plane.z, thorax.contrast
    solid = canvas.blank()

    def organ(mask: np.ndarray, value: float) -> None:
        nonlocal solid
        plane.paint(mask, value)
        solid = np.maximum(solid, mask)

    plane.paint(canvas.ellipse(cx, cy - 0.02, 0.058, 0.15) * (1 - plane.air), -70)
    if z > 0.42:
        size = thorax.heart * np.sqrt(np.clip((z - 0.42) / 0.10, 0, 1)) * np.clip((1.0 - z) / 0.2, 0.6, 1)
        organ(canvas.ellipse(cx + 0.040, cy - 0.055, 0.135 * size, 0.098 * size, 32, 0.002), 45)
        plane.paint(canvas.ellipse(cx + 0.085, cy - 0.035, 0.052 * size, 0.036 * size, 38, 0.003), blood)
        plane.paint(canvas.ellipse(cx + 0.012, cy - 0.098, 0.055 * size, 0.032 * size, 25, 0.003), blood * 0.9)
        plane.paint(canvas.ellipse(cx - 0.048, cy - 0.050, 0.036 * size, 0.042 * size, 10, 0.003), blood * 0.95)
        plane.paint(canvas.ellipse(cx + 0.012, cy + 0.010, 0.050 * size, 0.028 * size, 5, 0.003), blood)
    if 0.28 < z <= 0.45:
        organ(canvas.ellipse(cx - 0.018, cy - 0.075, 0.040, 0.040, 0, 0.0015), blood)
        organ(canvas.ellipse(cx - 0.065, cy - 0.045, 0.022, 0.024, 0, 0.0015), blood * 1.05)
    if 0.35 < z <= 0.45:
        organ(canvas.ellipse(cx + 0.045, cy - 0.060, 0.036, 0.030, 30, 0.0015), blood)
        organ(
            canvas.strokes(
                [(spline([(cx + 0.04, cy - 0.05), (cx + 0.03, cy - 0.015), (cx - 0.07, cy + 0.0)]), 0.038, 1.0)], 0.0015
            ),
            blood,
        )
    if 0.21 < z <= 0.28:
        arch = spline(
            [(cx - 0.025, cy - 0.075), (cx + 0.015, cy - 0.055), (cx + 0.045, cy - 0.005), (cx + 0.05, cy + 0.06)]
        )
        organ(canvas.strokes([(arch, 0.062, 1.0)], 0.0015), blood)
    if z <= 0.21:
        for x, y in ((-0.04, -0.05), (0.005, -0.06), (0.045, -0.02), (-0.075, -0.07)):
            organ(canvas.ellipse(cx + x, cy + y, 0.018, 0.018, 0, 0.0015), blood)
    if z > 0.28:
        organ(canvas.ellipse(cx + 0.055, cy + 0.105, 0.030, 0.030, 0, 0.0015), blood)
    organ(canvas.ellipse(cx + 0.010, cy + 0.085, 0.014, 0.010, 0, 0.0015), 35)
    if z < 0.36:
        plane.paint(canvas.ellipse(cx, cy + 0.035, 0.023, 0.024, 0, 0.001), -1000)
    elif z < 0.50:
        apart = 0.022 + 0.28 * (z - 0.36)
        for sign in (-1, 1):
            plane.paint(canvas.ellipse(cx + sign * apart, cy + 0.03, 0.019, 0.015, sign * 20, 0.001), -1000)
    plane.air = plane.air * (1 - solid)


def _spine(plane: Slice, x: float, y: float) -> None:
    canvas = plane.canvas
    bone = canvas.ellipse(x, y + 0.012, 0.050, 0.038, 0, 0.001)
    plane.air = plane.air * (1 - bone)
    plane.paint(canvas.strokes([(np.array([(x, y + 0.07), (x, y + 0.135)]), 0.020, 1.0)], 0.002), 450)
    plane.paint(
        canvas.strokes(
            [(spline([(x + s * 0.02, y + 0.06), (x + s * 0.085, y + 0.062)]), 0.022, 1.0) for s in (-1, 1)], 0.002
        ),
        430,
    )
    plane.paint(bone, 560)
    plane.paint(canvas.ellipse(x, y + 0.011, 0.043, 0.031, 0, 0.001), 210)
    plane.paint(canvas.ellipse(x, y + 0.066, 0.033, 0.028, 0, 0.001), 560)
    plane.paint(canvas.ellipse(x, y + 0.062, 0.022, 0.019, 0, 0.001), 30)
