"""Measures at registration which backend a model uses on this machine, against float32, and keeps the choice."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
from medai_pipeline.models.device_memory import in_batches, out_of_memory, release
from medai_pipeline.models.infer import probabilities_of
from medai_pipeline.models.machine import CPU, Machine, this_machine, threads
from medai_pipeline.models.prepared import HEAD, NETWORK, SUMMARY, Candidate, Prepared, file_digest, folder_of
from medai_pipeline.records import InputContract

log = logging.getLogger(__name__)

# Reduced precision or not -> how far probabilities may lie from float32, and features as a share of their range.
TOLERANCE = {False: (1e-4, 1e-3), True: (1e-2, 5e-2)}
WORTH = 1.05  # a backend must be this much faster than plain torch to be taken instead of it
PLAIN_CHOICE = "onnxruntime"  # the dependency that is there anyway
NOISE = 1.03
BATCH = 4
ROUNDS = 3
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
            facts = _measured(entry, _Trial(backends, facts), images, truth, tolerance, machine)
            best = chosen(facts)
            kept = work / "kept"
            kept.mkdir()
            summary = _keep(best, facts, model, machine, work, kept)
            shutil.rmtree(folder, ignore_errors=True)
            kept.replace(folder)
    except OSError as error:
        raise ModelError(
            f"cannot keep what was prepared under {folder.parent} ({error.strerror}): make room"
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
                if kind.wrap:
                    backends[kind.name] = kind.wrap(subject)
                else:
                    assert kind.open is not None
                    path = work / (NETWORK + kind.suffix)
                    if not path.is_file():
                        write(kind, subject, path)
                    size = path.stat().st_size
                    backends[kind.name] = kind.open(path, subject.device)
            except FAILURES as error:
                hindrance = in_a_line(error)
            if hindrance:
                release()
        if hindrance:
            log.info("%s is left out: %s", kind.name, hindrance)
        took = round(time.perf_counter() - start, 1)
        facts[kind.name] = Candidate(kind.name, hindrance, made_in_s=took, size_mb=round(size / 1e6, 1))
    return backends, facts


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


@dataclass(slots=True)
class _Trial:
    """The backends that are still in it, by name, and what is known of all."""

    backends: dict[str, Backend]
    facts: dict[str, Candidate]

    def asked(self, name: str, pixels: np.ndarray) -> Outputs | None:
        """Its answer; None when it fails, which puts it out, or is out. Raises ModelError when plain torch alone fails."""
        if name not in self.backends:
            return None
        try:
            return self.backends[name](pixels)
        except FAILURES as error:
            reason, crowded = in_a_line(error), out_of_memory(error)
        if name != "eager":
            self.refuse(name, reason)
            return None
        if not crowded or len(self.backends) == 1:
            raise ModelError(f"plain torch failed while it was measured ({reason})")
        for other in [kind for kind in self.backends if kind != name]:
            self.refuse(other, "the device has no room for it beside plain torch: free some memory")
        return self.asked(name, pixels)

    def refuse(self, name: str, reason: str) -> None:
        """Puts it out, and gives back what it holds on the device."""
        log.info("%s is left out: %s", name, reason)
        del self.backends[name]
        self.facts[name] = replace(self.facts[name], refused=reason)
        release()


def _measured(
    entry: CatalogEntry,
    trial: _Trial,
    images: np.ndarray,
    truth: Outputs,
    tolerance: float | None,
    machine: Machine,
) -> dict[str, Candidate]:
    """Answers against plain torch's, then times: rounds in turn, the least of each, as other work only ever adds.

    On one thread of the CPU it is its own time that counts, which others on the machine do not lengthen.
    """
    batch = np.concatenate([images] * (BATCH // len(images) + 1))[:BATCH]
    answers = {name: trial.asked(name, images) for name in list(trial.backends)}
    errors = {name: _errors(entry, answer, truth) for name, answer in answers.items() if answer is not None}
    del answers
    times = _times(trial, batch, machine)
    for name, (single, several) in times.items():
        probability, feature = errors[name]
        trial.facts[name] = replace(
            trial.facts[name],
            refused="" if name == "eager" else _too_far(name, probability, feature, tolerance),
            single_ms=round(single, 2),
            batch_ms=round(several, 2),
            probability_error=float(f"{probability:.3g}"),
            feature_error=float(f"{feature:.3g}"),
        )
    return trial.facts


def _times(trial: _Trial, batch: np.ndarray, machine: Machine) -> dict[str, list[float]]:
    """The least milliseconds an image, alone and in `batch`, of each that answers to the end."""
    clock = time.process_time if machine.device == CPU and threads() == 1 else time.perf_counter
    least: dict[str, list[float]] = {name: [np.inf, np.inf] for name in trial.backends}
    for _ in range(ROUNDS):
        for name in list(trial.backends):
            for index, pixels in enumerate((batch[:1], batch)):
                start = clock()
                if trial.asked(name, pixels) is None:
                    break
                took = 1e3 * (clock() - start) / len(pixels)
                least[name][index] = min(least[name][index], took)
    return {name: least[name] for name in trial.backends}


def _too_far(name: str, probability: float, feature: float, tolerance: float | None) -> str:
    """Why it is refused for what it answers; "" when that is near enough to float32. What is no number never is."""
    allowed = list(TOLERANCE[kind_of(name).reduced])
    if tolerance is not None:
        allowed[0] = tolerance
    if probability <= allowed[0] and feature <= allowed[1]:
        return ""
    return (
        f"differs from float32 by {probability:.2g} in a probability (allowed {allowed[0]:g})"
        f" and by {feature:.2g} of the features' range (allowed {allowed[1]:g})"
    )


def _errors(entry: CatalogEntry, answer: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> tuple[float, float]:
    """The greatest difference of a probability, and of a feature as a share of the features' range."""
    probabilities = np.abs(probabilities_of(answer[2], entry) - probabilities_of(truth[2], entry)).max()
    span = max(float(np.ptp(truth[0])), 1e-12)
    return float(probabilities), float(np.abs(answer[0] - truth[0]).max() / span)


def chosen(facts: Mapping[str, Candidate]) -> str:
    """The fastest for one image and in a batch taken together, of those that answer as float32 does.

    onnxruntime unless another is faster by more than two measurements of one thing differ by; plain torch unless that is
    worth it.
    """
    fit = {
        name: math.sqrt(fact.single_ms * fact.batch_ms)
        for name, fact in facts.items()
        if fact.single_ms is not None and fact.batch_ms is not None and not fact.refused
    }
    best = min(fit, key=lambda name: fit[name])
    if fit.get(PLAIN_CHOICE, math.inf) <= fit[best] * NOISE:
        best = PLAIN_CHOICE
    return best if fit[best] * WORTH <= fit["eager"] else "eager"


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
