"""What texts hold of a person: found in any form, and never mistaken for a term of the standard."""

from __future__ import annotations

from io import BytesIO

import pydicom
import pytest
from pydicom.dataset import Dataset

from medai_pipeline.dicom.deidentify import Deidentifier
from medai_pipeline.dicom.options import Option
from medai_pipeline.dicom.read import parse
from medai_pipeline.errors import DeidentificationError
from medai_pipeline_tests.dicom_objects import image

KEY = b"a key that only this test knows!"


def file_of(dataset: Dataset) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def deidentified(dataset: Dataset, *names: str) -> Dataset:
    options = [option for option in Option if option.about.name in names]
    return parse(Deidentifier(KEY, options).deidentify(file_of(dataset)).data)


def coded(**attributes: str) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


TERMS = {
    "PatientPosition": "HFS",
    "RotationDirection": "CW",
    "ScanningSequence": "GR",
    "PhotometricInterpretation": "MONOCHROME2",
    "PresentationIntentType": "FOR PRESENTATION",
    "RescaleType": "HU",
    "LossyImageCompression": "00",
    "Manufacturer": "Philips",
}


@pytest.mark.parametrize(
    "name", ["Rome^Anna", "Mono^A", "Iso^Bo", "Ir^Gr", "Hfs^Gr", "Pa^Cw", "Phil^A", "Pres^Hel", "Hu^Wei", "Sent^Tion"]
)
def test_no_name_of_a_person_destroys_a_term_of_the_standard(name):
    result = deidentified(image(PatientName=name, SpecificCharacterSet="ISO_IR 192", **TERMS))
    assert {keyword: result.get(keyword) for keyword in TERMS} == TERMS
    assert result.SpecificCharacterSet == "ISO_IR 192"


@pytest.mark.parametrize("number", ["2022", "1210", "1850", "121071", "51185008"])
def test_no_identifier_destroys_a_character_set_or_a_published_code(number):
    dataset = image(PatientID=number, SpecificCharacterSet=["", "ISO 2022 IR 87"])
    dataset.AnatomicRegionSequence = [coded(CodeValue="51185008", CodingSchemeDesignator="SCT", CodeMeaning="Chest")]
    dataset.ViewCodeSequence = [coded(CodeValue="121071", CodingSchemeDesignator="DCM", CodeMeaning="Finding")]
    result = deidentified(dataset)
    assert list(result.SpecificCharacterSet) == ["", "ISO 2022 IR 87"]
    assert result.AnatomicRegionSequence[0].CodeValue == "51185008"
    assert result.ViewCodeSequence[0].CodeValue == "121071"


def test_a_character_set_that_is_none_becomes_one_that_is():
    dataset = image(SpecificCharacterSet="ISO_IR 100")
    written = file_of(dataset).replace(b"ISO_IR 100", b"VANDERMEER")
    assert parse(Deidentifier(KEY).deidentify(written).data).SpecificCharacterSet == "ISO_IR 100"


@pytest.mark.parametrize(
    "text",
    [
        "Vandermeer",
        "Mr Vandermeer",
        "1961-03-12",
        "12.03.1961",
        "12MAR1961",
        "z.q@x.org",
        "0151-471188",
        "+49 151 4711",
    ],
)
def test_a_stranger_s_name_date_or_address_stays_in_no_text_the_table_does_not_name(text):
    dataset = image(PatientName="Quxberg^Zoltan", PatientID="QX-55-71")
    for keyword in ("OwnerID", "CarrierID", "PatientBirthDateInAlternativeCalendar", "SegmentLabel", "BeamName"):
        dataset.add_new(pydicom.datadict.tag_for_keyword(keyword), "LO", text)
    dataset.QualityControlSubject = text
    if "Vandermeer" not in text:
        dataset.SoftwareVersions = text
    result = Deidentifier(KEY).deidentify(file_of(dataset)).data
    assert text.encode() not in result


@pytest.mark.parametrize(
    "keyword",
    [
        "PaddleDescription",
        "AcquisitionProtocolName",
        "FrameOfInterestDescription",
        "SystemStatusComment",
        "InstructionText",
    ],
)
def test_a_technical_description_is_prose_in_which_no_stranger_s_name_stays(keyword):
    dataset = image(PatientName="Quxberg^Zoltan")
    dataset.add_new(pydicom.datadict.tag_for_keyword(keyword), "LO", "positioned by Vandermeer")
    assert keyword not in deidentified(dataset)
    dataset[keyword].value = "axial chest"
    assert deidentified(dataset)[keyword].value == "axial chest"


