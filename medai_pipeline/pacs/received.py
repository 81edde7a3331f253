"""An object that came by C-STORE, as the DICOM file (PS3.10) that it is worth: bit for bit, never decoded. In memory alone."""

from __future__ import annotations

import struct
from typing import cast

from pydicom.uid import PYDICOM_IMPLEMENTATION_UID
from pynetdicom import evt
from pynetdicom.dimse_primitives import C_STORE

from medai_pipeline.dicom.heading import STUDY_INSTANCE_UID, heading
from medai_pipeline.errors import NotDicom

_SERIES_INSTANCE_UID, _SOP_CLASS_UID, _SOP_INSTANCE_UID = 0x0020000E, 0x00080016, 0x00080018
_VERSION = b"\x02\x00\x01\x00OB\x00\x00\x02\x00\x00\x00\x00\x01"


def file_of(event: evt.Event) -> bytes:
    """The file of an EVT_C_STORE. Raises NotDicom when it lacks its identifiers or is not what the request says."""
    request = cast(C_STORE, event.request)
    data_set = request.DataSet
    if data_set is None:
        raise NotDicom("a C-STORE without a data set")
    sop_class, sop_instance = str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID)
    data = file_bytes(sop_class, sop_instance, str(event.context.transfer_syntax), data_set.getbuffer())
    known = heading(data)
    if known.text(_SOP_CLASS_UID) != sop_class or known.text(_SOP_INSTANCE_UID) != sop_instance:
        raise NotDicom("the object is not the one that its C-STORE request names")
    if not known.text(STUDY_INSTANCE_UID) or not known.text(_SERIES_INSTANCE_UID):
        raise NotDicom("the object belongs to no study and no series")
    return data


def file_bytes(sop_class: str, sop_instance: str, transfer_syntax: str, data_set: bytes | memoryview) -> bytes:
    """Preamble, file meta information (PS3.10 7.1) and the encoded data set as it came."""
    meta = _VERSION + b"".join(
        _uid(element, value)
        for element, value in (
            (0x02, sop_class),
            (0x03, sop_instance),
            (0x10, transfer_syntax),
            (0x12, PYDICOM_IMPLEMENTATION_UID),
        )
    )
    length = struct.pack("<HH2sHL", 2, 0, b"UL", 4, len(meta))
    return b"".join((bytes(128), b"DICM", length, meta, data_set))


def _uid(element: int, value: str) -> bytes:
    data = value.encode("ascii")
    data += b"\0" * (len(data) % 2)
    return struct.pack("<HH2sH", 2, element, b"UI", len(data)) + data
