"""Planted identities go over the wire both ways, with every log at its loudest: no log, error, repr, name or sealed byte has them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from medai_pipeline.incoming.spool import Spool
from medai_pipeline.storage.objects import ObjectStore
from medai_pipeline_tests.dcmtk import Archive
from medai_pipeline_tests.orthanc import file_bytes, made_study

MARKER = "QUXBERG"
WIRE = """
import logging, sys
logging.basicConfig(level=logging.DEBUG)
{first}
from pathlib import Path
from medai_pipeline.errors import MedaiError
from medai_pipeline.incoming.inbox import Inbox
from medai_pipeline.incoming.spool import Spool
from medai_pipeline.pacs.dicom_pacs import DicomPacs
from medai_pipeline.pacs.dimse import store
from medai_pipeline.pacs.find import find
from medai_pipeline.pacs.node import Node
from medai_pipeline.pacs.receiver import Listening, Receiver
from medai_pipeline.pacs.retrieve import get, move
from medai_pipeline.storage.objects import ObjectStore

port, move_port, home = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
node = Node("127.0.0.1", port, "ARCHIVE")
spool = Spool(ObjectStore(home / "objects", b"k" * 32))
files = sorted((home / "files").iterdir())
good = files[0]


def told(what):
    try:
        print(repr(what()))
    except Exception as error:
        print(type(error).__name__, error, repr(error))


study = {{"StudyInstanceUID": sys.argv[4]}}
told(lambda: store(files, "127.0.0.1", port, "ARCHIVE"))
matches = list(find(node, "STUDY", {{"PatientName": "QUXBERG*"}}))
assert matches
told(lambda: matches)
told(lambda: list(find(node, "SERIES", {{**study, "PatientName": "QUXBERG"}})))
told(lambda: get(node, "STUDY", study, spool.keep))
told(lambda: get(node, "STUDY", {{"StudyInstanceUID": "QUXBERG"}}, spool.keep))
told(lambda: move(node, "NOBODY", "STUDY", study))
pacs = DicomPacs(node, days=10000)
told(lambda: list(pacs.studies()))
told(lambda: [pacs.instances(sys.argv[4]), pacs.source_digest(sys.argv[4])])
told(lambda: pacs.study("QUXBERG"))


def fails(data):
    raise RuntimeError(data.decode(errors="replace"))


for keep in (spool.keep, fails):
    with Receiver(Listening(move_port), keep) as receiver:
        told(lambda: store(files, "127.0.0.1", receiver.port, "MEDAI"))
        told(lambda: move(node, "MEDAI", "STUDY", study))
inbox = Inbox(home / "files", spool, quiet_s=0.0, patience_s=0.0)
told(lambda: inbox.look(1.0))
told(lambda: [spool, spool.quarantine(), inbox.folder.name])
print("done")
"""


def plant(folder: Path) -> str:
    """Files with the marker in names, identifiers and UIDs, one of them cut off and one no DICOM; the good one's study."""
    folder.mkdir()
    (dataset,) = made_study(1)
    dataset.PatientName, dataset.PatientID, dataset.AccessionNumber = f"{MARKER}^A", f"{MARKER}1", f"{MARKER}2"
    dataset.StudyDescription = dataset.SeriesDescription = f"{MARKER} knee"
    data = file_bytes(dataset)
    (folder / f"0{MARKER}.dcm").write_bytes(data)
    bad = data.replace(
        str(dataset.SeriesInstanceUID).encode(), f"{MARKER} 1.3".encode().ljust(len(dataset.SeriesInstanceUID), b" ")
    )
    (folder / f"1{MARKER}.dcm").write_bytes(bad.replace(b"19010203", f"{MARKER}8".encode()))
    (folder / f"2{MARKER}.dcm").write_bytes(data[:-40])
    (folder / f"3{MARKER}.txt").write_text(MARKER * 100)
    return str(dataset.StudyInstanceUID)


@pytest.mark.parametrize(
    "first", ["", "import pynetdicom; pynetdicom.debug_logger()"], ids=["ours first", "its debugging on"]
)
def test_nothing_that_is_printed_named_or_stored_holds_who_it_is(first: str, dcmqrscp: Archive, tmp_path: Path) -> None:
    study = plant(tmp_path / "files")
    asked = [sys.executable, "-c", WIRE.format(first=first), dcmqrscp.port, dcmqrscp.move_port, tmp_path, study]
    result = subprocess.run([str(a) for a in asked], capture_output=True, text=True, timeout=180, env=dict(os.environ))
    said = result.stdout + result.stderr
    assert "done" in result.stdout, said
    assert MARKER not in said and study not in said
    assert "Success" in said and "C-MOVE" in said and "Looked(taken" in said
    sealed = [path for path in (tmp_path / "objects").rglob("*") if path.is_file()]
    assert len(sealed) > 3
    for path in sealed:
        assert MARKER not in path.name and MARKER.encode() not in path.read_bytes()
    spool = Spool(ObjectStore(tmp_path / "objects", b"k" * 32))
    assert any(MARKER.encode() in spool.read(digest) for digest in spool.waiting()), "the marker was planted"
    assert list((tmp_path / "files").iterdir()) == []
