"""Long work at Orthanc as jobs that are waited for: no HTTP request lasts as long as the work, and none begins it twice."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from medai_pipeline.errors import PacsError, PacsUnreachable
from medai_pipeline.pacs.wire import Wire

FIRST_LOOK_S, LONGEST_LOOK_S = 0.05, 1.0
JOB_S = 600.0


class Jobs:
    """A part of `Orthanc`."""

    _wire: Wire

    def _job(self, path: str, body: Mapping[str, Any], within_s: float = JOB_S) -> dict[str, Any]:
        """Its content when it has succeeded. Raises PacsError with Orthanc's own word for a failure (never its details)."""
        asked = {**body, "Asynchronous": True, "Synchronous": False}
        begun = self._wire.read_json(self._wire.request("POST", path, json=asked, repeatable=False))
        return self._finished(begun["ID"], within_s)

    def _finished(self, job_id: str, within_s: float) -> dict[str, Any]:
        pause, deadline = FIRST_LOOK_S, time.monotonic() + within_s
        while True:
            job = self._wire.json(f"jobs/{job_id}")
            if job["State"] == "Success":
                return dict(job.get("Content", {}))
            if job["State"] == "Failure":
                raise PacsError(
                    f"the PACS at {self._wire.address} could not do it ({job.get('ErrorDescription', 'unknown')})"
                )
            if time.monotonic() > deadline:
                self._wire.request("POST", f"jobs/{job_id}/cancel", content=b"")
                raise PacsUnreachable(
                    f"the PACS at {self._wire.address} did not finish within {within_s:.0f} s: try again"
                )
            if self._wire.closed(pause):
                raise PacsUnreachable("the connection to the PACS was closed")
            pause = min(2 * pause, LONGEST_LOOK_S)
