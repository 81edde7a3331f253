"""What a person sees of a command: the console, progress, and which log lines reach it. Decides nothing."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

console = Console(stderr=True, highlight=False)
_COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
_STUDIES = TextColumn("{task.fields[done]}/{task.fields[studies]} studies  {task.fields[stage]}")


class _OnConsole(logging.Handler):
    """Log lines above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        console.print(Text(self.format(record)), soft_wrap=True)


def quiet_logs(level: str) -> None:
    """Warnings and errors reach the terminal; everything does at DEBUG. What a service logs is not touched.

    Python's own warnings are for developers, and may quote what they warn of.
    """
    debug = level == "DEBUG"
    handler = _OnConsole()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level if debug else max(logging.WARNING, logging.getLevelName(level)), handlers=[handler])
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.WARNING if debug else logging.ERROR)
    for noisy in ("httpx", "httpcore", "pydicom", "alembic", "great_expectations", "pynetdicom"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLogger(noisy).level))


class progress:
    """A progress bar on a terminal, silence elsewhere; gives the function that advances it."""

    def __init__(self, verb: str, total: int) -> None:
        self._bar = Progress(*_COLUMNS, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task(verb, total=total)

    def __enter__(self) -> Any:
        self._bar.start()
        return lambda n=1: self._bar.advance(self._task, n)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


class StudyProgress:
    """A bar over studies that pass several stages together: it moves with each stage of each."""

    def __init__(self, verb: str, studies: int, steps: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), _STUDIES, TimeElapsedColumn())
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task(verb, total=studies * steps, done=0, studies=studies, stage="")
        self._steps = steps
        self._at: dict[str, int] = {}
        self._ended: set[str] = set()

    @property
    def completed(self) -> float:
        """Steps behind us, of studies * steps."""
        return self._bar.tasks[0].completed

    @contextmanager
    def shown(self) -> Iterator[StudyProgress]:
        with self._bar:
            yield self

    def advanced(self, study_key: str, stage: str) -> None:
        """The study begins a stage: those before it are done."""
        before = self._at.get(study_key, 0)
        self._at[study_key] = min(before + 1, self._steps)
        self._update(stage)

    def ended(self, study_key: str) -> None:
        self._ended.add(study_key)
        self._update("")

    def _update(self, stage: str) -> None:
        steps = sum(self._steps if key in self._ended else at - 1 for key, at in self._at.items())
        self._bar.update(self._task, completed=steps, done=len(self._ended), stage=stage)


def plain(text: str) -> str:
    """Text in which rich sees no markup."""
    return text.replace("[", r"\[")


def shown(path: Path) -> str:
    """A path as a terminal can show it: bytes that are no UTF-8, and control characters, as escapes."""
    return printable(os.fsencode(path).decode(errors="backslashreplace"))


def printable(text: str) -> str:
    """Text without control characters, which could move the cursor or colour the screen: they come as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
