"""What becomes of this process's memory: freed buffers serve again instead of going back to the system after each file,
and none of it is written to the disk when the process dies.

A file of half a megabyte is held two or three times while it is worked on. By default the C library gives such buffers
back at once and asks for them again: the kernel then clears every page anew, which costs more than de-identifying a CT
slice (benchmarks/deidentification_speed.py). Nothing here but settings; entry points call them once.
"""

from __future__ import annotations

import ctypes
import resource

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # <malloc.h> of glibc
KEPT_BYTES = 64 << 20
_LARGEST = 32 << 20  # the most that glibc takes from its heap


def keep_buffers() -> bool:
    """Keeps up to 64 MiB of freed memory for the next file. False where the C library has no such setting (not glibc)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_MMAP_THRESHOLD, _LARGEST), (_TRIM_THRESHOLD, KEPT_BYTES), (_TOP_PAD, KEPT_BYTES // 4))
    answers = [mallopt(name, value) for name, value in settings]  # each is made, whatever the one before said
    return all(answer == 1 for answer in answers)


def no_core_files() -> None:
    """A process that a native decoder or a kernel kills would write keys, identities and pixels to a core file. What it
    starts inherits this."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
