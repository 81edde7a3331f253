"""What computes here: the processor's kind and units, the libraries' versions. Two machines of one kind may share artefacts."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CPU = "cpu"
BF16_UNITS = frozenset({"amx_bf16", "avx512_bf16", "bf16", "i8mm"})  # the last two as Linux names them on Arm
_UNITS = BF16_UNITS | {"avx", "avx2", "fma", "avx512f", "avx512bw", "avx512_vnni", "avx512_fp16", "amx_tile", "asimd"}
_LIBRARIES = ("torch", "onnxruntime", "openvino")
_CPUINFO = Path("/proc/cpuinfo")
_NAMES = ("model name", "cpu part")  # x86, Arm


@dataclass(frozen=True, slots=True)
class Machine:
    """`device`: "cpu", or the name and capability of the CUDA device. `units`: vector and matrix units of the processor."""

    device: str
    processor: str
    units: tuple[str, ...]
    libraries: tuple[str, ...]

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:12]

    @property
    def has_bf16(self) -> bool:
        """Whether it multiplies bfloat16 faster than float32: by units of the processor, or on a CUDA device."""
        return self.device != CPU or bool(BF16_UNITS & set(self.units))


def this_machine(device: str = CPU) -> Machine:
    """The machine of this process, computing on "cpu" or on a CUDA device that is there."""
    processor, flags = _processor()
    units = tuple(sorted(_UNITS & set(flags)))
    return Machine(_device(device), processor, units, tuple(f"{name} {_version(name)}" for name in _LIBRARIES))


def threads() -> int:
    """How many threads one prediction may use: OMP_NUM_THREADS, else the cores that this process may run on."""
    stated = os.environ.get("OMP_NUM_THREADS", "")
    return int(stated) if stated.isdecimal() and int(stated) else len(os.sched_getaffinity(0))


def compiler() -> str | None:
    """The C++ compiler that torch would call."""
    return shutil.which(os.environ.get("CXX", "g++"))


@cache
def _processor() -> tuple[str, tuple[str, ...]]:
    if not _CPUINFO.is_file():
        return platform.processor() or platform.machine(), ()
    pairs = (line.partition(":") for line in _CPUINFO.read_text().splitlines())
    facts = {key.strip(): value.strip() for key, _, value in pairs}
    name = next((facts[key] for key in _NAMES if key in facts), platform.machine())
    return name, tuple((facts.get("flags") or facts.get("Features") or "").split())


def _device(device: str) -> str:
    if not device.startswith("cuda"):
        return CPU
    import torch

    return f"{torch.cuda.get_device_name(device)} {torch.cuda.get_device_capability(device)}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
