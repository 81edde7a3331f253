"""Chest films: `render_chest_xray`. Here: the shared film steps (views, exposure, noise, marker letter). Anatomy lies in
`chest_pa` and `chest_lateral`, what is wrong with it in `findings_xray`."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from medai_pipeline.phantoms import chest_lateral, chest_pa
from medai_pipeline.phantoms.canvas import Canvas
from medai_pipeline.phantoms.image import XRAY_LABELS, PhantomImage
from medai_pipeline.phantoms.labels import chosen

FIELD_MM = 400.0  # what the film's shorter side covers


def render_chest_xray(
    seed: int,
    findings: Sequence[str] | None = None,
    view: str = "PA",
    rows: int = 512,
    columns: int = 512,
) -> PhantomImage:
    """One chest film of patient `seed`, float32 (rows, columns), 0..4095, larger is brighter (bone is white).

    `findings`: labels out of XRAY_LABELS; None draws them by chance from the seed. `view`: "PA" or "LATERAL".
    A pneumothorax is drawn on the PA view alone: on a lateral film it can hardly be seen.
    Raises ValueError for an unknown finding or view.
    """
    labels = chosen(seed, findings, XRAY_LABELS)
    canvas = Canvas(rows, columns)
    anatomy = np.random.default_rng([seed, 1])
    disease = np.random.default_rng([seed, 2, 0 if view == "PA" else 1])
    render = {"PA": chest_pa.render, "LATERAL": chest_lateral.render}.get(view)
    if render is None:
        raise ValueError(f"view {view!r}: expected PA or LATERAL")
    density, boxes, notes = render(canvas, anatomy, disease, labels)
    film = _expose(canvas, density, np.random.default_rng([seed, 3, 0 if view == "PA" else 1]), view)
    spacing = FIELD_MM / canvas.unit
    return PhantomImage(film, tuple(boxes), labels, (0.0, spacing, spacing), tuple(notes))


def _expose(canvas: Canvas, density: np.ndarray, rng: np.random.Generator, view: str) -> np.ndarray:
    """Scatter, detector blur, quantum noise, tone curve and the side marker; density 0..~1.5 becomes 0..4095."""
    scatter = canvas.soften(density, 0.06)
    image = 0.86 * density + 0.14 * scatter
    image *= 1 + 0.03 * canvas.cloud(rng, 1.5, 1)
    image = canvas.soften(image, 0.0012)
    noise: np.ndarray = rng.standard_normal(image.shape, dtype=np.float32)
    if canvas.unit > 300:
        noise = cv2.GaussianBlur(noise, (0, 0), 0.6 * canvas.unit / 512 + 0.25)
    image += (0.022 + 0.018 * rng.random()) * noise
    low, high = rng.uniform(-0.05, 0.03), rng.uniform(1.12, 1.32)
    tone = np.clip((image - low) / (high - low), 0, 1) ** rng.uniform(0.8, 1.2)
    film = (tone * rng.uniform(3500, 4000)).astype(np.float32)
    _marker(film, "L" if view == "PA" or rng.random() < 0.8 else "R", rng, view)
    return np.round(np.clip(film, 0, 4095))


def _marker(film: np.ndarray, letter: str, rng: np.random.Generator, view: str) -> None:
    """The lead letter that says which side is the patient's left."""
    rows, columns = film.shape
    x = rng.uniform(0.86, 0.92) if view == "PA" else rng.uniform(0.05, 0.1)
    at = (int(columns * x), int(rows * rng.uniform(0.07, 0.13)))
    scale = min(rows, columns) / 512 * rng.uniform(0.8, 1.1)
    lead = np.zeros(film.shape, np.uint8)
    cv2.putText(lead, letter, at, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, max(1, round(2.4 * scale)), cv2.LINE_8)
    film[lead > 0] = 4060
