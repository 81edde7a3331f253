"""`medai analyze` on 32 two-view chest studies: seconds and CPU seconds a study, peak memory, and where the time goes.

    python benchmarks/analyze.py [--studies 32] [--runs 3]

Each run is a new process, measured as a whole (imports included). The share is of the time inside the process after
imports: decode, inference, explanation and writing are timed around the very functions that do them; the rest is everything else
(parsing, de-identification, checks, maps, pictures, report). Machines are noisy: the median of the runs is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

TIMED = {
    "decode": [("medai_pipeline.dicom.image", "Image.frame")],
    "inference": [("medai_pipeline.models.infer", "predict")],
    "explanation": [("medai_pipeline.stages", "explain_study")],  # the pictures' decoding among it
    "writing": [("medai_pipeline.analyze", "write_file")],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=32)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return child(Path(arguments.child[0]), Path(arguments.child[1]))
    with tempfile.TemporaryDirectory(prefix="medai-bench-") as folder:
        source = Path(folder) / "studies"
        make_studies(source, arguments.studies)
        runs = [run(source, Path(folder) / f"out{n}", arguments.studies) for n in range(arguments.runs)]
    for name in runs[0]:
        values = [r[name] for r in runs]
        print(f"{name:<42} {statistics.median(values):>10.3f}   ({min(values):.3f} to {max(values):.3f})")


def make_studies(folder: Path, count: int) -> None:
    from medai_pipeline.phantoms.studies import make_study, write_study

    for seed in range(count):
        write_study(make_study("chest-xray", 9000 + seed), folder / str(seed))


def run(source: Path, out: Path, count: int) -> dict[str, float]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    environment = {**os.environ, "MEDAI_HOME": str(out.parent / "home")}
    done = subprocess.run(
        [sys.executable, __file__, "--child", str(source), str(out)],
        check=True, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    inside = json.loads(done.stdout.splitlines()[-1])
    reports = len(list(out.glob("*/report.json")))
    if reports != count:
        raise SystemExit(f"only {reports} of {count} studies were reported")
    return {
        "seconds a study (whole process)": wall / count,
        "CPU seconds a study (whole process)": (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        / count,
        "peak memory, MB": inside["peak_mb"],
        "imports, seconds": inside["imports"],
        "after imports, seconds a study": inside["work"] / count,
        **{f"  share in {name}": inside[name] / inside["work"] for name in TIMED},
        "  share outside these": 1 - sum(inside[name] for name in TIMED) / inside["work"],
    }


def child(source: Path, out: Path) -> None:
    began = time.perf_counter()
    from medai_pipeline import stages
    from medai_pipeline.analyze import OneShot, analyze
    from medai_pipeline.dicom.read import group_by_study
    from medai_pipeline.services import Services
    from medai_pipeline.settings import read_settings
    from medai_pipeline.storage.keys import SiteKeys

    settings = read_settings()
    services = Services(settings)
    stages.warm(services.inference)
    services.keys = SiteKeys.load(None, settings.key_path, create=True)
    spent = timers()
    imports = time.perf_counter() - began
    began = time.perf_counter()
    found, _ = group_by_study([source])
    job = OneShot(out, services.keys.study_key, services.deidentifier, services.inference, services.drawing)
    for outcome in analyze(found, job):
        if outcome.reason:
            raise SystemExit(outcome.reason)
    work = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**spent, "work": work, "imports": imports, "peak_mb": peak}))


def timers() -> dict[str, float]:
    """Wraps each timed function where it is looked up; returns the seconds, filled while they run."""
    import importlib

    spent: dict[str, float] = defaultdict(float)
    for name, places in TIMED.items():
        spent[name] = 0.0
        for module_name, path in places:
            holder: Any = importlib.import_module(module_name)
            *parts, function_name = path.split(".")
            for part in parts:
                holder = getattr(holder, part)
            setattr(holder, function_name, timed(getattr(holder, function_name), spent, name))
    return spent


def timed(function: Any, spent: dict[str, float], name: str) -> Any:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent[name] += time.perf_counter() - began

    return wrapper


if __name__ == "__main__":
    main()
