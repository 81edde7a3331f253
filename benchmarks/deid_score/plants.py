"""Identities planted into one dataset, harder than the phantoms do it: in every kind of place that real files have shown.

Each function plants one kind. What identifies is registered with the patient (`Who.secret`), and so is free text that is
partly harmless (`Who.text`). The elements are those of PS3.6; that they are in a sensible IOD is not the point here.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_sequence
from pydicom.sequence import Sequence as Items

from deid_score.people import Who
from deid_score.standard import Tables

ELSEWHERE = "1.2.826.0.1.3680043.8.498.7711"  # what is referenced but is in no file here


def item(**values: object) -> Dataset:
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def code(value: str, scheme: str, meaning: str) -> Dataset:
    return item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def patient(ds: Dataset, who: Who) -> None:
    """The patient module and all that names somebody."""
    ds.PatientName, ds.PatientID = f"{who.family}^{who.given}", who.patient_id
    ds.PatientBirthDate, ds.PatientBirthTime = who.birth_date, "042713"
    ds.PatientBirthName = f"{who.secret('Castellanos')}^{who.given}"
    ds.OtherPatientNames = [f"{who.family}^{who.secret('Mitzi')}", f"{who.secret('Quarshie')}^{who.given}"]
    ds.OtherPatientIDs = [who.secret("OLD-88123"), who.secret("GP-441-77")]  # retired
    ds.PatientMotherBirthName = who.secret("Ruthven")
    ds.PatientAddress = f"{who.secret('14 Gorse Lane')}, {who.town}"
    ds.PatientTelephoneNumbers = who.phone
    ds.CountryOfResidence, ds.RegionOfResidence = who.secret("Ruritania"), who.secret("Strelsau")
    ds.MilitaryRank, ds.Occupation, ds.PatientReligiousPreference = (
        who.secret("Lieutenant"),
        who.secret("Beekeeper"),
        "Jain",
    )
    ds.EthnicGroup, ds.SmokingStatus, ds.PregnancyStatus = "Sami", "YES", 1
    ds.PatientAge, ds.PatientWeight, ds.PatientSize = "071Y", "64.5", "1.61"
    ds.MedicalRecordLocator = who.secret("SHELF-14-C")
    ds.AdmissionID, ds.CurrentPatientLocation = who.secret("ADM0034418"), who.secret("Ward 7 bed 3")
    ds.PatientInstitutionResidence = who.secret("Elm Court Home")
    ds.Allergies = who.text(f"penicillin, says Dr {who.physician.split('^')[0] or who.physician[1:]}", "penicillin")
    ds.PatientComments = who.text(f"{who.given} prefers to be called {who.secret('Mitzi')}, hard of hearing")
    ds.ResponsiblePerson, ds.ResponsiblePersonRole = f"{who.secret('Thistlewood')}^Agnes", "PARENT"
    # the phantoms' own markers stand in the other elements


def visit(ds: Dataset, who: Who) -> None:
    """Study, procedure, people, places, devices."""
    ds.AccessionNumber, ds.StudyID = who.accession, who.secret("ST-77120-X")
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = who.day()
    ds.StudyTime, ds.SeriesTime, ds.AcquisitionTime, ds.ContentTime = "101502", "101611.25", "101733.5", "101734"
    ds.AcquisitionDateTime = f"{who.day()}101733.500000+0200"
    ds.TimezoneOffsetFromUTC = "+0200"
    ds.InstanceCreationDate, ds.InstanceCreationTime = who.day(after=1), "230159"
    ds.PerformedProcedureStepStartDate, ds.PerformedProcedureStepStartTime = who.day(), "100955"
    ds.PerformedProcedureStepEndDateTime = None
    del ds.PerformedProcedureStepEndDateTime
    ds.PerformedProcedureStepEndDate = who.day()
    ds.DateOfLastCalibration, ds.TimeOfLastCalibration = [who.day(after=-30), who.day(after=-3)], ["080000", "081500"]
    ds.LastMenstrualDate = who.day(after=-14)
    ds.ReferringPhysicianName, ds.OperatorsName = who.physician, [who.operator, f"{who.secret('Trubshaw')}^Ned"]
    person = item(PersonAddress=who.secret("9 Mill Row"), PersonTelephoneNumbers=who.secret("555-0199"))
    person.InstitutionName = who.hospital
    person.PersonIdentificationCodeSequence = Items(
        [code(who.secret("PHYS0093"), "99LKR", who.physician.replace("^", " "))]
    )
    ds.ReferringPhysicianIdentificationSequence = Items([person])
    ds.ReferringPhysicianTelephoneNumbers = who.secret("555-0163")
    ds.InstitutionName, ds.InstitutionAddress = who.hospital, f"{who.secret('2 Quay Street')}, {who.town}"
    ds.InstitutionalDepartmentName = who.secret("Radiology East Wing")
    ds.StationName, ds.DeviceSerialNumber = who.station, who.device
    ds.DeviceUID, ds.GantryID, ds.DetectorID = f"{ELSEWHERE}.1.9", who.secret("GANTRY-B2"), who.secret("DET-0771")
    ds.PerformedStationAETitle, ds.RetrieveAETitle = who.secret("LKRCTSCP"), who.secret("LKRARCH1")
    ds.InstanceCreatorUID, ds.StorageMediaFileSetUID = f"{ELSEWHERE}.1.10", f"{ELSEWHERE}.1.11"
    ds.ClinicalTrialSponsorName, ds.ClinicalTrialSubjectID = who.secret("Wexcombe Trust"), who.secret("SUBJ-0412")
    ds.ClinicalTrialProtocolID, ds.ClinicalTrialSiteName = who.secret("WX-22-PROTO"), who.hospital


def descriptors(ds: Dataset, who: Who) -> None:
    """Names, numbers and dates inside text that is useful otherwise."""
    doctor = who.physician.replace("^", " ").split()[0]
    ds.StudyDescription = who.text(f"follow-up for {who.family}, fracture of rib", "follow", "fracture", "rib")
    ds.SeriesDescription = who.text(f"Axial thin {who.patient_id} lung kernel", "Axial", "thin", "lung", "kernel")
    ds.ProtocolName = who.text(f"Routine thorax Dr {doctor}", "Routine", "thorax")
    ds.PerformedProcedureStepDescription = who.text("Thorax without contrast", "Thorax", "without", "contrast")
    ds.RequestedProcedureDescription = who.text(
        f"CT thorax on {who.day('%d.%m.%Y')} tel {who.phone}", "CT", "thorax"
    )  # fmt: skip
    ds.ImageComments = who.text(
        f"motion artefact; repeated {who.day('%d %B %Y')} at {who.hospital}", "motion", "artefact"
    )
    ds.AdditionalPatientHistory = who.text(
        f"{who.given.upper()} {who.family.upper()} had a stroke, seen by Dr. {doctor} on {who.day('%Y-%m-%d')}", "stroke"
    )  # fmt: skip
    ds.AdmittingDiagnosesDescription = who.text("Pulmonary embolism", "Pulmonary", "embolism")
    ds.DerivationDescription = who.text(f"MPR by {who.operator.split('^')[0]}", "MPR")
    ds.ContrastBolusAgent = who.text("Iodine 300", "Iodine", "300")
    ds.ReasonForStudy = f"pain ({who.family})"  # retired
    ds.RequestAttributesSequence = Items([
        item(RequestedProcedureID=who.secret("RP-55102"), ScheduledProcedureStepID=who.secret("SPS-8812"),
             ScheduledProcedureStepDescription=who.text(f"thorax, {who.given}", "thorax"),
             ScheduledProcedureStepStartDate=who.day()),
        item(RequestedProcedureID=who.secret("RP-55103"), AccessionNumber=who.accession,
             RequestedProcedureCodeSequence=Items([code("241541005", "SCT", "High resolution CT of lungs")])),
    ])  # fmt: skip


def codes(ds: Dataset, who: Who) -> None:
    """Published codes stay; a site's own may hold anything (PS3.3 8.8)."""
    ds.ProcedureCodeSequence = Items([
        code("169069000", "SCT", "CT of chest"),
        code(who.secret("OKONKWO1"), "99LKRIDGE", f"Special for {who.family}"),
    ])  # fmt: skip
    ds.AdmittingDiagnosesCodeSequence = Items([code("59282003", "SCT", "Pulmonary embolism")])
    region = code("51185008", "SCT", "Chest")
    region.AnatomicRegionModifierSequence = Items([code("24028007", "SCT", "Right")])
    ds.AnatomicRegionSequence = Items([region])


