"""Phantom studies as DICOM: `make_study`, `write_study`, `to_bytes`, and the demo's worklist. Modules by modality lie in `iods`."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from medai_pipeline.phantoms import iods
from medai_pipeline.phantoms.brain_mr import render_brain_mr
from medai_pipeline.phantoms.chest_ct import render_chest_ct
from medai_pipeline.phantoms.chest_xray import render_chest_xray
from medai_pipeline.phantoms.identity import Planted, burn, file_meta, invent, plant, uid
from medai_pipeline.phantoms.image import PhantomImage, TrueBox

KINDS = ("chest-xray", "chest-ct", "brain-mr")


@dataclass(frozen=True, slots=True, eq=False)
class PhantomStudy:
    """One study. `boxes`: true boxes by SOP Instance UID (frame 0 each); `markers`: every planted identity in its files."""

    kind: str
    seed: int
    datasets: tuple[Dataset, ...]
    boxes: Mapping[str, tuple[TrueBox, ...]]
    labels: tuple[str, ...]
    markers: tuple[str, ...]


def make_study(
    kind: str,
    seed: int,
    findings: Sequence[str] | None = None,
    burned_in: bool = False,
    monochrome1: bool | None = None,
    slices: int | None = None,
    rows: int | None = None,
    columns: int | None = None,
) -> PhantomStudy:
    """A study of KINDS as DICOM datasets, the same bytes for the same arguments.

    `findings`: see the renderers; None draws them from the seed. `burned_in` writes name, ID and date into the pixels.
    `monochrome1` is for films (None: by the seed); `slices`, `rows`, `columns` default to the usual for the kind.
    Raises ValueError for an unknown kind or finding.
    """
    makers: dict[str, Callable[..., list[tuple[Dataset, np.ndarray, PhantomImage, int]]]] = {
        "chest-xray": _films,
        "chest-ct": _ct,
        "brain-mr": _mr,
    }
    if kind not in makers:
        raise ValueError(f"no phantom {kind!r}: choose one of {', '.join(KINDS)}")
    who = invent(seed)
    made = makers[kind](seed, findings, monochrome1, slices, rows, columns)
    datasets, boxes, markers = [], {}, []
    for number, (ds, stored, image, frame) in enumerate(made, 1):
        markers += _complete(ds, stored, kind, who, number, burned_in)
        datasets.append(ds)
        boxes[str(ds.SOPInstanceUID)] = tuple(TrueBox(box.label, box.box) for box in image.boxes if box.frame == frame)
    return PhantomStudy(kind, seed, tuple(datasets), boxes, made[0][2].labels, tuple(dict.fromkeys(markers)))


def _complete(ds: Dataset, stored: np.ndarray, kind: str, who: Planted, number: int, burned_in: bool) -> list[str]:
    """Identity, UIDs, file meta and pixels; returns the markers."""
    series = getattr(ds, "ViewPosition", "")
    ds.StudyInstanceUID = uid(who.seed, kind, "study")
    ds.SeriesInstanceUID = uid(who.seed, kind, "series", series)
    ds.SOPInstanceUID = uid(who.seed, kind, "instance", number)
    uids = [str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID), str(ds.SOPInstanceUID)]
    if kind != "chest-xray":
        ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = uid(who.seed, kind, "frame of reference"), ""
        uids.append(str(ds.FrameOfReferenceUID))
    ds.SeriesNumber, ds.InstanceNumber = (number if series else 1), number
    markers = plant(ds, who, *iods.WORDS[kind])
    ds.BurnedInAnnotation = "YES" if burned_in else "NO"
    if burned_in:
        inverted = ds.PhotometricInterpretation == "MONOCHROME1"
        burn(stored, (who.name.replace("^", " "), who.patient_id, who.study_date), 0 if inverted else int(stored.max()))
    ds.Rows, ds.Columns = stored.shape
    ds.PixelData = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
    ds["PixelData"].VR = "OW"
    ds.file_meta = file_meta(ds, pydicom.uid.ExplicitVRLittleEndian)
    return [*markers, *uids]


def _films(seed, findings, monochrome1, slices, rows, columns):
    if monochrome1 is None:
        monochrome1 = bool(np.random.default_rng([seed, 42]).random() < 0.4)
    made = []
    for view in ("PA", "LATERAL"):
        image = render_chest_xray(seed, findings, view, rows or 720, columns or 640)
        stored = np.clip(image.pixels, 0, 4095).astype(np.uint16)
        if monochrome1:
            stored = 4095 - stored
        made.append((iods.film(view, image.spacing_mm[2], monochrome1), stored, image, 0))
    return made


def _ct(seed, findings, monochrome1, slices, rows, columns):
    image = render_chest_ct(seed, findings, slices or 24, rows or 256, columns or 256)
    signed = bool(seed % 2)  # half of the scanners store signed values
    intercept = 0 if signed else -1024
    made = []
    for frame, plane in enumerate(image.pixels):
        stored = np.round(plane - intercept).astype(np.int16 if signed else np.uint16)
        made.append((iods.ct(frame, image.spacing_mm, plane.shape, intercept, signed), stored, image, frame))
    return made


def _mr(seed, findings, monochrome1, slices, rows, columns):
    image = render_brain_mr(seed, findings, slices or 20, rows or 256, columns or 256)
    flair = "FLAIR" in image.notes
    return [
        (iods.mr(frame, image.spacing_mm, plane.shape, flair, int(plane.max())), plane.astype(np.uint16), image, frame)
        for frame, plane in enumerate(image.pixels)
    ]


def to_bytes(ds: Dataset) -> bytes:
    """The dataset as a DICOM file (PS3.10), preamble and file meta included."""
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def write_study(study: PhantomStudy, folder: Path) -> list[Path]:
    """One file an instance, IM0001.dcm and so on, in `folder` (made when absent); returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, ds in enumerate(study.datasets, 1):
        path = folder / f"IM{number:04d}.dcm"
        path.write_bytes(to_bytes(ds))
        paths.append(path)
    return paths


def demo_worklist() -> list[dict[str, Any]]:
    """What `medai demo` sends, as arguments of `make_study`: three modalities, from critical to normal."""
    return [dict(order) for order in _DEMO]


_DEMO: tuple[dict[str, Any], ...] = (
    {"kind": "chest-xray", "seed": 101, "findings": ("Pneumothorax",), "monochrome1": False},
    {"kind": "chest-xray", "seed": 102, "findings": ("Cardiomegaly", "Effusion"), "monochrome1": True},
    {"kind": "chest-xray", "seed": 103, "findings": (), "monochrome1": False},
    {"kind": "chest-xray", "seed": 104, "findings": ("Nodule",), "monochrome1": True},
    {"kind": "chest-xray", "seed": 105, "findings": (), "monochrome1": True},
    {"kind": "chest-ct", "seed": 106, "findings": ("Consolidation",)},
    {"kind": "chest-ct", "seed": 107, "findings": ("Nodule",)},
    {"kind": "brain-mr", "seed": 108, "findings": ("Haemorrhage",)},
    {"kind": "brain-mr", "seed": 109, "findings": ("Tumour",)},
    {"kind": "brain-mr", "seed": 110, "findings": ()},
)
