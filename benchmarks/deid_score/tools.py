"""The contestants: each takes a folder of files and gives back what it wrote, by name. `Missing` names what is not installed."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.datadict import DicomDictionary

from deid_score.standard import Tables

PEERS = ("dicom-anonymizer", "dicognito", "deid")
_HERE = Path(__file__).parent


class Missing(Exception):
    """A contestant that is not installed here; its text says what to do."""


@dataclass(frozen=True)
class Result:
    """What a tool wrote: file name -> bytes. `note`: version and failures, for the table's foot."""

    files: Mapping[str, bytes]
    note: str = ""


def ours(source: Path, deidentify: Callable[[bytes], bytes]) -> Result:
    """The product, in this process; an object that it refuses is not written."""
    from medai_pipeline.errors import MedaiError

    files, refused = {}, 0
    for path in sorted(source.iterdir()):
        try:
            files[path.name] = deidentify(path.read_bytes())
        except MedaiError:
            refused += 1
    return Result(files, f"{refused} refused" if refused else "")


def peer(name: str, python: str | None, source: Path, tables: Tables) -> Result:
    """One of PEERS by its own Python. Raises Missing where there is none, or where that one does not have it."""
    if python is None:
        raise Missing(f"{name}: no Python given (--peers-python, an environment with: pip install {' '.join(PEERS)})")
    with tempfile.TemporaryDirectory(prefix="medai-peer-") as folder:
        target = Path(folder) / "out"
        target.mkdir()
        recipe = Path(folder) / "recipe.dicom"
        recipe.write_text(deid_recipe(tables))
        report = run_peer(name, python, source, target, recipe)
        files = {path.name: path.read_bytes() for path in target.iterdir()}
    failed = ", ".join(f"{count} {kind}" for kind, count in report["errors"].items())
    return Result(files, f"{report['version']}{'; failed: ' + failed if failed else ''}")


def run_peer(name: str, python: str, source: Path, target: Path, recipe: Path, prefix: Sequence[str] = ()) -> dict:
    environment = {**os.environ, "MESSAGELEVEL": "0", "OMP_NUM_THREADS": "1"}
    command = [*prefix, python, str(_HERE / "peer.py"), name, str(source), str(target), str(recipe)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise Missing(f"{name}: {last} (in {python}: pip install {name.split()[0]})")
    return json.loads(done.stdout.splitlines()[-1])


def deid_recipe(tables: Tables) -> str:
    """Table E.1-1 in deid's language: X removes, Z blanks, D replaces, U renames by its stable function."""
    lines: list[str | None] = ["FORMAT dicom", "", "%header", "", "ADD PatientIdentityRemoved YES"]
    for tag, row in sorted(tables.rows.items()):
        entry = DicomDictionary.get(tag)
        if entry is None or tag >> 16 in (0x0000, 0x0002, 0x0004) or not entry[4]:
            continue
        lines.append(_recipe_line(entry[4], entry[0], row["basic"]))
    return "\n".join(line for line in lines if line is not None) + "\n"


def _recipe_line(keyword: str, vr: str, code: str) -> str | None:
    """The choice of a compound code is the one that is valid for every Type; sequences of references are entered."""
    if code == "U" or (code == "D" and vr == "UI"):
        return f"REPLACE {keyword} deid_func:pydicom_uuid"
    if code.startswith("X/Z/U"):
        return None
    if "D" in code and vr not in ("SQ", "OB", "PN"):
        return f"REPLACE {keyword} {_DUMMY.get(vr, 'ANONYMIZED')}"
    return f"BLANK {keyword}" if "Z" in code and vr != "SQ" else f"REMOVE {keyword}"


_DUMMY = {"DA": "19000101", "DT": "19000101000000", "TM": "000000", "DS": "0", "IS": "0"}


def orthanc(source: Path) -> Result:
    """Orthanc's /studies/{id}/anonymize (its default profile), on loopback, with its own storage. Raises Missing."""
    import httpx

    from medai_pipeline.errors import StackError
    from medai_pipeline.local.orthanc import LocalOrthanc, find_binary
    from medai_pipeline.local.paths import Home
    from medai_pipeline.local.ports import free_port
    from medai_pipeline.local.supervisor import Supervisor

    try:
        find_binary()
    except StackError as error:
        raise Missing(f"Orthanc: {error.reason}") from error
    with tempfile.TemporaryDirectory(prefix="medai-orthanc-") as folder:
        home = Home(Path(folder) / "home").make()
        local = LocalOrthanc(home, free_port(), free_port(), "medai")
        supervisor = Supervisor(home, echo=lambda line: None)
        try:
            supervisor.start(local.service(dict(os.environ)))
            with httpx.Client(
                base_url=local.url, auth=("medai", local.password), trust_env=False, timeout=120
            ) as client:
                return _anonymized(client, sorted(source.iterdir()))
        finally:
            supervisor.stop()


def _anonymized(client: Any, paths: Iterable[Path]) -> Result:
    names, studies, refused = {}, set(), 0
    for path in paths:
        answer = client.post("/instances", content=path.read_bytes())
        if answer.is_success:
            names[answer.json()["ID"]] = path.name
            studies.add(answer.json()["ParentStudy"])
        else:
            refused += 1
    files = {}
    for study in sorted(studies):
        made = client.post(f"/studies/{study}/anonymize", json={}).raise_for_status().json()["ID"]
        for instance in client.get(f"/studies/{made}/instances").raise_for_status().json():
            origin = client.get(f"/instances/{instance['ID']}/metadata/AnonymizedFrom").text
            files[names[origin]] = client.get(f"/instances/{instance['ID']}/file").raise_for_status().content
    version = client.get("/system").json()["Version"]
    return Result(files, f"{version}{f'; {refused} files refused' if refused else ''}")
