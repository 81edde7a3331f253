"""`medai demo`: phantoms to Orthanc, then wait until the pipeline has reported each, then the worklist."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from medai_pipeline import DISCLAIMER
from medai_pipeline.local import worklist as page
from medai_pipeline.local.stack import Stack
from medai_pipeline.pacs.destination import ORTHANC
from medai_pipeline.records import StudyState
from medai_pipeline.services import Services
from medai_pipeline.settings import Settings

POLL_SECONDS = 0.5
RETURN_TIMEOUT_S = 120.0


def demo_settings(settings: Settings) -> Settings:
    """With the results returned at once, where the PACS is the demo's own and nobody has decided otherwise."""
    if settings.orthanc_url or "MEDAI_RETURN" in os.environ:
        return settings
    return replace(settings, return_when="at-once", return_to=ORTHANC)


def run_demo(stack: Stack, timeout_s: float, echo: Callable[[str], None], progress: Any) -> bool:
    """True when every study that was sent has a report. Writes the reports to MEDAI_HOME/demo as plain files."""
    services = Services(stack.settings)
    keys = _send(services, progress)
    complete = _wait(stack, services, keys, timeout_s, progress)
    if complete and stack.settings.return_when == "at-once":
        complete = _wait_for_results(stack, services, keys, progress)
    page.terminal().print(page.as_table(services))
    folder = stack.home.root / "demo"
    page.export_reports(services, folder)
    echo(DISCLAIMER)
    echo(f"reports    {folder}/<study>/report.html")
    if stack.settings.return_when == "at-once":
        echo(
            f"results    beside the images in the PACS: {stack.settings.orthanc_url} (user {stack.settings.orthanc_username})"
        )
    return complete


def _send(services: Services, progress: Any) -> set[str]:
    """The demo's phantoms, made and uploaded; the study keys they will have."""
    from medai_pipeline.phantoms.studies import demo_worklist, make_study, to_bytes

    wanted = demo_worklist()
    keys = set()
    with progress("sending synthetic studies", len(wanted)) as advance:
        for order in wanted:
            study = make_study(**order)
            services.pacs.upload_many([to_bytes(dataset) for dataset in study.datasets])
            keys.add(services.keys.study_key(str(study.datasets[0].StudyInstanceUID)))
            advance(1)
    return keys


def _wait(stack: Stack, services: Services, keys: set[str], timeout_s: float, progress: Any) -> bool:
    """Until each study is reported or has failed for good; False when one failed or time is up."""
    deadline = time.monotonic() + timeout_s
    seen: set[str] = set()
    pause = threading.Event()
    with progress("waiting for reports", len(keys)) as advance:
        while time.monotonic() < deadline and not stack.interrupted.is_set():
            reported = {row.study_key for row in services.worklist.worklist()} & keys
            failed = {r.study_key for r in services.worklist.in_progress() if r.state is StudyState.FAILED} & keys
            advance(len((reported | failed) - seen))
            seen |= reported | failed
            if seen == keys:
                return not failed
            pause.wait(POLL_SECONDS)
    return False


def _wait_for_results(stack: Stack, services: Services, keys: set[str], progress: Any) -> bool:
    """Until the results of each study lie in the PACS; False when some were refused or time is up."""
    deadline = time.monotonic() + RETURN_TIMEOUT_S
    keys = {row.study_key for row in services.worklist.worklist() if row.models} & keys  # without one nothing is said
    seen: set[str] = set()
    pause = threading.Event()
    with progress("returning results to the PACS", len(keys)) as advance:
        while time.monotonic() < deadline and not stack.interrupted.is_set():
            rows = [row for row in services.deliveries.latest() if row.study_key in keys]
            done = {row.study_key for row in rows if not row.open}
            advance(len(done - seen))
            seen |= done
            if seen == keys:
                return all(row.state == "sent" for row in rows)
            pause.wait(POLL_SECONDS)
    return False
