"""One encrypted file a (asset, partition), written to a temporary name and renamed. Serves ranges that a batch half fills."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from medai_pipeline.errors import ObjectMissing
from medai_pipeline.keeping import kept_name, object_name
from medai_pipeline.services import Services
from medai_pipeline.storage.codec import decode, encode


class StudyValues(Mapping[str, Any]):
    """The stored values of one asset, study key -> record, read one at a time: memory holds one study, not the range."""

    def __init__(self, services: Services, asset: str, keys: list[str]) -> None:
        self._services = services
        self.asset = asset
        self._keys = [key for key in keys if services.objects.exists(object_name(asset, key))]

    def __getitem__(self, key: str) -> Any:
        if key not in self._keys:
            raise KeyError(key)
        return decode(self._services.objects.get(object_name(self.asset, key)))

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def store(self, key: str, value: Any) -> None:
        self._services.objects.put(object_name(self.asset, key), encode(value))
        if key not in self._keys:
            self._keys.append(key)

    def set_aside(self, key: str, made_by: str) -> None:
        """Keeps the present value beside the one that takes its place."""
        self._services.objects.put(kept_name(self.asset, key, made_by), encode(self[key]))

    def from_aside(self, key: str, made_by: str) -> Any:
        """A value that was set aside; None when there is none."""
        try:
            return decode(self._services.objects.get(kept_name(self.asset, key, made_by)))
        except ObjectMissing:
            return None


class StudyIOManager(dg.IOManager):
    """Values are `StudyValues`, already stored study by study while the asset ran; reading gives them back lazily."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def handle_output(self, context: dg.OutputContext, obj: StudyValues) -> None:
        context.log.debug(f"{len(obj)} studies stored")

    def load_input(self, context: dg.InputContext) -> StudyValues:
        return StudyValues(self._services, context.asset_key.path[-1], list(context.asset_partition_keys))
