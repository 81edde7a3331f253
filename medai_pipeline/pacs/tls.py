"""TLS for DICOM, both ways: PS3.15 B.12 (BCP 195: RFC 8996 and RFC 9325). Nothing here opens a connection.

TLS 1.2 or 1.3, forward secrecy and authenticated encryption alone. The peer is always verified: a server by its
certificate and its name, a client by its certificate where authorities are named.
"""

from __future__ import annotations

import ssl
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medai_pipeline.errors import SettingsError

# RFC 9325 4.2 for TLS 1.2: ephemeral elliptic curves with AES-GCM. TLS 1.3 has no others that are weaker.
CIPHERS = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. `certificate` (with what signed it) and `key` are ours; `authorities` are those we trust in a peer.

    Without `authorities` a client trusts the system's, and a server asks for no certificate.
    """

    certificate: Path | None = None
    key: Path | None = None
    authorities: Path | None = None

    def client(self) -> ssl.SSLContext:
        """For an SCU. Raises SettingsError when a file cannot be used."""
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=_readable(self.authorities))
        if self.certificate:
            self._load_own(context)
        return _strict(context)

    def server(self) -> ssl.SSLContext:
        """For an SCP: with `authorities`, a client without a certificate of theirs is refused. Raises SettingsError."""
        if not self.certificate:
            raise SettingsError("TLS for what comes in needs MEDAI_DICOM_TLS_CERTIFICATE and MEDAI_DICOM_TLS_KEY")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._load_own(context)
        if self.authorities:
            _load(context.load_verify_locations, self.authorities)
            context.verify_mode = ssl.CERT_REQUIRED
        return _strict(context)

    def _load_own(self, context: ssl.SSLContext) -> None:
        assert self.certificate
        key = self.key or self.certificate
        if key.is_file() and stat.S_IMODE(key.stat().st_mode) & stat.S_IROTH:
            raise SettingsError(f"everybody may read the TLS key {key}: run chmod o-r {key}")
        # an encrypted key would be asked for on the terminal, and a service has none: an empty password fails instead
        _load(lambda path: context.load_cert_chain(path, key, password=""), self.certificate, key)


def _strict(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    return context


def _readable(path: Path | None) -> Path | None:
    if path and not path.is_file():
        raise SettingsError(f"the TLS file {path} is not there: correct MEDAI_DICOM_TLS_AUTHORITIES")
    return path


def _load(load: Callable[[Path], object], *paths: Path) -> None:
    try:
        load(paths[0])
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        names = " and ".join(str(path) for path in paths)
        raise SettingsError(f"TLS cannot use {names}: PEM files that belong together are expected") from error
