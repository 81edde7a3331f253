"""MEDAI_RETURN_TO: what a site may write, and what is refused before anything is sent."""

from __future__ import annotations

import pytest

from medai_pipeline.errors import SettingsError
from medai_pipeline.pacs.destination import Destination, parse_destinations
from medai_pipeline.pacs.node import Node
from medai_pipeline.pacs.tls import TlsFiles
from medai_pipeline.settings import read_settings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("orthanc", [Destination("orthanc")]),
        (" Orthanc , dicom://PACS@10.0.0.5:104", [
            Destination("orthanc"), Destination("dicom://PACS@10.0.0.5:104", Node("10.0.0.5", 104, "PACS", "US")),
        ]),
        ("dicom://MAIN%20PACS@pacs.example:11112?commitment&calling=AI", [
            Destination("dicom://MAIN PACS@pacs.example:11112", Node("pacs.example", 11112, "MAIN PACS", "AI"), True),
        ]),
        ("dicom://A@h:1?commitment=no", [Destination("dicom://A@h:1", Node("h", 1, "A", "US"))]),
        ("dicoms://A@h:1", [Destination("dicoms://A@h:1", Node("h", 1, "A", "US", TlsFiles()))]),
    ],
)  # fmt: skip
def test_a_destination_is_read(text: str, expected: list[Destination]) -> None:
    assert list(parse_destinations(text, "US")) == expected


@pytest.mark.parametrize(
    "text",
    [
        ",", "pacs", "http://h:80", "dicom://h:104", "dicom://A@h", "dicom://A@h:0", "dicom://A@h:99999", "dicom://A@h:x",
        "dicom://A:secret@h:104", "dicom://A@h:104/path", "dicom://A@h:104?tls", "dicom://A@h:104?commitment=perhaps",
        "dicom://ATITLETHATISTOOLONG@h:104", "dicom://A%5CB@h:104", "dicom://%20@h:104", "orthanc,orthanc",
        "dicom://A@h:104,dicom://A@h:104?commitment",
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_and_named(text: str) -> None:
    with pytest.raises(SettingsError, match="MEDAI_RETURN_TO"):
        read_settings({"MEDAI_RETURN_TO": text})


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("MEDAI_RETURN", "always"), ("MEDAI_RETURN_DAYS", "-1"), ("MEDAI_RETURN_DAYS", "some"),
        ("MEDAI_RETURN_ATTEMPTS", "0"), ("MEDAI_RETURN_RETRY_SECONDS", "inf"), ("MEDAI_COMMITMENT_LISTEN", "4243"),
        ("MEDAI_COMMITMENT_LISTEN", "h:0"),
    ],
)  # fmt: skip
def test_other_settings_of_returning_are_checked_at_the_start(variable: str, text: str) -> None:
    with pytest.raises(SettingsError, match=variable):
        read_settings({variable: text})


def test_results_of_any_age_may_be_wanted() -> None:
    assert read_settings({"MEDAI_RETURN_DAYS": "all"}).return_days is None
    assert read_settings({}).return_days == 7
