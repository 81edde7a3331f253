"""Text of one picture: where it is, what it says, and which of it has to go. Pictures in, boxes out; no DICOM.

The detector takes whole outlines of a body for one large letter. Such a find hides what stands inside it, so those parts
of it that could hold letters are looked at again, enlarged, where an outline no longer looks like one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np

from medai_pipeline.burned_in import letters, ocr
from medai_pipeline.burned_in.gate import CELL, WIDE, clusters, text_like
from medai_pipeline.burned_in.ocr import Box, Line
from medai_pipeline.burned_in.words import IdentityWords, fold, is_harmless

_LARGEST_SIDE = 1600  # larger pictures are read smaller: their letters are larger too
_SLANTED = 0.6  # and for what is slanted, as much of anatomy is
_FOUND = 0.4  # least certainty of the detector
_LETTER = 0.13  # of the shorter side: a line higher than that is no text
_LEAST_SIDE = 12  # pixels: no word fits into less
_SAME = 0.7  # share of a line that was found at full size already
_PIECE = 224  # pixels of a side of what is looked at again, enlarged
_GAP = 1.6  # line heights between words of one line
_ENDS = 4  # line heights beyond a line's end that are looked at once more
_THICK = 40  # pixels: thicker lines are not enlarged
_LETTERS = 0.3  # between letters of one word
_BRIDGE = 1.1  # and between two parts that are both masked: what lies between goes, too
_SCRIPT = 0.55  # certainty of the detector from which something line-like that cannot be read is text all the same
_READ = 0.5
_COARSE = 2  # the level of a picture from which letters are large
_LARGE_READ = 0.7
_GLANCE = 256  # pixels of the longer side of what is looked at once, whatever else is known of it
_SHORT_FOUND = 0.5
_SHORT_READ = 0.85  # for one to three characters: anatomy is easily read as one or two


class Find(NamedTuple):
    """What the detector found. `straight`: the line turned to run across, where it is slanted; `box` is around it then."""

    box: Box
    score: float
    straight: np.ndarray | None = None


def lines_of(picture: np.ndarray, wanted: Callable[[Box], bool] | None = None) -> list[Line]:
    """Every line of text in a uint8 picture, with what it says; boxes in its pixels.

    `wanted`: which boxes are read at all; the others are left out.
    """
    scale = min(1.0, _LARGEST_SIDE / max(picture.shape[:2]))
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else picture
    rows, columns = picture.shape[:2]
    found = [find for find in _found(small) if wanted is None or wanted(find.box)]
    lines = [*_read(small, found), *_large_lines(small, found)]
    return [replace(line, box=_scaled(line.box, 1 / scale, columns, rows)) for line in lines]


def _large_lines(picture: np.ndarray, found: list[Find]) -> list[Line]:
    """Lines that are higher than the detector is let find, at the size at which the network knows their letters."""
    grey = picture if picture.ndim == 2 else np.ascontiguousarray(picture.max(axis=2))
    lines = lines_in(letters.levels(grey, first=_COARSE), picture.shape)
    fresh = [line for line in lines if _covered(line.box, found) < _SAME]
    return [line for line in fresh if line.read >= _LARGE_READ and len(fold(line.text)) >= 3]


def upright_lines_of(picture: np.ndarray) -> list[Line]:
    """Lines that run up: found in the picture laid on its side, where the detector keeps their letters together."""
    rows = picture.shape[0]
    lines = lines_of(np.ascontiguousarray(np.rot90(picture, -1)), _runs_across)
    long = [line for line in lines if _runs_across(line.box)]
    return [replace(line, box=(y0, rows - x1, y1, rows - x0)) for line in long for x0, y0, x1, y1 in [line.box]]


def lines_in(levels: list[letters.Level], shape: tuple[int, ...]) -> list[Line]:
    """Lines around the cells of `letters.levels`, in pixels of the picture of that `shape`: a look that costs little."""
    lines = []
    for level in levels:
        pieces = clusters(level.cells, level.picture.shape, _PIECE, letters.CELL)
        found = [find for piece in pieces for find in _enlarged(level.picture, piece, letters.LARGEST_LETTER)]
        lines += [
            replace(line, box=_scaled(line.box, 1 / level.scale, shape[1], shape[0]))
            for line in _read(level.picture, found)
            if _is_no_anatomy(line, level.scale)
        ]
    return lines


def shows_text_at_a_glance(picture: np.ndarray) -> bool:
    """Whether text can be read in a small copy of the picture: one pass over the whole, whatever the network says."""
    scale = min(1.0, _GLANCE / max(picture.shape[:2]))
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else picture
    found = _finds(small, ocr.text_map(small), _largest(small))
    lines = _read(small, [find for find in found if min(_sides(find.box)) <= _largest(small)])
    return any(line.read >= 0.8 and len(fold(line.text)) >= 3 for line in lines)  # the first such line is enough


def _finds(picture: np.ndarray, probability: np.ndarray, thickest: float) -> list[Find]:
    """What stands out in the detector's map of a picture: boxes, and slanted lines that are not over `thickest`."""
    straight = [Find(box, score) for box, score in ocr.boxes_of(probability, _FOUND)]
    return straight + list(_slanted(picture, probability, thickest))


