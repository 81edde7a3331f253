"""`python -m medai_pipeline_tests.stack_process HOME [trivial]`: a stack in a process of its own, for tests to kill.

Ports come from the environment. Without `trivial` only Postgres and Orthanc run; with it Dagster's services, too,
around one small asset. Prints the pids as JSON once everything serves.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from medai_pipeline.errors import MedaiError
from medai_pipeline.local.services import Context, code_server, daemon, webserver
from medai_pipeline.local.stack import Stack
from medai_pipeline.local.supervisor import Service
from medai_pipeline.settings import read_settings

TRIVIAL = "medai_pipeline_tests.trivial_definitions"


@contextmanager
def folder_for_a_stack() -> Iterator[Path]:
    """A folder that nobody else changes, and its end.

    Not pytest's own: as root every other pytest that starts closes that to the account that Postgres runs as, so that
    a killed Postgres could not start again.
    """
    folder = Path(tempfile.mkdtemp(prefix="medai-stack-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def nothing(context: Context) -> Sequence[Sequence[Service]]:
    return ()


def trivial(context: Context) -> Sequence[Sequence[Service]]:
    return ((code_server(context, TRIVIAL),), (daemon(context), webserver(context)))


def main(home: str, table: str = "nothing") -> int:
    stack = Stack(read_settings(home=home), lambda line: print(line, file=sys.stderr, flush=True), globals()[table])
    try:
        with stack:
            told = {"pid": os.getpid(), "services": stack.pids(), "database_url": stack.settings.database_url}
            print(json.dumps(told), flush=True)
            stack.wait()
    except MedaiError as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
