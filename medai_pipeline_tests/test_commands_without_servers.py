"""`medai analyze` and `medai deidentify` on folders, as a person runs them; bad input is one line and the rest goes on."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pydicom
import pytest
from click.testing import CliRunner, Result
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless

from medai_pipeline.cli import main
from medai_pipeline.phantoms.studies import make_study, to_bytes, write_study
from medai_pipeline.results.report import report_schema


@pytest.fixture
def medai(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MEDAI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GPU_ENABLED", "false")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Result:
        result = CliRunner().invoke(main, [str(a) for a in arguments])
        assert "Traceback" not in result.output
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run


def reports(out: Path) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in out.glob("*/report.json")}


def test_analyze_writes_report_pictures_and_clean_files_for_each_study(medai, tmp_path: Path) -> None:
    for seed, kind in enumerate(("chest-xray", "chest-ct", "brain-mr"), start=900):
        write_study(make_study(kind, seed, slices=3), tmp_path / "in" / kind)
    result = medai("analyze", tmp_path / "in", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    found = reports(tmp_path / "out")
    assert sorted(report["modality"] for report in found.values()) == ["CT", "DX", "MR"]
    for key, report in found.items():
        jsonschema.validate(report, report_schema())
        assert report["study_key"] == key
        assert "Research use only" in report["disclaimer"]
        folder = tmp_path / "out" / key
        assert (folder / "report.html").read_text().startswith("<!doctype html")
        assert list((folder / "overlays").glob("*.png"))
        assert len(list((folder / "anonymized").glob("*.dcm"))) == len(report["lineage"]["source_sha256"])
        assert json.loads((folder / "fhir.json").read_text())["resourceType"] == "Bundle"
        results = [pydicom.dcmread(path) for path in sorted((folder / "results").glob("*.dcm"))]
        assert results[0].Modality == "SR" and not results[0].PatientName
        (clean, *_) = (folder / "anonymized").glob("*.dcm")
        assert {made.StudyInstanceUID for made in results} == {pydicom.dcmread(clean).StudyInstanceUID}


def test_analyze_of_the_same_study_again_gives_the_same_report(medai, tmp_path: Path) -> None:
    write_study(make_study("chest-xray", 911), tmp_path / "in")
    for out in ("one", "two"):
        assert medai("analyze", tmp_path / "in", "--out", tmp_path / out).exit_code == 0
    (first,), (second,) = reports(tmp_path / "one").values(), reports(tmp_path / "two").values()
    first.pop("generated_at"), second.pop("generated_at")
    assert first == second


def damaged(tmp_path: Path) -> Path:
    """A folder with one good study, and one of each kind of bad file."""
    folder = tmp_path / "in"
    write_study(make_study("chest-xray", 921), folder / "good")
    whole = to_bytes(make_study("chest-ct", 922, slices=1).datasets[0])
    (folder / "notes.txt").write_text("this is not DICOM")
    (folder / "cut.dcm").write_bytes(whole[: len(whole) // 2])
    without = make_study("chest-ct", 923, slices=1).datasets[0]
    del without.PixelData
    (folder / "without-pixels.dcm").write_bytes(to_bytes(without))
    odd = make_study("chest-ct", 924, slices=1).datasets[0]
    odd.Modality = "XYZ"
    (folder / "odd-modality.dcm").write_bytes(to_bytes(odd))
    wrong = make_study("chest-ct", 925, slices=1).datasets[0]
    wrong.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51 no such code stream"])
    wrong["PixelData"].is_undefined_length = True
    wrong.file_meta.TransferSyntaxUID = JPEG2000Lossless
    (folder / "undecodable.dcm").write_bytes(to_bytes(wrong))
    return folder


def test_bad_files_are_one_line_each_and_the_good_study_is_reported(medai, tmp_path: Path) -> None:
    result = medai("analyze", damaged(tmp_path), "--out", tmp_path / "out")
    assert result.exit_code == 1
    found = reports(tmp_path / "out")
    assert sum(report["models"] != [] for report in found.values()) == 1
    for reason in ("not DICOM", "ends", "image", "decoded"):
        assert reason in result.output, result.output
    assert "ZZMARK" not in result.output


def test_an_unreadable_file_in_a_good_study_is_listed_in_its_report(medai, tmp_path: Path) -> None:
    study = make_study("chest-ct", 931, slices=3)
    write_study(study, tmp_path / "in")
    broken = study.datasets[1]
    broken.PixelData = broken.PixelData[:100]
    broken.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for path in (tmp_path / "in").rglob("*.dcm"):
        if pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID == broken.SOPInstanceUID:
            path.write_bytes(to_bytes(broken))
    result = medai("analyze", tmp_path / "in", "--out", tmp_path / "out")
    assert "left out" in result.output
    assert len(reports(tmp_path / "out")) == 1


@pytest.mark.parametrize("command", ["analyze", "deidentify"])
def test_a_folder_without_dicom_is_an_error_that_says_so(medai, tmp_path: Path, command: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("nothing here")
    result = medai(command, tmp_path / "in", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "no DICOM study found" in result.output


def test_deidentify_leaves_no_planted_identity_and_keeps_the_pixels(medai, tmp_path: Path) -> None:
    study = make_study("brain-mr", 941, slices=3)
    write_study(study, tmp_path / "in")
    result = medai("deidentify", tmp_path / "in", "--out", tmp_path / "clean")
    assert result.exit_code == 0
    files = list((tmp_path / "clean").rglob("*.dcm"))
    assert len(files) == 3
    texts = [path.read_bytes() + str(path).encode() for path in files] + [result.output.encode()]
    assert [marker for marker in study.markers for text in texts if marker.encode() in text] == []
    pixels = sorted(bytes(dataset.PixelData) for dataset in study.datasets)
    assert sorted(bytes(pydicom.dcmread(path).PixelData) for path in files) == pixels


def test_a_model_of_the_site_without_weights_says_where_the_file_must_lie(medai, tmp_path: Path) -> None:
    result = medai("models", "list")
    assert result.exit_code == 0
    assert "resnet50" in result.output.lower() or "clinical" in result.output.lower()


@pytest.mark.parametrize("command", ["up", "demo", "send", "analyze", "deidentify", "worklist", "retry", "whois"])
def test_every_command_has_help_with_an_example(medai, command: str) -> None:
    result = medai(command, "--help")
    assert "Examples:" in result.output
    assert f"medai {command}" in result.output


@pytest.mark.parametrize("command", [("worklist",), ("send", "."), ("retry", "--failed"), ("whois", "X")])
def test_without_a_stack_the_commands_say_what_to_start(medai, tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "x.dcm").write_bytes(b"x")
    result = medai(*command)
    assert result.exit_code == 1
    assert "medai up" in result.output


def test_a_setting_that_makes_no_sense_is_one_line(medai, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDAI_WEB_PORT", "many")
    result = medai("worklist")
    assert result.exit_code == 1
    assert "MEDAI_WEB_PORT" in result.output


def test_an_output_that_cannot_be_written_is_one_line(medai, tmp_path: Path) -> None:
    write_study(make_study("chest-xray", 951), tmp_path / "in")
    (tmp_path / "full").symlink_to("/dev/full")
    result = medai("analyze", tmp_path / "in", "--out", tmp_path / "full" / "out")
    assert result.exit_code != 0
    assert len(result.output.strip().splitlines()) <= 4
