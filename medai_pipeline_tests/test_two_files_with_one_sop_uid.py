"""Two files that call themselves the same SOP instance: one counts, the other is named, and the study goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from medai_pipeline.cli import main
from medai_pipeline.phantoms.studies import make_study, to_bytes


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDAI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GPU_ENABLED", "false")
    study = make_study("chest-ct", 61, slices=3)
    (tmp_path / "in").mkdir()
    for number, dataset in enumerate(study.datasets):
        (tmp_path / "in" / f"{number}.dcm").write_bytes(to_bytes(dataset))
    return tmp_path


def analyze(folder: Path, out: str) -> Result:
    return CliRunner().invoke(main, ["analyze", str(folder / "in"), "--out", str(folder / out)])


def report(folder: Path, out: str) -> dict:
    (path,) = (folder / out).glob("*/report.json")
    return json.loads(path.read_text())


def clean(folder: Path, out: str) -> list[bytes]:
    return sorted(path.read_bytes() for path in (folder / out).glob("*/anonymized/*.dcm"))


def test_the_same_bytes_twice_are_one(folder: Path) -> None:
    (folder / "in" / "again.dcm").write_bytes((folder / "in" / "1.dcm").read_bytes())
    result = analyze(folder, "out")
    assert result.exit_code == 0, result.output
    assert len(clean(folder, "out")) == 3 and "same SOP Instance UID" not in result.output


def test_other_bytes_under_the_same_uid_are_left_out_and_named_whichever_name_they_have(folder: Path) -> None:
    other = make_study("chest-ct", 61, slices=3).datasets[1]
    other.PixelData = bytes(len(other.PixelData))
    original = (folder / "in" / "1.dcm").read_bytes()
    (folder / "in" / "9.dcm").write_bytes(to_bytes(other))
    first = analyze(folder, "one")
    (folder / "in" / "1.dcm").write_bytes(to_bytes(other))
    (folder / "in" / "9.dcm").write_bytes(original)
    second = analyze(folder, "two")
    for result in (first, second):
        assert result.exit_code == 1, "the study is reported, and a file is left out"
        assert "1 of 1 studies done; 1 file left out" in result.output
        assert "same SOP Instance UID" in result.output
    assert len(clean(folder, "one")) == 3
    assert clean(folder, "one") == clean(folder, "two")
    assert report(folder, "one")["priority"]
