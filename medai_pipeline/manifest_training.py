"""A site's own images and labels, by a manifest, through the same normalization as studies, into `models.train`.

Joins siblings, as `stages` does; knows no Dagster. What it writes is what `medai models register` takes: weights, a card to
be read by a person and one to be registered. Messages name lines of the manifest, never a file or what it holds.
"""

from __future__ import annotations

import csv
import hashlib
import json
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from medai_pipeline.errors import CardRefused, DicomError, ManifestRefused
from medai_pipeline.models.cards import from_card, write_toml
from medai_pipeline.models.catalog import CatalogEntry, region
from medai_pipeline.models.measured import calibration_of
from medai_pipeline.models.samples import Sample, sample
from medai_pipeline.records import InputContract, Placement

SPLITS = ("train", "validation", "test")
SHARES = (0.6, 0.2, 0.2)
FEWEST = 32  # images to train on; with less there is no batch statistics to speak of
PICTURES = frozenset({".png", ".jpg", ".jpeg"})
Progress: TypeAlias = Callable[[str], None]
NamedBox: TypeAlias = tuple[str, tuple[float, float, float, float]]  # label, (x0, y0, x1, y1) in pixels of the image


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a manifest. `group` names what must not be torn apart between splits: a patient."""

    line: int
    path: Path
    labels: tuple[str, ...]
    group: str
    split: str
    boxes: tuple[NamedBox, ...]


def read_manifest(path: Path, images: Path) -> list[Row]:
    """The rows of a CSV with the columns `file` and `labels`, and if there are any `patient`, `split` and `boxes`.

    `labels`: names between "|", empty for an image without a finding. `boxes`: "label:x:y:width:height" between "|", in
    pixels of the image, from its upper left corner. `split`: train, validation or test; where there is no such column
    patients are divided 60 : 20 : 20 by a digest of their name. Without `patient` each file counts as a patient.
    Raises ManifestRefused that names the first bad line.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = set(reader.fieldnames or ())
        if missing := {"file", "labels"} - columns:
            raise ManifestRefused(
                f"the manifest has no column {' and '.join(sorted(missing))}; it needs file and labels"
            )
        rows = [_row(number, values, images) for number, values in enumerate(reader, 2)]
    if not rows:
        raise ManifestRefused("the manifest has no line; it needs one for each image")
    return rows if "split" in columns else divided(rows)


def _row(line: int, values: Mapping[str, str | None], images: Path) -> Row:
    cell = {name: (value or "").strip() for name, value in values.items() if isinstance(name, str)}
    path = images / cell["file"]
    if not path.is_file():
        raise ManifestRefused(f"line {line}: there is no such file in the folder of images (--images)")
    split = cell.get("split", "train").lower()
    if split not in SPLITS:
        raise ManifestRefused(f"line {line}: split must be one of {', '.join(SPLITS)}")
    labels = tuple(dict.fromkeys(label.strip() for label in cell["labels"].split("|") if label.strip()))
    return Row(
        line, path, labels, cell.get("patient") or cell["file"], split, tuple(_boxes(line, cell.get("boxes", "")))
    )


def _boxes(line: int, text: str) -> Iterator[NamedBox]:
    for part in filter(None, text.split("|")):
        label, *numbers = part.rsplit(":", 4)
        try:
            x, y, width, height = (float(number) for number in numbers)
        except ValueError:
            raise ManifestRefused(f"line {line}: a box is label:x:y:width:height") from None
        yield label.strip(), (x, y, x + width, y + height)


def divided(rows: Sequence[Row]) -> list[Row]:
    """Whole patients to splits, in an order that depends on their names alone: more images never move one."""
    ends = np.cumsum(SHARES)
    return [replace(row, split=SPLITS[int(np.searchsorted(ends, _chance(row.group)))]) for row in rows]


def _chance(group: str) -> float:
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:6], "big") / 2**48


