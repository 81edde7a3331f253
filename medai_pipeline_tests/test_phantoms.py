"""Phantom studies: the same bytes for the same seed, true boxes, valid DICOM, and every planted identity really there."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Callable

import numpy as np
import pydicom
import pytest

from medai_pipeline.phantoms.brain_mr import render_brain_mr
from medai_pipeline.phantoms.chest_ct import render_chest_ct
from medai_pipeline.phantoms.chest_xray import render_chest_xray
from medai_pipeline.phantoms.image import CT_LABELS, MR_LABELS, XRAY_LABELS, PhantomImage
from medai_pipeline.phantoms.studies import KINDS, demo_worklist, make_study, to_bytes, write_study
from medai_pipeline_tests.conftest import missing

SMALL = {"rows": 128, "columns": 128}
RENDERERS: dict[str, tuple[Callable[..., PhantomImage], tuple[str, ...]]] = {
    "PA": (lambda seed, labels: render_chest_xray(seed, labels, "PA", 256, 224), XRAY_LABELS),
    "LATERAL": (lambda seed, labels: render_chest_xray(seed, labels, "LATERAL", 256, 224), XRAY_LABELS),
    "CT": (lambda seed, labels: render_chest_ct(seed, labels, slices=8, **SMALL), CT_LABELS),
    "MR": (lambda seed, labels: render_brain_mr(seed, labels, slices=8, **SMALL), MR_LABELS),
}


@pytest.mark.parametrize("name", RENDERERS)
def test_a_seed_always_gives_the_same_picture_and_another_seed_another(name: str) -> None:
    render, labels = RENDERERS[name]
    first, again, other = render(5, labels[:1]), render(5, labels[:1]), render(6, labels[:1])
    assert np.array_equal(first.pixels, again.pixels)
    assert first.boxes == again.boxes
    assert not np.array_equal(first.pixels, other.pixels)


@pytest.mark.parametrize("name", RENDERERS)
def test_each_finding_changes_the_picture_inside_its_box_and_nowhere_far_from_it(name: str) -> None:
    render, labels = RENDERERS[name]
    for seed, label in enumerate(labels):
        normal, sick = render(seed, ()), render(seed, (label,))
        assert normal.boxes == ()
        if (name, label) == ("LATERAL", "Pneumothorax"):  # cannot be seen from the side, and is not claimed to be
            assert sick.boxes == ()
            continue
        assert sick.boxes, label
        for box in sick.boxes:
            x0, y0, x1, y1 = box.box
            rows, columns = sick.pixels.shape[-2:]
            assert 0 <= x0 < x1 <= columns and 0 <= y0 < y1 <= rows
            plane = sick.pixels[box.frame] if sick.pixels.ndim == 3 else sick.pixels
            before = normal.pixels[box.frame] if normal.pixels.ndim == 3 else normal.pixels
            change = np.abs(plane - before)
            outside = np.ones_like(change, bool)
            for other in sick.boxes:
                if other.frame == box.frame:
                    a, b, c, d = other.box
                    outside[b:d, a:c] = False
            assert change[y0:y1, x0:x1].mean() > 2 * change[outside].mean(), (label, box)


@pytest.mark.parametrize("name", RENDERERS)
def test_an_unknown_finding_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match="Fracture"):
        RENDERERS[name][0](1, ("Fracture",))


def test_chance_gives_normals_single_and_several_findings() -> None:
    counts = [len(render_chest_xray(seed, None, "PA", 64, 64).labels) for seed in range(40)]
    assert {0, 1, 2} <= set(counts)


def test_volumes_hold_hounsfield_units_of_air_lung_and_bone() -> None:
    volume = render_chest_ct(3, (), slices=8, **SMALL).pixels
    assert np.percentile(volume, 5) < -950
    assert ((volume > -900) & (volume < -780)).mean() > 0.04
    assert volume.max() > 300


def _study(kind: str, seed: int, **options):
    size = {} if kind == "chest-xray" else {"slices": 3}
    return make_study(kind, seed, rows=160, columns=144 if kind == "chest-xray" else 160, **size, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [1, 2, 3, 6])  # signed and unsigned CT, T2 and FLAIR
def test_dciodvfy_finds_no_error(kind: str, seed: int, tmp_path) -> None:
    if not shutil.which("dciodvfy"):
        missing("dciodvfy (apt: dicom3tools)")
    study = _study(kind, seed, monochrome1=bool(seed % 2), burned_in=seed == 2)
    for path in write_study(study, tmp_path):
        result = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
        report = result.stdout + result.stderr
        assert [line for line in report.splitlines() if line.startswith("Error")] == []
        assert {"chest-xray": "DXImageForPresentation", "chest-ct": "CTImage", "brain-mr": "MRImage"}[kind] in report


@pytest.mark.parametrize("kind", KINDS)
def test_a_study_is_the_same_bytes_every_time_and_reads_back_as_it_was(kind: str) -> None:
    study, again = _study(kind, 7), _study(kind, 7)
    files = [to_bytes(ds) for ds in study.datasets]
    assert files == [to_bytes(ds) for ds in again.datasets]
    for data, ds in zip(files, study.datasets, strict=True):
        read = pydicom.dcmread(io.BytesIO(data))
        assert read == ds
        assert read.pixel_array.shape == (160, 144 if kind == "chest-xray" else 160)
        assert all(str(value).startswith("2.25.") for value in (read.StudyInstanceUID, read.SOPInstanceUID))
    assert set(study.boxes) == {str(ds.SOPInstanceUID) for ds in study.datasets}


@pytest.mark.parametrize("kind", KINDS)
def test_every_marker_is_really_in_the_bytes(kind: str) -> None:
    study = _study(kind, 11)
    data = b"".join(to_bytes(ds) for ds in study.datasets)
    assert len(study.markers) > 35
    assert [marker for marker in study.markers if marker.encode() not in data] == []


def test_identities_stand_in_nested_and_private_elements_and_free_text() -> None:
    ds = _study("chest-ct", 12).datasets[0]
    token = ds.PatientID.removesuffix("PID")
    assert token in ds[0x0009, 0x1002].value[0][0x0011, 0x1001].value
    assert token in ds.RequestAttributesSequence[0].ScheduledProcedureStepDescription
    assert token in ds.PatientComments and token in ds.StudyDescription
    assert len(ds.AccessionNumber) <= 16


def test_identities_are_burned_into_the_pixels_on_request_alone() -> None:
    plain, burned = _study("chest-xray", 13), _study("chest-xray", 13, burned_in=True)
    for one, other in zip(plain.datasets, burned.datasets, strict=True):
        difference = one.pixel_array != other.pixel_array
        assert 30 < difference.sum() < 0.2 * difference.size
        assert (one.BurnedInAnnotation, other.BurnedInAnnotation) == ("NO", "YES")


def test_monochrome1_is_the_same_film_with_its_grey_values_turned_round() -> None:
    bright, dark = _study("chest-xray", 14, monochrome1=False), _study("chest-xray", 14, monochrome1=True)
    for one, other in zip(bright.datasets, dark.datasets, strict=True):
        assert other.PhotometricInterpretation == "MONOCHROME1"
        assert np.array_equal(one.pixel_array, 4095 - other.pixel_array)
        assert one.pixel_array.max() <= 4095


def test_ct_slices_rescale_to_hounsfield_units_and_descend_in_space() -> None:
    for seed in (20, 21):
        study = _study("chest-ct", seed, findings=())
        heights = [float(ds.ImagePositionPatient[2]) for ds in study.datasets]
        assert heights == sorted(heights, reverse=True)
        ds = study.datasets[0]
        units = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
        assert -1024 <= units.min() < -950 and units.max() > 200
    assert {_study("chest-ct", seed).datasets[0].PixelRepresentation for seed in (20, 21)} == {0, 1}


def test_the_demo_worklist_has_three_modalities_critical_findings_and_normals() -> None:
    orders = demo_worklist()
    assert len(orders) >= 8
    assert {order["kind"] for order in orders} == set(KINDS)
    assert any("Pneumothorax" in order["findings"] for order in orders)
    assert sum(order["findings"] == () for order in orders) >= 2
    assert {order["monochrome1"] for order in orders if order["kind"] == "chest-xray"} == {True, False}
