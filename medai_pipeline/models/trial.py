"""Backends of one network against each other: how far from float32 they answer, how fast, and which is taken."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medai_pipeline.errors import ModelError
from medai_pipeline.models.backends import FAILURES, Backend, Outputs, in_a_line, kind_of
from medai_pipeline.models.catalog import CatalogEntry
from medai_pipeline.models.device_memory import out_of_memory, release
from medai_pipeline.models.infer import probabilities_of
from medai_pipeline.models.machine import CPU, Machine, threads
from medai_pipeline.models.prepared import Candidate

log = logging.getLogger(__name__)

# Reduced precision or not -> how far probabilities may lie from float32, and features as a share of their range.
TOLERANCE = {False: (1e-4, 1e-3), True: (1e-2, 5e-2)}
WORTH = 1.05  # a backend must be this much faster than plain torch to be taken instead of it
PLAIN_CHOICE = "onnxruntime"  # the dependency that is there anyway
NOISE = 1.03
BATCH = 4
ROUNDS = 3


@dataclass(slots=True)
class Trial:
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


def measured(
    entry: CatalogEntry,
    trial: Trial,
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


def _times(trial: Trial, batch: np.ndarray, machine: Machine) -> dict[str, list[float]]:
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
