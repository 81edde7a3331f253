"""What the worklist page costs with many open studies: server time, bytes, and until it can be used in a real Chromium.

    python benchmarks/worklist_page.py --studies 10 1000 --rounds 7

Needs chromium on the path; starts a Postgres of its own and ends it. Rows alone are made, no images. Wall times of a loaded
machine say little: compare the columns within one run.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from medai_pipeline.local.ports import free_port
from medai_pipeline.services import Services
from medai_pipeline.settings import read_settings
from medai_pipeline.storage.database import migrate
from medai_pipeline.storage.keys import SiteKeys
from medai_pipeline.web.authentication import COOKIE
from medai_pipeline.web.pages.worklist_rows import rows
from medai_pipeline_tests.many_studies import add_studies
from medai_pipeline_tests.postgres import _embedded
from medai_pipeline_tests.reading_room import add_people, served
from medai_pipeline_tests.test_report_content import make


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, nargs="+", default=[10, 1000])
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    with _embedded() as url, tempfile.TemporaryDirectory() as home:
        SiteKeys.load(None, Path(home) / "keys" / "site.key", create=True)
        services = Services(read_settings({}, home=home, database_url=url, api_port=free_port(), gpu_enabled=False))
        migrate(services.engine)
        add_people(services)
        content = make().content
        print("open studies | rows read ms | page ms | page kB | poll ms | poll bytes | usable after ms")
        there = 0
        with served(services) as address:
            for wanted in given.studies:
                add_studies(services, wanted - there, content=content, spread_minutes=80)
                there = wanted
                print(_line(services, address, wanted, given.rounds))
        services.engine.dispose()


def _line(services: Services, address: str, studies: int, rounds: int) -> str:
    read = [_timed(lambda: rows(services)) for _ in range(rounds)]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--headless=new", "--no-sandbox", "--disable-gpu"]
        )
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        secret = services.sessions.open("rita", None, services.now())
        context.add_cookies([{"name": COOKIE, "value": secret, "url": address}])
        page_ms, page_kb, poll_ms, poll_bytes, usable = [], [], [], [], []
        for _ in range(rounds):
            page = context.new_page()
            began = time.perf_counter()
            answer = context.request.get(address)
            page_ms.append((time.perf_counter() - began) * 1000)
            page_kb.append(len(answer.body()) / 1000)
            tag = context.request.get(f"{address}/worklist/rows").headers["etag"]
            began = time.perf_counter()
            poll = context.request.get(f"{address}/worklist/rows", headers={"If-None-Match": tag})
            poll_ms.append((time.perf_counter() - began) * 1000)
            poll_bytes.append(len(poll.body()) + sum(len(k) + len(v) + 4 for k, v in poll.headers.items()))
            page.goto(address)
            page.wait_for_selector("html[data-ready]")
            usable.append(int(page.get_attribute("html", "data-ready") or 0))
            page.close()
        browser.close()
    numbers = (read, page_ms, page_kb, poll_ms, poll_bytes, usable)
    return f"{studies} | " + " | ".join(f"{statistics.median(values):.0f}" for values in numbers)


def _timed(work) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


if __name__ == "__main__":
    main()
