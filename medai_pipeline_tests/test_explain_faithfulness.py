"""A map counts as evidence only if the network's answer depends on the places that it shows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medai_pipeline.explain import faithfulness
from medai_pipeline.explain.network import Network
from medai_pipeline.explain.randomization import MOST_AGREEMENT, randomized_agreement
from medai_pipeline.explain.study import explain
from medai_pipeline_tests.report_samples import GRID, LABELS, SIZE, prediction, tensors

CELL = SIZE // GRID
HOT = (2, 5)  # the cell that speaks for a pneumothorax in the sample


class Watching:
    """Stands at the wire of a network: says "pneumothorax" as far as one cell of the image is as sharp as it was."""

    def __init__(self, cell: tuple[int, int], mirrored: tuple[int, int] | None = None) -> None:
        self.cell, self.mirrored, self.asked = cell, mirrored or (cell[0], GRID - 1 - cell[1]), 0

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self.asked += len(images)
        y, x = self.cell[0] * CELL, self.cell[1] * CELL
        texture = images[:, 0, y : y + CELL, x : x + CELL].std(axis=(1, 2))
        said = np.zeros((len(images), len(LABELS)), np.float32)
        said[:, 0] = np.clip(texture / 0.25, 0, 0.93)
        features = np.zeros((len(images), len(LABELS), GRID, GRID), np.float32)
        features[:, :, self.mirrored[0], self.mirrored[1]] = 1
        return said, said, features


def study():
    image = tensors().pixels.copy()
    image[:] += 0.5 * (np.random.default_rng(1).random(image.shape) > 0.5)
    return replace(tensors(), pixels=image.astype(np.float32))


def only_pneumothorax():
    said = np.array([0.93, 0, 0, 0, 0], np.float32)
    return prediction((0.93, 0, 0, 0, 0), image_probabilities=np.stack([said, said]))


def explained(answer: Watching):
    (found,) = explain(only_pneumothorax(), study(), network=Network(_network(), answer)).heatmaps
    return found


def _network():
    import torch

    return torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())


def test_a_map_of_what_the_answer_depends_on_is_reliable():
    answer = Watching(HOT)
    found = explained(answer)
    assert found.quality["gain"] > 0.5
    assert found.quality["mirrored"] > 0.9
    assert found.reliable, found.reason
    assert found.regions
    assert answer.asked <= 9


def test_a_map_of_another_place_is_kept_but_neither_drawn_nor_boxed():
    found = explained(Watching((6, 1), mirrored=(2, 2)))
    assert found.quality["gain"] < 0.2
    assert not found.reliable
    assert "they are not why" in found.reason
    assert found.withheld
    assert found.regions == ()
    assert found.values.max() > 0.9


def test_a_map_that_moves_when_the_image_is_mirrored_is_refused():
    found = explained(Watching(HOT, mirrored=(7, 0)))
    assert not found.reliable
    assert "mirrored" in found.reason


def test_nothing_is_concluded_where_taking_away_cannot_tell():
    class Stubborn(Watching):
        def __call__(self, images: np.ndarray):
            said, logits, features = super().__call__(images)
            return np.full_like(said, 0.93), logits, features

    found = explained(Stubborn(HOT))
    assert "gain" not in found.quality
    assert found.reliable


def test_what_is_not_present_costs_no_pass():
    answer = Watching(HOT)
    below = prediction((0.1, 0.0, 0.0, 0.0, 0.0))
    explain(below, study(), network=Network(_network(), answer))
    assert answer.asked == 0


def test_the_areas_of_a_perfect_and_of_an_empty_explanation():
    count = len(faithfulness.STEPS)
    perfect = faithfulness.areas([0.0] * count + [1.0] * count, 1.0, 0.0)
    assert perfect["gain"] == pytest.approx(0.95)
    straight = faithfulness.areas([1 - s for s in faithfulness.STEPS] + list(faithfulness.STEPS), 1.0, 0.0)
    assert straight["gain"] == pytest.approx(0, abs=1e-6)


def test_the_probes_blur_the_hottest_places_first():
    image = np.random.default_rng(2).random((1, 64, 64), dtype=np.float32)
    heat = np.zeros((8, 8), np.float32)
    heat[1, 6] = 1
    probes = faithfulness.probes(image, faithfulness.blurred(image), heat)
    changed = [(probe != image).any(axis=0) for probe in probes]
    shares = [part.mean() for part in changed]
    assert shares[: len(faithfulness.STEPS)] == pytest.approx(faithfulness.STEPS, abs=0.02)
    rows, columns = np.nonzero(changed[0])
    assert 4 < rows.mean() < 20
    assert 44 < columns.mean() < 60


def test_maps_of_a_trained_model_do_not_survive_the_shuffling_of_its_weights():
    from medai_pipeline.demo_training import samples_of, study_seed
    from medai_pipeline.models.catalog import entry
    from medai_pipeline.models.load import load

    model = load(entry("demo-chest-xray"))
    effusion = model.entry.classes.index("Effusion")
    films = [samples_of(model.entry, study_seed(6, "test", index))[0] for index in range(12)]
    images = [s.pixels.astype(np.float32) for s in films if any(k == effusion for k, _ in s.boxes)][:3]
    network = Network(model.network, Watching(HOT))
    weights = [weight.detach().clone() for weight in model.network.parameters()]
    assert len(images) >= 2
    assert randomized_agreement(network, images, effusion) < MOST_AGREEMENT
    assert all((before == weight).all() for before, weight in zip(weights, model.network.parameters(), strict=True))
