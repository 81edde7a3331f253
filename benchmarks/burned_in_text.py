"""Score of burned-in text: recall on planted identity words, false masks on clean pictures, milliseconds a picture.

    python benchmarks/burned_in_text.py [--only planted] [--images 40] [--seed 2000] [--compressed] [--data FOLDER]
    python benchmarks/burned_in_text.py --only planted --images 125 --processes 2 --results rows.jsonl --pictures DIR

A planted word counts as removed when masks cover its ink's box, or at least 95 % of it and the reader, shown the result,
does not read it there any more. A clean picture counts as falsely masked when it has any mask, or goes no further; half of them have
markers, scales and technique. With --data the real files of that folder are screened too: `cxr` and `dicom` as clean ones.

Intervals are exact ones of 95 % (Clopper and Pearson). --results keeps one line for each picture, so that a run that was
cut off goes on where it was (with the same code only), and several runs make one figure. --pictures keeps what went wrong,
with its masks drawn, for a person to look at. Times are CPU of one core.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import pydicom

from medai_pipeline.burned_in.pictures import picture_of
from medai_pipeline.burned_in.reading import lines_of
from medai_pipeline.burned_in.screen import Screened, Screener
from medai_pipeline.burned_in.words import fold
from medai_pipeline.dicom.image import Image
from medai_pipeline.errors import MedaiError
from medai_pipeline.phantoms.burned_in_images import BURNED_IN_KINDS, BurnedInImage, BurnedWord, make_burned_in
from medai_pipeline.phantoms.studies import make_study, to_bytes

COVERED = 0.95
SYNTAXES = (pydicom.uid.RLELossless, pydicom.uid.JPEGLSLossless, pydicom.uid.JPEG2000Lossless)
CLEAN = tuple(f"{kind} {how}" for how in ("with markers", "without") for kind in ("film", "ct", "mr", "ultrasound"))
STUDIES = ("chest-ct", "brain-mr", "chest-xray")
Boxes = tuple[tuple[int, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Job:
    """One picture (or, of STUDIES, one study) to make and screen."""

    part: str  # planted, clean or study
    kind: str
    seed: int
    compressed: bool = False
    lines: int | None = None  # that identify, of a planted picture; None: one to five


@dataclass(slots=True)
class Row:
    """What came of one job. `notes`: each word that was missed, or why the picture went no further."""

    job: Job
    images: int = 0
    words: int = 0
    removed: int = 0
    harmless: int = 0
    harmless_kept: int = 0
    masked: int = 0
    quarantined: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return self.removed < self.words if self.job.part == "planted" else self.masked > 0


def screened(screener: Screener, data: bytes, row: Row) -> Screened | None:
    """The result, timed; None when the picture was quarantined."""
    began = time.process_time()
    try:
        return screener.screen(data)
    except MedaiError as error:
        row.quarantined += 1
        row.notes.append(error.reason)
        return None
    finally:
        row.images += 1
        row.seconds += time.process_time() - began


def coverage(box: tuple[int, int, int, int], masks: Boxes) -> float:
    x0, y0, x1, y1 = box
    inside = np.zeros((y1 - y0, x1 - x0), bool)
    for a0, b0, a1, b1 in masks:
        inside[max(0, b0 - y0) : max(0, b1 - y0), max(0, a0 - x0) : max(0, a1 - x0)] = True
    return float(inside.mean())


def done(job: Job, pictures: Path | None) -> Row:
    """The row of one job, made in whatever process this runs in."""
    row, screener = Row(job), Screener()  # one for all slices of a study
    for name, data, made in sources(job):
        before = row.removed - row.words, row.masked
        result = screened(screener, data, row)
        if job.part == "planted" and made:
            score_words(made, result, row)
        elif result is None or result.masks:
            row.masked += 1
        if pictures and (row.removed - row.words, row.masked) != before:
            keep_picture(pictures / f"{name}.png", data, result)
    return row


def sources(job: Job) -> Iterator[tuple[str, bytes, BurnedInImage | None]]:
    """(name, file, truth) of each picture of a job."""
    if job.part == "study":
        slices = {} if job.kind == "chest-xray" else {"slices": 24}
        for number, dataset in enumerate(make_study(job.kind, job.seed, rows=512, columns=512, **slices).datasets):
            yield f"{job.kind}-{job.seed}-{number}", to_bytes(dataset), None
        return
    if job.part == "planted":
        made = make_burned_in(job.kind, job.seed, machine_fonts=True, lines=job.lines)
    else:
        kind, _, how = job.kind.partition(" ")
        made = make_burned_in(kind, job.seed, identity=False, markers=how != "without", machine_fonts=True)
    if job.compressed:
        made.dataset.compress(SYNTAXES[job.seed % len(SYNTAXES)], generate_instance_uid=False)
    yield f"{job.part}-{job.kind.replace(' ', '-')}-{job.seed}", to_bytes(made.dataset), made


def score_words(made: BurnedInImage, result: Screened | None, row: Row) -> None:
    words = [word for word in made.words if not word.identity or len(fold(word.text)) > 1]
    if result is None:  # it goes no further: nothing of it leaves, markers neither
        identity = sum(word.identity for word in words)
        row.words, row.removed = row.words + identity, row.removed + identity
        return
    masks = result.masks.get(1, ())
    shares = [coverage(word.box, masks) for word in words]
    in_part = [word for word, share in zip(words, shares, strict=True) if word.identity and COVERED <= share < 1]
    again = read_again(result.data) if in_part else []
    for word, share in zip(words, shares, strict=True):
        if word.identity:
            score_word(word, share, again, row)
        else:
            row.harmless += 1
            row.harmless_kept += share < 0.5


def score_word(word: BurnedWord, share: float, again: list[tuple[tuple[int, int, int, int], str]], row: Row) -> None:
    row.words += 1
    legible = any(fold(word.text) in text and coverage(word.box, (box,)) > 0.3 for box, text in again)
    if share >= COVERED and not legible:
        row.removed += 1
    else:
        row.notes.append(f"{word.text} {word.box} {word.style} covered {share:.2f}{' legible' * legible}")


def read_again(data: bytes) -> list[tuple[tuple[int, int, int, int], str]]:
    """What the reader makes of the file as it leaves."""
    image = Image.of(data)
    return [(line.box, fold(line.text)) for line in lines_of(picture_of(image, image.stored(1))) if line.read >= 0.5]


def keep_picture(path: Path, data: bytes, result: Screened | None) -> None:
    """The picture as it came, and beside it with what was masked outlined."""
    image = Image.of(data)
    picture = picture_of(image, image.stored(1))
    picture = np.array(picture if picture.ndim == 3 else np.repeat(picture[..., np.newaxis], 3, axis=2))
    outlined = picture.copy()
    for x0, y0, x1, y1 in result.masks.get(1, ()) if result else ():
        cv2.rectangle(outlined, (x0, y0), (x1, y1), (0, 0, 255), 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.hstack([picture, outlined]))


# Many jobs: several processes, one line for each in a file.


def code_digest() -> str:
    """Of everything that decides, so that rows of different code are not added up."""
    room = files("medai_pipeline.burned_in")
    names = sorted(path.name for path in room.iterdir() if path.is_file())
    return hashlib.sha256(b"".join(room.joinpath(name).read_bytes() for name in names)).hexdigest()[:16]


def rows_of(jobs: list[Job], processes: int, results: Path | None, pictures: Path | None) -> list[Row]:
    """A row for each job: those that `results` has, and the others made now and written there."""
    rows = earlier(results) if results else {}
    left = [job for job in jobs if job not in rows]
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(processes)) if processes > 1 else None
        work = partial(done, pictures=pictures)
        for number, row in enumerate(pool.imap_unordered(work, left) if pool else map(work, left), 1):
            rows[row.job] = row
            if results:
                with results.open("a") as file:
                    file.write(json.dumps({"code": code_digest(), **dataclasses.asdict(row)}) + "\n")
            if row.notes or row.failed:
                print(f"    {row.job.kind} {row.job.seed}: {'; '.join(row.notes) or 'masked'}", flush=True)
            if number % 20 == 0:
                print(f"    {number} of {len(left)}", file=sys.stderr, flush=True)
    parts = {job.part for job in jobs}
    return [row for job, row in rows.items() if job.part in parts]


def earlier(results: Path) -> dict[Job, Row]:
    rows = {}
    for line in results.read_text().splitlines() if results.exists() else ():
        if not line.endswith("}"):
            continue  # cut off while it was written
        values = json.loads(line)
        if values.pop("code") != code_digest():
            raise SystemExit(f"{results} has rows of other code; name another file with --results")
        row = Row(**{**values, "job": Job(**values["job"])})
        rows[row.job] = row
    return rows


# What is printed.


def interval(hits: int, count: int) -> tuple[float, float]:
    """The exact interval of 95 % (Clopper and Pearson) of a share, in percent."""
    from scipy.stats import beta

    low = beta.ppf(0.025, hits, count - hits + 1) if hits else 0.0
    high = beta.ppf(0.975, hits + 1, count - hits) if hits < count else 1.0
    return 100 * float(low), 100 * float(high)


def share(hits: int, count: int) -> str:
    low, high = interval(hits, count)
    return f"{100 * hits / max(1, count):.2f} % ({hits} of {count}; 95 % interval {low:.2f} to {high:.2f} %)"


def total(rows: Iterable[Row], name: str) -> int:
    return sum(getattr(row, name) for row in rows)


def by_kind(rows: list[Row], line: Callable[[list[Row]], str]) -> None:
    for kind in dict.fromkeys(row.job.kind for row in sorted(rows, key=lambda row: row.job.kind)):
        some = [row for row in rows if row.job.kind == kind]
        milliseconds = 1000 * sum(row.seconds for row in some) / max(1, total(some, "images"))
        print(f"{kind:24} {line(some)}, {milliseconds:.1f} ms a picture", flush=True)


def planted(rows: list[Row]) -> None:
    by_kind(
        rows,
        lambda some: (
            f"{total(some, 'removed')}/{total(some, 'words')} identity words removed,"
            f" {total(some, 'harmless_kept')}/{total(some, 'harmless')} harmless words kept, {total(some, 'quarantined')} quarantined"
        ),
    )
    print(f"recall {share(total(rows, 'removed'), total(rows, 'words'))} of identity words")


def clean(rows: list[Row], name: str) -> None:
    by_kind(rows, lambda some: f"{total(some, 'masked')}/{total(some, 'images')} falsely masked")
    print(f"{name}: false masks on {share(total(rows, 'masked'), total(rows, 'images'))}")


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
    for name, found in (
        ("cxr", ((path, as_dicom(path)) for path in sorted((folder / "cxr").rglob("*.png")))),
        ("dicom", ((path, path.read_bytes()) for path in files)),
    ):
        row = Row(Job("real", name, 0))
        for path, data in found:
            try:
                Image.of(data)
            except MedaiError:
                continue  # no image, or one that nothing here decodes
            result = screened(Screener(), data, row)
            if result is None or result.masks:
                row.masked += 1
                shown = "quarantined" if result is None else f"{len(next(iter(result.masks.values())))} masks"
                print(f"    {name}/{path.name} {hashlib.sha256(data).hexdigest()[:12]}: {shown}", flush=True)
        clean([row], name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=40, help="of each kind (default %(default)s)")
    parser.add_argument("--seed", type=int, default=2000, help="of the first one (default %(default)s)")
    parser.add_argument(
        "--compressed", action="store_true", help="plant into RLE, JPEG-LS and JPEG 2000 lossless files"
    )
    parser.add_argument("--lines", type=int, help="that identify, in each planted picture (default: one to five)")
    parser.add_argument("--only", choices=("planted", "clean", "studies", "slices", "real"))
    parser.add_argument("--data", type=Path, help="folder with the real files")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--results", type=Path, help="one line for each picture; what it has is not made again")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of what went wrong")
    chosen = parser.parse_args()
    seeds = range(chosen.seed, chosen.seed + chosen.images)
    some = range(chosen.seed, chosen.seed + max(1, chosen.images // 10))
    jobs = {
        "planted": [
            Job("planted", kind, seed, chosen.compressed, chosen.lines) for seed in seeds for kind in BURNED_IN_KINDS
        ],
        "clean": [Job("clean", kind, seed) for seed in seeds for kind in CLEAN],
        "studies": [Job("study", kind, seed) for seed in some for kind in STUDIES],
    }
    show = {"planted": planted, "clean": partial(clean, name="pictures"), "studies": partial(clean, name="studies")}
    if chosen.only in (None, "slices"):
        plain_slices(chosen.seed)
    for part, wanted in jobs.items():
        if chosen.only in (None, part):
            show[part](rows_of(wanted, chosen.processes, chosen.results, chosen.pictures))
    if chosen.data and chosen.only in (None, "real"):
        real(chosen.data)


if __name__ == "__main__":
    main()
