"""What a run leaves behind: saved again it changes nothing, and nothing that was said is overwritten."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from medai_pipeline.records import Instance, ModelRef, Placement, StudyPrediction, TensorItem
from medai_pipeline.storage.repository import Repository
from medai_pipeline.storage.tables import images, inference_results, studies

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = "S" * 26
MODEL = ModelRef("chest-demo", "1", "f" * 64)
IMAGE = Instance(
    sop_instance_uid="2.25.1",
    series_instance_uid="2.25.2",
    study_instance_uid="2.25.3",
    sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
    transfer_syntax_uid="1.2.840.10008.1.2.1",
    modality="DX",
    source_sha256="a" * 64,
    body_part="CHEST",
    rows=2000,
    columns=1500,
    frames=1,
    spacing_mm=(0.139, 0.14),
    sha256="b" * 64,
    object_key="anonymized/x",
    size_bytes=5_000_000_000,
)


@pytest.fixture
def repository(engine: Engine) -> Repository:
    repository = Repository(engine)
    repository.touch(KEY, "fp", 1, NOW)
    repository.settle(KEY, "fp", "d", 1, NOW)
    return repository


def prediction(probability: float = 0.25, labels: tuple[str, ...] = ("effusion", "mass")) -> StudyPrediction:
    item = TensorItem("2.25.1", 1, Placement(10, 10, 1, 1, 0, 0))
    k = len(labels)
    return StudyPrediction(
        study_key=KEY,
        revision=1,
        model=MODEL,
        labels=labels,
        multi_label=True,
        items=(item,),
        image_probabilities=np.full((1, k), probability, np.float32),
        probabilities=np.full(k, probability, np.float32),
        uncertainty=np.zeros(k, np.float32),
        thresholds=np.full(k, 0.5, np.float32),
        key_images=((0,),) * k,
        features=np.zeros((1, 4, 2, 2), np.float32),
        feature_rows=(0,),
        head=np.zeros((k, 4), np.float32),
    )


def rows(engine: Engine, table: sa.Table) -> list[sa.Row]:
    with engine.connect() as connection:
        return list(connection.execute(sa.select(table)))


def test_image_rows_say_what_the_instances_say_and_saving_again_brings_them_up_to_date(
    repository: Repository, engine: Engine
) -> None:
    bad = replace(IMAGE, sop_instance_uid="2.25.9", usable=False, reason="a localizer", spacing_mm=None)
    repository.save_images(KEY, 1, [IMAGE, bad])
    repository.save_images(KEY, 1, [replace(IMAGE, object_key="anonymized/y"), bad])
    repository.save_images(KEY, 1, [])
    one, two = sorted(rows(engine, images), key=lambda row: row.sop_instance_uid)
    assert (one.row_spacing_mm, one.column_spacing_mm, one.object_key) == (0.139, 0.14, "anonymized/y")
    assert (one.rows, one.columns, one.size_bytes, one.usable, one.reason) == (2000, 1500, 5_000_000_000, True, "")
    assert (two.row_spacing_mm, two.usable, two.reason) == (None, False, "a localizer")
    assert rows(engine, studies)[0].modality == "DX"


def test_the_frames_of_a_revision_are_counted_not_its_files(repository: Repository, engine: Engine) -> None:
    assert repository.frames(KEY, 1) == 0
    clip = replace(IMAGE, sop_instance_uid="2.25.8", frames=300)
    unstated = replace(IMAGE, sop_instance_uid="2.25.9", frames=0)
    left_out = replace(IMAGE, sop_instance_uid="2.25.7", frames=50, usable=False)
    repository.save_images(KEY, 1, [IMAGE, clip, unstated, left_out])
    assert repository.frames(KEY, 1) == 302
    assert repository.frames(KEY, 2) == 0


def test_the_same_answer_is_kept_once_and_another_one_beside_it(repository: Repository, engine: Engine) -> None:
    assert repository.save_prediction(prediction(), "run-1", NOW)
    assert not repository.save_prediction(prediction(), "run-2", NOW)
    assert repository.save_prediction(prediction(0.75), "run-3")
    assert repository.save_prediction(replace(prediction(), model=replace(MODEL, weights_sha256="e" * 64)), "run-4")
    kept = rows(engine, inference_results)
    assert [row.run_id for row in kept] == ["run-1", "run-3", "run-4"]
    assert kept[0].result["findings"][0] == {
        "label": "effusion",
        "probability": 0.25,
        "uncertainty": 0.0,
        "threshold": 0.5,
        "images": ["2.25.1"],
    }


def test_no_model_is_no_answer(repository: Repository, engine: Engine) -> None:
    assert not repository.save_prediction(prediction(labels=()), "run-1", NOW)
    assert rows(engine, inference_results) == []