@pytest.mark.parametrize("keyword", ["RecordKey", "PriorRecordKey", "HPGLDocument"])
def test_opaque_bytes_that_no_image_needs_do_not_stay(keyword):
    dataset = image()
    dataset.add_new(pydicom.datadict.tag_for_keyword(keyword), "OB", b"of Vandermeer")
    assert keyword not in deidentified(dataset)


def test_technical_texts_and_labels_of_known_words_stay():
    said = {
        "SoftwareVersions": "syngo CT 2012B",
        "ManufacturerModelName": "SOMATOM Definition AS+",
        "ConvolutionKernel": "B30f",
        "SegmentLabel": "Left Lung",
        "SegmentationType": "BINARY",
        "BeamName": "Beam 1",
        "ConversionType": "WSD",
    }
    result = deidentified(image(PatientName="Quxberg^Zoltan", **said))
    assert {keyword: result.get(keyword) for keyword in said} == said


def test_a_code_string_of_words_that_are_not_known_goes():
    result = deidentified(image(PatientName="Quxberg^Zoltan", GraphicLayer="VANDERMEER", Laterality="L"))
    assert "GraphicLayer" not in result and result.Laterality == "L"


def test_an_object_with_more_identity_words_than_can_be_searched_is_refused():
    dataset = image()
    dataset.OtherPatientIDs = [f"{number:07x}" for number in range(2000)]
    with pytest.raises(DeidentificationError, match="words of a person"):
        Deidentifier(KEY).deidentify(file_of(dataset))


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({"PatientName": "Müller^Jörg"}, "Scanner of MÜLLER"),
        ({"PatientName": "Müller^Jörg"}, "Scanner of Mueller"),
        ({"PatientName": "Müller^Jörg"}, "JÖRG"),
        ({"PatientName": "Γιώργος^ΟΔΥΣΣΕΑΣ"}, "οδυσσεας"),
        ({"PatientName": "Ng^Wei"}, "NgWei scanner"),
        ({"PatientName": "Ng^Wei"}, "DrNg"),
        ({"PatientID": "12-34-567"}, "v 1234567"),
        ({"PatientID": "1234567"}, "v12.34.567"),
        ({"PatientBirthDate": "19610312"}, "12031961"),
        ({"PatientBirthDate": "19610312"}, "12Mar1961"),
    ],
)
def test_what_the_header_says_of_the_person_is_found_in_every_way_of_writing(said, text):
    dataset = image(SpecificCharacterSet="ISO_IR 192", ManufacturerModelName=text, **said)
    assert text.encode() not in Deidentifier(KEY).deidentify(file_of(dataset)).data
    assert deidentified(image(ManufacturerModelName="SOMATOM Definition", **said)).ManufacturerModelName


def test_a_name_that_stands_only_deep_inside_is_found_too():
    dataset = image(ManufacturerModelName="of Vandermeer")
    dataset.ReferencedStudySequence = [coded(OperatorsName="Vandermeer^Al")]
    assert "ManufacturerModelName" not in deidentified(dataset)


@pytest.mark.parametrize(
    "text", ["of VAND\\ERMEER", "V.a.n.d.e.r.m.e.e.r", "(Vander)(meer)", "Vander+meer", "V\0a\0n\0d\0e\0r\0m\0e\0e\0r"]
)
def test_no_sign_between_its_letters_hides_a_name(text):
    dataset = image(PatientName="Vandermeer^Al", ManufacturerModelName="*" * len(text))
    source = file_of(dataset).replace(b"*" * len(text), text.encode())
    assert "ManufacturerModelName" not in parse(Deidentifier(KEY).deidentify(source).data)


@pytest.mark.parametrize(
    "keyword", ["PatientID", "AccessionNumber", "RequestedProcedureID", "PlacerOrderNumberImagingServiceRequest"]
)
def test_a_number_of_the_person_that_stands_only_deep_inside_is_found_too(keyword):
    dataset = image(StationName="AC4711234", DeviceSerialNumber="SN88")
    dataset.RequestAttributesSequence = [coded(**{keyword: "AC-4711234"})]
    result = deidentified(dataset, "retain-device-identity")
    assert "4711234" not in str(result.get("StationName")) and result.DeviceSerialNumber == "SN88"


def test_a_number_that_is_the_identifier_or_birth_date_of_the_person_goes():
    dataset = image(PatientID="4711234", PatientBirthDate="19610312", ExposureTime="4711234", XRayTubeCurrent="250")
    dataset.DistanceSourceToDetector = "19610312"
    result = deidentified(dataset)
    assert "4711234" not in str(result.get("ExposureTime")) and result.XRayTubeCurrent == 250
    assert "1961" not in str(result.get("DistanceSourceToDetector"))
