"""DIMSE as a user of services (SCU): C-ECHO and C-STORE (PS3.4 Annexes A and B). Files go out undecoded.

C-STORE is slow where small packets wait for each other: the peer holds the second half of its answer back until we
acknowledge the first (Nagle), and we delay that by 40 ms. So acknowledgements go out at once where the system can
(TCP_QUICKACK, Linux): 40 images a second into Orthanc instead of 16; TCP_NODELAY alone changes nothing there.
As a provider (SCP) this package does not serve.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from pynetdicom.status import code_to_category

from medai_pipeline.errors import PacsUnauthorized, PacsUnreachable
from medai_pipeline.pacs.checkpoint import Checkpoint
from medai_pipeline.pacs.records import UploadResult

CALLING_AE = "MEDAI"
ANY_AE = "ANY-SCP"
CONTEXTS_PER_ASSOCIATION = 128  # PS3.8 9.3.2.2: odd presentation context ids 1 to 255
NEEDED = ("MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID", "TransferSyntaxUID")
TIMEOUT_S = 30.0
ATTEMPTS = 3
QUICK_ACK: int | None = getattr(socket, "TCP_QUICKACK", None)

# Below ERROR the library quotes what it sends; what goes wrong is raised or returned here anyway.
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
_config.STORE_SEND_CHUNKED_DATASET = True  # a file's bytes as they are, in pieces, never decoded


@dataclass(frozen=True, slots=True)
class _Node:
    """A DICOM application entity on the network."""

    host: str
    port: int
    called_ae: str
    calling_ae: str

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    sop_class: UID
    transfer_syntax: UID


def echo(host: str, port: int, called_ae: str = ANY_AE, calling_ae: str = CALLING_AE) -> None:
    """C-ECHO. Raises PacsUnreachable or PacsUnauthorized (association rejected)."""
    node = _Node(host, port, called_ae, calling_ae)
    with _association(node, [build_context(Verification)]) as association:
        if association.send_c_echo().get("Status") != 0x0000:
            raise PacsUnreachable(f"the DICOM node at {node.address} did not answer C-ECHO with success: check its log")


def store(
    paths: Iterable[Path],
    host: str,
    port: int,
    called_ae: str = ANY_AE,
    calling_ae: str = CALLING_AE,
    progress: Callable[[UploadResult], None] | None = None,
) -> list[UploadResult]:
    """C-STORE of each file, in its own transfer syntax; results in the order of `paths`, status Success or Refused.

    A file that is not DICOM or that the node refuses is a result. A lost association is opened again, with what is
    left to send. Raises PacsUnreachable or PacsUnauthorized.
    """
    node, paths = _Node(host, port, called_ae, calling_ae), list(paths)
    results: dict[int, UploadResult] = {}
    waiting: dict[int, _File] = {}

    def settle(index: int, result: UploadResult) -> None:
        results[index] = result
        if progress:
            progress(result)

    for index, path in enumerate(paths):
        file = _read_meta(path)
        if file:
            waiting[index] = file
        else:
            settle(index, UploadResult("Refused", reason="not a DICOM file (PS3.10)"))
    for batch in _batches(waiting):
        _store_batch(node, batch, settle)
    return [results[index] for index in range(len(paths))]


def _store_batch(node: _Node, batch: dict[int, _File], settle: Callable[[int, UploadResult], None]) -> None:
    """Sends `batch` and empties it. A node that takes nothing more in ATTEMPTS associations is unreachable."""
    contexts = [build_context(sop_class, syntax) for sop_class, syntax in dict.fromkeys(map(_context, batch.values()))]
    lost = 0
    while batch:
        before = len(batch)
        with _association(node, contexts) as association:
            accepted = {
                (context.abstract_syntax, context.transfer_syntax[0]) for context in association.accepted_contexts
            }
            for index, file in list(batch.items()):
                result = _store_one(association, file, accepted)
                if result is None:
                    break
                del batch[index]
                settle(index, result)
        lost = lost + 1 if len(batch) == before else 0
        if batch and lost >= ATTEMPTS:
            raise PacsUnreachable(
                f"the DICOM node at {node.address} closes the association in the middle of C-STORE: check its log"
            )


def _store_one(association: Association, file: _File, accepted: set[tuple[UID | None, UID]]) -> UploadResult | None:
    """None when the association was lost."""
    if _context(file) not in accepted:
        return UploadResult(
            "Refused", reason=f"the node does not accept {file.sop_class.name} in {file.transfer_syntax.name}"
        )
    if not association.is_established:
        return None
    status = association.send_c_store(file.path).get("Status")
    if status is None:
        return None
    if code_to_category(status) in {"Success", "Warning"}:
        return UploadResult("Success")
    return UploadResult("Refused", reason=f"the node refused it (C-STORE status 0x{status:04X})")


@contextmanager
def _association(node: _Node, contexts: Sequence[PresentationContext]) -> Iterator[Association]:
    ae = AE(node.calling_ae)
    ae.connection_timeout = ae.acse_timeout = 10.0
    ae.dimse_timeout = ae.network_timeout = TIMEOUT_S
    association = ae.associate(
        node.host,
        node.port,
        contexts=list(contexts),
        ae_title=node.called_ae,
        max_pdu=0,
        evt_handlers=[(event, _no_waiting) for event in (evt.EVT_CONN_OPEN, evt.EVT_DATA_SENT, evt.EVT_DATA_RECV)],
    )
    if association.is_rejected:
        raise PacsUnauthorized(
            f"the DICOM node at {node.address} rejects the association from {node.calling_ae} to {node.called_ae}: "
            "register our AE title there, or name the right one"
        )
    if not association.is_established and not association.rejected_contexts:
        raise PacsUnreachable(f"the DICOM node at {node.address} does not answer: check host, port and that it runs")
    association._reactor_checkpoint = Checkpoint(association)
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def _no_waiting(event: evt.Event) -> None:
    """Small packets go out at once, and what came is acknowledged at once (the kernel forgets that after a while)."""
    connection = event.assoc.dul.socket
    if connection is None or connection.socket is None:
        return
    connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if QUICK_ACK is not None:
        connection.socket.setsockopt(socket.IPPROTO_TCP, QUICK_ACK, 1)


def _read_meta(path: Path) -> _File | None:
    try:
        meta = dcmread(path, stop_before_pixels=True, specific_tags=[]).file_meta
    except (InvalidDicomError, EOFError, ValueError):
        return None
    if any(keyword not in meta for keyword in NEEDED):
        return None
    return _File(path, meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID)


def _context(file: _File) -> tuple[UID, UID]:
    return file.sop_class, file.transfer_syntax


def _batches(files: dict[int, _File]) -> Iterator[dict[int, _File]]:
    """The files in order, so that no batch needs more presentation contexts than an association has."""
    batch: dict[int, _File] = {}
    kinds: set[tuple[UID, UID]] = set()
    for index, file in files.items():
        if len(kinds | {_context(file)}) > CONTEXTS_PER_ASSOCIATION:
            yield batch
            batch, kinds = {}, set()
        batch[index] = file
        kinds.add(_context(file))
    if batch:
        yield batch
