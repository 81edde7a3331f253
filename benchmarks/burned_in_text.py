"""Score of burned-in text: recall on planted identity words, false masks on clean images, milliseconds an image.

    python benchmarks/burned_in_text.py [--images 40] [--seed 2000] [--compressed] [--data FOLDER]

A planted word counts as removed when masks cover at least 95 % of its ink's box and the reader, shown the result, does not
read it there any more. A clean image counts as falsely masked when it has any mask. With --data the real files of that
folder are screened too: `cxr` and `dicom` as clean ones (what is masked is listed by digest, for a person to look at).
Times are of the process on one core; set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom

from medai_pipeline.burned_in.reading import lines_of
from medai_pipeline.burned_in.screen import Screened, Screener
from medai_pipeline.burned_in.words import fold
from medai_pipeline.dicom.image import Image
from medai_pipeline.errors import MedaiError
from medai_pipeline.phantoms.burned_in_images import BURNED_IN_KINDS, BurnedInImage, make_burned_in
from medai_pipeline.phantoms.studies import make_study, to_bytes

COVERED = 0.95
SYNTAXES = (pydicom.uid.RLELossless, pydicom.uid.JPEGLSLossless, pydicom.uid.JPEG2000Lossless)


@dataclass
class Tally:
    """Counts of one kind of image."""

    images: int = 0
    words: int = 0
    removed: int = 0
    harmless: int = 0
    harmless_kept: int = 0
    masked_images: int = 0
    quarantined: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def milliseconds(self) -> float:
        return 1000 * self.seconds / max(1, self.images)


def screened(screener: Screener, data: bytes, tally: Tally) -> Screened | None:
    """The result, timed; None when the image was quarantined."""
    began = time.process_time()
    try:
        return screener.screen(data)
    except MedaiError as error:
        tally.quarantined += 1
        tally.notes.append(error.reason)
        return None
    finally:
        tally.images += 1
        tally.seconds += time.process_time() - began


def coverage(box: tuple[int, int, int, int], masks: tuple[tuple[int, int, int, int], ...]) -> float:
    x0, y0, x1, y1 = box
    inside = np.zeros((y1 - y0, x1 - x0), bool)
    for a0, b0, a1, b1 in masks:
        inside[max(0, b0 - y0) : max(0, b1 - y0), max(0, a0 - x0) : max(0, a1 - x0)] = True
    return float(inside.mean())


def score_planted(made: BurnedInImage, data: bytes, tally: Tally) -> None:
    result = screened(Screener(), data, tally)
    words = [word for word in made.words if not word.identity or len(fold(word.text)) > 1]
    if result is None:  # it goes no further: nothing of it leaves, markers neither
        identity = sum(word.identity for word in words)
        tally.words, tally.removed = tally.words + identity, tally.removed + identity
        return
    masks = result.masks.get(1, ())
    again = read_again(result.data) if masks or any(word.identity for word in words) else []
    for word in words:
        share = coverage(word.box, masks)
        if not word.identity:
            tally.harmless += 1
            tally.harmless_kept += share < 0.5
            continue
        tally.words += 1
        legible = any(fold(word.text) in text and coverage(word.box, (box,)) > 0.3 for box, text in again)
        if share >= COVERED and not legible:
            tally.removed += 1
        else:
            tally.notes.append(f"{word.text} {word.box} {word.style} covered {share:.2f}{' legible' * legible}")


def read_again(data: bytes) -> list[tuple[tuple[int, int, int, int], str]]:
    from medai_pipeline.burned_in.pictures import picture_of

    image = Image.of(data)
    return [(line.box, fold(line.text)) for line in lines_of(picture_of(image, image.stored(1))) if line.read >= 0.5]


def planted(images: int, seed: int, compressed: bool) -> None:
    total = Tally()
    for kind in BURNED_IN_KINDS:
        tally = Tally()
        for number in range(seed, seed + images):
            made = make_burned_in(kind, number, machine_fonts=True)
            if compressed:
                made.dataset.compress(SYNTAXES[number % len(SYNTAXES)], generate_instance_uid=False)
            score_planted(made, to_bytes(made.dataset), tally)
            if tally.notes:
                print(f"    {kind} {number}: {'; '.join(tally.notes)}", flush=True)
                tally.notes.clear()
        print(
            f"{kind:11} {tally.removed}/{tally.words} identity words removed, {tally.harmless_kept}/{tally.harmless} harmless"
            f" words kept, {tally.quarantined} quarantined, {tally.milliseconds:.0f} ms an image",
            flush=True,
        )
        total.words, total.removed = total.words + tally.words, total.removed + tally.removed
    print(f"recall {100 * total.removed / max(1, total.words):.2f} % of {total.words} identity words")


def clean_studies(images: int, seed: int) -> Iterator[tuple[str, list[bytes]]]:
    for kind in ("film", "ct", "mr", "ultrasound"):
        made = (
            make_burned_in(kind, number, identity=False, machine_fonts=True) for number in range(seed, seed + images)
        )
        yield f"{kind} with markers", [to_bytes(image.dataset) for image in made]
    for kind in ("chest-ct", "brain-mr", "chest-xray"):
        for number in range(seed, seed + max(1, images // 10)):
            study = make_study(kind, number, rows=512, columns=512)
            yield f"{kind} study", [to_bytes(dataset) for dataset in study.datasets]


def clean(images: int, seed: int) -> None:
    tallies: dict[str, Tally] = {}
    for name, files in clean_studies(images, seed):
        tally = tallies.setdefault(name, Tally())
        screener = Screener()
        for data in files:
            result = screened(screener if "study" in name else Screener(), data, tally)
            tally.masked_images += result is None or bool(result.masks)
    for name, tally in tallies.items():
        print(f"{name:26} {tally.masked_images}/{tally.images} falsely masked, {tally.milliseconds:.1f} ms an image")
    count = sum(tally.images for tally in tallies.values())
    print(
        f"false masks on {100 * sum(t.masked_images for t in tallies.values()) / max(1, count):.2f} % of {count} images"
    )


def plain_slices(seed: int, count: int = 300) -> None:
    """A CT of `count` slices of 512 x 512 as one study, as it comes from a scanner."""
    files = [
        to_bytes(dataset) for dataset in make_study("chest-ct", seed, rows=512, columns=512, slices=count).datasets
    ]
    times, screener, masked = [], Screener(), 0
    for data in files:
        began = time.process_time()
        masked += bool(screener.screen(data).masks)
        times.append(1000 * (time.process_time() - began))
    print(
        f"CT of {count} slices: {np.median(times):.2f} ms the median slice, {np.mean(times):.2f} ms the mean,"
        f" {max(times):.0f} ms the longest; {masked} masked"
    )


def as_dicom(png: Path) -> bytes:
    import cv2

    dataset = make_study("chest-xray", 1, rows=64, columns=64).datasets[0]
    pixels = cv2.imread(str(png), cv2.IMREAD_GRAYSCALE)
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.PixelData = pixels.astype("<u2").tobytes()
    dataset.PhotometricInterpretation, dataset.BitsStored, dataset.HighBit = "MONOCHROME2", 8, 7
    return to_bytes(dataset)


def real(folder: Path) -> None:
    files = [
        path for path in sorted((folder / "dicom").rglob("*")) if path.is_file() and path.stat().st_size < 20 << 20
    ]
    for name, sources in (
        ("cxr", ((path, as_dicom(path)) for path in sorted((folder / "cxr").rglob("*.png")))),
        ("dicom", ((path, path.read_bytes()) for path in files)),
    ):
        tally = Tally()
        for path, data in sources:
            try:
                Image.of(data)
            except MedaiError:
                continue  # no image, or one that nothing here decodes
            result = screened(Screener(), data, tally)
            if result is None or result.masks:
                tally.masked_images += 1
                shown = "quarantined" if result is None else f"{len(next(iter(result.masks.values())))} masks"
                print(f"    {name}/{path.name} {hashlib.sha256(data).hexdigest()[:12]}: {shown}", flush=True)
        print(f"{name:11} {tally.masked_images}/{tally.images} masked, {tally.milliseconds:.0f} ms an image")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=40, help="of each kind (default %(default)s)")
    parser.add_argument("--seed", type=int, default=2000)
    parser.add_argument(
        "--compressed", action="store_true", help="plant into RLE, JPEG-LS and JPEG 2000 lossless files"
    )
    parser.add_argument("--only", choices=("planted", "clean", "slices", "real"))
    parser.add_argument("--data", type=Path, help="folder with the real files")
    chosen = parser.parse_args()
    if chosen.only in (None, "slices"):
        plain_slices(chosen.seed)
    if chosen.only in (None, "planted"):
        planted(chosen.images, chosen.seed, chosen.compressed)
    if chosen.only in (None, "clean"):
        clean(chosen.images, chosen.seed)
    if chosen.data and chosen.only in (None, "real"):
        real(chosen.data)


if __name__ == "__main__":
    main()
