"""A study of several kinds of images: one kind is read, by its own model; the rest is named, never passed off as read."""

from __future__ import annotations

from dataclasses import replace

import pytest

from medai_pipeline.dicom.deidentify import Deidentifier
from medai_pipeline.dicom.select import select
from medai_pipeline.errors import NoUsableImages
from medai_pipeline.models.catalog import packaged
from medai_pipeline.phantoms.studies import make_study, to_bytes
from medai_pipeline.records import DeidentifiedStudy
from medai_pipeline.stages import deidentify_study, fetch_study, images, normalize_study
from medai_pipeline.triage.decide import triage


class Memory(dict):
    put, get = dict.__setitem__, dict.__getitem__


@pytest.fixture(scope="module")
def parts() -> tuple[dict[str, DeidentifiedStudy], Memory]:
    objects, studies = Memory(), {}
    for kind, seed, options in (
        ("chest-ct", 3, {"slices": 4}),
        ("brain-mr", 4, {"slices": 3}),
        ("chest-xray", 5, {}),
    ):
        study = make_study(kind, seed, findings=(), **options)
        manifest = fetch_study("k", 1, "d", map(to_bytes, study.datasets), objects)
        studies[kind], _ = deidentify_study(manifest, objects, Deidentifier(bytes(32)))
    return studies, objects


def joined(*studies: DeidentifiedStudy) -> DeidentifiedStudy:
    return replace(studies[0], instances=tuple(i for study in studies for i in study.instances))


def with_body_part(study: DeidentifiedStudy, body_part: str, count: int) -> DeidentifiedStudy:
    changed = [replace(i, body_part=body_part) for i in study.instances[:count]]
    return replace(study, instances=(*changed, *study.instances[count:]))


def decision(tensors):
    return triage(["Nodule"], [0.02], [0.5], [0.01], problems=tensors.problems)


def test_of_two_modalities_the_larger_is_read_and_the_other_keeps_the_study_from_being_normal(parts) -> None:
    studies, objects = parts
    tensors = normalize_study(joined(studies["brain-mr"], studies["chest-ct"]), objects)
    assert (tensors.model, len(tensors.pixels)) == ("demo-chest-ct", 4)
    assert [p.code for p in tensors.problems] == ["other-modality"] * 3
    found = decision(tensors)
    assert found.review_required and found.priority == "routine"
    assert any("MR beside CT (3 images)" in reason for reason in found.reasons)


def test_another_body_part_is_not_fed_to_the_model(parts) -> None:
    studies, objects = parts
    mixed = with_body_part(studies["chest-ct"], "HEAD", 1)
    tensors = normalize_study(mixed, objects)
    head = mixed.instances[0].sop_instance_uid
    assert head not in {item.sop_instance_uid for item in tensors.items}
    assert [(p.code, p.subject) for p in tensors.problems] == [("other-body-part", head)]
    assert decision(tensors).review_required


def test_words_for_the_same_body_part_are_one_kind(parts) -> None:
    studies, objects = parts
    tensors = normalize_study(with_body_part(studies["chest-ct"], "THORAX", 2), objects)
    assert len(tensors.pixels) == 4 and not tensors.problems and not tensors.body_part_assumed


def test_what_names_no_body_part_is_read_with_its_modality_and_said_to_be_assumed(parts) -> None:
    studies, objects = parts
    tensors = normalize_study(with_body_part(studies["chest-ct"], "", 2), objects)
    assert len(tensors.pixels) == 4 and tensors.body_part_assumed


def test_what_a_model_covers_is_read_before_what_none_does(parts) -> None:
    studies, objects = parts
    knee = with_body_part(studies["chest-ct"], "KNEE", 4)
    tensors = normalize_study(joined(knee, studies["chest-xray"]), objects)
    assert (tensors.model, len(tensors.pixels)) == ("demo-chest-xray", 2)
    assert len(tensors.problems) == 4


