"""The backend of a model is measured, accepted within a tolerance, kept with its artefact, and never trusted blindly."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medai_pipeline.errors import ModelError
from medai_pipeline.models import backends, machine, trial
from medai_pipeline.models.backends import Kind, Subject, eager, kind_of
from medai_pipeline.models.catalog import entry
from medai_pipeline.models.infer import predict
from medai_pipeline.models.load import load
from medai_pipeline.models.machine import this_machine
from medai_pipeline.models.prepare import fixed_images, prepare
from medai_pipeline.models.prepared import Candidate, Prepared, folder_of
from medai_pipeline.models.trial import chosen
from medai_pipeline.records import InputContract

XRAY = entry("demo-chest-xray")
FAST = ("channels-last", "onnxruntime")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> tuple[Path, Prepared]:
    """A models folder with the demo film model prepared, onnxruntime the only rival of plain torch."""
    folder = tmp_path_factory.mktemp("models")
    return folder, prepare(XRAY, folder, candidates=["onnxruntime"])


def _only(folder: Path) -> Path:
    return folder_of(XRAY, XRAY.weights_sha256, this_machine(), folder)


@pytest.fixture
def copied(site, tmp_path) -> Path:
    """The same, to be damaged."""
    import shutil

    shutil.copytree(site[0], tmp_path / "models")
    return tmp_path / "models"


def test_a_prepared_model_answers_as_the_network_does_without_building_it(site) -> None:
    folder, summary = site
    assert summary.backend == "onnxruntime" and summary.times_eager > 1
    model = load(XRAY, folder)
    assert model.backend_name == "onnxruntime"
    pixels = fixed_images(XRAY.contract)
    ours, plain = predict(model, pixels), predict(load(XRAY), pixels)
    assert "network" not in vars(model)
    np.testing.assert_allclose(ours.probabilities, plain.probabilities, atol=1e-4)
    np.testing.assert_allclose(ours.features, plain.features, atol=1e-4 * np.ptp(plain.features))
    np.testing.assert_allclose(ours.pooled, ours.features.mean((2, 3)), atol=1e-4)
    assert model.network.get_classifier().out_features == len(XRAY.classes)  # an explanation still finds it
    assert json.loads(json.dumps(summary.as_json()))["backend"] == "onnxruntime"


def test_one_image_alone_and_in_any_batch_gets_the_same_answer(site) -> None:
    model = load(XRAY, site[0])
    pixels = fixed_images(XRAY.contract)
    whole = predict(model, pixels, batch_size=6)
    for size in (1, 2, 4):
        np.testing.assert_allclose(predict(model, pixels, batch_size=size).logits, whole.logits, atol=1e-4)


_DIGEST = """
import hashlib, pathlib, sys
from medai_pipeline.models.catalog import entry
from medai_pipeline.models.infer import predict
from medai_pipeline.models.load import load
from medai_pipeline.models.prepare import fixed_images
model = load(entry("demo-chest-xray"), pathlib.Path(sys.argv[1]) if sys.argv[1] else None)
images = predict(model, fixed_images(model.entry.contract), 4)
print(model.backend_name, hashlib.sha256(images.logits.tobytes() + images.features.tobytes()).hexdigest())
"""


@pytest.mark.parametrize("prepared", [True, False])
def test_another_process_gives_the_same_bits(site, prepared: bool) -> None:
    folder = site[0] if prepared else None
    told = subprocess.run(
        [sys.executable, "-c", _DIGEST, str(folder or "")], capture_output=True, text=True, check=True, env=os.environ
    ).stdout.split()
    model = load(XRAY, folder)
    images = predict(model, fixed_images(XRAY.contract), 4)
    own = hashlib.sha256(images.logits.tobytes() + images.features.tobytes()).hexdigest()
    assert told == [model.backend_name, own]


def test_a_damaged_artefact_is_not_opened_and_plain_torch_serves(copied, caplog) -> None:
    artefact = next(copied.glob("prepared/*/network.onnx"))
    data = bytearray(artefact.read_bytes())
    data[len(data) // 2] ^= 1
    artefact.write_bytes(bytes(data))
    os.utime(artefact.with_name("prepared.json"))  # this process may have opened the good one
    with caplog.at_level(logging.WARNING):
        model = load(XRAY, copied)
    assert model.backend_name == "eager" and "medai models prepare" in caplog.text
    assert np.isfinite(predict(model, fixed_images(XRAY.contract)).logits).all()


def test_what_was_prepared_for_another_machine_or_other_weights_is_not_found(site, monkeypatch) -> None:
    here = _only(site[0])
    assert here.is_dir()
    other = dataclasses.replace(this_machine(), libraries=("torch 1.0",))
    assert not folder_of(XRAY, XRAY.weights_sha256, other, site[0]).exists()
    assert not folder_of(XRAY, "0" * 64, this_machine(), site[0]).exists()
    narrow = dataclasses.replace(XRAY, contract=dataclasses.replace(XRAY.contract, width=192))
    assert not folder_of(narrow, XRAY.weights_sha256, this_machine(), site[0]).exists()


@pytest.mark.parametrize(
    ("figures", "taken"),
    [
        ({"onnxruntime": (50, 50), "openvino": (49.5, 49.5)}, "onnxruntime"),  # that is noise
        ({"onnxruntime": (50, 50), "openvino": (45, 45)}, "openvino"),
        ({"onnxruntime": (30, 50), "openvino": (60, 48)}, "onnxruntime"),  # far slower for one image
        ({"onnxruntime": (97, 97)}, "eager"),  # not worth it
        ({"channels-last": (60, 60), "inductor": (10, 10)}, "channels-last"),
    ],
)
def test_the_fastest_for_one_image_and_in_a_batch_is_taken_and_never_one_slower_than_onnxruntime(
    figures: dict[str, tuple[float, float]], taken: str
) -> None:
    facts = {name: Candidate(name, "", *times) for name, times in {"eager": (100, 100), **figures}.items()}
    if "inductor" in facts:
        facts["inductor"] = dataclasses.replace(facts["inductor"], refused="differs from float32")
    assert chosen(facts) == taken


def _wrong(subject: Subject):
    honest = eager(subject)

    def answer(pixels: np.ndarray):
        features, seen, logits = honest(pixels)
        return features, seen, logits + 0.2

    return answer


def _refuses(subject: Subject, path: Path) -> None:
    raise RuntimeError("an operator is unknown\nand many more lines")


def test_a_backend_that_answers_otherwise_or_cannot_be_made_is_refused_with_the_reason(tmp_path, monkeypatch) -> None:
    kinds = (
        Kind("wrong", lambda m: "", wrap=_wrong),
        Kind("broken", lambda m: "", suffix=".x", write=_refuses, open=lambda path, device: _wrong),
        Kind("absent", lambda m: "no such unit", wrap=_wrong),
    )
    monkeypatch.setattr(backends, "KINDS", (*backends.KINDS, *kinds))
    summary = prepare(XRAY, tmp_path, candidates=[kind.name for kind in kinds])
    refused = {candidate.backend: candidate.refused for candidate in summary.candidates}
    assert summary.backend == "eager" and summary.times_eager == 1
    assert "differs from float32 by" in refused["wrong"] and "an operator is unknown" in refused["broken"]
    assert "many more" not in refused["broken"] and refused["absent"] == "no such unit" and not refused["eager"]
    assert load(XRAY, tmp_path).backend_name == "eager"


def test_reduced_precision_that_changes_what_a_model_says_is_refused(tmp_path, monkeypatch) -> None:
    half = Kind("half", lambda m: "", reduced=True, wrap=lambda subject: backends._channels_last(subject, half=True))
    monkeypatch.setattr(backends, "KINDS", (*backends.KINDS, half))
    monkeypatch.setattr(trial, "BATCH", 1)
    strict = {c.backend: c for c in prepare(XRAY, tmp_path, candidates=["half"], tolerance=0.01).candidates}["half"]
    assert strict.probability_error is not None and strict.probability_error > 0.01  # this model is sure of itself
    assert "in a probability (allowed 0.01)" in strict.refused
    lax = {c.backend: c for c in prepare(XRAY, tmp_path, candidates=["half"], tolerance=0.5).candidates}["half"]
    assert not lax.refused and lax.feature_error is not None and lax.feature_error < 0.05


def test_reduced_precision_needs_units_for_it_and_compiled_code_a_compiler(monkeypatch) -> None:
    plain = dataclasses.replace(this_machine(), units=("avx2",))
    able = dataclasses.replace(this_machine(), units=("amx_bf16", "avx2"))
    assert "emulated" in kind_of("inductor-bf16").hindrance(plain)
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    assert kind_of("inductor-bf16").hindrance(able) == "no C++ compiler"
    monkeypatch.setattr(machine.shutil, "which", lambda name: name)
    assert not kind_of("inductor-bf16").hindrance(able)


def test_a_backend_that_holds_the_network_itself_serves_when_it_was_chosen(copied, monkeypatch) -> None:
    summary = _only(copied) / "prepared.json"
    facts = json.loads(summary.read_text()) | {"backend": "channels-last", "artefact": ""}
    summary.write_text(json.dumps(facts))
    model = load(XRAY, copied)
    assert model.backend_name == "channels-last"
    pixels = fixed_images(XRAY.contract)
    np.testing.assert_allclose(predict(model, pixels).logits, predict(load(XRAY), pixels).logits, atol=1e-3)


def test_the_pictures_for_comparison_are_fixed_and_within_the_contract() -> None:
    contract = InputContract(64, 48, channels=3, low=-1.0, high=1.0)
    pictures = fixed_images(contract)
    assert pictures.shape == (6, 3, 64, 48) and pictures.dtype == np.float32
    assert pictures.min() == -1 and pictures.max() <= 1 and (pictures[0] == -1).all()
    assert np.array_equal(pictures, fixed_images(contract))


def test_an_unknown_backend_is_named_with_the_known_ones(tmp_path) -> None:
    with pytest.raises(ModelError, match="onnxruntime"):
        prepare(XRAY, tmp_path, candidates=["magic"])