def check_rows(rows: Sequence[Row], classes: Sequence[str], multi_label: bool) -> None:
    """Raises ManifestRefused where the rows and the classes do not fit, a patient lies in two splits, or a class has no
    patient with it, or none without it, to fit a threshold on."""
    if not classes:
        raise ManifestRefused("no line has a label: there is nothing to learn")
    of_group: dict[str, set[str]] = defaultdict(set)
    seen = {split: Counter[str]() for split in SPLITS}
    for row in rows:
        of_group[row.group].add(row.split)
        seen[row.split].update(row.labels)
        if unknown := ({*row.labels, *(label for label, _ in row.boxes)} - set(classes)):
            raise ManifestRefused(
                f"line {row.line}: {sorted(unknown)[0]!r} is none of the classes {', '.join(classes)}"
            )
        if not multi_label and len(row.labels) != 1:
            raise ManifestRefused(f"line {row.line}: with --multi-class an image has exactly one label")
    if torn := sum(len(splits) > 1 for splits in of_group.values()):
        raise ManifestRefused(f"{torn} patient(s) lie in more than one split: held-out figures would mean nothing")
    if (images := sum(row.split == "train" for row in rows)) < FEWEST:
        raise ManifestRefused(f"{images} images in the train split: {FEWEST} are the fewest that can be trained on")
    for split in SPLITS:
        if absent := [label for label in classes if not seen[split][label]]:
            raise ManifestRefused(
                f"no image of {', '.join(absent)} in the {split} split: add some, or leave the class out"
            )
    _require_both(rows, classes)


def _require_both(rows: Sequence[Row], classes: Sequence[str]) -> None:
    held = [row for row in rows if row.split == "validation"]
    everybody = {row.group for row in held}
    for label in classes:
        with_it = {row.group for row in held if label in row.labels or label in dict(row.boxes)}
        if with_it == everybody:
            raise ManifestRefused(
                f"every patient of the validation split has {label}: its threshold lies between those with and those "
                "without, so add some without, or leave the class out"
            )


def classes_of(rows: Iterable[Row]) -> tuple[str, ...]:
    """All labels, in the order of the alphabet."""
    return tuple(sorted({label for row in rows for label in row.labels}))


def train_site(
    manifest: Path | None,
    name: str,
    out_dir: Path,
    *,
    version: str,
    images: Path | None,
    architecture: str,
    settings: Sequence[str],
    modality: Sequence[str],
    body_parts: Sequence[str],
    scaling: str | None,
    size: int,
    multi_class: bool,
    mirror: bool,
    epochs: int,
    licence: str,
    about: str,
    seed: int,
    progress: Progress | None = None,
) -> dict:
    """What `medai models train MANIFEST` does with its options. Raises ManifestRefused, ModelError."""
    if manifest is None or name == "all" or not modality or not body_parts or scaling is None:
        raise ManifestRefused("a new model needs --model NAME, --modality, --body-part and --scaling")
    rows = read_manifest(manifest, images or manifest.parent)
    classes = classes_of(rows)
    entry = CatalogEntry(
        name=name,
        version=version,
        architecture=architecture,
        options=dict(_setting(text) for text in settings),
        classes=classes,
        multi_label=not multi_class,
        contract=InputContract(size, size, scaling=scaling),
        modality=tuple(word.upper() for word in modality),
        body_parts=tuple(region(word) for word in body_parts),
        thresholds=(0.5,) * len(classes),
        licence=licence,
    )
    return train_manifest(
        entry, rows, out_dir, epochs=epochs, seed=seed, mirrored=mirror, data=about, progress=progress
    )


def _setting(text: str) -> tuple[str, object]:
    key, _, value = text.partition("=")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        raise ManifestRefused(f"--set {key}: give KEY=JSON, as output_stride=8 or channels=[16,32,64,96]") from None


def train_manifest(
    entry: CatalogEntry,
    rows: Sequence[Row],
    out_dir: Path,
    *,
    epochs: int = 30,
    seed: int = 0,
    mirrored: bool = False,
    data: str = "",
    progress: Progress | None = None,
) -> dict:
    """Train `entry` from random weights and write weights, features, figures and both cards into `out_dir`.

    `mirrored` where left and right mean nothing; boxes teach the map where to point. Temperature and thresholds come from
    the validation split, the figures of the card from the test split. `data`: a line for the card. Returns the figures.
    Raises, before any image is read, ManifestRefused as `check_rows` does, CardRefused for what registration would refuse,
    and ModelError for a network that cannot be trained; ManifestRefused when an image cannot be used.
    """
    from medai_pipeline.models.evaluate import report
    from medai_pipeline.models.train import Schedule, TrainingSet, fit

    check_rows(rows, entry.classes, entry.multi_label)
    require_card(entry)
    stride = _stride(entry)
    groups = {group: number for number, group in enumerate(sorted({row.group for row in rows}))}
    samples: dict[str, list[Sample]] = {split: [] for split in SPLITS}
    for done, row in enumerate(rows, 1):
        samples[row.split].append(_sample(row, entry, groups[row.group], stride))
        if progress and (done % 100 == 0 or done == len(rows)):
            progress(f"{entry.name}: reading image {done} of {len(rows)}")
    fields = ("pixels", "targets", "weights", "masks")
    arrays = TrainingSet(*(np.stack([getattr(one, field) for one in samples["train"]]) for field in fields))
    boxed = any(row.boxes for row in rows if row.split == "train")
    schedule = Schedule(
        epochs,
        pointing_weight=1.0 if boxed else 0.0,
        hottest_weight=1.0 if boxed else 0.0,
        mirrored=mirrored,
        turn=0.35,
        stretch=0.2,
    )
    network = fit(entry, arrays, schedule, seed, _step_lines(entry.name, progress))
    facts = {
        "seed": seed,
        "epochs": epochs,
        "data": data or "A manifest of the site.",
        "training_images": len(samples["train"]),
        "training_studies": len({one.study for one in samples["train"]}),
        "held_out_studies": len({one.study for one in samples["test"]}),
    }
    made = report(entry, network, samples["validation"], samples["test"], Path(out_dir), facts)
    fitted = replace(
        entry,
        thresholds=tuple(made["thresholds"]),
        temperature=made["temperature"],
        weights_sha256=made["weights_sha256"],
        features_sha256=made["features_sha256"],
        calibration=calibration_of(made["held_out"], entry.multi_label),
    )
    card = Path(out_dir) / entry.weights_file
    card.with_name(f"{card.stem}.toml").write_text(write_toml(fitted), encoding="utf-8")
    return made


