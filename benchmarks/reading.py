"""A CT of 300 slices from files to normalized images: ours beside MONAI's LoadImage and SimpleITK's series reader.

    python benchmarks/reading.py [--slices 300] [--runs 3] [--syntax native|rle|jpeg-ls|jpeg2000] [--peers-python PATH]

All read the same files on one core, each in a process of its own, in turns; imports are not counted. The peers only read
(MONAI to float32); ours also sorts by geometry, checks that files are whole, applies the Modality LUT and a window and
gives float32 in [0, 1] at full size, one slice after the other. The floor reads the files and converts the pixel bytes to
float32. Memory is the growth of the resident set while reading. Peers are looked for in --peers-python (default: this
Python) and left out by name when they are not installed there:

    python -m venv peers && peers/bin/pip install monai itk SimpleITK pydicom torch
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
SYNTAXES = {"rle": "1.2.840.10008.1.2.5", "jpeg-ls": "1.2.840.10008.1.2.4.80", "jpeg2000": "1.2.840.10008.1.2.4.90"}
NOT_INSTALLED = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--syntax", choices=["native", *SYNTAXES], default="native")
    parser.add_argument("--peers-python", default=sys.executable)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return child(arguments.child[0], Path(arguments.child[1]))
    with tempfile.TemporaryDirectory(prefix="medai-bench-") as folder:
        make_series(Path(folder), arguments.slices, arguments.syntax)
        results = measure(Path(folder), arguments.runs, arguments.peers_python)
    show(results, arguments.slices)


def make_series(folder: Path, slices: int, syntax: str) -> None:
    """A chest CT of 512x512, its files named in an order that is not the patient's."""
    from medai_pipeline.phantoms.studies import make_study, to_bytes

    made = make_study("chest-ct", 6, slices=min(slices, 24), rows=512, columns=512).datasets
    for number in range(slices):
        slice_ = copy.deepcopy(made[number % len(made)])
        slice_.InstanceNumber = number + 1
        slice_.SOPInstanceUID = slice_.file_meta.MediaStorageSOPInstanceUID = f"2.25.77{number}"
        x, y, _ = slice_.ImagePositionPatient
        slice_.ImagePositionPatient = [x, y, number - 100]
        if syntax in SYNTAXES:
            slice_.compress(SYNTAXES[syntax], generate_instance_uid=False)
        (folder / f"{number * 7 % slices:05d}-{number}.dcm").write_bytes(to_bytes(slice_))


def measure(folder: Path, runs: int, peers_python: str) -> dict[str, list[dict[str, Any]]]:
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTESTANTS}
    missing: set[str] = set()
    for _ in range(runs):
        for name, (_, peer) in CONTESTANTS.items():
            if name in missing:
                continue
            found = run(name, folder, peers_python if peer else sys.executable)
            if found is None:
                missing.add(name)
                print(f"{name}: not installed in {Path(peers_python).name}, left out (see --peers-python)")
            else:
                results[name].append(found)
    return {name: values for name, values in results.items() if values}


def run(name: str, folder: Path, python: str) -> dict[str, Any] | None:
    environment = {**os.environ, **dict.fromkeys(ONE_THREAD, "1")}
    done = subprocess.run(
        [python, __file__, "--child", name, str(folder)], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode == NOT_INSTALLED:
        return None
    if done.returncode:
        raise SystemExit(f"{name} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def show(results: dict[str, list[dict[str, Any]]], slices: int) -> None:
    medians = {name: statistics.median(r["seconds"] for r in runs) for name, runs in results.items()}
    ours = medians[OURS]
    print(f"{slices} slices of 512x512, one core; medians of {len(results[OURS])} runs")
    print(f"{'':<44}{'ms a slice':>12}{'to the floor':>14}{'ours is faster':>16}{'memory, MB':>12}")
    for name, seconds in sorted(medians.items(), key=lambda pair: pair[1]):
        memory = statistics.median(r["growth_mb"] for r in results[name])
        faster = "" if name == OURS else f"{seconds / ours:.1f} x"
        print(f"{name:<44}{1000 * seconds / slices:>12.2f}{seconds / medians[FLOOR]:>14.1f}{faster:>16}{memory:>12.1f}")


# the contestants, each in its own process --------------------------------------------------------------------


def child(name: str, folder: Path) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    try:
        work = CONTESTANTS[name][0](folder)
    except ImportError:
        sys.exit(NOT_INSTALLED)
    before = resident_mb("VmRSS")
    began = time.perf_counter()
    pixels = work()
    seconds = time.perf_counter() - began
    if pixels != len(list(folder.iterdir())) * 512 * 512:
        raise SystemExit(f"{name} read {pixels} pixels")
    print(json.dumps({"seconds": seconds, "growth_mb": resident_mb("VmHWM") - before}))


def resident_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def ours(folder: Path) -> Callable[[], int]:
    import cv2

    from medai_pipeline.dicom.attributes import Attributes
    from medai_pipeline.dicom.pixels import prepare
    from medai_pipeline.dicom.read import check_whole
    from medai_pipeline.dicom.row import instance_row
    from medai_pipeline.dicom.series import sort_series
    from medai_pipeline.records import InputContract

    cv2.setNumThreads(1)
    contract = InputContract(512, 512, scaling="ct-chest")

    def row(path: Path):
        # In the pipeline the row comes with the de-identified file; here it is made, which costs a pass over the headers.
        part = check_whole(path.read_bytes())
        return instance_row(Attributes(part.elements), lambda uid, tag: uid, part.transfer_syntax, path.name)

    def work() -> int:
        pixels = 0
        for instance in sort_series(map(row, folder.iterdir())):
            for tensor, _ in prepare((folder / instance.source_sha256).read_bytes(), instance, contract):
                pixels += tensor.size
        return pixels

    return work


def simpleitk(folder: Path) -> Callable[[], int]:
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)

    def work() -> int:
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
        return sitk.GetArrayFromImage(reader.Execute()).size

    return work


def monai(reader: str) -> Callable[[Path], Callable[[], int]]:
    def prepared(folder: Path) -> Callable[[], int]:
        from monai.transforms import LoadImage

        load = LoadImage(reader=reader, image_only=True)
        return lambda: load(str(folder)).numel()

    return prepared


def pydicom_arrays(folder: Path) -> Callable[[], int]:
    import numpy as np
    import pydicom

    def work() -> int:
        return sum(pydicom.dcmread(path).pixel_array.astype(np.float32).size for path in folder.iterdir())

    return work


def floor(folder: Path) -> Callable[[], int]:
    import numpy as np

    def work() -> int:
        pixels = 0
        for path in folder.iterdir():
            data = path.read_bytes()
            count = min(512 * 512, len(data) // 2)
            np.frombuffer(data, np.uint16, count, len(data) - 2 * count & ~1).astype(np.float32)
            pixels += 512 * 512
        return pixels

    return work


OURS = "medai_pipeline, read and normalized"
FLOOR = "read bytes, convert to float32"
CONTESTANTS: dict[str, tuple[Callable[[Path], Callable[[], int]], bool]] = {
    FLOOR: (floor, False),
    OURS: (ours, False),
    "pydicom pixel_array, float32": (pydicom_arrays, False),
    "SimpleITK ImageSeriesReader": (simpleitk, True),
    "MONAI LoadImage, PydicomReader": (monai("PydicomReader"), True),
    "MONAI LoadImage, ITKReader": (monai("ITKReader"), True),
}

if __name__ == "__main__":
    main()
