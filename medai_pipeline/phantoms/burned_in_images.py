"""Pictures with text in their pixels, and the same without: `make_burned_in`. The truth of each word comes with them.

Films, CT and MR slices of the other phantoms, ultrasound-like pictures (sector, depth scale, colour) and captures of a
screen. Header text that identifies is written over, beside and under the anatomy; markers and scales stand there too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np
import pydicom.uid
from pydicom.dataset import Dataset

from medai_pipeline.phantoms import iods
from medai_pipeline.phantoms.brain_mr import render_brain_mr
from medai_pipeline.phantoms.burned_in_fonts import Font, fonts, lettering
from medai_pipeline.phantoms.burned_in_words import (
    FILM_MARKERS,
    SLICE_MARKERS,
    SOUND_MARKERS,
    invent_person,
    written_lines,
)
from medai_pipeline.phantoms.chest_ct import render_chest_ct
from medai_pipeline.phantoms.chest_xray import render_chest_xray
from medai_pipeline.phantoms.identity import file_meta, uid

BURNED_IN_KINDS = ("film", "ct", "mr", "ultrasound", "capture")
_CONTRAST = 0.3  # of the picture's range, between ink and what lies behind it: less is hardly read by a person either
Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class BurnedWord:
    """One word in the pixels. `box`: (x0, y0, x1, y1) around its ink, x1 and y1 exclusive; `height` of a capital."""

    text: str
    box: Box
    identity: bool
    height: int
    style: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class BurnedInImage:
    """A picture with text: `words` in its pixels, in the order written."""

    kind: str
    dataset: Dataset
    words: tuple[BurnedWord, ...]


@dataclass(slots=True)
class _Sheet:
    """Pixels to write on: float32 (rows, columns) or (rows, columns, 3), with the range that is shown."""

    pixels: np.ndarray
    low: float
    high: float
    taken: list[Box] = field(default_factory=list)
    words: list[BurnedWord] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, int]:
        return self.pixels.shape[0], self.pixels.shape[1]


def make_burned_in(
    kind: str,
    seed: int,
    *,
    identity: bool = True,
    markers: bool | None = None,
    machine_fonts: bool = False,
    lines: int | None = None,
) -> BurnedInImage:
    """One picture of BURNED_IN_KINDS, the same for the same arguments (and, with `machine_fonts`, the same computer).

    `identity`: text that identifies is written, in at most that many `lines` (None: one to five, by the seed). `markers`:
    sides, scales and technique are (None: by the seed).
    Raises ValueError for an unknown kind.
    """
    if kind not in BURNED_IN_KINDS:
        raise ValueError(f"no picture {kind!r}: choose one of {', '.join(BURNED_IN_KINDS)}")
    rng = np.random.default_rng([seed, BURNED_IN_KINDS.index(kind), 77])
    person = invent_person(rng)
    dataset, sheet = _MAKERS[kind](seed, rng)
    person.fill(dataset)
    choice = fonts(machine_fonts)
    if rng.random() < 0.7 if markers is None else markers:
        words = {"film": FILM_MARKERS, "ultrasound": SOUND_MARKERS, "capture": SOUND_MARKERS}.get(kind, SLICE_MARKERS)
        for index in rng.permutation(len(words))[: int(rng.integers(1, 3 if kind == "film" else 5))]:
            _write(sheet, words[index], choice, rng, identity=False)
    if identity:
        for line in written_lines(person, rng, int(rng.integers(1, 6)) if lines is None else lines):
            _write(sheet, line, choice, rng, identity=True)
    _finish(dataset, sheet, kind, seed)
    return BurnedInImage(kind, dataset, tuple(sheet.words))


def _write(sheet: _Sheet, line: str, choice: tuple[Font, ...], rng: np.random.Generator, identity: bool) -> None:
    """One line at a free place; a line that finds none is left out."""
    font = choice[int(rng.integers(len(choice)))]
    largest = max(12, min(40, min(sheet.shape) // 16))
    height = int(np.exp(rng.uniform(np.log(7.5), np.log(largest))))
    if len(line) == 1 and not identity:
        height = max(height, 12)
    doubled = rng.random() < 0.1
    boxed = False
    for attempt in range(30):
        boxed = attempt > 20
        ink = lettering(line, font, height, doubled)
        turned = identity and rng.random() < 0.04
        boxes = _word_boxes(ink, line)
        if turned:
            ink, boxes = np.rot90(ink), [(y0, ink.shape[1] - x1, y1, ink.shape[1] - x0) for x0, y0, x1, y1 in boxes]
        place = _place(sheet, ink.shape, rng)
        if place is not None:
            break
        height = max(8, int(height * 0.85))
    else:
        return
    style = _ink(sheet, ink, place, rng, boxed=boxed)
    x, y = place
    sheet.taken.append((x, y, x + ink.shape[1], y + ink.shape[0]))
    note = f"{font.name}{' pixelated' if font.pixelated else ''} {style}{' turned' if turned else ''}"
    for word, (x0, y0, x1, y1) in zip(line.split(), boxes, strict=True):
        sheet.words.append(BurnedWord(word, (x + x0, y + y0, x + x1, y + y1), identity, height, note))


def _word_boxes(ink: np.ndarray, line: str) -> list[Box]:
    """The box of each word's ink: words are parted at the widest gaps between inked columns."""
    inked = np.asarray((ink > 0.3).any(axis=0), dtype=np.int8)
    edges = np.flatnonzero(np.diff(inked))
    opens = np.asarray(inked)[edges[:-1] + 1] == 0
    starts, ends = edges[:-1][opens], edges[1:][opens]
    gaps = sorted(zip(starts + 1, ends + 1, strict=True), key=lambda gap: gap[0] - gap[1])[: len(line.split()) - 1]
    cuts = [0, *(int(edge) for gap in sorted(gaps) for edge in gap), ink.shape[1]]
    spans = list(zip(cuts[::2], cuts[1::2], strict=True))
    while len(spans) < len(line.split()):  # letters that touch across a space: count the rest as one
        spans.append(spans[-1])
    boxes = []
    for x0, x1 in spans:
        rows = np.flatnonzero((ink[:, x0:x1] > 0.3).any(axis=1))
        boxes.append((x0, int(rows[0]), x1, int(rows[-1]) + 1) if len(rows) else (x0, 0, x1, ink.shape[0]))
    return boxes


