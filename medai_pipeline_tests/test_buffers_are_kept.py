"""Freed buffers serve again: the pages of a second file are not asked of the kernel anew."""

from __future__ import annotations

import json
import subprocess
import sys

FILES = 200
HALF_A_MEGABYTE = 1 << 19

_COUNT = f"""
import json, resource, sys
from medai_pipeline.memory import keep_buffers
kept = keep_buffers() if sys.argv[1] == "kept" else None
source = bytes({HALF_A_MEGABYTE})
def files(count):
    for _ in range(count):
        data = bytes(memoryview(source))
        made = b"".join((data[:3000], memoryview(data)[3000:], b"de-identified"))
        del data, made
files(20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
files({FILES})
print(json.dumps([kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before]))
"""


def faults(how: str) -> tuple[bool | None, int]:
    done = subprocess.run([sys.executable, "-c", _COUNT, how], capture_output=True, text=True, check=True)
    kept, count = json.loads(done.stdout)
    return kept, count


def test_pages_are_asked_for_once_and_not_for_each_file() -> None:
    _, before = faults("given back")
    kept, after = faults("kept")
    pages = HALF_A_MEGABYTE // 4096
    assert kept
    assert before > FILES * pages / 2  # without the setting most pages are new to each file
    assert after < FILES  # with it hardly a page is
