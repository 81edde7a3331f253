"""How a network is computed: torch as it is, channels last, frozen by inductor, onnxruntime, OpenVINO. One call, one answer.

A backend takes pixels float32 (N, C, H, W) and gives the last feature maps, what the linear head sees of them and the
logits, all float32: everything that predictions, uncertainty and class activation maps need, from one pass. What is
compiled carries these three outputs, so that an explanation needs no second pass on whichever backend answered.
Which one a model uses is decided by measurement in `prepare`; here is only how each is made, kept and opened.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from medai_pipeline.errors import ModelError
from medai_pipeline.models.machine import CPU, Machine, compiler, threads
from medai_pipeline.models.precision import float32

if TYPE_CHECKING:
    import torch

Outputs: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]
Backend: TypeAlias = Callable[[np.ndarray], Outputs]

_MOST_IMAGES = 1024  # of one batch that a compiled network takes
# RuntimeError covers what torch's devices, exporters and compilers raise; the rest is what they trip over in unusual networks.
FAILURES = (
    *(RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError),
    *(OSError, ImportError, MemoryError, ModelError),
)


@dataclass(frozen=True, slots=True)
class Subject:
    """The network to compute, on its device; `pooled` as in `LoadedModel`; `shape` (C, H, W) of an image."""

    network: torch.nn.Module
    pooled: bool
    shape: tuple[int, int, int]
    device: str = CPU


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to compute. `write` makes its artefact `suffix` from a network, `open` answers from it; without a `suffix`
    there is none, and `wrap` answers from the network. `hindrance` says why it cannot serve a machine, "" when it can.
    """

    name: str
    hindrance: Callable[[Machine], str]
    reduced: bool = False  # less than float32 inside
    suffix: str = ""
    write: Callable[[Subject, Path], None] | None = None
    open: Callable[[Path, str], Backend] | None = None
    wrap: Callable[[Subject], Backend] | None = None


def eager(subject: Subject) -> Backend:
    """torch, operation by operation, in float32."""
    return _torch_backend(lambda pixels: _forward(subject, pixels), subject.device)


def write(kind: Kind, subject: Subject, path: Path) -> None:
    """The artefact of `kind`. Raises ModelError in one line when this network cannot be brought to it."""
    assert kind.write is not None
    try:
        kind.write(subject, path)
    except FAILURES as error:
        raise ModelError(f"{kind.name} cannot compute this network ({in_a_line(error)})") from error


def in_a_line(error: BaseException) -> str:
    """What kind of error it is, and its first line: a compiler's go on for pages."""
    if isinstance(error, ModelError):
        return error.reason
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
    return f"{type(error).__name__}: {first[:160]}"


