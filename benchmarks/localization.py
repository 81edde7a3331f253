"""Do heatmaps lie on the finding? Pointing game and boxes against the truth, for each method, beside random and centre.

    python benchmarks/localization.py phantoms [--studies 40]
    python benchmarks/localization.py mri [--epochs 40]        # trains a small network first: minutes
    python benchmarks/localization.py nih

Pointing game: the hottest place lies in a true box. IoU and area are of the first region's box and the nearest true one.
Random is the share of the image that the boxes cover, centre whether its middle lies in one. Maps are of classes that
are there and that the model calls present (MRI and NIH: of all that are there).

The MRI slices (MEDAI_TEST_DATA/mri) hold two traps. Neighbouring numbers are slices of one patient: the split is by
blocks of numbers, with a gap, and slices that look like a held-out one are left out. Slices without a tumour come from
another source and can be told by their look alone: they are negatives in the training, so "Tumour" has a meaningless AUC,
and whether the right type is named is counted among tumours. The class measured is "Tumour". The boxes of the training slices
teach the map (`medai models train` with boxes); each slice is trained on as it is or mirrored.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np

from medai_pipeline.explain.cam import METHODS, class_map
from medai_pipeline.explain.geometry import heat_on_image
from medai_pipeline.explain.regions import regions
from medai_pipeline.explain.scorecam import score_maps
from medai_pipeline.manifest_training import Row
from medai_pipeline.models.catalog import CatalogEntry, catalog, entry
from medai_pipeline.models.infer import predict
from medai_pipeline.models.load import LoadedModel, load
from medai_pipeline.records import InputContract, Placement

Box = tuple[float, float, float, float]
DATA = Path(os.environ.get("MEDAI_TEST_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))
GOALS = {"phantoms": 0.95, "mri": 0.80}
TYPES_BY_WORD = {"glioma": "Glioma", "meningioma": "Meningioma", "pituitary": "Pituitary tumour"}
TYPES = tuple(TYPES_BY_WORD.values())
SIDE = 224  # of the slices, in pixels


@dataclass(frozen=True)
class Case:
    """One finding that is on one image: the image (C, H, W), its class, and where it is, in pixels of the image."""

    group: str
    image: np.ndarray
    features: np.ndarray
    index: int
    boxes: tuple[Box, ...]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["phantoms", "mri", "nih"])
    parser.add_argument("--studies", type=int, default=40, help="phantom studies of each kind")
    parser.add_argument("--epochs", type=int, default=40, help="of the network trained on MRI")
    parser.add_argument(
        "--scorecam-images", type=int, default=0, help="so many maps by Score-CAM for each model, 64 passes each"
    )
    arguments = parser.parse_args()
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    sources = {"phantoms": lambda: phantoms(arguments.studies), "mri": lambda: mri(arguments.epochs), "nih": nih}
    scores: dict[tuple[str, str], list[tuple[float, float, float]]] = defaultdict(list)
    for model, cases in sources[arguments.what]():
        for method in METHODS:
            for case in cases:
                values = class_map(case.features, model.head_weight[case.index], method)
                scores[method, case.group].append(measured(values, case))
        for case in cases[: arguments.scorecam_images]:
            maps = score_maps(case.image, case.features, lambda images, model=model: predict(model, images).logits)
            scores["scorecam", case.group].append(measured(maps[case.index], case))
        for case in cases:
            scores["random", case.group].append((covered(case), np.nan, np.nan))
            middle = (case.image.shape[2] / 2, case.image.shape[1] / 2)
            scores["centre", case.group].append((float(inside(middle, case.boxes)), np.nan, np.nan))
    return shown(arguments.what, scores)


def shown(what: str, scores: dict[tuple[str, str], list[tuple[float, float, float]]]) -> int:
    """A line for each method; the groups of Grad-CAM; whether it reached its goal."""
    if not scores:
        print("nothing to measure: no finding of these images is one that the model knows")
        return 0
    for method in dict.fromkeys(method for method, _ in scores):
        print(f"{method:12} {words([row for (name, _), rows in scores.items() if name == method for row in rows])}")
    for (method, group), rows in sorted(scores.items()):
        if method == "gradcam":
            print(f"  {group:32} {words(rows)}")
    pointing = float(np.mean([row[0] for (method, _), rows in scores.items() if method == "gradcam" for row in rows]))
    if what not in GOALS:
        return 0
    print(f"goal: Grad-CAM points right at least {GOALS[what]:.0%}: {pointing:.1%}")
    return 0 if pointing >= GOALS[what] else 1


def words(rows: list[tuple[float, float, float]]) -> str:
    pointing, iou, ratio = (np.array(column) for column in zip(*rows, strict=True))
    boxes = "" if np.isnan(iou).all() else f"  IoU {np.nanmean(iou):.2f}  box/truth {np.nanmedian(ratio):.1f}"
    return f"{len(rows):4} maps  pointing {pointing.mean():.3f}{boxes}"


def measured(values: np.ndarray, case: Case) -> tuple[float, float, float]:
    """(pointed right, IoU, area of the box to the truth's)."""
    high, wide = case.image.shape[1:]
    whole = Placement(high, wide, 1, 1, 0, 0)
    heat = heat_on_image(values, whole, (high, wide), (high, wide))
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    pointed = float(heat.max() > 0 and inside((x + 0.5, y + 0.5), case.boxes))
    found = regions(values, whole, (high, wide))
    if not found:
        return pointed, 0.0, 0.0
    best = max(case.boxes, key=lambda box: overlap(found[0].box, box))
    return pointed, overlap(found[0].box, best), area(found[0].box) / max(area(best), 1e-6)


def inside(point: tuple[float, float], boxes: Iterable[Box]) -> bool:
    return any(x0 <= point[0] <= x1 and y0 <= point[1] <= y1 for x0, y0, x1, y1 in boxes)


def area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    both = area((max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])))
    return both / max(area(one) + area(other) - both, 1e-6)


