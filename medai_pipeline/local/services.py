"""The table of what Dagster needs running: a service more is a row more. How a row is kept running: `supervisor`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from medai_pipeline.local.paths import Home
from medai_pipeline.local.ports import LOOPBACK, answers
from medai_pipeline.local.supervisor import Service
from medai_pipeline.settings import Settings

CODE_MODULE = "medai_pipeline.definitions"
CODE_ATTRIBUTE = "defs"
SECRETS = frozenset({"MEDAI_KEY", "ORTHANC_PASSWORD", "MEDAI_OIDC_CLIENT_SECRET", "MEDAI_METRICS_TOKEN"})


@dataclass(frozen=True)
class Context:
    """What a row may use. `environment` is the children's; `bin` holds the programs of this Python."""

    settings: Settings
    home: Home
    environment: Mapping[str, str]
    python: str = sys.executable
    bin: Path = field(default_factory=lambda: Path(sys.executable).parent)

    @property
    def workspace(self) -> Path:
        return self.home.dagster / "workspace.yaml"


# A row: (group, service). Groups start one after the other; what stands in one group starts together.
Table = Callable[[Context], Sequence[Sequence[Service]]]


def all_services(context: Context) -> Sequence[Sequence[Service]]:
    """Code server, worker and our pages; then daemon, Dagster's page and what takes in files; when all serve, what may wait."""
    taking_in = (receiver(context),) if context.settings.receives else ()
    first = (code_server(context), worker(context), api(context))
    return (first, (daemon(context), webserver(context), *taking_in), (preparing(context),))


def code_server(context: Context, module: str = CODE_MODULE) -> Service:
    """It listens once the definitions are loaded, and ends with an error when they cannot be."""
    port = context.settings.code_port
    arguments = ("-m", module, "-a", CODE_ATTRIBUTE, "-h", LOOPBACK, "-p", str(port))
    return Service(
        name="code",
        command=(context.python, "-m", "dagster", "api", "grpc", *arguments, *_levels(context)),
        ready=lambda: answers(port),
        environment=context.environment,
        shown=f"{LOOPBACK}:{port}",
        start_timeout_s=120,
        keep_orphans=True,  # a run that the killed server had begun finishes by itself
    )


def worker(context: Context) -> Service:
    """Executes the runs. It is ready at once: a run that comes while it still imports waits in the broker."""
    count = context.settings.workers
    return Service(
        name="worker",
        command=(
            *(context.python, "-m", "celery", "-A", "medai_pipeline.orchestration.worker", "worker"),
            *("-Q", "dagster", "-c", str(count), "--prefetch-multiplier", "1", "--max-tasks-per-child", "500"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
            *("-l", context.settings.log_level),
        ),
        ready=lambda: True,
        environment=context.environment,
        shown=f"{count} process{'es' if count > 1 else ''}, models loaded once",
        grace_s=5,  # the studies of a longer run are taken up again at the next start
        leader_only=True,  # it lets a short run finish; a signalled child would only be replaced, and warmed again
    )


def preparing(context: Context) -> Service:
    """Finds out how this machine computes each model fastest, behind everything else: plain torch serves meanwhile."""
    return Service(
        name="prepare",
        command=("nice", "-n", "19", context.python, "-m", "medai_pipeline.cli", "models", "prepare", "--missing"),
        ready=lambda: True,
        # on one thread it is the process's own time that counts, so that other work does not spoil the figures
        environment={**context.environment, "OMP_NUM_THREADS": "1"},
        shown="models that are new to this machine are measured in the background",
        once=True,
    )


def daemon(context: Context) -> Service:
    return Service(
        name="daemon",
        command=(context.python, "-m", "dagster._daemon", "run", "-w", str(context.workspace), *_levels(context)),
        ready=_daemon_beats(context.settings.web_port),
        environment=_without_secrets(context),
        shown="sensors, schedules, run queue",
        start_timeout_s=120,
        grace_s=15,
    )


def webserver(context: Context) -> Service:
    port = context.settings.web_port
    return Service(
        name="web",
        command=(
            *(context.python, "-m", "dagster_webserver", "-h", LOOPBACK, "-p", str(port)),
            *("-w", str(context.workspace), "--log-level", "warning"),
        ),
        ready=lambda: answers(port),
        environment=_without_secrets(context),
        shown=f"http://{LOOPBACK}:{port}",
        start_timeout_s=120,
    )


def _without_secrets(context: Context) -> dict[str, str]:
    """Dagster's own processes run none of our code that reads or seals: they are told no key and no password but the database's."""
    return {name: value for name, value in context.environment.items() if name not in SECRETS}


def receiver(context: Context) -> Service:
    """C-STORE and inbox. What it has acknowledged is in the spool: it may be killed at any time."""
    settings = context.settings
    ways = [f"{settings.scp_address}:{settings.scp_port}"] if settings.scp_port else []
    return Service(
        name="receive",
        command=(context.python, "-m", "medai_pipeline.local.receiving"),
        ready=lambda: settings.scp_port is None or answers(settings.scp_port, settings.scp_address),
        environment=context.environment,
        shown=", ".join(ways + ([settings.inbox] if settings.inbox else [])),
    )


def api(context: Context) -> Service:
    """The worklist and the REST API."""
    settings = context.settings
    return Service(
        name="api",
        command=(context.python, "-m", "medai_pipeline.web"),
        ready=lambda: answers(settings.api_port, settings.api_host),
        environment=context.environment,
        shown=page_url(settings),
    )


def page_url(settings: Settings) -> str:
    """Where a browser finds the worklist."""
    if settings.public_url:
        return settings.public_url
    return f"{'https' if settings.tls_cert else 'http'}://{settings.api_host}:{settings.api_port}"


def _levels(context: Context) -> tuple[str, ...]:
    form = "json" if context.settings.log_format == "json" else "colored"
    return ("--log-level", context.settings.log_level.lower(), "--log-format", form)


def _daemon_beats(web_port: int) -> Callable[[], bool]:
    """Ready when every required daemon has sent a heartbeat since now, by the web page's GraphQL."""
    query = "{instance{daemonHealth{allDaemonStatuses{required lastHeartbeatTime}}}}"
    begun = time.time()

    def beats() -> bool:
        try:
            with httpx.Client(trust_env=False, timeout=5) as client:
                answer = client.post(f"http://{LOOPBACK}:{web_port}/graphql", json={"query": query})
        except httpx.TransportError:
            return False
        if not answer.is_success:
            return False
        statuses = answer.json()["data"]["instance"]["daemonHealth"]["allDaemonStatuses"]
        times = [status["lastHeartbeatTime"] for status in statuses if status["required"]]
        return bool(times) and all(beat is not None and beat >= begun for beat in times)

    return beats
