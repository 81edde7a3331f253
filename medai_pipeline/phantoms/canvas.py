"""Drawing by unit coordinates on float images: curves, soft masks, clouds. Knows nothing of anatomy.

Points are (x, y) with 0..1 across the image, so that a picture is the same at every size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import ArrayLike

Points: TypeAlias = np.ndarray
Place: TypeAlias = Callable[[ArrayLike], Points]  # a patient's own size and position
_SHIFT = 4  # sub-pixel bits of OpenCV's drawing functions


def spline(points: ArrayLike, closed: bool = False, steps: int = 12) -> Points:
    """Catmull-Rom curve through `points`, as float array (N, 2)."""
    p = np.asarray(points, np.float64)
    before, after = (p[-1:], p[:2]) if closed else (2 * p[:1] - p[1:2], 2 * p[-1:] - p[-2:-1])
    p = np.concatenate([before, p, after])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None, None]
    a, b, c, d = p[:-3], p[1:-2], p[2:-1], p[3:]
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    curve = curve.transpose(1, 0, 2).reshape(-1, 2)
    return curve if closed else np.concatenate([curve, p[-2:-1]])


class Canvas:
    """A size, and drawing at that size. Masks are float32 (rows, columns) in 0..1."""

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        self.unit = float(min(rows, columns))

    def blank(self) -> np.ndarray:
        return np.zeros((self.rows, self.columns), np.float32)

    def pixels(self, points: Points) -> np.ndarray:
        scaled = np.asarray(points, np.float64) * (self.columns, self.rows) - 0.5
        return np.round(scaled * (1 << _SHIFT)).astype(np.int32)

    def fill(self, outline: Points, blur: float = 0.0) -> np.ndarray:
        """Mask of the polygon; `blur` is the softness of its edge in units of the image."""
        layer = np.zeros((self.rows, self.columns), np.uint8)
        cv2.fillPoly(layer, [self.pixels(outline)], 255, cv2.LINE_AA, _SHIFT)
        return self.soften(layer.astype(np.float32) / 255, blur)

    def strokes(self, curves: Sequence[tuple[Points, float, float]], blur: float = 0.0) -> np.ndarray:
        """Mask of open curves, each (points, width in units, strength 0..1); later ones lie on top.

        `points` is one curve (N, 2) or several of the same kind (curves, N, 2).
        """
        layer = np.zeros((self.rows, self.columns), np.uint8)
        for points, width, strength in curves:
            thickness = max(1, round(width * self.unit))
            shade, drawn = int(255 * min(1.0, strength)), self.pixels(points)
            several = list(drawn) if drawn.ndim == 3 else [drawn]
            cv2.polylines(layer, several, False, shade, thickness, cv2.LINE_AA, _SHIFT)
        return self.soften(layer.astype(np.float32) / 255, blur)

    def ellipse(self, x: float, y: float, rx: float, ry: float, degrees: float = 0.0, blur: float = 0.0) -> np.ndarray:
        angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        turn = np.deg2rad(degrees)
        cos, sin = np.cos(angle) * rx, np.sin(angle) * ry
        return self.fill(
            np.stack([x + cos * np.cos(turn) - sin * np.sin(turn), y + cos * np.sin(turn) + sin * np.cos(turn)], 1),
            blur,
        )

    def disc(self, centre: Points, rx: float, ry: float, degrees: float = 0.0, blur: float = 0.0) -> np.ndarray:
        """An ellipse about a placed point (2,)."""
        return self.ellipse(float(centre[0]), float(centre[1]), rx, ry, degrees, blur)

    def soften(self, image: np.ndarray, blur: float) -> np.ndarray:
        """Gaussian blur with sigma `blur` in units; wide ones at reduced size, where nobody sees the difference."""
        sigma = blur * self.unit
        if sigma < 0.3:
            return image
        if sigma > 6:
            factor = int(sigma // 3)
            small = cv2.resize(
                image,
                (max(8, self.columns // factor), max(8, self.rows // factor)),
                interpolation=cv2.INTER_AREA,
            )
            small = cv2.GaussianBlur(small, (0, 0), sigma / factor)
            return cv2.resize(small, (self.columns, self.rows), interpolation=cv2.INTER_LINEAR)
        return cv2.GaussianBlur(image, (0, 0), sigma)

    def cloud(self, rng: np.random.Generator, cells: float, octaves: int = 3) -> np.ndarray:
        """Smooth noise, mean about 0, deviation about 1; `cells`: how many lumps fit across the image."""
        total = self.blank()
        weight = 1.0
        for _ in range(octaves):
            high = max(3, round(cells * self.rows / self.unit) + 2)
            wide = max(3, round(cells * self.columns / self.unit) + 2)
            grid = rng.standard_normal((high, wide)).astype(np.float32)
            total += weight * cv2.resize(grid, (self.columns, self.rows), interpolation=cv2.INTER_CUBIC)
            weight *= 0.55
            cells *= 2
        return total

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Unit coordinates of the pixel centres: x (1, columns) and y (rows, 1)."""
        x = (np.arange(self.columns, dtype=np.float32) + 0.5) / self.columns
        y = (np.arange(self.rows, dtype=np.float32) + 0.5) / self.rows
        return x[None, :], y[:, None]
