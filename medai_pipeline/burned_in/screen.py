"""Every image of a study screened for text, whatever its tags say: `Screener`.

A frame is looked at quickly first (`letters`); what could hold text is read; what could identify is masked, and the result
is read again. What is then still doubtful goes no further.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import cv2
import numpy as np

from medai_pipeline.burned_in import letters
from medai_pipeline.burned_in.doubt import reconsidered
from medai_pipeline.burned_in.masking import masked, stored_bits
from medai_pipeline.burned_in.ocr import Box, Line
from medai_pipeline.burned_in.pictures import beyond_picture, bulk_picture, picture_of, toned_picture, window_picture
from medai_pipeline.burned_in.reading import (
    identifies,
    is_certain,
    is_settled,
    lines_in,
    lines_of,
    share_inside,
    show_text,
    shows_text_at_a_glance,
    to_mask,
    to_their_ends,
    upright_lines_of,
)
from medai_pipeline.burned_in.words import IdentityWords, identity_words
from medai_pipeline.dicom.image import Image
from medai_pipeline.dicom.pixel_bytes import ANY_PIXELS
from medai_pipeline.dicom.read import check_whole, parse
from medai_pipeline.errors import DeidentificationError, NoPixels, UndecodablePixels

# Series of many slices, and films: the network speaks for them. Whatever else there is (ultrasound, captures) is read.
_SLICES = frozenset({"CT", "MR", "PT", "NM", "SEG"})
_FILMS = frozenset({"CR", "DX", "MG", "IO", "PX", "RG", "RF", "XA"})
_SURE = 1.3  # log odds of letters from which a slice is looked at, and a film: it has more text, and no neighbours
_FILM_SURE = 0.8
_EVERY = 128  # slices of which one is looked at by the detector, whatever the network says
_EVERY_FRAME = 32  # frames of a clip of which one is read, whatever changed; so is the last
_PASSES = 2  # of masking; a frame that shows text even then is not let through
_CHANGE = 20  # of 255: what differs by less from one frame to the next is the same letter
_MARGIN = 2  # pixels around a masked line


class _Care(Enum):
    GATE = "what the network takes for letters is looked at"
    GLANCE = "the detector looks at the whole, too"
    READ = "it is read"


@dataclass(frozen=True, slots=True)
class Screened:
    """`data`: the file, masked where there was need (else the very bytes given). `masks`: boxes by frame, from 1."""

    data: bytes
    masks: dict[int, tuple[Box, ...]]
    pixels: bool  # whether there were pixels to screen
    frames_read: int = 0


class Screener:
    """Screens the files of one study. It remembers which series have text, so one is used for each study.

    Once all are screened, those that `passed_by` names want to be screened again.
    """

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()
        self._with_text: set[str] = set()
        self._spared: dict[str, list[str]] = {}

    def passed_by(self) -> list[str]:
        """Files that were looked at quickly before text was found on another of their series; each is named once."""
        return [name for series in self._with_text for name in self._spared.pop(series, ())]

    def screen(self, data: bytes, name: str = "") -> Screened:
        """The file without text that could identify. `name`: what `passed_by` calls it.

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
        care = self._care(image, series)
        search = _Search(image, data, care)
        try:
            masks = search.masks()
        except UndecodablePixels as error:
            raise _unscreened(error) from None
        if search.text_found:
            self._with_text.add(series)
        elif care is not _Care.READ:
            self._spared.setdefault(series, []).append(name)
        cleaned = masked(data, part, image, masks) if masks or search.bits_cleared else data
        return Screened(cleaned, masks, pixels=True, frames_read=search.frames_read)

    def _care(self, image: Image, series: str) -> _Care:
        plain = image.modality in _SLICES or image.modality in _FILMS
        if not plain or image.what.samples > 1 or series in self._with_text:
            return _Care.READ
        glance = image.modality in _FILMS or self._seen[series] % _EVERY == 1
        return _Care.GLANCE if glance else _Care.GATE


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
        self._before: np.ndarray | None = None  # the last frame that was read as a whole
        self._sure = _FILM_SURE if image.modality in _FILMS else _SURE
        self.bits_cleared = False  # a compressed frame carries more than its stored bits
        self.text_found = False
        self.frames_read = 0

    def masks(self) -> dict[int, tuple[Box, ...]]:
        found = {number: self._frame(number) for number in range(1, self._image.frames + 1)}
        if self._static:  # a line stays where it is through a clip: it goes from frames before it was found, too
            found = dict.fromkeys(found, tuple(sorted(self._static)))
        return {number: boxes for number, boxes in found.items() if boxes}

    def _frame(self, number: int) -> tuple[Box, ...]:
        decoded = self._image.stored(number)
        stored = stored_bits(decoded, self._image)
        self.bits_cleared = self.bits_cleared or stored is not decoded
        views = _Views(self._image, stored)
        boxes: set[Box] = set()
        calm: list[Box] = []
        worth = self._worth_reading(views, number)
        if worth:
            boxes |= self._read(views.picture, _black(views.picture, self._static), calm)
            self._before = _grey(views.picture)
            self.frames_read += 1
        for view in (views.toned if worth else None, *self._other_views(stored, number)):
            if view is not None and self._shows_text(view, boxes):
                boxes |= self._read(view, _black(view, boxes | self._static), calm)
        if self._image.frames > 1:
            self._static |= boxes
        return tuple(sorted(boxes))

    def _other_views(self, stored: np.ndarray, number: int) -> Iterator[np.ndarray | None]:
        """What the frame shows in other ranges: text there is seen by whoever turns the window that far."""
        if self._image.modality == "CT":
            yield beyond_picture(self._image, stored)
        elif self._care is not _Care.GATE and number == 1:
            yield window_picture(self._image, stored, number)
            yield bulk_picture(self._image, stored)

    def _worth_reading(self, views: _Views, number: int) -> bool:
        """Whether the frame is read: as a whole where the care asks for it, else when a quick look finds text."""
        due = number in (1, self._image.frames) or number % _EVERY_FRAME == 0
        if self._care is _Care.READ and due:
            return True
        if self._care is _Care.GLANCE and due and shows_text_at_a_glance(views.picture):
            return True
        view = views.picture if views.toned is None else views.toned
        return self._shows_text(view, self._static, None if self._before is None else _grey(views.picture))

    def _shows_text(self, view: np.ndarray, masked: set[Box], grey: np.ndarray | None = None) -> bool:
        """Whether the network finds letters, and the detector lines; `grey`: only where that differs from the frame before."""
        found = letters.levels(_grey(_black(view, masked)), self._sure)
        if found and grey is not None and self._before is not None:
            found = [level for level in found if _changed(self._before, grey, level.cells)]
        return bool(found) and show_text(lines_in(found, view.shape))

    def _read(self, picture: np.ndarray, shown: np.ndarray, calm: list[Box]) -> set[Box]:
        """Boxes to mask, found in `shown` and in what is left after each masking.

        `calm`: lines of the frame that were read as harmless, in this view or an earlier one, and are not judged again when
        they are read worse, in another range or with something black beside them. More are added.
        """
        boxes: set[Box] = set()
        for number in range(_PASSES):
            lines = self._lines(shown, calm) + (upright_lines_of(picture) if number else [])
            found = to_mask(lines, self.identity, boxes | self._static)
            fresh = {_grown(box, picture.shape) for box in to_their_ends(shown, found)}
            calm += [line.box for line in lines if is_settled(line)]
            if not fresh:
                return boxes
            self.text_found = self.text_found or any(map(is_certain, lines))
            boxes |= fresh
            shown = _black(shown, fresh)
        if any(identifies(line, self.identity) for line in self._lines(shown, calm)):
            raise DeidentificationError(
                "the image shows text that masking does not remove; look at it before it is used"
            )
        return boxes

    def _lines(self, picture: np.ndarray, calm: list[Box]) -> list[Line]:
        lines = lines_of(picture)
        lines = [line for line in lines if share_inside(line.box, calm) < 0.7 or self.identity.matches(line.text)]
        return reconsidered(picture, lines, self.identity)

    @property
    def identity(self) -> IdentityWords:
        if self._identity is None:
            self._identity = identity_words(parse(self._data, pixels=False))
        return self._identity


class _Views:
    """A frame as it is shown, made when it is asked for: a plain slice of CT is looked at in one of them alone."""

    def __init__(self, image: Image, stored: np.ndarray) -> None:
        self._image = image
        self._stored = stored

    @cached_property
    def picture(self) -> np.ndarray:
        return picture_of(self._image, self._stored)

    @cached_property
    def toned(self) -> np.ndarray | None:
        return toned_picture(self._image, self._stored)


def _grey(picture: np.ndarray) -> np.ndarray:
    return picture if picture.ndim == 2 else np.ascontiguousarray(picture.max(axis=2))


def _changed(before: np.ndarray, now: np.ndarray, cells: np.ndarray) -> bool:
    """Whether a frame differs from one before in any cell that is left in `cells`; those that do not are taken out."""
    steps = cv2.threshold(cv2.absdiff(before, now), _CHANGE, 255, cv2.THRESH_BINARY)[1]
    near = cv2.resize(cv2.dilate(steps, np.ones((9, 9), np.uint8)), cells.shape[::-1], interpolation=cv2.INTER_AREA)
    cells &= near > 0
    return bool(cells.any())


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
