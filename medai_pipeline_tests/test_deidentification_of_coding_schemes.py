"""A code stays by the form of its scheme, and nothing free stands beside it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from medai_pipeline.dicom.coding_schemes import has_form
from medai_pipeline.dicom.deidentify import Deidentifier
from medai_pipeline.dicom.read import parse
from medai_pipeline_tests.dicom_objects import image, written

KEY = b"a key that only this test knows!"


def deidentified(dataset: Dataset) -> Dataset:
    return parse(Deidentifier(KEY).deidentify(written(dataset)).data)


def coded(**attributes: str) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


@pytest.mark.parametrize(
    ("scheme", "good", "bad"),
    [
        ("DCM", ["113100", "121071"], ["471188", "JANE", "19610312", "1131"]),
        ("SCT", ["39607008", "445405002"], ["39607009", "4711234", "19610312", "999999999"]),
        ("LN", ["24558-9", "11525-3", "8302-2"], ["24558-8", "4711-1", "DOE-1"]),
        ("UMLS", ["C0024109"], ["C471", "DOE0024", "19610312"]),
        ("RADLEX", ["RID1301", "RID50309"], ["RIDJANE", "1301", "RID19610312"]),
        ("SRT", ["T-D3000", "G-A16A", "R-00339"], ["T-JANE", "X-471123", "P-SMITH"]),
        ("NCIt", ["C122989"], ["SMITH", "C12"]),
        ("UCUM", ["ml/100ml/s", "10*-3.mm2/s", "mm[Hg]", "kg/m2", "1/min"], ["Smith", "Doe", "Jane", "4711234"]),
        ("RFC5646", ["de", "de-CH"], ["Ann", "Jane", "ann-DOE"]),
        ("I10", ["C34.1", "J18"], ["DOE", "C34.JANED"]),
        ("BI", [], ["1", "JANE", "DOE-4711"]),
    ],
)  # fmt: skip
def test_a_code_has_the_form_and_the_check_digit_of_its_scheme(scheme, good, bad):
    assert [value for value in good if not has_form(scheme, value)] == []
    assert [value for value in bad if has_form(scheme, value)] == []


@settings(max_examples=100)
@given(st.integers(100000, 10**9), st.integers(0, 9))
def test_no_other_last_digit_makes_a_snomed_code(number, digit):
    body = f"{number // 1000}10"
    found = [last for last in range(10) if has_form("SCT", f"{body}{last}")]
    assert len(found) == 1 and (not found or has_form("SCT", f"{body}{digit}") == (digit == found[0]))


def code_of(**attributes: str) -> Dataset:
    return deidentified(
        image(PatientName="Zqx^A", AnatomicRegionSequence=[coded(**attributes)])
    ).AnatomicRegionSequence[0]


@pytest.mark.parametrize(
    "said",
    [
        {"CodingSchemeDesignator": "SCT", "CodeMeaning": "Mr Vandermeer"},
        {"CodeMeaning": "Lung of Vandermeer"},
        {"CodeValue": "", "CodingSchemeDesignator": "LN", "CodeMeaning": "Vandermeer"},
        {
            "CodeValue": "39607008",
            "LongCodeValue": "Vandermeer",
            "CodingSchemeDesignator": "SCT",
            "CodeMeaning": "Lung",
        },
        {"LongCodeValue": "of Vandermeer 4711234", "CodingSchemeDesignator": "DCM", "CodeMeaning": "Lung"},
        {"URNCodeValue": "urn:vandermeer:4711", "CodingSchemeDesignator": "LN", "CodeMeaning": "Lung"},
    ],
)
def test_a_code_without_a_value_or_with_two_is_free_text(said):
    assert "vandermeer" not in str(code_of(**said)).lower()


@pytest.mark.parametrize(
    ("keyword", "good", "bad"),
    [
        ("CodingSchemeVersion", ["1.4", "20190731", "2016", "V1", "01"], ["Vandermeer", "19610312", "MRN 4711234"]),
        ("MappingResource", ["DCMR"], ["VANDERMEER"]),
        ("ContextIdentifier", ["4031", "CID 4031"], ["VANDERMEER", "19610312"]),
        ("ContextGroupLocalVersion", [], ["19610312"]),
        ("MappingResourceName", ["DICOM Content Mapping Resource"], ["of Vandermeer"]),
    ],
)
def test_what_stands_beside_a_code_is_no_free_text(keyword, good, bad):
    published = {"CodeValue": "39607008", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Lung"}
    for text in good:
        assert code_of(**published, **{keyword: text}).get(keyword) == text
    for text in bad:
        kept = code_of(**published, **{keyword: text})
        assert str(kept.get(keyword, "")) in ("", "ANONYMIZED", "19000101000000"), text
        assert kept.CodeValue == "39607008"


def test_a_published_code_stays_though_the_person_s_number_is_the_same_wherever_it_stands():
    dataset = image(PatientID="39607008")
    inner = coded(CodeValue="39607008", CodingSchemeDesignator="SCT", CodeMeaning="Lung")
    dataset.DerivationCodeSequence = [inner]
    inner.EquivalentCodeSequence = [coded(CodeValue="39607008", CodingSchemeDesignator="SCT", CodeMeaning="Lung")]
    kept = deidentified(dataset).DerivationCodeSequence[0]
    assert kept.CodeValue == kept.EquivalentCodeSequence[0].CodeValue == "39607008"
