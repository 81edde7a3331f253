"""One stack a home: who holds it, and the refusal of a second one."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

from medai_pipeline.errors import StackError


class HomeLock:
    """An flock on `path`, which the kernel frees however its holder ends; the file tells the holder's pid.

    The descriptor is not inherited, so children that outlive a killed stack do not hold it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Raises StackError that names the pid of the stack that runs here already."""
        file = self._path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            pid = file.read().strip() or "unknown"
            file.close()
            raise StackError(
                f"a stack runs on this MEDAI_HOME already (pid {pid}): stop it first, or set another MEDAI_HOME"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._file = file

    def release(self) -> None:
        if self._file:
            self._file.truncate(0)
            self._file.close()
            self._file = None
