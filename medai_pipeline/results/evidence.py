"""What results are made of, and whom they are about: records between the stages and the DICOM objects. No DICOM is made here."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from medai_pipeline.records import Heatmap, Identity, Instance

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


class Kind(StrEnum):
    """What a result is; each kind is a series of its own."""

    REPORT = "report"  # Comprehensive 3D SR or Comprehensive SR, TID 1500
    SEGMENTATION = "segmentation"
    CAPTURE = "capture"  # Secondary Capture of the overlay
    PARAMETRIC_MAP = "parametric-map"
    KEY_OBJECTS = "key-objects"
    SUPERSEDED = "superseded"  # Key Object Selection that takes an earlier revision's results back


class Concept(NamedTuple):
    """A coded concept as DICOM writes it: Coding Scheme Designator, Code Value, Code Meaning."""

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """A heatmap as it lies on its image.

    `heat`: float32 (rows, columns) in [0, 1] over the whole image, at its own size or smaller with its aspect ratio.
    `region`: bool (rows, columns) of the image, true inside the hot places whose boxes are `heatmap.regions`.
    `overlay`: the picture as PNG bytes, with "Research use only" in it.
    """

    heatmap: Heatmap
    heat: np.ndarray
    region: np.ndarray
    overlay: bytes

    @property
    def is_evidence(self) -> bool:
        """Only a reliable map of a present finding says anything about a place."""
        return not self.heatmap.withheld


@dataclass(frozen=True, slots=True)
class Reference:
    """One DICOM object by its UIDs, those under which the PACS knows it."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str


@dataclass(frozen=True, slots=True, repr=False)
class Origin:
    """Whom the results are about, and the UIDs under which the PACS knows the study. Its repr shows nothing.

    `identity.uids` maps original to new UIDs, as the vault keeps them; with none of them (the de-identified study itself
    gets the results) every UID stays as it is.
    """

    identity: Identity

    def __repr__(self) -> str:
        return "Origin(<hidden>)"

    def uids(self) -> dict[str, str]:
        """New UID -> original UID."""
        return {new: original for original, new in self.identity.uids.items()}


@dataclass(frozen=True, slots=True)
class Review:
    """What a person decided about the report: `decision` accepted, edited or rejected. The name is the reviewer's own."""

    decision: str
    reviewer: str
    at: datetime


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the results of one study revision say.

    `content` is that of report.json; `instances` all de-identified ones; `headers` (new SOP Instance UID -> data set
    without pixels) those of the images in `drawn`; `concepts` label -> its codes, the one for DICOM first.
    `previous`: results of an earlier revision or model that these take the place of.
    `edition` counts how often other results of this study were returned; `review` what a person said of these, and
    `changed` the labels about whose presence the person says something else than the model.
    """

    content: Mapping[str, Any]
    drawn: Sequence[Drawn]
    instances: Sequence[Instance]
    headers: Mapping[str, Dataset]
    concepts: Mapping[str, Sequence[Concept]]
    origin: Origin
    at: datetime
    previous: Sequence[Reference] = field(default=(), repr=False)
    edition: int = 1
    review: Review | None = None
    changed: frozenset[str] = frozenset()

    @cached_property
    def instance(self) -> dict[str, Instance]:
        """By new SOP Instance UID."""
        return {instance.sop_instance_uid: instance for instance in self.instances}

    @cached_property
    def _original(self) -> dict[str, str]:
        return self.origin.uids()

    def original(self, uid: str) -> str:
        """The UID under which the PACS knows what is `uid` here."""
        return self._original.get(uid, uid)

    @cached_property
    def model(self) -> Mapping[str, str]:
        """What answered: name, version, weights_sha256; each "" where no model covers the study."""
        return next(iter(self.content["models"]), {"name": "", "version": "", "weights_sha256": ""})

    @cached_property
    def present(self) -> list[Mapping[str, Any]]:
        return [row for row in self.content["findings"] if row["present"]]

    def concept(self, label: str) -> Concept:
        """The finding's code; without one a local code (PS3.16 8.2: a designator that begins with 99), marked as such."""
        word = short("-".join(label.casefold().split()), 16)
        return next(iter(self.concepts.get(label, ())), Concept("99MEDAI", word, label))

    def uid(self, *parts: object) -> str:
        """A UID for a part of this study's results: the same at every run of this revision by this model version, and
        another in each edition, which says something else.

        The study's own UID is in it, so that what is made for the PACS and what is made for the de-identified study
        share no UID by which one could be found from the other. 2.25 and a UUID (PS3.5 B.2).
        """
        study = (self.origin.identity.study_instance_uid, self.content["study_key"], self.content["revision"])
        edition = (f"edition {self.edition}",) if self.edition > 1 else ()
        return uid_of(*study, self.model["name"], self.model["version"], *edition, *parts)


def uid_of(*parts: object) -> str:
    """The same UID for the same parts."""
    digest = hashlib.sha256("\n".join(map(str, parts)).encode("utf-8", "replace")).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


def short(text: str, most: int = 64) -> str:
    """As LO and SH take it (PS3.5 6.2): one value of at most so many characters; bytes, as some readers count these."""
    return text.replace("\\", "/").encode("utf-8", "replace")[:most].decode("utf-8", "ignore")
