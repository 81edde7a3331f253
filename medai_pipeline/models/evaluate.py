"""A trained network on held-out studies: temperature, thresholds, AUC, calibration, pointing; then the files of a release.

Samples come as a sequence of objects with `study, pixels, targets, weights, boxes` (see `samples.Sample`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medai_pipeline.models import familiarity, metrics
from medai_pipeline.models.aggregation import aggregate
from medai_pipeline.models.calibration import reliability_file, reliability_png
from medai_pipeline.models.card import write_card
from medai_pipeline.models.catalog import CatalogEntry
from medai_pipeline.models.infer import predict, probabilities_of
from medai_pipeline.models.load import LoadedModel


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What the network says about N held-out images of S studies, beside the truth."""

    logits: np.ndarray  # (N, K)
    peaks: np.ndarray  # (N, K, 2): x and y of the map's maximum, in tensor pixels
    cell: float
    targets: np.ndarray  # (N, K)
    weights: np.ndarray  # (N, K)
    studies: np.ndarray  # (N,)
    boxes: tuple[Any, ...]
    pooled: np.ndarray  # (N, D)

    def pooled_studies(self) -> list[np.ndarray]:
        return [self.pooled[self.studies == study] for study in np.unique(self.studies)]

    def study_truth(self) -> np.ndarray:
        return np.stack([self.targets[self.studies == study].max(axis=0) for study in np.unique(self.studies)])

    def study_scores(self, entry: CatalogEntry) -> np.ndarray:
        probabilities = probabilities_of(self.logits, entry)
        return np.stack(
            [aggregate(probabilities[self.studies == study], entry)[0] for study in np.unique(self.studies)]
        )


