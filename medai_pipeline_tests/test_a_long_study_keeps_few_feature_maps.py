"""Of a long study only the feature maps of images that may be among the best of a class stay in memory, and they are the same."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np

from medai_pipeline.models.catalog import entry
from medai_pipeline.models.infer import predict, predict_studies
from medai_pipeline.models.load import LoadedModel
from medai_pipeline.models.network import build
from medai_pipeline.records import InputContract, Placement, StudyTensors, TensorItem

CONTRACT = InputContract(8, 8)
KNOWN = replace(entry("demo-chest-xray"), contract=CONTRACT, classes=("A", "B"), thresholds=(0.5, 0.5), dropout=0.0)
DEPTH, SIDE, BATCH = 64, 16, 8
MAP_BYTES = DEPTH * SIDE * SIDE * 4
HEAD = np.random.default_rng(0).normal(size=(2, DEPTH)).astype(np.float32)


def maps_of(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A network whose feature maps are as large as those of a real one, and follow from the images."""
    seen = np.cos(pixels[:, 0].reshape(len(pixels), -1) * np.arange(1, DEPTH + 1))
    features = np.ascontiguousarray(np.broadcast_to(seen[:, :, None, None], (*seen.shape, SIDE, SIDE)))
    return features.astype(np.float32), seen.astype(np.float32), (seen @ HEAD.T).astype(np.float32)


MODEL = LoadedModel(KNOWN, lambda: build(KNOWN), "cpu", "0" * 64, HEAD, np.zeros(2, np.float32), prepared=maps_of)


def study(key: str, images: int, seed: int) -> StudyTensors:
    pixels = np.random.default_rng(seed).random((images, 1, 8, 8), dtype=np.float32)
    pixels[images // 2] = pixels[0]  # two images alike: the earlier one counts
    items = tuple(TensorItem(f"2.25.{i + 1}", 1, Placement(8, 8, 1, 1, 0, 0)) for i in range(images))
    return StudyTensors(key, 1, "DX", "CHEST", KNOWN.name, CONTRACT, pixels, items)


def test_memory_follows_the_batch_and_the_key_images_not_the_length_of_a_study() -> None:
    long = study("A", 400, 1)
    tracemalloc.start()
    try:
        predict_studies(MODEL, [long], batch_size=BATCH)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 60 * MAP_BYTES, f"{peak / MAP_BYTES:.0f} feature maps for 400 images"


def test_what_is_kept_is_what_would_be_kept_of_all() -> None:
    studies = [study("A", 5, 1), study("B", 30, 2), study("C", 1, 3), study("D", 13, 4)]
    together = predict_studies(MODEL, studies, batch_size=BATCH)
    for tensors, said in zip(studies, together, strict=True):
        every = predict(MODEL, tensors.pixels, BATCH)
        order = np.argsort(-every.probabilities, axis=0, kind="stable")[:3]
        assert said.key_images == tuple(tuple(order[:, k].tolist()) for k in range(2))
        assert said.feature_rows == tuple(sorted({row for rows in said.key_images for row in rows}))
        np.testing.assert_array_equal(said.features, every.features[list(said.feature_rows)])
        np.testing.assert_allclose(said.image_probabilities, every.probabilities, atol=1e-6)
        np.testing.assert_allclose(said.probabilities, every.probabilities.max(axis=0), atol=1e-6)
