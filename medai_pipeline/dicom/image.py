"""One object's image, from its bytes: frames decoded one at a time, and what each frame's values mean.

Here: decoding by transfer syntax, the Modality LUT (PS3.3 C.11.1), pixel padding (C.7.5.1.1.2), colour, the VOI that the
object carries. Nothing is decoded before it is asked for, and no more than one frame at a time. What a model wants of it
is in `normalize` and `pixels`; how a person sees it in `render`.
"""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from pydicom.pixels import convert_color_space

from medai_pipeline.dicom import native
from medai_pipeline.dicom.attributes import Attributes
from medai_pipeline.dicom.decoder import decode_frame
from medai_pipeline.dicom.description import Description, describe, pixel_element
from medai_pipeline.dicom.elements import Part10
from medai_pipeline.dicom.encapsulated import Frames
from medai_pipeline.dicom.functional_groups import PIXEL_VALUE_TRANSFORMATION, FunctionalGroups
from medai_pipeline.dicom.limits import file_seconds
from medai_pipeline.dicom.lut import Table, palette, table
from medai_pipeline.dicom.read import check_whole
from medai_pipeline.dicom.transfer_syntax import Kind, name, syntax
from medai_pipeline.dicom.voi import Voi, voi
from medai_pipeline.errors import UndecodablePixels, UnsupportedImage

_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # PS3.3 C.7.6.3.1.2, Y of YBR_FULL
_LARGEST = 1e30
_ITEM = b"\xfe\xff\x00\xe0"
_PADDING, _PADDING_LIMIT = (0x00280120, "h"), (0x00280121, "h")
_FLOAT_PADDING = {32: ((0x00280122, "f"), (0x00280124, "f")), 64: ((0x00280123, "d"), (0x00280125, "d"))}


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """Modality values (rows, columns) float32, Hounsfield units for CT; `padding` marks pixels that are no image, if any."""

    values: np.ndarray
    padding: np.ndarray | None = None