def answers(entry: CatalogEntry, network: Any, samples: Sequence[Any], batch_size: int = 32) -> Answers:
    """Run the network over all samples, as inference does."""
    from medai_pipeline.models.network import head_of

    head = head_of(network)
    weight, bias = (tensor.detach().numpy() for tensor in (head.weight, head.bias))
    network.eval()
    model = LoadedModel(dataclasses.replace(entry, temperature=1.0), lambda: network, "cpu", "", weight, bias)
    logits, peaks, pooled, cell = [], [], [], 1.0
    for start in range(0, len(samples), batch_size):
        images = predict(
            model, np.stack([s.pixels for s in samples[start : start + batch_size]]).astype(np.float32), batch_size
        )
        maps = np.einsum("ndhw,kd->nkhw", images.features, weight)
        cell = entry.contract.width / maps.shape[-1]
        top = maps.reshape(*maps.shape[:2], -1).argmax(-1)
        peaks.append((np.stack([top % maps.shape[-1], top // maps.shape[-1]], -1) + 0.5) * cell)
        logits.append(images.logits)
        pooled.append(images.pooled)
    return Answers(
        np.concatenate(logits),
        np.concatenate(peaks),
        cell,
        np.stack([s.targets for s in samples]),
        np.stack([s.weights for s in samples]),
        np.array([s.study for s in samples]),
        tuple(s.boxes for s in samples),
        np.concatenate(pooled),
    )


def fitted(entry: CatalogEntry, validation: Answers) -> tuple[CatalogEntry, np.ndarray]:
    """The entry with temperature and study thresholds from the validation studies, and what the head's bias gains (K,)."""
    if entry.multi_label:
        temperature, shift = metrics.fit_calibration(validation.logits, validation.targets)
    else:
        temperature = metrics.fit_temperature(validation.logits, validation.targets)
        shift = np.zeros(len(entry.classes))
    entry = dataclasses.replace(entry, temperature=round(temperature, 4))
    gain = temperature * shift
    validation = dataclasses.replace(validation, logits=validation.logits + gain)
    scores, truth = validation.study_scores(entry), validation.study_truth()
    thresholds = tuple(round(metrics.fit_threshold(scores[:, k], truth[:, k]), 4) for k in range(len(entry.classes)))
    return dataclasses.replace(entry, thresholds=thresholds), gain


def measure(entry: CatalogEntry, test: Answers) -> dict[str, Any]:
    """Held-out figures by class, and those of whole studies."""
    probabilities = probabilities_of(test.logits, entry)
    scores, truth = test.study_scores(entry), test.study_truth()
    called = scores >= np.array(entry.thresholds)
    overall = (probabilities, test.targets) if entry.multi_label else metrics.top_label(probabilities, test.targets)
    classes = {}
    for k, label in enumerate(entry.classes):
        use = test.weights[:, k] > 0
        classes[label] = {
            "auc_images": _figure(metrics.auc(probabilities[use, k], test.targets[use, k])),
            "auc_studies": _figure(metrics.auc(scores[:, k], truth[:, k])),
            "sensitivity_studies": _share(called[truth[:, k] > 0, k]),
            "specificity_studies": _share(~called[truth[:, k] == 0, k]),
            "pointing": _figure(_pointing(test, probabilities, entry, k)),
            "threshold": entry.thresholds[k],
            "calibration_error": _figure(metrics.calibration_error(probabilities[use, k], test.targets[use, k])),
        }
    normal = truth.max(axis=1) == 0
    return {
        "classes": classes,
        "calibration_error": round(metrics.calibration_error(*overall), 4),
        "reliability": metrics.reliability(*overall),
        "normal_studies_called_normal": _share(~called[normal].any(axis=1)),
        "images": len(test.logits),
        "studies": len(truth),
    }


def _share(hits: np.ndarray) -> float | None:
    return _figure(hits.mean()) if hits.size else None


def _figure(value: float) -> float | None:
    """Four digits; None for what could not be measured, which JSON has no number for."""
    return round(float(value), 4) if np.isfinite(value) else None


def _pointing(test: Answers, probabilities: np.ndarray, entry: CatalogEntry, k: int) -> float:
    """Share of images rightly called positive whose map has its maximum in a true box, grown by one cell.

    Of images that have a box for the class alone: where nobody drew one nothing is known. NaN where there is none.
    """
    hits = []
    for row in np.flatnonzero((test.targets[:, k] > 0) & (probabilities[:, k] >= entry.thresholds[k])):
        x, y = test.peaks[row, k]
        grow = test.cell
        own = [box for j, box in test.boxes[row] if j == k]
        if own:
            hits.append(any(x0 - grow <= x < x1 + grow and y0 - grow <= y < y1 + grow for x0, y0, x1, y1 in own))
    return float(np.mean(hits)) if hits else float("nan")


def write_familiarity(entry: CatalogEntry, validation: Answers, out_dir: Path) -> str:
    """What the features of validation studies look like, and how far such studies stray from that, beside the weights.

    Of the test studies nothing is taken: figures come from them. Returns the file's SHA-256.
    """
    path = out_dir / familiarity.features_file(entry)
    familiarity.write(familiarity.described(validation.pooled_studies()), path)
    return familiarity.digest_of(path.read_bytes())


def measure_again(
    entry: CatalogEntry, network: Any, validation: Sequence[Any], test: Sequence[Any], out_dir: Path
) -> dict[str, Any]:
    """What its features look like, and held-out figures, again into the files of a model that was trained before, whose
    weights, temperature and thresholds stay as they are."""
    path = out_dir / entry.weights_file.replace(".safetensors", ".json")
    facts = json.loads(path.read_text(encoding="utf-8"))
    facts["features_sha256"] = write_familiarity(entry, answers(entry, network, validation), out_dir)
    facts["held_out"] = measure(entry, answers(entry, network, test))
    _write(entry, facts, out_dir)
    return facts


def _write(entry: CatalogEntry, facts: dict[str, Any], out_dir: Path) -> None:
    """The JSON file, the card and the plot beside weights that lie there."""
    stem, held = entry.weights_file.removesuffix(".safetensors"), facts["held_out"]
    title = f"{entry.name} {entry.version}: {held['images']} held-out images, ECE {held['calibration_error']:.4f}"
    (out_dir / reliability_file(entry)).write_bytes(reliability_png(held["reliability"], title))
    (out_dir / f"{stem}.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    size = (out_dir / entry.weights_file).stat().st_size
    (out_dir / f"{stem}.md").write_text(write_card(entry, facts, size), encoding="utf-8")


def report(
    entry: CatalogEntry,
    network: Any,
    validation: Sequence[Any],
    test: Sequence[Any],
    out_dir: Path,
    training: dict[str, Any],
) -> dict[str, Any]:
    """Fit, measure, and write `<name>-<version>` .safetensors, .features, .json (what the catalog reads) and .md (the card)."""
    import torch
    from safetensors.torch import save

    from medai_pipeline.models.network import head_of
    from medai_pipeline.models.train import weights_of

    known = answers(entry, network, validation)
    entry, gain = fitted(entry, known)
    with torch.no_grad():
        head_of(network).bias.add_(torch.from_numpy(gain).float())
    results = measure(entry, answers(entry, network, test))
    data = save(weights_of(network))
    out_dir.mkdir(parents=True, exist_ok=True)
    (out_dir / entry.weights_file).write_bytes(data)
    facts = {
        "weights_sha256": hashlib.sha256(data).hexdigest(),
        "features_sha256": write_familiarity(entry, known, out_dir),
        "temperature": round(entry.temperature, 4),
        "thresholds": list(entry.thresholds),
        "training": training,
        "held_out": results,
    }
    _write(entry, facts, out_dir)
    return facts