def covered(case: Case) -> float:
    mask = np.zeros(case.image.shape[1:], bool)
    for x0, y0, x1, y1 in case.boxes:
        mask[round(y0) : round(y1), round(x0) : round(x1)] = True
    return float(mask.mean())


def phantoms(studies: int) -> Iterator[tuple[LoadedModel, list[Case]]]:
    """Phantoms of seeds that neither training nor its held-out sets used."""
    from medai_pipeline.demo_training import samples_of, study_seed

    for known in (model for model in catalog() if model.demo):
        model, cases = load(known), []
        for number in range(studies):
            samples = [s for s in samples_of(known, study_seed(3, "test", number)) if s.boxes]
            if not samples:
                continue
            said = predict(model, np.stack([s.pixels for s in samples]).astype(np.float32))
            for at, sample in enumerate(samples):
                for index in {k for k, _ in sample.boxes}:
                    boxes = tuple(box for k, box in sample.boxes if k == index)
                    if said.probabilities[at, index] >= known.thresholds[index] and max(map(area, boxes)) >= 25:
                        group = f"{known.name} {known.classes[index]}"
                        cases.append(Case(group, sample.pixels.astype(np.float32), said.features[at], index, boxes))
        yield model, cases


def mri(epochs: int) -> Iterator[tuple[LoadedModel, list[Case]]]:
    """A small network trained as `medai models train` does, and the slices that it never saw."""
    from medai_pipeline.dicom.normalize import normalize
    from medai_pipeline.manifest_training import train_manifest

    known = tumour_types()
    rows = split(slices())
    with TemporaryDirectory() as folder:
        facts = train_manifest(known, rows, Path(folder), epochs=epochs, mirrored=True, progress=print)
        made = replace(known, weights_sha256=facts["weights_sha256"], temperature=facts["temperature"])
        model = load(made, Path(folder))
    for label, held in facts["held_out"]["classes"].items():
        print(f"  {label:18} held-out AUC {held['auc_images']}")
    cases, answered = [], []
    for row in rows:
        if row.split == "test" and row.boxes:
            picture = cv2.imread(str(row.path), cv2.IMREAD_GRAYSCALE).astype(np.float32)
            pixels, placement = normalize(picture, known.contract)
            (_, box), scale = row.boxes[0], placement.scale_x
            said = predict(model, pixels[None])
            answered.append((row, said))
            group = f"mri {row.labels[1]}"
            cases.append(
                Case(
                    group,
                    pixels,
                    said.features[0],
                    0,
                    ((box[0] * scale, box[1] * scale, box[2] * scale, box[3] * scale),),
                )
            )
    named = [said.logits[0, 1:].argmax() + 1 == known.classes.index(row.labels[1]) for row, said in answered]
    print(f"  of {len(named)} held-out slices with a tumour the right type is named in {np.mean(named):.0%}")
    yield model, cases


