"""DICOM in and out, ours beside dcmtk's programs, as ratios in one run: C-GET, C-MOVE, what a C-STORE SCP takes, C-STORE out.

    python benchmarks/pacs.py [--slices 150] [--rounds 3] [--edge 512]

The other end is dcmtk in every case (dcmqrscp as the PACS, storescu as the sender, storescp as the one sent to), so that
the contestant alone changes. Contestants take turns; medians are printed. Ours runs in a process of its own whose imports
are not counted; dcmtk's start, some 10 ms, is. CPU seconds are the contestant's alone; on a loaded machine they say more
than the clock. Both write each object to a file; `ours, sealed` writes it encrypted and synced, as `medai receive` does
before it answers Success. Tags and pixels are random, so nothing is compressible.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

from medai_pipeline_tests.dcmtk import ARCHIVE, Archive, archive, program
from medai_pipeline_tests.orthanc import file_bytes, made_study

AET = "MEDAI"


class Spent(NamedTuple):
    """Seconds of one pass over all objects."""

    wall: float
    cpu: float


def main() -> None:
    arguments = _arguments()
    if arguments.child:
        return child(*arguments.child)
    with tempfile.TemporaryDirectory(prefix="medai-pacs-") as name:
        folder = Path(name)
        files, study = make_files(folder / "in", arguments.slices, arguments.edge)
        with archive(folder) as pacs:
            run([program("storescu"), "-aec", ARCHIVE, "127.0.0.1", pacs.port, "+sd", files])
            spent = measure(pacs, study, files, folder, arguments)
    print_table(spent, arguments.slices)


def make_files(folder: Path, slices: int, edge: int) -> tuple[Path, str]:
    folder.mkdir()
    datasets = made_study(slices, edge)
    for number, dataset in enumerate(datasets):
        dataset.PixelData = os.urandom(len(dataset.PixelData))
        (folder / f"{number:05}.dcm").write_bytes(file_bytes(dataset))
    return folder, str(datasets[0].StudyInstanceUID)


def measure(
    pacs: Archive, study: str, files: Path, folder: Path, arguments: argparse.Namespace
) -> dict[str, dict[str, list[Spent]]]:
    out = folder / "out"
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}"]
    there = ["-aec", ARCHIVE, "127.0.0.1", pacs.port]
    move = [program("movescu"), "-aet", AET, "-aem", AET, "+P", pacs.move_port, "-od", out, "-S", *keys, *there]
    scp = [program("storescp"), "-od", out]
    contests: dict[str, dict[str, Callable[[], Spent]]] = {
        "C-GET in": {
            "dcmtk getscu": lambda: dcmtk([program("getscu"), "-B", "-od", out, "-S", *keys, *there]),
            "ours": lambda: ours("get", pacs.port, pacs.move_port, study, out),
        },
        "C-MOVE in": {
            "dcmtk movescu": lambda: dcmtk(move),
            "ours": lambda: ours("move", pacs.port, pacs.move_port, study, out),
        },
        "C-STORE taken": {
            "dcmtk storescp": lambda: taking(lambda port: [*scp, port], files),
            "ours": lambda: taking(lambda port: own("take", port, 0, "", out), files),
            "ours, sealed": lambda: taking(lambda port: own("seal", port, 0, "", out), files),
        },
        "C-STORE out": {
            "dcmtk storescu": lambda: into_nothing(
                lambda port: dcmtk([program("storescu"), "127.0.0.1", port, "+sd", files])
            ),
            "ours": lambda: into_nothing(lambda port: ours("store", port, 0, "", files)),
        },
    }
    spent: dict[str, dict[str, list[Spent]]] = defaultdict(lambda: defaultdict(list))
    for turn in range(arguments.rounds):
        for service, contestants in contests.items():
            names = list(contestants)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                shutil.rmtree(out, ignore_errors=True)
                out.mkdir()
                spent[service][name].append(contestants[name]())
                if service != "C-STORE out":
                    came = sum(path.is_file() for path in out.rglob("*"))
                    assert came == arguments.slices, f"{service}, {name}: {came} of {arguments.slices} objects came"
    return spent


# contestants -------------------------------------------------------------------------------------------------


def dcmtk(command: list[object]) -> Spent:
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    run(command)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Spent(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def own(what: str, port: int, own_port: int, study: str, folder: Path) -> list[object]:
    return [sys.executable, __file__, "--child", what, port, own_port, study, folder]


def ours(what: str, port: int, own_port: int, study: str, folder: Path) -> Spent:
    return Spent(*json.loads(run(own(what, port, own_port, study, folder)).stdout))


def taking(command: Callable[[int], list[object]], files: Path) -> Spent:
    """What the SCP spends while dcmtk's storescu sends to it."""
    with listening(command) as (process, port):
        before, began = process.cpu_times(), time.perf_counter()
        run([program("storescu"), "-aec", AET, "127.0.0.1", port, "+sd", files])
        wall, after = time.perf_counter() - began, process.cpu_times()
    return Spent(wall, after.user + after.system - before.user - before.system)


