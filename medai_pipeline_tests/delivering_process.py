"""`python -m medai_pipeline_tests.delivering_process DATABASE_URL ORTHANC_URL RESULTS`: one try, in a process to be killed.

RESULTS is a pickle of (Identity, results); user and password of the PACS come from the environment.
"""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

from medai_pipeline.pacs.orthanc import Orthanc
from medai_pipeline.storage.database import engine_for
from medai_pipeline_tests.returning_desk import KEY, Counter


class _Made:
    """What stands for a sample here: its identity."""

    def __init__(self, identity: object) -> None:
        self.identity = identity


def main(database_url: str, orthanc_url: str, results: str) -> None:
    identity, made = pickle.loads(Path(results).read_bytes())
    pacs = Orthanc(orthanc_url, os.environ["PACS_USER"], os.environ["PACS_PASSWORD"])
    counter = Counter(engine_for(database_url), _Made(identity), pacs)  # type: ignore[arg-type]
    counter.desk("orthanc").deliver(KEY, lambda edition, identity: made, "killed-run")


if __name__ == "__main__":
    main(*sys.argv[1:])
