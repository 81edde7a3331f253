"""`model_choice`: which version should read a study, as Dagster knows it. Promotion observes it anew, so that exactly the
affected partitions of `predictions` are stale, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg
from dagster._core.definitions.data_version import extract_data_version_from_entry

from medai_pipeline.orchestration.partitions import MODEL_CHOICE, STUDIES

VERSION = "dagster/data_version"

model_choice = dg.AssetSpec(
    MODEL_CHOICE,
    partitions_def=STUDIES,
    group_name="models",
    description="The model version that should read each study, from the registry. A promotion changes it.",
)


def observe(instance: dg.DagsterInstance, keys: Iterable[str], version: str) -> None:
    """Says for each study which version should read it; nothing where that was said last."""
    for key in keys:
        if _known(instance, key)[0] != version:
            _say(instance, key, version)


def choice_tags(instance: dg.DagsterInstance, key: str, version: str) -> dict[str, str]:
    """How a materialization of `predictions` says which choice it followed: Dagster compares by the event's number."""
    known, number = _known(instance, key)
    if known != version:
        _say(instance, key, version)
        _, number = _known(instance, key)
    return input_tags(MODEL_CHOICE.to_user_string(), version, str(number))


def input_tags(asset: str, version: str, pointer: str = "NULL") -> dict[str, str]:
    """How a materialization says which version of an input it came from, and of which event ("NULL": not told)."""
    return {f"dagster/input_data_version/{asset}": version, f"dagster/input_event_pointer/{asset}": pointer}


def latest_input_tags(instance: dg.DagsterInstance, asset: str, key: str) -> dict[str, str]:
    """`input_tags` of an input that another run made: its last event; {} when there is none."""
    record = instance.get_latest_data_version_record(dg.AssetKey(asset), partition_key=key)
    version = extract_data_version_from_entry(record.event_log_entry) if record else None
    return input_tags(asset, version.value, str(record.storage_id)) if record and version else {}


def _known(instance: dg.DagsterInstance, key: str) -> tuple[str, int]:
    record = instance.get_latest_data_version_record(MODEL_CHOICE, is_source=True, partition_key=key)
    if record is None:
        return "", 0
    version = extract_data_version_from_entry(record.event_log_entry)
    return (version.value if version else ""), record.storage_id


def _say(instance: dg.DagsterInstance, key: str, version: str) -> None:
    event = dg.AssetObservation(MODEL_CHOICE, partition=key, tags={VERSION: version})
    instance.report_runless_asset_event(event)
