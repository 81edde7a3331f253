"""`medai models train MANIFEST`: a site's images and labels become weights, figures and a card, or a line says why not."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from medai_pipeline.cli import main
from medai_pipeline.errors import ManifestRefused, ModelError
from medai_pipeline.manifest_training import check_rows, read_manifest
from medai_pipeline.models.cards import read_card
from medai_pipeline.models.catalog import entry
from medai_pipeline.models.load import load
from medai_pipeline.models.metrics import temperature_warning
from medai_pipeline.models.network import TRAINABLE, build, require_pooled_head
from medai_pipeline.models.train import Schedule, TrainingSet, fit
from medai_pipeline.phantoms.studies import make_study, to_bytes
from medai_pipeline.records import InputContract

OPTIONS = ["--model", "spots", "--modality", "MR", "--body-part", "HEAD", "--scaling", "mr", "--size", "64"]
SMALL = ["--architecture", "resnet10t", "--set", "channels=[8,8,16,16]", "--set", "stem_width=8", "--set", "output_stride=8"]  # fmt: skip


def spot(number: int, there: bool) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """A noisy picture, 80 x 80; with a bright spot where asked, and the spot's box."""
    rng = np.random.default_rng(number)
    picture = rng.normal(70, 10, (80, 80))
    x, y = (int(value) for value in rng.integers(8, 56, 2))
    if there:
        picture[y : y + 14, x : x + 14] += 110
    return picture.clip(0, 255).astype(np.uint8), (x, y, 14, 14)


