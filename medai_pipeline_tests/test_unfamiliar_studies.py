"""A study unlike the model's training is marked and sent to a person; one like it is not."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from medai_pipeline.demo_training import samples_of
from medai_pipeline.dicom.normalize import normalize
from medai_pipeline.errors import WeightsRefused
from medai_pipeline.models import familiarity
from medai_pipeline.models.catalog import catalog, entry
from medai_pipeline.models.infer import predict
from medai_pipeline.models.load import load
from medai_pipeline.triage.decide import triage

DEMO = [known.name for known in catalog() if known.demo]


@pytest.fixture(scope="module")
def known() -> familiarity.Familiarity:
    rng = np.random.default_rng(1)
    mixing = rng.normal(size=(6, 40))
    draw = lambda count: rng.normal(size=(count, 6)) @ mixing + 0.05 * rng.normal(size=(count, 40)) + 3  # noqa: E731
    return familiarity.described([draw(5) for _ in range(300)], rank=6)


def test_what_is_like_training_stays_below_one_and_what_is_not_does_not(known: familiarity.Familiarity) -> None:
    rng = np.random.default_rng(2)
    near = known.mean + (rng.normal(size=(20, 6)) * known.scales) @ known.axes
    assert known.novelty(near) < 1
    assert known.novelty(near + 8 * known.scales[0] * known.axes[0]) > 1, "far along a direction that training knows"
    assert known.novelty(near + 0.5 * rng.normal(size=40)) > 1, "off every direction that training knows"


@pytest.mark.parametrize("count", [26, 60])
def test_few_studies_do_not_make_the_limit_too_near_nor_too_far(count: int) -> None:
    """Judged by a description of themselves they would be: then a fifth of new studies, and more, counts as unlike."""
    rng = np.random.default_rng(3)
    mixing = rng.normal(size=(30, 96))
    draw = lambda many: list(rng.normal(size=(many, 1, 30)) @ mixing + 0.1 * rng.normal(size=(many, 1, 96)))  # noqa: E731
    known = familiarity.described(draw(count))
    assert np.mean([known.novelty(study) > 1 for study in draw(400)]) < 0.06
    assert np.mean([known.novelty(6 * study) > 1 for study in draw(400)]) > 0.9


def test_one_odd_image_does_not_make_a_study_unfamiliar(known: familiarity.Familiarity) -> None:
    images = np.repeat(known.mean[None], 9, axis=0)
    images[0] += 100
    assert known.novelty(images) < 1


def test_the_numbers_survive_their_file_and_a_damaged_one_is_refused(
    known: familiarity.Familiarity, tmp_path: Path
) -> None:
    path = tmp_path / "x.features"
    familiarity.write(known, path)
    again, point = familiarity.read(path), known.mean[None] + 1
    assert again is not None and again.novelty(point) == known.novelty(point)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(WeightsRefused, match=r"x\.features is damaged"):
        familiarity.read(path)
    assert familiarity.read(tmp_path / "none") is None


@pytest.mark.parametrize("name", DEMO)
def test_unseen_phantoms_are_familiar_and_noise_is_not(name: str) -> None:
    model, contract = load(entry(name)), entry(name).contract
    studies = [samples_of(entry(name), 888_000_000 + n)[:: 1 if name == "demo-chest-xray" else 4] for n in range(8)]
    scores = [_novelty(model, np.stack([s.pixels for s in study])) for study in studies]
    assert sorted(scores)[-2] < 1, scores
    noise = np.random.default_rng(0).random((4, contract.channels, contract.height, contract.width))
    assert _novelty(model, noise) > 1


def test_films_of_people_are_not_like_the_phantoms(test_data: Path) -> None:
    """The demo model has seen drawings alone; what it says about a person must not pass without a person."""
    model = load(entry("demo-chest-xray"))
    with (test_data / "cxr" / "manifest.csv").open() as file:
        names = [row[next(iter(row))] for row in csv.DictReader(file)][:24]
    folder = test_data / "cxr" / "nih256"
    films = [cv2.imread(str(next(folder.glob(f"{Path(name).stem}*"))), cv2.IMREAD_GRAYSCALE) for name in names]
    scores = [_novelty(model, normalize(film.astype(np.float32), model.entry.contract)[0][None]) for film in films]
    assert np.mean(np.array(scores) > 1) > 0.9


def _novelty(model, pixels: np.ndarray) -> float:
    return model.familiarity.novelty(predict(model, pixels.astype(np.float32)).pooled)


@pytest.mark.parametrize(
    ("novelty", "review"), [(None, False), (0.6, False), (1.0, False), (1.2, True), (np.nan, True)]
)
def test_an_unfamiliar_study_is_never_normal(novelty: float | None, review: bool) -> None:
    found = triage(["Nodule"], [0.02], [0.5], [0.01], novelty=novelty)
    assert found.review_required is review
    assert found.priority == ("routine" if review else "normal")
    assert any("not like those the model was trained on" in reason for reason in found.reasons) is review