def _place(sheet: _Sheet, shape: tuple[int, int], rng: np.random.Generator) -> tuple[int, int] | None:
    """A corner (x, y) where nothing is written yet: mostly near the borders, as scanners do it."""
    rows, columns = sheet.shape
    free_y, free_x = rows - shape[0] - 4, columns - shape[1] - 4
    if free_x < 1 or free_y < 1:
        return None
    for _ in range(20):
        u, v = rng.random(2)
        if rng.random() < 0.7:
            v = v * 0.15 if rng.random() < 0.6 else 1 - v * 0.15
            u = u * 0.1 if rng.random() < 0.6 else 1 - u * 0.1
        x, y = 2 + int(u * free_x), 2 + int(v * free_y)
        gap = 6
        box = (x - gap, y - gap, x + shape[1] + gap, y + shape[0] + gap)
        if all(box[2] <= t[0] or t[2] <= box[0] or box[3] <= t[1] or t[3] <= box[1] for t in sheet.taken):
            return x, y
    return None


def _ink(sheet: _Sheet, ink: np.ndarray, place: tuple[int, int], rng: np.random.Generator, boxed: bool) -> str:
    """Lay ink on the sheet, lighter or darker than what lies there; on a plate or with an edge where it must."""
    x, y = place
    height, width = ink.shape
    rows, columns = sheet.shape
    margin = 3
    window = (
        slice(max(0, y - margin), min(rows, y + height + margin)),
        slice(max(0, x - margin), min(columns, x + width + margin)),
    )
    patch = sheet.pixels[window]
    padded = np.zeros(patch.shape[:2], np.float32)
    top, left = y - window[0].start, x - window[1].start
    padded[top : top + height, left : left + width] = ink
    span = sheet.high - sheet.low
    darkest, brightest = np.percentile(patch, 3), np.percentile(patch, 97)
    style = str(rng.choice(["plain", "plain", "plain", "plate", "edge"])) if not boxed else "plate"
    room_above, room_below = sheet.high - brightest, darkest - sheet.low
    if style == "plain" and max(room_above, room_below) < _CONTRAST * span:
        style = "edge" if rng.random() < 0.5 else "plate"
    light = rng.random() < 0.75
    if style == "plain":
        if light and room_above < _CONTRAST * span:
            light = False
        if not light and room_below < _CONTRAST * span:
            light = True
        full = rng.random() < 0.6
        if light:
            value = sheet.high if full else brightest + rng.uniform(_CONTRAST * span, room_above)
        else:
            value = sheet.low if full else darkest - rng.uniform(_CONTRAST * span, room_below)
    else:
        value, behind = (sheet.high, sheet.low) if light else (sheet.low, sheet.high)
        if style == "plate":
            patch[...] = behind
        else:
            around = cv2.dilate((padded > 0.2).astype(np.uint8), np.ones((3, 3), np.uint8)).astype(np.float32)
            _blend(patch, around, behind)
    _blend(patch, padded, value, _tint(sheet, rng) if light else None)
    return f"{style} {'light' if light else 'dark'}"