def _slanted(picture: np.ndarray, probability: np.ndarray, thickest: float) -> Iterator[Find]:
    rows, columns = picture.shape[:2]
    for slant, score in ocr.slanted(probability, _SLANTED):
        if slant[1][1] > thickest:
            continue
        corners = cv2.boxPoints(slant)
        (x0, y0), (x1, y1) = np.floor(corners.min(axis=0)).astype(int), np.ceil(corners.max(axis=0)).astype(int)
        box = (max(0, int(x0)), max(0, int(y0)), min(columns, int(x1)), min(rows, int(y1)))
        yield Find(box, score, ocr.straightened(picture, slant))


def _read(picture: np.ndarray, found: Iterable[Find]) -> Iterator[Line]:
    """Finds as lines, each read when it is asked for."""
    for find in found:
        x0, y0, x1, y1 = find.box
        text, sure = ocr.read(_upright(picture[y0:y1, x0:x1]) if find.straight is None else find.straight)
        readable = find.straight is None or len(fold(text)) >= 3
        yield Line(find.box, find.score, *((text, sure) if readable else ("", 0.0)))


def show_text(lines: list[Line]) -> bool:
    """Whether lines are text that may have to go, rather than anatomy that looks like a letter, or a marker alone."""
    single = [line for line in lines if line.read >= _READ and line.found >= 0.7]
    return len(single) >= 3 or any(_reads_as_text(line) for line in lines)


def _is_no_anatomy(line: Line, scale: float) -> bool:
    """Whether a line of a coarse level is text: what is as large as organs is taken for a letter or two too easily."""
    return scale >= 0.5**_COARSE * 2 or (line.read >= _READ and len(fold(line.text)) >= 3)


def _reads_as_text(line: Line) -> bool:
    width, height = _sides(line.box)
    line_like = max(width, height) >= 2.5 * min(width, height) and line.found >= _SCRIPT
    return line_like or (len(fold(line.text)) >= 2 and line.read >= 0.3)


def _largest(picture: np.ndarray) -> float:
    return max(24, _LETTER * min(picture.shape[:2]))


