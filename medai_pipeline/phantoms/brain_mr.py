"""Brain MR, axial, T2 or FLAIR: `render_brain_mr`. Tissue by tissue; findings lie in `findings_mr`.

Coordinates: x to the patient's left, y to the back, 0..1 across the field; z 0..1 from the skull base up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from medai_pipeline.phantoms import findings_mr
from medai_pipeline.phantoms.canvas import Canvas, spline
from medai_pipeline.phantoms.image import MR_LABELS, PhantomImage, TrueBox
from medai_pipeline.phantoms.labels import chosen

FIELD_MM = 230.0
LENGTH_MM = 120.0
_LOW, _HIGH = 0.06, 0.94

# Signal by tissue, arbitrary units as MR has them.
CONTRASTS: dict[str, dict[str, float]] = {
    "T2": {
        "csf": 1500,
        "grey": 800,
        "white": 560,
        "scalp": 950,
        "bone": 60,
        "muscle": 330,
        "lesion": 1280,
        "blood": 130,
    },
    "FLAIR": {
        "csf": 140,
        "grey": 760,
        "white": 600,
        "scalp": 900,
        "bone": 60,
        "muscle": 380,
        "lesion": 1250,
        "blood": 150,
    },
}


@dataclass(eq=False)
class Head:
    """One patient's proportions and the folding of the cortex (noise by level, blended between slices)."""

    contrast: str
    signal: dict[str, float]
    centre: tuple[float, float]
    size: tuple[float, float]
    turn: float
    ventricles: float
    atrophy: float
    folds: np.ndarray
    plexus: bool
    spaces: bool
    ghost: float
    notes: list[str] = field(default_factory=list)


@dataclass(eq=False)
class Section:
    """One slice on its way: signal so far, brain, ventricles, and distance from the brain's surface in units."""

    canvas: Canvas
    z: float
    signal: np.ndarray
    brain: np.ndarray
    fluid: np.ndarray
    depth: np.ndarray
    tissue: dict[str, float]
    contrast: str

    def paint(self, mask: np.ndarray, value: float | np.ndarray) -> None:
        self.signal += mask * (value - self.signal)


def render_brain_mr(
    seed: int, findings: Sequence[str] | None = None, slices: int = 20, rows: int = 256, columns: int = 256
) -> PhantomImage:
    """One axial series of patient `seed`: float32 (slices, rows, columns), 0..~2000, from the skull base up.

    Whether it is T2 or FLAIR is drawn from the seed and stands in `notes`. `findings`: labels out of MR_LABELS;
    None draws them by chance. Raises ValueError for an unknown finding.
    """
    labels = chosen(seed, findings, MR_LABELS)
    rng = np.random.default_rng([seed, 31])
    head = _head(rng)
    canvas = Canvas(rows, columns)
    heights = np.linspace(_LOW, _HIGH, slices)
    if slices < 16:
        heights = np.clip(heights + rng.uniform(-0.5, 0.5) * (_HIGH - _LOW) / slices, 0.04, 0.96)
    sections = [_anatomy(canvas, head, float(z)) for z in heights]
    boxes: list[TrueBox] = findings_mr.apply(sections, np.random.default_rng([seed, 32]), labels)
    coil = 1 + 0.10 * canvas.cloud(np.random.default_rng([seed, 33]), 1.2, 1)
    noise = np.random.default_rng([seed, 34])
    level = noise.uniform(12, 34)
    volume = np.stack([_acquire(section, head, coil, noise, level) for section in sections])
    spacing = (LENGTH_MM * (_HIGH - _LOW) / max(1, slices - 1), FIELD_MM / rows, FIELD_MM / columns)
    return PhantomImage(volume, tuple(boxes), labels, spacing, tuple(head.notes))


