"""Model versions as people and the daemon use them, over the in-process pipeline: register, promote, sensors, backfills."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from sqlalchemy import text

from medai_pipeline.models.cards import to_card
from medai_pipeline.models.catalog import CatalogEntry, entry
from medai_pipeline.orchestration.partitions import RANGE_END, RANGE_START, contiguous
from medai_pipeline.phantoms.studies import make_study
from medai_pipeline.registering import register_packaged, write_whole
from medai_pipeline.services import Services
from medai_pipeline.storage.registry import NewModel
from medai_pipeline_tests.model_versions import demo_version
from medai_pipeline_tests.pipeline import Pipeline

FILM, FILM2 = "demo-chest-xray@1", "demo-chest-xray@2"


def film(seed: int, findings: tuple[str, ...] = ()):
    return make_study("chest-xray", seed, findings=findings)


def register_unexamined(services: Services, made: CatalogEntry, data: bytes) -> str:
    """A version in the registry without its examination, which takes seconds and has tests of its own; name@version."""
    from medai_pipeline.models.load import checked_digest, stored_path

    made = dataclasses.replace(made, weights_sha256=None)
    made = dataclasses.replace(made, weights_sha256=checked_digest(made, data))
    write_whole(stored_path(services.settings.models_path, made.weights_sha256 or "", made.kind), data)
    new = NewModel(made.name, made.version, made.architecture, made.weights_sha256 or "", to_card(made),
                   made.scopes, {}, {})  # fmt: skip
    services.registry.register(new, "ann", services.now())
    return made.label


class Models:
    """The registry as people use it, and the sensors of models as the daemon does."""

    def __init__(self, pipeline: Pipeline, folder: Path) -> None:
        self.pipeline, self.services, self.folder = pipeline, pipeline.services, folder
        self.cursors: dict[str, str | None] = {}
        self.skipped = ""
        register_packaged(self.services.registry, (), self.services.settings.models_path, pipeline.now())

    def register(self, version: str, shift: float = 3.0, weights: Path | None = None, **changes: Any) -> str:
        """A version of the film model whose every logit is `shift` higher; examined elsewhere, so that this is fast."""
        data = (weights or demo_version(self.folder, version, shift)[1]).read_bytes()
        return register_unexamined(self.services, dataclasses.replace(entry(FILM), version=version, **changes), data)

    def promote(self, label: str) -> None:
        name, version = label.split("@")
        self.services.registry.promote(name, version, "ann", self.pipeline.now())

    def sensor(self, name: str = "model_backfills") -> list[dg.RunRequest]:
        repository = self.pipeline.definitions.get_repository_def()
        with dg.build_sensor_context(
            instance=self.pipeline.instance, cursor=self.cursors.get(name), repository_def=repository
        ) as context:
            result = repository.get_sensor_def(name)(context)
            if isinstance(result, dg.SkipReason):
                self.skipped, self.cursors[name] = result.skip_message or "", context.cursor
                return []
        self.cursors[name] = result.cursor
        for request in result.dynamic_partitions_requests or []:
            self.pipeline.instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
        return list(result.run_requests or [])

    def backfill(self, request: dg.RunRequest, chunk: int = 16) -> list[dg.ExecuteInProcessResult]:
        """What the backfill daemon does: runs of neighbours, a few at a time."""
        subset = request.asset_graph_subset
        assets = sorted(subset.asset_keys, key=lambda key: key.to_user_string())
        keys = subset.get_partitions_subset(dg.AssetKey("predictions")).get_partition_keys()
        order = list(self.pipeline.instance.get_dynamic_partitions("studies"))
        return [self.run(group, assets, dict(request.tags)) for group in contiguous(list(keys), order, chunk)]

    def run(self, keys: list[str], assets: list[dg.AssetKey], tags: dict[str, str]) -> dg.ExecuteInProcessResult:
        repository = self.pipeline.definitions.get_repository_def()
        job = repository.get_implicit_global_asset_job_def().get_subset(asset_selection=set(assets))
        tags = {**tags, RANGE_START: keys[0], RANGE_END: keys[-1]}
        return job.execute_in_process(instance=self.pipeline.instance, tags=tags, raise_on_error=False)

    def reported_by(self, key: str) -> str:
        (row,) = self.pipeline.reports(key)
        return row.models[0]

    def stale(self, key: str, asset: str = "predictions") -> bool:
        graph = self.pipeline.definitions.get_repository_def().asset_graph
        resolver = CachingStaleStatusResolver(
            self.pipeline.instance, graph, LoadingContextForTest(self.pipeline.instance)
        )
        return resolver.get_status(dg.AssetKey(asset), key) is StaleStatus.STALE

    def results(self, key: str) -> list[tuple[str, str]]:
        with self.services.engine.connect() as connection:
            rows = connection.execute(
                text("SELECT model_version, role FROM medai.inference_results WHERE study_key = :k ORDER BY id"),
                {"k": key},
            )
            return [tuple(row) for row in rows]


@pytest.fixture
def models(pipeline: Pipeline, tmp_path: Path) -> Models:
    return Models(pipeline, tmp_path)
