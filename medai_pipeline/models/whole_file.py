"""A file that is whole or not there, and what to say when it cannot be written. No torch."""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path

from medai_pipeline.errors import StorageError, StorageFull

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def replace_whole(path: Path, data: bytes) -> None:
    """The bytes under a temporary name beside, then in one step under their own. Raises OSError, and leaves nothing."""
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):  # what went wrong first is what a person needs to know
            temporary.unlink(missing_ok=True)
        raise


def not_written(what: str, error: OSError, otherwise: str) -> StorageError:
    """That `what` cannot be written, as StorageFull where room helps, else as StorageError with what helps then."""
    full = error.errno in _NO_ROOM
    kind = StorageFull if full else StorageError
    return kind(f"{what} cannot be written ({error.strerror}): {'make room there' if full else otherwise}")
