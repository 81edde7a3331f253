"""`medai analyze` for its user: which study came from where, what was left out, and what is refused before any work."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from medai_pipeline import analyze
from medai_pipeline.cli import main
from medai_pipeline.local.one_shot import require_writable
from medai_pipeline.local.terminal import StudyProgress
from medai_pipeline.phantoms.studies import make_study, to_bytes, write_study
from medai_pipeline.records import DeidentifiedStudy
from medai_pipeline_tests import report_samples


@pytest.fixture
def medai(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MEDAI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GPU_ENABLED", "false")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Result:
        result = CliRunner().invoke(main, [str(a) for a in arguments])
        assert "Traceback" not in result.output and "unexpected" not in result.output, result.output
        return result

    return run


def written(folder: Path, kind: str, seed: int, slices: int = 3) -> list[Path]:
    folder.mkdir(parents=True)
    paths = []
    for number, dataset in enumerate(make_study(kind, seed, slices=slices).datasets):
        paths.append(folder / f"{number}.dcm")
        paths[-1].write_bytes(to_bytes(dataset))
    return paths


def cut(path: Path, length: int | None = None) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: length or len(data) // 2])


def reports(out: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in out.glob("*/report.json")]


def test_a_truncated_file_is_a_problem_of_its_study_and_the_exit_code_says_that_something_is_missing(
    medai, tmp_path: Path
) -> None:
    paths = written(tmp_path / "in", "chest-ct", 71)
    cut(paths[1])
    result = medai("analyze", tmp_path / "in", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert f"left out {paths[1]}: the file ends" in result.output
    assert "1 of 1 studies done; 1 file left out" in result.output
    (report,) = reports(tmp_path / "out")
    assert "ends inside" in json.dumps(report), "the report says that a file could not be used"
    assert "in/1.dcm" not in json.dumps(report)


def test_a_study_of_truncated_files_alone_fails_visibly(medai, tmp_path: Path) -> None:
    for path in written(tmp_path / "in" / "bad", "chest-ct", 72):
        cut(path)
    written(tmp_path / "in" / "good", "chest-xray", 73)
    result = medai("analyze", tmp_path / "in", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "1 of 2 studies done" in result.output
    assert "none of the 3 files can be used" in result.output
    assert len(reports(tmp_path / "out")) == 1


def test_dicom_files_of_no_study_are_listed_and_other_files_only_mentioned(medai, tmp_path: Path) -> None:
    paths = written(tmp_path / "in", "chest-xray", 74)
    stump = tmp_path / "in" / "stump.dcm"
    stump.write_bytes(paths[0].read_bytes())
    cut(stump, 300)
    (tmp_path / "in" / "notes.txt").write_text("nothing to see")
    result = medai("analyze", tmp_path / "in", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert f"{stump}: the file ends" in result.output
    assert "1 files that are not DICOM" in result.output and "notes.txt" in result.output
    stump.unlink()
    assert medai("analyze", tmp_path / "in", "--out", tmp_path / "out").exit_code == 0, "other files are no loss"


def test_each_study_names_the_folder_it_came_from_on_the_terminal_alone(medai, tmp_path: Path) -> None:
    name = os.fsdecode("Müller\udcff [x]")
    written(tmp_path / name, "chest-xray", 75)
    result = medai("analyze", tmp_path, "--out", tmp_path.with_name(tmp_path.name + "-out"))
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.output.splitlines() if line.strip().startswith("from")]
    assert "Müller" in line and "[x]" in line and line.endswith("(2 files)")
    for path in tmp_path.with_name(tmp_path.name + "-out").rglob("*.*"):
        if path.is_file():
            assert "Müller".encode() not in path.read_bytes()


def test_a_new_site_key_is_told_once(medai, tmp_path: Path) -> None:
    written(tmp_path / "in", "chest-xray", 76)
    first = medai("deidentify", tmp_path / "in", "--out", tmp_path / "one")
    assert first.output.count(str(tmp_path / "home" / "keys" / "site.key")) == 1
    assert "site.key" not in medai("deidentify", tmp_path / "in", "--out", tmp_path / "two").output


@pytest.mark.parametrize("command", ["analyze", "deidentify"])
def test_results_among_what_is_read_are_refused(medai, tmp_path: Path, command: str) -> None:
    written(tmp_path / "in", "chest-xray", 77)
    for out in (tmp_path / "in", tmp_path / "in" / "out", Path("in/../in/deep/er")):
        result = medai(command, "in", "--out", out)
        assert result.exit_code == 1
        assert len(result.output.strip().splitlines()) == 1 and "--out" in result.output
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == ["0.dcm", "1.dcm"]


def test_an_out_that_cannot_be_written_is_one_line_before_any_work(medai, tmp_path: Path) -> None:
    written(tmp_path / "in", "chest-xray", 78)
    for out in (Path("/proc/nowhere"), tmp_path / "in" / "0.dcm" / "out"):
        result = medai("analyze", tmp_path / "in" / "1.dcm", "--out", out)
        assert result.exit_code == 1
        (line,) = result.output.strip().splitlines()
        assert "cannot be written" in line and str(out) in line
    assert not (tmp_path / "home").exists(), "not even a key was made"


def test_trying_an_out_leaves_nothing_in_it(tmp_path: Path) -> None:
    require_writable(tmp_path / "a" / "out")
    assert list((tmp_path / "a" / "out").iterdir()) == []


def test_what_is_written_is_for_its_owner_alone(medai, tmp_path: Path) -> None:
    written(tmp_path / "in", "chest-xray", 83)
    assert medai("analyze", tmp_path / "in", "--out", tmp_path / "out").exit_code == 0
    for made in (tmp_path / "out", tmp_path / "home"):
        for path in (made, *made.rglob("*")):
            assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_progress_moves_with_each_stage_of_each_study() -> None:
    bar = StudyProgress("analyzing", studies=2, steps=4)
    seen = []
    for stage in ("a", "b", "c"):
        for key in ("one", "two"):
            bar.advanced(key, stage)
            seen.append(bar.completed)
    assert seen == [0, 0, 1, 2, 3, 4]
    bar.ended("one")
    assert bar.completed == 6
    bar.ended("two")
    assert bar.completed == 8


def test_a_batch_tells_its_stages_while_it_is_under_way(medai, tmp_path: Path, monkeypatch) -> None:
    told: list[tuple[str, float]] = []
    update = StudyProgress._update

    def watched(self: StudyProgress, stage: str) -> None:
        update(self, stage)
        told.append((stage, self.completed))

    monkeypatch.setattr(StudyProgress, "_update", watched)
    for seed in (79, 80):
        write_study(make_study("chest-xray", seed), tmp_path / "in" / str(seed))
    assert medai("analyze", tmp_path / "in", "--out", tmp_path / "out").exit_code == 0
    assert [stage for stage, _ in told].count("deidentify") == 2
    assert {"normalize", "predict", "report"} <= {stage for stage, _ in told}
    steps = [done for _, done in told]
    assert steps == sorted(steps) and steps[-1] == 14 and len(set(steps)) >= 12


def test_studies_of_many_frames_are_read_one_after_the_other(medai, tmp_path: Path, monkeypatch) -> None:
    film = report_samples.instance(0)
    clip, unusable = replace(film, frames=300), replace(film, frames=300, usable=False)
    assert analyze._frames(DeidentifiedStudy("A", 1, "d", "profile", (film, clip, unusable))) == 301
    told: list[str] = []
    update = StudyProgress._update
    monkeypatch.setattr(StudyProgress, "_update", lambda self, stage: (told.append(stage), update(self, stage))[1])
    monkeypatch.setattr(analyze, "_frames", lambda study: 512)
    for seed in (79, 80):
        write_study(make_study("chest-xray", seed), tmp_path / "in" / str(seed))
    assert medai("analyze", tmp_path / "in", "--out", tmp_path / "out").exit_code == 0
    stages = [stage for stage in told if stage in ("deidentify", "normalize", "report")]
    assert stages == ["deidentify"] * 2 + ["normalize", "report"] * 2


def test_libraries_talk_to_the_terminal_only_of_trouble(medai, tmp_path: Path) -> None:
    written(tmp_path / "in", "chest-xray", 81)
    command = ("analyze", tmp_path / "in", "--out", tmp_path / "out")
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        root.handlers = []
        result = medai(*command)
        assert not any(f"{level} " in result.output for level in ("DEBUG", "INFO", "WARNING")), result.output
        logging.getLogger("some.library").info("chatter")
        assert not logging.getLogger("some.library").isEnabledFor(logging.INFO)
        assert logging.getLogger("some.library").isEnabledFor(logging.ERROR)
    finally:
        root.handlers, root.level = before, level


def test_a_link_to_an_input_folder_is_seen_through(medai, tmp_path: Path) -> None:
    written(tmp_path / "in", "chest-xray", 82)
    (tmp_path / "link").symlink_to(tmp_path / "in")
    result = medai("analyze", tmp_path / "in", "--out", tmp_path / "link" / "out")
    assert result.exit_code == 1 and "--out" in result.output