def _head(rng: np.random.Generator) -> Head:
    contrast = str(rng.choice(["T2", "FLAIR"]))
    signal = {tissue: value * rng.uniform(0.93, 1.07) for tissue, value in CONTRASTS[contrast].items()}
    folds = np.stack([_fold_field(rng) for _ in range(6)])
    head = Head(
        contrast=contrast,
        signal=signal,
        centre=(0.5 + rng.normal(0, 0.008), 0.5 + rng.normal(0, 0.008)),
        size=(rng.uniform(0.315, 0.345), rng.uniform(0.385, 0.42)),
        turn=rng.normal(0, 2.5),
        ventricles=rng.uniform(0.75, 1.3),
        atrophy=rng.uniform(0.7, 1.35),
        folds=folds,
        plexus=bool(rng.random() < 0.4),
        spaces=bool(rng.random() < 0.4),
        ghost=float(rng.uniform(0.03, 0.07)) if rng.random() < 0.25 else 0.0,
        notes=[contrast],
    )
    head.notes += [
        name
        for name, on in (
            ("choroid plexus", head.plexus),
            ("perivascular spaces", head.spaces),
            ("motion ghost", head.ghost),
        )
        if on
    ]
    return head


def _fold_field(rng: np.random.Generator) -> np.ndarray:
    """Band-limited noise 128 x 128, deviation 1: its zero lines wind like sulci."""
    noise = rng.standard_normal((128, 128)).astype(np.float32)
    band = cv2.GaussianBlur(noise, (0, 0), 2.9) - cv2.GaussianBlur(noise, (0, 0), 5.2)
    return band / band.std()


