"""What replaced model versions have said is kept for going back, not for ever: and never less than going back needs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from medai_pipeline.definitions import build_definitions
from medai_pipeline.keeping import kept_name, made_by, purge_kept
from medai_pipeline.records import ModelRef
from medai_pipeline.services import Services
from medai_pipeline.settings import read_settings
from medai_pipeline.storage.keys import SiteKeys
from medai_pipeline.storage.registry import NewModel

NOW = datetime.now(UTC)
STUDY = "STUDYKEY"
Keep = Callable[..., str]


@pytest.fixture
def services(database_url: str, tmp_path: Path) -> Services:
    home = tmp_path / "home"
    SiteKeys.load(None, home / "keys" / "site.key", create=True)
    opened = Services(read_settings({}, home=str(home), database_url=database_url))
    for version in "1234":
        new = NewModel("chest", version, "resnet18", version * 64, {}, [("DX", "CHEST")], {}, {})
        opened.registry.register(new, "ann", NOW)
        opened.registry.promote("chest", version, "ann", NOW)  # 4 is active at the end, in the place of 3
    return opened


@pytest.fixture
def keep(services: Services) -> Keep:
    def kept(version: str, days_ago: float, revision: int = 2, key: str = STUDY, weights: str = "") -> str:
        ref = ModelRef("chest", version, weights or version * 64)
        name = kept_name("predictions", key, made_by(ref, revision))
        services.objects.put(name, b"said")
        when = (NOW - timedelta(days=days_ago)).timestamp()
        os.utime(services.settings.objects_path / name, (when, when))
        return name

    return kept


def purged(services: Services, days: float = 90) -> int:
    rows = services.registry.versions()
    return purge_kept(services.objects, services.audit, rows, {STUDY: 2}, NOW, days).values


def test_old_values_of_versions_replaced_long_ago_go_and_the_audit_chain_says_how_many(
    services: Services, keep: Keep
) -> None:
    gone, young = keep("1", 91), keep("2", 89)
    assert purged(services) == 1
    assert not services.objects.exists(gone) and services.objects.exists(young)
    assert services.audit.verify().ok
    with services.engine.connect() as connection:
        row = connection.exec_driver_sql("SELECT action, detail FROM medai.audit_log ORDER BY seq DESC LIMIT 1").one()
    assert row.action == "objects.purge" and row.detail["values"] == 1 and row.detail["bytes"] > 0
    records = services.audit.verify().records
    assert purged(services) == 0
    assert services.audit.verify().records == records  # nothing happened, nothing is written


def test_what_going_back_and_the_active_version_need_stays_whatever_its_age(services: Services, keep: Keep) -> None:
    needed = [keep("4", 4000), keep("3", 4000)]
    assert purged(services) == 0
    services.registry.shadow("chest", "1", "ann", NOW)
    needed.append(keep("1", 4000))  # a shadow's promotion finds what it has said
    assert purged(services, days=0) == 0
    assert all(services.objects.exists(name) for name in needed)


@pytest.mark.parametrize(
    "of",
    [{"revision": 1}, {"weights": "f" * 64}, {"key": "GONE"}],
    ids=["earlier revision", "other weights", "no study"],
)
def test_what_no_promotion_could_put_back_goes_with_age_even_of_the_active_version(
    services: Services, keep: Keep, of: dict[str, object]
) -> None:
    keep("4", 10, **of)
    assert purged(services) == 0
    keep("4", 91, **of)
    assert purged(services) == 1


def test_the_sensor_looks_once_a_day_and_says_what_it_did(services: Services, keep: Keep) -> None:
    services = Services(replace(services.settings, kept_days=0.0))
    keep("1", 1)
    definitions = build_definitions(
        home=services.settings.home, database_url=services.settings.database_url, kept_days=0.0
    )
    sensor = definitions.get_repository_def().get_sensor_def("kept_values")
    with dg.DagsterInstance.ephemeral() as instance, dg.build_sensor_context(instance=instance) as context:
        said = sensor(context)
        again = sensor(context)
    assert isinstance(said, dg.SkipReason) and "1 kept values" in (said.skip_message or "")
    assert "once a day" in (again.skip_message or "")
