"""`medai up` as its users run it: real daemon, code server, worker, Orthanc and Postgres; killed in the middle, searched."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from sqlalchemy import make_url

from medai_pipeline.dicom.read import group_by_study
from medai_pipeline.errors import MedaiError, StackError
from medai_pipeline.local.attached import attached_settings
from medai_pipeline.local.orthanc import find_binary
from medai_pipeline.local.paths import Home
from medai_pipeline.local.ports import free_port
from medai_pipeline.local.supervisor import end_leftovers
from medai_pipeline.models.cards import read_card
from medai_pipeline.phantoms.studies import PhantomStudy, make_study, to_bytes
from medai_pipeline.records import StudyState
from medai_pipeline.services import Services
from medai_pipeline.settings import read_settings
from medai_pipeline_tests.conftest import ROOT, missing
from medai_pipeline_tests.marker_search import database_text, holds
from medai_pipeline_tests.model_versions import demo_version
from medai_pipeline_tests.stack_process import folder_for_a_stack
from medai_pipeline_tests.versions_in_use import register_unexamined

PORTS = ("MEDAI_WEB_PORT", "MEDAI_API_PORT", "MEDAI_CODE_PORT", "MEDAI_ORTHANC_PORT", "MEDAI_DICOM_PORT")
SECONDS_TO_REPORT = 420.0  # generous: recovery of a killed worker includes importing torch on a busy machine


@dataclass
class Running:
    """A `medai up` and what tests ask of it."""

    home: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes]
    sent: dict[str, PhantomStudy] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    serves: threading.Event = field(default_factory=threading.Event)

    def read(self) -> None:
        """What it prints, until it ends: read by nobody, it would fill the pipe and stop there."""
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line.decode(errors="replace"))
            if line.startswith(b"logs"):
                self.serves.set()

    @property
    def services(self) -> Services:
        """New each time: Postgres and Orthanc may have been killed under an older one."""
        return Services(attached_settings(read_settings({}, home=str(self.home))))

    def medai(self, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "medai_pipeline.cli", *arguments]
        return subprocess.run(command, env=self.environment, cwd=ROOT, capture_output=True, text=True, **more)

    def send(self, *studies: PhantomStudy) -> list[str]:
        services = self.services
        keys = []
        for study in studies:
            assert all(r.stored for r in services.pacs.upload_many([to_bytes(d) for d in study.datasets]))
            keys.append(services.keys.study_key(str(study.datasets[0].StudyInstanceUID)))
            self.sent[keys[-1]] = study
        return keys

    def kill(self, service: str) -> None:
        pid = json.loads((self.home / "run" / f"{service}.json").read_text())[-1][0]
        os.kill(pid, signal.SIGKILL)

    def state(self, key: str) -> Any:
        try:
            return self.services.lifecycle.study(key)
        except MedaiError:  # Postgres is being healed
            return None

    def wait_for(self, what: Callable[[], bool], words: str) -> None:
        deadline, pause = time.monotonic() + SECONDS_TO_REPORT, threading.Event()
        while not what():
            assert time.monotonic() < deadline, f"{words}\n{self.logs()}"
            assert self.process.poll() is None, f"medai up ended\n{self.logs()}"
            pause.wait(0.2)

    def wait_reported(self, keys: list[str]) -> None:
        def reported() -> bool:
            rows = [self.state(key) for key in keys]
            return all(row is not None and row.state is StudyState.REPORTED for row in rows)

        self.wait_for(reported, f"not all of {len(keys)} studies were reported")

    def reports(self, key: str) -> int:
        url = make_url(self.services.settings.database_url or "").set(drivername="postgresql")
        with psycopg.connect(url.render_as_string(hide_password=False)) as connection:
            row = connection.execute("SELECT count(*) FROM medai.reports WHERE study_key = %s", (key,)).fetchone()
            assert row
            return row[0]

    def said(self, key: str) -> list[tuple[str, str]]:
        """(version, role) of every answer about a study."""
        with self.services.engine.connect() as connection:
            rows = connection.exec_driver_sql(
                "SELECT model_version, role FROM medai.inference_results WHERE study_key = %s ORDER BY id", (key,)
            )
            return [tuple(row) for row in rows]

    def logs(self) -> str:
        logs = (self.home / "logs").glob("*.log")
        return "".join(self.lines[-30:]) + "\n".join(
            f"--- {p.name}\n{p.read_text(errors='replace')[-3000:]}" for p in logs
        )


@pytest.fixture(scope="module")
def stack() -> Iterator[Running]:
    try:
        find_binary()
    except StackError as error:
        missing(error.reason)
    with folder_for_a_stack() as folder, started(folder / "home") as running:
        yield running


@contextmanager
def started(home: Path) -> Iterator[Running]:
    environment = {**os.environ, **{name: str(free_port()) for name in PORTS}, "MEDAI_HOME": str(home)}
    environment |= {"MEDAI_STABLE_SECONDS": "2", "MEDAI_RECONCILE_SECONDS": "5", "MEDAI_RETRY_SECONDS": "2"}
    command = [sys.executable, "-m", "medai_pipeline.cli", "up"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    running = Running(home, environment, process)
    reader = threading.Thread(target=running.read, daemon=True)
    reader.start()
    try:
        deadline = time.monotonic() + SECONDS_TO_REPORT
        while not running.serves.wait(0.5):
            assert process.poll() is None and time.monotonic() < deadline, running.logs()
        yield running
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(timeout=120)
        reader.join(timeout=10)
        end_leftovers(Home(home))


def film(seed: int, **more: Any) -> PhantomStudy:
    return make_study("chest-xray", seed, **more)


def test_what_arrives_is_reported_and_the_worklist_command_shows_it(stack: Running) -> None:
    keys = stack.send(film(201, findings=("Pneumothorax",)), film(202, findings=()))
    stack.wait_reported(keys)
    shown = json.loads(stack.medai("worklist", "--json", check=True).stdout)
    assert {row["study_key"] for row in shown["studies"]} >= set(keys)
    assert "Research use only" in shown["disclaimer"]


def test_the_examples_of_the_api_page_run_as_they_are(stack: Running, tmp_path: Path) -> None:
    added = stack.medai("users", "add", "ann", "--role", "radiologist", check=True)
    token = stack.medai("users", "token", "ann", "--label", "examples", check=True).stdout.strip()
    films = [film(203, findings=("Pneumothorax",)), film(204)]
    (tmp_path / "film.dcm").write_bytes(to_bytes(films[0].datasets[0]))
    (tmp_path / "more").mkdir()
    for number, dataset in enumerate(films[1].datasets):
        (tmp_path / "more" / f"{number}.dcm").write_bytes(to_bytes(dataset))
    page = (ROOT / "docs" / "api.md").read_text()
    (tmp_path / "examples.py").write_text("\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)))
    url = f"http://127.0.0.1:{stack.environment['MEDAI_API_PORT']}"
    environment = {**os.environ, "MEDAI_URL": url, "MEDAI_TOKEN": token}
    command = [sys.executable, "examples.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr + stack.logs()
    assert re.search(r"Pneumothorax +[01]\.\d+ present", done.stdout), done.stdout
    assert re.search(r"5-95%: [01]\.\d+ to", done.stdout), done.stdout
    assert (tmp_path / "Pneumothorax.png").read_bytes().startswith(b"\x89PNG")
    assert httpx.get(f"{url}/ready", trust_env=False, timeout=30).json()["status"] == "ready"
    stack.sent |= {stack.services.keys.study_key(str(f.datasets[0].StudyInstanceUID)): f for f in films}
    password = added.stdout.split()[-1]
    written = b"".join(path.read_bytes() for path in (stack.home / "logs").rglob("*.log"))
    assert password.encode() not in written and token.encode() not in written


def test_the_first_start_shows_a_password_that_lets_in_and_is_written_nowhere(stack: Running) -> None:
    (line,) = [line for line in stack.lines if line.startswith("log in as")]
    name, password = re.findall(r"log in as  (\S+) with password (\S+)", line)[0]
    url = f"http://127.0.0.1:{stack.environment['MEDAI_API_PORT']}"
    with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
        client.get("/login")
        form = {"name": name, "password": password, "csrf_token": client.cookies["medai_login"]}
        assert client.post("/login", data=form).status_code == 303
        assert client.get("/api/v1/me").json()["roles"] == ["admin", "engineer"]
    for path in stack.home.rglob("*"):
        if path.is_file():
            assert password.encode() not in path.read_bytes(), path


def test_a_second_up_on_the_same_home_is_refused_with_the_pid_of_the_first(stack: Running) -> None:
    second = stack.medai("up", timeout=60)
    assert second.returncode == 1
    assert str(stack.process.pid) in second.stdout + second.stderr
    assert "Traceback" not in second.stdout + second.stderr


@pytest.mark.parametrize("service", ["daemon", "code", "worker", "orthanc", "postgres"])
def test_kill_9_between_send_and_report_loses_and_doubles_nothing(stack: Running, service: str) -> None:
    seed = 300 + 10 * ["daemon", "code", "worker", "orthanc", "postgres"].index(service)
    keys = stack.send(film(seed), make_study("chest-ct", seed + 1, slices=6))
    if service in {"worker", "postgres"}:  # in the middle of the run itself
        running = {StudyState.RUNNING, StudyState.REPORTED}
        stack.wait_for(lambda: getattr(stack.state(keys[0]), "state", None) in running, "the run never started")
    stack.kill(service)
    stack.wait_reported(keys)
    for key in keys:
        assert stack.reports(key) == 1
        assert len(stack.services.lifecycle.revisions(key)) == 1


def test_files_that_nobody_here_made_reach_a_report(stack: Running, test_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "real"
    folder.mkdir()
    real = sorted((test_data / "dicom" / "nhsx").rglob("*.dcm"))
    wanted = {"CT1_J2KR", "MR1_JLSL", "RG1_J2KI", "CT2_JPLL"}
    real += [path for path in sorted((test_data / "dicom" / "wg04").rglob("*")) if path.name in wanted]
    assert len(real) == 6
    for number, path in enumerate(real):
        shutil.copy(path, folder / f"{number}.dcm")
    port = stack.environment["MEDAI_DICOM_PORT"]
    sent = stack.medai("send", "--dicom", f"127.0.0.1:{port}", "--aet", "MEDAI", str(folder))
    assert sent.returncode == 0, sent.stdout + sent.stderr
    found, _ = group_by_study([folder])
    keys = [stack.services.keys.study_key(study.study_instance_uid) for study in found]
    stack.wait_reported(keys)


ACTIVE, NEW = "demo-chest-xray@1", "demo-chest-xray@2"


@pytest.fixture(scope="module")
def second_version(stack: Running, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A further version of the film model, whose every logit is higher. (The command that registers has its own tests.)"""
    card, weights = demo_version(tmp_path_factory.mktemp("version"), "2", shift=3.0)
    return register_unexamined(stack.services, read_card(card), weights.read_bytes())


