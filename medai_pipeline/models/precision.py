"""float32 that is float32: on a card torch computes convolutions in TF32 (10 bits of fraction, not 23) unless it is told not to.

What is called float32 here, the measure of every other backend first of all, is computed inside `float32`; TF32 is a
backend of its own, of reduced precision.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_ONE_AT_A_TIME = threading.RLock()  # torch keeps this for the whole process


@contextmanager
def float32(device: str, tf32: bool = False) -> Iterator[None]:
    """Inside, convolutions and products on a CUDA `device` are computed in float32, or with `tf32` in TF32; nothing changes
    for the CPU. Another thread that wants a card waits; one may stand in another."""
    if not _on_a_card(device):
        yield
        return
    import torch

    with _ONE_AT_A_TIME:
        kinds: tuple[Any, Any] = (torch.backends.cudnn, torch.backends.cuda.matmul)
        were = [kind.allow_tf32 for kind in kinds]
        try:
            for kind in kinds:
                kind.allow_tf32 = tf32
            yield
        finally:
            for kind, was in zip(kinds, were, strict=True):
                kind.allow_tf32 = was


def _on_a_card(device: str) -> bool:
    return device.startswith("cuda")
