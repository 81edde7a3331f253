"""Words on a picture. No places, no meaning.

OpenCV's own text kerns by rounding: two zeros overlap. So each letter is drawn alone, four times as large, and shrunk.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

_FINER = 4
_WEIGHT = 450


def write(
    picture: np.ndarray,
    text: str,
    at: tuple[int, int],
    color: tuple[int, int, int],
    size: int,
    rim: tuple[int, int, int] | None = None,
) -> None:
    """ASCII `text`, its baseline beginning at (x, y), into a BGR picture in place; a `rim` parts it from what is below."""
    if not text:
        return
    ink = _ink(text, size)
    x, y = at[0] - _FINER, at[1] - size - _FINER
    if rim is not None:
        _put(picture, cv2.dilate(ink, np.ones((5, 5), np.uint8)), (x, y), rim)
    _put(picture, ink, (x, y), color)


def width_of(text: str, size: int) -> int:
    """Pixels that `text` is wide."""
    return -(-_advance(text, size) // _FINER)


def fitted(text: str, width: int, size: int) -> str:
    """`text`, cut with dots where it would be wider than `width` pixels."""
    if width_of(text, size) <= width:
        return text
    while text and width_of(f"{text}...", size) > width:
        text = text[:-1]
    return f"{text.rstrip()}..."


def _put(picture: np.ndarray, ink: np.ndarray, at: tuple[int, int], color: tuple[int, int, int]) -> None:
    """Ink (h, w) uint8 as opacity of a colour, cut at the picture's edges."""
    x, y = at
    left, top = max(0, -x), max(0, -y)
    part = picture[y + top : y + ink.shape[0], x + left : x + ink.shape[1]]
    opacity = ink[top : top + part.shape[0], left : left + part.shape[1], None].astype(np.float32) / 255
    part[:] = np.rint(part + (np.array(color, np.float32) - part) * opacity).astype(np.uint8)


@lru_cache(maxsize=256)
def _ink(text: str, size: int) -> np.ndarray:
    """Coverage 0 to 255 of a line: `_FINER` pixels of margin around it, room for what hangs below the baseline."""
    high, wide = size + size // 2 + 2 * _FINER, width_of(text, size) + 2 * _FINER
    large = np.zeros((high * _FINER, wide * _FINER), np.uint8)
    x = _FINER * _FINER
    for letter in text:
        cv2.putText(large, letter, (x, (size + _FINER) * _FINER), (255,), _font(), size * _FINER, _WEIGHT)
        x += _letter_advance(letter, size)
    return cv2.resize(large, (wide, high), interpolation=cv2.INTER_AREA)


def _advance(text: str, size: int) -> int:
    return sum(_letter_advance(letter, size) for letter in text)


@lru_cache(maxsize=1024)
def _letter_advance(letter: str, size: int) -> int:
    """In fine pixels: where OpenCV would go on writing."""
    end, _ = cv2.putText(np.zeros((1, 1), np.uint8), letter, (0, 0), (255,), _font(), size * _FINER, _WEIGHT)
    return int(end[0])


@lru_cache(maxsize=1)
def _font() -> cv2.FontFace:
    return cv2.FontFace("sans")
