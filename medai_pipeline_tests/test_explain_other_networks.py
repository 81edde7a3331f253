"""Networks whose head is not the mean of their last maps are recognised by asking them, and explained by gradients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medai_pipeline.explain.network import Network
from medai_pipeline.explain.study import explain
from medai_pipeline.models.catalog import CatalogEntry, entry
from medai_pipeline.models.infer import predict, predict_study
from medai_pipeline.models.load import LoadedModel
from medai_pipeline.records import InputContract, Placement, StudyTensors, TensorItem


def architecture(name: str, **options) -> CatalogEntry:
    film = entry("demo-chest-xray")
    return replace(film, architecture=name, options=options, contract=InputContract(64, 64), name=name)


def loaded(known: CatalogEntry) -> LoadedModel:
    import torch

    from medai_pipeline.models.network import build, has_pooled_head, head_of

    torch.manual_seed(1)
    network = build(known)
    torch.nn.init.normal_(head_of(network).weight)
    weight, bias = (p.detach().numpy() for p in head_of(network).parameters())
    return LoadedModel(known, lambda: network, "cpu", "0" * 64, weight, bias, has_pooled_head(network, known.contract))


def study() -> StudyTensors:
    pixels = np.random.default_rng(4).random((2, 1, 64, 64), dtype=np.float32)
    items = tuple(TensorItem(f"2.25.{n}", 1, Placement(64, 64, 1, 1, 0, 0)) for n in range(2))
    return StudyTensors("K", 1, "DX", "CHEST", "m", InputContract(64, 64), pixels, items)


@pytest.mark.parametrize(
    ("name", "options", "pooled"),
    [
        ("resnet10t", {"channels": [8, 16, 16, 24], "stem_width": 8}, True),
        ("convnext_atto", {}, False),  # normalizes after pooling: the mean of its maps is not what the head sees
        ("mobilenetv3_small_050", {}, False),  # convolves after pooling
        ("vit_tiny_patch16_224", {"img_size": 64, "depth": 2}, False),
    ],
)
def test_the_head_is_recognised_and_the_answers_are_the_networks_own(name, options, pooled):
    import torch

    model, pixels = loaded(architecture(name, **options)), study().pixels
    assert model.pooled is pooled
    with torch.inference_mode():
        own = model.network(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(predict(model, pixels).logits, own, atol=1e-4)


@pytest.mark.parametrize(("name", "layer"), [("convnext_atto", "norm_pre"), ("vit_tiny_patch16_224", "blocks.1.norm1")])
@pytest.mark.parametrize("method", ["gradcam", "scorecam"])
def test_their_maps_come_from_gradients_at_a_layer_that_is_named(name, layer, method):
    options = {"img_size": 64, "depth": 2} if name.startswith("vit") else {}
    model = loaded(architecture(name, **options))
    prediction = predict_study(model, study())
    assert prediction.head.size == 0
    assert explain(prediction, study()).heatmaps == ()

    def answer(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        said = predict(model, images)
        return said.probabilities, said.logits, said.features

    found = explain(prediction, study(), method=method, network=Network(model.network, answer)).heatmaps
    assert found
    assert {heatmap.layers for heatmap in found} == {(layer,)}
    assert all(np.isfinite(heatmap.values).all() for heatmap in found)


def test_layers_by_name_are_fused_and_told():
    model = loaded(architecture("resnet10t", channels=[8, 16, 16, 24], stem_width=8))
    prediction = predict_study(model, study())

    def answer(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        said = predict(model, images)
        return said.probabilities, said.logits, said.features

    network = Network(model.network, answer, layers=("layer2", "layer4"))
    found = explain(prediction, study(), network=network).heatmaps
    assert found[0].layers == ("layer2", "layer4")
    assert found[0].values.shape == (8, 8)
