"""Lines that would go because the reader took a marker for something else: they are read again, in several ways.

The reader's answer for a few small letters turns on the margin around them and on the pixels that it interpolates. A line
is taken for harmless only where several readings agree on one harmless text, and none comes near a word of the header.
Nothing here ever masks less than that: what the header names is never looked at twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np

from medai_pipeline.burned_in import ocr
from medai_pipeline.burned_in.ocr import Box, Line
from medai_pipeline.burned_in.reading import identifies, is_settled, lines_enlarged, share_inside, touch
from medai_pipeline.burned_in.words import IdentityWords, fold, is_harmless, long_word_like, with_units_mended

_LETTERS = 14  # a longer line is read well enough the first time
_SURE = 0.85  # of a reading that speaks for a line
_AGREE = 3  # readings of one harmless text that settle it
_ALONG = 1.6  # what is higher than that many times its width runs up: no marker does
_TEXT = 0.3  # probability from which the detector's map shows text
_EDGE = 3  # pixels around a settled line that may be of its last letter
_MARGIN = 12  # pixels around a line in which the detector looks for what is left


def reconsidered(picture: np.ndarray, lines: list[Line], identity: IdentityWords) -> list[Line]:
    """The lines of a picture (uint8), with what other readings say of those that would go; some of them are left out.

    Left out is what shows nothing but lines that are settled already, joined by the detector.
    """
    settled = [line for line in lines if is_settled(line) and line.read >= _SURE]
    result = []
    for line in lines:
        if not _doubtful(line, identity):
            result.append(line)
        elif not _explained(picture, line, settled) and not _falls_apart(picture, line):
            result.append(_read_again(picture, line, identity))
    return result


def _doubtful(line: Line, identity: IdentityWords) -> bool:
    """Whether a line would go, but not because of the header."""
    return identifies(line, identity) and len(fold(line.text)) <= _LETTERS and not identity.comes_near(line.text)


def _read_again(picture: np.ndarray, line: Line, identity: IdentityWords) -> Line:
    said = [ocr.read(view) for view in _views(picture, line.box)]
    if any(identity.comes_near(text) for text, _ in said):
        return line
    least = len(fold(line.text)) - 1
    speaking = [(with_units_mended(text), sure) for text, sure in said if sure >= _SURE and len(fold(text)) >= least]
    harmless = [(text, sure) for text, sure in speaking if is_harmless(text)]
    best, count = _most([fold(text) for text, _ in harmless])
    if count >= _AGREE:
        text, sure = max((one for one in harmless if fold(one[0]) == best), key=lambda one: one[1])
        return replace(line, text=text, read=sure)
    word, count = _most([long_word_like(text) for text, _ in said])
    if count > _AGREE and len({fold(text) for text, _ in said}) > _AGREE:
        return replace(line, text=word, read=_SURE)  # no reading is like the next, but most are like one long word
    return line


def _most(texts: list[str]) -> tuple[str, int]:
    return max(Counter(text for text in texts if text).items(), key=lambda item: item[1], default=("", 0))


def _views(picture: np.ndarray, box: Box) -> Iterator[np.ndarray]:
    """The line as its box cuts it, closer, wider, lengthened, and enlarged in ways that differ."""
    if box[3] - box[1] > _ALONG * (box[2] - box[0]):
        return
    grey = picture if picture.ndim == 2 else picture.max(axis=2)
    for margin in (0, 2, 4, -1, -2):
        yield _cut(grey, box, margin)
    line = _cut(grey, box, 0)
    yield cv2.GaussianBlur(cv2.resize(line, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC), (0, 0), 1.5)
    yield cv2.resize(line, None, fx=4, fy=4, interpolation=cv2.INTER_LINEAR)
    yield cv2.resize(line, None, fx=1.25, fy=1, interpolation=cv2.INTER_CUBIC)


def _cut(picture: np.ndarray, box: Box, margin: int) -> np.ndarray:
    x0, y0, x1, y1 = box
    part = picture[max(0, y0 - margin) : y1 + margin, max(0, x0 - margin) : x1 + margin]
    return np.ascontiguousarray(part if min(part.shape) >= 3 else picture[y0:y1, x0:x1])


def _explained(picture: np.ndarray, line: Line, settled: list[Line]) -> bool:
    """Whether the detector finds nothing in a line's box once the settled lines that reach into it are painted over."""
    inside = [other for other in settled if share_inside(other.box, [line.box]) > 0.3]
    if not inside or (all(len(fold(other.text)) < 2 for other in inside) and _could_be_a_word(inside)):
        return False
    x0, y0 = max(0, line.box[0] - _MARGIN), max(0, line.box[1] - _MARGIN)
    piece = picture[y0 : line.box[3] + _MARGIN, x0 : line.box[2] + _MARGIN].copy()
    for other in settled:
        a0, b0, a1, b1 = other.box
        _paint_over(piece, (a0 - x0 - _EDGE, b0 - y0 - _EDGE, a1 - x0 + _EDGE, b1 - y0 + _EDGE))
    left = ocr.text_map(cv2.resize(piece, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC))
    box = (line.box[0] - x0, line.box[1] - y0, line.box[2] - x0, line.box[3] - y0)
    return float(left[2 * box[1] : 2 * box[3], 2 * box[0] : 2 * box[2]].max()) < _TEXT


def _falls_apart(picture: np.ndarray, line: Line) -> bool:
    """Whether two or three letters are a marker and a piece of anatomy: enlarged, nothing but settled lines is found there."""
    if len(fold(line.text)) > 3:
        return False
    closer = [
        other for other in lines_enlarged(picture, line.box, _MARGIN) if share_inside(other.box, [line.box]) > 0.3
    ]
    settled = [other for other in closer if is_settled(other) and fold(other.text) != fold(line.text)]
    single = [other for other in settled if len(fold(other.text)) == 1]
    return bool(closer) and len(settled) == len(closer) and not _could_be_a_word(single)


def _could_be_a_word(letters: list[Line]) -> bool:
    """Whether single letters may be one word, found letter by letter: they are three and more, or stand close together."""
    boxes = list(dict.fromkeys(line.box for line in letters))
    return len(boxes) > 2 or (len(boxes) == 2 and touch(*boxes))


def _paint_over(piece: np.ndarray, box: Box) -> None:
    x0, y0, x1, y1 = (max(0, side) for side in box)
    part = piece[y0:y1, x0:x1]
    if part.size:
        part[...] = np.median(part.reshape(-1, *piece.shape[2:]), axis=0)
