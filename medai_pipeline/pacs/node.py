"""The name of a DICOM node: AE title, host, port, TLS or not. Light: settings read it; nothing here opens a connection."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from medai_pipeline.errors import SettingsError
from medai_pipeline.pacs.tls import TlsFiles

CALLING_AE = "MEDAI"
ANY_AE = "ANY-SCP"
TIMEOUT_S = 30.0
SCHEMES = ("dicom", "dicoms")  # in clear, with TLS
EXPECTED = "expected dicom://AET@HOST:PORT, or dicoms:// for TLS, for example dicom://ARCHIVE@10.0.0.5:104"


@dataclass(frozen=True, slots=True)
class Node:
    """A DICOM application entity on the network, and who we are to it. `tls` None: in clear.

    `timeout_s`: how long the node may be silent. Raises SettingsError when an AE title is none (PS3.5 6.2).
    """

    host: str
    port: int
    called_ae: str = ANY_AE
    calling_ae: str = CALLING_AE
    tls: TlsFiles | None = None
    timeout_s: float = TIMEOUT_S

    def __post_init__(self) -> None:
        for title in (self.called_ae, self.calling_ae):
            check_title(title)

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"


def check_title(title: str) -> str:
    """An AE title as it is. Raises SettingsError when it is none (PS3.5 6.2): 1 to 16 characters, no backslash."""
    if not title.strip() or len(title) > 16 or not title.isascii() or not title.isprintable() or "\\" in title:
        raise SettingsError("an AE title has 1 to 16 characters of ASCII and no backslash")
    return title


def parse_node(text: str, calling_ae: str = CALLING_AE, tls: TlsFiles | None = None) -> Node:
    """`dicom://AET@HOST:PORT`; `dicoms://` uses `tls` (default: the system's authorities, no certificate of ours).

    Raises SettingsError.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise SettingsError(EXPECTED) from error
    if parts.scheme not in SCHEMES or not parts.hostname or not port or not parts.username or parts.path.strip("/"):
        raise SettingsError(EXPECTED)
    title = parts.netloc.rpartition("@")[0]
    return Node(parts.hostname, port, title, calling_ae, (tls or TlsFiles()) if parts.scheme == "dicoms" else None)
