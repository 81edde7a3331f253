"""What pydicom says of a file quotes its values: none of it may reach a terminal or a log."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from medai_pipeline.dicom.read import find_files
from medai_pipeline_tests.dicom_objects import image, written

NAME = "QUXBERG"
ASKS = """
import logging, sys, warnings
{first}
logging.basicConfig(level=logging.DEBUG)
import medai_pipeline.dicom
import pydicom, pydicom.config
{then}
pydicom.config.logger.warning("said QUXBERG"); logging.getLogger("pydicom").error("said QUXBERG")
data = pydicom.dcmread(sys.argv[1], force=True)
for element in data.iterall(): str(element.value)
print(data.StudyInstanceUID != "", "done")
"""


def bad_file(folder: Path) -> Path:
    """UIDs and dates that pydicom complains about, each with the name in it."""
    dataset = image()
    data = written(dataset).replace(dataset.StudyInstanceUID.encode(), f"{NAME} 1.2".encode().ljust(23, b" "))
    path = folder / "bad.dcm"
    path.write_bytes(data.replace(dataset.SeriesInstanceUID.encode(), f"{NAME} 1.3".encode().ljust(23, b" ")))
    return path


@pytest.mark.parametrize(
    "first,then",
    [
        ("", ""),
        ("import pydicom", ""),
        ("", "logging.getLogger('pydicom').setLevel(10)"),
        ("", "pydicom.config.debug()"),
    ],
    ids=["ours first", "pydicom first", "its level set again", "its debugging on"],
)
def test_a_fresh_process_prints_no_value_that_pydicom_complains_about(tmp_path, first, then):
    script = ASKS.format(first=first, then=then)
    asked = [sys.executable, "-c", script, str(bad_file(tmp_path))]
    result = subprocess.run(asked, capture_output=True, text=True, timeout=120)
    assert "done" in result.stdout, result.stderr
    assert NAME not in result.stdout + result.stderr


def test_the_command_prints_no_value_that_pydicom_complains_about(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    bad_file(source)
    asked = [sys.executable, "-m", "medai_pipeline.cli", "deidentify", str(source), str(tmp_path / "out")]
    result = subprocess.run(asked, capture_output=True, text=True, timeout=120)
    assert result.stdout + result.stderr
    assert NAME not in result.stdout + result.stderr


def test_links_in_a_folder_are_not_followed_and_a_named_one_is(tmp_path):
    outside, folder = tmp_path / "outside.dcm", tmp_path / "in"
    folder.mkdir()
    outside.write_bytes(b"x")
    (folder / "own.dcm").write_bytes(b"y")
    (folder / "link.dcm").symlink_to(outside)
    (folder / "up").symlink_to(tmp_path, target_is_directory=True)
    assert list(find_files([folder])) == [folder / "own.dcm"]
    assert list(find_files([folder / "link.dcm"])) == [folder / "link.dcm"]
