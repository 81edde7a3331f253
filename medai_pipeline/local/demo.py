"""`medai demo`: phantoms to Orthanc, then wait until the pipeline has reported each, then the worklist."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from medai_pipeline import DISCLAIMER
from medai_pipeline.local import worklist as page
from medai_pipeline.local.stack import Stack
from medai_pipeline.records import StudyState
from medai_pipeline.services import Services

POLL_SECONDS = 0.5


def run_demo(stack: Stack, timeout_s: float, echo: Callable[[str], None], progress: Any) -> bool:
    """True when every study that was sent has a report. Writes the reports to MEDAI_HOME/demo as plain files."""
    services = Services(stack.settings)
    keys = _send(services, progress)
    complete = _wait(stack, services, keys, timeout_s, progress)
    page.terminal().print(page.as_table(services))
    folder = stack.home.root / "demo"
    page.export_reports(services, folder)
    echo(DISCLAIMER)
    echo(f"reports    {folder}/<study>/report.html")
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
