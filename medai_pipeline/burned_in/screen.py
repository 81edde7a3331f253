"""Every image of a study screened for text, whatever its tags say: `Screener`.

A frame is looked at quickly first (`gate`); what could hold text is read; what could identify is masked, and the result
is read again. What is then still doubtful goes no further.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np

from medai_pipeline.burned_in.gate import text_like
from medai_pipeline.burned_in.masking import masked
from medai_pipeline.burned_in.ocr import Box, Line
from medai_pipeline.burned_in.pictures import picture_of, window_picture
from medai_pipeline.burned_in.reading import (
    identifies,
    is_certain,
    is_settled,
    lines_around,
    lines_at_a_glance,
    lines_of,
    share_inside,
    show_text,
    to_mask,
    to_their_ends,
    upright_lines_of,
)
from medai_pipeline.burned_in.words import IdentityWords, identity_words
from medai_pipeline.dicom.image import Image
from medai_pipeline.dicom.pixel_bytes import ANY_PIXELS
from medai_pipeline.dicom.read import check_whole, parse
from medai_pipeline.errors import DeidentificationError, NoPixels, UndecodablePixels

_PLAIN = frozenset(
    {"CT", "MR", "PT", "NM", "SEG"}
)  # series of many slices, hardly ever with text: the gate speaks for them
_GLANCES = 2  # instances of each such series that are looked at whatever the gate says
_EVERY = 128  # and every so many of those that follow
_PASSES = 2  # of masking; a frame that shows text even then is not let through
_CHANGE = 20  # of 255: what differs by less from one frame to the next is the same letter
_MARGIN = 2  # pixels around a masked line


class _Care(Enum):
    GATE = "what the gate lets pass is read"
    GLANCE = "the detector looks at it, too"
    READ = "it is read"


@dataclass(frozen=True, slots=True)
class Screened:
    """`data`: the file, masked where there was need (else the very bytes given). `masks`: boxes by frame, from 1."""

    data: bytes
    masks: dict[int, tuple[Box, ...]]
    pixels: bool  # whether there were pixels to screen
    frames_read: int = 0


class Screener:
    """Screens the files of one study. It remembers which series have text, so one is used for each study."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()
        self._with_text: set[str] = set()

    def screen(self, data: bytes) -> Screened:
        """The file without text that could identify.

        Raises NotDicom, TruncatedFile; DeidentificationError when the pixels cannot be decoded, hence not screened,
        or when text stays doubtful after masking. No message holds anything of the text.
        """
        part = check_whole(data)
        try:
            image = Image(part)
        except NoPixels:
            if any(element.tag in ANY_PIXELS and len(element.value) for element in part.elements):
                raise DeidentificationError(
                    "the object has pixel data without rows or columns, which cannot be screened; correct the object"
                ) from None
            return Screened(data, {}, pixels=False)
        except UndecodablePixels as error:
            raise _unscreened(error) from None
        series = image.attributes.text(0x0020000E)
        self._seen[series] += 1
        search = _Search(image, data, self._care(image, series))
        try:
            masks = search.masks()
        except UndecodablePixels as error:
            raise _unscreened(error) from None
        if search.text_found:
            self._with_text.add(series)
        cleaned = masked(data, part, image, masks) if masks else data
        return Screened(cleaned, masks, pixels=True, frames_read=search.frames_read)

    def _care(self, image: Image, series: str) -> _Care:
        if image.modality not in _PLAIN or image.what.samples > 1 or series in self._with_text:
            return _Care.READ
        number = self._seen[series]
        return _Care.GLANCE if number <= _GLANCES or number % _EVERY == 0 else _Care.GATE


def _unscreened(error: UndecodablePixels) -> DeidentificationError:
    return DeidentificationError(f"the image cannot be screened for burned-in text: {error.reason}")


