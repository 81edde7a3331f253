"""The registry: a version never changes, one is active for each kind of images, every change is audited, going back is easy."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from medai_pipeline.errors import MedaiError, ModelNotFound, RegistryRefused
from medai_pipeline.models.catalog import catalog, packaged
from medai_pipeline.registering import models_in_force, register_packaged
from medai_pipeline.storage.audit import Audit
from medai_pipeline.storage.registry import TRANSITIONS, NewModel, Registry
from medai_pipeline.storage.tables import audit_log, model_scopes, models

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FILMS = (("DX", "CHEST"), ("CR", "CHEST"))


@pytest.fixture
def registry(engine: Engine) -> Registry:
    return Registry(engine, Audit(engine, b"k" * 32))


def new(version: str, scopes=FILMS, **changes) -> NewModel:
    made = NewModel("chest", version, "resnet10t", version * 64, {"classes": ["A"]}, scopes, {}, {})
    return replace(made, **changes)


def state(registry: Registry, version: str) -> str:
    return registry.version("chest", version).state


def audited(engine: Engine) -> list[tuple[str, str, str]]:
    with engine.connect() as connection:
        rows = connection.execute(sa.select(audit_log).order_by(audit_log.c.seq))
        return [(row.actor, row.action, row.subject) for row in rows]


def test_promotion_takes_the_place_of_the_earlier_version_and_going_back_is_a_promotion(registry: Registry) -> None:
    for version in "12":
        assert registry.register(new(version), "ann", NOW)
    assert registry.promote("chest", "1", "ann", NOW) == ()
    assert registry.promote("chest", "2", "ben", NOW) == ("chest@1",)
    assert (state(registry, "1"), state(registry, "2")) == ("registered", "active")
    assert registry.promote("chest", "1", "ben", NOW) == ("chest@2",)
    row = registry.version("chest")
    assert (row.label, row.promoted_by, row.registered_by, row.replaced) == ("chest@1", "ben", "ann", "chest@2")


def test_every_change_is_in_the_audit_chain_with_who_made_it(registry: Registry, engine: Engine) -> None:
    registry.register(new("1"), "ann", NOW)
    registry.shadow("chest", "1", "ben", NOW)
    registry.promote("chest", "1", "cem", NOW)
    registry.retire("chest", "1", "dea")
    assert audited(engine) == [
        ("ann", "model.register", "model:chest@1"),
        ("ben", "model.shadow", "model:chest@1"),
        ("cem", "model.active", "model:chest@1"),
        ("dea", "model.retired", "model:chest@1"),
    ]
    assert Audit(engine, b"k" * 32).verify().ok


def test_a_member_of_an_ensemble_that_answers_is_not_retired_and_a_retired_one_is_not_asked(registry: Registry) -> None:
    for version in "12":
        registry.register(new(version), "ann", NOW)
    both = replace(new("1", card={"members": {"chest@1": 1.0, "chest@2": 1.0}}), name="both")
    registry.register(both, "ann", NOW)
    registry.shadow("both", "1", "ann", NOW)
    with pytest.raises(RegistryRefused, match="chest@2 is a member of both@1"):
        registry.retire("chest", "2", "ann")
    registry.retire("both", "1", "ann")
    registry.retire("chest", "2", "ann")
    registry.register(both, "ann", NOW)
    for ask in (registry.promote, registry.shadow):
        with pytest.raises(RegistryRefused, match="asks chest@2, which is retired"):
            ask("both", "1", "ann", NOW)
    registry.register(new("2"), "ann", NOW)
    assert registry.promote("both", "1", "ann", NOW) == ()


@pytest.mark.parametrize("changes", [{"weights_sha256": "f" * 64}, {"card": {"classes": ["B"]}}])
def test_a_version_never_changes(registry: Registry, changes) -> None:
    registry.register(new("1"), "ann", NOW)
    assert not registry.register(new("1"), "ann", NOW)
    with pytest.raises(RegistryRefused, match="a version never changes"):
        registry.register(new("1", **changes), "ann", NOW)


def test_a_retired_version_comes_back_by_registering_it_again(registry: Registry) -> None:
    registry.register(new("1"), "ann", NOW)
    registry.retire("chest", "1", "ann")
    with pytest.raises(RegistryRefused, match="is retired and cannot become active"):
        registry.promote("chest", "1", "ann", NOW)
    assert registry.register(new("1"), "ann", NOW)
    registry.promote("chest", "1", "ann", NOW)
    assert state(registry, "1") == "active"


def test_the_table_of_transitions_holds_for_every_pair(registry: Registry, engine: Engine) -> None:
    def attempt(there: str, then: str) -> bool:
        with engine.begin() as connection:
            connection.execute(sa.update(models).values(state=there))
        acts = {
            "shadow": lambda: registry.shadow("chest", "1", "ann", NOW),
            "active": lambda: registry.promote("chest", "1", "ann", NOW),
            "retired": lambda: registry.retire("chest", "1", "ann"),
        }
        try:
            acts[then]()
        except RegistryRefused:
            return False
        return state(registry, "1") == then

    registry.register(new("1"), "ann", NOW)
    for there, allowed in TRANSITIONS.items():
        for then in ("shadow", "active", "retired"):
            assert attempt(there, then) is (then in allowed), (there, then)


def test_two_active_versions_for_the_same_images_are_impossible_whoever_writes(
    registry: Registry, engine: Engine
) -> None:
    for version in "12":
        registry.register(new(version), "ann", NOW)
    registry.promote("chest", "1", "ann", NOW)
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(sa.update(model_scopes).where(model_scopes.c.version == "2").values(active=True))


def test_two_promotions_at_once_leave_one_active(registry: Registry, engine: Engine) -> None:
    versions = [str(n) for n in range(1, 6)]
    for version in versions:
        registry.register(new(version, weights_sha256=version * 64), "ann", NOW)
    failed: list[MedaiError] = []

    def promote(version: str) -> None:
        try:
            registry.promote("chest", version, "ann", NOW)
        except MedaiError as error:
            failed.append(error)

    threads = [threading.Thread(target=promote, args=(version,)) for version in versions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert sorted(state(registry, version) for version in versions) == ["active"] + ["registered"] * 4
    assert Audit(engine, b"k" * 32).verify().records == 5 + 5 + 4


def test_a_promotion_that_would_leave_images_without_a_model_is_refused_as_a_whole(registry: Registry) -> None:
    registry.register(new("1"), "ann", NOW)
    registry.register(new("2", scopes=[("DX", "CHEST")]), "ann", NOW)
    registry.promote("chest", "1", "ann", NOW)
    with pytest.raises(RegistryRefused, match="CR CHEST"):
        registry.promote("chest", "2", "ann", NOW)
    assert (state(registry, "1"), state(registry, "2")) == ("active", "registered")


def test_what_is_not_known_is_named_with_what_is(registry: Registry) -> None:
    registry.register(new("1"), "ann", NOW)
    registry.register(new("2"), "ann", NOW)
    with pytest.raises(ModelNotFound, match="chest@1, chest@2"):
        registry.version("chest", "7")
    with pytest.raises(ModelNotFound, match="several versions"):
        registry.version("chest")


def test_a_start_registers_the_packaged_models_once_and_leaves_a_sites_choice_alone(
    registry: Registry, engine: Engine, tmp_path
) -> None:
    demo = [model.label for model in catalog() if model.demo]
    assert models_in_force(registry) == packaged()
    assert register_packaged(registry, (), tmp_path, NOW) == demo
    assert [model.label for model in models_in_force(registry).active] == sorted(demo)
    registry.retire("demo-chest-ct", "1", "ann")
    assert register_packaged(registry, (), tmp_path, NOW) == []
    assert models_in_force(registry).choose("CT", "CHEST").entry is None
    assert {actor for actor, _, _ in audited(engine)} == {"system", "ann"}


def test_a_model_that_the_site_names_takes_a_demo_models_place_at_the_next_start(registry: Registry, tmp_path) -> None:
    register_packaged(registry, (), tmp_path, NOW)
    assert register_packaged(registry, ("chest-xray-resnet50",), tmp_path, NOW) == []  # its weights are not here
    (tmp_path / "chest-xray-resnet50-1.safetensors").write_bytes(b"weights")
    assert register_packaged(registry, ("chest-xray-resnet50",), tmp_path, NOW) == ["chest-xray-resnet50@1"]
    assert registry.version("chest-xray-resnet50").replaced == "demo-chest-xray@1"
    assert registry.version("chest-xray-resnet50").backfill_since is None