def require_card(entry: CatalogEntry) -> None:
    """What `medai models register` asks of a card, as the file will say it. Raises CardRefused that names every fault."""
    where = "the new model could not be registered"
    try:
        from_card(tomllib.loads(write_toml(entry)), where)
    except (tomllib.TOMLDecodeError, UnicodeError) as error:
        raise CardRefused(
            f"{where}: a class, an option or a text has what no TOML file can hold ({error}): say it otherwise"
        ) from error


def _stride(entry: CatalogEntry) -> int:
    """Tensor pixels in a cell of the network's last feature map: asked of the network itself. Raises ModelError for a
    network that cannot be trained here."""
    import torch

    from medai_pipeline.models.network import build, forward, require_pooled_head

    contract, network = entry.contract, build(entry)
    require_pooled_head(network, entry)
    with torch.inference_mode():
        features, _, _ = forward(network, torch.zeros(1, contract.channels, contract.height, contract.width))
    return contract.width // features.shape[-1]


def _sample(row: Row, entry: CatalogEntry, study: int, stride: int) -> Sample:
    try:
        pixels, placement = _pixels(row.path, entry.contract)
    except DicomError as error:
        raise ManifestRefused(f"line {row.line}: {error}") from error
    boxes = [(entry.classes.index(label), _placed(box, placement)) for label, box in row.boxes]
    return sample(study, pixels, len(entry.classes), [entry.classes.index(name) for name in row.labels], boxes, stride)


def _placed(box: tuple[float, float, float, float], at: Placement) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = box
    return (
        x0 * at.scale_x + at.offset_x,
        y0 * at.scale_y + at.offset_y,
        x1 * at.scale_x + at.offset_x,
        y1 * at.scale_y + at.offset_y,
    )


def _pixels(path: Path, contract: InputContract) -> tuple[np.ndarray, Placement]:
    """A DICOM file as inference reads it, its middle frame; or a PNG or JPEG, whose grey values are taken as they are."""
    if path.suffix.lower() in PICTURES:
        return _picture(path, contract)
    from medai_pipeline.dicom.image import Image
    from medai_pipeline.dicom.pixels import prepare
    from medai_pipeline.dicom.row import instance_row

    data = path.read_bytes()
    instance = instance_row(Image.of(data).attributes, lambda uid, _: uid, "", "")
    frames = prepare(data, instance, contract)
    tensor, item = frames[len(frames) // 2]
    return tensor, item.placement


def _picture(path: Path, contract: InputContract) -> tuple[np.ndarray, Placement]:
    import cv2

    from medai_pipeline.dicom.normalize import normalize
    from medai_pipeline.errors import UndecodablePixels

    values = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
    if values is None:
        raise UndecodablePixels("the picture cannot be decoded")
    return normalize(values.astype(np.float32), contract)


def _step_lines(name: str, progress: Progress | None) -> Callable[[int, int, float], None] | None:
    """A line every 20 batches."""
    if progress is None:
        return None

    def after(step: int, steps: int, loss: float) -> None:
        if step % 20 == 0 or step == steps:
            progress(f"{name}: training, batch {step} of {steps}, loss {loss:.3f}")

    return after
