"""A folder whose files are taken: each whole DICOM file into the spool, then away; what is none into quarantine, then away.

A file is looked at when it has been quiet for a while, and one that is not whole is waited for much longer: somebody may
still be writing it. One that was taken and cannot be removed is remembered, so that it does not go out again and again.
Files lie here in clear, as whoever drops them wrote them; a name may identify and is never logged.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from medai_pipeline.dicom.limits import MAX_FILE_BYTES
from medai_pipeline.dicom.read import check_whole
from medai_pipeline.errors import DicomError, MedaiError, StorageError, TruncatedFile
from medai_pipeline.incoming.spool import Spool

log = logging.getLogger(__name__)
LOOK_S = 0.5
BEING_WRITTEN = (".part", ".partial", ".tmp", ".filepart", ".crdownload", ".swp")
SHORTEST = 132  # preamble and DICM: what is shorter may become a file yet

_Seen = tuple[int, int, int]  # inode, bytes, nanoseconds of its last change


@dataclass(frozen=True, slots=True)
class Looked:
    """What one look found: files taken, put into quarantine, and left for later."""

    taken: int = 0
    set_aside: int = 0
    left: int = 0


@dataclass
class Inbox:
    """`quiet_s`: how long a file must not have changed; `patience_s`: so long for one that is not whole."""

    folder: Path
    spool: Spool
    wake: threading.Event = field(default_factory=threading.Event)
    quiet_s: float = 2.0
    patience_s: float = 600.0
    _seen: dict[Path, tuple[_Seen, float]] = field(default_factory=dict)
    _passed: dict[Path, _Seen] = field(default_factory=dict)  # taken or set aside, and still here
    _trouble: set[str] = field(default_factory=set)  # said in this look
    _said: set[str] = field(default_factory=set)  # in the look before

    def run(self, stop: threading.Event) -> None:
        """Until `stop`."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        while not stop.wait(LOOK_S):
            try:
                if self.look(time.monotonic()).taken:
                    self.wake.set()
            except MedaiError as error:
                self._say(error.reason)

    def look(self, now: float) -> Looked:
        """One look at `now` (seconds of a clock that does not go back). Raises StorageError; what is left is looked at again."""
        counts = {"taken": 0, "set_aside": 0, "left": 0}
        self._said, self._trouble = self._trouble, set()
        present = dict(_files(self.folder))
        self._passed = {path: known for path, known in self._passed.items() if present.get(path) == known}
        self._seen = {path: known for path, known in self._seen.items() if path in present}
        for path, seen in present.items():
            before, since = self._seen.get(path, (seen, now))
            if before != seen:
                since = now
            self._seen[path] = (seen, since)
            counts[self._take(path, seen, now - since) if now - since >= self.quiet_s else "left"] += 1
        _remove_empty(self.folder, self.quiet_s)
        return Looked(**counts)

    def _take(self, path: Path, seen: _Seen, quiet_s: float) -> str:
        if path in self._passed:
            self._remove(path, seen)
            return "left"
        if seen[1] > MAX_FILE_BYTES:
            self._say(f"a file in the inbox has more than {MAX_FILE_BYTES >> 30} GiB and is not taken: remove it")
            return "left"
        try:
            data = _read(path, seen)
        except OSError as error:
            self._say(f"a file in the inbox cannot be read ({error.strerror}): correct its permissions")
            return "left"
        if data is None:
            return "left"  # it changed just now
        try:
            check_whole(data)
            self.spool.keep(data)
            outcome = "taken"
        except DicomError as error:
            if quiet_s < self.patience_s and (isinstance(error, TruncatedFile) or len(data) < SHORTEST):
                return "left"
            self.spool.set_aside(
                data, error.reason, os.fsencode(path.relative_to(self.folder)).decode(errors="replace")
            )
            log.warning("a file of the inbox is in quarantine: %s", error.reason)
            outcome = "set_aside"
        self._passed[path] = seen
        self._remove(path, seen)
        return outcome

    def _remove(self, path: Path, seen: _Seen) -> None:
        """Takes the file away, unless another one has taken its name meanwhile."""
        try:
            if _seen(path.lstat()) == seen:
                path.unlink()
        except FileNotFoundError:
            pass  # somebody else has
        except OSError as error:
            self._say(
                f"files in the inbox were taken and cannot be removed ({error.strerror}): give this process's user "
                "write access to the folder, or remove them yourself; they are taken once more at each start until then"
            )

    def _say(self, what: str) -> None:
        """Once, until a look does not meet it."""
        if what not in self._said | self._trouble:
            log.error(what)
        self._trouble.add(what)


def _files(folder: Path) -> Iterator[tuple[Path, _Seen]]:
    """Regular files, no links followed, none that is hidden or named like one that is being written."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise StorageError(
            f"the inbox cannot be read ({error.strerror}): correct MEDAI_INBOX or its permissions"
        ) from error
    for entry in entries:
        if entry.name.startswith(".") or entry.name.lower().endswith(BEING_WRITTEN):
            continue
        with suppress(FileNotFoundError):
            if entry.is_dir(follow_symlinks=False):
                yield from _files(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                yield Path(entry.path), _seen(entry.stat(follow_symlinks=False))


def _seen(status: os.stat_result) -> _Seen:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _read(path: Path, seen: _Seen) -> bytes | None:
    """The bytes; None when the file is not the one that was seen (any more)."""
    with suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode) or _seen(os.fstat(descriptor)) != seen:
                return None
            data = file.read(MAX_FILE_BYTES + 1)
            return data if _seen(os.fstat(descriptor)) == seen else None
    return None


def _remove_empty(folder: Path, older_than_s: float) -> None:
    """Folders inside the inbox that are empty by now, and have been left alone for a while."""
    limit = time.time() - older_than_s
    for name, _, _ in os.walk(folder, topdown=False):
        inside = Path(name)
        with suppress(OSError):  # not empty, or not ours to remove: it stays
            if inside != folder and inside.stat().st_mtime < limit:
                inside.rmdir()