def read_by(stack: Running, keys: list[str]) -> set[str]:
    """Which versions the worklist names for these studies."""
    return {row.models[0] for row in stack.services.worklist.worklist() if row.study_key in keys}


def shown_as_read_by(stack: Running, keys: list[str]) -> set[str]:
    """The same as the command says it: a process that takes seconds of the machine, so not asked while something is waited for."""
    shown = json.loads(stack.medai("worklist", "--json").stdout or "{}").get("studies", [])
    return {row["models"][0] for row in shown if row["study_key"] in keys}


def test_a_shadow_reads_new_studies_beside_the_active_version_and_the_worklist_does_not_know_it(
    stack: Running, second_version: str
) -> None:
    done = stack.medai("models", "promote", second_version, "--shadow")
    assert done.returncode == 0, done.stdout + done.stderr
    keys = stack.send(film(704))
    stack.wait_reported(keys)
    stack.wait_for(lambda: stack.said(keys[0]) == [("1", "primary"), ("2", "shadow")], "the shadow was not asked")
    assert shown_as_read_by(stack, keys) == {ACTIVE}
    found = json.loads(stack.medai("models", "compare", second_version, "--json", check=True).stdout)
    assert {row["study"] for row in found["priorities"]} == set(keys)
    assert found["findings"] and all(row["new"] >= row["old"] for row in found["findings"])
    shown = stack.medai("models", "compare", second_version, check=True).stdout
    assert "1 studies read by both" in shown and "Research use only" in shown
    stack.wait_for(lambda: f"{ACTIVE}..{NEW}" in comparisons(stack), "Dagster does not show the comparison")


