"""README's pictures from a real `medai demo`: the worklist as SVG, the report of the pneumothorax as PNG.

    python benchmarks/pictures.py [--out docs/images]

It starts the whole stack under MEDAI_HOME (minutes on a loaded machine), needs Chromium on the path, and stops everything again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

import click
from playwright.sync_api import sync_playwright
from rich.console import Console

from medai_pipeline.local.demo import run_demo
from medai_pipeline.local.stack import Stack
from medai_pipeline.local.terminal import progress
from medai_pipeline.local.worklist import as_table
from medai_pipeline.services import Services
from medai_pipeline.settings import read_settings

WIDE, HIGH = 1280, 900  # of the report's picture, in CSS pixels


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "images")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds to wait for all reports")
    arguments = parser.parse_args()
    with Stack(read_settings(), echo=click.echo) as stack:
        if not run_demo(stack, arguments.timeout, echo=click.echo, progress=progress):
            return 1
        draw_worklist(Services(stack.settings), arguments.out / "worklist.svg")
        draw_report(critical(stack.home.root / "demo"), arguments.out / "report.png")
    return 0


def draw_worklist(services: Services, path: Path) -> None:
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=166, file=nowhere)
        console.print(as_table(services))
        console.save_svg(str(path), title="medai worklist")


def critical(folder: Path) -> Path:
    """report.html of a critical film."""
    for path in sorted(folder.glob("*/report.json")):
        content = json.loads(path.read_text())
        if content["priority"] == "critical" and content["modality"] == "DX":
            return path.with_suffix(".html")
    raise SystemExit(f"no critical film among the reports in {folder}")


def draw_report(page: Path, path: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        tab = browser.new_page(viewport={"width": WIDE, "height": HIGH})
        tab.goto(page.resolve().as_uri())
        tab.screenshot(path=path, full_page=True)
        browser.close()


if __name__ == "__main__":
    raise SystemExit(main())
