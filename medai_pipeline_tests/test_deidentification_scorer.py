"""The scorer of benchmarks/: it must see each identity that is left, and each needed value that is lost, and nothing else."""

from __future__ import annotations

import io
import sys
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from medai_pipeline_tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from deid_score import report, specimens
from deid_score.actions import Action, Expected, Verdict, shown
from deid_score.judge import judge
from deid_score.key import answer_key
from deid_score.specimens import Specimen
from deid_score.standard import Tables, load

MODIFIED = frozenset({"retain_long_modified_dates"})
CLEAN = frozenset({"clean_descriptors"})


@pytest.fixture(scope="module")
def tables(test_data: Path) -> Tables:
    return load(test_data / "standard")


@pytest.fixture(scope="module")
def made(tables: Tables, tmp_path_factory: pytest.TempPathFactory) -> list[Specimen]:
    return specimens.make_specimens(tables, tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def captured(made: list[Specimen]) -> Specimen:
    return next(s for s in made if s.ink is not None)


@pytest.fixture(scope="module")
def planted(made: list[Specimen]) -> list[Specimen]:
    return [
        s for s in made if s.name in ("xiomara-ct0.dcm", "xiomara-ct1.dcm", "xiomara-later-ct0.dcm", "tadeusz-dx1.dcm")
    ]


def bytes_of(ds: Dataset) -> bytes:
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def perfect(planted: list[Specimen], key: list[Expected]) -> dict[str, Dataset]:
    """Files made from the key itself: what must go is deleted, what must change is changed, all else stays."""
    files = {}
    for specimen in planted:
        ds = specimen.dataset
        ds.remove_private_tags()
        ds.preamble = bytes(128)
        ds.file_meta.pop(0x00020016), ds.file_meta.pop(0x00020100), ds.file_meta.pop(0x00020102)
        for e in [e for e in key if e.file == specimen.name]:
            fulfil(ds, e)
        for group in (0x5000, 0x6000):
            for tag in [tag for tag in ds.keys() if tag >> 16 == group]:  # noqa: SIM118 (raw tags)
                del ds[tag]
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        files[specimen.name] = ds
    return files


def fulfil(ds: Dataset, e: Expected) -> None:
    if not e.path or not all(isinstance(step, int) for step in e.path):
        return
    if e.action is Action.UID_CHANGED:
        element = at(ds, e.path[:-1])
        if element is not None:
            values = str(element.value).strip("[]").replace("'", "").split(", ")
            element.value = [new_uid(uid) for uid in values] if len(values) > 1 else new_uid(values[0])
    elif e.action in (Action.TEXT_REMOVED, Action.DATE_SHIFTED):
        element = at(ds, e.path)
        if element is not None:
            element.value = None
    elif e.action is Action.TEXT_NOTNULL:
        element = at(ds, e.path)
        element.value = {"DA": "19000101", "TM": "000000", "DT": "19000101000000"}.get(element.VR, "DUMMY")
    elif e.path == (0x00120062,):
        ds.PatientIdentityRemoved = "YES"


def new_uid(uid: str) -> str:
    return uid if uid.startswith("2.25.9") and len(uid) < 20 else f"2.25.9{zlib.crc32(uid.encode())}"


def at(ds: Dataset, path: tuple) -> pydicom.DataElement | None:
    for tag, number in zip(path[:-1:2], path[1:-1:2], strict=True):
        if tag not in ds or number >= len(ds[tag].value):
            return None
        ds = ds[tag].value[number]
    return ds.get(path[-1])


def wrong(key: list[Expected], files: dict[str, Dataset], planted: list[Specimen]) -> list[Verdict]:
    verdicts = judge(key, {name: bytes_of(ds) for name, ds in files.items()}, planted)
    assert len(verdicts) == len(key)
    return [verdict for verdict in verdicts if not verdict.correct]


@pytest.fixture
def key(planted: list[Specimen], tables: Tables) -> list[Expected]:
    return [e for specimen in planted for e in answer_key(specimen, tables)]


@pytest.fixture
def files(planted: list[Specimen], key: list[Expected]) -> dict[str, Dataset]:
    return perfect(planted, key)


def test_files_made_from_the_key_have_every_action_correct(planted, key, files) -> None:
    assert [
        (v.expected.value, v.expected.action, shown(v.expected.path), v.found) for v in wrong(key, files, planted)
    ] == []


def test_the_key_has_every_action_type_of_the_challenge_but_those_of_options(key) -> None:
    assert set(Action) - {e.action for e in key} == {Action.PIXELS_HIDDEN}


def test_a_tool_that_copies_is_wrong_in_every_removal_and_right_in_what_must_stay(planted, key) -> None:
    verdicts = judge(key, {s.name: s.data for s in planted}, planted)
    correct = Counter(v.expected.action for v in verdicts if v.correct)
    total = Counter(v.expected.action for v in verdicts)
    for action in (Action.TEXT_REMOVED, Action.DATE_SHIFTED, Action.UID_CHANGED):
        assert correct[action] == 0 < total[action]
    for action in (Action.PIXELS_RETAINED, Action.TAG_RETAINED, Action.TEXT_NOTNULL, Action.UID_CONSISTENT):
        assert correct[action] == total[action]


def test_a_file_that_is_not_written_or_is_not_dicom_is_wrong_in_each_action(planted, key, files) -> None:
    good = {name: bytes_of(ds) for name, ds in files.items()}
    for broken in (
        {**good, "tadeusz-dx1.dcm": b"not DICOM"},
        {k: v for k, v in good.items() if k != "tadeusz-dx1.dcm"},
    ):
        verdicts = judge(key, broken, planted)
        assert {v.expected.file for v in verdicts if not v.correct} == {"tadeusz-dx1.dcm"}
        assert all(not v.correct for v in verdicts if v.expected.file == "tadeusz-dx1.dcm")


def places(verdicts: list[Verdict]) -> set[tuple[str, Action, str]]:
    return {(v.expected.file, v.expected.action, shown(v.expected.path)) for v in verdicts}


def test_an_identity_left_in_one_element_loses_that_action_and_the_search_of_the_bytes(planted, key, files) -> None:
    files["xiomara-ct0.dcm"].PatientTelephoneNumbers = "call 555-0147-882 now"
    assert places(wrong(key, files, planted)) == {
        ("xiomara-ct0.dcm", Action.TEXT_REMOVED, "(0010,2154)"),
        ("xiomara-ct0.dcm", Action.TEXT_REMOVED, "whole file"),
    }


def test_an_identity_moved_to_a_private_element_or_the_preamble_is_found(planted, key, files) -> None:
    files["xiomara-ct0.dcm"].private_block(0x0029, "SOMEBODY", create=True).add_new(1, "LO", "xiomara")
    files["tadeusz-dx1.dcm"].preamble = b"WRZESNIEWSKI".ljust(128)
    assert places(wrong(key, files, planted)) == {
        ("xiomara-ct0.dcm", Action.TEXT_REMOVED, "whole file"),
        ("tadeusz-dx1.dcm", Action.TEXT_REMOVED, "whole file"),
    }


def test_a_nested_identity_that_is_left_is_found_at_its_place(planted, key, files) -> None:
    inner = files["xiomara-ct0.dcm"].OriginalAttributesSequence[0].ModifiedAttributesSequence[0]
    inner.PatientID = "WRONG-ID-4417"
    assert ("xiomara-ct0.dcm", Action.TEXT_REMOVED, "(0400,0561)[0](0400,0550)[0](0010,0020)") in places(
        wrong(key, files, planted)
    )


def test_a_needed_value_that_is_lost_or_changed_loses_its_action(planted, key, files) -> None:
    del files["xiomara-ct0.dcm"].KVP
    files["xiomara-ct1.dcm"].PixelSpacing = [1.0, 2.0]
    files["tadeusz-dx1.dcm"].AnatomicRegionSequence[0].CodeMeaning = "Foot"
    assert places(wrong(key, files, planted)) == {
        ("xiomara-ct0.dcm", Action.TEXT_RETAINED, "(0018,0060)"),
        ("xiomara-ct1.dcm", Action.TEXT_RETAINED, "(0028,0030)"),
        ("tadeusz-dx1.dcm", Action.TEXT_RETAINED, "(0008,2218)[0](0008,0104)"),
    }


def test_an_element_of_type_2_that_is_removed_or_a_dummy_that_is_empty_loses_its_action(planted, key, files) -> None:
    del files["xiomara-ct0.dcm"].PatientName
    files["xiomara-ct0.dcm"].ClinicalTrialSponsorName = None
    assert places(wrong(key, files, planted)) == {
        ("xiomara-ct0.dcm", Action.TAG_RETAINED, "(0010,0010)"),
        ("xiomara-ct0.dcm", Action.TEXT_NOTNULL, "(0012,0010)"),
    }


def test_one_changed_pixel_is_seen(planted, key, files) -> None:
    ds = files["xiomara-ct0.dcm"]
    ds.PixelData = ds.PixelData[:-2] + bytes([ds.PixelData[-2] ^ 1, ds.PixelData[-1]])
    assert places(wrong(key, files, planted)) == {("xiomara-ct0.dcm", Action.PIXELS_RETAINED, "(7FE0,0010)")}


def test_a_uid_that_is_renamed_in_one_place_only_is_not_consistent(planted, key, files) -> None:
    files["xiomara-later-ct0.dcm"].RelatedSeriesSequence[0].StudyInstanceUID = "2.25.4711"
    assert places(wrong(key, files, planted)) == {
        ("xiomara-later-ct0.dcm", Action.UID_CONSISTENT, "(0008,1250)[0](0020,000D)[0]")
    }


def test_two_series_that_become_one_are_not_consistent(planted, key, files) -> None:
    files["tadeusz-dx1.dcm"].SeriesInstanceUID = files["xiomara-ct0.dcm"].SeriesInstanceUID
    seen = places(wrong(key, files, planted))
    assert ("tadeusz-dx1.dcm", Action.UID_CONSISTENT, "(0020,000E)[0]") in seen
    assert ("xiomara-ct0.dcm", Action.UID_CONSISTENT, "(0020,000E)[0]") in seen


@pytest.mark.parametrize(
    ("ids", "correct"),
    [
        (("A", "A", "A", "B"), True),
        (("X", "X", "X", "X"), True),
        (("A", "A", "B", "C"), False),
        (("A", "A", "B", "B"), False),
    ],
)
def test_one_patient_has_one_id_and_no_other_patient_has_it(planted, key, files, ids, correct) -> None:
    for ds, patient_id in zip(files.values(), ids, strict=True):
        ds.PatientID = patient_id
    assert (Action.PATID_CONSISTENT in {v.expected.action for v in wrong(key, files, planted)}) is not correct


def test_dates_that_move_by_one_interval_are_correct_and_one_that_moves_by_another_is_not(planted, tables) -> None:
    key = [
        e
        for specimen in planted
        for e in answer_key(specimen, tables, MODIFIED)
        if e.interval_of and e.action is Action.DATE_SHIFTED
    ]
    files = {s.name: s.dataset for s in planted}
    for name, ds in files.items():
        move(ds, 100 if name.startswith("xiomara") else 41)
    assert wrong(key, files, planted) == []
    files["xiomara-later-ct0.dcm"].StudyDate = "20040301"
    assert places(wrong(key, files, planted)) == {("xiomara-later-ct0.dcm", Action.DATE_SHIFTED, "(0008,0020)")}


def move(ds: Dataset, days: int) -> None:
    def one(value: str) -> str:
        if not value[:8].isdigit():
            return value
        moved = np.datetime64(f"{value[:4]}-{value[4:6]}-{value[6:8]}") - days
        return str(moved).replace("-", "") + value[8:]

    for element in ds.iterall():
        if element.VR in ("DA", "DT") and element.value:
            values = element.value if element.VM > 1 else [element.value]
            element.value = [one(str(value)) for value in values] if element.VM > 1 else one(str(element.value))


def test_cleaned_text_must_lose_the_names_and_keep_the_useful_words(planted, tables) -> None:
    path = (0x00081030,)
    key = [e for e in answer_key(planted[0], tables, CLEAN) if e.path == path]
    assert {e.action for e in key} == {Action.TEXT_REMOVED, Action.TEXT_RETAINED}
    outcomes = {
        "follow-up for xxx, fracture of rib": set(),
        "follow-up for Okonkwo, fracture of rib": {Action.TEXT_REMOVED},
        "follow-up": {Action.TEXT_RETAINED},
        "": {Action.TEXT_RETAINED},
    }
    for text, expected in outcomes.items():
        ds = planted[0].dataset
        ds.StudyDescription = text
        assert {v.expected.action for v in wrong(key, {planted[0].name: ds}, planted)} == expected


def test_burned_in_text_must_be_hidden_line_by_line_and_pixels_elsewhere_must_stay(captured, tables) -> None:
    options = frozenset({"clean_pixel_data"})
    key = [
        e for e in answer_key(captured, tables, options) if e.action in (Action.PIXELS_HIDDEN, Action.PIXELS_RETAINED)
    ]
    rows = np.flatnonzero(captured.ink.any(axis=1))
    first_line = int(rows[np.flatnonzero(np.diff(rows) > 1)[0]])
    hide, keep = Action.PIXELS_HIDDEN, Action.PIXELS_RETAINED
    for bottom, elsewhere, expected in (
        (0, False, {hide}),
        (first_line + 3, False, {hide}),  # the other lines can still be read
        (int(rows.max()) + 4, False, set()),
        (int(rows.max()) + 4, True, {keep}),
    ):
        ds = captured.dataset
        pixels = np.frombuffer(ds.PixelData, np.uint8).reshape(360, 480, 3).copy()
        pixels[:bottom, :110] = 0
        pixels[200, 200, 0] ^= elsewhere
        ds.PixelData = pixels.tobytes()
        assert {v.expected.action for v in wrong(key, {captured.name: ds}, [captured])} == expected


def test_the_share_is_never_rounded_up_to_all() -> None:
    assert report.percent(99999, 100000) == "99.99 %"
    assert report.percent(5, 5) == "100 %"
    assert report.percent(0, 0) == "-"
