"""A validator that is not ours finds no error in a de-identified file that the file did not have before."""

from __future__ import annotations

import shutil

import pytest

from medai_pipeline.dicom.deidentify import Deidentifier
from medai_pipeline.dicom.options import parse_options
from medai_pipeline.errors import DeidentificationError, DicomError
from medai_pipeline_tests.conftest import missing
from medai_pipeline_tests.test_deidentification import dciodvfy_errors, real_files

KEY = b"a key that only this test knows!"
KEEPING = (
    "retain-safe-private", "retain-uids", "retain-device-identity", "retain-institution-identity", "clean-graphics",
    "retain-patient-characteristics", "retain-full-dates", "clean-descriptors", "clean-structured-content",
)  # fmt: skip


@pytest.mark.parametrize("names", [(), KEEPING], ids=["Basic Profile", "options that keep and clean"])
def test_dciodvfy_finds_no_new_error_on_any_file(test_data, tmp_path, names):
    if shutil.which("dciodvfy") is None:
        missing("dciodvfy (apt install dicom3tools)")
    target, deidentifier = tmp_path / "deidentified.dcm", Deidentifier(KEY, parse_options(names))
    new = {}
    done = 0
    for path in real_files(test_data):
        try:
            target.write_bytes(deidentifier.deidentify(path.read_bytes()).data)
        except (DeidentificationError, DicomError):
            continue
        done += 1
        errors = dciodvfy_errors(target)
        if errors and (more := errors - dciodvfy_errors(path)):
            new[path.name] = more
    assert new == {} and done > 150