def _acquire(section: Section, head: Head, coil: np.ndarray, rng: np.random.Generator, level: float) -> np.ndarray:
    """Coil profile, ghost along the phase direction, point spread and Rician noise."""
    size = min(section.signal.shape) / 256
    image = cv2.GaussianBlur(section.signal, (0, 0), 0.65 * size) * coil
    if head.ghost:
        image = (
            image
            + head.ghost * np.roll(image, image.shape[0] // 5, axis=0)
            + head.ghost * np.roll(image, -image.shape[0] // 5, axis=0)
        )
    real, imaginary = (rng.standard_normal(image.shape, dtype=np.float32) * level for _ in range(2))
    return np.round(np.clip(np.hypot(image + real, imaginary), 0, 4095)).astype(np.float32)


def _anatomy(canvas: Canvas, head: Head, z: float) -> Section:
    cx, cy = head.centre
    # The vault closes toward the top; toward the base the brain narrows more than the head does.
    crown = np.sqrt(max(0.06, 1 - (max(0.0, z - 0.42) / 0.62) ** 2))
    base = 1 - 0.16 * max(0.0, 0.35 - z) / 0.35
    rx, ry = head.size[0] * crown * base, head.size[1] * crown * (1 - 0.10 * max(0.0, 0.35 - z) / 0.35)
    signal = np.full((canvas.rows, canvas.columns), 18, np.float32)
    section = Section(canvas, z, signal, canvas.blank(), canvas.blank(), canvas.blank(), head.signal, head.contrast)
    tissue = head.signal
    thick = 0.028 + 0.012 * (1 - crown)
    section.paint(canvas.ellipse(cx, cy, rx + thick + 0.026, ry + thick + 0.024, head.turn), tissue["scalp"] * 0.55)
    section.paint(canvas.ellipse(cx, cy, rx + thick + 0.020, ry + thick + 0.018, head.turn), tissue["scalp"])
    section.paint(canvas.ellipse(cx, cy, rx + thick, ry + thick, head.turn), tissue["bone"])
    section.paint(canvas.ellipse(cx, cy, rx + 0.004, ry + 0.004, head.turn), tissue["csf"])
    if z < 0.24:
        _base(section, head, rx, ry)
    else:
        _cerebrum(section, head, rx, ry)
    return section


def _cerebrum(section: Section, head: Head, rx: float, ry: float) -> None:
    canvas, (cx, cy), tissue, z = section.canvas, head.centre, head.signal, section.z
    gap = 0.010 * head.atrophy
    whole = canvas.ellipse(cx, cy, rx - gap, ry - gap, head.turn)
    depth = cv2.distanceTransform((whole > 0.5).astype(np.uint8), cv2.DIST_L2, 3) / canvas.unit
    folds = _folds(canvas, head, z)
    x, _ = canvas.grid()
    rim = np.clip(1 - depth / 0.105, 0, 1)
    middle = np.exp(-(((x - cx) / 0.006) ** 2)) * (
        np.clip((np.abs(canvas.grid()[1] - cy) - ry * 0.42) / 0.05, 0, 1) if z < 0.72 else 1
    )
    width = 0.16 * head.atrophy * np.clip(rim * 1.5, 0, 1)
    sulci = np.clip((width - np.abs(folds)) / 0.12 + 0.5, 0, 1) * (rim > 0.02)
    sulci = np.maximum(sulci, middle) * whole
    ribbon = np.maximum(
        np.clip((0.72 - np.abs(folds)) / 0.3, 0, 1) * np.clip((0.112 - depth) / 0.03, 0, 1),
        np.clip((0.018 - depth) / 0.008, 0, 1),
    )
    ribbon = np.maximum(ribbon, np.clip(1 - np.abs(x - cx) / 0.026, 0, 1) * (middle.max(axis=1, keepdims=True) > 0.5))
    section.paint(whole, tissue["white"] * (1 + 0.03 * canvas.cloud(np.random.default_rng(int(z * 1e6)), 6, 2)))
    section.paint(whole * np.clip(ribbon, 0, 1), tissue["grey"])
    section.paint(sulci, tissue["csf"])
    section.brain, section.depth = whole * (1 - sulci), depth
    if z < 0.34:
        _midbrain(section, head)
    if 0.30 < z < 0.74:
        _deep(section, head)
    if head.spaces and 0.36 < z < 0.52:
        rng = np.random.default_rng(int(cx * 1e7))
        for _ in range(14):
            px, py = cx + rng.choice([-1, 1]) * rng.uniform(0.09, 0.14), cy + rng.uniform(-0.09, 0.07)
            section.paint(0.6 * canvas.ellipse(px, py, 0.0045, 0.0045), tissue["csf"])


def _folds(canvas: Canvas, head: Head, z: float) -> np.ndarray:
    """The folding at a height: neighbours blended, so that sulci go on from slice to slice."""
    at = z * (len(head.folds) - 1)
    low = min(int(at), len(head.folds) - 2)
    share = at - low
    blend = head.folds[low] * np.cos(share * np.pi / 2) + head.folds[low + 1] * np.sin(share * np.pi / 2)
    return cv2.resize(blend, (canvas.columns, canvas.rows), interpolation=cv2.INTER_CUBIC)


def _midbrain(section: Section, head: Head) -> None:
    """Cerebral peduncles in their cistern, the tent's edge and the temporal horns."""
    canvas, (cx, cy), tissue = section.canvas, head.centre, head.signal
    pool = canvas.ellipse(cx, cy + 0.03, 0.085, 0.080, 0, 0.003)
    star = [(np.array([(cx, cy - 0.10), (cx, cy)]), 0.018, 1.0)]
    for sign in (-1, 1):
        star.append(
            (spline([(cx, cy - 0.045), (cx + sign * 0.07, cy - 0.065), (cx + sign * 0.16, cy - 0.06)]), 0.013, 1.0)
        )
        star.append(
            (spline([(cx + sign * 0.135, cy + 0.0), (cx + sign * 0.145, cy + 0.05)]), 0.010 * head.ventricles, 0.9)
        )
        star.append(
            (
                spline([(cx + sign * 0.05, cy + 0.09), (cx + sign * 0.13, cy + 0.2), (cx + sign * 0.2, cy + 0.22)]),
                0.007,
                0.8,
            )
        )
    fluid = np.maximum(pool, canvas.strokes(star, 0.0015))
    section.paint(fluid, tissue["csf"])
    lobes = [canvas.ellipse(cx + sign * 0.032, cy + 0.012, 0.036, 0.046, sign * 30, 0.002) for sign in (-1, 1)]
    stem = np.maximum(np.maximum(*lobes), canvas.ellipse(cx, cy + 0.045, 0.05, 0.036, 0, 0.002))
    section.paint(stem, 0.55 * tissue["white"] + 0.45 * tissue["grey"])
    vermis = canvas.ellipse(cx, cy + 0.155, 0.05, 0.055, 0, 0.003)
    x, y = canvas.grid()
    section.paint(vermis, tissue["grey"] * (0.95 + 0.1 * np.sin(230 * np.hypot(x - cx, y - cy))))
    section.fluid = fluid * (1 - stem)
    section.brain = section.brain * (1 - section.fluid)


def _deep(section: Section, head: Head) -> None:
    """Ventricles, thalamus, caudate, lentiform nucleus, insula."""
    canvas, (cx, cy), tissue, z = section.canvas, head.centre, head.signal, section.z
    level = (z - 0.30) / 0.44
    nuclei, fluid = canvas.blank(), canvas.blank()
    wide = head.ventricles
    for sign in (-1, 1):
        if level < 0.5:
            nuclei = np.maximum(nuclei, canvas.ellipse(cx + sign * 0.042, cy + 0.035, 0.032, 0.046, sign * 22, 0.003))
            nuclei = np.maximum(
                nuclei, 0.9 * canvas.ellipse(cx + sign * 0.110, cy - 0.025, 0.026, 0.062, sign * 14, 0.003)
            )
            insula = spline(
                [(cx + sign * 0.175, cy - 0.09), (cx + sign * 0.155, cy - 0.03), (cx + sign * 0.175, cy + 0.06)]
            )
            nuclei = np.maximum(nuclei, canvas.strokes([(insula, 0.026, 1.0)], 0.003))
            fluid = np.maximum(
                fluid,
                canvas.strokes(
                    [
                        (insula + (sign * 0.016, 0), 0.010 * head.atrophy, 1.0),
                        (np.array([insula[18], insula[18] + (sign * 0.13, 0.0)]), 0.009, 1.0),
                    ],
                    0.001,
                ),
            )
        nuclei = np.maximum(nuclei, canvas.ellipse(cx + sign * 0.056, cy - 0.075, 0.017, 0.036, sign * -14, 0.003))
        if level > 0.12:
            horn = spline(
                [(cx + sign * 0.030, cy - 0.125), (cx + sign * 0.021, cy - 0.07), (cx + sign * 0.020, cy - 0.01)]
            )
            fluid = np.maximum(fluid, canvas.strokes([(horn, 0.026 * wide, 1.0)], 0.002))
            body = [
                (cx + sign * 0.020, cy - 0.01),
                (cx + sign * 0.032, cy + 0.05),
                (cx + sign * 0.062, cy + 0.11),
                (cx + sign * 0.070, cy + 0.155),
            ]
            if level > 0.3:
                fluid = np.maximum(
                    fluid, canvas.strokes([(spline(body), (0.022 + 0.012 * (level < 0.6)) * wide, 1.0)], 0.002)
                )
            else:
                fluid = np.maximum(fluid, canvas.strokes([(spline(body[2:]), 0.026 * wide, 1.0)], 0.002))
    if level < 0.45:
        fluid = np.maximum(
            fluid, canvas.strokes([(np.array([(cx, cy - 0.02), (cx, cy + 0.055)]), 0.011 * wide, 1.0)], 0.0015)
        )
    fade = np.clip((0.98 - level) / 0.12, 0, 1)
    section.paint(nuclei * section.brain * fade * 0.9, tissue["grey"])
    fluid = fluid * fade
    section.paint(fluid, tissue["csf"])
    section.fluid = np.maximum(section.fluid, fluid)
    section.brain = section.brain * (1 - fluid)
    if head.plexus and 0.3 < level < 0.65:
        for sign in (-1, 1):
            section.paint(canvas.ellipse(cx + sign * 0.064, cy + 0.125, 0.008, 0.013, 0, 0.002), 0.6 * tissue["grey"])


def _base(section: Section, head: Head, rx: float, ry: float) -> None:
    """Temporal lobes, brainstem, cerebellum with its folia, fourth ventricle, eyes, sinuses."""
    canvas, (cx, cy), tissue, z = section.canvas, head.centre, head.signal, section.z
    section.paint(canvas.ellipse(cx, cy - ry * 0.25, rx + 0.01, ry * 0.85, head.turn), tissue["muscle"])
    brain = canvas.blank()
    grow = np.clip((z + 0.12) / 0.36, 0.4, 1)
    lobes = []
    for sign in (-1, 1):
        lobes.append(
            canvas.ellipse(cx + sign * rx * 0.62, cy - ry * 0.20, rx * 0.36 * grow, ry * 0.34 * grow, sign * 18)
        )
        section.paint(canvas.ellipse(cx + sign * 0.115, cy - ry * 0.84, 0.062, 0.066), tissue["scalp"] * 0.9)
        section.paint(
            canvas.ellipse(cx + sign * 0.115, cy - ry * 0.86, 0.050, 0.052),
            tissue["csf"] if head.contrast == "T2" else 320,
        )
    section.paint(canvas.ellipse(cx, cy - ry * 0.66, 0.052, 0.10), tissue["bone"])
    temporal = np.maximum(*lobes)
    back = canvas.ellipse(cx, cy + ry * 0.52, rx * 0.80, ry * 0.44)
    section.paint(
        np.maximum(
            cv2.dilate(temporal, np.ones((5, 5), np.uint8)), canvas.ellipse(cx, cy + ry * 0.5, rx * 0.86, ry * 0.49)
        ),
        tissue["csf"],
    )
    depth = cv2.distanceTransform((temporal > 0.5).astype(np.uint8), cv2.DIST_L2, 3) / canvas.unit
    folds = _folds(canvas, head, z)
    section.paint(temporal, tissue["white"])
    section.paint(
        temporal * np.clip((0.030 - depth) / 0.012 + np.clip((0.5 - np.abs(folds)) / 0.3, 0, 1) * (depth < 0.05), 0, 1),
        tissue["grey"],
    )
    section.paint(temporal * np.clip((0.14 - np.abs(folds)) / 0.12 + 0.3, 0, 1) * (depth < 0.045), tissue["csf"])
    x, y = canvas.grid()
    leaf = np.sin(260 * np.hypot((x - cx) * 0.75, y - (cy + ry * 0.12)) + 2.0 * folds)
    section.paint(back, tissue["grey"] * (0.93 + 0.10 * leaf))
    for sign in (-1, 1):
        section.paint(
            canvas.ellipse(cx + sign * rx * 0.36, cy + ry * 0.46, rx * 0.2, ry * 0.13, sign * -25, 0.008),
            tissue["white"],
        )
    stem = canvas.ellipse(cx, cy + ry * 0.06, 0.062, 0.060)
    section.paint(canvas.ellipse(cx, cy + ry * 0.05, 0.078, 0.078, 0, 0.002), tissue["csf"])
    section.paint(stem, 0.5 * (tissue["white"] + tissue["grey"]))
    section.paint(canvas.ellipse(cx, cy + ry * 0.245, 0.026 * head.ventricles, 0.017), tissue["csf"])
    brain = np.maximum(np.maximum(temporal, back), stem)
    section.brain = brain
    section.depth = cv2.distanceTransform((brain > 0.5).astype(np.uint8), cv2.DIST_L2, 3) / canvas.unit
