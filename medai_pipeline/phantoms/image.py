"""What a phantom renderer gives back: pixels, where the findings truly lie, and what they are. No drawing, no DICOM."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

XRAY_LABELS = ("Pneumothorax", "Effusion", "Consolidation", "Nodule", "Cardiomegaly")
CT_LABELS = ("Pneumothorax", "Consolidation", "Nodule", "Effusion")
MR_LABELS = ("Tumour", "Haemorrhage", "Infarct")


@dataclass(frozen=True, slots=True)
class TrueBox:
    """Where a finding lies. `box`: (x0, y0, x1, y1) in pixels, x1 and y1 exclusive; `frame`: slice index from 0."""

    label: str
    box: tuple[int, int, int, int]
    frame: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class PhantomImage:
    """One rendered film (rows, columns) or volume (slices, rows, columns), float32.

    A film holds 12-bit values (0..4095, larger is brighter: MONOCHROME2), a CT Hounsfield units, an MR 0..~2000.
    `labels` are the findings of the study; `boxes` those that can be seen, image by image.
    `spacing_mm`: (between slices, between rows, between columns); 0 between slices for a film.
    """

    pixels: np.ndarray
    boxes: tuple[TrueBox, ...]
    labels: tuple[str, ...]
    spacing_mm: tuple[float, float, float]
    notes: tuple[str, ...] = ()

    def labels_of(self, frame: int) -> tuple[str, ...]:
        """Findings that can be seen in one slice."""
        return tuple(sorted({box.label for box in self.boxes if box.frame == frame}))


def box_of(mask: np.ndarray, label: str, frame: int = 0, level: float = 0.35, least: int = 4) -> TrueBox | None:
    """The box around everything in `mask` (float, 0..1) above `level`; None when that is smaller than `least` pixels."""
    inside = mask > level
    columns = np.flatnonzero(inside.any(axis=0))
    rows = np.flatnonzero(inside.any(axis=1))
    if len(rows) == 0 or int(inside.sum()) < least:
        return None
    return TrueBox(label, (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1), frame)