def _tint(sheet: _Sheet, rng: np.random.Generator) -> np.ndarray | None:
    if sheet.pixels.ndim == 2 or rng.random() < 0.5:
        return None
    colours = ((255, 255, 0), (0, 255, 0), (0, 255, 255), (255, 160, 40), (180, 220, 255))
    return np.array(colours[int(rng.integers(len(colours)))], np.float32)


def _blend(patch: np.ndarray, ink: np.ndarray, value: float, tint: np.ndarray | None = None) -> None:
    share = ink if patch.ndim == 2 else ink[..., np.newaxis]
    patch[...] = patch * (1 - share) + (value if tint is None else tint) * share


def _film(seed: int, rng: np.random.Generator) -> tuple[Dataset, _Sheet]:
    view = "PA" if rng.random() < 0.7 else "LATERAL"
    side = int(rng.choice([512, 720, 1024]))
    image = render_chest_xray(seed, None, view, side, int(side * rng.uniform(0.85, 1.0)))
    inverted = bool(rng.random() < 0.3)
    dataset = iods.film(view, image.spacing_mm[2], inverted)
    return dataset, _Sheet(image.pixels.astype(np.float32), 0, 4095)


def _ct(seed: int, rng: np.random.Generator) -> tuple[Dataset, _Sheet]:
    side = int(rng.choice([256, 512]))
    image = render_chest_ct(seed, None, 3, side, side)
    signed = bool(rng.random() < 0.5)
    intercept = 0 if signed else -1024
    dataset = iods.ct(1, image.spacing_mm, (side, side), intercept, signed)
    return dataset, _Sheet(image.pixels[1].astype(np.float32), -1024, float(rng.choice([1000, 2000, 3071])))


def _mr(seed: int, rng: np.random.Generator) -> tuple[Dataset, _Sheet]:
    side = int(rng.choice([256, 384]))
    image = render_brain_mr(seed, None, 3, side, side)
    pixels = image.pixels[1].astype(np.float32)
    dataset = iods.mr(1, image.spacing_mm, (side, side), "FLAIR" in image.notes, int(pixels.max()))
    return dataset, _Sheet(pixels, 0, float(pixels.max()))


def _ultrasound(seed: int, rng: np.random.Generator) -> tuple[Dataset, _Sheet]:
    rows, columns = ((480, 640), (600, 800), (768, 1024))[int(rng.integers(3))]
    grey = _sector(rows, columns, rng)
    colour = rng.random() < 0.6
    pixels = grey
    if colour:
        pixels = np.repeat(grey[..., np.newaxis], 3, axis=2)
        _flow(pixels, rng)
    dataset = _secondary(pydicom.uid.UltrasoundImageStorage, "US", colour)
    sheet = _Sheet(pixels, 0, 255)
    _depth_scale(sheet, rng)
    return dataset, sheet


def _sector(rows: int, columns: int, rng: np.random.Generator) -> np.ndarray:
    """Speckle inside a fan, darker with depth, with a few bright reflectors; black around."""
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    apex_x, apex_y = columns * rng.uniform(0.4, 0.6), rows * rng.uniform(0.02, 0.12)
    radius, angle = np.hypot(x - apex_x, y - apex_y), np.arctan2(x - apex_x, y - apex_y)
    depth = rows * rng.uniform(0.75, 0.9)
    inside = (radius > depth * 0.08) & (radius < depth) & (np.abs(angle) < rng.uniform(0.5, 0.8))
    speckle = cv2.GaussianBlur(rng.rayleigh(1.0, (rows, columns)).astype(np.float32), (0, 0), rng.uniform(0.8, 1.6))
    tissue = cv2.GaussianBlur(rng.standard_normal((rows, columns)).astype(np.float32), (0, 0), rows / 25)
    tissue = np.exp(2.2 * tissue / max(1e-6, float(tissue.std())) * 0.35)
    image = 55 * speckle * tissue * (1.15 - radius / depth)
    for _ in range(int(rng.integers(1, 4))):
        at, width = depth * rng.uniform(0.3, 0.9), depth * rng.uniform(0.004, 0.012)
        image += 150 * np.exp(-(((radius - at - 8 * np.sin(angle * rng.uniform(3, 9))) / width) ** 2))
    return np.where(inside, np.clip(image, 2, 245), 0).astype(np.float32)


