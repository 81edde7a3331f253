"""A real Orthanc for tests: started on loopback with a user and its own storage, ended by its own pid.

A plug-in of conftest: `orthanc` is one a session, `pacs` a client of it. It keeps what it is given, so each test
makes a study of its own (`made_study`).
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from medai_pipeline.errors import StackError
from medai_pipeline.local.orthanc import LocalOrthanc, find_binary
from medai_pipeline.local.paths import Home
from medai_pipeline.local.ports import free_port
from medai_pipeline.local.supervisor import Supervisor
from medai_pipeline.pacs.orthanc import Orthanc
from medai_pipeline_tests.conftest import missing


@dataclass(frozen=True)
class RunningOrthanc:
    url: str
    username: str
    password: str
    dicom_port: int


@pytest.fixture(scope="session")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningOrthanc]:
    try:
        find_binary()
    except StackError as error:
        missing(error.reason)
    home = Home(tmp_path_factory.mktemp("orthanc")).make()
    local = LocalOrthanc(home, free_port(), free_port(), "medai")
    supervisor = Supervisor(home, echo=print)
    try:
        supervisor.start(local.service(dict(os.environ)))
        yield RunningOrthanc(local.url, local.username, local.password, local.dicom_port)
    finally:
        supervisor.stop()


@pytest.fixture(scope="session")
def pacs(orthanc: RunningOrthanc) -> Iterator[Orthanc]:
    with Orthanc(orthanc.url, orthanc.username, orthanc.password) as client:
        yield client


def made_study(instances: int = 3, edge: int = 16) -> list[Dataset]:
    """A small CT study of an invented patient, valid enough for a PACS; every call is another study and patient."""
    study, series, patient = generate_uid(), generate_uid(), generate_uid()[-12:]
    return [_slice(study, series, patient, number, edge) for number in range(1, instances + 1)]


def _slice(study: str, series: str, patient: str, number: int, edge: int) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
    dataset.PatientID, dataset.PatientName = f"INV-{patient}", "Mårkér^Tëst"
    dataset.PatientBirthDate, dataset.PatientSex = "19010203", "O"
    dataset.AccessionNumber, dataset.StudyID = f"ACC{patient}", "1"
    dataset.StudyDate, dataset.StudyTime = "20200102", "030405"
    dataset.ReferringPhysicianName = "Invented^Doctor"
    dataset.Modality, dataset.InstanceNumber = "CT", number
    dataset.Rows = dataset.Columns = edge
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.PixelData = np.full((edge, edge), number, np.uint16).tobytes()
    return dataset


def file_bytes(dataset: Dataset) -> bytes:
    """The dataset as a DICOM file (PS3.10)."""
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def instances_in(pacs: Orthanc, study: str) -> int:
    """How many images of a study (by its Study Instance UID) the archive holds."""
    found = pacs.find_study(study)
    return (found.instance_count or 0) if found else 0
