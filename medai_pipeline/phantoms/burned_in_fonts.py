"""Lettering for burned-in text: a line of text as an ink mask, in many fonts. No places, no colours, no DICOM.

The fonts are those that come with packages this one installs (Matplotlib's DejaVu, OpenCV's Hershey strokes) and, when
asked for, the Latin fonts of the machine; so a corpus is the same everywhere unless it is asked to be wider.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

HERSHEY = ("simplex", "plain", "duplex", "complex", "triplex", "complex small")
# Families whose letters no scanner writes, or that lack Latin letters or digits.
_UNSUITED = (
    "symbol",
    "dingbat",
    "icon",
    "awesome",
    "z003",
    "d050000l",
    "math",
    "fallback",
    "stix",
    "cmmi",
    "cmsy",
    "cmex",
    "emoji",
    "display",
)
_SUITED_SUFFIXES = (".ttf", ".otf", ".t1", ".pfb")


@dataclass(frozen=True, slots=True)
class Font:
    """A typeface. `path` is a font file, or "hershey:NAME" for OpenCV's strokes. `pixelated`: no anti-aliasing."""

    path: str
    pixelated: bool = False

    @property
    def name(self) -> str:
        return self.path.replace("\\", "/").rsplit("/", 1)[-1]


@cache
def fonts(machine: bool = False) -> tuple[Font, ...]:
    """Every font, smooth and pixelated; with `machine` also the Latin fonts installed on this computer."""
    from matplotlib import font_manager, get_data_path

    paths = sorted(font_manager.findSystemFonts(f"{get_data_path()}/fonts/ttf"))
    paths = [path for path in paths if "DejaVu" in path]
    if machine:
        paths += sorted(font_manager.findSystemFonts())
    names: dict[str, str] = {}
    for path in paths:
        name = path.rsplit("/", 1)[-1].lower()
        if name.endswith(_SUITED_SUFFIXES) and not any(word in name for word in _UNSUITED):
            names.setdefault(name.rsplit(".", 1)[0], path)
    smooth = [*(Font(path) for path in names.values()), *(Font(f"hershey:{name}") for name in HERSHEY)]
    return (*smooth, *(Font(font.path, pixelated=True) for font in smooth))


def lettering(text: str, font: Font, height: int, doubled: bool = False) -> np.ndarray:
    """`text` as ink: float32 (rows, columns) in [0, 1], cut to what is inked. `height`: of a capital letter, in pixels.

    `doubled` draws at half the height and repeats each pixel, as old scanners did.
    """
    if doubled and height >= 12:
        return np.kron(lettering(text, Font(font.path, True), height // 2), np.ones((2, 2), np.float32))
    ink = _strokes(text, font, height) if font.path.startswith("hershey:") else _outlines(text, font, height)
    rows, columns = np.flatnonzero(ink.max(axis=1) > 0.2), np.flatnonzero(ink.max(axis=0) > 0.2)
    if not len(rows):
        return np.zeros((1, 1), np.float32)
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _outlines(text: str, font: Font, height: int) -> np.ndarray:
    from PIL import Image, ImageDraw, ImageFont

    face = ImageFont.truetype(font.path, size=round(height / 0.72))
    left, top, right, bottom = face.getbbox(text)
    picture = Image.new("L", (int(right - left) + 8, int(bottom - top) + 8))
    pen = ImageDraw.Draw(picture)
    pen.fontmode = "1" if font.pixelated else "L"
    pen.text((4 - left, 4 - top), text, fill=255, font=face)
    return np.asarray(picture, np.float32) / 255


def _strokes(text: str, font: Font, height: int) -> np.ndarray:
    import cv2

    face = (
        cv2.FONT_HERSHEY_SIMPLEX,
        cv2.FONT_HERSHEY_PLAIN,
        cv2.FONT_HERSHEY_DUPLEX,
        cv2.FONT_HERSHEY_COMPLEX,
        cv2.FONT_HERSHEY_TRIPLEX,
        cv2.FONT_HERSHEY_COMPLEX_SMALL,
    )[HERSHEY.index(font.path.removeprefix("hershey:"))]
    thickness = max(1, round(height / 14))
    scale = cv2.getFontScaleFromHeight(face, height, thickness)
    (width, above), below = cv2.getTextSize(text, face, scale, thickness)
    ink = np.zeros((above + below + 12 + 2 * thickness, width + 12 + 2 * thickness), np.uint8)
    line = cv2.LINE_8 if font.pixelated else cv2.LINE_AA
    cv2.putText(ink, text, (6 + thickness, above + 6 + thickness), face, scale, 255, thickness, line)
    return ink.astype(np.float32) / 255
