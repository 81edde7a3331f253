"""The reliability plot beside a model's card: how often a finding was there when the model said how probable it is.

Blue and orange of Okabe and Ito (2008), told apart by any eye, and by shape as well: points with their intervals, bars below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from medai_pipeline.models.catalog import CatalogEntry

_SIDE, _LEFT, _TOP, _BARS = 520, 78, 56, 90  # pixels: the square, its margins, the bars under it
_INK, _PALE, _BLUE, _ORANGE = (51, 51, 51), (205, 205, 205), (178, 114, 0), (0, 159, 230)  # BGR
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def reliability_file(entry: CatalogEntry) -> str:
    return f"{entry.name}-{entry.version}.reliability.png"


def reliability_png(bins: Sequence[Mapping[str, float]], title: str) -> bytes:
    """A PNG of `metrics.reliability`: points of frequency over confidence with 95 % intervals, counts as bars."""
    picture = np.full((_TOP + _SIDE + _BARS + 104, _LEFT + _SIDE + 32, 3), 255, np.uint8)
    _text(picture, title, (12, 28), 0.5)
    _frame(picture)
    cv2.line(picture, _at(0, 0), _at(1, 1), _ORANGE, 2, cv2.LINE_AA)
    most = max((row["many"] for row in bins), default=1)
    for row in bins:
        x, y = _at(row["confidence"], row["frequency"])
        low, high = _at(0, row["low"])[1], _at(0, row["high"])[1]
        cv2.line(picture, (x, low), (x, high), _BLUE, 2)
        cv2.circle(picture, (x, y), 6, _BLUE, -1, cv2.LINE_AA)
        height = round(_BARS * np.log1p(row["many"]) / np.log1p(most))
        floor = _TOP + _SIDE + 34 + _BARS
        cv2.rectangle(picture, (x - 7, floor - height), (x + 7, floor), _BLUE, -1)
        _text(picture, _count(row["many"]), (x - 14, floor + 15), 0.36)
    _legend(picture)
    done, data = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    assert done
    return data.tobytes()


def _at(x: float, y: float) -> tuple[int, int]:
    return round(_LEFT + x * _SIDE), round(_TOP + (1 - y) * _SIDE)


def _frame(picture: np.ndarray) -> None:
    for step in range(6):
        share = step / 5
        cv2.line(picture, _at(share, 0), _at(share, 1), _PALE, 1)
        cv2.line(picture, _at(0, share), _at(1, share), _PALE, 1)
        x, y = _at(share, share)
        _text(picture, f"{share:.1f}", (x - 10, _TOP + _SIDE + 18), 0.4)
        _text(picture, f"{share:.1f}", (_LEFT - 32, y + 5), 0.4)
    cv2.rectangle(picture, _at(0, 1), _at(1, 0), _INK, 1)
    _text(picture, "predicted probability", (_LEFT + _SIDE // 2 - 80, picture.shape[0] - 12), 0.5)
    side = np.full((34, 210, 3), 255, np.uint8)
    _text(side, "observed frequency", (4, 22), 0.5)
    turned = cv2.rotate(side, cv2.ROTATE_90_COUNTERCLOCKWISE)
    top = _TOP + (_SIDE - turned.shape[0]) // 2
    picture[top : top + turned.shape[0], 4 : 4 + turned.shape[1]] = turned


def _legend(picture: np.ndarray) -> None:
    x, y = _at(0.04, 0.94)
    cv2.line(picture, (x, y), (x + 24, y), _ORANGE, 2, cv2.LINE_AA)
    _text(picture, "as predicted", (x + 34, y + 5), 0.42)
    cv2.circle(picture, (x + 12, y + 24), 6, _BLUE, -1, cv2.LINE_AA)
    _text(picture, "observed, 95 % interval; bars: answers (log)", (x + 34, y + 29), 0.42)


def _count(many: float) -> str:
    return f"{many:.0f}" if many < 10_000 else f"{many / 1000:.0f}k"


def _text(picture: np.ndarray, words: str, at: tuple[int, int], size: float) -> None:
    cv2.putText(picture, words, at, _FONT, size, _INK, 1, cv2.LINE_AA)