def _flow(pixels: np.ndarray, rng: np.random.Generator) -> None:
    """A patch of colour Doppler, and its colour bar."""
    rows, columns = pixels.shape[:2]
    centre, size = (int(columns * rng.uniform(0.4, 0.6)), int(rows * rng.uniform(0.35, 0.6))), int(rows * 0.07)
    mask = np.zeros((rows, columns), np.uint8)
    cv2.ellipse(mask, centre, (size, size // 2), 20, 0, 360, 1, -1)
    velocity = cv2.GaussianBlur(rng.standard_normal((rows, columns)).astype(np.float32), (0, 0), 9) * 40
    flow = np.stack([128 + 120 * np.clip(velocity, 0, 1), 60 + 0 * velocity, 128 - 120 * np.clip(velocity, -1, 0)], 2)
    pixels[mask > 0] = flow[mask > 0]
    bar = np.linspace(0, 1, rows // 5, dtype=np.float32)[:, np.newaxis]
    x, y = columns - columns // 24, rows // 8
    pixels[y : y + len(bar), x : x + 12] = np.stack([255 * (1 - bar), 60 + 0 * bar, 255 * bar], axis=2)


def _depth_scale(sheet: _Sheet, rng: np.random.Generator) -> None:
    """Ticks down one side with their numbers."""
    rows, columns = sheet.shape
    x = int(columns * rng.uniform(0.86, 0.93))
    font = Font("hershey:simplex")
    for index, y in enumerate(range(rows // 8, rows - rows // 10, rows // 9)):
        sheet.pixels[y, x : x + (8 if index % 5 == 0 else 4)] = 190
        if index % 5 == 0:
            ink = lettering(str(index), font, 10)
            patch = sheet.pixels[y - 5 : y - 5 + ink.shape[0], x + 12 : x + 12 + ink.shape[1]]
            _blend(patch, ink[: patch.shape[0], : patch.shape[1]], 200)
            box = (x + 12, y - 5, x + 12 + ink.shape[1], y - 5 + ink.shape[0])
            sheet.words.append(BurnedWord(str(index), box, False, 10, "scale"))
    sheet.taken.append((x - 4, rows // 8 - 12, min(columns, x + 44), rows - rows // 10))


def _capture(seed: int, rng: np.random.Generator) -> tuple[Dataset, _Sheet]:
    """A screen: an even ground, a table's rules, perhaps a small picture."""
    rows, columns = ((512, 512), (600, 800), (768, 1024))[int(rng.integers(3))]
    colour = rng.random() < 0.5
    ground = float(rng.choice([0, 30, 210, 255]))
    pixels = np.full((rows, columns, 3) if colour else (rows, columns), ground, np.float32)
    rule = 255 - ground if ground in (0, 255) else 120.0
    for y in range(rows // 2, rows - 20, 40):
        pixels[y, columns // 10 : columns // 2] = rule
    return _secondary(pydicom.uid.SecondaryCaptureImageStorage, "OT", colour), _Sheet(pixels, 0, 255)


def _secondary(sop_class: str, modality: str, colour: bool) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.Modality = pydicom.uid.UID(sop_class), modality
    ds.ConversionType = "WSD"
    ds.ImageType = ["ORIGINAL" if modality == "US" else "DERIVED", "PRIMARY" if modality == "US" else "SECONDARY"]
    ds.SamplesPerPixel = 3 if colour else 1
    ds.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    return ds


_MAKERS: dict[str, Callable[[int, np.random.Generator], tuple[Dataset, _Sheet]]] = {
    "film": _film,
    "ct": _ct,
    "mr": _mr,
    "ultrasound": _ultrasound,
    "capture": _capture,
}


def _finish(dataset: Dataset, sheet: _Sheet, kind: str, seed: int) -> None:
    """Stored values, UIDs and file meta information. BurnedInAnnotation says NO: it is not to be believed."""
    values = np.round(sheet.pixels - float(dataset.get("RescaleIntercept", 0) or 0))
    signed, stored = bool(dataset.PixelRepresentation), int(dataset.BitsStored)
    low, high = (-(1 << stored - 1), (1 << stored - 1) - 1) if signed else (0, (1 << stored) - 1)
    values = np.clip(values, low, high)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        values = high - values
    dtype = np.dtype(f"<{'i' if signed else 'u'}{dataset.BitsAllocated // 8}")
    dataset.Rows, dataset.Columns = sheet.shape
    dataset.PixelData = values.astype(dtype).tobytes() + b"\0" * (values.size * dtype.itemsize & 1)
    dataset["PixelData"].VR = "OW" if dataset.BitsAllocated == 16 else "OB"
    dataset.BurnedInAnnotation = "NO"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid(seed, kind, "study"), uid(seed, kind, "series")
    dataset.SOPInstanceUID = uid(seed, kind, "instance")
    dataset.SeriesNumber = dataset.InstanceNumber = 1
    dataset.file_meta = file_meta(dataset, pydicom.uid.ExplicitVRLittleEndian)
