"""The age that triage may ask for: whole years at the study, never above 90, and not shown by the record."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset

from medai_pipeline.dicom.deidentify import Deidentifier
from medai_pipeline.dicom.read import age_years
from medai_pipeline.phantoms.studies import make_study, to_bytes
from medai_pipeline.stages import deidentify_study, fetch_study


@pytest.mark.parametrize(
    ("age", "born", "seen", "years"),
    [
        ("045Y", "", "", 45),
        ("018M", "", "", 1),
        ("010W", "", "", 0),
        ("103Y", "", "", 90),
        ("", "19800302", "20260301", 45),
        ("", "19800301", "20260301", 46),
        ("", "19100101", "20260301", 90),
        ("", "20270101", "20260301", None),
        ("45", "", "20260301", None),
        ("", "1980", "20260301", None),
        ("", "", "", None),
    ],
)
def test_it_is_stated_or_follows_from_the_dates(age, born, seen, years) -> None:
    header = Dataset()
    header.PatientAge, header.PatientBirthDate, header.StudyDate = age, born, seen
    assert age_years(header) == years


def test_it_comes_with_the_study_and_does_not_show() -> None:
    made = make_study("chest-xray", 5)
    for dataset in made.datasets:
        dataset.PatientAge = "067Y"

    class Memory(dict):
        put, get = dict.__setitem__, dict.__getitem__

    objects = Memory()
    study, _ = deidentify_study(
        fetch_study("k", 1, "d", map(to_bytes, made.datasets), objects), objects, Deidentifier(bytes(32))
    )
    assert study.age_years == 67 and "age_years" not in repr(study)
