"""Runs one peer over a folder: `python peer.py TOOL IN OUT`, by a Python that has it; nothing of medai_pipeline is imported.

Each peer as its documentation recommends for the Basic Profile; what that means stands at its function. Prints one line of
JSON: seconds, files written, and the kinds of errors.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

warnings.filterwarnings("ignore")
_FAILURES = (
    ArithmeticError,
    AttributeError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
Pass = Callable[[Path, Path], None]


def dicom_anonymizer() -> Pass:
    """Its default rules are PS3.15's Basic Profile; of its two editions the newer; private elements are deleted."""
    from dicomanonymizer.simpledicomanonymizer import anonymize_dicom_file, initialize_actions_2024b

    return lambda source, target: anonymize_dicom_file(
        str(source), str(target), delete_private_tags=True, base_rules_gen=initialize_actions_2024b
    )


def dicognito() -> Pass:
    """One Anonymizer with a seed for all files of a site, as its documentation says."""
    import pydicom
    from dicognito.anonymizer import Anonymizer

    anonymizer = Anonymizer(seed="a site's secret")

    def run(source: Path, target: Path) -> None:
        with pydicom.dcmread(source) as dataset:
            anonymizer.anonymize(dataset)
            dataset.save_as(target)

    return run


def deid() -> Pass:
    """A recipe by Table E.1-1 (RECIPE): the stock recipe removes every UID, after which no file belongs to a study.

    UIDs by its own `pydicom_uuid`, which is stable; private elements removed.
    """
    from deid.config import DeidRecipe
    from deid.dicom import replace_identifiers

    recipe = DeidRecipe(deid=str(Path(sys.argv[4])))

    def run(source: Path, target: Path) -> None:
        [dataset] = replace_identifiers(dicom_files=[str(source)], deid=recipe, remove_private=True)
        dataset.save_as(target)

    return run


def pydicom_pass() -> Pass:
    """No de-identifier: what reading and writing alone cost, with private elements removed and a few values emptied."""
    import pydicom

    def run(source: Path, target: Path) -> None:
        dataset = pydicom.dcmread(source)
        dataset.remove_private_tags()
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "StudyDate"):
            if keyword in dataset:
                setattr(dataset, keyword, "")
        dataset.save_as(target)

    return run


TOOLS: dict[str, tuple[str, Callable[[], Pass]]] = {
    "dicom-anonymizer": ("dicom-anonymizer", dicom_anonymizer),
    "dicognito": ("dicognito", dicognito),
    "deid": ("deid", deid),
    "pydicom pass": ("pydicom", pydicom_pass),
}


def main() -> None:
    name, source, target = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    package, make = TOOLS[name]
    run = make()
    errors: Counter[str] = Counter()
    files = sorted(source.iterdir())
    began, cpu = time.perf_counter(), time.process_time()
    for path in files:
        try:
            run(path, target / path.name)
        except _FAILURES as error:
            errors[type(error).__name__] += 1
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    spent = {"seconds": seconds, "cpu": cpu, "files": len(files)}
    print(json.dumps({"version": metadata.version(package), "errors": errors, **spent}))


if __name__ == "__main__":
    main()
