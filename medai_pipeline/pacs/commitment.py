"""Storage commitment as a user (PS3.4 Annex J): a node is asked to take responsibility for what it was sent.

N-ACTION asks; the answer is an N-EVENT-REPORT, on the same association or on one that the node opens to us (its choice,
PS3.4 J.3.3), so both are open most of the time that we wait, and the first answer counts; the rest is for nodes that call
only when the association has ended. A node may take hours: who gets no answer asks again, about the same objects under a
new transaction.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]

from medai_pipeline.errors import PacsError, PacsUnreachable
from medai_pipeline.pacs.association import associate
from medai_pipeline.pacs.node import Node

WELL_KNOWN_INSTANCE = "1.2.840.10008.1.20.1.1"
REQUEST = 1  # Action Type ID (PS3.4 Table J.3-1)
NO_SUCH_OBJECT = 0x0112
WAIT_S = 15.0
SHARE = 2 / 3  # of the waiting: with the association open


@dataclass(frozen=True, slots=True)
class Commitment:
    """What the node answered: for which SOP Instance UIDs it does not answer -> failure reason (PS3.3 C.14.1.1)."""

    missing: dict[str, int]

    @property
    def complete(self) -> bool:
        return not self.missing


def ask_commitment(
    node: Node,
    objects: Sequence[tuple[str, str]],
    listen: tuple[str, int] | None,
    wait_s: float = WAIT_S,
) -> Commitment | None:
    """Asks `node` about `objects` (SOP Class UID, SOP Instance UID).

    `listen`: where we take its answer too, an address and a port that it knows for our AE title; None: on the same
    association alone. None when no answer came within `wait_s`. Raises PacsUnreachable, PacsUnauthorized; PacsError when the node does
    not offer storage commitment, or refuses.
    """
    waiting = _Waiting(f"2.25.{uuid.uuid4().int}")
    with _listening(listen, node, waiting):
        context = [build_context(StorageCommitmentPushModel)]
        with associate(node, context, handlers=waiting.handlers) as association:
            if not association.accepted_contexts:
                raise PacsError(f"the DICOM node at {node.address} does not offer storage commitment")
            answer, _ = association.send_n_action(
                _request(waiting.transaction, objects), REQUEST, StorageCommitmentPushModel, WELL_KNOWN_INSTANCE
            )
            _require_success(answer, node.address)
            waiting.answered.wait(wait_s * SHARE if listen else wait_s)
        waiting.answered.wait(wait_s * (1 - SHARE) if listen else 0)
    return waiting.commitment


def _request(transaction: str, objects: Sequence[tuple[str, str]]) -> Dataset:
    made = Dataset()
    made.TransactionUID = transaction
    made.ReferencedSOPSequence = []
    for sop_class, sop_instance in objects:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_instance
        made.ReferencedSOPSequence.append(item)
    return made


def _require_success(answer: Dataset, address: str) -> None:
    status = answer.get("Status")
    if status is None:
        raise PacsUnreachable(f"the DICOM node at {address} does not answer a request for storage commitment")
    if status != 0x0000:
        raise PacsError(f"the DICOM node at {address} refuses storage commitment (N-ACTION status 0x{status:04X})")


class _Waiting:
    """One transaction, until it is answered. What belongs to another one is not taken."""

    def __init__(self, transaction: str) -> None:
        self.transaction = transaction
        self.answered = threading.Event()
        self.commitment: Commitment | None = None
        self.handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, self.on_report)]

    def on_report(self, event: Any) -> tuple[int, Dataset | None]:
        told = event.event_information
        if told.get("TransactionUID") != self.transaction:
            return 0x0110, None  # processing failure: not ours, or of an earlier try
        failed = told.get("FailedSOPSequence") or []
        missing = {str(i.ReferencedSOPInstanceUID): int(i.get("FailureReason") or NO_SUCH_OBJECT) for i in failed}
        self.commitment = Commitment(missing)
        self.answered.set()
        return 0x0000, None


@contextmanager
def _listening(listen: tuple[str, int] | None, node: Node, waiting: _Waiting) -> Iterator[None]:
    """An acceptor for N-EVENT-REPORT alone, as long as we wait."""
    if listen is None:
        yield
        return
    ae = AE(node.calling_ae)
    ae.require_called_aet = True
    # the node that answers is the provider here, although it is the one that calls (PS3.7 D.3.3.4)
    ae.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
    secured = node.tls.server() if node.tls and node.tls.certificate else None
    try:
        server = ae.start_server(listen, block=False, evt_handlers=waiting.handlers, ssl_context=secured)
    except OSError as error:
        raise PacsUnreachable(
            f"nothing can listen for storage commitment at {listen[0]}:{listen[1]} ({error.strerror}): "
            "another delivery listens there, or MEDAI_COMMITMENT_LISTEN is wrong"
        ) from error
    assert server is not None
    try:
        yield
    finally:
        server.shutdown()
