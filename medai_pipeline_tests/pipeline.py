"""The whole pipeline inside one test process: real Postgres, real Orthanc, real Dagster instance; only the daemon is us."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import pydicom
import pytest
from pydicom.dataset import Dataset

from medai_pipeline.definitions import build_definitions
from medai_pipeline.orchestration.jobs import STUDY_JOB
from medai_pipeline.orchestration.return_assets import RETURN_JOB
from medai_pipeline.phantoms.studies import PhantomStudy, to_bytes
from medai_pipeline.services import Services
from medai_pipeline.settings import read_settings
from medai_pipeline.storage.keys import SiteKeys
from medai_pipeline_tests.orthanc import RunningOrthanc


class Pipeline:
    """Sensor ticks and runs by hand: `tick` looks at the PACS, `work` executes what the ticks requested."""

    def __init__(self, settings: dict[str, Any], instance: dg.DagsterInstance) -> None:
        self.settings = settings
        self.instance = instance
        self.definitions = build_definitions(**settings)
        self.services = Services(read_settings({}, **settings))
        self.cursor: str | None = None
        self.skipped = ""
        self.results: list[dg.ExecuteInProcessResult] = []

    def send(self, *studies: PhantomStudy) -> list[str]:
        """Uploads the studies; their study keys."""
        for study in studies:
            results = self.services.pacs.upload_many([to_bytes(d) for d in study.datasets])
            assert all(result.stored for result in results)
        return [self.key_of(study) for study in studies]

    def key_of(self, study: PhantomStudy) -> str:
        return self.services.keys.study_key(str(study.datasets[0].StudyInstanceUID))

    def tick(self) -> list[dg.RunRequest]:
        sensor = self.definitions.get_repository_def().get_sensor_def("orthanc_studies")
        with dg.build_sensor_context(instance=self.instance, cursor=self.cursor) as context:
            result = sensor(context)
            if isinstance(result, dg.SkipReason):
                self.skipped = result.skip_message or ""
                self.cursor = context.cursor
                return []
        self.cursor = result.cursor
        for request in result.dynamic_partitions_requests or []:
            self.instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
        return list(result.run_requests or [])

    def requested(self, most_ticks: int = 5) -> list[dg.RunRequest]:
        """Ticks until a run is requested (two ticks with a quiet period of nothing); [] when none ever is."""
        for _ in range(most_ticks):
            requests = self.tick()
            if requests:
                return requests
        return []

    def run(self, request: dg.RunRequest, job_name: str = STUDY_JOB, **more: Any) -> dg.ExecuteInProcessResult:
        job = self.definitions.resolve_job_def(job_name)
        result = job.execute_in_process(instance=self.instance, tags=dict(request.tags), raise_on_error=False, **more)
        self.results.append(result)
        return result

    def work(self) -> list[dg.ExecuteInProcessResult]:
        """Everything that is ready, to its end."""
        return [self.run(request) for request in self.requested()]

    def deliver(self) -> list[dg.ExecuteInProcessResult]:
        """What the sensor `pacs_returns` requests, to its end."""
        sensor = self.definitions.get_repository_def().get_sensor_def("pacs_returns")
        with dg.build_sensor_context(instance=self.instance) as context:
            result = sensor(context)
        if isinstance(result, dg.SkipReason):
            self.skipped = result.skip_message or ""
            return []
        return [self.run(request, job_name=RETURN_JOB) for request in result.run_requests or []]

    def in_pacs(self, study: PhantomStudy) -> list[Dataset]:
        """Every object of the study as the PACS holds it, results included."""
        pacs = self.services.pacs
        (found,) = pacs.find_studies(str(study.datasets[0].StudyInstanceUID))
        return [pydicom.dcmread(BytesIO(data)) for _, data in pacs.fetch(pacs.instances(found.orthanc_id))]

    def materialize_one(self, study_key: str, job_name: str = STUDY_JOB, **more: Any) -> dg.ExecuteInProcessResult:
        """What a person's click on one partition does."""
        job = self.definitions.resolve_job_def(job_name)
        return job.execute_in_process(instance=self.instance, partition_key=study_key, raise_on_error=False, **more)

    def state(self, study_key: str) -> Any:
        return self.services.lifecycle.study(study_key)

    def reports(self, study_key: str) -> list[Any]:
        return [row for row in self.services.worklist.worklist() if row.study_key == study_key]

    def materialized(self, asset: str) -> set[str]:
        return self.instance.event_log_storage.get_materialized_partitions(dg.AssetKey(asset))

    def with_settings(self, **changes: Any) -> Pipeline:
        return Pipeline({**self.settings, **changes}, self.instance)

    @staticmethod
    def now() -> datetime:
        return datetime.now(UTC)


def empty_pacs(orthanc: RunningOrthanc) -> None:
    with httpx.Client(base_url=orthanc.url, auth=(orthanc.username, orthanc.password)) as client:
        for study in client.get("/studies").json():
            client.delete(f"/studies/{study}").raise_for_status()


@pytest.fixture
def empty_orthanc(orthanc: RunningOrthanc) -> RunningOrthanc:
    """The session's Orthanc without any study."""
    empty_pacs(orthanc)
    return orthanc


@pytest.fixture
def pipeline(database_url: str, empty_orthanc: RunningOrthanc, tmp_path: Path) -> Iterator[Pipeline]:
    SiteKeys.load(None, tmp_path / "home" / "keys" / "site.key", create=True)
    settings = {
        "home": str(tmp_path / "home"),
        "database_url": database_url,
        "orthanc_url": empty_orthanc.url,
        "orthanc_username": empty_orthanc.username,
        "orthanc_password": empty_orthanc.password,
        "stable_seconds": 0.0,
        "reconcile_seconds": 0.0,
        "retry_seconds": 0.0,
        "gpu_enabled": False,
    }
    with dg.DagsterInstance.ephemeral() as instance:
        yield Pipeline(settings, instance)
