"""One partition a study: the partition key is the study key (an HMAC, no identity)."""

from collections.abc import Collection, Sequence

import dagster as dg

STUDIES = dg.DynamicPartitionsDefinition(name="studies")

RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"
BACKFILL = "medai/backfill"  # name@version that older studies are computed again by
MODEL_CHOICE = dg.AssetKey("model_choice")
DEFER_EVENTS = "dagster/defer_asset_events"  # the assets report each partition themselves: partial success


def contiguous(keys: Sequence[str], order: Sequence[str], most: int, alone: Collection[str] = ()) -> list[list[str]]:
    """Groups of `keys` that stand side by side in `order` (Dagster names a range by its ends), at most `most` each.

    A key in `alone` is a group of its own.
    """
    wanted = set(keys)
    groups: list[list[str]] = [[]]
    for key in order:
        full = len(groups[-1]) >= most or key in alone or any(k in alone for k in groups[-1])
        if key not in wanted:
            groups.append([])
        elif full:
            groups.append([key])
        else:
            groups[-1].append(key)
    return [group for group in groups if group]
