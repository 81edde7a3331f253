"""C-STORE as SCU (PS3.4 Annex B): files and bytes go out as they are, never decoded."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path

from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset, read_preamble
from pydicom.uid import UID
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import build_context
from pynetdicom.status import code_to_category

from medai_pipeline.errors import PacsUnreachable
from medai_pipeline.pacs.association import CONTEXTS_PER_ASSOCIATION, associate
from medai_pipeline.pacs.node import ANY_AE, CALLING_AE, Node
from medai_pipeline.pacs.records import Hidden, UploadResult
from medai_pipeline.pacs.tls import TlsFiles

NEEDED = ("MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID", "TransferSyntaxUID")
ATTEMPTS = 3
AT_ONCE = 64  # objects given as bytes that one association carries: they are all in memory

Item = bytes | Path


@dataclass(frozen=True, slots=True, repr=False)
class _Object(Hidden):
    item: Item
    data_set_at: int
    sop_class: UID
    sop_instance: UID
    transfer_syntax: UID

    @property
    def context(self) -> tuple[UID, UID]:
        return self.sop_class, self.transfer_syntax


def store(
    paths: Iterable[Path],
    host: str,
    port: int,
    called_ae: str = ANY_AE,
    calling_ae: str = CALLING_AE,
    progress: Callable[[UploadResult], None] | None = None,
    tls: TlsFiles | None = None,
) -> list[UploadResult]:
    """C-STORE of each file, in its own transfer syntax; results in the order of `paths`, status Success, Refused, or
    Unsupported where the node does not take such objects at all.

    A file that is not DICOM or that the node refuses is a result. A lost association is opened again, with what is
    left to send. Raises PacsUnreachable or PacsUnauthorized.
    """
    return send(Node(host, port, called_ae, calling_ae, tls), paths, progress)


def store_many(
    node: Node, items: Iterable[Item], progress: Callable[[UploadResult], None] | None = None
) -> list[UploadResult]:
    """`store` of files or of their bytes, read as they are needed: memory stays bounded by AT_ONCE objects."""
    results: list[UploadResult] = []
    rest = iter(items)
    while batch := list(islice(rest, AT_ONCE)):
        results += send(node, batch, progress)
    return results


def send(
    node: Node, items: Iterable[Item], progress: Callable[[UploadResult], None] | None = None
) -> list[UploadResult]:
    """`store` to a node."""
    items = list(items)
    results: dict[int, UploadResult] = {}
    waiting: dict[int, _Object] = {}

    def settle(index: int, result: UploadResult) -> None:
        results[index] = result
        if progress:
            progress(result)

    for index, item in enumerate(items):
        known = _read_meta(item)
        if isinstance(known, str):
            settle(index, UploadResult("Refused", reason=known))
        else:
            waiting[index] = known
    for batch in _batches(waiting):
        _send_batch(node, batch, settle)
    return [results[index] for index in range(len(items))]


def _send_batch(node: Node, batch: dict[int, _Object], settle: Callable[[int, UploadResult], None]) -> None:
    """Sends `batch` and empties it. A node that takes nothing more in ATTEMPTS associations is unreachable."""
    kinds = dict.fromkeys(known.context for known in batch.values())
    contexts = [build_context(sop_class, syntax) for sop_class, syntax in kinds]
    lost = 0
    while batch:
        before = len(batch)
        with associate(node, contexts) as association:
            accepted = {
                (context.abstract_syntax, context.transfer_syntax[0]): context.context_id
                for context in association.accepted_contexts
            }
            for index, known in list(batch.items()):
                result = _send_one(association, known, accepted.get(known.context))
                if result is None:
                    break
                del batch[index]
                settle(index, result)
        lost = lost + 1 if len(batch) == before else 0
        if batch and lost >= ATTEMPTS:
            raise PacsUnreachable(
                f"the DICOM node at {node.address} closes the association in the middle of C-STORE: check its log"
            )


def _send_one(association: Association, known: _Object, context_id: int | None) -> UploadResult | None:
    """None when the association was lost."""
    if context_id is None:
        return UploadResult(
            "Unsupported", reason=f"the node does not accept {known.sop_class.name} in {known.transfer_syntax.name}"
        )
    if not association.is_established:
        return None
    status = _c_store(association, known, context_id)
    if status is None:
        return None
    if code_to_category(status) in {"Success", "Warning"}:
        return UploadResult("Success")
    no_room = status & 0xFF00 == 0xA700  # out of resources (PS3.4 B.2.3)
    return UploadResult("Refused", reason=f"the node refused it (C-STORE status 0x{status:04X})", retryable=no_room)


def _c_store(association: Association, known: _Object, context_id: int) -> int | None:
    """What `Association.send_c_store` does, for bytes as well, and with the context that is exactly the object's."""
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = known.sop_class, known.sop_instance
    if isinstance(known.item, Path):
        request._dataset_path = (known.item, known.data_set_at)  # sent in pieces as it is read
    else:
        request.DataSet = BytesIO(known.item[known.data_set_at :])
    association._reactor_checkpoint.clear()
    association.dimse.send_msg(request, context_id)
    _, response = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    if response is None:
        association._handle_no_response()
        return None
    return association._check_received_status(response).get("Status")


def _read_meta(item: Item) -> _Object | str:
    """The object, or why it is none."""
    try:
        with item.open("rb") if isinstance(item, Path) else BytesIO(item) as stream:
            read_preamble(stream, False)
            meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
            at = stream.tell()
        if all(meta.get(keyword) for keyword in NEEDED):
            return _Object(
                item, at, meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID
            )
    except (InvalidDicomError, EOFError, ValueError, struct.error):
        pass  # said below, without what pydicom says: it may quote the file
    except OSError as error:
        return f"the file cannot be read ({error.strerror})"
    return "not a DICOM file (PS3.10)"


def _batches(objects: dict[int, _Object]) -> Iterator[dict[int, _Object]]:
    """The objects in order, so that no batch needs more presentation contexts than an association has."""
    batch: dict[int, _Object] = {}
    kinds: set[tuple[UID, UID]] = set()
    for index, known in objects.items():
        if len(kinds | {known.context}) > CONTEXTS_PER_ASSOCIATION:
            yield batch
            batch, kinds = {}, set()
        batch[index] = known
        kinds.add(known.context)
    if batch:
        yield batch
