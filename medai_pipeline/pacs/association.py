"""One association as a user of services (SCU, PS3.8): open, refuse in our words, release. No DIMSE service is asked here."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pynetdicom import AE, _config
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext

from medai_pipeline.errors import PacsBusy, PacsUnauthorized, PacsUnreachable
from medai_pipeline.pacs.checkpoint import Checkpoint
from medai_pipeline.pacs.node import Node
from medai_pipeline.pacs.pieces import PDU_BYTES, connection_handlers

CONTEXTS_PER_ASSOCIATION = 128  # PS3.8 9.3.2.2: odd presentation context ids 1 to 255
CONNECT_S = 10.0
TRANSIENT = 2  # result of an A-ASSOCIATE-RJ (PS3.8 9.3.4)

# The library's log quotes what it sends and gets; what goes wrong is raised or returned here anyway.
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
_config.LOG_HANDLER_LEVEL = "none"
_config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False


@contextmanager
def associate(
    node: Node,
    contexts: Sequence[PresentationContext],
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
    handlers: Sequence[tuple[Any, ...]] = (),
) -> Iterator[Association]:
    """An open association, released at the end, or aborted when the caller fails. Every context may have been rejected.

    Raises PacsUnreachable, PacsBusy when it is rejected for now, or PacsUnauthorized when it is rejected for good or TLS
    does not come about.
    """
    ae = AE(node.calling_ae)
    ae.connection_timeout = ae.acse_timeout = CONNECT_S
    ae.dimse_timeout = ae.network_timeout = node.timeout_s
    trouble: list[str] = []
    try:
        association = ae.associate(
            node.host,
            node.port,
            contexts=list(contexts),
            ae_title=node.called_ae,
            max_pdu=PDU_BYTES,
            ext_neg=list(roles),
            tls_args=(_noting(node.tls.client(), trouble), node.host) if node.tls else None,
            evt_handlers=[*connection_handlers(node.timeout_s), *handlers],
        )
    except socket.gaierror as error:
        raise PacsUnreachable(f"there is no host {node.host}: correct the DICOM node's address") from error
    _require_open(association, node, trouble)
    association._reactor_checkpoint = Checkpoint(association)
    try:
        yield association
    except BaseException:
        if association.is_established:
            association.abort()
        raise
    if association.is_established:
        association.release()


def _require_open(association: Association, node: Node, trouble: list[str]) -> None:
    if association.is_established or association.rejected_contexts:
        return
    if trouble:
        raise PacsUnauthorized(
            f"no TLS with the DICOM node at {node.address} ({trouble[0]}): "
            "name the authority that signed its certificate, and call it by the name in there"
        )
    told = association.acceptor.primitive
    if association.is_rejected and told and told.result == TRANSIENT:
        raise PacsBusy(f"the DICOM node at {node.address} takes no association now: look at its load and its log")
    if association.is_rejected:
        raise PacsUnauthorized(
            f"the DICOM node at {node.address} rejects the association from {node.calling_ae} to {node.called_ae}: "
            "register our AE title there, or name the right one"
        )
    also = ", and whether it trusts our certificate" if node.tls else ""
    raise PacsUnreachable(f"the DICOM node at {node.address} does not answer: check host, port and that it runs{also}")


def _noting(context: ssl.SSLContext, trouble: list[str]) -> ssl.SSLContext:
    """The library keeps to itself why a handshake failed; here it is told, in OpenSSL's own fixed words."""

    class Noting(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            try:
                super().do_handshake(block)
            except ssl.SSLCertVerificationError as error:
                trouble.append(f"its certificate: {error.verify_message}")
                raise
            except ssl.SSLError as error:
                trouble.append((error.reason or "the handshake failed").lower().replace("_", " "))
                raise

    context.sslsocket_class = Noting
    return context
