"""Weights that load or are refused, predictions that do not depend on company, uncertainty, and bad output."""

from __future__ import annotations

import dataclasses
import hashlib
import os

import numpy as np
import pytest
import torch
from safetensors.torch import load as read_tensors
from safetensors.torch import save as write_tensors

from medai_pipeline.errors import ModelError, WeightsRefused
from medai_pipeline.models import digests
from medai_pipeline.models.aggregation import aggregate
from medai_pipeline.models.catalog import CatalogEntry, catalog, entry
from medai_pipeline.models.infer import predict, predict_studies, predict_study, probabilities_of
from medai_pipeline.models.load import LoadedModel, load, weights_path
from medai_pipeline.models.network import build, forward
from medai_pipeline.records import Placement, StudyTensors, TensorItem

DEMO = [e.name for e in catalog() if e.demo]
XRAY = "demo-chest-xray"


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load(entry(XRAY))


def _images(count: int, seed: int = 0, size: int = 224) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 1, size, size), dtype=np.float32)


def _tensors(key: str, pixels: np.ndarray) -> StudyTensors:
    place = Placement(*pixels.shape[2:], 1.0, 1.0, 0.0, 0.0)
    items = tuple(TensorItem(f"2.25.{i + 1}", 1, place) for i in range(len(pixels)))
    return StudyTensors(key, 1, "DX", "CHEST", XRAY, entry(XRAY).contract, pixels, items)


@pytest.mark.parametrize("name", DEMO)
def test_each_demo_model_loads_and_its_digest_is_the_catalogs(name: str) -> None:
    known = entry(name)
    path = weights_path(known, None)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == known.weights_sha256 == load(known).weights_sha256
    assert path.stat().st_size <= 12_000_000
    card = known.card.read_text()
    assert "no clinical value" in card and known.weights_sha256 in card


def test_a_model_is_loaded_once_per_process(model: LoadedModel) -> None:
    assert load(entry(XRAY)) is model


def _altered(tmp_path, change) -> CatalogEntry:
    """A site's model with the demo weights after `change`."""
    state = read_tensors(weights_path(entry(XRAY), None).read_bytes())
    change(state)
    site = dataclasses.replace(entry(XRAY), name="site", demo=False, weights_sha256=None)
    (tmp_path / site.weights_file).write_bytes(write_tensors(state))
    return site


def _spoil(state) -> None:
    state["conv1.0.weight"].view(-1)[3] = float("nan")


def _reshape(state) -> None:
    state["fc.bias"] = state["fc.bias"][:-1].contiguous()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_spoil, "not finite: conv1.0.weight"),
        (lambda state: state.pop("fc.bias"), "missing: fc.bias"),
        (lambda state: state.update(extra=torch.zeros(1)), "unknown: extra"),
        (_reshape, "another shape: fc.bias"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(tmp_path, change, said: str) -> None:
    with pytest.raises(WeightsRefused, match=said):
        load(_altered(tmp_path, change), tmp_path)


def test_weights_in_use_are_hashed_once_until_the_file_changes(tmp_path, monkeypatch) -> None:
    path, hashed = tmp_path / "weights", []
    compute = digests.file_digest
    monkeypatch.setattr(digests, "file_digest", lambda file: hashed.append(file) or compute(file))
    path.write_bytes(b"one")
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    assert {digests.known_digest(path) for _ in range(3)} == {hashlib.sha256(b"one").hexdigest()}
    assert len(hashed) == 1
    path.write_bytes(b"two")
    os.utime(path, ns=times)  # who restores the time of a file does not hide that it is another
    assert digests.known_digest(path) == hashlib.sha256(b"two").hexdigest()


def test_weights_of_another_digest_or_format_are_refused(tmp_path) -> None:
    site = _altered(tmp_path, lambda state: None)
    with pytest.raises(WeightsRefused, match="digest"):
        load(dataclasses.replace(site, weights_sha256="0" * 64), tmp_path)
    (tmp_path / site.weights_file).write_bytes(b"not a safetensors file")
    with pytest.raises(WeightsRefused, match="not a safetensors"):
        load(site, tmp_path)


@pytest.mark.parametrize("architecture", [e.name for e in catalog()])
def test_one_pass_gives_the_networks_own_logits_and_maps_whose_mean_is_the_logit(architecture: str) -> None:
    known = entry(architecture)
    network = build(known)
    pixels = torch.rand(1, known.contract.channels, 96, 96)
    with torch.inference_mode():
        features, pooled, logits = forward(network, pixels)
        assert torch.allclose(logits, network(pixels), atol=1e-5)
        head = network.get_classifier()
        maps = torch.einsum("ndhw,kd->nkhw", features, head.weight)
        assert torch.allclose(maps.mean((2, 3)) + head.bias, logits, atol=1e-4)
    assert pooled.shape[1] == head.in_features


def test_batches_and_company_do_not_change_a_result(model: LoadedModel) -> None:
    studies = [_tensors("A", _images(3, 1)), _tensors("B", _images(2, 2)), _tensors("C", _images(4, 3))]
    alone = [predict_study(model, study, batch_size=1) for study in studies]
    together = predict_studies(model, studies, batch_size=4)
    for one, other in zip(alone, together, strict=True):
        assert one.study_key == other.study_key
        assert one.key_images == other.key_images and one.feature_rows == other.feature_rows
        for name in ("image_probabilities", "probabilities", "uncertainty", "features"):
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=2e-5)


