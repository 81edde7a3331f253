"""Small studies with a made-up prediction, taken through the real stages up to what results are made of. No test of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
from pydicom.dataset import Dataset

from medai_pipeline import stages
from medai_pipeline.dicom.deidentify import Deidentifier
from medai_pipeline.dicom.pixels import prepare
from medai_pipeline.dicom.read import identity_of
from medai_pipeline.phantoms.studies import to_bytes
from medai_pipeline.records import (
    DeidentifiedStudy,
    Identity,
    InputContract,
    ModelRef,
    Report,
    StudyHeatmaps,
    StudyPrediction,
    StudyTensors,
)
from medai_pipeline.results.evidence import Evidence, Reference

LABELS = ("Pneumothorax", "Effusion", "Pleural_Thickening")
AT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
_GRID, _SIZE = 8, 64
_SCALING = {"CT": "ct-lung", "MR": "mr"}


class Sample:
    """One study up to its report. `hot`: the grid cell (row, column) at which each label's heat lies."""

    def __init__(
        self,
        datasets: Sequence[Dataset],
        probabilities: Sequence[float] = (0.93, 0.62, 0.05),
        hot: Sequence[tuple[int, int]] = ((2, 5), (5, 2), (4, 4)),
        revision: int = 1,
        version: str = "1",
    ) -> None:
        self.files: dict[str, bytes] = {}
        self.study, self.identity = self._deidentified(datasets, revision)
        modality = self.study.instances[0].modality
        contract = InputContract(_SIZE, _SIZE, scaling=_SCALING.get(modality, "xray"))
        prepared = [pair for i in self.study.instances for pair in prepare(self.files[i.object_key], i, contract)]
        self.tensors = StudyTensors(
            "SAMPLESTUDYKEYSAMPLESTUDYK", revision, modality, "CHEST", "sample", contract,
            np.stack([tensor for tensor, _ in prepared]), tuple(item for _, item in prepared),
        )  # fmt: skip
        self.prediction = self._predicted(probabilities, hot, version)
        self.heatmaps: StudyHeatmaps = stages.explain_study(
            self.prediction, self.tensors, self.study, self, stages.Drawing()
        )
        self.report: Report = stages.report_study(
            self.study, self.tensors, self.prediction, self.heatmaps, stages.Run("", AT)
        )

    def get(self, name: str) -> bytes:
        return self.files[name]

    def put(self, name: str, data: bytes) -> None:
        self.files[name] = data

    def evidence(self, identity: Identity | None = None, previous: Sequence[Reference] = ()) -> Evidence:
        """About the original patient; with `identity` about that one."""
        return stages.evidence_of(
            self.report, self.study, self.tensors, self.prediction, self.heatmaps, self,
            identity or self.identity, AT, previous,
        )  # fmt: skip

    def _deidentified(self, datasets: Sequence[Dataset], revision: int) -> tuple[DeidentifiedStudy, Identity]:
        deidentifier = Deidentifier(b"a key of the tests, 32 bytes long")
        instances, uids = [], {}
        for dataset in datasets:
            made = deidentifier.deidentify(to_bytes(dataset))
            name = f"anonymized/{made.instance.sop_instance_uid}"
            self.put(name, made.data)
            uids |= made.uids
            digest = hashlib.sha256(made.data).hexdigest()
            instances.append(replace(made.instance, object_key=name, sha256=digest))
        study = DeidentifiedStudy("SAMPLESTUDYKEYSAMPLESTUDYK", revision, "d" * 64, "profile", tuple(instances))
        return study, replace(identity_of(datasets[0]), uids=uids)

    def _predicted(
        self, probabilities: Sequence[float], hot: Sequence[tuple[int, int]], version: str
    ) -> StudyPrediction:
        images, count = len(self.tensors.items), len(LABELS)
        features = np.zeros((images, count, _GRID, _GRID), dtype=np.float32)
        for index, (row, column) in enumerate(hot):
            features[:, index, row, column] = 2.0
        values = np.array(probabilities, dtype=np.float32)
        middle = images // 2
        order = tuple(sorted(range(images), key=lambda row: abs(row - middle)))
        return StudyPrediction(
            study_key=self.tensors.study_key,
            revision=self.tensors.revision,
            model=ModelRef("sample", version, "ab" * 32),
            labels=LABELS,
            multi_label=True,
            items=self.tensors.items,
            image_probabilities=np.tile(values, (images, 1)),
            probabilities=values,
            uncertainty=np.full(count, 0.03, dtype=np.float32),
            thresholds=np.full(count, 0.5, dtype=np.float32),
            key_images=tuple(order for _ in LABELS),
            features=features,
            feature_rows=tuple(range(images)),
            head=np.eye(count, dtype=np.float32),
        )
