"""Preparing is a trial: a backend that fails in making, at its first answer or in the middle of timing is refused with the
reason, and the others go on."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from medai_pipeline.cli import main
from medai_pipeline.errors import ModelError
from medai_pipeline.models import backends, machine
from medai_pipeline.models import prepare as prepare_module
from medai_pipeline.models.backends import Backend, Kind, Subject, eager
from medai_pipeline.models.cards import from_card
from medai_pipeline.models.catalog import CatalogEntry
from medai_pipeline.models.load import load
from medai_pipeline.models.prepare import prepare
from medai_pipeline.models.prepared import Prepared
from medai_pipeline.storage.keys import SiteKeys
from medai_pipeline_tests.model_versions import CARD, small_network, small_site, write_card, write_weights


@pytest.fixture
def site(tmp_path: Path) -> CatalogEntry:
    return small_site(tmp_path)


def kind(name: str, fails_at: int, error: BaseException) -> Kind:
    """Answers as plain torch, but for its `fails_at`th answer and all that follow."""

    def wrap(subject: Subject) -> Backend:
        honest, asked = eager(subject), [0]

        def answer(pixels: np.ndarray) -> backends.Outputs:
            asked[0] += 1
            if asked[0] >= fails_at:
                raise error
            return honest(pixels)

        return answer

    return Kind(name, lambda m: "", wrap=wrap)


def refusals(summary: Prepared) -> dict[str, str]:
    return {candidate.backend: candidate.refused for candidate in summary.candidates}


def test_whatever_a_backend_raises_is_its_reason_and_the_others_are_measured(site, tmp_path, monkeypatch) -> None:
    kinds = (
        kind("at once", 1, RuntimeError("Expected all tensors to be on the same device\nand a long trace")),
        kind("later", 4, AssertionError("guard failed")),
        kind("no room", 2, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")),
        kind("steady", 10**6, RuntimeError()),
    )
    monkeypatch.setattr(backends, "KINDS", (*backends.KINDS, *kinds))
    summary = prepare(site, tmp_path, candidates=[kind.name for kind in kinds])
    refused = refusals(summary)
    assert refused["at once"] == "RuntimeError: Expected all tensors to be on the same device"
    assert refused["later"] == "AssertionError: guard failed"
    assert refused["no room"].startswith("OutOfMemoryError: CUDA out of memory")
    assert not refused["steady"] and not refused["eager"]
    (steady,) = (candidate for candidate in summary.candidates if candidate.backend == "steady")
    assert steady.probability_error == 0 and steady.single_ms
    assert summary.backend in {"steady", "eager"} and load(site, tmp_path).backend_name == summary.backend


def test_copies_that_leave_plain_torch_no_room_are_let_go(site, tmp_path, monkeypatch) -> None:
    """A card on which plain torch fits alone, and not beside the copy of another backend."""
    copies: list[str] = []

    def crowded(subject: Subject) -> Backend:
        honest = eager(subject)

        def answer(pixels: np.ndarray) -> backends.Outputs:
            if copies:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return honest(pixels)

        return answer

    class Copy:
        def __init__(self, subject: Subject) -> None:
            self.honest = eager(subject)
            copies.append("copy")

        def __call__(self, pixels: np.ndarray) -> backends.Outputs:
            return self.honest(pixels)

        def __del__(self) -> None:
            copies.pop()

    monkeypatch.setattr(prepare_module, "eager", crowded)
    monkeypatch.setattr(backends, "KINDS", (*backends.KINDS, Kind("copy", lambda m: "", wrap=Copy)))
    summary = prepare(site, tmp_path, candidates=["copy"])
    assert summary.backend == "eager" and "no room for it beside plain torch" in refusals(summary)["copy"]


def test_plain_torch_that_does_not_answer_is_an_error_in_one_line(site, tmp_path, monkeypatch) -> None:
    failing = kind("eager", 1, RuntimeError("CUDA error: device-side assert triggered\nmore"))
    monkeypatch.setattr(prepare_module, "eager", failing.wrap)
    with pytest.raises(ModelError, match="device-side assert") as caught:
        prepare(site, tmp_path, candidates=[])
    assert "more" not in caught.value.reason and not list((tmp_path / "prepared").iterdir())


def test_a_program_that_only_computes_in_float32_is_prepared_without_what_halves_it(tmp_path, monkeypatch) -> None:
    """As on a card, where bfloat16 is tried: the program's own constants stay float32."""

    class Scaled(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            weights = torch.ones((1, 1, 3, 3), dtype=torch.float32)
            return torch.nn.functional.conv2d(pixels, weights).mean((2, 3)).repeat(1, 2)

    program = from_card({**CARD, "name": "scaled", "kind": "torchscript", "architecture": "", "options": {}})
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(Scaled()), buffer)
    weights = tmp_path / "scaled.ts"
    weights.write_bytes(buffer.getvalue())
    monkeypatch.setattr(machine, "_device", lambda device: "NVIDIA H100 80GB HBM3 (9, 0)")
    names = ["channels-last", "channels-last-bf16"]
    refused = refusals(prepare(program, tmp_path, weights=weights, candidates=names))
    assert "RuntimeError" in refused["channels-last-bf16"] and not refused["eager"]


def test_a_version_that_cannot_be_prepared_is_registered_all_the_same_and_says_so(
    database_url: str, tmp_path: Path, monkeypatch
) -> None:
    home = tmp_path / "home"
    SiteKeys.load(None, home / "keys" / "site.key", create=True)
    for name, value in (("MEDAI_HOME", str(home)), ("DATABASE_URL", database_url), ("GPU_ENABLED", "false")):
        monkeypatch.setenv(name, value)
    (home / "models").mkdir()
    (home / "models" / "prepared").write_text("a file where a folder should be")
    card, weights = write_card(tmp_path, CARD), write_weights(tmp_path, small_network())
    command = ["models", "register", str(card), "--weights", str(weights), "--accept-insensitive-maps"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert "small-chest@1 is registered" in done.output and "next: medai models promote" in done.output
    assert "not prepared: cannot keep what was prepared" in done.output
    assert "plain torch serves until `medai models prepare small-chest@1`" in done.output
