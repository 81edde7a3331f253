"""Every label of the shipped models has its code, or none that is wrong."""

from __future__ import annotations

import re

import pytest

from medai_pipeline.triage.findings import code_of, codes_of, findings, is_finding, lookup

NIH = [
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
]
DEMO = ("Tumour", "Haemorrhage", "Infarct", "COVID-19", "Normal")
_MULTIPLY = [
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
    [1, 2, 3, 4, 0, 6, 7, 8, 9, 5],
    [2, 3, 4, 0, 1, 7, 8, 9, 5, 6],
    [3, 4, 0, 1, 2, 8, 9, 5, 6, 7],
    [4, 0, 1, 2, 3, 9, 5, 6, 7, 8],
    [5, 9, 8, 7, 6, 0, 4, 3, 2, 1],
    [6, 5, 9, 8, 7, 1, 0, 4, 3, 2],
    [7, 6, 5, 9, 8, 2, 1, 0, 4, 3],
    [8, 7, 6, 5, 9, 3, 2, 1, 0, 4],
    [9, 8, 7, 6, 5, 4, 3, 2, 1, 0],
]
_PERMUTE = [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]


def verhoeff(digits: str) -> bool:
    """Whether a SNOMED CT identifier's last digit is right (Verhoeff 1969, as in the SNOMED CT release format)."""
    check = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit)
        for _ in range(place % 8):
            value = _PERMUTE[value]
        check = _MULTIPLY[check][value]
    return check == 0


CODED = [row for row in findings() if row.value]


@pytest.mark.parametrize("row", CODED, ids=lambda row: row.label)
def test_every_snomed_code_has_a_right_check_digit(row):
    assert row.scheme == "SCT"
    assert verhoeff(row.value)
    assert row.value[-3:-1] == "00"  # partition: a concept of the international edition, not a description


def test_the_check_digit_finds_a_changed_and_a_swapped_digit():
    assert verhoeff("36118008")
    assert not verhoeff("36118018")
    assert not verhoeff("31618008")


@pytest.mark.parametrize("row", CODED, ids=lambda row: row.label)
def test_codes_that_dicom_lists_mean_there_what_they_mean_here(row):
    from pydicom.sr._concepts_dict import concepts

    known = {code: meaning for entry in concepts["SCT"].values() for code, (meaning, _) in entry.items()}
    assert row.meaning
    if row.value in known:
        assert known[row.value].casefold() in (row.meaning.casefold(), "tumor")


@pytest.mark.parametrize("row", findings(), ids=lambda row: row.label)
def test_every_code_says_where_it_is_from_and_context_groups_hold_it(row):
    from pydicom.sr._concepts_dict import concepts

    assert bool(row.codes) == bool(row.sources)
    assert {"RADLEX" for scheme, *_ in row.codes if scheme == "RADLEX"} == {
        "RADLEX" for s in row.sources if s == "RadLex"
    }
    groups = {int(source.removeprefix("CID ")) for source in row.sources if source.startswith("CID ")}
    listed = {
        cid
        for scheme, value, _ in row.codes
        for entry in concepts.get(scheme, {}).values()
        for cid in entry.get(value, ("", []))[1]
    }
    assert groups <= listed


@pytest.mark.parametrize("row", findings(), ids=lambda row: row.label)
def test_codes_of_other_schemes_are_written_as_these_schemes_write_them(row):
    patterns = {"RADLEX": r"RID\d{2,6}", "DCM": r"\d{6}"}
    for scheme, value, meaning in row.others:
        assert re.fullmatch(patterns[scheme], value) and meaning


def test_dicom_codes_mean_in_the_standard_what_they_mean_here():
    from pydicom.sr._concepts_dict import concepts

    known = {code: meaning for entry in concepts["DCM"].values() for code, (meaning, _) in entry.items()}
    ours = [(value, meaning) for row in findings() for scheme, value, meaning in row.others if scheme == "DCM"]
    assert ours and all(known[value] == meaning for value, meaning in ours)


def test_no_code_stands_for_two_findings():
    codes = [(scheme, value) for row in findings() for scheme, value, _ in row.codes]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("label", [*NIH, *DEMO])
def test_the_labels_of_the_shipped_models_are_in_the_table(label):
    assert lookup(label).is_listed


def test_names_are_found_in_any_spelling():
    assert code_of("pleural effusion") == code_of("EFFUSION") == "SCT:60046008"
    assert code_of("Tumor") == code_of("Tumour") == "SCT:108369006"
    assert lookup("Pleural_Thickening").label == "Pleural thickening"


def test_a_label_without_a_certain_code_has_none():
    assert code_of("Pleural_Thickening") == ""
    assert code_of("Something new") == ""
    assert is_finding("Something new")


def test_normal_is_no_finding_and_gets_no_row():
    assert not is_finding("Normal")
    assert codes_of(["Normal", "Nodule"]) == {"Nodule": "SCT:27925004"}


def test_no_name_means_two_things():
    names = [name.casefold() for row in findings() for name in (row.label, *row.aliases)]
    assert len(names) == len(set(names))
