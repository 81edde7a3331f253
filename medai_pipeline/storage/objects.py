"""The object store: encrypted files under one folder, each whole or not there. What the names mean is not known here.

A name is a relative POSIX path of plain ASCII parts and must hold no identity: names are visible on the disk.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from medai_pipeline.errors import ObjectCorrupt, ObjectMissing, StorageError, StorageFull
from medai_pipeline.storage.envelope import HEADER_BYTES, open_sealed, rewrapped, seal, sealed_under
from medai_pipeline.storage.keys import key_id

_PART = re.compile(r"[A-Za-z0-9_=@+-][A-Za-z0-9._=@+-]{0,199}\Z")
_TEMPORARY_SUFFIX = ".part"
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True, slots=True)
class ObjectFacts:
    """What the disk knows of an object: when it was written (seconds since 1970), and its sealed size in bytes."""

    written_at: float
    size: int


class Keys(Protocol):
    """Which key (32 bytes) an object has: `storage.secrets`, by the study that its name holds."""

    def sealing(self, name: str) -> bytes: ...

    def opening(self, name: str, sealed_under: bytes) -> bytes: ...


class OneKey(NamedTuple):
    """One key for every object."""

    key: bytes

    def sealing(self, name: str) -> bytes:
        return self.key

    def opening(self, name: str, sealed_under: bytes) -> bytes:
        return self.key


class ObjectStore:
    """Objects by name under `root`, sealed with `keys`, or all with one key. Safe for many threads and processes."""

    def __init__(self, root: Path, keys: Keys | bytes) -> None:
        self._root = root
        self._keys: Keys = OneKey(keys) if isinstance(keys, bytes) else keys

    def __repr__(self) -> str:
        return f"ObjectStore({self._root})"

    def put(self, name: str, data: bytes) -> None:
        """Writes or replaces an object: after the return it survives a crash, before it the old one does.

        Raises StorageFull when there is no room (nothing is left behind), StorageError when the disk refuses.
        """
        path, key = self._path(name), self._keys.sealing(name)
        with _disk(name):
            self._make_folder(path.parent)
            _write_whole(path, seal(key, name, data))

    def get(self, name: str) -> bytes:
        """The plain bytes. Raises ObjectMissing, or ObjectCorrupt when they cannot be authenticated."""
        try:
            return self._opened(name)
        except ObjectCorrupt:
            return self._opened(name)  # its header may just have been exchanged in place (`rewrap`)

    def _opened(self, name: str) -> bytes:
        path = self._path(name)
        try:
            with _disk(name):
                sealed = path.read_bytes()
        except IsADirectoryError as error:
            raise ObjectCorrupt(f"object {name} is a folder: fetch or compute it again") from error
        return open_sealed(self._keys.opening(name, sealed_under(name, sealed)), name, sealed)

    def rewrap(self, name: str) -> bool:
        """Seals an object's data key under the key it should have now; False when it has that already, or is gone.

        The header is exchanged in place: who replaces or deletes the object meanwhile makes or leaves another file, which
        is not touched. Its time changes, by which whoever copies the store sees that it did. Raises StudyForgotten, ObjectCorrupt.
        """
        path, key = self._path(name), self._keys.sealing(name)
        try:
            with _disk(name), path.open("r+b", buffering=0) as file:
                header = os.pread(file.fileno(), HEADER_BYTES, 0)
                old = sealed_under(name, header)
                if old == key_id(key):
                    return False
                os.pwrite(file.fileno(), rewrapped(self._keys.opening(name, old), key, name, header), 0)
                os.fsync(file.fileno())
        except ObjectMissing:
            return False
        return True

    def delete_study(self, study_key: str, kinds: Collection[str] = ()) -> tuple[int, int]:
        """Removes a study's objects (`kinds`: only those whose name begins so); how many, and their bytes."""
        count = size = 0
        for path in [path for place in self._places(study_key, kinds) for path in _tree(place)]:
            with _disk(path.name), suppress(FileNotFoundError):
                size += path.stat().st_size
                path.unlink()
                count += 1
        for place in self._places(study_key, kinds):
            _remove_empty(place)
        return count, size

    def study_size(self, study_key: str, kinds: Collection[str] = ()) -> tuple[int, int]:
        """How many objects a study has, and their bytes on the disk."""
        sizes = [path.stat().st_size for place in self._places(study_key, kinds) for path in _tree(place)]
        return len(sizes), sum(sizes)

    def _places(self, study_key: str, kinds: Collection[str]) -> list[Path]:
        """Where a study's objects lie: KIND/KEY or KIND/ASSET/KEY, a file or a folder; or incoming/KIND/KEY.DIGEST."""
        within = [f"{kind}/{study_key}" for kind in kinds or ("*", "assets/*", "kept/*")]
        within += [] if kinds else [f"incoming/*/{study_key}.*"]
        return [path for pattern in within for path in self._root.glob(pattern) if not path.is_symlink()]

    def exists(self, name: str) -> bool:
        return self._path(name).is_file()

    def facts(self, name: str) -> ObjectFacts:
        """Age and size without reading it. Raises ObjectMissing."""
        with _disk(name):
            found = self._path(name).stat()
        return ObjectFacts(found.st_mtime, found.st_size)

    def delete(self, name: str) -> None:
        """Removes an object; one that is not there is no error."""
        with _disk(name):
            self._path(name).unlink(missing_ok=True)

    def names(self, prefix: str = "") -> Iterator[str]:
        """Names that begin with `prefix`, sorted. Only the folders that the prefix allows are read."""
        folder = prefix.rpartition("/")[0]
        start = self._path(folder) if folder else self._root
        for path in _files(start):
            name = path.relative_to(self._root).as_posix()
            if name.startswith(prefix) and not _is_temporary(path):
                yield name

    def sweep_temporaries(self, older_than_s: float) -> int:
        """Removes what writers left behind when they were killed; returns how many. Younger files may be in use."""
        limit = time.time() - older_than_s
        swept = 0
        for path in _files(self._root):
            with suppress(FileNotFoundError):  # its writer was still alive, and finished
                if _is_temporary(path) and path.stat().st_mtime <= limit:
                    path.unlink()
                    swept += 1
        return swept

    def _path(self, name: str) -> Path:
        if not all(_PART.match(part) for part in name.split("/")):
            raise StorageError(f"{name[:80]!r} is no object name: use a relative path of letters, digits and ._=@+-")
        return self._root / name

    def _make_folder(self, folder: Path) -> None:
        """mkdir -p, where each new folder from the root down is for the owner alone."""
        if folder.is_dir():
            return
        if folder != self._root:
            self._make_folder(folder.parent)
        folder.mkdir(mode=0o700, parents=folder == self._root, exist_ok=True)
        _sync_folder(folder.parent)


