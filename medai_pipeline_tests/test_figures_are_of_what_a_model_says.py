"""Held-out figures are of the probabilities that a model gives, not of what lies before them, and of what is known alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medai_pipeline.models import familiarity, metrics
from medai_pipeline.models.card import write_card
from medai_pipeline.models.cards import from_card
from medai_pipeline.models.catalog import CatalogEntry, entry
from medai_pipeline.models.evaluate import Answers, measure, report
from medai_pipeline.models.infer import probabilities_of
from medai_pipeline.models.samples import sample
from medai_pipeline_tests.model_versions import CARD, small_network

SOFTMAX = replace(entry("demo-brain-mr"), multi_label=False, temperature=1.0)
SIGMOID = replace(SOFTMAX, multi_label=True)
BOX = (0.0, 0.0, 16.0, 16.0)
TRAINING = {"seed": 0, "epochs": 1, "data": "", "training_images": 1, "training_studies": 1, "held_out_studies": 1}


def said(logits: np.ndarray, targets: np.ndarray, boxes: tuple[Any, ...] = (), **given: Any) -> Answers:
    """Answers of one image a study; every map has its maximum at (8, 8)."""
    count, classes = logits.shape
    answers = Answers(
        logits=logits.astype(np.float32), peaks=np.full((count, classes, 2), 8.0), cell=1.0,
        targets=targets.astype(np.float32), weights=np.ones((count, classes)), studies=np.arange(count),
        boxes=boxes or ((),) * count, pooled=np.zeros((count, 2)),
    )  # fmt: skip
    return replace(answers, **given)


def drawn(count: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """Logits of three exclusive classes that know something, and the truth."""
    rng = np.random.default_rng(4)
    truth = np.eye(3)[rng.integers(0, 3, count)]
    return 2 * truth + rng.normal(size=(count, 3)), truth


def test_the_auc_of_a_softmax_does_not_see_what_softmax_does_not_see() -> None:
    logits, truth = drawn()
    offset = np.random.default_rng(5).normal(0, 6, (len(logits), 1))  # the same for all classes of an image
    plain, moved = (measure(SOFTMAX, said(values, truth))["classes"] for values in (logits, logits + offset))
    probabilities = probabilities_of(logits, SOFTMAX)
    for k, label in enumerate(SOFTMAX.classes):
        assert moved[label]["auc_images"] == pytest.approx(metrics.auc(probabilities[:, k], truth[:, k]), abs=1e-3)
        assert moved[label]["auc_images"] == plain[label]["auc_images"] > 0.85
        assert metrics.auc((logits + offset)[:, k], truth[:, k]) < 0.7  # what the logits would have said


def test_the_auc_of_a_sigmoid_is_that_of_its_logits() -> None:
    logits, truth = drawn()
    for k, figures in enumerate(measure(SIGMOID, said(logits, truth))["classes"].values()):
        assert figures["auc_images"] == pytest.approx(metrics.auc(logits[:, k], truth[:, k]), abs=1e-4)


def test_the_error_over_all_of_a_softmax_is_of_the_class_that_it_names() -> None:
    """Always 80 % sure of the first class, and right in half of the images: 0.3 away. Over all classes flattened it is 0.2."""
    logits = np.log(np.tile([0.8, 0.1, 0.1], (40, 1)))
    truth = np.eye(3)[[0, 0, 1, 2] * 10]
    figures = measure(SOFTMAX, said(logits, truth))
    assert figures["calibration_error"] == pytest.approx(0.3, abs=1e-4)
    assert metrics.calibration_error(probabilities_of(logits, SOFTMAX), truth) == pytest.approx(0.2, abs=1e-4)
    (row,) = figures["reliability"]
    assert (row["confidence"], row["frequency"], row["many"]) == (0.8, 0.5, 40)
    facts = {"held_out": figures, "training": TRAINING, "temperature": 1.0, "weights_sha256": "0"}
    assert "of the most probable class (top label) 0.3" in write_card(replace(SOFTMAX, demo=False), facts, 1)
    each = measure(SIGMOID, said(np.zeros((40, 3)), truth))
    assert each["calibration_error"] == pytest.approx(np.average([0.5 - truth.mean()]), abs=1e-4)
    assert each["reliability"][0]["many"] == 3 * 40


def test_a_class_without_an_image_to_measure_has_no_error_rather_than_none_at_all() -> None:
    logits, truth = drawn(60)
    weights = np.ones_like(truth)
    weights[:, 1] = 0
    figures = measure(SIGMOID, said(logits, truth, weights=weights))["classes"]
    assert figures[SIGMOID.classes[1]]["calibration_error"] is None
    assert figures[SIGMOID.classes[0]]["calibration_error"] is not None


@pytest.mark.parametrize(
    ("boxes", "pointing"),
    [
        (((), (), ()), None),  # nobody drew any
        ((((0, BOX),), (), ()), 1.0),  # on one of three images: the others say nothing
        ((((0, BOX),), ((0, (40.0, 40.0, 60.0, 60.0)),), ()), 0.5),
        ((((1, BOX),), (), ()), None),  # a box of another class
    ],
)
def test_pointing_is_judged_where_there_is_a_box_for_the_class(boxes: tuple[Any, ...], pointing: float | None) -> None:
    truth = np.tile([1.0, 0, 0], (3, 1))
    figures = measure(SIGMOID, said(np.tile([9.0, -9, -9], (3, 1)), truth, boxes))
    assert figures["classes"][SIGMOID.classes[0]]["pointing"] == pointing
    facts = {"held_out": figures, "training": TRAINING, "temperature": 1.0, "weights_sha256": "0"}
    shown = "none" if pointing is None else f"{pointing:.3f}"
    row = next(line for line in write_card(SIGMOID, facts, 1).splitlines() if line.startswith("| Tumour |"))
    assert row.split(" | ")[5] == shown


def images(known: CatalogEntry, seed: int, count: int) -> list[Any]:
    rng, contract = np.random.default_rng(seed), known.contract
    shape = (contract.channels, contract.height, contract.width)
    return [sample(n, rng.random(shape), len(known.classes), [0, 1][: n % 3], (), 16) for n in range(count)]


def test_what_tells_an_unlike_study_owes_nothing_to_the_test_split(tmp_path: Path) -> None:
    known = from_card(CARD)
    validation = images(known, 0, 12)
    digests, figures = set(), []
    for number, test in enumerate((images(known, 1, 9), [*images(known, 2, 8), *images(known, 3, 4)])):
        facts = report(known, small_network(), validation, test, tmp_path / str(number), TRAINING)
        digests.add(facts["features_sha256"])
        figures.append(facts["held_out"])
    assert len(digests) == 1 and figures[0] != figures[1]
    file = tmp_path / "0" / familiarity.features_file(known)
    assert familiarity.digest_of(file.read_bytes()) in digests
