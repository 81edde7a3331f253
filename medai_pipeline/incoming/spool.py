"""What came in and is not in the PACS yet, and what the PACS would not take. Sealed, in the object store; never in clear.

    incoming/waiting/<entry>
    incoming/quarantine/<entry>          the file
    incoming/quarantine/<entry>.json     why, when, and the name under which it was dropped

An entry is named KEY.DIGEST: its study's key, under whose secret it is sealed so that it is forgotten with its study, and
the SHA-256 of the file; DIGEST alone where the file names no study, or one that was forgotten before it came: then it is
sealed under the secret that such objects share. The name is the content, so a file that comes twice is one. An entry is
durable when `keep` returns.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from medai_pipeline.errors import ObjectCorrupt, ObjectMissing, StudyForgotten
from medai_pipeline.incoming.whose import Whose, whose

WAITING, QUARANTINE, NOTE = "incoming/waiting/", "incoming/quarantine/", ".json"


class Facts(Protocol):
    @property
    def written_at(self) -> float: ...

    @property
    def size(self) -> int: ...


class Objects(Protocol):
    """What the spool needs of the object store."""

    def put(self, name: str, data: bytes) -> None: ...

    def get(self, name: str) -> bytes: ...

    def delete(self, name: str) -> None: ...

    def facts(self, name: str) -> Facts: ...

    def names(self, prefix: str = "") -> Iterator[str]: ...


@dataclass(frozen=True, slots=True, repr=False)
class Quarantined:
    """`file_name` is what a person called it, "" when it came by C-STORE: it may identify."""

    entry: str
    reason: str
    since: str
    file_name: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return self.entry.rpartition(".")[2]

    def __repr__(self) -> str:
        return f"Quarantined({self.digest[:12]}, {self.reason!r})"


@dataclass(frozen=True, slots=True)
class Spool:
    """Safe for many threads and processes. Every method raises StorageError.

    `study_key` makes a study's key of its Study Instance UID; None: no study is told from another.
    """

    objects: Objects
    study_key: Callable[[str], str] | None = None

    def keep(self, data: bytes) -> None:
        """Seals a file; it survives a crash from here on. Raises StorageFull when there is no room."""
        self._put(data, lambda entry: self.objects.put(WAITING + entry, data))

    def waiting(self) -> list[str]:
        """Entries that the PACS does not have yet."""
        return [name.removeprefix(WAITING) for name in self.objects.names(WAITING)]

    def read(self, entry: str) -> bytes:
        """The file that waits. Raises StudyForgotten."""
        return self.objects.get(WAITING + entry)

    def done(self, entry: str) -> None:
        """The PACS has it, or it is of no use to anybody."""
        self.objects.delete(WAITING + entry)

    def refused(self, entry: str, data: bytes, reason: str) -> None:
        """The PACS will never take it: from what waits into quarantine, unless its study was forgotten meanwhile."""
        with suppress(StudyForgotten):
            self._aside(entry, data, reason, "")
        self.done(entry)

    def set_aside(self, data: bytes, reason: str, file_name: str = "") -> None:
        """A new file, into quarantine, durable. `reason` holds no identity."""
        self._put(data, lambda entry: self._aside(entry, data, reason, file_name))

    def quarantine(self) -> list[Quarantined]:
        found = []
        for entry in self._quarantined():
            with suppress(StudyForgotten):  # nobody can open it: the next sweep deletes it
                found.append(self._note(entry))
        return found

    def quarantined(self, entry: str) -> bytes:
        """The file. Raises ObjectMissing, StudyForgotten."""
        return self.objects.get(QUARANTINE + entry)

    def try_again(self, entry: str) -> None:
        """Out of quarantine: it waits for the PACS once more."""
        self.keep(self.quarantined(entry))
        self.forget(entry)

    def forget(self, entry: str) -> None:
        """Out of quarantine, for good."""
        self.objects.delete(QUARANTINE + entry)
        self.objects.delete(QUARANTINE + entry + NOTE)

    def older(self, until: float) -> list[tuple[str, int]]:
        """What has been in quarantine since before `until` (seconds since 1970): entries and their bytes on the disk."""
        found = []
        for entry in self._quarantined():
            with suppress(ObjectMissing):  # a person was faster
                facts = self.objects.facts(QUARANTINE + entry)
                if facts.written_at < until:
                    found.append((entry, facts.size))
        return found

    # whose files these are

    def of_study(self, study_key: str) -> int:
        """How many files of a study are here, under its own secret."""
        names = (name for place in (WAITING, QUARANTINE) for name in self.objects.names(f"{place}{study_key}."))
        return sum(not name.endswith(NOTE) for name in names)

    def sort(self) -> None:
        """Brings each file that is sealed under the shared secret and names a study (one of an earlier version, or of a
        study that was forgotten and may come again) under its study's secret."""
        for place, entry in self._shared():
            data = self._open(place + entry)
            if data is None or self._entry(data) == entry:
                continue
            with suppress(StudyForgotten):
                self.objects.put(place + self._entry(data), data)
                note = self._open(place + entry + NOTE)
                if note is not None:
                    self.objects.put(place + self._entry(data) + NOTE, note)
                self._remove(place, entry)

    def of_patient(self, patient_id: str) -> tuple[set[str], int]:
        """(study keys with a file of the patient, how many files were opened for that). Call `sort` first."""
        keys, opened = set(), 0
        for place in (WAITING, QUARANTINE):
            for entry in self._entries(place):
                data = self._open(place + entry)
                opened += data is not None
                if "." in entry and data is not None and patient_id.strip() in whose(data).patient_ids:
                    keys.add(entry.partition(".")[0])
        return keys, opened

    def shared_of(self, study_keys: Iterable[str], patient_id: str = "") -> list[tuple[str, str]]:
        """Files under the shared secret that are of these studies, or of this patient: where, and the entry."""
        keys, wanted = set(study_keys), patient_id.strip()

        def fits(told: Whose) -> bool:
            return self._key(told) in keys or wanted in told.patient_ids

        return [
            (place, entry) for place, entry in self._shared() if fits(whose(self._open(place + entry) or b""))
        ]  # fmt: skip

    def remove(self, entries: Iterable[tuple[str, str]]) -> None:
        for place, entry in entries:
            self._remove(place, entry)

    def _key(self, told: Whose) -> str:
        return self.study_key(told.study_instance_uid) if self.study_key and told.study_instance_uid else ""

    def _entry(self, data: bytes) -> str:
        key, digest = self._key(whose(data)), hashlib.sha256(data).hexdigest()
        return f"{key}.{digest}" if key else digest

    def _put(self, data: bytes, put: Callable[[str], None]) -> None:
        entry = self._entry(data)
        try:
            put(entry)
        except StudyForgotten:  # sent anew: the pipeline leaves it alone, but it is the PACS's to take it
            put(entry.rpartition(".")[2])

    def _aside(self, entry: str, data: bytes, reason: str, file_name: str) -> None:
        self.objects.put(QUARANTINE + entry, data)
        note = {"reason": reason, "since": datetime.now(UTC).isoformat(timespec="seconds"), "file_name": file_name}
        self.objects.put(QUARANTINE + entry + NOTE, json.dumps(note).encode())

    def _entries(self, place: str) -> list[str]:
        return [name.removeprefix(place) for name in self.objects.names(place) if not name.endswith(NOTE)]

    def _quarantined(self) -> list[str]:
        return self._entries(QUARANTINE)

    def _shared(self) -> list[tuple[str, str]]:
        return [(place, e) for place in (WAITING, QUARANTINE) for e in self._entries(place) if "." not in e]

    def _remove(self, place: str, entry: str) -> None:
        self.objects.delete(place + entry)
        self.objects.delete(place + entry + NOTE)

    def _open(self, name: str) -> bytes | None:
        """None for what is gone meanwhile, or cannot be opened: nobody can tell whose that is."""
        try:
            return self.objects.get(name)
        except (ObjectMissing, ObjectCorrupt, StudyForgotten):
            return None

    def _note(self, entry: str) -> Quarantined:
        try:
            return Quarantined(entry, **json.loads(self.objects.get(QUARANTINE + entry + NOTE)))
        except ObjectMissing:
            return Quarantined(entry, "the process ended before it wrote down why", "")
        except ObjectCorrupt:
            return Quarantined(entry, "why was written down, and cannot be opened any more", "")
