"""A made-up study with a prediction, for tests of explanation, triage and report. No test of its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from medai_pipeline.records import (
    InputContract,
    Instance,
    ModelRef,
    Placement,
    StudyPrediction,
    StudyTensors,
    TensorItem,
)

LABELS = ("Pneumothorax", "Effusion", "Consolidation", "Nodule", "Cardiomegaly")
SIZE = 128
GRID = 8
SOURCE = (320, 256)  # rows, columns


def placement() -> Placement:
    """The source centred in the tensor with its aspect ratio kept."""
    scale = SIZE / SOURCE[0]
    return Placement(SOURCE[0], SOURCE[1], scale, scale, (SIZE - SOURCE[1] * scale) / 2, 0.0)


def body() -> np.ndarray:
    """A bright ellipse with two dark lungs on dark air: float32 (SIZE, SIZE) in [0, 1]."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    image = np.where(((x - 0.5) / 0.36) ** 2 + ((y - 0.5) / 0.46) ** 2 < 1, 0.8, 0.0)
    for centre in (0.36, 0.64):
        image[((x - centre) / 0.1) ** 2 + ((y - 0.45) / 0.25) ** 2 < 1] = 0.25
    return image.astype(np.float32)


def uid(number: int) -> str:
    return f"2.25.{1000 + number}"


def instance(number: int, **changes: Any) -> Instance:
    values: dict[str, Any] = {
        "sop_instance_uid": uid(number),
        "series_instance_uid": "2.25.10",
        "study_instance_uid": "2.25.1",
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1.1",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "modality": "DX",
        "source_sha256": f"{number:064x}",
        "body_part": "CHEST",
        "rows": SOURCE[0],
        "columns": SOURCE[1],
        "frames": 1,
        "spacing_mm": (0.8, 0.8),
        "patient_identity_removed": "YES",
    }
    return Instance(**{**values, **changes})


def tensors(images: int = 2, **changes: Any) -> StudyTensors:
    views = ("PA", "LL")
    values: dict[str, Any] = {
        "study_key": "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        "revision": 1,
        "modality": "DX",
        "body_part": "CHEST",
        "model": "demo-chest",
        "contract": InputContract(SIZE, SIZE),
        "pixels": np.repeat(body()[None, None], images, axis=0),
        "items": tuple(
            TensorItem(uid(number), 1, placement(), (0.8, 0.8), views[number % 2]) for number in range(images)
        ),
    }
    return StudyTensors(**{**values, **changes})


def prediction(probabilities: tuple[float, ...] = (0.93, 0.62, 0.05, 0.2, 0.11), **changes: Any) -> StudyPrediction:
    """Two images; the features of class k are one hot spot of its own, so that each map is known beforehand."""
    study = tensors()
    features = np.zeros((2, len(LABELS), GRID, GRID), dtype=np.float32)
    for index, (row, column) in enumerate([(2, 5), (6, 2), (4, 5), (3, 2), (5, 4)]):
        features[:, index, row, column] = 2.0
    values: dict[str, Any] = {
        "study_key": study.study_key,
        "revision": 1,
        "model": ModelRef("demo-chest", "1", "a" * 64),
        "labels": LABELS,
        "multi_label": True,
        "items": study.items,
        "image_probabilities": np.tile(np.array(probabilities, dtype=np.float32), (2, 1)),
        "probabilities": np.array(probabilities, dtype=np.float32),
        "uncertainty": np.array([0.03, 0.06, 0.01, 0.04, 0.02], dtype=np.float32)[: len(probabilities)],
        "thresholds": np.array([0.5, 0.4, 0.5, 0.45, 0.5], dtype=np.float32)[: len(probabilities)],
        "key_images": tuple((0, 1) for _ in probabilities),
        "features": features,
        "feature_rows": (0, 1),
        "head": np.eye(len(LABELS), dtype=np.float32),
        "demo": True,
    }
    return StudyPrediction(**{**values, **changes})