def references(ds: Dataset, own: Sequence[Dataset], other: Sequence[Dataset]) -> None:
    """UIDs of this series, of another study of this patient, and of objects that are not here, down to three levels."""

    def image(target: Dataset) -> Dataset:
        return item(ReferencedSOPClassUID=target.SOPClassUID, ReferencedSOPInstanceUID=target.SOPInstanceUID)

    ds.ReferencedImageSequence = Items([image(target) for target in own[:2]])
    gone = item(ReferencedSOPClassUID="1.2.840.10008.5.1.4.1.1.2", ReferencedSOPInstanceUID=f"{ELSEWHERE}.2.1")
    gone.PurposeOfReferenceCodeSequence = Items([code("121321", "DCM", "Mask image for image processing operation")])
    ds.SourceImageSequence = Items([gone])
    ds.ReferencedPatientSequence = Items(
        [item(ReferencedSOPClassUID="1.2.840.10008.3.1.2.1.1", ReferencedSOPInstanceUID=f"{ELSEWHERE}.2.2")]
    )
    ds.IrradiationEventUID = [f"{ELSEWHERE}.2.3", f"{ELSEWHERE}.2.4"]
    ds.SynchronizationFrameOfReferenceUID = f"{ELSEWHERE}.2.5"
    if other:
        far = item(StudyInstanceUID=other[0].StudyInstanceUID, SeriesInstanceUID=other[0].SeriesInstanceUID)
        far.PurposeOfReferenceCodeSequence = Items([code("122400", "DCM", "Simultaneously Acquired")])
        ds.RelatedSeriesSequence = Items([far])
        series = item(SeriesInstanceUID=other[0].SeriesInstanceUID)
        series.ReferencedInstanceSequence = Items([image(target) for target in other])
        study = item(StudyInstanceUID=other[0].StudyInstanceUID, ReferencedSeriesSequence=Items([series]))
        ds.StudiesContainingOtherReferencedInstancesSequence = Items([study])
    series = item(SeriesInstanceUID=own[0].SeriesInstanceUID)
    series.ReferencedInstanceSequence = Items([image(target) for target in own])
    ds.ReferencedSeriesSequence = Items([series])


