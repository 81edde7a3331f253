"""How much memory this process takes. Numbers for people: nothing is decided by them."""

from __future__ import annotations

import os
from pathlib import Path


def memory_mb() -> float:
    """Resident memory of the process in MB, and what it has on CUDA devices beside that."""
    import torch

    pages = int(Path("/proc/self/statm").read_text().split()[1])
    resident = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    return resident + (torch.cuda.memory_allocated() / 1e6 if torch.cuda.is_available() else 0.0)
