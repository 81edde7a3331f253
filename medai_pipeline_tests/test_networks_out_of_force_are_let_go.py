"""A worker that runs for months holds the networks in force and no others: what is replaced, retired or prepared anew goes."""

from __future__ import annotations

import dataclasses
import gc
import os
import threading
import time
import weakref
from pathlib import Path

import pytest

from medai_pipeline.models.catalog import CatalogEntry, ModelSet
from medai_pipeline.models.kept import Kept
from medai_pipeline.models.load import load
from medai_pipeline.models.prepare import prepare
from medai_pipeline.stages.prediction import Inference, predict_studies
from medai_pipeline_tests.model_versions import small_network, small_site, write_weights


@pytest.fixture
def site(tmp_path: Path) -> CatalogEntry:
    return small_site(tmp_path, name="let-go")  # no other test holds it


def gone(model: weakref.ref) -> bool:
    gc.collect()
    return model() is None


def test_a_version_that_is_in_force_no_more_goes_with_the_next_studies(site, tmp_path) -> None:
    second, shadow, member = (small_site(tmp_path, name="let-go", version=version) for version in ("2", "3", "4"))
    whole = dataclasses.replace(site, name="both", version="1", members={member.label: 1.0})
    every = [site, second, shadow, member]
    held = {entry.label: weakref.ref(load(entry, tmp_path)) for entry in every}
    predict_studies([], Inference(tmp_path, models=ModelSet((site, second), (shadow, whole))))
    assert not any(map(gone, held.values()))
    predict_studies([], Inference(tmp_path, models=ModelSet((second, whole), (shadow,), known=tuple(every))))
    assert [label for label, model in held.items() if gone(model)] == [site.label]
    assert load(second, tmp_path) is held[second.label]()


def test_of_a_version_the_newest_is_kept_and_the_one_before_goes(site, tmp_path) -> None:
    plain = weakref.ref(load(site, tmp_path))
    made = prepare(site, tmp_path, candidates=[])
    model = load(site, tmp_path)
    assert gone(plain) and load(site, tmp_path) is model
    (summary,) = (tmp_path / "prepared").glob("*/prepared.json")
    os.utime(summary, ns=(time.time_ns(), time.time_ns() + 10**9))  # prepared once more
    before = weakref.ref(model)
    del model
    newest = load(site, tmp_path)
    assert gone(before) and newest.weights_sha256 and made.backend == "eager"
    write_weights(tmp_path, small_network(1), site.weights_file)
    before, newest = weakref.ref(newest), load(site, tmp_path)
    assert gone(before)


def test_networks_that_are_only_measured_are_not_kept(site, tmp_path) -> None:
    plain = weakref.ref(load(site, tmp_path, prepared=False))
    assert gone(plain)
    kept = weakref.ref(load(site, tmp_path))
    prepare(site, tmp_path, candidates=[])
    assert kept() is not None


def test_threads_that_ask_at_once_share_one_network() -> None:
    kept, made, answers = Kept(), [], []
    start = threading.Barrier(4)

    def make():
        made.append(object())
        return made[-1]

    def ask() -> None:
        start.wait(10)
        answers.append(kept.get(("m@1", "cpu", True), "state", make))  # type: ignore[arg-type]

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(made) == 1 and answers == made * 4