def private(ds: Dataset, who: Who, tables: Tables) -> None:
    """Private elements with identities, a sequence with a block of its own, safe ones, and one without a creator."""
    block = ds.private_block(0x0019, "LAKERIDGE RIS 2", create=True)
    block.add_new(0x01, "LO", f"{who.family}, {who.given}")
    block.add_new(0x02, "DA", who.day())
    block.add_new(0x03, "UI", f"{ELSEWHERE}.3.1")
    inner = item(PatientName=f"{who.family}^{who.given}", ScheduledProcedureStepDescription=f"for {who.given}")
    inner.private_block(0x0021, "LAKERIDGE INNER", create=True).add_new(0x05, "ST", f"seen {who.day('%d/%m/%Y')}")
    inner.ReferencedSOPInstanceUID = f"{ELSEWHERE}.3.2"
    block.add_new(0x10, "SQ", Items([inner, item(PatientID=who.patient_id)]))
    block.add_new(0x11, "UN", f"UN {who.patient_id} ".encode())
    safe = {k: vr for k, vr in sorted(tables.safe_private.items()) if vr in _SAFE_VALUES and k[1] in _SAFE_CREATORS}
    for group, creator in sorted({k[:2] for k in safe}):
        held = ds.private_block(group, creator, create=True)
        for key, vr in safe.items():
            if key[:2] == (group, creator):
                value, count = _SAFE_VALUES[vr], tables.safe_vm[key]
                held.add_new(key[2], vr, value if count == 1 else [value] * count)
        if (group, creator, 0xFE) not in tables.safe_private:
            held.add_new(0xFE, "LO", f"operator {who.operator.split('^')[0]}")
    ds.add(DataElement(0x00335501, "LO", f"stray {who.family}"))  # its block has no creator


_SAFE_CREATORS = frozenset({"GEMS_PARM_01", "SIEMENS MR HEADER", "Philips PET Private Group", "Philips Imaging DD 129"})
_SAFE_VALUES = {"DS": "1.25", "IS": "7", "FL": 2.5, "FD": 0.125, "US": 3, "SS": -2, "SL": 9, "UL": 11, "CS": "MODE_A"}


