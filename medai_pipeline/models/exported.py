"""A program saved by `torch.export.save`, before torch opens it: only what describes a computation on tensors is let through.

torch.export.load trusts its file: it unpickles sample inputs and some weights, evaluates sizes and guards as Python, and
finds operators by any dotted name below `torch`. A file from elsewhere could so run code while it is registered. Here the
archive is looked through and written anew: pickles of anything but tensors, operators other than ATen's and expressions
that are no sizes are refused; guards and traces of the source, which are not needed, are left out.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from collections.abc import Iterator
from typing import Any

from medai_pipeline.errors import WeightsRefused

_FORMAT, _MODEL, _SAMPLES = "archive_format", "models/model.json", "data/sample_inputs/"
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_DATA = re.compile(r"data/(?:weights/weight_\d+|constants/tensor_\d+)\Z")
_PAYLOAD = re.compile(r"(?:weight|tensor)_\d+\Z")
_REST = re.compile(r"archive_version|byteorder|\.data/\w+|version\Z")
_OPERATOR = re.compile(
    r"torch\.ops\.(?:aten|prims)\.\w+(?:\.\w+)?\Z|_operator\.\w+\Z|math\.\w+\Z|torch\.sym_\w+\Z"
    r"|torch\.ops\.higher_order\.(?:wrap_with_set_grad_enabled|wrap_with_autocast|cond)\Z"
)
_FILES = re.compile(r"torch\.ops\.aten\.(?:from_file|save|load)\b")
# Sizes as sympy writes them: symbols, numbers, arithmetic and the functions that torch has for them.
_SYMBOL = r"Symbol\('[a-z]+\d+'(?:, (?:positive|nonnegative|integer)=(?:True|False))*\)|[su]\d+"
_FUNCTION = r"(?:Integer|Max|Min|Mod|PythonMod|FloorDiv|CeilDiv|CleanDiv|Add|Mul|Pow|Eq|Ne|Lt|Le|Gt|Ge)(?=\()"
_SIZE = re.compile(rf"(?:{_SYMBOL}|{_FUNCTION}|\d+(?:\.\d+)?|True|False|[-+*/(),<>= ])+\Z")
_REFUSED = ("as_operator", "as_custom_obj", "as_opaque_obj")
_NODE = {"target", "inputs", "outputs"}


def cleaned(data: bytes, label: str) -> bytes:
    """The archive with nothing in it but graph, weights and tensors. Raises WeightsRefused that says what does not belong."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            root = _root(archive, label)
            return _written({name: _entry(name.removeprefix(root), archive.read(name), label)
                             for name in archive.namelist()})  # fmt: skip
    except (zipfile.BadZipFile, UnicodeDecodeError, json.JSONDecodeError, RecursionError, NotImplementedError) as error:
        raise _refusal(label, f"it cannot be read ({type(error).__name__})") from error


def _root(archive: zipfile.ZipFile, label: str) -> str:
    """The folder in which everything lies. Older archives, which are pickles inside, have no such file."""
    found = next((name for name in archive.namelist() if name.endswith(f"/{_FORMAT}")), None)
    if found is None or archive.read(found).strip() != b"pt2":
        raise _refusal(label, "it is not in the format of torch 2.9 or newer")
    return found.removesuffix(_FORMAT)


def _entry(name: str, content: bytes, label: str) -> bytes:
    if name == _MODEL:
        return _model(content, label)
    if name in _CONFIGS:
        return _config(content, label)
    if name.startswith(_SAMPLES):
        return _tensors(content, label)
    if name != _FORMAT and not _DATA.match(name) and not _REST.match(name):
        raise _refusal(label, f"it holds {name[:60]!r}, which is no part of a graph or of weights")
    return content


def _model(content: bytes, label: str) -> bytes:
    graph = json.loads(content.decode())
    graph["guards_code"] = []
    for held in _objects(graph):
        if held.keys() >= _NODE:
            target = str(held["target"])
            if not _OPERATOR.match(target) or _FILES.match(target):
                raise _refusal(label, f"its graph calls {target[:80]!r}, which is no operator of tensors")
            held["metadata"] = {}
        if any(held.get(name) for name in _REFUSED):
            raise _refusal(label, "its graph holds objects of Python")
        _expressions(held, label)
    return json.dumps(graph).encode()


def _expressions(held: dict[str, Any], label: str) -> None:
    """What torch would evaluate: sizes, the names of their ranges, and the structure of inputs."""
    sizes = [held["expr_str"]] if "expr_str" in held else []
    sizes += list(held.get("range_constraints") or ())
    if not all(isinstance(size, str) and _SIZE.match(size) for size in sizes):
        raise _refusal(label, "it has sizes that are no expression of sizes")
    if any(
        "defaultdict" in str(held.get(name)) or "__enum__" in str(held.get(name)) for name in ("in_spec", "out_spec")
    ):
        raise _refusal(label, "its inputs are no plain tensors")


def _config(content: bytes, label: str) -> bytes:
    for name, held in json.loads(content.decode()).get("config", {}).items():
        if held.get("use_pickle") or not _PAYLOAD.match(str(held.get("path_name"))):
            raise _refusal(label, f"{name[:60]!r} is kept as a pickle")
    return content


def _tensors(content: bytes, label: str) -> bytes:
    """Sample inputs, which torch unpickles whatever they hold."""
    import torch

    try:
        if content:
            torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise _refusal(label, "its sample inputs hold more than tensors") from error
    return content


def _objects(held: Any) -> Iterator[dict[str, Any]]:
    if isinstance(held, dict):
        yield held
    for inner in held.values() if isinstance(held, dict) else held if isinstance(held, list) else ():
        yield from _objects(inner)


def _written(entries: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _refusal(label: str, why: str) -> WeightsRefused:
    return WeightsRefused(
        f"the file of {label} is refused: {why}; save it again with torch.export.save, of tensors alone"
    )
