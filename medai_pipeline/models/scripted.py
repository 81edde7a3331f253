"""A TorchScript program: looked through before torch opens it, and again as torch has compiled it, before it is asked anything.

TorchScript runs no Python, but it has operators that read and write files, and what a class names `__setstate__` runs while
torch.jit.load is at work. So the archive is looked through first and written anew, with nothing in it but code, tensors and
constants; then no operator but those that compute on tensors may stand in any method, hook or branch, with the functions
that these call put in their places.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from typing import Any

from medai_pipeline.errors import WeightsRefused

_CODE = re.compile(r"code/.+\.py\Z")
_DATA = re.compile(r"(?:data|constants)(?:\.pkl|/\d+)\Z|version\Z|byteorder\Z|\.data/\w+\Z|\.format_version\Z")
_LEFT_OUT = re.compile(r".+\.debug_pkl\Z|traced_inputs|extra/|\.storage_alignment\Z")  # traces of where it was made
# What to look for in code as it is written -> what is wrong with it.
_IN_CODE = (
    (re.compile(r"__setstate__"), "it has code that runs while it is opened (__setstate__)"),
    (
        re.compile(r"\b(?:from_file|read_file|write_file)\b|\b(?:torch|aten)\s*\.\s*(?:save|load)\b"),
        "its code reads or writes files",
    ),
    (
        re.compile(r"\bops\s*\.\s*(?!(?:prim|aten|quantized|torchvision)\b)\w+"),
        "it calls operators that are not torch's",
    ),
)
_CLASSES = re.compile(rb"torch\.classes\.(?!quantized\.)")
_COMPUTING = ("aten", "prim", "quantized", "torchvision")
# Operators that touch files or other processes, and calls of which nobody knows what they will call.
_REFUSED = frozenset(
    {
        *("aten::save", "aten::load", "aten::from_file"),
        *("prim::rpc_async", "prim::rpc_sync", "prim::rpc_remote", "prim::PythonOp"),
        *("prim::CallMethod", "prim::CallFunction"),
    }
)


def opened(data: bytes, label: str, device: str) -> Any:
    """The program of an archive on `device`. Raises WeightsRefused when it could do more than compute, and before any of
    its code runs; RuntimeError, as torch does, when it is no program."""
    import torch

    body = torch.jit.load(io.BytesIO(_cleaned(data, label)), map_location=device).eval()
    found = sorted({kind for graph in _graphs(body) for kind in _kinds(graph) if not _computes(kind)})
    if found:
        raise _refusal(label, f"its program calls {', '.join(found[:4])}, which do more than compute on tensors")
    return body


def _cleaned(data: bytes, label: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as target:
        names = source.namelist()
        if len(set(names)) != len(names):
            raise _refusal(label, "it holds two files of one name")
        for name in names:
            inner = name.partition("/")[2]
            if not _LEFT_OUT.match(inner):
                target.writestr(name, _looked_through(inner, source.read(name), label))
    return buffer.getvalue()


def _looked_through(name: str, content: bytes, label: str) -> bytes:
    if not _CODE.match(name) and not _DATA.match(name):
        raise _refusal(label, f"it holds {name[:60]!r}, which is no part of a program")
    if (_CODE.match(name) or name.endswith(".pkl")) and _CLASSES.search(content):
        raise _refusal(label, "it holds objects of C++")
    if _CODE.match(name):
        text = content.decode("utf-8", errors="replace")
        for pattern, why in _IN_CODE:
            if pattern.search(text):
                raise _refusal(label, why)
    return content


def _graphs(body: Any) -> Iterator[Any]:
    """Every method and hook of every module in it, with what they call put in place."""
    for module in body.modules():
        inside = module._c
        for name in inside._method_names():
            yield inside._get_method(name).inlined_graph
        for hook in (*inside._get_forward_hooks(), *inside._get_forward_pre_hooks()):
            yield hook.inlined_graph


def _kinds(block: Any) -> Iterator[str]:
    """Of every node: of branches and loops too, and of what is computed beside (fork)."""
    import torch

    for node in block.nodes():
        yield node.kind()
        for inner in node.blocks():
            yield from _kinds(inner)
        for name in node.attributeNames():
            if node.kindOf(name) == "g":
                beside = node.g(name).copy()
                torch._C._jit_pass_inline(beside)
                yield from _kinds(beside)


def _computes(kind: str) -> bool:
    return kind.partition("::")[0] in _COMPUTING and kind not in _REFUSED


def _refusal(label: str, why: str) -> WeightsRefused:
    return WeightsRefused(
        f"the file of {label} is refused: {why}; save the network alone, by torch.jit.save or torch.export.save"
    )
