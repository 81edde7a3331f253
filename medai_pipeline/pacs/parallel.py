"""Several requests at a time with bounded memory. Knows neither HTTP nor DICOM."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ordered(
    function: Callable[[T], R],
    items: Iterable[T],
    concurrency: int,
    weight: Callable[[T], int] = lambda _: 0,
    weight_limit: int = 0,
) -> Iterator[tuple[T, R]]:
    """(item, function(item)) in the order of `items`, at most `concurrency` begun and not yet taken.

    `items` is read lazily. With `weight_limit` > 0 the begun items weigh at most that much together; an item that is
    heavier alone goes alone. The first exception ends the iteration; what was not begun is cancelled.
    """
    window: deque[tuple[T, int, Future[R]]] = deque()
    carried = 0
    pool = ThreadPoolExecutor(max_workers=max(1, concurrency), thread_name_prefix="pacs")
    try:
        for item in items:
            heavy = weight(item)
            while window and (len(window) >= concurrency or 0 < weight_limit < carried + heavy):
                first, first_weight, future = window.popleft()
                carried -= first_weight
                yield first, future.result()
                del future
            window.append((item, heavy, pool.submit(function, item)))
            carried += heavy
        while window:
            first, _, future = window.popleft()
            yield first, future.result()
            del future
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
