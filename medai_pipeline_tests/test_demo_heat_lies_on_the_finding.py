"""The demo's own studies, through all stages: priorities as planted, and the heat's peak on the planted finding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medai_pipeline.analyze import OneShot, Outcome, analyze
from medai_pipeline.dicom.deidentify import Deidentifier
from medai_pipeline.dicom.read import StudyFiles
from medai_pipeline.phantoms.studies import PhantomStudy, demo_worklist, make_study, write_study
from medai_pipeline.stages import Inference
from medai_pipeline.storage.keys import SiteKeys

KEYS = SiteKeys.from_secret(bytes(range(32)))
DEIDENTIFIER = Deidentifier(KEYS.deidentification)
CRITICAL = {"Pneumothorax", "Haemorrhage"}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[PhantomStudy, Outcome]]:
    root = tmp_path_factory.mktemp("demo")
    studies = [make_study(**order) for order in demo_worklist()]
    found = [
        StudyFiles(str(s.datasets[0].StudyInstanceUID), tuple(write_study(s, root / str(n))))
        for n, s in enumerate(studies)
    ]
    job = OneShot(root / "out", KEYS.study_key, DEIDENTIFIER, Inference(Path(), gpu=False))
    outcomes = {outcome.study_key: outcome for outcome in analyze(found, job)}
    return [(s, outcomes[KEYS.study_key(f.study_instance_uid)]) for s, f in zip(studies, found, strict=True)]


def content(outcome: Outcome) -> dict:
    assert outcome.report is not None, outcome.reason
    return dict(outcome.report.content)


def test_the_demo_has_three_modalities_and_every_study_a_report(demo) -> None:
    assert len(demo) >= 6
    assert {content(outcome)["modality"] for _, outcome in demo} == {"DX", "CT", "MR"}


def test_a_planted_critical_finding_is_called_critical_and_a_normal_normal(demo) -> None:
    for study, outcome in demo:
        priority = content(outcome)["priority"]
        if CRITICAL.intersection(study.labels):
            assert priority == "critical", (study.kind, study.seed, study.labels)
        if not study.labels:
            assert priority == "normal", (study.kind, study.seed, content(outcome)["reasons"])


def test_each_planted_finding_of_the_demo_is_found(demo) -> None:
    for study, outcome in demo:
        present = {f["label"] for f in content(outcome)["findings"] if f["present"]}
        assert present >= set(study.labels), (study.kind, study.seed)


def test_the_strongest_region_of_each_map_lies_on_the_planted_finding(demo) -> None:
    hits, total = 0, 0
    for study, outcome in demo:
        boxes = {DEIDENTIFIER.new_uid(uid): true for uid, true in study.boxes.items()}
        for finding in content(outcome)["findings"]:
            if not finding["present"] or finding["label"] not in study.labels or not finding["regions"]:
                continue
            x0, y0, x1, y1 = finding["regions"][0]["box"]
            centre = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
            image = finding["images"][0]
            total += 1
            hits += any(inside(centre, box.box) for box in boxes[image] if box.label == finding["label"])
    assert total >= 6
    assert hits / total >= 0.85, f"{hits} of {total}"


def inside(point: np.ndarray, box: tuple[int, int, int, int], grown: float = 0.25) -> bool:
    """Within the box grown by a quarter of its size: the map's cells are coarser than a small finding."""
    x0, y0, x1, y1 = box
    dx, dy = grown * (x1 - x0) + 8, grown * (y1 - y0) + 8
    return bool(x0 - dx <= point[0] <= x1 + dx and y0 - dy <= point[1] <= y1 + dy)
