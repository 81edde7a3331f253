"""Frozen records that cross layers. No behaviour beyond small derived values; no I/O; no identity except in `Identity`.

Everything here except `Identity` may be shown to anyone who may see a study key: its UIDs are the new ones,
made at de-identification, and its reasons are written without identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np


class Priority(StrEnum):
    """Urgency on the worklist, most urgent first."""

    CRITICAL = "critical"
    URGENT = "urgent"
    ROUTINE = "routine"
    NORMAL = "normal"

    @property
    def rank(self) -> int:
        """0 is the most urgent."""
        return list(Priority).index(self)


class StudyState(StrEnum):
    """Where a study revision is. `studies.state` holds one of these."""

    RECEIVING = "receiving"  # images still arrive, or the quiet period has not passed
    READY = "ready"  # quiet, digest known, waits for a run
    QUEUED = "queued"  # a run was requested
    RUNNING = "running"  # a run claimed it
    REPORTED = "reported"
    FAILED = "failed"  # with stage and reason; retried by policy
    VANISHED = "vanished"  # deleted in the PACS before it was reported
    FORGOTTEN = "forgotten"  # by a person or by age: its key is destroyed, the study key alone is left


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one file or image, in one line, without identity. `subject` is a digest prefix or a new UID."""

    code: str
    reason: str
    subject: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class Identity:
    """Who a study is about: the only record that identifies. Lives in the vault; its repr shows nothing.

    `uids` maps each original UID of the study (study, series, instance, frame of reference, ...) to its new UID.
    """

    study_instance_uid: str
    patient_id: str = ""
    patient_name: str = ""
    birth_date: str = ""
    sex: str = ""
    accession_number: str = ""
    study_id: str = ""
    study_date: str = ""
    study_time: str = ""
    referring_physician: str = ""
    orthanc_id: str = ""
    uids: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return "Identity(<hidden>)"


@dataclass(frozen=True, slots=True)
class SourceInstance:
    """One instance as received: where its encrypted bytes lie, and the SHA-256 of the plain bytes."""

    object_key: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What was fetched for one study revision."""

    study_key: str
    revision: int
    source_digest: str
    instances: tuple[SourceInstance, ...]
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Instance:
    """One de-identified instance: the columns of the instance table. UIDs are the new ones.

    `orientation` is ImageOrientationPatient (6 values), `position_mm` ImagePositionPatient (PS3.3 C.7.6.2.1.1),
    `spacing_mm` PixelSpacing, else ImagerPixelSpacing, as (row spacing, column spacing).
    `private_elements` and `identity_values` count what was found in the written file that should not be there.
    `usable` says whether a model may see it; `reason` why not ("" when usable). `content` is a term of `dicom/row.CONTENTS`
    for what is no acquisition ("dose-sheet", "workstation", ...), from attributes that de-identification removes.
    """

    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    modality: str
    source_sha256: str
    body_part: str = ""
    series_description: str = ""
    view_position: str = ""
    laterality: str = ""
    photometric: str = ""
    rows: int = 0
    columns: int = 0
    frames: int = 0
    samples_per_pixel: int = 1
    bits_stored: int = 0
    instance_number: int = 0
    spacing_mm: tuple[float, float] | None = None
    orientation: tuple[float, ...] | None = None
    position_mm: tuple[float, float, float] | None = None
    slice_thickness_mm: float | None = None
    image_type: tuple[str, ...] = ()
    burned_in_annotation: str = ""
    patient_identity_removed: str = ""
    private_elements: int = 0
    identity_values: int = 0
    usable: bool = True
    reason: str = ""
    object_key: str = ""
    sha256: str = ""
    size_bytes: int = 0
    content: str = ""


@dataclass(frozen=True, slots=True)
class DeidentifiedInstance:
    """The result of de-identifying one file: the new file's bytes, its table row, and old UID -> new UID."""

    data: bytes
    instance: Instance
    uids: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class DeidentifiedStudy:
    """The de-identified instances of one study revision; their files lie in the object store under `object_key`.

    `problems`: files that could not be used. `warnings`: what is wrong with files that are used, and with their series.
    """

    study_key: str
    revision: int
    source_digest: str
    profile: str
    instances: tuple[Instance, ...]
    problems: tuple[Problem, ...] = ()
    checks: tuple[QualityResult, ...] = ()
    warnings: tuple[Problem, ...] = ()
    age_years: int | None = field(default=None, repr=False)  # for triage; 90 stands for all above