@contextmanager
def _disk(name: str) -> Iterator[None]:
    """Operating system errors as ours. The paths in them stay out of the message."""
    try:
        yield
    except FileNotFoundError as error:
        raise ObjectMissing(f"object {name} is not in the store: fetch or compute it again") from error
    except IsADirectoryError:
        raise
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise StorageFull("no space left for objects: make room at DICOM_STORAGE_PATH, then retry") from error
        raise StorageError(f"object {name}: {error.strerror} (check the disk at DICOM_STORAGE_PATH)") from error


def _write_whole(path: Path, chunks: tuple[bytes, ...]) -> None:
    temporary = path.parent / f".{secrets.token_hex(12)}{_TEMPORARY_SUFFIX}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            for chunk in chunks:
                _write_all(descriptor, chunk)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(_TEMPORARY_SUFFIX)


def _files(folder: Path) -> Iterator[Path]:
    try:
        entries = sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.is_dir():
            yield from _files(entry)
        else:
            yield entry


def _tree(place: Path) -> list[Path]:
    """A file, or all files under a folder, temporary ones too."""
    return list(_files(place)) if place.is_dir() else [place]


def _remove_empty(folder: Path) -> None:
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        _remove_empty(entry)
    with suppress(OSError):  # a writer was faster: its file is swept with the next pass
        folder.rmdir()
