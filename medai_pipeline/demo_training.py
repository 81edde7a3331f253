"""The demo models from scratch: phantoms, through the same normalization as studies, into `models.train`.

Joins siblings, as `stages` does; knows no Dagster and no DICOM files. Writes weights, fitted numbers and the model card.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TypeAlias

import numpy as np

from medai_pipeline.dicom.normalize import normalize
from medai_pipeline.models.catalog import PACKAGED_WEIGHTS, CatalogEntry, catalog, entry
from medai_pipeline.models.samples import Sample, sample
from medai_pipeline.phantoms.image import CT_LABELS, MR_LABELS, XRAY_LABELS, PhantomImage
from medai_pipeline.records import InputContract

log = logging.getLogger(__name__)

STRIDE = 16  # tensor pixels in a cell of the class activation map
Progress: TypeAlias = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a demo model is trained: studies for training and for each of validation and test, epochs."""

    studies: int
    held_out: int
    epochs: int
    images: Callable[[int, bool], list[PhantomImage]]
    keep: int = 6  # images of one training study


def _films(seed: int, training: bool) -> list[PhantomImage]:
    from medai_pipeline.phantoms.chest_xray import render_chest_xray

    rng = np.random.default_rng([seed, 9])
    rows = int(rng.choice([288, 320, 384, 448])) if training else 448
    columns = int(rows * rng.uniform(0.84, 1.02))
    if training:  # a nodule is small and needs more examples; the view with more to see is seen more often
        labels = [label for label in XRAY_LABELS if rng.random() < (0.5 if label == "Nodule" else 0.24)]
        return [render_chest_xray(seed, labels, str(rng.choice(["PA", "LATERAL"], p=[0.68, 0.32])), rows, columns)]
    return [render_chest_xray(seed, None, view, rows, columns) for view in ("PA", "LATERAL")]


def _ct(seed: int, training: bool) -> list[PhantomImage]:
    from medai_pipeline.phantoms.chest_ct import render_chest_ct

    if not training:
        return [render_chest_ct(seed, None, slices=20, rows=256, columns=256)]
    rng = np.random.default_rng([seed, 11])  # a nodule shows on a slice or two: it needs more studies than the rest
    labels = [label for label in CT_LABELS if rng.random() < (0.55 if label == "Nodule" else 0.28)]
    return [render_chest_ct(seed, labels, slices=8, rows=256, columns=256)]


def _mr(seed: int, training: bool) -> list[PhantomImage]:
    from medai_pipeline.phantoms.brain_mr import render_brain_mr

    if not training:
        return [render_brain_mr(seed, None, slices=20, rows=256, columns=256)]
    rng = np.random.default_rng([seed, 11])
    labels = [label for label in MR_LABELS if rng.random() < 0.5]
    return [render_brain_mr(seed, labels, slices=10, rows=256, columns=256)]


RECIPES: dict[str, Recipe] = {
    "demo-chest-xray": Recipe(3500, 250, 7, _films),
    "demo-chest-ct": Recipe(1500, 150, 9, _ct, keep=5),
    "demo-brain-mr": Recipe(900, 150, 8, _mr, keep=4),
}


def study_seed(seed: int, split: str, index: int) -> int:
    """Seeds of training, validation and test never meet, nor those of small seeds that people use."""
    return 10_000_000 * (seed + 1) + {"train": 0, "validation": 1, "test": 2}[split] * 1_000_000 + index


def samples_of(model: CatalogEntry, seed: int, training: bool = False) -> list[Sample]:
    """All images of one phantom study, through the normalization that inference uses."""
    recipe = RECIPES[model.name]
    samples = []
    for phantom in recipe.images(seed, training):
        volume = phantom.pixels if phantom.pixels.ndim == 3 else phantom.pixels[None]
        for frame, plane in enumerate(volume):
            window = _window(model.contract, np.random.default_rng([seed, 10, frame]))
            pixels, placement = normalize(plane, model.contract, window=window)
            boxes = []
            for box in phantom.boxes:
                if box.frame == frame:
                    x0, y0, x1, y1 = box.box
                    boxes.append(
                        (
                            model.classes.index(box.label),
                            (
                                x0 * placement.scale_x + placement.offset_x,
                                y0 * placement.scale_y + placement.offset_y,
                                x1 * placement.scale_x + placement.offset_x,
                                y1 * placement.scale_y + placement.offset_y,
                            ),
                        )
                    )
            samples.append(sample(seed, pixels, len(model.classes), (), boxes, STRIDE))
    return _some(samples, seed, recipe.keep) if training else samples


def _some(samples: list[Sample], seed: int, count: int) -> list[Sample]:
    """At most `count` images of a study by chance; those with a finding, the more so a small one, have better chances."""
    chance = np.random.default_rng([seed, 12]).random(len(samples))
    small = [any((x1 - x0) * (y1 - y0) < 2.5 * STRIDE**2 for _, (x0, y0, x1, y1) in sample.boxes) for sample in samples]
    odds = [0.15 if small[i] else 0.4 if samples[i].boxes else 1.0 for i in range(len(samples))]
    order = sorted(range(len(samples)), key=lambda i: odds[i] * chance[i])
    return [samples[i] for i in sorted(order[:count])]


