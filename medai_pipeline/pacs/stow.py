"""STOW-RS (PS3.18 10.5) as a user: one object a request, and what the server says became of it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from medai_pipeline.errors import PacsError, PacsNotFound, PacsUnauthorized, PacsUnreachable
from medai_pipeline.pacs.records import UploadResult
from medai_pipeline.pacs.wire import Wire

_FAILED, _REASON = "00081198", "00081197"  # Failed SOP Sequence, Failure Reason


def stow(wire: Wire, root: str, data: bytes) -> UploadResult:
    """One file to `root`/studies. Raises PacsUnreachable, PacsUnauthorized, PacsNotFound (no such service there).

    What the server refuses is a result.
    """
    boundary = secrets.token_hex(16)
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    headers = {
        "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
        "Accept": "application/dicom+json",
    }
    try:
        response = wire.request(
            "POST", f"{root}/studies", content=head + data + f"\r\n--{boundary}--\r\n".encode(), headers=headers
        )
    except (PacsUnreachable, PacsUnauthorized, PacsNotFound):
        raise
    except PacsError as error:  # also 409: none was stored (PS3.18 Table 10.5.3-1)
        return UploadResult("Refused", reason=error.reason, retryable=error.retryable)
    refused = _refusals(wire.read_json(response))
    if refused:
        return UploadResult("Refused", reason=f"the server refused it (STOW-RS failure reason {refused[0]})")
    return UploadResult("Success")


def _refusals(body: Any) -> list[str]:
    """The failure reasons (PS3.18 Table 10.5.3-2), in hexadecimal; from the DICOM JSON model (PS3.18 Annex F)."""
    failed = body.get(_FAILED, {}).get("Value", []) if isinstance(body, Mapping) else []
    return [f"0x{int((item.get(_REASON, {}).get('Value') or [0])[0]):04X}" for item in failed]
