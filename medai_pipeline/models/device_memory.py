"""Memory that a device has not: how torch, CUDA's libraries and the runtimes say so, and work that goes on in smaller batches."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol, TypeVar

import numpy as np

from medai_pipeline.errors import ModelError

log = logging.getLogger(__name__)
Work = TypeVar("Work")

_SAID = re.compile(
    r"out of memory|bad[_ ]alloc|alloc(?:ation)?_failed|(?:can't|cannot|can not|failed to|unable to) allocate", re.I
)
# What may be said of other failures too. Code that inductor has compiled ends with "NAME API call failed at FILE, line N"
# whatever happened; a library that finds no room for its handle or its workspace is "not initialized", or has no engine.
_PERHAPS = re.compile(
    r"API call failed at|unable to find an engine|CU(?:DNN|BLAS)_STATUS_(?:NOT_INITIALIZED|INTERNAL_ERROR|EXECUTION_FAILED)"
)


def out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine had no memory for a batch; some say so by type, others in words."""
    return (
        isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or bool(_SAID.search(str(error)))
    )


def perhaps_memory(error: BaseException) -> bool:
    """Whether a smaller batch is worth trying: also where the words leave open what failed."""
    return out_of_memory(error) or bool(_PERHAPS.search(str(error)))


def release() -> None:
    """Gives back to the device what torch keeps for later: libraries beside it allocate for themselves."""
    torch = sys.modules.get("torch")  # a process that only asks onnxruntime never imports it
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


class Images(Protocol):
    """An array of images, or several as one."""

    def __len__(self) -> int: ...

    def __getitem__(self, wanted: slice, /) -> np.ndarray: ...


def in_batches(answer: Callable[[np.ndarray], Work], pixels: Images, size: int, name: str) -> Iterator[Work]:
    """`answer` of batches of `size` images, one after the other; of half as many from where one does not fit.

    Raises ModelError when not even one image fits.
    """
    start = 0
    while start < len(pixels):
        work = partial(answer, pixels[start : start + size])
        count = min(size, len(pixels) - start)
        part = at_last(work, name) if count == 1 else _if_it_fits(work)
        if part is None:
            size = count // 2
            log.warning("out of device memory: batches of %d from here on", size)
            continue
        yield part
        start += count


def at_last(work: Callable[[], Work], name: str) -> Work:
    """What `work` on one image gives, which cannot be divided; done once more when memory has been given back.

    Raises ModelError, which names the model, when there is still none.
    """
    if (found := _if_it_fits(work)) is not None:
        return found
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if out_of_memory(error):
            raise ModelError(f"{name}: the device has no memory for one image; free some") from error
        if perhaps_memory(error):
            first = str(error).splitlines()[0][:160]
            raise ModelError(f"{name}: the device fails at one image, for want of memory or else ({first})") from error
        raise


def _if_it_fits(work: Callable[[], Work]) -> Work | None:
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if not perhaps_memory(error):
            raise
    release()  # only here: as long as the error is at hand its frames hold the tensors of the pass
    return None