def oddities(ds: Dataset, who: Who) -> None:
    """Retired elements, unknown ones, overlays, curves, icons, signatures, original attributes, padding."""
    for tag, value in ((0x00402006, "PLACER-20661"), (0x00402007, "FILLER-20662")):
        ds.add(DataElement(tag, "SH", who.secret(value)))
    ds.add(DataElement(0x0012A007, "LO", f"unknown to PS3.6: {who.family}"))
    ds.InsurancePlanIdentification, ds.IssueDateOfImagingServiceRequest = who.secret("BLUEPLAN-771"), who.day()
    _planes(ds, who)
    icon = item(Rows=4, Columns=4, BitsAllocated=8, BitsStored=8, HighBit=7, PixelRepresentation=0, SamplesPerPixel=1)
    icon.PhotometricInterpretation, icon.PixelData = "MONOCHROME2", who.patient_id.encode().ljust(16)
    icon["PixelData"].VR = "OB"
    ds.IconImageSequence = Items([icon])
    before = item(PatientID=who.secret("WRONG-ID-4417"), PatientName=f"{who.secret('Abernathy')}^Wrong")
    ds.OriginalAttributesSequence = Items([
        item(ModifiedAttributesSequence=Items([before]), ModifyingSystem=who.station, SourceOfPreviousValues=who.hospital,
             AttributeModificationDateTime=f"{who.day()}120000", ReasonForTheAttributeModification="CORRECT")
    ])  # fmt: skip
    signature = item(
        MACIDNumber=1, DigitalSignatureUID=f"{ELSEWHERE}.4.1", DigitalSignatureDateTime=f"{who.day()}130000"
    )
    signature.Signature, signature.CertificateOfSigner = b"\1\2\3\4", f"CN={who.operator}".encode().ljust(40)
    ds.DigitalSignaturesSequence = Items([signature])
    ds.DataSetTrailingPadding = f"padding {who.family} {who.patient_id}".encode().ljust(64, b"\0")
    dose = item(RadionuclideTotalDose="370000000", RadiopharmaceuticalStartTime="094100", Radiopharmaceutical="FDG")
    dose.RadiopharmaceuticalStartDateTime = f"{who.day()}094100"
    dose.RadionuclideCodeSequence = Items([code("77004003", "SCT", "^18^Fluorine")])
    ds.RadiopharmaceuticalInformationSequence = Items([dose])


def awkward(ds: Dataset, who: Who) -> None:
    """Places that few lists name: equipment, issuers, URLs, dates in old forms, text in attributes that are kept."""
    helper = item(Manufacturer="Invented Gateways", InstitutionName=who.hospital, StationName=who.station)
    helper.OperatorsName, helper.ContributionDateTime = who.operator, f"{who.day()}180000.125-0500"
    helper.ContributionDescription = who.text(f"coerced for {who.family}")
    helper.PurposeOfReferenceCodeSequence = Items([code("109103", "DCM", "Modifying Equipment")])
    ds.ContributingEquipmentSequence = Items([helper])
    issuer = item(
        LocalNamespaceEntityID=who.secret("LKRNS01"), UniversalEntityID=f"pacs.{who.secret('lkrnet.example')}"
    )
    issuer.UniversalEntityIDType = "DNS"
    ds.IssuerOfAccessionNumberSequence = Items([issuer])
    ds.IssuerOfPatientIDQualifiersSequence = Items(
        [item(UniversalEntityID=f"mpi.{who.secret('lkrnet.example')}", UniversalEntityIDType="DNS")]
    )
    ds.RetrieveURL = f"https://pacs.{who.secret('lkrnet.example')}/studies/{who.patient_id}"
    ds.add(DataElement(0x00080024, "DA", who.day("%Y.%m.%d")))  # Overlay Date, retired, as ACR-NEMA wrote it
    ds.add(DataElement(0x00200070, "LO", f"image of {who.family}"))  # retired, Image Geometry Type
    ds.StationAETitle = who.secret("LKRAE0021")
    ds.SpecialNeeds, ds.PatientState = who.secret("Ostomy bag"), who.text(f"{who.given} is anxious")
    ds.VisitComments = who.text(f"came with {who.secret('Agnes')}")
    ds.AcquisitionProtocolDescription = who.text(f"protocol of {who.operator.split('^')[0]}, low dose", "low", "dose")
    ds.PerformedProtocolCodeSequence = Items([code("P-LUNG", "99LKRIDGE", f"Lung, {who.given}")])


