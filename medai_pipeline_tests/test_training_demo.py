"""Training: the command's function writes what the catalog reads, and the packaged models answer for unseen phantoms."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from medai_pipeline import demo_training
from medai_pipeline.demo_training import measure_demo, render_split, samples_of, study_seed, train_demo
from medai_pipeline.dicom.normalize import normalize
from medai_pipeline.dicom.pixels import prepare
from medai_pipeline.models import familiarity, metrics
from medai_pipeline.models.catalog import catalog, entry
from medai_pipeline.models.evaluate import answers, measure
from medai_pipeline.models.load import load
from medai_pipeline.phantoms.brain_mr import render_brain_mr
from medai_pipeline.phantoms.chest_ct import render_chest_ct
from medai_pipeline.phantoms.chest_xray import render_chest_xray
from medai_pipeline.phantoms.studies import make_study, to_bytes
from medai_pipeline.records import Instance

DEMO = [e.name for e in catalog() if e.demo]


@pytest.fixture(scope="module", params=DEMO)
def held_out(request):
    """A demo model's name, and its figures on a few studies of seeds that training never saw."""
    name = request.param
    studies = {"demo-chest-xray": 50, "demo-chest-ct": 30, "demo-brain-mr": 30}[name]
    samples = []
    for index in range(studies):
        samples += samples_of(entry(name), 777_000_000 + index, training=name != "demo-chest-xray")
    model = load(entry(name))
    return name, measure(entry(name), answers(entry(name), model.network, samples))


def test_unseen_phantoms_reach_an_auc_of_at_least_090_in_each_class(held_out) -> None:
    name, figures = held_out
    low = {label: values["auc_images"] for label, values in figures["classes"].items() if values["auc_images"] < 0.90}
    assert low == {}, name


def test_the_cards_figures_are_at_least_what_is_asked() -> None:
    for known in (e for e in catalog() if e.demo):
        held = json.loads(known.card.with_suffix(".json").read_text())["held_out"]
        for figure in ("auc_images", "auc_studies"):
            assert all(values[figure] >= 0.90 for values in held["classes"].values()), (known.name, figure)
        assert held["normal_studies_called_normal"] >= 0.85, known.name


def test_splits_never_share_a_seed() -> None:
    seeds = [study_seed(0, split, index) for split in ("train", "validation", "test") for index in range(5000)]
    assert len(set(seeds)) == len(seeds) and min(seeds) >= 10_000_000


def test_samples_are_the_contracts_tensors_with_boxes_inside() -> None:
    for name in DEMO:
        contract = entry(name).contract
        for seed in range(3):
            for sample in samples_of(entry(name), seed, training=True):
                assert sample.pixels.shape == (1, contract.height, contract.width)
                assert sample.pixels.min() >= 0 and sample.pixels.max() <= 1
                for k, (x0, y0, x1, y1) in sample.boxes:
                    assert sample.targets[k] == 1
                    assert 0 <= x0 < x1 <= contract.width and 0 <= y0 < y1 <= contract.height
                    assert sample.masks[k].max() == 255


def test_training_writes_weights_numbers_and_card_and_repeats_itself(tmp_path, monkeypatch) -> None:
    torch.set_num_threads(1)
    lines: list[str] = []
    options = {"images": 12, "held_out": 10, "epochs": 1, "workers": 1}
    first = train_demo("demo-chest-xray", tmp_path / "a", 3, progress=lines.append, **options)
    train_demo("demo-chest-xray", tmp_path / "b", 3, **options)
    stem = "demo-chest-xray-1"
    digest = first["demo-chest-xray"]["weights_sha256"]
    assert json.loads((tmp_path / "b" / f"{stem}.json").read_text())["weights_sha256"] == digest
    assert "no clinical value" in (tmp_path / "a" / f"{stem}.md").read_text()
    assert any("AUC" in line for line in lines)
    site = dataclasses.replace(entry("demo-chest-xray"), demo=False, weights_sha256=digest)
    assert load(site, tmp_path / "a").weights_sha256 == digest
    (tmp_path / "a" / f"{stem}.reliability.png").unlink()
    (tmp_path / "a" / f"{stem}.features").unlink()
    card = (tmp_path / "a" / f"{stem}.md").read_text()
    again = measure_demo("demo-chest-xray", tmp_path / "a", workers=1)["demo-chest-xray"]
    assert again["held_out"] == first["demo-chest-xray"]["held_out"] and again["weights_sha256"] == digest
    assert (tmp_path / "a" / f"{stem}.reliability.png").is_file()
    assert familiarity.read(tmp_path / "a" / f"{stem}.features", again["features_sha256"]) is not None
    assert (tmp_path / "a" / f"{stem}.md").read_text() == card


