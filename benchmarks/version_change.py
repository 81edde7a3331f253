"""What a promotion costs over many older studies: what is said before, the sensor that marks and asks, the comparison after.

    python -W ignore benchmarks/version_change.py                    # 1,000, 10,000 and 100,000 studies
    python -W ignore benchmarks/version_change.py --studies 100000

Rows alone are made, no images; a report and a result are as the demo's, 15 findings a study. Starts a Postgres of its own, which
Dagster's tables share as in a stack, and ends it. Wall seconds: compare within a line, and lines of one run.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as sa

from medai_pipeline.definitions import build_definitions
from medai_pipeline.local.model_commands import what_follows
from medai_pipeline.models.catalog import entry
from medai_pipeline.models.load import weights_path
from medai_pipeline.orchestration.model_sensors import request_backfills, request_shadows
from medai_pipeline.registering import compared, register_packaged
from medai_pipeline.services import Services
from medai_pipeline.settings import read_settings
from medai_pipeline.stages.comparison import pictures
from medai_pipeline.storage.database import dagster_url, migrate
from medai_pipeline.storage.keys import SiteKeys
from medai_pipeline_tests.postgres import _embedded
from medai_pipeline_tests.test_report_content import make
from medai_pipeline_tests.versions_in_use import register_unexamined

OLD, NEW = "demo-chest-xray@1", "demo-chest-xray@2"
LIMIT_S = 60  # of Dagster, for one evaluation of a sensor
_FINDING = """jsonb_build_object('label', 'finding ' || g, 'probability', random(), 'threshold', 0.5, 'uncertainty', 0.1,
    'entropy', 0.1, 'information', 0.01, 'images', jsonb_build_array('2.25.' || repeat('1', 38), '2.25.' || repeat('2', 38)))"""
_ROWS = (
    # append-only triggers and locks are for writers; this only fills tables
    "SET LOCAL session_replication_role = replica",
    """INSERT INTO medai.studies (study_key, revision, source_digest, state, first_seen_at, ready_at, started_at, finished_at,
        updated_at, read_modality, read_body_part, instance_count, run_id, report_id)
    SELECT lpad(CAST(i AS text), 26, 'K'), 1, 'd', 'reported', now(), now(), now(), now(), now(), 'DX', 'CHEST', 2,
        'r' || (i / 16), gen_random_uuid() FROM generate_series(1, :count) AS i""",
    """INSERT INTO medai.reports (id, study_key, revision, inputs_digest, run_id, priority, priority_rank, review_required,
        content, object_prefix, created_at)
    SELECT report_id, study_key, 1, 'x', run_id, 'routine', 2, false, CAST(:content AS jsonb), 'p', now() FROM medai.studies""",
    f"""INSERT INTO medai.inference_results (study_key, revision, model_name, model_version, weights_sha256, role,
        inputs_digest, run_id, result, created_at)
    SELECT study_key, 1, 'demo-chest-xray', v.version, 'sha', v.role, 'x', run_id, jsonb_build_object('novelty', 0.1, 'findings',
        (SELECT jsonb_agg({_FINDING}) FROM generate_series(1, 15) AS g WHERE study_key <> '')), now()
    FROM medai.studies, (VALUES ('1', 'primary'), ('2', 'shadow')) AS v (version, role)""",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, nargs="+", default=[1000, 10_000, 100_000])
    print(
        "studies | said before s | first evaluation s | next s | shadows s | comparison s | plots s | peak MB of the process"
    )
    for count in parser.parse_args().studies:
        with _embedded() as url, tempfile.TemporaryDirectory() as home:
            print(_line(count, url, Path(home)), flush=True)


def _line(count: int, url: str, home: Path) -> str:
    SiteKeys.load(None, home / "keys" / "site.key", create=True)
    services = Services(read_settings({}, home=str(home), database_url=url, gpu_enabled=False))
    migrate(services.engine)
    _fill(services, count)
    storage = {"storage": {"postgres": {"postgres_url": dagster_url(url)}}}
    with dg.instance_for_test(overrides=storage) as instance:
        instance.add_dynamic_partitions("studies", [row.study_key for row in services.changes.read_studies()])
        _register(services)
        said = _timed(lambda: what_follows(services, NEW))
        shadows = _timed(lambda: request_shadows(services, instance, {}))
        services.registry.promote(*NEW.split("@"), "bench", services.now())
        repository = build_definitions(database_url=None, orthanc_url=None).get_repository_def()
        efforts: dict[str, Any] = {}
        asked = []
        for _ in range(2):
            with dg.build_sensor_context(instance=instance, repository_def=repository) as context:
                asked.append(_timed(lambda: efforts.update(request_backfills(services, context, efforts)[1])))
    found: list[Any] = []
    comparison = _timed(lambda: found.append(compared(services.changes, OLD, NEW, None)))
    plots = _timed(lambda: pictures(found[0]))
    services.engine.dispose()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    assert found[0].moves.height == count
    late = f"  (over the {LIMIT_S} s that Dagster allows)" if max(asked) > LIMIT_S else ""
    figures = " | ".join(f"{seconds:.2f}" for seconds in (said, *asked, shadows, comparison, plots))
    return f"{count:7,} | {figures} | {peak:.0f}{late}"


def _fill(services: Services, count: int) -> None:
    model = {"name": "demo-chest-xray", "version": "1", "weights_sha256": "sha", "role": "primary"}
    values = {"count": count, "content": json.dumps({**make().content, "models": [model]})}
    with services.engine.begin() as connection:
        for statement in _ROWS:
            connection.execute(sa.text(statement), {k: v for k, v in values.items() if f":{k}" in statement})
    with services.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("ANALYZE"))


def _register(services: Services) -> None:
    """The packaged versions, and a second one as a shadow since the first study came."""
    register_packaged(services.registry, (), services.settings.models_path, services.now())
    data = weights_path(entry(OLD), None).read_bytes()
    register_unexamined(services, replace(entry(OLD), version="2"), data)
    services.registry.shadow(*NEW.split("@"), "bench", services.now())
    with services.engine.begin() as connection:
        connection.execute(sa.text("UPDATE medai.models SET promoted_at = '2000-01-01' WHERE version = '2'"))


def _timed(act: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
