"""What is called float32 is computed without TF32 wherever a network is asked; TF32 is a backend of its own. A CPU stands in
for the card: torch keeps what it may use there for the whole process, and each pass is asked what it was."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medai_pipeline.models import precision
from medai_pipeline.models.backends import KINDS, Subject
from medai_pipeline.models.catalog import CatalogEntry
from medai_pipeline.models.load import load
from medai_pipeline.models.uncertainty import full_samples
from medai_pipeline.stages.explanation import Drawing, explain_study
from medai_pipeline_tests.model_versions import small_site

PIXELS = np.random.default_rng(0).random((1, 1, 64, 64), dtype=np.float32)


def allowed() -> tuple[bool, bool]:
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.fixture
def passes(monkeypatch) -> Iterator[list[tuple[bool, bool]]]:
    """What was allowed in each convolution from here on; the process is left as it was found."""
    seen: list[tuple[bool, bool]] = []
    monkeypatch.setattr(precision, "_on_a_card", lambda device: True)
    plain = torch.nn.Conv2d.forward

    def noted(self: torch.nn.Conv2d, pixels: torch.Tensor) -> torch.Tensor:
        seen.append(allowed())
        return plain(self, pixels)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", noted)
    assert allowed() == (True, False)  # as torch begins
    yield seen
    assert allowed() == (True, False)


@pytest.fixture
def site(tmp_path: Path) -> CatalogEntry:
    return small_site(tmp_path)


def test_only_the_backend_that_is_named_so_computes_in_tf32(site, tmp_path, passes) -> None:
    model = load(site, tmp_path, prepared=False)  # anew, whatever this process keeps
    assert passes and set(passes) == {(False, False)}  # being asked what it is like, too
    subject = Subject(model.network, model.pooled, model.image_shape)
    for kind in KINDS:
        if kind.wrap:
            passes.clear()
            kind.wrap(subject)(PIXELS)
            assert set(passes) == {(kind.name == "channels-last-tf32",) * 2}, kind.name
    (tf32,) = (kind for kind in KINDS if "tf32" in kind.name)
    assert tf32.reduced and tf32.hindrance(SimpleNamespace(device="cpu"))  # type: ignore[arg-type]


def test_passes_of_dropout_and_explanations_are_float32(site, tmp_path, passes, monkeypatch) -> None:
    model = load(site, tmp_path, prepared=False)  # anew, whatever this process keeps
    passes.clear()
    full_samples(model, PIXELS, samples=1)

    def explain(*given: object, **named: object) -> None:
        model.network(torch.from_numpy(PIXELS))
        raise ValueError("enough")

    monkeypatch.setattr("medai_pipeline.explain.study.explain", explain)
    prediction = SimpleNamespace(labels=("A",), model=SimpleNamespace(name="m"))
    with pytest.raises(ValueError, match="enough"):
        explain_study(prediction, None, SimpleNamespace(instances=()), None, Drawing())  # type: ignore[arg-type]
    assert len(passes) > 2 and set(passes) == {(False, False)}


def test_one_scope_stands_in_another_and_threads_take_turns(passes) -> None:
    inside, other = threading.Event(), []

    def beside() -> None:
        inside.set()
        with precision.float32("cuda"):
            other.append(allowed())

    with precision.float32("cuda", tf32=True):
        thread = threading.Thread(target=beside)
        thread.start()
        assert inside.wait(10)
        with precision.float32("cuda"):
            assert allowed() == (False, False)
        assert allowed() == (True, True) and not other
    thread.join(10)
    assert other == [(False, False)]


def test_nothing_is_touched_for_the_cpu() -> None:
    with precision.float32("cpu"):
        assert allowed() == (True, False)