def _found(picture: np.ndarray) -> list[Find]:
    """Finds in the picture, in half of it where it shows more, and in enlarged pieces within outlines."""
    if min(picture.shape[:2]) < _LEAST_SIDE:
        return []
    largest = _largest(picture)
    whole = _finds(picture, ocr.text_map(picture), largest)
    found = [find for find in whole if find.straight is not None or min(_sides(find.box)) <= largest]
    found += [find for find in _found_in_half(picture, largest) if _covered(find.box, found) < _SAME]
    outlines = [find.box for find in whole if find.straight is None and min(_sides(find.box)) > largest]
    if outlines:
        cells = text_like(picture if picture.ndim == 2 else np.ascontiguousarray(picture.max(axis=2)), WIDE)
        inside = np.zeros_like(cells)
        for x0, y0, x1, y1 in outlines:
            inside[y0 // CELL : y1 // CELL + 1, x0 // CELL : x1 // CELL + 1] = True
        for piece in clusters(cells & inside, picture.shape, _PIECE):
            again = _enlarged(picture, piece, largest)
            found += [find for find in again if not any(_covers(other.box, find.box) for other in found)]
    return found


def _found_in_half(picture: np.ndarray, largest: float) -> list[Find]:
    """What the detector finds at half the size: large letters of thin strokes, which come apart at full size."""
    rows, columns = picture.shape[:2]
    half = cv2.resize(picture, (columns // 2, rows // 2), interpolation=cv2.INTER_AREA)
    finds = (
        find._replace(box=_scaled(find.box, 2, columns, rows)) for find in _finds(half, ocr.text_map(half), largest)
    )
    high = 1.5 * largest  # lines close together come as one
    return [find for find in finds if find.straight is not None or min(_sides(find.box)) <= high]


def to_their_ends(picture: np.ndarray, boxes: list[Box]) -> list[Box]:
    """Boxes with what an enlarged look around each adds to its line: over a busy ground the detector loses letters."""
    rows, columns = picture.shape[:2]
    result = list(boxes)
    for box in boxes:
        width, height = _sides(box)
        thick = min(width, height)
        if thick > _THICK:
            continue
        along, across = _ENDS * thick, thick
        dx, dy = (across, along) if _upended(box) else (along, across)
        piece = (max(0, box[0] - dx), max(0, box[1] - dy), min(columns, box[2] + dx), min(rows, box[3] + dy))
        for other, *_ in _enlarged(picture, piece, 2 * thick):
            if _same_line(box, other, _BRIDGE):
                result.append(
                    (min(box[0], other[0]), min(box[1], other[1]), max(box[2], other[2]), max(box[3], other[3]))
                )
    return result


def _covered(box: Box, found: list[Find]) -> float:
    """The share of a box that lies in others together."""
    x0, y0, x1, y1 = box
    inside = np.zeros((y1 - y0, x1 - x0), bool)
    for (a0, b0, a1, b1), *_ in found:
        inside[max(0, b0 - y0) : max(0, b1 - y0), max(0, a0 - x0) : max(0, a1 - x0)] = True
    return float(inside.mean())


def _enlarged(picture: np.ndarray, piece: Box, largest: float) -> list[Find]:
    """What the detector finds in a piece at twice its size, where anatomy is too large to be a letter."""
    x0, y0, x1, y1 = piece
    larger = cv2.resize(picture[y0:y1, x0:x1], None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    probability = cv2.resize(ocr.text_map(larger), (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
    finds = (find._replace(box=_moved(find.box, piece)) for find in _finds(picture[y0:y1, x0:x1], probability, largest))
    return [find for find in finds if find.straight is not None or min(_sides(find.box)) <= largest]


def lines_enlarged(picture: np.ndarray, box: Box, margin: int) -> list[Line]:
    """What stands in a box and as much as `margin` pixels around it, as it is found and read at twice the size."""
    rows, columns = picture.shape[:2]
    x0, y0, x1, y1 = box
    piece = max(0, x0 - margin), max(0, y0 - margin), min(columns, x1 + margin), min(rows, y1 + margin)
    return list(_read(picture, _enlarged(picture, piece, 2 * min(_sides(box)))))


def _sides(box: Box) -> tuple[int, int]:
    return box[2] - box[0], box[3] - box[1]


def _moved(box: Box, tile: Box) -> Box:
    return box[0] + tile[0], box[1] + tile[1], box[2] + tile[0], box[3] + tile[1]


def _covers(outer: Box, inner: Box) -> bool:
    return outer[0] <= inner[0] and outer[1] <= inner[1] and outer[2] >= inner[2] and outer[3] >= inner[3]


def _scaled(box: Box, factor: float, columns: int, rows: int) -> Box:
    x0, y0 = int(np.floor(box[0] * factor)), int(np.floor(box[1] * factor))
    return x0, y0, min(columns, int(np.ceil(box[2] * factor))), min(rows, int(np.ceil(box[3] * factor)))


def _upright(crop: np.ndarray) -> np.ndarray:
    """A line that runs up or down is turned; which of both does not matter to the decision, for neither is harmless."""
    turned = np.rot90(crop, -1) if crop.shape[0] > 1.6 * crop.shape[1] else crop
    return np.ascontiguousarray(turned)


def to_mask(lines: list[Line], identity: IdentityWords, before: Iterable[Box] = ()) -> list[Box]:
    """The boxes of lines that could identify, and of what cannot be read beside them on the same line.

    `before`: what was masked already; a line may have been found in parts.
    """
    earlier = list(before)
    lines = _without_second_looks(lines, identity)
    boxes = [line.box for line in lines if identifies(line, identity)] + _spelled(lines)
    rest = [line for line in lines if line.box not in boxes and share_inside(line.box, earlier) < 0.5]
    grown = True
    while grown:
        beside = [line for line in rest if any(_belongs(line, other) for other in (*boxes, *earlier))]
        boxes += [line.box for line in beside]
        rest = [line for line in rest if line not in beside]
        grown = bool(beside)
    return _joined(boxes, earlier) if boxes else []


def _without_second_looks(lines: list[Line], identity: IdentityWords) -> list[Line]:
    """Lines less those that were found at two sizes, read harmless at one, and badly at the other."""
    settled = [line for line in lines if is_settled(line)]
    return [
        line
        for line in lines
        if is_settled(line)
        or identity.matches(line.text)
        or not any(_is_same(line.box, other.box) for other in settled)
    ]


def _is_same(box: Box, settled: Box) -> bool:
    """Whether a box adds nothing to the length of a settled line."""
    across = min(box[3], settled[3]) - max(box[1], settled[1])
    along = min(box[2], settled[2]) - max(box[0], settled[0])
    return along >= 0.8 * (box[2] - box[0]) and across >= 0.45 * (box[3] - box[1])


def _belongs(line: Line, masked: Box) -> bool:
    """Whether a line is part of a masked one: unreadable beside it, or a letter or two right at it."""
    if is_settled(line):
        return len(fold(line.text)) <= 2 and touch(line.box, masked)
    return (bool(fold(line.text)) or line.found >= 0.8) and _same_line(line.box, masked)


def _spelled(lines: list[Line]) -> list[Box]:
    """Words that were found letter by letter, as the detector does with lines that run up or down."""
    whole = [line.box for line in lines if len(fold(line.text)) > 2 and is_settled(line)]
    single = [line for line in lines if line.read >= _READ and line.found >= 0.7]
    single = [line for line in single if share_inside(line.box, whole) < _SAME]
    left: list[Box] = []
    for line in single:  # what was found at two sizes counts once
        if 1 <= len(fold(line.text)) <= 2 and max(share_inside(line.box, left), share_around(line.box, left)) < 0.5:
            left.append(line.box)
    words: list[Box] = []
    while left:
        word = [left.pop()]
        for box in word:
            near = [other for other in left if touch(box, other)]
            left = [other for other in left if other not in near]
            word += near
        words += word if len(word) >= 3 else []
    return words


def touch(one: Box, other: Box) -> bool:
    """Whether two boxes stand as close as letters of a word do; the same letter found twice does not."""
    if max(share_inside(one, [other]), share_inside(other, [one])) > 0.6:
        return False
    return _follow(one, other, _LETTERS) or _follow(_turned(one), _turned(other), _LETTERS)


def is_certain(line: Line) -> bool:
    """Whether a line is text beyond doubt, rather than anatomy that was read as a few letters."""
    return len(fold(line.text)) >= 4 and line.read >= 0.8


def share_inside(box: Box, others: list[Box]) -> float:
    """How much of a box lies in the fullest of the others: a mask's own outline may look like a letter."""
    width, height = _sides(box)
    shared = (
        max(0, min(box[2], other[2]) - max(box[0], other[0])) * max(0, min(box[3], other[3]) - max(box[1], other[1]))
        for other in others
    )
    return max(shared, default=0) / max(1, width * height)


def share_around(box: Box, others: list[Box]) -> float:
    """How much of the fullest of the others lies in a box."""
    return max((share_inside(other, [box]) for other in others), default=0)


def identifies(line: Line, identity: IdentityWords) -> bool:
    """Whether a line has to go: it holds a word of the header, or reads as text that is not known to be harmless."""
    letters = len(fold(line.text))
    if letters >= 2 and line.read >= 0.2 and identity.matches(line.text):
        return True
    if is_settled(line):
        return False
    width, height = _sides(line.box)
    line_like = max(width, height) >= 2.5 * min(width, height)
    if letters <= 3:
        return letters >= 2 and line.read >= _SHORT_READ and line.found >= _SHORT_FOUND
    if line.read >= _READ or (line.read >= 0.3 and line.found >= 0.7):
        return True
    return line_like and line.found >= _SCRIPT


def is_settled(line: Line) -> bool:
    """Whether a line is well read and harmless."""
    return line.read >= 0.5 and bool(line.text) and is_harmless(line.text)


def _same_line(one: Box, other: Box, gap: float = _GAP) -> bool:
    """Whether two boxes follow each other on one line, which runs across or up and down."""
    if _upended(one) or _upended(other):
        crossing = _upended(_turned(one)) or _upended(_turned(other))
        return not crossing and _follow(_turned(one), _turned(other), gap)
    return _follow(one, other, gap)


def _follow(one: Box, other: Box, gap: float) -> bool:
    heights = one[3] - one[1], other[3] - other[1]
    overlap = min(one[3], other[3]) - max(one[1], other[1])
    apart = max(one[0], other[0]) - min(one[2], other[2])
    return overlap >= 0.6 * min(heights) and max(heights) <= 2.5 * min(heights) and apart <= gap * min(heights)


def _upended(box: Box) -> bool:
    """Whether a box is higher than wide, as words are on a line that runs up or down."""
    return box[3] - box[1] > 1.6 * (box[2] - box[0])


def _runs_across(box: Box) -> bool:
    return _upended(_turned(box))


def _turned(box: Box) -> Box:
    return box[1], box[0], box[3], box[2]


def _joined(boxes: list[Box], earlier: list[Box]) -> list[Box]:
    """Boxes with what lies between two on one line: the detector may have lost a letter there."""
    bridges = [
        (min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))
        for number, a in enumerate(boxes)
        for b in (*boxes[number + 1 :], *earlier)
        if _same_line(a, b, _BRIDGE)
    ]
    return boxes + bridges