def test_rendering_with_workers_gives_the_same_samples() -> None:
    alone = render_split("demo-chest-xray", 1, "train", 4, workers=1)
    shared = render_split("demo-chest-xray", 1, "train", 4, workers=2)
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(alone, shared, strict=True))


def test_auc_counts_ties_half_and_is_not_a_number_without_both_classes() -> None:
    assert metrics.auc(np.array([0.1, 0.4, 0.4, 0.9]), np.array([0, 0, 1, 1])) == pytest.approx(0.875)
    assert np.isnan(metrics.auc(np.array([0.1, 0.2]), np.array([0, 0])))


def test_calibration_finds_the_scale_and_the_shift_of_wrong_logits() -> None:
    rng = np.random.default_rng(0)
    true_logits = rng.normal(-1, 1.5, (4000, 2))
    truth = (rng.random((4000, 2)) < metrics.sigmoid(true_logits)).astype(float)
    temperature, shift = metrics.fit_calibration(3 * true_logits + 2, truth)
    assert temperature == pytest.approx(3, rel=0.15)
    assert shift == pytest.approx([-2 / 3, -2 / 3], abs=0.15)


def test_thresholds_keep_false_alarms_rare_and_lie_between_separate_groups() -> None:
    rng = np.random.default_rng(1)
    negatives, positives = rng.beta(2, 20, 500), rng.beta(20, 4, 200)
    scores, truth = np.concatenate([negatives, positives]), np.repeat([0, 1], [500, 200])
    threshold = metrics.fit_threshold(scores, truth)
    assert (negatives >= threshold).mean() <= 0.02
    assert (positives >= threshold).mean() > 0.95


def test_every_demo_model_has_a_recipe() -> None:
    assert set(demo_training.RECIPES) == set(DEMO)


@pytest.mark.parametrize(("name", "kind"), zip(DEMO, ("chest-xray", "chest-ct", "brain-mr"), strict=True))
@pytest.mark.parametrize("seed", [4, 5])
def test_a_study_in_dicom_becomes_the_tensors_that_training_saw(name: str, kind: str, seed: int) -> None:
    size = {"rows": 256, "columns": 256}
    study = make_study(kind, seed, monochrome1=bool(seed % 2), slices=3, **size)
    if kind == "chest-xray":
        planes = [render_chest_xray(seed, None, view, 256, 256).pixels for view in ("PA", "LATERAL")]
    else:
        planes = list({"chest-ct": render_chest_ct, "brain-mr": render_brain_mr}[kind](seed, None, 3, 256, 256).pixels)
    contract = entry(name).contract
    for ds, plane in zip(study.datasets, planes, strict=True):
        source = Instance(ds.SOPInstanceUID, "", "", ds.SOPClassUID, "", ds.Modality, "")
        ((tensor, item),) = prepare(to_bytes(ds), source, contract)
        window = (2048.0, 4096.0) if kind == "chest-xray" else None
        np.testing.assert_allclose(tensor, normalize(plane, contract, window=window)[0], atol=2e-3)
        assert item.placement.source_rows == 256
