"""Score-CAM: exact it equals the library; grouped it asks 64 masks at most, and says nearly the same."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from medai_pipeline.explain.cam import scale
from medai_pipeline.explain.scorecam import score_maps


@pytest.fixture(scope="module")
def film():
    """The demo model for films, a film with an effusion as it sees it, and the film's feature maps."""
    from medai_pipeline.demo_training import samples_of, study_seed
    from medai_pipeline.models.catalog import entry
    from medai_pipeline.models.infer import predict
    from medai_pipeline.models.load import load

    model = load(entry("demo-chest-xray"))
    for index in range(20):
        sample = samples_of(model.entry, study_seed(5, "test", index))[0]
        if any(k == model.entry.classes.index("Effusion") for k, _ in sample.boxes):
            break
    image = sample.pixels.astype(np.float32)
    return model, image, predict(model, image[None]).features[0]


def asked(model):
    """(score, how many images it was asked for, batch by batch)."""
    from medai_pipeline.models.infer import predict

    sizes: list[int] = []

    def score(images: np.ndarray) -> np.ndarray:
        sizes.append(len(images))
        return predict(model, images).logits

    return score, sizes


def test_exact_it_equals_the_library():
    import timm
    import torch

    from medai_pipeline.explain.reference import reference_map

    torch.manual_seed(2)
    model = timm.create_model("resnet10t", num_classes=3, in_chans=1, channels=(8, 16, 16, 24), stem_width=8).eval()
    image = torch.rand(1, 1, 96, 64)
    with torch.no_grad():
        features = model.forward_features(image)[0].numpy()

    def score(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(images)).numpy()

    maps = score_maps(image[0].numpy(), features, score, passes=None)
    for index in range(3):
        expected = reference_map(model, image, index, "scorecam")
        found = scale(cv2.resize(maps[index], expected.shape[::-1]))
        assert np.abs(found - expected).max() < 1e-4


def test_grouped_it_says_nearly_what_exact_says_in_a_bounded_number_of_passes(film):
    model, image, features = film
    score, sizes = asked(model)
    grouped = score_maps(image, features, score, passes=64)
    assert sum(sizes) == 64
    assert max(sizes) <= 16
    sizes.clear()
    exact = score_maps(image, features, score, passes=None)
    assert sum(sizes) == len(features) > 64
    effusion = model.entry.classes.index("Effusion")
    assert np.corrcoef(grouped[effusion].ravel(), exact[effusion].ravel())[0, 1] > 0.97
    assert np.abs(grouped[effusion] - exact[effusion]).max() < 0.2


def test_fewer_maps_than_passes_are_asked_one_by_one(film):
    model, image, features = film
    score, sizes = asked(model)
    score_maps(image, features[:10], score, passes=64)
    assert sum(sizes) == 10


def test_the_same_image_gives_the_same_map(film):
    model, image, features = film
    once, again = (score_maps(image, features, asked(model)[0], passes=8) for _ in range(2))
    assert (once == again).all()