def test_a_promoted_version_reads_the_older_studies_again_though_the_worker_dies(
    stack: Running, second_version: str
) -> None:
    keys = stack.send(*(film(seed) for seed in (701, 702, 703)))
    stack.wait_reported(keys)
    with ThreadPoolExecutor(1) as pool:  # its run may be over before the command is
        promoting = pool.submit(stack.medai, "models", "promote", NEW, "--yes", timeout=SECONDS_TO_REPORT)
        stack.wait_for(lambda: any(at_work(stack, key) for key in keys), "no run")
        stack.kill("worker")
        done = promoting.result()
    assert done.returncode == 0 and "read by another version" in done.stdout, done.stdout + done.stderr
    stack.wait_for(lambda: read_by(stack, keys) == {NEW}, "not all studies were read again")
    assert shown_as_read_by(stack, keys) == {NEW}
    stack.wait_for(lambda: NEW in backfills(stack), "Dagster does not list the backfill")
    assert [stack.reports(key) for key in keys] == [2, 2, 2]


def at_work(stack: Running, key: str) -> bool:
    """A run has the study, or has had it: on a quick machine nobody sees it at work."""
    return getattr(stack.state(key), "state", None) is StudyState.RUNNING or stack.reports(key) == 2


def backfills(stack: Running) -> set[str]:
    """The model versions whose backfills the Dagster page lists."""
    listed = graphql(stack, "partitionBackfillsOrError", "... on PartitionBackfills{results{tags{key value}}}")
    tags = [tag for one in listed.get("results", ()) for tag in one["tags"]]
    return {tag["value"] for tag in tags if tag["key"] == "medai/backfill"}