def _window(contract: InputContract, rng: np.random.Generator) -> tuple[float, float] | None:
    """Films come with a VOI window or without one."""
    if contract.scaling != "xray" or rng.random() < 0.4:
        return None
    return 2048 + rng.uniform(-200, 200), 4096 * rng.uniform(0.8, 1.05)


def _samples_for(task: tuple[str, int, bool]) -> list[Sample]:
    import cv2

    cv2.setNumThreads(1)
    name, seed, training = task
    return samples_of(entry(name), seed, training)


def render_split(
    name: str, seed: int, split: str, studies: int, workers: int, progress: Progress | None = None
) -> list[Sample]:
    """The samples of a whole split, drawn by `workers` processes; order and content depend on the seed alone."""
    tasks = [(name, study_seed(seed, split, index), split == "train") for index in range(studies)]
    samples: list[Sample] = []
    for done, part in enumerate(_mapped(tasks, workers), 1):
        samples += part
        if progress and (done % 50 == 0 or done == studies):
            progress(f"{name}: drawing {split}, {done} of {studies} studies")
    return samples


def _mapped(tasks: list[tuple[str, int, bool]], workers: int) -> Iterator[list[Sample]]:
    if workers <= 1:
        yield from map(_samples_for, tasks)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_samples_for, tasks, chunksize=16)


def train_demo(
    name: str = "all",
    out_dir: Path = PACKAGED_WEIGHTS,
    seed: int = 0,
    *,
    images: int | None = None,
    held_out: int | None = None,
    epochs: int | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> dict[str, dict]:
    """Train one demo model, or "all", and write weights, fitted numbers and card into `out_dir`.

    `images`: training studies (a film study gives one image, a volume six slices), `held_out`: studies for each of
    validation and test; None takes the recipe's. `progress` is called with one line of text. Returns the facts by name.
    """
    from medai_pipeline.models.evaluate import report
    from medai_pipeline.models.train import Schedule, TrainingSet, fit

    results = {}
    for model in [m for m in catalog() if m.demo] if name == "all" else [entry(name)]:
        recipe = RECIPES[model.name]
        studies, held_studies = images or recipe.studies, held_out or recipe.held_out
        pool = workers or os.cpu_count() or 1
        train = render_split(model.name, seed, "train", studies, pool, progress)
        fields = ("pixels", "targets", "weights", "masks")
        data = TrainingSet(*(np.stack([getattr(sample, field) for sample in train]) for field in fields))
        jitter = 0.06 if model.contract.scaling == "ct-chest" else 0.15  # Hounsfield units are absolute
        schedule = Schedule(epochs or recipe.epochs, intensity_jitter=jitter)
        network = fit(model, data, schedule, seed, _step_lines(model.name, progress))
        validation = render_split(model.name, seed, "validation", held_studies, pool, progress)
        test = render_split(model.name, seed, "test", held_studies, pool, progress)
        facts = {
            "seed": seed,
            "training_images": len(train),
            "training_studies": studies,
            "held_out_studies": held_studies,
            "epochs": schedule.epochs,
        }
        results[model.name] = report(model, network, validation, test, Path(out_dir), facts)
        if progress:
            progress(f"{model.name}: {_summary(results[model.name])}")
    return results


def measure_demo(
    name: str = "all", out_dir: Path = PACKAGED_WEIGHTS, *, workers: int | None = None, progress: Progress | None = None
) -> dict[str, dict]:
    """What the features of demo models in `out_dir` look like, their held-out figures, card and reliability plot again; their
    weights stay as they are."""
    from medai_pipeline.models.evaluate import measure_again
    from medai_pipeline.models.load import load

    results = {}
    for model in [m for m in catalog() if m.demo] if name == "all" else [entry(name)]:
        facts = json.loads((Path(out_dir) / f"{model.name}-{model.version}.json").read_text(encoding="utf-8"))
        training = facts["training"]
        pool = workers or os.cpu_count() or 1
        validation, test = (
            render_split(model.name, training["seed"], split, training["held_out_studies"], pool, progress)
            for split in ("validation", "test")
        )
        known = dataclasses.replace(
            model,
            weights_sha256=facts["weights_sha256"],
            temperature=facts["temperature"],
            thresholds=tuple(facts["thresholds"]),
        )
        network = load(known, weights=Path(out_dir) / known.weights_file).network
        results[model.name] = measure_again(known, network, validation, test, Path(out_dir))
        if progress:
            progress(f"{model.name}: {_summary(results[model.name])}")
    return results


def _step_lines(name: str, progress: Progress | None) -> Callable[[int, int, float], None] | None:
    """A line every 20 batches."""
    if progress is None:
        return None

    def after(step: int, steps: int, loss: float) -> None:
        if step % 20 == 0 or step == steps:
            progress(f"{name}: training, batch {step} of {steps}, loss {loss:.3f}")

    return after


def _summary(facts: dict) -> str:
    held = facts["held_out"]
    figures = ", ".join(f"{label} {_shown(values['auc_studies'], '.3f')}" for label, values in held["classes"].items())
    normals = _shown(held["normal_studies_called_normal"], ".0%")
    return f"held-out AUC of studies: {figures}; normal studies called normal {normals}"


def _shown(figure: float | None, form: str) -> str:
    return "not measured" if figure is None else format(figure, form)
