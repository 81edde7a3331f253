"""Samples of the head equal full passes with the same masks; networks that drop inside are passed in full; all is seeded."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medai_pipeline.models.aggregation import aggregate
from medai_pipeline.models.catalog import CatalogEntry, entry
from medai_pipeline.models.infer import predict, predict_study
from medai_pipeline.models.load import LoadedModel, load
from medai_pipeline.models.network import has_pooled_head, head_of
from medai_pipeline.models.uncertainty import (
    Spread,
    dropping,
    drops_inside,
    full_samples,
    head_samples,
    sampled,
    spread_of,
)
from medai_pipeline.records import InputContract, Placement, StudyTensors, TensorItem

SMALL = InputContract(64, 64)
SAMPLES = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 8), st.integers(1, 3), st.integers(2, 4)), elements=st.floats(0, 1)
)


def images(count: int, seed: int = 0, size: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 1, size, size), dtype=np.float32)


def model_of(architecture: str, **options) -> LoadedModel:
    torch.manual_seed(0)
    drop = options.get("drop_rate", 0.0)
    known = dataclasses.replace(
        entry("demo-chest-xray"), architecture=architecture, contract=SMALL, dropout=drop, temperature=1.0, demo=False
    )
    network = timm.create_model(architecture, in_chans=1, num_classes=len(known.classes), **options).eval()
    head = head_of(network)
    with torch.inference_mode():  # a random network's features may be tiny: its head makes answers that differ
        seen = network.forward_head(network.forward_features(torch.rand(4, 1, 64, 64)), pre_logits=True)
    torch.nn.init.normal_(head.weight, std=1 / float(seen.norm(dim=1).mean()))
    weight, bias = head.weight.detach().numpy(), head.bias.detach().numpy()
    inside, pooled = drops_inside(network, (1, 64, 64)), has_pooled_head(network, SMALL)
    return LoadedModel(known, lambda: network, "cpu", "0" * 64, weight, bias, pooled, inside)


@pytest.mark.parametrize(
    ("architecture", "options", "inside"),
    [
        ("resnet10t", {"drop_rate": 0.3}, False),
        ("efficientnet_b0", {"drop_rate": 0.3}, False),
        ("mobilenetv3_small_050", {"drop_rate": 0.3}, False),
        ("efficientnet_b0", {"drop_rate": 0.3, "drop_path_rate": 0.2}, True),
        ("densenet121", {"drop_rate": 0.0}, False),
        ("resnet10t", {"drop_block_rate": 0.1}, True),
    ],
)
def test_dropout_before_the_head_is_found_by_asking(architecture: str, options: dict, inside: bool) -> None:
    network = timm.create_model(architecture, in_chans=1, num_classes=3, **options).eval()
    random = torch.get_rng_state()
    assert drops_inside(network, (1, 64, 64)) is inside
    assert not any(module.training for module in network.modules())
    assert torch.equal(random, torch.get_rng_state())


@pytest.mark.parametrize("architecture", ["resnet10t", "efficientnet_b0"])
def test_sampling_the_head_equals_full_passes_with_the_same_masks(architecture: str) -> None:
    model = model_of(architecture, drop_rate=0.4)
    pixels, seen = images(1), []
    kept = head_of(model.network).register_forward_pre_hook(lambda head, given: seen.append(given[0].detach().clone()))
    full = full_samples(model, pixels, samples=20, seed=5)
    kept.remove()
    masks = torch.cat(seen).numpy() != 0
    pooled = predict(model, pixels).pooled
    assert 0.3 < 1 - masks[:, pooled[0] != 0].mean() < 0.5
    ours = head_samples(pooled, model.head_weight, model.head_bias, model.entry, masks=masks)
    np.testing.assert_allclose(ours, full, atol=1e-5)
    assert full.std(axis=0).max() > 1e-3


def test_a_network_that_drops_inside_is_passed_in_full_with_its_normalization_at_rest() -> None:
    model = model_of("efficientnet_b0", drop_rate=0.2, drop_path_rate=0.3)
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    pixels = images(3)
    first = sampled(model, pixels, predict(model, pixels).pooled, samples=6, seed=1)
    again = sampled(model, pixels[1:2], predict(model, pixels[1:2]).pooled, samples=6, seed=1)
    np.testing.assert_allclose(first[:, 1:2], again, atol=1e-6)  # company changes nothing
    assert not np.allclose(first, sampled(model, pixels, np.zeros((3, 1)), samples=6, seed=2))
    assert first.std(axis=0).max() > 1e-4
    assert all(torch.equal(before[name], value) for name, value in model.network.state_dict().items())
    assert not any(module.training for module in model.network.modules())


def test_dropping_leaves_a_network_as_it_was_even_after_an_error() -> None:
    network = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Dropout(0.5)).eval()
    with pytest.raises(ZeroDivisionError), dropping(network):
        assert network[1].training and not network[0].training
        raise ZeroDivisionError
    assert not network[1].training


def test_a_study_carries_entropy_and_information_by_its_seed_alone() -> None:
    model, pixels = load(entry("demo-chest-xray")), images(3, 7, 224)
    items = tuple(TensorItem(f"2.25.{i + 1}", 1, Placement(224, 224, 1, 1, 0, 0)) for i in range(3))
    study = StudyTensors("A", 1, "DX", "CHEST", model.entry.name, model.entry.contract, pixels, items)
    one, same, other = (predict_study(model, study, seed=seed) for seed in (0, 0, 1))
    for name in ("uncertainty", "entropy", "information"):
        assert getattr(one, name).shape == (len(model.entry.classes),)
        np.testing.assert_array_equal(getattr(one, name), getattr(same, name))
    assert not np.array_equal(one.information, other.information)
    assert (one.information <= one.entropy + 1e-6).all() and (one.entropy <= np.log(2) + 1e-6).all()


def test_more_dropout_means_more_spread_and_none_means_none() -> None:
    model = load(entry("demo-chest-xray"))
    pooled = predict(model, images(3, 8, 224)).pooled
    flat = dataclasses.replace(model.entry, temperature=200.0)  # far from saturation

    def spread(known: CatalogEntry, seed: int = 0) -> Spread:
        return spread_of(head_samples(pooled, model.head_weight, model.head_bias, known, seed=seed), True)

    assert spread(dataclasses.replace(flat, dropout=0.0)).deviation.max() == pytest.approx(0, abs=1e-6)
    assert spread(dataclasses.replace(flat, dropout=0.6)).deviation.mean() > spread(flat).deviation.mean()


@given(SAMPLES, st.booleans())
def test_information_never_exceeds_entropy_and_both_are_bounded(samples: np.ndarray, multi_label: bool) -> None:
    if not multi_label:
        samples = (samples + 1e-3) / (samples + 1e-3).sum(axis=-1, keepdims=True)
    spread = spread_of(samples, multi_label)
    most = np.log(2 if multi_label else samples.shape[-1])
    assert (spread.information <= spread.entropy + 1e-6).all() and (spread.information >= 0).all()
    assert (spread.entropy <= most + 1e-6).all() and (spread.deviation <= 0.5).all()
    same = spread_of(np.repeat(samples[:1], 5, axis=0), multi_label)
    np.testing.assert_allclose(same.information, 0, atol=1e-6)


def test_samples_that_flatly_contradict_each_other_are_all_information() -> None:
    spread = spread_of(np.array([[[1.0, 0.5]], [[0.0, 0.5]]]), multi_label=True)
    np.testing.assert_allclose(spread.information[0], [np.log(2), 0], atol=1e-6)
    np.testing.assert_allclose(spread.entropy[0], [np.log(2), np.log(2)], atol=1e-6)
    np.testing.assert_allclose(spread.deviation[0], [0.5, 0], atol=1e-6)


@pytest.mark.parametrize("rule", ["max", "noisy-or", "top3-mean"])
@pytest.mark.parametrize("options", [{}, {"drop_path_rate": 0.3}], ids=["head", "inside"])
def test_the_deviation_is_that_of_the_studys_probability(rule: str, options: dict) -> None:
    model = model_of("efficientnet_b0", drop_rate=0.5, **options)
    model = dataclasses.replace(model, entry=dataclasses.replace(model.entry, aggregation=rule))
    pixels = images(8)
    place = Placement(*pixels.shape[2:], 1.0, 1.0, 0.0, 0.0)
    items = tuple(TensorItem(f"2.25.{row + 1}", 1, place) for row in range(8))
    said = predict_study(model, StudyTensors("A", 1, "CT", "CHEST", "m", model.entry.contract, pixels, items), seed=3)
    p = said.probabilities.astype(float)
    assert (said.uncertainty <= np.sqrt(p * (1 - p)) + 0.05).all()  # at 0.99 no probability deviates by 0.36
    drawn = sampled(model, pixels, predict(model, pixels).pooled, seed=3)
    if options:  # those that do not decide are not passed again
        best = 1 if rule == "max" else 3
        rows = sorted({row for rows in said.key_images for row in rows[:best]})
        drawn[:, [row for row in range(8) if row not in rows]] = said.image_probabilities[
            [row for row in range(8) if row not in rows]
        ]
    studies = np.stack([aggregate(one, model.entry)[0] for one in drawn])
    np.testing.assert_allclose(said.uncertainty, studies.std(axis=0), atol=1e-5)
    assert said.uncertainty.max() > 1e-4
