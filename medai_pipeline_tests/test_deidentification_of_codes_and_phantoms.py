"""A site's own codes are free text and go; published codes stay. No phantom's planted identity survives."""

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medai_pipeline.dicom.deidentify import Deidentifier
from medai_pipeline.dicom.read import parse
from medai_pipeline.phantoms.studies import make_study, to_bytes

DEIDENTIFIER = Deidentifier(b"a key that only this test knows!")


def coded(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def cleaned_code(value: str, scheme: str, meaning: str) -> Dataset:
    dataset = make_study("chest-ct", 1, slices=1).datasets[0]
    dataset.ProcedureCodeSequence = Sequence([coded(value, scheme, meaning)])
    return parse(DEIDENTIFIER.deidentify(to_bytes(dataset)).data).ProcedureCodeSequence[0]


@pytest.mark.parametrize("scheme", ["99HOSPITAL", "L", "", "LOCAL"])
def test_a_local_code_keeps_neither_value_nor_meaning(scheme):
    code = cleaned_code("DOE-1", scheme, "CT of John Doe")
    assert (code.CodeValue, code.CodeMeaning) == ("ANONYMIZED", "ANONYMIZED")


def test_a_published_code_stays():
    code = cleaned_code("39607008", "SCT", "Lung")
    assert (code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning) == ("39607008", "SCT", "Lung")


@pytest.mark.parametrize("kind", ["chest-xray", "chest-ct", "brain-mr"])
def test_no_planted_identity_of_a_phantom_survives(kind):
    study = make_study(kind, 77, slices=2)
    assert len(study.markers) > 20
    for dataset in study.datasets:
        before = to_bytes(dataset)
        after = DEIDENTIFIER.deidentify(before).data
        planted = [marker for marker in study.markers if marker.encode() in before]
        assert len(planted) > 20
        assert [marker for marker in planted if marker.encode() in after] == []