def into_nothing(sender: Callable[[int], Spent]) -> Spent:
    with listening(lambda port: [program("storescp"), "--ignore", port]) as (_, port):
        return sender(port)


@contextmanager
def listening(command: Callable[[int], list[object]]) -> Iterator[tuple[psutil.Process, int]]:
    from medai_pipeline.local.ports import answers, free_port

    port = free_port()
    process = subprocess.Popen([str(part) for part in command(port)])
    try:
        while not answers(port):
            assert process.poll() is None, "it does not start"
            time.sleep(0.02)
        yield psutil.Process(process.pid), port
    finally:
        process.terminate()
        process.wait(timeout=20)


def run(command: list[object]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, timeout=600)


# ours, in a process of its own -------------------------------------------------------------------------------


def child(what: str, port: str, own_port: str, study: str, folder: str) -> None:
    from medai_pipeline.pacs.dimse import store
    from medai_pipeline.pacs.node import Node
    from medai_pipeline.pacs.receiver import Listening, Receiver
    from medai_pipeline.pacs.retrieve import get, move

    out = Path(folder)
    written = iter(range(10**9))

    def keep(data: bytes) -> None:
        (out / f"{next(written)}.dcm").write_bytes(data)

    node, keys = Node("127.0.0.1", int(port), ARCHIVE), {"StudyInstanceUID": study}
    if what in {"take", "seal"}:
        with Receiver(Listening(int(port)), sealing(out) if what == "seal" else keep):
            time.sleep(600)  # until it is ended
    began, cpu = time.perf_counter(), time.process_time()
    if what == "get":
        get(node, "STUDY", keys, keep, ["1.2.840.10008.5.1.4.1.1.2"])
    elif what == "move":
        with Receiver(Listening(int(own_port)), keep):
            move(node, AET, "STUDY", keys)
    else:
        assert all(result.stored for result in store(sorted(out.iterdir()), "127.0.0.1", int(port)))
    print(json.dumps([time.perf_counter() - began, time.process_time() - cpu]))


def sealing(out: Path) -> Callable[[bytes], None]:
    from medai_pipeline.incoming.spool import Spool
    from medai_pipeline.storage.objects import ObjectStore

    return Spool(ObjectStore(out, b"k" * 32)).keep


def print_table(spent: dict[str, dict[str, list[Spent]]], slices: int) -> None:
    print(f"\n{'':<16}{'':<18}{'objects/s':>10}{'CPU ms each':>13}{'clock / dcmtk':>15}{'CPU / dcmtk':>13}")
    for service, contestants in spent.items():
        base = _median(next(iter(contestants.values())))
        for name, passes in contestants.items():
            each = _median(passes)
            figures = (slices / each.wall, 1e3 * each.cpu / slices, each.wall / base.wall, each.cpu / base.cpu)
            print(
                f"{service:<16}{name:<18}{figures[0]:>10.0f}{figures[1]:>13.2f}{figures[2]:>15.2f}{figures[3]:>13.2f}"
            )


def _median(passes: list[Spent]) -> Spent:
    return Spent(*(statistics.median(values) for values in zip(*passes, strict=True)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=150)
    parser.add_argument("--edge", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
