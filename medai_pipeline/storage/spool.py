"""What is being received, on disk for the time of one request: encrypted under a key that lives in memory alone, no name."""

from __future__ import annotations

import io
import os
import tempfile
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from medai_pipeline.errors import StorageError, StorageFull, TooLarge

_BLOCK = 16


class Spool:
    """Bytes in, once; then read at any place. At most `limit` bytes: more raises TooLarge. Close it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._key = os.urandom(32)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the request
        self._encrypt = self._cipher(0).encryptor()
        self.size = 0

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def write(self, data: bytes) -> None:
        if self.size + len(data) > self._limit:
            raise TooLarge(f"more than {self._limit // 2**20} MiB: send less at once, or raise MEDAI_MAX_UPLOAD_MB")
        try:
            self._file.write(self._encrypt.update(data))
        except OSError as error:
            raise StorageFull("no space left for uploads in the temporary folder: make room there") from error
        self.size += len(data)

    def read_at(self, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset` on. Raises StorageError, so that a disk that fails is not taken for a damaged upload."""
        skipped = offset % _BLOCK
        try:
            self._file.flush()
            data = os.pread(self._file.fileno(), size + skipped, offset - skipped)
        except OSError as error:
            raise StorageError(f"the temporary folder cannot be used ({error.strerror}): look at its disk") from error
        return self._cipher((offset - skipped) // _BLOCK).decryptor().update(data)[skipped:]

    def _cipher(self, block: int) -> Cipher[CTR]:
        """The key stream from a block on: the counter begins at 0, and no key serves twice."""
        return Cipher(AES(self._key), CTR(block.to_bytes(_BLOCK, "big")))


@dataclass(eq=False)
class Part(io.RawIOBase):
    """A stretch of a spool as a file that can be read and sought in."""

    spool: Spool
    start: int
    length: int
    _at: int = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.length}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self.spool.read_at(self.start + self._at, max(0, min(len(buffer), self.length - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
