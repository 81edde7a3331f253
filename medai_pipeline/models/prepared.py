"""What was prepared for a network on this machine: where it is kept, and how it is opened.

    <models>/prepared/<network>-<machine>/prepared.json    the choice, every candidate's figures, what it was measured on
                                          head.safetensors the linear head, so that nothing else need be loaded
                                          network.onnx     (or .pt2) what the chosen backend opens

`network` is a digest of weights, architecture and input contract; `machine` one of processor, device and library versions:
what was prepared elsewhere is never opened here. Artefacts are programs: whoever may write this folder may run code in
the pipeline, as with the weights beside it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medai_pipeline.errors import ModelError
from medai_pipeline.models.backends import FAILURES, Backend, Subject, eager, in_a_line, kind_of
from medai_pipeline.models.catalog import CatalogEntry
from medai_pipeline.models.digests import file_digest
from medai_pipeline.models.machine import Machine

FOLDER = "prepared"
FORMAT = 2
SUMMARY, HEAD, NETWORK = "prepared.json", "head.safetensors", "network"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One backend measured: milliseconds an image alone and in a batch, the greatest distance from float32.

    `refused` says why it was not taken into account, "" when it was.
    """

    backend: str
    refused: str = ""
    single_ms: float | None = None
    batch_ms: float | None = None
    probability_error: float | None = None
    feature_error: float | None = None
    made_in_s: float = 0.0
    size_mb: float = 0.0


@dataclass(frozen=True, slots=True)
class Prepared:
    """The choice for one network on one machine. `times_eager`: how many times the images a second of plain torch."""

    backend: str
    times_eager: float
    pooled: bool
    drops_inside: bool
    machine: Machine
    threads: int
    artefact: str
    artefact_sha256: str
    head_sha256: str
    candidates: tuple[Candidate, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values: what the registry keeps of it."""
        return {"format": FORMAT, **asdict(self)}


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """A prepared network ready to answer; `head_weight` (K, D) and `head_bias` (K,)."""

    backend: Backend
    name: str
    pooled: bool
    drops_inside: bool
    head_weight: np.ndarray
    head_bias: np.ndarray


def folder_of(entry: CatalogEntry, weights_sha256: str, machine: Machine, models_path: Path) -> Path:
    """Where the choice for these weights on this machine lies, or would lie."""
    contract = entry.contract
    network = [
        weights_sha256, entry.architecture, sorted(entry.options.items()), len(entry.classes),
        contract.channels, contract.height, contract.width,
    ]  # fmt: skip
    digest = hashlib.sha256(json.dumps(network).encode()).hexdigest()[:16]
    return Path(models_path) / FOLDER / f"{digest}-{machine.digest}"


def stamp(folder: Path) -> int:
    """Changes when something else is prepared; 0 when nothing is."""
    summary = folder / SUMMARY
    return summary.stat().st_mtime_ns if summary.is_file() else 0


def opened(folder: Path, device: str, shape: tuple[int, int, int]) -> Opened | None:
    """What was prepared there, ready to answer on `device` ("cpu", "cuda") about images of `shape` (C, H, W), and tried
    once; None when nothing was prepared, or when it needs the network itself.

    Raises ModelError when an artefact is damaged, its runtime is gone or it does not answer here: the caller falls back.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load as read_arrays

    if not (folder / SUMMARY).is_file():
        return None
    try:
        facts = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        if facts["format"] != FORMAT or not facts["artefact"]:
            return None
        head_data, artefact = (folder / HEAD).read_bytes(), folder / facts["artefact"]
        if (
            file_digest(artefact) != facts["artefact_sha256"]
            or hashlib.sha256(head_data).hexdigest() != facts["head_sha256"]
        ):
            raise ModelError("it is not what was written")
        kind, head = kind_of(facts["backend"]), read_arrays(head_data)
        assert kind.open is not None
        backend = tried(kind.open(artefact, device), shape, len(head["bias"]))
        return Opened(backend, kind.name, facts["pooled"], facts["drops_inside"], head["weight"], head["bias"])
    except (*FAILURES, SafetensorError) as error:
        raise _unusable(folder, error) from error


def wrapped(folder: Path, subject: Subject, classes: int) -> tuple[str, Backend]:
    """The chosen backend that answers from the network itself, tried once; plain torch when nothing was chosen.

    Raises ModelError when it does not answer here: the caller falls back.
    """
    try:
        kind = kind_of(json.loads((folder / SUMMARY).read_text(encoding="utf-8"))["backend"])
    except (OSError, ValueError, KeyError, ModelError):
        return "eager", eager(subject)
    if kind.name == "eager" or not kind.wrap:
        return "eager", eager(subject)
    try:
        return kind.name, tried(kind.wrap(subject), subject.shape, classes)
    except FAILURES as error:
        raise _unusable(folder, error) from error


def tried(backend: Backend, shape: tuple[int, int, int], classes: int) -> Backend:
    """The backend after one pass, so that what cannot answer shows now and not at a study. Raises what it raises."""
    logits = backend(np.zeros((1, *shape), np.float32))[2]
    if logits.shape != (1, classes) or not np.isfinite(logits).all():
        raise ModelError(f"it does not answer an empty image with {classes} numbers")
    return backend


def _unusable(folder: Path, error: BaseException) -> ModelError:
    return ModelError(
        f"what was prepared in {folder.name} cannot be used ({in_a_line(error)}): run `medai models prepare` again"
    )
