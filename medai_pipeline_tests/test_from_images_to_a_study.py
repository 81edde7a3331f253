"""The probability of a study follows from those of its images by the rule on the model's card, whatever their order."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medai_pipeline.errors import CardRefused, ModelError
from medai_pipeline.models.aggregation import aggregate
from medai_pipeline.models.cards import from_card, to_card
from medai_pipeline.models.catalog import CatalogEntry, catalog, entry

RULES = ("max", "noisy-or", "top1-mean", "top3-mean", "top10-mean")
IMAGES = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 12), st.integers(1, 4)), elements=st.floats(0, 1, width=32, allow_nan=False)
)


def by(rule: str) -> CatalogEntry:
    return dataclasses.replace(entry("demo-chest-xray"), aggregation=rule)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("max", (0.9, 0.5)), ("top3-mean", (0.6, 0.4)), ("top2-mean", (0.75, 0.45)), ("noisy-or", (0.9832, 0.832))],
)
def test_each_rule_on_four_images(rule: str, expected: tuple[float, float]) -> None:
    probabilities = np.array([[0.9, 0.2], [0.3, 0.5], [0.6, 0.3], [0.4, 0.4]], np.float32)
    if rule == "top3-mean":
        probabilities[0, 0] = 0.8
    study, keys = aggregate(probabilities, by(rule))
    np.testing.assert_allclose(study, expected, atol=1e-5)
    assert keys == ((0, 2, 3), (1, 3, 2))


@given(IMAGES, st.sampled_from(RULES), st.randoms(use_true_random=False))
def test_the_order_of_images_does_not_matter_and_the_result_is_a_probability(images, rule, random) -> None:
    order = list(range(len(images)))
    random.shuffle(order)
    study, keys = aggregate(images, by(rule))
    assert ((study >= 0) & (study <= 1)).all()
    np.testing.assert_allclose(aggregate(images[order], by(rule))[0], study, atol=1e-6)
    for k, rows in enumerate(keys):
        assert images[rows[0], k] == images[:, k].max() and len(rows) == min(3, len(images))


@given(IMAGES, st.sampled_from(RULES), st.data())
def test_a_surer_image_never_makes_a_study_less_sure(images, rule, data) -> None:
    row = data.draw(st.integers(0, len(images) - 1))
    more = images.copy()
    more[row] = np.minimum(1, more[row] + np.float32(0.25))
    assert (aggregate(more, by(rule))[0] >= aggregate(images, by(rule))[0] - 1e-6).all()


@given(IMAGES)
def test_the_rules_lie_in_order_and_one_image_speaks_for_itself(images) -> None:
    study = {rule: aggregate(images, by(rule))[0] for rule in RULES}
    assert (study["noisy-or"] >= study["max"] - 1e-6).all()
    assert (study["max"] >= study["top3-mean"] - 1e-6).all()
    assert (study["top3-mean"] >= study["top10-mean"] - 1e-6).all()
    np.testing.assert_array_equal(study["max"], study["top1-mean"])
    for rule in RULES:
        np.testing.assert_allclose(aggregate(images[:1], by(rule))[0], images[0], atol=1e-6)


@pytest.mark.parametrize("rule", ["mean", "top0-mean", "top-mean", "", "MAX"])
def test_a_rule_that_is_not_known_is_refused_on_the_card(rule: str) -> None:
    with pytest.raises(CardRefused, match="aggregation must be max, noisy-or or topK-mean"):
        from_card(to_card(by(rule)))
    with pytest.raises(ModelError, match="choose max, noisy-or or topK-mean"):
        aggregate(np.zeros((1, 2)), by(rule))
    assert from_card(to_card(by("top5-mean"))) == by("top5-mean")


def test_every_card_says_the_rule() -> None:
    for known in catalog():
        if known.card:
            assert f"| {known.aggregation} over its images" in known.card.read_text()
