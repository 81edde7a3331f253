"""The picture of a heatmap on its image: what a reader sees. Nothing is computed about the finding here.

The image is drawn as it is displayed, never mirrored or turned, with the aspect ratio of its pixel spacing. Words and the
legend stand in bands above and below, so that they hide no anatomy.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from medai_pipeline.errors import SettingsError
from medai_pipeline.explain.geometry import heat_on_image
from medai_pipeline.explain.lettering import fitted, width_of, write
from medai_pipeline.records import OverlayParts, Placement, Region

DISCLAIMER = "Research use only"
BAND_ABOVE, BAND_BELOW = 46, 26
_SMALLEST, _MARGIN = 512, 10
_HEAT_SIDE = 192  # longer side of the heat as a picture of its own
# one filter instead of a choice for each row: 261 KiB in 17 ms, where level 1 alone gives 276 KiB in 30 ms
_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 2, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP)
CLEAR = 0.25  # heat below this leaves the image untouched
_BACKGROUND, _INK, _FAINT, _BOX = (24, 20, 18), (240, 240, 240), (170, 165, 160), (255, 255, 255)
_LETTER = (120, 225, 255)


def overlay(
    display: np.ndarray,
    values: np.ndarray,
    placement: Placement,
    tensor_size: tuple[int, int],
    *,
    colormap: str = "inferno",
    alpha: float = 0.45,
    title: str = "",
    place: str = "",
    edges: Sequence[str] = (),
    regions: Sequence[Region] = (),
    spacing_mm: tuple[float, float] | None = None,
    withheld: str = "",
    long_side: int = 768,
) -> bytes:
    """A PNG of the displayed image, uint8 (R, C), larger is brighter, with heat (h, w) in [0, 1] over it.

    Opacity grows with the heat up to `alpha`, so that cold places stay as they are. `regions` are boxes in pixels of the
    original image. `title` and `place` stand above the image, `edges` (left, right, top, bottom) are letters on it that
    say which side of the patient lies there. With `withheld`, the reason why, the image is drawn without heat and boxes.
    The drawn image's longer side has 512 to `long_side` pixels; the bands come on top.

    Raises SettingsError when OpenCV knows no such colormap.
    """
    table = color_table(colormap)
    size = _drawn_size(display.shape[:2], spacing_mm, long_side)
    picture = cv2.cvtColor(_resized(display, size), cv2.COLOR_GRAY2BGR)
    if not withheld:
        picture = _blend(picture, heat_on_image(values, placement, tensor_size, size), table, alpha)
        for region in regions:
            _draw_box(picture, region, placement)
    _draw_edges(picture, edges)
    picture = _with_bands(picture, title, place, None if withheld else table, withheld)
    return _png(picture)


def overlay_parts(
    display: np.ndarray,
    values: np.ndarray,
    placement: Placement,
    tensor_size: tuple[int, int],
    *,
    colormap: str = "inferno",
    alpha: float = 0.45,
    spacing_mm: tuple[float, float] | None = None,
    withheld: str = "",
    long_side: int = 768,
) -> OverlayParts:
    """The image and the heat of an `overlay` as two pictures, for a page that fades one over the other.

    Arguments as there. The heat is small, as it comes from a coarse grid: the page stretches it over the image.
    """
    size = _drawn_size(display.shape[:2], spacing_mm, long_side)
    image = _png(_resized(display, size))
    if withheld:
        return OverlayParts(image, b"", b"", display.shape[:2])
    shrink = min(1.0, _HEAT_SIDE / max(size))
    small = (max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink)))
    heat = heat_on_image(values, placement, tensor_size, small)
    table = color_table(colormap)
    veil = np.dstack([table[_level(heat)], np.rint(255 * _opacity(heat, alpha)).astype(np.uint8)])
    return OverlayParts(image, _png(veil), _png(table[None, ::4]), display.shape[:2])


def color_table(name: str) -> np.ndarray:
    """The 256 colours (BGR, uint8) of a colormap by its OpenCV name, in any case.

    Raises SettingsError that lists the known names.
    """
    prefix = "COLORMAP_"
    known = {key.removeprefix(prefix).lower(): getattr(cv2, key) for key in dir(cv2) if key.startswith(prefix)}
    if name.lower() not in known:
        raise SettingsError(f"GRADCAM_COLORMAP {name} is not known; use one of {', '.join(sorted(known))}")
    return cv2.applyColorMap(np.arange(256, dtype=np.uint8), known[name.lower()]).reshape(256, 3)


def _drawn_size(shape: tuple[int, ...], spacing_mm: tuple[float, float] | None, long_side: int) -> tuple[int, int]:
    """(rows, columns) with the aspect ratio of the patient, its longer side between the least and `long_side`."""
    down, across = spacing_mm if spacing_mm and min(spacing_mm) > 0 else (1.0, 1.0)
    height, width = shape[0] * down / min(down, across), shape[1] * across / min(down, across)
    longest = max(height, width)
    factor = min(max(longest, _SMALLEST), long_side) / longest
    return max(1, round(height * factor)), max(1, round(width * factor))


def _resized(display: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    shrinks = size[0] < display.shape[0]
    return cv2.resize(display, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _blend(picture: np.ndarray, heat: np.ndarray, table: np.ndarray, alpha: float) -> np.ndarray:
    opacity = _opacity(heat, alpha)[..., None]
    return np.rint(picture + (table[_level(heat)].astype(np.float32) - picture) * opacity).astype(np.uint8)


def _level(heat: np.ndarray) -> np.ndarray:
    """Its place in the colour table."""
    return np.clip(heat * 255, 0, 255).astype(np.uint8)


def _opacity(heat: np.ndarray, alpha: float) -> np.ndarray:
    """0 where it is cold, up to `alpha`."""
    return (alpha * np.clip((heat - CLEAR) / (1 - CLEAR), 0, 1)).astype(np.float32)


def _png(picture: np.ndarray) -> bytes:
    done, data = cv2.imencode(".png", picture, _PNG)
    if not done:
        raise SettingsError("the overlay could not be written as PNG; reinstall opencv-python-headless")
    return data.tobytes()


def _draw_box(picture: np.ndarray, region: Region, placement: Placement) -> None:
    """A thin light box with a dark rim, so that it is seen on bright and on dark anatomy."""
    across, down = picture.shape[1] / placement.source_columns, picture.shape[0] / placement.source_rows
    x0, y0, x1, y1 = region.box
    start = (round(x0 * across), round(y0 * down))
    end = (min(picture.shape[1] - 1, round(x1 * across) - 1), min(picture.shape[0] - 1, round(y1 * down) - 1))
    cv2.rectangle(picture, start, end, _BACKGROUND, 3)
    cv2.rectangle(picture, start, end, _BOX, 1)


def _draw_edges(picture: np.ndarray, edges: Sequence[str]) -> None:
    """Left, right, top and bottom in the middle of each edge."""
    if len(edges) != 4:
        return
    high, wide, size = picture.shape[0], picture.shape[1], 17
    left, right, top, bottom = edges
    middle = high // 2 + size // 3
    for letter, x, y in (
        (left, _MARGIN, middle),
        (right, wide - _MARGIN - width_of(right, size), middle),
        (top, (wide - width_of(top, size)) // 2, _MARGIN + size),
        (bottom, (wide - width_of(bottom, size)) // 2, high - _MARGIN),
    ):
        write(picture, letter, (x, y), _LETTER, size, rim=_BACKGROUND)


def _with_bands(picture: np.ndarray, title: str, place: str, table: np.ndarray | None, withheld: str) -> np.ndarray:
    """The picture between a band with the words and one with the legend (or why there is no heat) and the disclaimer."""
    width = max(picture.shape[1], _SMALLEST)
    left = (width - picture.shape[1]) // 2
    sides = (left, width - picture.shape[1] - left)
    framed = cv2.copyMakeBorder(picture, BAND_ABOVE, BAND_BELOW, *sides, cv2.BORDER_CONSTANT, value=_BACKGROUND)
    write(framed, fitted(title, width - 2 * _MARGIN, 16), (_MARGIN, 19), _INK, 16)
    write(framed, fitted(place, width - 2 * _MARGIN, 13), (_MARGIN, 38), _FAINT, 13)
    base = framed.shape[0] - 8
    write(framed, DISCLAIMER, (width - _MARGIN - width_of(DISCLAIMER, 13), base), _FAINT, 13)
    if table is None:
        write(framed, withheld, (_MARGIN, base), _INK, 13)
    else:
        _draw_legend(framed, table, base)
    return framed


def _draw_legend(framed: np.ndarray, table: np.ndarray, base: int) -> None:
    start = _MARGIN + width_of("less", 13) + 8
    write(framed, "less", (_MARGIN, base), _FAINT, 13)
    framed[base - 9 : base + 1, start : start + 110] = cv2.resize(
        table[None], (110, 10), interpolation=cv2.INTER_LINEAR
    )
    write(framed, "more evidence", (start + 118, base), _FAINT, 13)
