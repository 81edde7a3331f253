"""`model_choice`: which version should read a study, as Dagster knows it. Promotion observes it anew, so that exactly the
affected partitions of `predictions` are stale, and what follows from them."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import dagster as dg
from dagster._core.definitions.data_version import extract_data_version_from_entry
from dagster._core.events import AssetObservationData
from dagster._core.instance.utils import RUNLESS_JOB_NAME, RUNLESS_RUN_ID

from medai_pipeline.orchestration.partitions import MODEL_CHOICE, STUDIES

VERSION = "dagster/data_version"
EVENTS_AT_ONCE = 1000

model_choice = dg.AssetSpec(
    MODEL_CHOICE,
    partitions_def=STUDIES,
    group_name="models",
    description="The model version that should read each study, from the registry. A promotion changes it.",
)


def observe(instance: dg.DagsterInstance, keys: Sequence[str], version: str, most: int) -> bool:
    """Says for each study which version should read it, nothing where that was said last; of at most `most` studies.

    False when some are left. Many are said at a time: one by one, 20,000 studies take longer than a sensor may.
    """
    log, said = instance.event_log_storage, 0
    for start in range(0, len(keys), EVENTS_AT_ONCE):
        if said >= most:
            return False
        some = keys[start : start + EVENTS_AT_ONCE]
        known = log.get_latest_tags_by_partition(
            MODEL_CHOICE, dg.DagsterEventType.ASSET_OBSERVATION, [VERSION], asset_partitions=some
        )
        new = [key for key in some if known.get(key, {}).get(VERSION) != version]
        if new:
            log.store_event_batch([_entry(_observation(key, version)) for key in new])
            said += len(new)
    return True


def _entry(observation: dg.AssetObservation) -> dg.EventLogEntry:
    """An observation outside of any run, as `report_runless_asset_event` stores it."""
    event = dg.DagsterEvent(
        dg.DagsterEventType.ASSET_OBSERVATION.value,
        RUNLESS_JOB_NAME,
        event_specific_data=AssetObservationData(observation),
    )
    return dg.EventLogEntry(
        error_info=None, level=logging.INFO, user_message="", run_id=RUNLESS_RUN_ID, timestamp=time.time(),
        job_name=RUNLESS_JOB_NAME, dagster_event=event,
    )  # fmt: skip


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
    instance.report_runless_asset_event(_observation(key, version))


def _observation(key: str, version: str) -> dg.AssetObservation:
    return dg.AssetObservation(MODEL_CHOICE, partition=key, tags={VERSION: version})
