"""C-STORE as SCP (PS3.4 Annex B): takes what allowed peers send and answers Success once it is kept. Keeps nothing itself.

Also C-ECHO. Who is not allowed is turned away before a byte is read (address) or at the association (AE title).
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, cast

from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import AllStoragePresentationContexts, PresentationContext, build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from pynetdicom.transport import ThreadedAssociationServer

from medai_pipeline.errors import DicomError, MedaiError, PacsError, StorageFull
from medai_pipeline.pacs.node import CALLING_AE, TIMEOUT_S, check_title
from medai_pipeline.pacs.peers import THIS_MACHINE, Peer, allows, allows_address
from medai_pipeline.pacs.pieces import PDU_BYTES, connection_handlers
from medai_pipeline.pacs.received import file_of
from medai_pipeline.pacs.retrieve import (
    CANNOT_UNDERSTAND,
    COMPRESSED,
    OUT_OF_RESOURCES,
    PROCESSING_FAILURE,
    SUCCESS,
    UNCOMPRESSED,
)  # fmt: skip
from medai_pipeline.pacs.tls import TlsFiles

log = logging.getLogger(__name__)
HANDSHAKE_S = 10.0
NOT_RECOGNIZED = (0x01, 0x01, 0x03)  # PS3.8 9.3.4: rejected permanently, by the service user, calling AE title
SYNTAXES: list[str | UID] = [*UNCOMPRESSED, *COMPRESSED]


@dataclass(frozen=True, slots=True)
class Listening:
    """Where and for whom. `port` 0: any free one; `tls` None: in clear."""

    port: int
    address: str = "127.0.0.1"
    ae_title: str = CALLING_AE
    peers: Sequence[Peer] = THIS_MACHINE
    tls: TlsFiles | None = None
    associations: int = 10
    timeout_s: float = TIMEOUT_S  # how long a peer may be silent


@dataclass
class Receiver:
    """A context manager that listens. `keep` is given each object as a DICOM file; its return is what makes it Success.

    `keep` runs in a thread an association. StorageFull is answered as out of resources (A700H), which a sender repeats.
    """

    listening: Listening
    keep: Callable[[bytes], None]
    _server: _Server | None = field(default=None, init=False)

    def __enter__(self) -> Receiver:
        self.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stop()

    @property
    def port(self) -> int:
        assert self._server
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Listens. Raises PacsError when the port is taken, SettingsError when TLS cannot be."""
        listening = self.listening
        ae = AE(check_title(listening.ae_title))
        ae.maximum_associations = listening.associations
        ae.maximum_pdu_size = PDU_BYTES
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = listening.timeout_s
        ae.require_called_aet = True
        handlers = [
            *connection_handlers(listening.timeout_s),
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_C_ECHO, lambda event: SUCCESS),
        ]
        tls = listening.tls.server() if listening.tls else None
        try:
            self._server = _Server(ae, listening, tls, handlers)
        except OSError as error:
            raise PacsError(
                f"cannot listen for DICOM at {listening.address}:{listening.port} ({error.strerror}): "
                "stop what has that port, or name another address or port"
            ) from error
        ae._servers.append(self._server)
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="receiver", daemon=True).start()

    def stop(self) -> None:
        """Takes no new association, and aborts those that are open: their peers send again what was not acknowledged."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.shutdown()
        for association in server.active_associations:
            association.abort()

    def _requested(self, event: evt.Event) -> None:
        requestor = event.assoc.requestor
        asked = cast(A_ASSOCIATE, requestor.primitive)
        if not allows(self.listening.peers, asked.calling_ae_title, requestor.address):
            event.assoc.acse.send_reject(*NOT_RECOGNIZED)
            event.assoc.kill()  # waits until it is sent
            log.warning("an association was rejected: MEDAI_SCP_PEERS does not name its AE title with its address")

    def _store(self, event: evt.Event) -> int:
        try:
            self.keep(file_of(event))
        except StorageFull as error:
            log.error(error.reason)
            return OUT_OF_RESOURCES
        except DicomError as error:
            log.warning("refused: %s", error.reason)
            return CANNOT_UNDERSTAND
        except MedaiError as error:
            log.error(error.reason)
            return PROCESSING_FAILURE
        except Exception as error:  # noqa: BLE001 - the library would answer and log it with all that it holds
            log.error("an object could not be kept: unexpected %s", type(error).__name__)
            return PROCESSING_FAILURE
        return SUCCESS


class _Server(ThreadedAssociationServer):
    """The library's server, which does not wait for one peer's TLS handshake before it hears the next."""

    daemon_threads = True

    def __init__(self, ae: AE, listening: Listening, tls: ssl.SSLContext | None, handlers: list[Any]) -> None:
        self._peers = listening.peers
        self._most = 2 * listening.associations  # connections: an association is counted once it is requested
        self._opening = threading.BoundedSemaphore(self._most)
        self._tls = tls
        super().__init__(ae, (listening.address, listening.port), listening.ae_title, _contexts(), None, handlers)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        if not allows_address(self._peers, client_address[0]) or len(self.active_associations) >= self._most:
            return False
        return self._opening.acquire(blocking=False)

    def process_request(self, request: Any, client_address: Any) -> None:
        threading.Thread(
            target=self._open, args=(request, client_address), name="receiver-opening", daemon=True
        ).start()

    def _open(self, request: Any, client_address: Any) -> None:
        try:
            self.process_request_thread(request, client_address)
        finally:
            self._opening.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self._tls:
            request.settimeout(HANDSHAKE_S)
            request = self._tls.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Instead of a traceback."""
        log.warning("a connection was closed before an association (a TLS handshake that failed, or a peer that left)")


def _contexts() -> list[PresentationContext]:
    storage = [build_context(str(context.abstract_syntax), SYNTAXES) for context in AllStoragePresentationContexts]
    return [build_context(Verification), *storage]
