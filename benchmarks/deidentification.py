"""How many de-identification actions are correct: ours and, side by side in one run, other tools on the same planted files.

    python benchmarks/deidentification.py --peers-python PEERS/bin/python --orthanc [--show-wrong] [--table markdown]

The answer key is made element by element from the published tables of PS3.15 (--standard, default
MEDAI_TEST_DATA/standard) and from what was planted; it knows nothing of how any tool decides. Action types are those
of the MIDI-B challenge. Every tool is held to the Basic Profile; ours also to each option that it offers.
PEERS is an environment apart: pip install deid dicognito dicom-anonymizer. A tool that is missing is skipped by name.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from deid_score import ours, report, tools
from deid_score.actions import Verdict
from deid_score.judge import judge
from deid_score.key import answer_key
from deid_score.specimens import Specimen, make_specimens
from deid_score.standard import Tables, load

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    arguments = _arguments()
    warnings.filterwarnings("ignore", module="pydicom")
    tables = load(arguments.standard)
    with tempfile.TemporaryDirectory(prefix="medai-score-") as folder:
        source = Path(folder)
        specimens = make_specimens(tables, source)
        basic = score_basic(specimens, tables, source, arguments)
        options = {} if arguments.basic_only else score_options(specimens, tables, source, arguments.only)
    print(report.table("Basic Profile", basic, arguments.table == "markdown"))
    if options:
        print(report.table("medai_pipeline, by option", options, arguments.table == "markdown"))
    if arguments.show_wrong:
        shown = (
            {**basic, **options}
            if arguments.show_wrong == "all"
            else {"medai_pipeline": basic["medai_pipeline"], **options}
        )
        print(report.wrong(shown))


def score_basic(
    specimens: Sequence[Specimen], tables: Tables, source: Path, arguments: argparse.Namespace
) -> dict[str, list[Verdict]]:
    key = [expected for specimen in specimens for expected in answer_key(specimen, tables)]
    contestants: dict[str, Callable[[], tools.Result]] = {
        "medai_pipeline": lambda: tools.ours(source, ours.deidentifier(frozenset())),
        **{name: _peer(name, arguments.peers_python, source, tables) for name in tools.PEERS},
    }
    if arguments.orthanc:
        contestants["Orthanc /anonymize"] = lambda: tools.orthanc(source)
    contestants["copy (does nothing)"] = lambda: tools.Result({s.name: s.data for s in specimens})
    scored = {}
    for name, contestant in contestants.items():
        try:
            result = contestant()
        except tools.Missing as missing:
            print(f"skipped: {missing}")
            continue
        scored[name] = judge(key, result.files, specimens)
        print(
            f"{name}: {len(result.files)} of {len(specimens)} files written {f'({result.note})' if result.note else ''}"
        )
    return scored


def _peer(name: str, python: str | None, source: Path, tables: Tables) -> Callable[[], tools.Result]:
    return lambda: tools.peer(name, python, source, tables)


def score_options(
    specimens: Sequence[Specimen], tables: Tables, source: Path, only: str | None
) -> Mapping[str, list[Verdict]]:
    scored = {}
    for name, options in ours.OPTION_SETS.items():
        if only and only != name:
            continue
        try:
            deidentify = ours.deidentifier(options)
        except ours.NotOffered as missing:
            print(f"skipped: {name}: {missing}")
            continue
        key = [expected for specimen in specimens for expected in answer_key(specimen, tables, options)]
        scored[name] = judge(key, tools.ours(source, deidentify).files, specimens)
    return scored


def _arguments() -> argparse.Namespace:
    data = Path(os.environ.get("MEDAI_TEST_DATA", ROOT.parent / "shared" / "data"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--standard", type=Path, default=data / "standard", help="folder of the tables of PS3.15")
    parser.add_argument("--peers-python", help="the Python of an environment with the peers")
    parser.add_argument("--orthanc", action="store_true", help="also start an Orthanc on loopback")
    parser.add_argument("--basic-only", action="store_true", help="leave the options out")
    parser.add_argument("--only", help="one set of options by name")
    parser.add_argument("--show-wrong", nargs="?", const="ours", choices=("ours", "all"), help="list the wrong actions")
    parser.add_argument("--table", choices=("text", "markdown"), default="text")
    return parser.parse_args()


if __name__ == "__main__":
    main()
