"""Several models answer as one: weighted, with their disagreement, which asks for a person; misfits are refused by name."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from safetensors.torch import load as read_tensors
from safetensors.torch import save as write_tensors

from medai_pipeline import stages
from medai_pipeline.errors import ModelError
from medai_pipeline.models import ensemble
from medai_pipeline.models.catalog import CatalogEntry, ModelSet, catalog, entry
from medai_pipeline.models.load import weights_path
from medai_pipeline.records import Placement, StudyPrediction, StudyTensors, TensorItem
from medai_pipeline.stages.explanation import network_of
from medai_pipeline.stages.prediction import Inference, ask_model
from medai_pipeline.stages.sampling import sample_images
from medai_pipeline.storage.codec import decode, encode
from medai_pipeline.triage.decide import triage

XRAY = entry("demo-chest-xray")
SECOND = dataclasses.replace(XRAY, name="second", demo=False, weights_sha256=None)
BOTH = dataclasses.replace(
    SECOND, name="both", architecture="", members={"demo-chest-xray@1": 3.0, "second@1": 1.0}, thresholds=(0.5,) * 5
)


@pytest.fixture
def site(tmp_path) -> Inference:
    """A site with a second film model, whose head says the opposite, and an ensemble of the two."""
    state = read_tensors(weights_path(XRAY, None).read_bytes())
    state["fc.weight"] = -state["fc.weight"]
    state["fc.bias"] = -state["fc.bias"]
    (tmp_path / SECOND.weights_file).write_bytes(write_tensors(state))
    return Inference(tmp_path, gpu=False, models=ModelSet((BOTH,), known=(*catalog(), SECOND, BOTH)))


def films(model: str, count: int = 2, seed: int = 0) -> StudyTensors:
    pixels = np.random.default_rng(seed).random((count, 1, 224, 224), dtype=np.float32)
    items = tuple(TensorItem(f"2.25.{i + 1}", 1, Placement(224, 224, 1, 1, 0, 0)) for i in range(count))
    return StudyTensors("A", 1, "DX", "CHEST", model, XRAY.contract, pixels, items)


def answer(model: str, site: Inference) -> StudyPrediction:
    said = ask_model(site.models.entry(model), [films(model)], site)["A"]
    assert isinstance(said, StudyPrediction)
    return said


def test_an_ensemble_answers_with_the_weighted_mean_and_says_who_took_part(site: Inference) -> None:
    one, other, both = (answer(name, site) for name in ("demo-chest-xray", "second", "both"))
    np.testing.assert_allclose(both.probabilities, 0.75 * one.probabilities + 0.25 * other.probabilities, atol=1e-6)
    apart = np.sqrt(0.75 * 0.25) * np.abs(one.probabilities - other.probabilities)
    np.testing.assert_allclose(both.disagreement, apart, atol=1e-5)
    assert (both.uncertainty >= both.disagreement - 1e-6).all() and (both.uncertainty <= 0.5).all()
    assert [(m.name, m.role) for m in both.members] == [("demo-chest-xray", "ensemble"), ("second", "ensemble")]
    assert (both.model.name, both.model.role) == ("both", "primary") and len(both.model.weights_sha256) == 64
    assert both.model.weights_sha256 not in {m.weights_sha256 for m in both.members}
    assert both.thresholds.tolist() == [0.5] * 5 and both.demo
    np.testing.assert_array_equal(both.features, one.features)
    assert one.disagreement is None and not one.members
    again = decode(encode(both))
    np.testing.assert_array_equal(again.disagreement, both.disagreement)
    assert again.members == both.members


def test_samples_of_an_ensemble_count_by_the_weight_of_their_member(site: Inference) -> None:
    still = tuple(dataclasses.replace(known, dropout=0.0) for known in site.models.known)
    site = dataclasses.replace(site, models=ModelSet((BOTH,), known=still))
    entry_of, one_film = site.models.entry, films("both", 1)
    said = ask_model(BOTH, [one_film], site)["A"]
    assert isinstance(said, StudyPrediction) and said.uncertainty is not None
    surer = ask_model(entry_of("demo-chest-xray"), [one_film], site)["A"]
    other = ask_model(entry_of("second"), [one_film], site)["A"]
    assert isinstance(surer, StudyPrediction) and isinstance(other, StudyPrediction)
    rows = sample_images(BOTH, one_film, site, samples=4)
    # the members' dropout is off, so that there is nothing but what they say and how far they lie apart
    np.testing.assert_allclose([row["mean"] for row in rows], said.probabilities, atol=1e-5)
    np.testing.assert_allclose([row["deviation"] for row in rows], said.uncertainty, atol=1e-5)
    for k, row in enumerate(rows):  # three quarters of the weight are with the first member, and so is the middle
        assert row["p50"] == pytest.approx(surer.probabilities[k], abs=1e-5)
        ends = sorted((surer.probabilities[k], other.probabilities[k]))
        assert (row["p05"], row["p95"]) == pytest.approx(ends, abs=1e-5)


def test_samples_agree_with_the_ensembles_answer_the_more_of_them_there_are(site: Inference) -> None:
    said = ask_model(BOTH, [films("both", 1)], site)["A"]
    assert isinstance(said, StudyPrediction) and said.uncertainty is not None
    rows = sample_images(BOTH, films("both", 1), site, samples=400)
    np.testing.assert_allclose([row["mean"] for row in rows], said.probabilities, atol=0.05)
    np.testing.assert_allclose([row["deviation"] for row in rows], said.uncertainty, atol=0.05)


def test_a_single_model_without_dropout_has_no_samples_to_tell_of(site: Inference) -> None:
    still = dataclasses.replace(XRAY, dropout=0.0)
    site = dataclasses.replace(site, models=ModelSet((still,)))
    first, *_ = sample_images(still, films("demo-chest-xray", 1), site, samples=4)
    assert 0 <= first["mean"] <= 1 and first["entropy"] >= 0
    assert [first[name] for name in ("deviation", "information", "p05", "p50", "p95")] == [None] * 5


def test_models_that_disagree_ask_for_a_person_and_models_that_agree_do_not(site: Inference) -> None:
    both = answer("both", site)
    numbers = (both.labels, both.probabilities.tolist(), both.thresholds.tolist(), [0.0] * 5)
    assert both.disagreement is not None and both.disagreement.max() > 0.3
    said = triage(*numbers, disagreement=both.disagreement.tolist())
    assert said.review_required and any("the models disagree" in reason for reason in said.reasons)
    sure = (["Nodule"], [0.02], [0.5], [0.0])
    assert not triage(*sure, disagreement=[0.05]).review_required
    assert triage(*sure, disagreement=[0.15]).review_required
    assert triage(*sure, disagreement=[float("nan")]).review_required


def test_of_an_ensemble_the_first_model_explains(site: Inference) -> None:
    both = answer("both", site)
    network = network_of(both, site)
    logits = network.logits(films("both").pixels)
    first = network_of(answer("demo-chest-xray", site), site).logits(films("both").pixels)
    np.testing.assert_allclose(logits, first, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"classes": XRAY.classes[::-1]}, "second@1 has another classes"),
        ({"contract": dataclasses.replace(XRAY.contract, scaling="mr")}, "another contract"),
        ({"members": {"x": 1.0}}, "is an ensemble itself"),
    ],
)
def test_members_that_do_not_fit_are_refused_by_name(change: dict, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        ensemble.check_members(BOTH, [XRAY, dataclasses.replace(SECOND, **change)])


def test_one_model_or_no_weight_is_no_ensemble() -> None:
    with pytest.raises(ModelError, match="two members or more"):
        ensemble.check_members(BOTH, [XRAY])
    nothing: CatalogEntry = dataclasses.replace(BOTH, members={"demo-chest-xray@1": 1.0, "second@1": 0.0})
    with pytest.raises(ModelError, match="weight above 0"):
        ensemble.check_members(nothing, [XRAY, SECOND])


def test_a_study_gets_the_ensemble_that_is_active(site: Inference) -> None:
    said = stages.predict_studies([films("both")], site)["A"]
    assert isinstance(said, StudyPrediction) and said.model.name == "both" and len(said.members) == 2


def test_a_member_without_weights_fails_the_study_and_names_it(site: Inference) -> None:
    (site.models_path / SECOND.weights_file).unlink()
    said = stages.predict_studies([films("both")], site)["A"]
    assert isinstance(said, ModelError) and "second@1" in said.reason