def tumour_types() -> CatalogEntry:
    """A map of eighth size: the smaller tumours are no larger than a cell of the usual sixteenth."""
    return replace(
        entry("demo-brain-mr"),
        name="mri-tumour-types",
        classes=("Tumour", *TYPES),
        thresholds=(0.5,) * 4,
        contract=InputContract(160, 160, scaling="mr"),
        options={"channels": [16, 32, 64, 96], "stem_width": 8, "output_stride": 8},
        demo=False,
    )


def slices() -> list[Row]:
    """A row for each slice; `line` is its number in its source."""
    rows = []
    with (DATA / "mri" / "manifest.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            label, box = TYPES_BY_WORD.get(row["label"]), row["yolo_box(cls xc yc w h)"].split()
            path = DATA / "mri" / "brain224" / row["file"]
            number = int(re.findall(r"\d+", row["file"])[-1])
            if label is None:
                rows.append(Row(number, path, (), row["file"], "train", ()))
            if label is None or len(box) != 5:
                continue
            x, y, width, height = (float(part) * SIDE for part in box[1:])
            true = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
            rows.append(Row(number, path, ("Tumour", label), row["file"], "train", (("Tumour", true), (label, true))))
    return rows


def split(rows: list[Row], gap: int = 20, alike: float = 0.95) -> list[Row]:
    """Of each class the highest quarter of numbers is the test, the tenth below it validation. What is near or looks like
    a test slice is used for nothing."""
    made = []
    for labels in sorted({row.labels for row in rows}):
        own = sorted((row for row in rows if row.labels == labels), key=lambda row: row.line)
        test, validation = own[len(own) * 3 // 4].line, own[len(own) * 13 // 20].line
        made += [replace(row, split="test") for row in own if row.line >= test]
        made += [replace(row, split="validation") for row in own if validation <= row.line < test - gap]
        made += [row for row in own if row.line < validation - gap]
    looks = thumbnails(made)
    held = np.array([row.split == "test" for row in made])
    twins = (looks @ looks[held].T).max(axis=1) >= alike
    kept = [row for row, twin, test in zip(made, twins, held, strict=True) if test or not twin]
    print(f"{len(rows)} slices; {len(made) - len(kept)} look like a held-out one and are not used")
    return kept


def thumbnails(rows: list[Row]) -> np.ndarray:
    pictures = [cv2.imread(str(row.path), cv2.IMREAD_GRAYSCALE).astype(np.float32) for row in rows]
    small = np.stack([cv2.resize(picture, (24, 24), interpolation=cv2.INTER_AREA).ravel() for picture in pictures])
    small = small - small.mean(axis=1, keepdims=True)
    return small / np.linalg.norm(small, axis=1, keepdims=True)


def nih() -> Iterator[tuple[LoadedModel, list[Case]]]:
    """Real films with boxes, by the demo model: trained on phantoms alone, so no goal; only what it is."""
    from medai_pipeline.dicom.normalize import normalize

    model = load(entry("demo-chest-xray"))
    cases = []
    with (DATA / "cxr" / "manifest.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["bbox"]]
    for row in rows:
        path = next((DATA / "cxr").rglob(row["file"]))
        picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(np.float32)
        pixels, placement = normalize(picture, model.entry.contract)
        features = predict(model, pixels[None]).features[0]
        for label, box in nih_boxes(row["bbox"]):
            if label in model.entry.classes:
                shrink = picture.shape[0] / 1024 * placement.scale_x  # boxes are in pixels of the original 1024 x 1024
                x, y, width, height = (part * shrink for part in box)
                index = model.entry.classes.index(label)
                cases.append(Case(f"nih {label}", pixels, features, index, ((x, y, x + width, y + height),)))
    print(f"{len(rows)} films with boxes, {len(cases)} of classes that the demo model knows")
    yield model, cases


def nih_boxes(text: str) -> Iterator[tuple[str, Box]]:
    """(label, (x, y, width, height)) of a manifest cell "Label:x:y:width:height|..."."""
    for part in text.split("|"):
        numbers = [float(number) for number in re.findall(r"-?\d+\.?\d*", part)]
        name = re.match(r"[A-Za-z_]+", part)
        if name and len(numbers) == 4:
            yield name.group().rstrip("_"), (numbers[0], numbers[1], numbers[2], numbers[3])


if __name__ == "__main__":
    raise SystemExit(main())
