"""Does training work on real images? What a network learns from a few hundred of them, on a held-out split.

    python benchmarks/training.py mri [--epochs 30]   # 697 slices, four classes; minutes on one core
    python benchmarks/training.py cxr [--epochs 30]   # 321 films, one a patient, the more frequent findings
    python benchmarks/training.py view [--epochs 30]  # the same films, AP or PA: something that so few can teach

Both go through `manifest_training`, as `medai models train MANIFEST` does, from random weights.

Traps. MRI: slices without a tumour come from another source and can be told by their look alone, so the AUC of "Normal" is
no finding of a tumour, and only the right type among tumours is worth a look; neighbouring numbers are one patient, so the
split is by blocks of numbers (see `localization.py`). Films: 321 of 256 x 256 are far too few to learn from, and labels
were read out of reports by a program; the published DenseNet121's answers for the same test films stand beside ours.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from localization import DATA, slices, split

from medai_pipeline.manifest_training import Row, divided, train_manifest
from medai_pipeline.models.catalog import CatalogEntry, entry
from medai_pipeline.models.metrics import auc
from medai_pipeline.records import InputContract

FEWEST = 12  # films of a finding in the manifest; rarer ones are left out
SMALL = {"channels": [16, 32, 64, 96], "stem_width": 8, "output_stride": 8}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(SOURCES))
    parser.add_argument("--epochs", type=int, default=30)
    arguments = parser.parse_args()
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    known, rows = SOURCES[arguments.what]()
    counts = {name: sum(row.split == name for row in rows) for name in ("train", "validation", "test")}
    print(", ".join(f"{count} {name}" for name, count in counts.items()))
    with TemporaryDirectory() as folder:
        mirrored = arguments.what == "mri"
        facts = train_manifest(known, rows, Path(folder), epochs=arguments.epochs, mirrored=mirrored)
    published = published_auc(rows) if arguments.what == "cxr" else {}
    for label, held in facts["held_out"]["classes"].items():
        beside = f"   published DenseNet121 {published[label]:.3f}" if label in published else ""
        print(f"{label:20} AUC {held['auc_images']:.3f}{beside}")
    print(f"expected calibration error {facts['held_out']['calibration_error']:.3f}")
    return 0


def mri() -> tuple[CatalogEntry, list[Row]]:
    """Four classes, one a slice. No boxes: what can be learnt from labels alone."""
    rows = [replace(row, labels=(row.labels[1:] or ("Normal",)), boxes=()) for row in split(slices())]
    return made("mri", "demo-brain-mr", rows, False, InputContract(160, 160, scaling="mr")), rows


def cxr() -> tuple[CatalogEntry, list[Row]]:
    rows = []
    with (DATA / "cxr" / "manifest.csv").open(newline="") as file:
        for line, values in enumerate(csv.DictReader(file), 2):
            path = next((DATA / "cxr").rglob(values["file"]))
            labels = tuple(name for name in values["finding_labels"].split("|") if name != "No Finding")
            rows.append(Row(line, path, labels, values["patient_id"], "train", ()))
    rows = divided(rows)
    every = sorted({label for row in rows for label in row.labels})
    frequent = {label for label in every if sum(label in row.labels for row in rows) >= FEWEST}
    frequent &= {label for label in every if all(seen(rows, label, name) for name in ("train", "validation", "test"))}
    rows = [replace(row, labels=tuple(label for label in row.labels if label in frequent)) for row in rows]
    return made("cxr", "demo-chest-xray", rows, True, InputContract(224, 224, scaling="xray")), rows


def view() -> tuple[CatalogEntry, list[Row]]:
    """Taken from the front or the back: the heart's size, the shoulder blades and the letters of the film tell it."""
    rows = []
    with (DATA / "cxr" / "manifest.csv").open(newline="") as file:
        for line, values in enumerate(csv.DictReader(file), 2):
            path = next((DATA / "cxr").rglob(values["file"]))
            rows.append(Row(line, path, (values["view"],), values["patient_id"], "train", ()))
    return made("view", "demo-chest-xray", rows, False, InputContract(224, 224, scaling="xray")), divided(rows)


def seen(rows: list[Row], label: str, name: str) -> bool:
    return any(label in row.labels for row in rows if row.split == name)


def made(name: str, like: str, rows: list[Row], multi_label: bool, contract: InputContract) -> CatalogEntry:
    classes = tuple(sorted({label for row in rows for label in row.labels}))
    thresholds = (0.5,) * len(classes)
    return replace(
        entry(like), name=name, classes=classes, thresholds=thresholds, multi_label=multi_label, contract=contract,
        options=SMALL, demo=False, weights_sha256=None,
    )  # fmt: skip


def published_auc(rows: list[Row]) -> dict[str, float]:
    """AUC of the probabilities that the manifest carries, on the same test films."""
    test = {row.path.name: row for row in rows if row.split == "test"}
    with (DATA / "cxr" / "manifest.csv").open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["file"] in test]
    labels = {label for row in rows for label in row.labels}
    return {
        label: auc(
            np.array([float(line[f"pub_{label}"]) for line in lines]),
            np.array([label in test[line["file"]].labels for line in lines]),
        )
        for label in labels
    }


SOURCES = {"mri": mri, "cxr": cxr, "view": view}

if __name__ == "__main__":
    raise SystemExit(main())
