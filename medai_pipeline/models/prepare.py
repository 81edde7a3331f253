"""Measures at registration which backend a model uses on this machine, against float32, and keeps the choice."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medai_pipeline.errors import ModelError
from medai_pipeline.models.backends import (
    FAILURES,
    KINDS,
    Backend,
    Kind,
    Outputs,
    Subject,
    eager,
    in_a_line,
    kind_of,
    write,
)
from medai_pipeline.models.catalog import CatalogEntry
from medai_pipeline.models.device_memory import in_batches, release
from medai_pipeline.models.digests import file_digest
from medai_pipeline.models.machine import CPU, Machine, this_machine, threads
from medai_pipeline.models.prepared import HEAD, NETWORK, SUMMARY, Candidate, Prepared, folder_of
from medai_pipeline.models.trial import Trial, chosen, measured
from medai_pipeline.records import InputContract

log = logging.getLogger(__name__)

MAKING = "making-"
MOST_SECONDS = 6 * 3600


def prepare(
    entry: CatalogEntry,
    models_path: Path,
    device: str = CPU,
    *,
    weights: Path | None = None,
    images: np.ndarray | None = None,
    candidates: Sequence[str] | None = None,
    tolerance: float | None = None,
    progress: Callable[[str], None] | None = None,
) -> Prepared:
    """Measures the backends on a model's own contract, and keeps the fastest that answers as float32 does.

    `images` (N, C, H, W) in the contract's range are what answers are compared on (default: `fixed_images`). A backend that
    computes in float32 may differ by 1e-4 in a probability, one of reduced precision by 0.01 (`tolerance` replaces both).
    `candidates` limits the backends that are tried; one that fails in any way is refused with the reason. Raises
    WeightsMissing and WeightsRefused as `load` does, and ModelError when plain torch itself does not answer, or the
    artefact cannot be written.
    """
    from medai_pipeline.models.load import load

    model = load(entry, models_path, device, weights=weights, prepared=False)
    machine = this_machine(model.device)
    subject = Subject(model.network, model.pooled, model.image_shape, model.device)
    images = fixed_images(entry.contract) if images is None else images
    kinds = [kind_of(name) for name in candidates] if candidates is not None else list(KINDS)
    folder = folder_of(entry, model.weights_sha256, machine, models_path)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _clear_killed(folder.parent)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=MAKING) as made:
            work = Path(made)
            truth = _truth(entry, eager(subject), images)  # while no copy of the network takes the device's memory
            backends, facts = _made(kinds, subject, machine, work, progress)
            facts = measured(entry, Trial(backends, facts), images, truth, tolerance, machine)
            best = chosen(facts)
            kept = work / "kept"
            kept.mkdir()
            summary = _keep(best, facts, model, machine, work, kept)
            shutil.rmtree(folder, ignore_errors=True)
            kept.replace(folder)
    except OSError as error:
        raise ModelError(
            f"cannot keep what was prepared under {folder.parent} ({error.strerror}): make room, or let this user write there"
        ) from error
    log.info("%s@%s: %s serves, %.1f times plain torch", entry.name, entry.version, best, summary.times_eager)
    return summary


def _clear_killed(folder: Path) -> None:
    """What a process left half made that was killed: nothing takes as long as this."""
    for left in folder.glob(f"{MAKING}*"):
        if time.time() - left.stat().st_mtime > MOST_SECONDS:
            shutil.rmtree(left, ignore_errors=True)


def fixed_images(contract: InputContract, count: int = 6) -> np.ndarray:
    """Fixed pictures float32 (count, C, H, W) in the contract's range: an empty one, then discs and noise on a slope."""
    rng = np.random.default_rng(20261122)
    y, x = np.mgrid[0 : contract.height, 0 : contract.width] / max(contract.height, contract.width)
    made = np.zeros((count, contract.channels, contract.height, contract.width))
    for picture in made[1:]:
        field = 0.2 + 0.4 * (x * rng.random() + y * rng.random())
        for _ in range(6):
            cx, cy, radius = rng.random(3) * (1, 1, 0.25)
            field += (rng.random() - 0.4) * ((x - cx) ** 2 + (y - cy) ** 2 < radius**2)
        picture[:] = field + rng.normal(0, 0.03, picture.shape)
    return (contract.low + np.clip(made, 0, 1) * (contract.high - contract.low)).astype(np.float32)


def _made(
    kinds: Sequence[Kind], subject: Subject, machine: Machine, work: Path, progress: Callable[[str], None] | None
) -> tuple[dict[str, Backend], dict[str, Candidate]]:
    """Every backend that can be made here, plain torch first; and what is known of the others."""
    backends: dict[str, Backend] = {"eager": eager(subject)}
    facts: dict[str, Candidate] = {"eager": Candidate("eager")}
    for kind in kinds:
        if kind.name == "eager":
            continue
        start = time.perf_counter()
        hindrance, size = kind.hindrance(machine), 0
        if not hindrance:
            if progress:
                progress(f"making {kind.name}")
            try:
                backends[kind.name], size = _one(kind, subject, work)
            except FAILURES as error:
                hindrance = in_a_line(error)
            if hindrance:
                release()
        if hindrance:
            log.info("%s is left out: %s", kind.name, hindrance)
        took = round(time.perf_counter() - start, 1)
        facts[kind.name] = Candidate(kind.name, hindrance, made_in_s=took, size_mb=round(size / 1e6, 1))
    return backends, facts


def _one(kind: Kind, subject: Subject, work: Path) -> tuple[Backend, int]:
    """A backend, and how many bytes its artefact has: 0 where the network itself answers."""
    if kind.wrap:
        return kind.wrap(subject), 0
    assert kind.open is not None
    path = work / (NETWORK + kind.suffix)
    if not path.is_file():  # two read the same file
        write(kind, subject, path)
    return kind.open(path, subject.device), path.stat().st_size


def _truth(entry: CatalogEntry, plain: Backend, images: np.ndarray) -> Outputs:
    """What plain torch answers. Raises ModelError when it does not."""
    try:
        parts = list(in_batches(plain, images, len(images), entry.label))
    except ModelError:
        raise
    except FAILURES as error:
        raise ModelError(f"{entry.label} does not answer on this device ({in_a_line(error)})") from error
    features, seen, logits = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return features, seen, logits


def _keep(best: str, facts: dict[str, Candidate], model: Any, machine: Machine, work: Path, kept: Path) -> Prepared:
    from safetensors.numpy import save as arrays

    head = arrays({"weight": model.head_weight, "bias": model.head_bias})
    (kept / HEAD).write_bytes(head)
    suffix = kind_of(best).suffix
    artefact = NETWORK + suffix if suffix else ""
    if artefact:
        (work / artefact).replace(kept / artefact)
    summary = Prepared(
        best,
        round((facts["eager"].batch_ms or 1) / (facts[best].batch_ms or 1), 2),
        model.pooled,
        model.drops_inside,
        machine,
        threads(),
        artefact,
        file_digest(kept / artefact) if artefact else "",
        hashlib.sha256(head).hexdigest(),
        tuple(facts.values()),
    )
    (kept / SUMMARY).write_text(json.dumps(summary.as_json(), indent=2) + "\n", encoding="utf-8")
    return summary
