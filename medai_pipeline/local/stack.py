"""The whole stack on one machine, from lock to web page: what comes in which order, and what the children are told."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import medai_pipeline
from medai_pipeline.errors import StackError
from medai_pipeline.local import attached, ports
from medai_pipeline.local.lock import HomeLock
from medai_pipeline.local.orthanc import LocalOrthanc
from medai_pipeline.local.paths import Home
from medai_pipeline.local.postgres import EmbeddedPostgres, check
from medai_pipeline.local.services import Context, Table, all_services, page_url
from medai_pipeline.local.supervisor import Supervisor, end_leftovers
from medai_pipeline.memory import no_core_files
from medai_pipeline.settings import SETTINGS, Settings

WORKSPACE = """\
load_from:
  - grpc_server:
      host: {host}
      port: {port}
      location_name: medai
"""

attached_settings = attached.attached_settings

# A sweep over a large PACS takes longer than the minute that Dagster gives a sensor.
_FOR_DAGSTER = {
    "DAGSTER_DISABLE_TELEMETRY": "1",
    "DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS": "600",
    "PYTHONUNBUFFERED": "1",
}


class Stack:
    """Postgres, Orthanc, code server, daemon and web page of one MEDAI_HOME.

    `settings` becomes effective at `start()`: DATABASE_URL and ORTHANC_* are then those that serve. `services`
    is the table of what runs beside Postgres and Orthanc. `demo` lets a demo radiologist in.
    """

    def __init__(
        self,
        settings: Settings,
        echo: Callable[[str], None] = print,
        services: Table = all_services,
        demo: bool = False,
    ) -> None:
        self.settings = settings
        self.home = Home(settings.home_path)
        self._given = settings
        self._echo = echo
        self._services = services
        self._demo = demo
        self._first_users: list[str] = []
        self.interrupted = threading.Event()
        self._wake = threading.Event()
        self._handlers: dict[signal.Signals, Any] = {}
        self._lock = HomeLock(self.home.run / "stack.lock")
        self._supervisor = Supervisor(self.home, echo, self.interrupted)
        self._supervisor.failed = self._wake

    def __enter__(self) -> Stack:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when everything serves. Raises StackError and leaves nothing running when something cannot."""
        no_core_files()
        self.home.make()
        self._lock.acquire()
        self._catch_signals()
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def wait(self) -> None:
        """Returns at SIGINT, SIGTERM or `interrupt()`. Raises StackError when a service had to be given up."""
        self._wake.wait()
        if self._supervisor.failure and not self.interrupted.is_set():
            raise self._supervisor.failure

    def interrupt(self) -> None:
        """Ends `wait()`, or a start that is under way."""
        self.interrupted.set()
        self._wake.set()

    def stop(self) -> None:
        """Ends every process, in reverse order. May be called twice."""
        attached.remove(self.home)
        if self._supervisor.pids():
            self._echo("stopping ...")
        self._supervisor.stop()
        self._lock.release()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def pids(self) -> dict[str, int]:
        """The present pid of each service."""
        return self._supervisor.pids()

    def environment(self) -> dict[str, str]:
        """The children's environment: ours, with every setting as it is in effect."""
        from medai_pipeline.orchestration.celery_urls import celery_urls
        from medai_pipeline.storage.database import dagster_url

        values = {setting.variable: getattr(self.settings, setting.attribute) for setting in SETTINGS}
        told = {variable: _text(value) for variable, value in values.items() if value is not None}
        told |= {"MEDAI_HOME": str(self.home.root), "DAGSTER_HOME": str(self.home.dagster)}
        if self.settings.database_url:
            told["MEDAI_DAGSTER_DATABASE_URL"] = dagster_url(self.settings.database_url)
            told |= celery_urls(told["MEDAI_DAGSTER_DATABASE_URL"], self.settings.broker_url)
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
        return {**os.environ, **told, "PATH": path, **_FOR_DAGSTER}

    def _start(self) -> None:
        attached.remove(self.home)
        left = end_leftovers(self.home)
        if left:
            self._echo(f"ended {left} services that a killed stack had left running")
        self._require_ports()
        self._make_key()
        self._start_postgres()
        self._migrate()
        self._register_models()
        self._make_first_users()
        self._start_orthanc()
        self._write_dagster_home()
        attached.write(self.home, self.settings)
        context = Context(self.settings, self.home, self.environment())
        for group in self._services(context):
            self._supervisor.start(*group)
        self._echo(f"studies    http://{ports.LOOPBACK}:{self.settings.web_port}")
        self._echo(f"worklist   {page_url(self.settings)}")
        for line in self._first_users:
            self._echo(line)
        self._echo(f"PACS       {self.settings.pacs or self.settings.orthanc_url}")
        self._echo(f"logs       {self.home.logs}")

    def _require_ports(self) -> None:
        names = ("MEDAI_WEB_PORT", "MEDAI_API_PORT", "MEDAI_CODE_PORT")
        wanted = {name: getattr(self.settings, name.removeprefix("MEDAI_").lower()) for name in names}
        if not self._given.orthanc_url and not self._given.pacs:
            wanted |= {"MEDAI_ORTHANC_PORT": self.settings.orthanc_port, "MEDAI_DICOM_PORT": self.settings.dicom_port}
        optional = {"MEDAI_SCP_PORT": self.settings.scp_port, "MEDAI_PACS_MOVE_PORT": self.settings.pacs_move_port}
        wanted |= {setting: port for setting, port in optional.items() if port is not None}
        ports.require_distinct(wanted)
        for setting, port in wanted.items():
            ports.require_free(port, setting)

    def _make_key(self) -> None:
        from medai_pipeline.storage.keys import SiteKeys

        SiteKeys.load(self.settings.key, self.settings.key_path, create=True)

    def _start_postgres(self) -> None:
        if self.settings.database_url:
            return check(self.settings.database_url)
        postgres = EmbeddedPostgres(self.home.postgres)
        postgres.prepare()
        self._supervisor.start(postgres.service(plain_environment()))
        self.settings = dataclasses.replace(self.settings, database_url=postgres.url)

    def _migrate(self) -> None:
        from medai_pipeline.storage.database import engine_for, migrate

        assert self.settings.database_url
        engine = engine_for(self.settings.database_url)
        try:
            migrate(engine)
        finally:
            engine.dispose()

    def _register_models(self) -> None:
        """The packaged models, and what MEDAI_MODELS names, where the registry knows none of that name."""
        from medai_pipeline.registering import register_packaged
        from medai_pipeline.services import Services

        services = Services(self.settings)
        try:
            path, names = self.settings.models_path, self.settings.models
            for label in register_packaged(services.registry, names, path, services.now()):
                row = services.registry.version(*label.split("@", 1))
                self._echo(f"models     {label} is {row.state}")
        finally:
            services.engine.dispose()

    def _make_first_users(self) -> None:
        """Who can log in at first, with passwords that are shown on this terminal once and written nowhere."""
        from medai_pipeline.local.user_commands import first_users
        from medai_pipeline.services import Services

        services = Services(self.settings)
        try:
            self._first_users = first_users(services, self._demo)
        finally:
            services.engine.dispose()

    def _start_orthanc(self) -> None:
        if self.settings.orthanc_url or self.settings.pacs:
            return
        settings = self.settings
        orthanc = LocalOrthanc(
            self.home,
            settings.orthanc_port,
            settings.dicom_port,
            settings.orthanc_username,
            settings.orthanc_password,
            tuple(filter(None, settings.dicom_senders.split(","))),
        )
        self._supervisor.start(orthanc.service(plain_environment()))
        self.settings = dataclasses.replace(settings, orthanc_url=orthanc.url, orthanc_password=orthanc.password)

    def _write_dagster_home(self) -> None:
        source = Path(medai_pipeline.__file__).parents[1] / "dagster.yaml"
        if not source.is_file():
            raise StackError(f"{source} is missing: install medai_pipeline from its repository (pip install -e .)")
        shutil.copyfile(source, self.home.dagster / "dagster.yaml")
        workspace = WORKSPACE.format(host=ports.LOOPBACK, port=self.settings.code_port)
        (self.home.dagster / "workspace.yaml").write_text(workspace)

    def _catch_signals(self) -> None:
        """A signal asks for the stop; only the main thread may install handlers."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.interrupt()


def plain_environment() -> dict[str, str]:
    """For programs that are not ours: without any of our settings. Whoever administers the database can read the environment
    of its server, and is not to find the site's key there."""
    return {name: value for name, value in os.environ.items() if name not in {setting.variable for setting in SETTINGS}}


def _text(value: object) -> str:
    """A setting's value as the environment would give it."""
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
