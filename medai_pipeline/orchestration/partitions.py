"""One partition a study: the partition key is the study key (an HMAC, no identity)."""

import dagster as dg

STUDIES = dg.DynamicPartitionsDefinition(name="studies")

RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"
DEFER_EVENTS = "dagster/defer_asset_events"  # the assets report each partition themselves: partial success


def contiguous(keys: list[str], order: list[str], most: int) -> list[list[str]]:
    """Groups of `keys` that stand side by side in `order` (Dagster names a range by its ends), at most `most` each."""
    wanted = set(keys)
    groups: list[list[str]] = [[]]
    for key in order:
        if key in wanted and len(groups[-1]) < most:
            groups[-1].append(key)
        elif key in wanted:
            groups.append([key])
        elif groups[-1]:
            groups.append([])
    return [group for group in groups if group]
