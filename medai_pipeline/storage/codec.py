"""Records to bytes and back, without pickle: a JSON tree in the schema of an Arrow stream, whose rows are the arrays.

Only the frozen records of `records.py` travel; anything else is refused at encoding. Arrays keep dtype and shape exactly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import pyarrow as pa

from medai_pipeline import records
from medai_pipeline.errors import ObjectCorrupt

FORMAT = "medai-record-1"
_RECORDS = {name: kind for name, kind in vars(records).items() if isinstance(kind, type) and is_dataclass(kind)}
_ENUMS = {name: kind for name, kind in vars(records).items() if isinstance(kind, type) and issubclass(kind, StrEnum)}
_COLUMNS = pa.schema([("dtype", pa.string()), ("shape", pa.list_(pa.int64())), ("data", pa.large_binary())])


def encode(record: Any) -> bytes:
    """One record (and the records and arrays in it) as an Arrow IPC stream, buffers compressed by zstd."""
    blobs: list[tuple[str, list[int], bytes]] = []
    tree = json.dumps(_tree(record, blobs), allow_nan=True, separators=(",", ":"))
    columns: list[list[Any]] = [[blob[n] for blob in blobs] for n in range(len(_COLUMNS))]
    batch = pa.record_batch([pa.array(c, t) for c, t in zip(columns, _COLUMNS.types, strict=True)], schema=_COLUMNS)
    schema = _COLUMNS.with_metadata({"format": FORMAT, "tree": tree})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_batch(batch.cast(schema))
    return sink.getvalue().to_pybytes()


def decode(data: bytes) -> Any:
    """The record that `encode` was given. Raises ObjectCorrupt when the bytes are not such a stream."""
    try:
        with pa.ipc.open_stream(data) as reader:
            metadata = reader.schema.metadata or {}
            table = reader.read_all()
    except (pa.ArrowException, OSError) as error:
        raise ObjectCorrupt("a stored record cannot be read; materialize its asset again") from error
    if metadata.get(b"format") != FORMAT.encode():
        raise ObjectCorrupt("a stored record has an unknown format; materialize its asset again")
    return _value(json.loads(metadata[b"tree"]), table)


def _tree(value: Any, blobs: list[tuple[str, list[int], bytes]]) -> Any:
    if isinstance(value, StrEnum):
        return {"$enum": type(value).__name__, "value": value.value}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        blobs.append((value.dtype.str, list(value.shape), np.ascontiguousarray(value).tobytes()))
        return {"$array": len(blobs) - 1}
    if isinstance(value, bytes):
        blobs.append(("bytes", [len(value)], value))
        return {"$bytes": len(blobs) - 1}
    if isinstance(value, tuple | list):
        return {"$tuple": [_tree(item, blobs) for item in value]}
    if isinstance(value, Mapping):
        return {"$map": {str(key): _tree(item, blobs) for key, item in value.items()}}
    if type(value).__name__ in _RECORDS:
        body = {f.name: _tree(getattr(value, f.name), blobs) for f in fields(value)}
        return {"$record": type(value).__name__, "fields": body}
    raise TypeError(f"{type(value).__name__} is not a record and cannot be stored")


def _value(tree: Any, table: pa.Table) -> Any:
    if not isinstance(tree, dict):
        return tree
    if "$tuple" in tree:
        return tuple(_value(item, table) for item in tree["$tuple"])
    if "$map" in tree:
        return {key: _value(item, table) for key, item in tree["$map"].items()}
    if "$enum" in tree:
        return _ENUMS[tree["$enum"]](tree["value"])
    if "$bytes" in tree:
        return table["data"][tree["$bytes"]].as_py()
    if "$array" in tree:
        row = table.slice(tree["$array"], 1)
        buffer = row["data"][0].as_buffer()
        return np.frombuffer(buffer, dtype=row["dtype"][0].as_py()).reshape(row["shape"][0].as_py())
    return _RECORDS[tree["$record"]](**{key: _value(item, table) for key, item in tree["fields"].items()})