@dataclass(frozen=True, slots=True)
class InputContract:
    """What a model family expects (part of a model's catalog entry, and recorded with each tensor).

    The tensor is float32, shape (channels, height, width), values in [low, high], larger values brighter
    (MONOCHROME1 inverted). `scaling` names the intensity rule in `dicom/normalize`: "xray", "ct-lung", "ct-brain", "mr".
    `fit`: "pad" keeps the aspect ratio and pads with `low`; "stretch" does not.
    """

    height: int
    width: int
    channels: int = 1
    low: float = 0.0
    high: float = 1.0
    scaling: str = "xray"
    fit: str = "pad"


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the source image lies inside the tensor: x_tensor = x_source * scale_x + offset_x (pixels, y alike)."""

    source_rows: int
    source_columns: int
    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float


@dataclass(frozen=True, slots=True)
class TensorItem:
    """Which image a tensor row came from. `frame` counts from 1, as DICOM does."""

    sop_instance_uid: str
    frame: int
    placement: Placement
    spacing_mm: tuple[float, float] | None = None
    view_position: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class StudyTensors:
    """Normalized images of one study: `pixels` float32 (N, C, H, W) by `contract`; `items[i]` describes row i.

    `model` names the catalog entry chosen by modality and body part ("" when none fits: `no_model_reason` says why).
    `kinds`: (modality, body part) of every kind of image in the study, the most frequent first; one of them was read.
    """

    study_key: str
    revision: int
    modality: str
    body_part: str
    model: str
    contract: InputContract | None
    pixels: np.ndarray
    items: tuple[TensorItem, ...]
    problems: tuple[Problem, ...] = ()
    no_model_reason: str = ""
    body_part_assumed: bool = False
    checks: tuple[QualityResult, ...] = ()
    kinds: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ModelRef:
    """Which weights answered. `role`: primary | ensemble | shadow."""

    name: str
    version: str
    weights_sha256: str
    role: str = "primary"


@dataclass(frozen=True, slots=True, eq=False)
class StudyPrediction:
    """What one model said about one study. K classes, N images; all probabilities in [0, 1].

    `image_probabilities` (N, K); `probabilities`, `uncertainty` (standard deviation, 0..0.5; None where
    nothing was sampled: nobody knows how sure the model is), `thresholds` (K,).
    `key_images[k]`: row indices of the images that show class k best, best first.
    `features` float32 (M, D, h, w) are the last feature maps of the rows in `feature_rows`, from the same forward pass;
    `head` (K, D) the linear head's weights: what a class activation map needs when the head is pooled and linear.
    `entropy` and `information` (K,), in nats: of the mean of samples, and what of it they disagree about (`models/uncertainty`).
    `disagreement` (K,): standard deviation between the `members` of an ensemble; None for a single model.
    `head` is empty (0, 0) for other heads. `novelty`: how far the study lies from the model's training, above 1: not like
    it; None where the model does not know.
    """

    study_key: str
    revision: int
    model: ModelRef
    labels: tuple[str, ...]
    multi_label: bool
    items: tuple[TensorItem, ...]
    image_probabilities: np.ndarray
    probabilities: np.ndarray
    uncertainty: np.ndarray | None
    thresholds: np.ndarray
    key_images: tuple[tuple[int, ...], ...]
    features: np.ndarray
    feature_rows: tuple[int, ...]
    head: np.ndarray
    demo: bool = False
    novelty: float | None = None
    checks: tuple[QualityResult, ...] = ()
    entropy: np.ndarray | None = None
    information: np.ndarray | None = None
    disagreement: np.ndarray | None = None
    members: tuple[ModelRef, ...] = ()


@dataclass(frozen=True, slots=True)
class Region:
    """A connected region of a heatmap. `box`: (x0, y0, x1, y1) in pixels of the original image, x1 and y1 exclusive."""

    box: tuple[int, int, int, int]
    score: float
    area_mm2: float | None = None


@dataclass(frozen=True, slots=True)
class ImagePlace:
    """Where an image stands, so that a reader finds it in a viewer: numbers are those of the file, None when it has none.

    `images` is how many its series has. `position_mm` lies along the slice's normal, in the sense of the patient `axis`
    (x, y or z, PS3.3 C.7.6.2.1.1) nearest to it. `edges`: what lies left, right, above and below ("R", "L", "A", "P"),
    () when unknown.
    """

    series_number: int | None = None
    instance_number: int | None = None
    images: int = 1
    frame: int = 1
    frames: int = 1
    axis: str = ""
    position_mm: float | None = None
    edges: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """One line: "series 3, image 12 of 24, z -34.5 mm"."""
        number = self.instance_number
        of = f" of {self.images}" if number is not None and self.images > 1 and 0 < number <= self.images else ""
        words = [
            f"series {self.series_number}" if self.series_number is not None else "",
            f"image {number}{of}" if number is not None else "",
            f"frame {self.frame} of {self.frames}" if self.frames > 1 else "",
            f"{self.axis} {self.position_mm:.1f} mm" if self.position_mm is not None else "",
        ]
        return ", ".join(word for word in words if word)


@dataclass(frozen=True, slots=True)
class Extent:
    """The slices through which a finding reaches: SOP Instance UIDs in order, what a viewer calls the lowest and highest
    of them, and how far it is in mm (None when not known).

    With them `box` (x0, y0, x1, y1), in pixels of the images, is the heat's box in three dimensions; `size_mm` its size
    across, down and through. It holds the heat, not the finding's outline.
    """

    images: tuple[str, ...]
    numbers: tuple[int, ...]
    span_mm: float | None = None
    box: tuple[int, int, int, int] | None = None
    size_mm: tuple[float, float, float] | None = None

    @property
    def text(self) -> str:
        """One line: "on 5 slices, images 8 to 12, 25 mm"."""
        far = f", {self.span_mm:.0f} mm" if self.span_mm else ""
        if self.size_mm:
            far += "; heat over {:.0f} x {:.0f} x {:.0f} mm".format(*self.size_mm)
        if len(self.images) == 1:
            return f"on this slice alone{far}"
        return f"on {len(self.images)} slices, images {self.numbers[0]} to {self.numbers[1]}{far}"


@dataclass(frozen=True, slots=True, eq=False)
class Heatmap:
    """One class activation map on one image: `values` float32 (h, w) in [0, 1] over the tensor's field of view.

    `reliable` is false when a quality check failed: it is then kept, but never drawn as evidence. Nor is one drawn whose
    finding is not `present`. `place` says which image it lies on. `layers` are the network's layers that it was read from,
    `extent` the slices of a volume that show the finding; `tensor_size` (H, W) is that of the field of view.
    """

    label: str
    method: str
    item: TensorItem
    values: np.ndarray
    regions: tuple[Region, ...]
    quality: Mapping[str, float]
    reliable: bool
    reason: str = ""
    present: bool = True
    place: ImagePlace | None = None
    layers: tuple[str, ...] = ()
    extent: Extent | None = None
    tensor_size: tuple[int, int] = (0, 0)

    @property
    def withheld(self) -> str:
        """Why its heat is not drawn over the image, "" when it is."""
        if not self.present:
            return "Below threshold: no heat drawn"
        return "" if self.reliable else "No reliable heatmap"


@dataclass(frozen=True, slots=True, eq=False)
class OverlayParts:
    """`image`: PNG of the displayed image, grey. `heat`: PNG with transparency that covers the same field, b"" when withheld.

    `legend`: PNG of its colours from cold to hot. `size`: rows and columns of the original image, which boxes count in.
    """

    image: bytes
    heat: bytes
    legend: bytes
    size: tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class StudyHeatmaps:
    """`overlays`: PNG bytes by file name, one for each heatmap that may be shown, in the order of `heatmaps`.

    `parts`: by the same names, what each is put together of, for a reader who moves the heat. `model`: whose answer they
    explain.
    """

    study_key: str
    revision: int
    heatmaps: tuple[Heatmap, ...]
    overlays: Mapping[str, bytes] = field(default_factory=dict)
    model: ModelRef | None = None
    parts: Mapping[str, OverlayParts] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class QualityResult:
    """One quality check. `blocking` ones stop the study when they fail."""

    name: str
    passed: bool
    blocking: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    label: str
    code: str  # "scheme:value", from triage/findings
    probability: float
    uncertainty: float | None  # None: not measured
    threshold: float
    present: bool
    images: tuple[str, ...] = ()  # new SOP Instance UIDs, best first
    regions: tuple[Region, ...] = ()


@dataclass(frozen=True, slots=True)
class Triage:
    priority: Priority
    reasons: tuple[str, ...]
    review_required: bool
    rules_version: str
    acr_category: int | None = None  # of actionable findings: 1 within minutes, 2 within hours, 3 within days


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """`content` is report.json (results/report_schema.json); `html` the same for a person; `overlays` file name -> PNG bytes."""

    study_key: str
    revision: int
    content: Mapping[str, Any]
    html: str
    overlays: Mapping[str, bytes]