class _Search:
    """The search of one image, frame by frame."""

    def __init__(self, image: Image, data: bytes, care: _Care) -> None:
        self._image = image
        self._data = data
        self._care = care
        self._identity: IdentityWords | None = None
        self._static: set[Box] = set()  # what was masked in a frame before: it stays there in the next
        self._before: np.ndarray | None = None  # the frame before, which has been looked at
        self.text_found = False
        self.frames_read = 0

    def masks(self) -> dict[int, tuple[Box, ...]]:
        found = {number: self._frame(number) for number in range(1, self._image.frames + 1)}
        if self._static:  # a line stays where it is through a clip: it goes from frames before it was found, too
            found = dict.fromkeys(found, tuple(sorted(self._static)))
        return {number: boxes for number, boxes in found.items() if boxes}

    def _frame(self, number: int) -> tuple[Box, ...]:
        stored = self._image.stored(number)
        picture = picture_of(self._image, stored)
        if not self._worth_reading(picture):
            return ()
        self.frames_read += 1
        boxes = self._read(picture, _black(picture, self._static))
        window = window_picture(self._image, stored, number) if self._care is _Care.READ else None
        if window is not None:
            boxes |= self._read(window, _black(window, boxes | self._static))
        if self._image.frames > 1:
            self._static |= boxes
        return tuple(sorted(boxes))

    def _worth_reading(self, picture: np.ndarray) -> bool:
        grey = picture if picture.ndim == 2 else np.ascontiguousarray(picture.max(axis=2))
        cells = text_like(grey)
        before, self._before = self._before, grey
        if before is not None:
            cells &= _changed(before, grey, cells.shape)
        elif self._care is _Care.READ or (self._care is _Care.GLANCE and show_text(lines_at_a_glance(picture))):
            return True
        return bool(cells.any()) and show_text(lines_around(_black(picture, self._static), cells))

    def _read(self, picture: np.ndarray, shown: np.ndarray) -> set[Box]:
        """Boxes to mask, found in `shown` and in what is left after each masking."""
        boxes: set[Box] = set()
        calm: list[Box] = []  # lines read as harmless: they need not be read so again, with something black beside them
        for number in range(_PASSES):
            lines = self._lines(shown, calm) + (upright_lines_of(picture) if number else [])
            found = to_mask(lines, self.identity, boxes | self._static)
            fresh = {_grown(box, picture.shape) for box in to_their_ends(shown, found)}
            if not fresh:
                return boxes
            self.text_found = self.text_found or any(map(is_certain, lines))
            calm += [line.box for line in lines if is_settled(line)]
            boxes |= fresh
            shown = _black(shown, fresh)
        if any(identifies(line, self.identity) for line in self._lines(shown, calm)):
            raise DeidentificationError(
                "the image shows text that masking does not remove; look at it before it is used"
            )
        return boxes

    def _lines(self, picture: np.ndarray, calm: list[Box]) -> list[Line]:
        lines = lines_of(picture)
        return [line for line in lines if share_inside(line.box, calm) < 0.7 or self.identity.matches(line.text)]

    @property
    def identity(self) -> IdentityWords:
        if self._identity is None:
            self._identity = identity_words(parse(self._data, pixels=False))
        return self._identity


def _changed(before: np.ndarray, now: np.ndarray, cells: tuple[int, int]) -> np.ndarray:
    """Cells in which a frame differs from the one before: what did not change has been looked at already."""
    steps = cv2.threshold(cv2.absdiff(before, now), _CHANGE, 255, cv2.THRESH_BINARY)[1]
    return cv2.resize(cv2.dilate(steps, np.ones((9, 9), np.uint8)), cells[::-1], interpolation=cv2.INTER_NEAREST) > 0


def _grown(box: Box, shape: tuple[int, ...]) -> Box:
    """A box with a margin, wider at the ends of its line: there a letter may be cut off, above all where it runs upwards."""
    x0, y0, x1, y1 = box
    along_x, along_y = _MARGIN, _MARGIN
    if y1 - y0 > 1.6 * (x1 - x0):
        along_y += (x1 - x0) * 2 // 5
    else:
        along_x += (y1 - y0) // 6
    return max(0, x0 - along_x), max(0, y0 - along_y), min(shape[1], x1 + along_x), min(shape[0], y1 + along_y)


def _black(picture: np.ndarray, boxes: set[Box]) -> np.ndarray:
    """The picture as it looks with those boxes masked."""
    if not boxes:
        return picture
    shown = picture.copy()
    for x0, y0, x1, y1 in boxes:
        shown[y0:y1, x0:x1] = 0
    return shown