def comparisons(stack: Running) -> set[str]:
    """The pairs of versions that the page shows a comparison of."""
    asset = 'assetOrError(assetKey:{path:["model_comparison"]})'
    found = graphql(stack, asset, "... on Asset{assetMaterializations{partition}}")
    return {one["partition"] for one in found.get("assetMaterializations", ())}


def graphql(stack: Running, field: str, wanted: str) -> dict[str, Any]:
    """What the Dagster page answers. After Postgres was killed its first answer is an error of its old connection: shown."""
    query = f"{{{field}{{{wanted} ... on Error{{message}}}}}}"
    url = f"http://127.0.0.1:{stack.environment['MEDAI_WEB_PORT']}/graphql"
    answer = httpx.post(url, json={"query": query}, timeout=60).json()
    (found,) = (answer.get("data") or {"": answer}).values()
    if "message" in found or "errors" in found:
        print(found)
    return dict(found)


def test_planted_identities_are_nowhere_but_in_the_pacs(stack: Running, tmp_path: Path) -> None:
    keys = stack.send(film(401, burned_in=True), make_study("brain-mr", 402, slices=4))
    stack.wait_reported(keys)
    markers = sorted({m for study in stack.sent.values() for m in study.markers if len(m) >= 6})
    assert len(markers) > 50
    assert stack.medai("worklist", "--export", str(tmp_path / "reports")).returncode == 0
    services = stack.services
    haystacks: dict[str, bytes] = {"database": database_text(services.settings.database_url or "")}
    for folder in ("logs", "dagster", "run", "objects"):
        haystacks |= {f"{folder}/{p.name}": p.read_bytes() for p in (stack.home / folder).rglob("*") if p.is_file()}
    haystacks |= {str(p): p.read_bytes() for p in (tmp_path / "reports").rglob("*") if p.is_file()}
    # What is encrypted is searched decrypted, but for the raw files, which are what the PACS holds.
    for name in services.objects.names():
        if not name.startswith("raw/"):
            haystacks[f"decrypted {name}"] = services.objects.get(name)
    assert len(haystacks) > 50
    found = [(place, m) for place, data in haystacks.items() for m in markers if holds(data, m)]
    assert found == []
    names = "\n".join(str(p) for p in stack.home.rglob("*"))
    assert [m for m in markers if holds(names.encode(), m)] == []


def test_a_date_is_found_anywhere_but_inside_a_new_uid() -> None:
    uid = b"2.25.173413899719880920218558851002384793985"
    assert not holds(b"<" + uid + b">", "19880920")
    for data in (uid + b" 19880920", b"19880920123000", b"1.2.3.19880920", b"2.25.19880920"):
        assert holds(data, "19880920")


def test_the_search_would_find_a_marker_in_the_database(stack: Running) -> None:
    """A search that can fail: the plain marker, stored once, is found by the same means."""
    url = stack.services.settings.database_url or ""
    with psycopg.connect(make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)) as c:
        c.execute("CREATE TABLE public.planted AS SELECT 'ZZMARKplanted'::text AS value")
    assert b"ZZMARKplanted" in database_text(url)
    with psycopg.connect(make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)) as c:
        c.execute("DROP TABLE public.planted")


def test_the_audit_chain_holds_over_all_that(stack: Running) -> None:
    check = stack.services.audit.verify()
    assert check.ok, check.reason
    assert check.records > 0


def test_sigterm_ends_everything(stack: Running) -> None:
    import psutil

    everyone = psutil.Process(stack.process.pid).children(recursive=True)
    assert len(everyone) >= 5
    stack.process.send_signal(signal.SIGTERM)
    stack.process.wait(timeout=120)
    assert [p for p in everyone if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
    assert stack.process.returncode == 0
