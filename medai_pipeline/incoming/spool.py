"""What came in and is not in the PACS yet, and what the PACS would not take. Sealed, in the object store; never in clear.

    incoming/waiting/<SHA-256 of the file>
    incoming/quarantine/<SHA-256>          the file
    incoming/quarantine/<SHA-256>.json     why, when, and the name under which it was dropped

The name is the content, so a file that comes twice is one. An entry is durable when `keep` returns.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from medai_pipeline.errors import ObjectMissing

WAITING, QUARANTINE, NOTE = "incoming/waiting/", "incoming/quarantine/", ".json"


class Objects(Protocol):
    """What the spool needs of the object store."""

    def put(self, name: str, data: bytes) -> None: ...

    def get(self, name: str) -> bytes: ...

    def delete(self, name: str) -> None: ...

    def names(self, prefix: str = "") -> Iterator[str]: ...


@dataclass(frozen=True, slots=True, repr=False)
class Quarantined:
    """`digest`: SHA-256 of the file. `file_name` is what a person called it, "" when it came by C-STORE: it may identify."""

    digest: str
    reason: str
    since: str
    file_name: str = ""

    def __repr__(self) -> str:
        return f"Quarantined({self.digest[:12]}, {self.reason!r})"


@dataclass(frozen=True, slots=True)
class Spool:
    """Safe for many threads and processes. Every method raises StorageError."""

    objects: Objects

    def keep(self, data: bytes) -> None:
        """Seals a file; it survives a crash from here on. Raises StorageFull when there is no room."""
        self.objects.put(WAITING + hashlib.sha256(data).hexdigest(), data)

    def waiting(self) -> list[str]:
        """Digests of what the PACS does not have yet."""
        return [name.removeprefix(WAITING) for name in self.objects.names(WAITING)]

    def read(self, digest: str) -> bytes:
        return self.objects.get(WAITING + digest)

    def done(self, digest: str) -> None:
        """The PACS has it."""
        self.objects.delete(WAITING + digest)

    def set_aside(self, data: bytes, reason: str, file_name: str = "") -> None:
        """Into quarantine, durable. `reason` holds no identity."""
        digest = hashlib.sha256(data).hexdigest()
        self.objects.put(QUARANTINE + digest, data)
        note = {"reason": reason, "since": datetime.now(UTC).isoformat(timespec="seconds"), "file_name": file_name}
        self.objects.put(QUARANTINE + digest + NOTE, json.dumps(note).encode())

    def quarantine(self) -> list[Quarantined]:
        return [self._note(name) for name in self.objects.names(QUARANTINE) if not name.endswith(NOTE)]

    def quarantined(self, digest: str) -> bytes:
        """The file. Raises ObjectMissing."""
        return self.objects.get(QUARANTINE + digest)

    def try_again(self, digest: str) -> None:
        """Out of quarantine: it waits for the PACS once more."""
        self.keep(self.quarantined(digest))
        self.forget(digest)

    def forget(self, digest: str) -> None:
        """Out of quarantine, for good."""
        self.objects.delete(QUARANTINE + digest)
        self.objects.delete(QUARANTINE + digest + NOTE)

    def _note(self, name: str) -> Quarantined:
        digest = name.removeprefix(QUARANTINE)
        try:
            return Quarantined(digest, **json.loads(self.objects.get(name + NOTE)))
        except ObjectMissing:
            return Quarantined(digest, "the process ended before it wrote down why", "")