def written(folder: Path, lines: list[dict[str, str]]) -> Path:
    path = folder / "labels.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for line in lines for name in line)))
        writer.writeheader()
        writer.writerows(lines)
    return path


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 pictures of 45 patients, two each; half of the patients have a spot."""
    folder, lines = tmp_path_factory.mktemp("spots"), []
    for number in range(90):
        there = number // 2 % 2 == 0
        picture, box = spot(number, there)
        name = f"{number}.png"
        cv2.imwrite(str(folder / name), picture)
        boxes = "Spot:" + ":".join(map(str, box)) if there else ""
        lines.append({"file": name, "labels": "Spot" if there else "", "patient": f"P{number // 2}", "boxes": boxes})
    return written(folder, lines)


# Even numbers have a spot: in validation are two patients, both with one.
SPLITS_OF_ONE = {"P4": "validation", "P8": "validation", "P6": "test", "P7": "test"}


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def test_it_learns_what_is_there_and_points_at_it(manifest: Path, tmp_path: Path) -> None:
    code, output = run("models", "train", manifest, *OPTIONS, *SMALL, "--epochs", 12, "--out", tmp_path)
    assert code == 0, output
    facts = json.loads((tmp_path / "spots-1.json").read_text())
    held = facts["held_out"]["classes"]["Spot"]
    assert held["auc_images"] >= 0.95 and held["pointing"] >= 0.9
    card = (tmp_path / "spots-1.md").read_text()
    assert "not validated" in card and "phantom" not in card.lower()
    made = read_card(tmp_path / "spots-1.toml")  # what `medai models register` takes
    assert made.thresholds == tuple(facts["thresholds"]) and made.weights_sha256 == facts["weights_sha256"]
    assert made.features_sha256 == facts["features_sha256"]
    assert load(made, tmp_path).familiarity is not None
    assert made.calibration["error"] == facts["held_out"]["calibration_error"]
    assert made.calibration["classes"] == [["Spot", held["calibration_error"]]]


def test_a_patient_stays_in_one_split_and_stays_there_when_images_are_added(manifest: Path) -> None:
    rows = read_manifest(manifest, manifest.parent)
    of_patient: dict[str, set[str]] = {}
    for row in rows:
        of_patient.setdefault(row.group, set()).add(row.split)
    assert all(len(splits) == 1 for splits in of_patient.values())
    fewer = written(
        manifest.parent / "..", [{"file": row.path.name, "labels": "", "patient": row.group} for row in rows[:40]]
    )
    assert [row.split for row in read_manifest(fewer, manifest.parent)] == [row.split for row in rows[:40]]


def test_dicom_files_are_read_as_inference_reads_them(tmp_path: Path) -> None:
    from medai_pipeline.manifest_training import _pixels

    study = make_study("chest-xray", 5)
    path = tmp_path / "one.dcm"
    path.write_bytes(to_bytes(study.datasets[0]))
    pixels, placement = _pixels(path, entry("demo-chest-xray").contract)
    assert pixels.shape == (1, 224, 224) and 0 <= pixels.min() < pixels.max() <= 1
    assert placement.source_rows == study.datasets[0].Rows


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: [{"name": "x"}], "no column file and labels"),
        (lambda lines: [], "no line"),
        (lambda lines: [*lines[:3], {**lines[3], "file": "Miller.png"}], "line 5: there is no such file"),
        (lambda lines: [*lines[:1], {**lines[1], "boxes": "Spot:1:2"}], "line 3: a box is"),
        (lambda lines: [{**line, "split": "tain"} for line in lines], "line 2: split must be one of"),
        (lambda lines: [{**line, "split": "train"} for line in lines], "no image of Spot in the validation split"),
        (lambda lines: [{**line, "patient": "one", "split": ("train", "test")[i % 2]} for i, line in enumerate(lines)],
         "1 patient(s) lie in more than one split"),
        (lambda lines: lines[:20], "fewest that can be trained on"),
        (lambda lines: [{**line, "labels": "", "boxes": ""} for line in lines], "no line has a label"),
        (lambda lines: [{**line, "split": SPLITS_OF_ONE.get(line["patient"], "train")} for line in lines],
         "every patient of the validation split has Spot"),
    ],
)  # fmt: skip
def test_a_manifest_that_cannot_be_used_is_refused_in_one_line_without_a_file_name(
    manifest, tmp_path, change, words
) -> None:
    with manifest.open(newline="") as file:
        lines = list(csv.DictReader(file))
    changed = change(lines)
    path = written(tmp_path, changed or [{"file": "", "labels": ""}])
    if not changed:
        path.write_text("file,labels\n")
    code, output = run(
        "models", "train", path, "--images", manifest.parent, *OPTIONS, *SMALL, "--out", tmp_path / "out"
    )
    assert code == 1 and words in output and "Miller" not in output
    assert len(output.strip().splitlines()) == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("architecture", ["convnext_atto", "mobilenetv3_small_050"])
def test_a_network_whose_head_sees_more_than_a_mean_is_refused_before_any_image_is_read(
    manifest: Path, tmp_path: Path, architecture: str
) -> None:
    code, output = run(
        "models", "train", manifest, *OPTIONS, "--architecture", architecture, "--epochs", 1, "--out", tmp_path / "out"
    )
    assert code == 1 and "cannot be trained here" in output and "resnet18" in output and "batch" not in output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (("--modality", "QQ"), "modality QQ is none of DICOM's for images"),
        (("--model", "x y"), "name must be letters, digits"),
        (("--version", "1/2"), "version must be letters, digits"),
        (("--licence", ""), "licence is empty"),
        (("--size", 0), "contract.height and contract.width must lie between"),
        (("--licence", "\U0001f600"), "what no TOML file can hold"),
        (("--set", "block_args=null"), "what no TOML file can hold"),
        (("--model", "x y", "--modality", "QQ"), "name must be letters, digits and . _ + - (at most 64); modality QQ"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(map(ascii, value)),
)  # fmt: skip
def test_a_card_that_registration_would_refuse_is_refused_before_any_image_is_read(
    manifest: Path, tmp_path: Path, wrong: tuple[str, ...], words: str
) -> None:
    unread = [
        {"file": path.name, "labels": "Spot" if "7" in path.name else ""} for path in manifest.parent.glob("*.png")
    ]
    for line in unread:  # a picture that is none: reading the first would say so
        (tmp_path / line["file"]).write_bytes(b"no picture")
    code, output = run(
        "models", "train", written(tmp_path, unread), *OPTIONS, *SMALL, *wrong, "--out", tmp_path / "out"
    )
    assert code == 1 and words in output and "decoded" not in output and len(output.strip().splitlines()) == 1
    assert "the new model could not be registered" in output and not (tmp_path / "out").exists()


@pytest.mark.parametrize("epochs", [0, -1])
def test_no_epoch_is_a_mistake_of_usage(manifest: Path, tmp_path: Path, epochs: int) -> None:
    code, output = run("models", "train", manifest, *OPTIONS, *SMALL, "--epochs", epochs, "--out", tmp_path / "out")
    assert code == 2 and "--epochs" in output and not (tmp_path / "out").exists()


def test_a_temperature_at_its_bound_is_warned_of_in_the_output_and_on_the_card(manifest: Path, tmp_path: Path) -> None:
    """Held-out labels say the opposite: the less the answers depend on the images, the better, whatever was learnt."""
    with manifest.open(newline="") as file:
        lines = list(csv.DictReader(file))
    for number, line in enumerate(lines):
        line |= {"split": ("train", "train", "train", "validation", "test")[number // 2 % 5], "boxes": ""}
        if line["split"] != "train":
            line["labels"] = "" if line["labels"] else "Spot"
    path, out = written(tmp_path, lines), ("--epochs", 2, "--out", tmp_path)
    code, output = run("models", "train", path, "--images", manifest.parent, *OPTIONS, *SMALL, *out)
    assert code == 0, output
    assert json.loads((tmp_path / "spots-1.json").read_text())["temperature"] == 8
    said = "The temperature ended at its bound (8; looked for between 0.25 and 8)"
    assert f"spots: {said}" in output and f"**{said}" in (tmp_path / "spots-1.md").read_text()


@pytest.mark.parametrize(
    ("temperature", "warned"), [(0.25, True), (0.26, False), (1.0, False), (7.9, False), (8, True)]
)
def test_only_the_bounds_are_warned_of(temperature: float, warned: bool) -> None:
    assert bool(temperature_warning(temperature)) is warned


@pytest.mark.parametrize("architecture", TRAINABLE)
def test_each_network_that_is_named_as_one_that_works_does(architecture: str) -> None:
    known = replace(entry("demo-chest-xray"), architecture=architecture, options={}, contract=InputContract(64, 64))
    require_pooled_head(build(known), known)


def test_training_itself_refuses_such_a_network(tmp_path: Path) -> None:
    known = replace(entry("demo-chest-xray"), architecture="convnext_atto", options={}, contract=InputContract(64, 64))
    images, classes = np.zeros((2, 1, 64, 64), np.float16), np.zeros((2, len(known.classes)), np.float32)
    nothing = TrainingSet(images, classes, classes, np.zeros((2, len(known.classes), 2, 2), np.uint8))
    with pytest.raises(ModelError, match="cannot be trained here"):
        fit(known, nothing, Schedule(1), seed=0)


def test_a_patient_without_the_finding_in_one_picture_still_has_it(manifest: Path) -> None:
    rows = [
        replace(row, split=SPLITS_OF_ONE.get(row.group, "train")) for row in read_manifest(manifest, manifest.parent)
    ]
    first = next(row for row in rows if row.group == "P4")
    rows = [replace(row, labels=(), boxes=()) if row is first else row for row in rows]
    with pytest.raises(ManifestRefused, match="every patient of the validation split has Spot"):
        check_rows(rows, ("Spot",), multi_label=True)
    check_rows([replace(row, split="validation") if row.group == "P9" else row for row in rows], ("Spot",), True)


def test_a_picture_that_is_none_is_named_by_its_line(manifest: Path, tmp_path: Path) -> None:
    rows = read_manifest(manifest, manifest.parent)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    from medai_pipeline.manifest_training import _sample

    with pytest.raises(ManifestRefused, match=r"line 7: the picture cannot be decoded"):
        _sample(replace(rows[0], line=7, path=broken), entry("demo-brain-mr"), 0, 16)


def test_with_multi_class_an_image_has_exactly_one_label(manifest: Path) -> None:
    rows = read_manifest(manifest, manifest.parent)
    with pytest.raises(ManifestRefused, match="exactly one label"):
        check_rows(rows, ("Spot",), multi_label=False)


def test_the_command_asks_for_what_it_needs(manifest: Path) -> None:
    assert "give a MANIFEST, or --demo" in run("models", "train")[1]
    assert "--modality" in run("models", "train", manifest)[1]
