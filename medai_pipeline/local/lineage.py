"""`medai lineage`: the chain behind a result, for a terminal and for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from rich.text import Text
from rich.tree import Tree

from medai_pipeline.errors import MedaiError
from medai_pipeline.local.terminal import printable

if TYPE_CHECKING:
    from medai_pipeline.services import Services

SHOWN = 5  # images of a study in the terminal; --json has all
Row = Mapping[str, Any]


def chains(services: Services, name: str) -> list[list[dict[str, Any]]]:
    """The rows of each report that `name` leads to, newest first. Raises MedaiError when there is none."""
    rows = services.lineage.of(name)
    if not rows:
        raise MedaiError(
            f"nothing here is called {printable(name)}: give a study key, a report, inference or run, an image's UID "
            "or the beginning of a SHA-256 (8 characters or more)"
        )
    return [list(group) for _, group in groupby(rows, key=lambda row: row["report_id"])]


def of_file(path: Path) -> tuple[Mapping[str, Any], Tree]:
    """The lineage that a report.json holds, as `medai analyze` writes it, and the chain. Raises MedaiError for another file."""
    from medai_pipeline.results.chain import chain

    try:
        content = json.loads(path.read_bytes())
        tree = Tree(Text(f"study {content['study_key']}, revision {content['revision']}: {printable(path.name)}"))
        for link in chain(content):
            branch = tree.add(Text(f"{link.title:<14} {link.says}"))
            for digest in link.digests:
                branch.add(Text(f"sha256 {digest}"))
            if link.more:
                branch.add(Text(f"and {link.more} more (--json lists all)"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MedaiError(
            f"{printable(path.name)} is no report.json of this version; give one, or an ID that a running stack knows"
        ) from error
    return content["lineage"], tree


def as_json(chain: Sequence[Row]) -> list[dict[str, Any]]:
    return [
        {key: str(value) if isinstance(value, (UUID, datetime)) else value for key, value in row.items()}
        for row in chain
    ]


def as_tree(chain: Sequence[Row], run_url: str) -> Tree:
    """One report's chain, from the bytes down to the delivery. `run_url` has a place for a run's number."""
    first = chain[0]
    counts = "" if first["counts"] else ", superseded"
    tree = Tree(Text(f"study {first['study_key']}, revision {first['revision']}: report {first['report_id']}{counts}"))
    images = {row["sop_instance_uid"]: row for row in chain}
    source = tree.add(Text(f"source         {len(images)} files"))
    anonymized = tree.add(Text(f"de-identified  {first['profile']}; code {first['code_version']}"))
    for row in list(images.values())[:SHOWN]:
        source.add(Text(f"sha256 {row['source_sha256']}"))
        left = f"  (not read: {row['left_out']})" if not row["usable"] else ""
        anonymized.add(Text(f"sha256 {row['anonymized_sha256']}  {row['sop_instance_uid']}{left}"))
    if len(images) > SHOWN:
        for branch in (source, anonymized):
            branch.add(Text(f"and {len(images) - SHOWN} more (--json lists all)"))
    tree.add(Text(f"tensor         {'sha256 ' + first['tensor_sha256'] if first['tensor_sha256'] else 'none'}"))
    for row in {row["inference_id"]: row for row in chain if row["inference_id"] is not None}.values():
        answer = tree.add(
            Text(f"inference      {row['inference_id']}: {row['model_name']}@{row['model_version']} ({row['role']})")
        )
        answer.add(Text(f"weights sha256 {row['weights_sha256']}"))
        answer.add(Text(f"run {run_url.format(row['inference_run_id'])}"))
    tree.add(Text(f"checks         {first['checks_passed']} of {first['checks']} passed"))
    review = " (review required)" if first["review_required"] else ""
    tree.add(Text(f"triage         {first['priority']} by rules {first['rules_version']}{review}"))
    tree.add(Text(f"report         {first['reported_at']:%Y-%m-%d %H:%M:%S %Z}, run {run_url.format(first['run_id'])}"))
    by = (
        f"{first['review']} by {first['reviewer']}, {first['reviewed_at']:%Y-%m-%d %H:%M}"
        if first["review"]
        else "none yet"
    )
    tree.add(Text(f"review         {by}"))
    deliveries = tree.add(f"delivery       {'' if first['deliveries'] else 'none yet'}".rstrip())
    for delivery in first["deliveries"] or ():
        deliveries.add(Text(f"{delivery['destination']}: {delivery['state']}, {len(delivery['objects'])} objects"))
    return tree
