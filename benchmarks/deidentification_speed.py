"""De-identifying 300 CT slices of 512x512 on one core: ours beside other tools, as ratios, in one run on the same files.

    python benchmarks/deidentification_speed.py --peers-python PEERS/bin/python [--slices 300] [--rounds 5]

Each contestant is a process of its own pinned to one core: it reads each file, de-identifies it and writes a file. Imports
are not counted; wall clock and CPU seconds of the loop are. The order is turned by one each round; medians are printed.
PEERS is an environment apart: pip install deid dicognito dicom-anonymizer. `dcmodify` (dcmtk) changes five values in place
and `file copy` changes nothing: both are floors, not de-identifiers. `medai_pipeline` is the pipeline's own step, which is
given the SHA-256 of the file (it was made at the fetch); `and SHA-256` makes it here, as the command line does. A tool that is missing is skipped by name.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from deid_score import tools
from deid_score.standard import load

from medai_pipeline.memory import keep_buffers

ROOT = Path(__file__).resolve().parents[1]
OURS, COPY, DCMODIFY, PYDICOM = "medai_pipeline", "file copy", "dcmodify", "pydicom pass"
HASHING = "medai_pipeline, and SHA-256"  # as `medai deidentify`; the pipeline has the digest from the fetch
SCREENED = "medai_pipeline, pixels screened"
OWN = (COPY, OURS, HASHING, SCREENED)
CONTESTANTS = (*OWN, DCMODIFY, PYDICOM, *tools.PEERS)


class Spent(NamedTuple):
    """Seconds of one pass over all files."""

    wall: float
    cpu: float


def main() -> None:
    arguments = _arguments()
    if arguments.child:
        return child(arguments.child[0], Path(arguments.child[1]), Path(arguments.child[2]))
    with tempfile.TemporaryDirectory(prefix="medai-speed-", dir=arguments.folder) as folder:
        source = Path(folder) / "in"
        make_slices(source, arguments.slices)
        recipe = Path(folder) / "recipe.dicom"
        recipe.write_text(tools.deid_recipe(load(arguments.standard)))
        spent = measure(source, Path(folder) / "out", recipe, arguments)
    print_table(spent, arguments.slices)


def measure(source: Path, out: Path, recipe: Path, arguments: argparse.Namespace) -> dict[str, list[Spent]]:
    names = [name for name in CONTESTANTS if name not in arguments.without]
    spent: dict[str, list[Spent]] = defaultdict(list)
    for number in range(arguments.rounds):
        for name in [*names[number % len(names) :], *names[: number % len(names)]]:
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            try:
                seconds = run(name, source, out, recipe, arguments)
            except tools.Missing as missing:
                print(f"skipped: {missing}")
                names = [other for other in names if other != name]
                continue
            spent[name].append(seconds)
    return spent


def run(name: str, source: Path, out: Path, recipe: Path, arguments: argparse.Namespace) -> Spent:
    pinned = ["taskset", "-c", str(arguments.core)]
    if name == DCMODIFY:
        return _dcmodify(source, out, pinned)
    if name in OWN:
        command = [*pinned, sys.executable, __file__, "--child", name, str(source), str(out)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise tools.Missing(f"{name}: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
        return _checked(name, json.loads(done.stdout.splitlines()[-1]), out, source)
    if arguments.peers_python is None:
        raise tools.Missing(f"{name}: no Python given (--peers-python)")
    report = tools.run_peer(name, arguments.peers_python, source, out, recipe, pinned)
    return _checked(name, report, out, source)


def _checked(name: str, report: dict, out: Path, source: Path) -> Spent:
    written, wanted = len(list(out.iterdir())), len(list(source.iterdir()))
    if written != wanted:
        raise tools.Missing(f"{name}: wrote {written} of {wanted} files {report.get('errors', '')}")
    return Spent(report["seconds"], report["cpu"])


def _dcmodify(source: Path, out: Path, pinned: list[str]) -> Spent:
    """Five values of each file in one call; the copies that it changes are made before, uncounted."""
    if shutil.which("dcmodify") is None:
        raise tools.Missing("dcmodify: apt-get install dcmtk")
    copies = [shutil.copyfile(path, out / path.name) for path in sorted(source.iterdir())]
    names = ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "StudyDate")
    changes = [word for name in names for word in ("-ma", f"{name}=")]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    subprocess.run([*pinned, "dcmodify", "-nb", "-q", *changes, *map(str, copies)], check=True, capture_output=True)
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Spent(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def child(name: str, source: Path, out: Path) -> None:
    work = _work(name)
    if name != COPY:
        keep_buffers()  # as the command line and the workers do
    files = sorted(source.iterdir())
    began, cpu = time.perf_counter(), time.process_time()
    for path in files:
        (out / path.name).write_bytes(work(path.read_bytes()))
    print(json.dumps({"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}))


def _work(name: str) -> Callable[[bytes], bytes]:
    from deid_score import ours

    if name == COPY:
        return lambda data: data
    if name == SCREENED:
        return ours.screened()
    return ours.hashing() if name == HASHING else ours.given_digest()


def make_slices(folder: Path, count: int) -> None:
    """Phantom CT slices of 512x512: some are rendered, and written again under further SOP Instance UIDs."""
    from medai_pipeline.phantoms.identity import uid
    from medai_pipeline.phantoms.studies import make_study, to_bytes

    folder.mkdir()
    rendered = make_study("chest-ct", 9300, slices=min(count, 20), rows=512, columns=512).datasets
    for number in range(count):
        ds = rendered[number % len(rendered)]
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid(9300, "slice", number)
        ds.InstanceNumber = number + 1
        (folder / f"IM{number:04d}.dcm").write_bytes(to_bytes(ds))


def print_table(spent: dict[str, list[Spent]], slices: int) -> None:
    """Medians: milliseconds a slice, and how many times our time each contestant takes."""
    wall = {name: statistics.median(s.wall for s in all_of) for name, all_of in spent.items()}
    cpu = {name: statistics.median(s.cpu for s in all_of) for name, all_of in spent.items()}
    print(f"{'':<34} {'ms a slice':>10} {'CPU ms':>8} {'x ours':>8} {'x ours, CPU':>12}   (wall: least to most)")
    for name in sorted(wall, key=wall.__getitem__):
        ratio = f"{wall[name] / wall[OURS]:>8.2f} {cpu[name] / cpu[OURS]:>12.2f}" if OURS in wall else ""
        every = [s.wall / slices * 1000 for s in spent[name]]
        row = f"{name:<34} {wall[name] / slices * 1000:>10.2f} {cpu[name] / slices * 1000:>8.2f} {ratio}"
        print(f"{row}   ({min(every):.2f} to {max(every):.2f})")


def _arguments() -> argparse.Namespace:
    data = Path(os.environ.get("MEDAI_TEST_DATA", ROOT.parent / "shared" / "data"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="the core all are pinned to")
    parser.add_argument("--standard", type=Path, default=data / "standard", help="folder of the tables of PS3.15")
    parser.add_argument("--peers-python", help="the Python of an environment with the peers")
    parser.add_argument("--without", nargs="*", default=[], choices=CONTESTANTS, help="contestants to leave out")
    parser.add_argument("--folder", help="where the files are written (default: the system's temporary folder)")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
