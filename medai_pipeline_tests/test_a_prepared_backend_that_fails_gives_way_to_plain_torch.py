"""What was prepared answers on the device that there is, and is tried when it is opened: what fails then serves nobody."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medai_pipeline.models import backends, machine
from medai_pipeline.models import prepare as prepare_module
from medai_pipeline.models.backends import Backend, Kind, Subject, eager
from medai_pipeline.models.catalog import CatalogEntry
from medai_pipeline.models.infer import predict
from medai_pipeline.models.load import load
from medai_pipeline.models.prepare import fixed_images, prepare
from medai_pipeline_tests.model_versions import small_site

H100 = "NVIDIA H100 80GB HBM3 (9, 0)"


class Fails:
    """A backend that answers as plain torch until `broken`, as where a driver or a card changed after preparing."""

    def __init__(self) -> None:
        self.broken: Callable[[], None] = lambda: None

    def over(self, inner: Backend) -> Backend:
        def answer(pixels: np.ndarray) -> backends.Outputs:
            self.broken()
            return inner(pixels)

        return answer


@pytest.fixture
def site(tmp_path: Path) -> CatalogEntry:
    return small_site(tmp_path)


@pytest.fixture
def serving(monkeypatch):
    """Makes the given kind the one that preparing chooses."""

    def chosen(kind: Kind) -> Kind:
        monkeypatch.setattr(backends, "KINDS", (*backends.KINDS, kind))
        monkeypatch.setattr(prepare_module, "chosen", lambda facts: kind.name)
        return kind

    return chosen


def _compiled(fails: Fails) -> Kind:
    """As inductor's: an artefact is written, and opened again for a device of torch."""
    kept: list[Subject] = []

    def write(subject: Subject, path: Path) -> None:
        kept.append(subject)
        path.write_bytes(b"code")

    def opened(path: Path, device: str) -> Backend:
        def run(pixels):
            return backends._forward(kept[0], pixels)

        return fails.over(backends._torch_backend(run, device))

    return Kind("compiled", lambda m: "", suffix=".x", write=write, open=opened)


def test_a_backend_prepared_on_a_card_is_opened_for_torchs_device_not_for_the_cards_name(
    site, serving, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(machine, "_device", lambda device: H100)  # the name; torch computes on this CPU
    kind = serving(_compiled(Fails()))
    assert prepare(site, tmp_path, candidates=[kind.name]).machine.device == H100
    model = load(site, tmp_path)
    assert model.backend_name == kind.name
    pixels = fixed_images(site.contract)
    plain = load(site, tmp_path, prepared=False)
    np.testing.assert_allclose(predict(model, pixels).logits, predict(plain, pixels).logits, atol=1e-5)


def _raises() -> None:
    raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nand many lines")


@pytest.mark.parametrize("compiled", [True, False])
def test_a_backend_that_fails_when_it_is_asked_is_left_aside_at_opening_with_a_warning(
    compiled: bool, site, serving, tmp_path, caplog
) -> None:
    fails = Fails()
    wrapping = Kind("wrapping", lambda m: "", wrap=lambda subject: fails.over(eager(subject)))
    kind = serving(_compiled(fails) if compiled else wrapping)
    prepare(site, tmp_path, candidates=[kind.name])
    fails.broken = _raises
    with caplog.at_level(logging.WARNING):
        model = load(site, tmp_path)
    assert model.backend_name == "eager"
    assert "no kernel image" in caplog.text and "plain torch serves" in caplog.text and "many lines" not in caplog.text
    assert np.isfinite(predict(model, fixed_images(site.contract)).logits).all()


def test_a_backend_that_answers_with_what_is_no_number_is_left_aside(site, serving, tmp_path, caplog) -> None:
    spoilt = []

    def wrap(subject: Subject) -> Backend:
        honest = eager(subject)
        return lambda pixels: (*honest(pixels)[:2], honest(pixels)[2] * (np.nan if spoilt else 1))

    prepare(site, tmp_path, candidates=[serving(Kind("wrapping", lambda m: "", wrap=wrap)).name])
    spoilt.append(True)
    assert load(site, tmp_path).backend_name == "eager" and "empty image" in caplog.text
