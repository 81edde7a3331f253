"""The web application as people use it: served on a free port, over studies that one run of the real pipeline has read."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
import uvicorn
from playwright.sync_api import Page

from medai_pipeline.local.ports import free_port
from medai_pipeline.phantoms.studies import PhantomStudy, make_study
from medai_pipeline.services import Services
from medai_pipeline.settings import read_settings
from medai_pipeline.storage.keys import SiteKeys
from medai_pipeline.storage.tables import annotations, reviews
from medai_pipeline.storage.web_tables import annotation_versions, priority_overrides
from medai_pipeline.web import server
from medai_pipeline.web.authentication import COOKIE
from medai_pipeline_tests.browser import NewPage, complaints
from medai_pipeline_tests.orthanc import RunningOrthanc
from medai_pipeline_tests.pipeline import Pipeline, empty_pacs
from medai_pipeline_tests.postgres import NewDatabase

PASSWORD = "a password of some length"
PEOPLE = {"rita": "radiologist", "vic": "viewer", "eva": "engineer", "paul": "privacy-officer"}


@dataclass
class ReadingRoom:
    """`keys`: study keys of "pneumothorax" (two films), "consolidation" (CT), "prior" (of the first's patient), "failed"."""

    services: Services
    url: str
    keys: dict[str, str] = field(default_factory=dict)
    studies: dict[str, PhantomStudy] = field(default_factory=dict)

    def forget_opinions(self) -> None:
        """As if nobody had decided, prioritized or drawn anything: the next test finds the studies unread."""
        with self.services.engine.begin() as connection:
            connection.execute(sa.text("SET LOCAL session_replication_role = replica"))  # append-only triggers rest
            for table in (reviews, priority_overrides, annotation_versions, annotations):
                connection.execute(sa.delete(table))

    def rows(self, table: sa.Table, **where: Any) -> list[Any]:
        """What the database holds, by the values of columns."""
        conditions = [table.c[name] == value for name, value in where.items()]
        with self.services.engine.connect() as connection:
            return list(connection.execute(sa.select(table).where(*conditions)))

    def sign_in(self, page: Page, name: str = "rita") -> Page:
        """The page with a session of one of PEOPLE, without the form."""
        secret = self.services.sessions.open(name, None, self.services.now())
        page.context.add_cookies([{"name": COOKIE, "value": secret, "url": self.url, "httpOnly": True}])
        return page

    def content(self, which: str) -> Mapping[str, Any]:
        """The report that counts, as report.json."""
        return next(one for one in self.services.history.reports(self.keys[which]) if one.counts).content

    def open(self, page: Page, which: str) -> Page:
        """The study page, its first image on the canvas."""
        page.goto(f"{self.url}/studies/{self.keys.get(which, which)}")
        page.wait_for_selector("canvas[data-state=shown]")
        return page


@contextmanager
def served(services: Services) -> Iterator[str]:
    """The application's address, as long as it is served."""
    running = uvicorn.Server(server.config(services))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    try:
        waited = threading.Event()
        for _ in range(600):
            if running.started or not thread.is_alive():
                break
            waited.wait(0.05)
        assert running.started, "the application did not start within 30 s"
        yield f"http://127.0.0.1:{services.settings.api_port}"
    finally:
        running.should_exit = True
        thread.join(15)


def add_people(services: Services) -> None:
    for name, role in PEOPLE.items():
        services.users.add(name, PASSWORD, [role], "test", services.now())


@pytest.fixture(scope="session")
def room_settings(new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("reading-room")
    SiteKeys.load(None, home / "keys" / "site.key", create=True)
    return {
        "home": str(home), "database_url": new_database(), "stable_seconds": 0.0, "reconcile_seconds": 0.0, "retry_seconds": 0.0,
        "gpu_enabled": False, "api_port": free_port(), "dagster_url": "https://dagster.example", "ohif_url": "https://ohif.example/",
    }  # fmt: skip


@pytest.fixture(scope="session")
def read_studies(orthanc: RunningOrthanc, room_settings: dict[str, Any]) -> ReadingRoom:
    """The pipeline's one run. Tests that decide or draw do so on studies that no other test expects untouched."""
    empty_pacs(orthanc)
    settings = room_settings | {
        "orthanc_url": orthanc.url,
        "orthanc_username": orthanc.username,
        "orthanc_password": orthanc.password,
    }
    with dg.DagsterInstance.ephemeral() as instance:
        pipeline = Pipeline(settings, instance)
        studies = _studies()
        keys = dict(zip(studies, pipeline.send(*studies.values()), strict=True))
        pipeline.work()
    services = Services(read_settings({}, **settings))
    add_people(services)
    return ReadingRoom(services, "", keys, studies)


@pytest.fixture(scope="session")
def reading_room(read_studies: ReadingRoom) -> Iterator[ReadingRoom]:
    with served(read_studies.services) as url:
        read_studies.url = url
        yield read_studies


def _studies() -> dict[str, PhantomStudy]:
    films = make_study("chest-xray", 101, findings=("Pneumothorax",), monochrome1=False)
    prior = make_study("chest-xray", 104, findings=("Nodule",), monochrome1=True)
    for dataset in prior.datasets:
        for keyword in ("PatientID", "PatientName", "IssuerOfPatientID", "PatientBirthDate"):
            setattr(dataset, keyword, getattr(films.datasets[0], keyword))
    failed = make_study("chest-xray", 22)
    for dataset in failed.datasets:
        del dataset.PixelData
    volume = make_study("chest-ct", 106, findings=("Consolidation",), slices=6)
    return {"pneumothorax": films, "consolidation": volume, "prior": prior, "failed": failed}


@pytest.fixture
def page(new_page: NewPage, reading_room: ReadingRoom):
    """A radiologist's page; what a test decides or draws is forgotten after it."""
    page = reading_room.sign_in(new_page())
    yield page
    reading_room.forget_opinions()
    assert complaints(page) == []
