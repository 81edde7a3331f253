"""DIMSE as the rest of the package names it: C-ECHO here, the other services each in a file of its own.

`association` opens, `store` sends, `find` asks, `retrieve` fetches, `receiver` takes what others send.
"""

from __future__ import annotations

from pynetdicom.presentation import build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from medai_pipeline.errors import PacsUnreachable
from medai_pipeline.pacs.association import associate
from medai_pipeline.pacs.node import ANY_AE, CALLING_AE, Node
from medai_pipeline.pacs.store import store, store_many
from medai_pipeline.pacs.tls import TlsFiles

__all__ = ["ANY_AE", "CALLING_AE", "Node", "TlsFiles", "echo", "store", "store_many"]


def echo(
    host: str, port: int, called_ae: str = ANY_AE, calling_ae: str = CALLING_AE, tls: TlsFiles | None = None
) -> None:
    """C-ECHO (PS3.4 Annex A). Raises PacsUnreachable or PacsUnauthorized (association rejected, no TLS)."""
    echo_node(Node(host, port, called_ae, calling_ae, tls))


def echo_node(node: Node) -> None:
    """`echo` of a node."""
    with associate(node, [build_context(Verification)]) as association:
        if not association.accepted_contexts or association.send_c_echo().get("Status") != 0x0000:
            raise PacsUnreachable(f"the DICOM node at {node.address} did not answer C-ECHO with success: check its log")