def _forward(subject: Subject, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    from medai_pipeline.models.network import forward

    return forward(subject.network, pixels, subject.pooled)


def _torch_backend(run: Callable[[torch.Tensor], tuple[torch.Tensor, ...]], device: str, tf32: bool = False) -> Backend:
    import torch

    def answer(pixels: np.ndarray) -> Outputs:
        with torch.inference_mode(), float32(device, tf32):
            outputs = run(torch.from_numpy(np.ascontiguousarray(pixels, np.float32)).to(device))
            features, seen, logits = (output.float().contiguous().cpu().numpy() for output in outputs)
        return features, seen, logits

    return answer


def _channels_last(subject: Subject, half: bool = False, tf32: bool = False) -> Backend:
    """Convolutions read the channels of a pixel together."""
    import torch

    kind = torch.bfloat16 if half else torch.float32
    network = copy.deepcopy(subject.network).to(memory_format=torch.channels_last, dtype=kind)  # type: ignore[call-overload]
    own = Subject(network, subject.pooled, subject.shape, subject.device)
    return _torch_backend(
        lambda pixels: _forward(own, pixels.to(kind).contiguous(memory_format=torch.channels_last)),
        subject.device,
        tf32,
    )


def _exported(subject: Subject, half: bool = False) -> torch.export.ExportedProgram:
    """The three outputs of one pass as a graph, for batches of any size."""
    import torch

    from medai_pipeline.models.network import forward

    kind = torch.bfloat16 if half else torch.float32

    class Pass(torch.nn.Module):
        def __init__(self, network: torch.nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(output.float() for output in forward(self.network, pixels.to(kind), subject.pooled))

    network = copy.deepcopy(subject.network).to(kind).eval() if half else subject.network
    example = torch.zeros(2, *subject.shape, device=subject.device)
    images = torch.export.Dim("images", min=1, max=_MOST_IMAGES)
    with torch.no_grad():
        return torch.export.export(Pass(network).eval(), (example,), dynamic_shapes=({0: images},))


def _write_onnx(subject: Subject, path: Path) -> None:
    import torch

    program = _exported(subject)
    torch.onnx.export(program, dynamo=True, external_data=False, verbose=False, f=str(path))


def _open_onnxruntime(path: Path, device: str) -> Backend:
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    # Its exceptions have no base of their own.
    failures = (state.Fail, state.RuntimeException, state.InvalidGraph, state.InvalidProtobuf, state.NotImplemented)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other studies need the cores meanwhile
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except failures as error:
        raise ModelError(f"onnxruntime does not take the network ({str(error)[:160]})") from error
    name = session.get_inputs()[0].name

    def answer(pixels: np.ndarray) -> Outputs:
        try:
            features, seen, logits = session.run(None, {name: np.ascontiguousarray(pixels, np.float32)})
        except failures as error:
            raise RuntimeError(str(error)) from error
        return features, seen, logits

    return answer


def _open_openvino(path: Path, device: str, precision: str = "f32") -> Backend:
    """Reads the ONNX file itself: OpenVINO's own converter would report its use to its makers."""
    import openvino

    wanted = {"INFERENCE_NUM_THREADS": threads(), "INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(str(path), "CPU", wanted)

    def answer(pixels: np.ndarray) -> Outputs:
        outputs = compiled([np.ascontiguousarray(pixels, np.float32)])
        features, seen, logits = (np.array(outputs[port]) for port in compiled.outputs)
        return features, seen, logits

    return answer


def _write_inductor(subject: Subject, path: Path, half: bool = False) -> None:
    """Compiled code with the weights frozen into it: seconds to minutes of a C++ compiler, once."""
    import torch
    import torch._inductor

    with float32(subject.device):  # what it writes for products follows what is allowed now
        torch._inductor.aoti_compile_and_package(
            _exported(subject, half),
            package_path=str(path),
            inductor_configs={"freezing": subject.device == CPU},
        )


def _open_inductor(path: Path, device: str) -> Backend:
    import torch._inductor

    return _torch_backend(torch._inductor.aoti_load_package(str(path)), device)


def _anywhere(machine: Machine) -> str:
    return ""


def _on_a_cpu(machine: Machine) -> str:
    return "" if machine.device == CPU else "computes on the CPU"


def _openvino(machine: Machine) -> str:
    absent = "openvino absent" in machine.libraries
    return "not installed: pip install 'medai-pipeline[openvino]'" if absent else _on_a_cpu(machine)


def _bf16(machine: Machine) -> str:
    return "" if machine.has_bf16 else "no bfloat16 units: it would be emulated"


def _on_cuda(machine: Machine) -> str:
    return "for CUDA devices" if machine.device == CPU else ""


def _compiled(machine: Machine) -> str:
    return _bf16(machine) or ("" if compiler() else "no C++ compiler")


KINDS: tuple[Kind, ...] = (
    Kind("eager", _anywhere, wrap=eager),
    Kind("channels-last", _anywhere, wrap=_channels_last),
    Kind(
        "channels-last-bf16",
        _on_cuda,
        reduced=True,
        wrap=lambda subject: _channels_last(subject, half=True),
    ),
    Kind(
        "channels-last-tf32",
        _on_cuda,
        reduced=True,
        wrap=lambda subject: _channels_last(subject, tf32=True),
    ),
    Kind("onnxruntime", _on_a_cpu, suffix=".onnx", write=_write_onnx, open=_open_onnxruntime),
    Kind("openvino", _openvino, suffix=".onnx", write=_write_onnx, open=_open_openvino),
    Kind(
        "openvino-bf16",
        lambda machine: _openvino(machine) or _bf16(machine),
        reduced=True,
        suffix=".onnx",
        write=_write_onnx,
        open=lambda path, device: _open_openvino(path, device, "bf16"),
    ),
    # In float32 on a CPU it was slower than onnxruntime for every network measured, and takes a minute to make.
    Kind(
        "inductor",
        lambda machine: _on_cuda(machine) or _compiled(machine),
        suffix=".pt2",
        write=_write_inductor,
        open=_open_inductor,
    ),
    Kind(
        "inductor-bf16",
        _compiled,
        reduced=True,
        suffix=".bf16.pt2",
        write=lambda subject, path: _write_inductor(subject, path, half=True),
        open=_open_inductor,
    ),
)


def kind_of(name: str) -> Kind:
    """Raises ModelError that names the known ones."""
    for kind in KINDS:
        if kind.name == name:
            return kind
    raise ModelError(f"no backend {name!r}: choose one of {', '.join(kind.name for kind in KINDS)}")