def quiet(ds: Dataset, who: Who) -> None:
    """Names in places that are kept for their technical content, and that no list of attributes calls identifying."""
    doctor = who.operator.split("^")[0]
    ds.AcquisitionProtocolName, ds.ApplicableSafetyStandardDescription = f"as {doctor} does it", f"told by {doctor}"
    ds.add(DataElement(0x001811A4, "LO", f"paddle for {who.given}"))  # Paddle Description
    ds.add(DataElement(0x0008041B, "OB", f"record {who.phone}".encode().ljust(40)))  # Record Key
    region = code("51185008", "SCT", "Chest")
    region.CodingSchemeVersion, region.ContextIdentifier, region.MappingResourceName = (
        who.family[:16],
        "4031",
        who.family,
    )
    ds.PrimaryAnatomicStructureSequence = Items([region])
    held = ds.private_block(0x2001, "Philips Imaging DD 001", create=True)
    held.add_new(0x80, "LO", f"{who.family}, {who.given}")
    held.add_new(0x5A, "ST", f"scanned by {doctor} on {who.day('%d.%m.%Y')}")
    inner = item(ImageComments=who.text(f"stack of {who.family}"))
    inner.private_block(0x2001, "Philips Imaging DD 001", create=True).add_new(0x80, "LO", f"stack of {who.given}")
    held.add_new(0x5F, "SQ", Items([inner]))
    for sequence in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in ds.get(sequence) or ():
            group.private_block(0x0029, "LAKERIDGE FRAMES", create=True).add_new(0x10, "LO", f"frame of {who.family}")
    if ds.get("PhotometricInterpretation") == "RGB":
        ds.ICCProfile = f"description: monitor of {doctor}".encode().ljust(600, b"\0")


def _planes(ds: Dataset, who: Who) -> None:
    """An overlay and a curve (PS3.3 C.9.2, C.10.2) whose labels, comments and data identify."""
    for tag, vr, value in (
        (0x60000010, "US", 16),
        (0x60000011, "US", 16),
        (0x60000022, "LO", f"drawn by {who.operator.split('^')[0]}"),
        (0x60000040, "CS", "G"),
        (0x60000050, "SS", [1, 1]),
        (0x60000100, "US", 1),
        (0x60000102, "US", 0),
        (0x60003000, "OW", bytes(range(32))),
        (0x60004000, "LT", f"overlay of {who.family}"),
        (0x50000005, "US", 2),
        (0x50000010, "US", 4),
        (0x50000022, "LO", f"ECG of {who.given}"),
        (0x50002500, "LO", who.patient_id),
        (0x50003000, "OW", f"{who.family} ECG data".encode().ljust(32)),
    ):
        ds.add(DataElement(tag, vr, value))


def as_unknown(ds: Dataset) -> None:
    """Writes some elements as UN, as a system does that does not know them (PS3.5 6.2.2; sequences by CP-246)."""
    for keyword in ("PatientComments", "MedicalRecordLocator", "StudyDescription", "PatientAge"):
        if keyword in ds:
            _unknown(ds, keyword, _even(str(ds[keyword].value).encode()))
    for keyword in ("RequestAttributesSequence", "ReferencedImageSequence", "ProcedureCodeSequence"):
        if keyword in ds:
            buffer = DicomBytesIO()
            buffer.is_little_endian, buffer.is_implicit_VR = True, True
            write_sequence(buffer, ds[keyword], ["utf-8"])
            _unknown(ds, keyword, buffer.getvalue())


def _unknown(ds: Dataset, keyword: str, value: bytes) -> None:
    """pydicom names the VR of what it knows: not here."""
    before, config.replace_un_with_known_vr = config.replace_un_with_known_vr, False
    try:
        ds[keyword] = DataElement(ds[keyword].tag, "UN", value)
    finally:
        config.replace_un_with_known_vr = before


def _even(value: bytes) -> bytes:
    return value + b" " * (len(value) & 1)