def test_a_long_series_is_sampled_and_says_so(parts, monkeypatch: pytest.MonkeyPatch) -> None:
    studies, objects = parts
    monkeypatch.setattr(images, "IMAGES_PER_STUDY", 3)
    tensors = normalize_study(studies["chest-ct"], objects)
    assert len(tensors.pixels) == 3
    (problem,) = tensors.problems
    assert (problem.code, problem.reason) == ("sampled", "of 4 images 3 were looked at, evenly spaced")
    found = decision(tensors)
    assert found.review_required and found.priority == "routine"


def test_a_ct_slice_without_hounsfield_units_is_not_read_and_said_so(parts) -> None:
    studies, _ = parts
    study = make_study("chest-ct", 6, findings=(), slices=3)
    for tag in ("RescaleSlope", "RescaleIntercept", "RescaleType"):
        if tag in study.datasets[0]:
            del study.datasets[0][tag]
    objects = Memory()
    manifest = fetch_study("k", 1, "d", map(to_bytes, study.datasets), objects)
    bare, _ = deidentify_study(manifest, objects, Deidentifier(bytes(32)))
    tensors = normalize_study(bare, objects)
    assert len(tensors.pixels) == 2
    assert [problem.code for problem in tensors.problems] == ["unfit-values"]
    assert decision(tensors).review_required


def test_the_sites_model_is_used_for_what_it_is_made_for_and_the_demo_models_for_the_rest(parts) -> None:
    studies, objects = parts
    preferred = ("chest-xray-resnet50",)
    assert normalize_study(studies["chest-xray"], objects, packaged(preferred)).model == "chest-xray-resnet50"
    assert normalize_study(studies["chest-ct"], objects, packaged(preferred)).model == "demo-chest-ct"


def test_missing_slices_and_odd_objects_are_warnings_and_a_gap_asks_for_a_person() -> None:
    study = make_study("chest-ct", 7, findings=(), slices=8)
    kept = [dataset for n, dataset in enumerate(study.datasets) if n not in (3, 4)]
    del kept[0].PhotometricInterpretation
    kept[1].WindowCenter = [40, 50, 60]
    objects = Memory()
    manifest = fetch_study("k", 1, "d", map(to_bytes, kept), objects)
    gapped, _ = deidentify_study(manifest, objects, Deidentifier(bytes(32)))
    codes = {warning.code for warning in gapped.warnings}
    assert {"series-gaps", "window"} <= codes
    found = triage(["Nodule"], [0.02], [0.5], [0.01], problems=gapped.warnings)
    assert found.review_required and any("about 2 slices missing" in reason for reason in found.reasons)


def test_a_study_of_nothing_but_derived_images_is_read_and_a_person_told(parts) -> None:
    studies, objects = parts
    derived = [replace(i, image_type=("DERIVED", "SECONDARY", "AXIAL")) for i in studies["chest-ct"].instances]
    alone = replace(studies["chest-ct"], instances=select(derived))
    assert not any(instance.usable for instance in alone.instances)
    tensors = normalize_study(alone, objects)
    assert len(tensors.pixels) == 4 and [p.code for p in tensors.problems] == ["no-acquired-images"]
    assert decision(tensors).review_required


def test_beside_acquired_images_derived_ones_are_left_out_and_a_localizer_is_no_last_resort(parts) -> None:
    studies, objects = parts
    acquired = studies["chest-ct"].instances
    derived = replace(acquired[0], image_type=("DERIVED", "SECONDARY", "AXIAL"))
    mixed = replace(studies["chest-ct"], instances=select((derived, *acquired[1:])))
    assert len(normalize_study(mixed, objects).pixels) == 3
    scout = replace(acquired[0], image_type=("DERIVED", "SECONDARY", "LOCALIZER"))
    with pytest.raises(NoUsableImages):
        normalize_study(replace(studies["chest-ct"], instances=select((scout,))), objects)