class Image:
    """`part` is a file taken apart (`read.check_whole`). Raises NoPixels; UndecodablePixels when nothing can be decoded."""

    def __init__(self, part: Part10) -> None:
        self.attributes = Attributes(part.elements)
        self.what: Description = describe(self.attributes)
        self.transfer_syntax = part.transfer_syntax
        self.groups = FunctionalGroups(self.attributes)
        self._element = pixel_element(self.attributes)
        self._kind = self._checked_kind()
        self._seconds = file_seconds(self.what.frame_bytes, self.what.frames)

    @classmethod
    def of(cls, data: bytes) -> Image:
        """A file's image. Raises NotDicom, TruncatedFile, NoPixels, UndecodablePixels."""
        return cls(check_whole(data))

    @property
    def frames(self) -> int:
        return self.what.frames

    @property
    def modality(self) -> str:
        return self.attributes.text(0x00080060)

    @property
    def inverted(self) -> bool:
        """Whether the lowest values are shown white (MONOCHROME1)."""
        return self.what.photometric == "MONOCHROME1"

    def _checked_kind(self) -> Kind:
        known = syntax(self.transfer_syntax)
        if known.reason:
            raise UndecodablePixels(f"{name(self.transfer_syntax)} {known.reason}; send it in another transfer syntax")
        encapsulated = self._element.undefined or bytes(self._element.value[:4]) == _ITEM
        if encapsulated == (known.kind is Kind.NATIVE) and (self._element.undefined or not encapsulated):
            raise UndecodablePixels("the pixel data is not written as the transfer syntax says; send the object again")
        if known.kind is Kind.NATIVE and self.what.frames > len(self._element.value) * 8 // self._least_bits():
            raise UndecodablePixels(
                "the pixel data is shorter than rows, columns and frames say; send the object again"
            )
        return known.kind

    def _least_bits(self) -> int:
        """Bits of the shortest frame of that description: two thirds where chrominance is subsampled."""
        return max(1, self.what.frame_bits * 2 // 3 if self.what.photometric.endswith("422") else self.what.frame_bits)

    @cached_property
    def _frames(self) -> Frames:
        offsets = self.attributes.elements.get(0x7FE00001)  # Extended Offset Table
        return Frames(self._element.value, self.what.frames, bytes(offsets.value) if offsets else b"")

    def stored(self, number: int) -> np.ndarray:
        """Stored values of frame `number` (from 1): (rows, columns), or (rows, columns, 3) as RGB for colour.

        Palette indices stay indices. The array may be a view of the file's bytes: copy before writing to it.
        Raises UndecodablePixels, which names the transfer syntax; UnsupportedImage when there is no such frame.
        """
        if not 1 <= number <= self.what.frames:
            raise UnsupportedImage(f"the image has frames 1 to {self.what.frames} only; ask for one of them")
        if self._kind is Kind.FRAMES:
            return self._decoded(number)
        if self._kind is Kind.NATIVE:
            little = self._element.encoding.little
            value, at = self._element.value, number
        else:
            little, value, at = True, self._frames.frame(number), 1
            if self._kind is Kind.DEFLATED_FRAMES:
                value = self._inflated(value)
        values = native.frame(value, self.what, at, little=little, words=self._element.vr == b"OW")
        return _rgb(values, self.what.photometric)

    def _decoded(self, number: int) -> np.ndarray:
        if self._seconds <= 0:
            raise UndecodablePixels("the object takes too long to decode; send it in another transfer syntax")
        began = time.monotonic()
        try:
            return decode_frame(self._frames.frame(number), self.what, self.transfer_syntax, self._seconds)
        finally:
            self._seconds -= time.monotonic() - began

    def _inflated(self, value: bytes) -> bytes:
        try:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(value, self.what.frame_bytes + 1)
        except zlib.error:
            raise UndecodablePixels("a deflated frame cannot be inflated; send the object again") from None

    def frame(self, number: int, stored: np.ndarray | None = None) -> Frame:
        """Frame `number` as modality values. Colour becomes luminance, which no model here was made for.

        `stored`: the frame from `stored`, where the caller has it already.
        Raises UndecodablePixels also when the object's lookup tables cannot be applied.
        """
        stored = self.stored(number) if stored is None else stored
        if stored.ndim == 2 and self.what.photometric == "PALETTE COLOR":
            stored = palette(self.attributes, stored, self.what.signed)
        if stored.ndim == 3:
            return Frame(stored[..., :3].astype(np.float32) @ _LUMINANCE)
        values = self._modality(stored, number)
        padding = self._padding(stored)
        if padding is not None:
            image = values[~padding]
            values[padding] = image.max() if self.inverted else image.min()
        return Frame(values, padding)

    def _modality(self, stored: np.ndarray, number: int) -> np.ndarray:
        """The Modality LUT (C.11.1): a table, or Rescale Slope and Intercept, each frame its own where it is enhanced."""
        group = self.groups.of(number, PIXEL_VALUE_TRANSFORMATION)
        if group is None and self.modality_table is not None:
            return self.modality_table.apply(stored).astype(np.float32)
        slope, intercept = rescale(self.attributes if group is None else group)
        values = stored.astype(np.float32)
        if slope != 1:
            values *= np.float32(slope)
        if intercept:
            values += np.float32(intercept)
        return values

    @cached_property
    def modality_table(self) -> Table | None:
        """The Modality LUT Sequence's table. Raises UndecodablePixels when it is not whole."""
        items = self.attributes.items(0x00283000)
        written = items and any(len(element.value) for element in items[0].elements.values())
        return table(items[0], self.what.signed) if written else None

    @property
    def padding_values(self) -> tuple[float, float] | None:
        """The stored values from Pixel Padding Value to its Range Limit; None where the image names none."""
        own = _FLOAT_PADDING[self.what.bits_allocated] if self.what.floating else (_PADDING, _PADDING_LIMIT)
        ends = [self._wrapped(values[0]) for tag, kind in own if (values := self.attributes.binary(tag, kind))]
        return (min(ends), max(ends)) if ends and own[0][0] in self.attributes else None

    def _padding(self, stored: np.ndarray) -> np.ndarray | None:
        """Where values are padding; None where none or all of them are."""
        if self.padding_values is None:
            return None
        low, high = self.padding_values
        padded = stored == low if low == high else (stored >= low) & (stored <= high)
        return padded if padded.any() and not padded.all() else None

    def _wrapped(self, value: float) -> float:
        """A padding value as the stored bits would hold it: writers mix up US and SS."""
        if self.what.floating:
            return value
        value = int(value) & ((1 << self.what.bits_stored) - 1)
        return (
            value - (1 << self.what.bits_stored) if self.what.signed and value >> self.what.bits_stored - 1 else value
        )

    def voi(self, number: int) -> Voi | None:
        """The VOI window or table of a frame (C.11.2); None when the object carries none that is usable."""
        _, intercept = rescale(self.attributes)
        return voi(self.attributes, self.groups, number, self.what.signed or intercept < 0)


def rescale(source: Attributes) -> tuple[float, float]:
    """(Rescale Slope, Rescale Intercept), (1, 0) where they say nothing usable (C.11.1.1.2)."""
    slope, intercept = (
        _number(source.numbers(tag), default) for tag, default in ((0x00281053, 1.0), (0x00281052, 0.0))
    )
    return (slope or 1.0), intercept  # a slope of 0 would erase the image: a writer's "not used"


def _number(values: tuple[float, ...], otherwise: float) -> float:
    return values[0] if values and abs(values[0]) < _LARGEST else otherwise


def _rgb(values: np.ndarray, photometric: str) -> np.ndarray:
    """Native colour as RGB (C.7.6.3.1.2)."""
    if values.ndim == 2 or not photometric.startswith("YBR"):
        return values
    if photometric.startswith("YBR_FULL"):
        if values.dtype != np.uint8:
            raise UndecodablePixels("YBR_FULL needs 8 bits allocated; correct the object at its source")
        return convert_color_space(values, "YBR_FULL", "RGB")
    if photometric.startswith("YBR_PARTIAL"):
        return _partial(values)
    raise UndecodablePixels("this photometric interpretation belongs to compressed data; correct the object")


def _partial(values: np.ndarray) -> np.ndarray:
    """YBR_PARTIAL_422 (retired): luminance 16 to 235, chrominance 16 to 240 (ITU-R BT.601)."""
    y, cb, cr = np.moveaxis(values.astype(np.float32), -1, 0)
    y, cb, cr = (y - 16) * 1.1644, cb - 128, cr - 128
    channels = (y + 1.5960 * cr, y - 0.3918 * cb - 0.8130 * cr, y + 2.0172 * cb)
    return np.rint(np.clip(np.stack(channels, -1), 0, 255)).astype(np.uint8)