def test_a_study_prediction_keeps_the_features_of_its_key_images_alone(model: LoadedModel) -> None:
    pixels = _images(6, 4)
    result = predict_study(model, _tensors("A", pixels))
    all_images = predict(model, pixels)
    assert set(result.feature_rows) == {row for rows in result.key_images for row in rows}
    assert all(1 <= len(rows) <= 3 for rows in result.key_images)
    np.testing.assert_allclose(result.features, all_images.features[list(result.feature_rows)], atol=2e-5)
    np.testing.assert_allclose(result.probabilities, all_images.probabilities.max(axis=0), atol=1e-5)
    deciding = result.features[result.feature_rows.index(result.key_images[0][0])]
    logit = np.einsum("d,dhw->hw", result.head[0], deciding).mean() + model.head_bias[0]
    assert probabilities_of(np.array([logit] * 5), model.entry)[0] == pytest.approx(result.probabilities[0], abs=1e-4)


def test_a_result_that_is_not_a_number_names_the_model(model: LoadedModel) -> None:
    pixels = _images(2)
    pixels[1, 0, 5, 5] = np.nan
    with pytest.raises(ModelError, match=XRAY):
        predict(model, pixels)


def test_images_of_another_shape_and_no_images_are_refused(model: LoadedModel) -> None:
    with pytest.raises(ModelError, match="shape"):
        predict(model, _images(1, size=64))
    with pytest.raises(ModelError, match="no image"):
        predict(model, _images(0))


def test_a_full_device_halves_the_batch(model: LoadedModel) -> None:
    class Crowded(torch.nn.Module):
        """The network on a device with room for two images."""

        def __init__(self) -> None:
            super().__init__()
            self.sizes: list[int] = []

        def forward_features(self, pixels: torch.Tensor) -> torch.Tensor:
            self.sizes.append(len(pixels))
            if len(pixels) > 2:
                raise torch.OutOfMemoryError("no room")
            return model.network.forward_features(pixels)

        def get_classifier(self) -> torch.nn.Module:
            return model.network.get_classifier()

    crowded = Crowded()
    pixels = _images(5, 6)
    result = predict(dataclasses.replace(model, source=lambda: crowded), pixels, batch_size=8)
    assert crowded.sizes == [5, 2, 2, 1]
    np.testing.assert_allclose(result.probabilities, predict(model, pixels).probabilities, atol=2e-5)


def test_exclusive_classes_sum_to_one_for_images_and_studies() -> None:
    ct = entry("chest-ct-efficientnet-b0")
    images = probabilities_of(np.random.default_rng(0).normal(size=(5, 3)) * 4, ct)
    study, _ = aggregate(images, ct)
    np.testing.assert_allclose(images.sum(axis=1), 1, atol=1e-6)
    assert study.sum() == pytest.approx(1, abs=1e-6)
