"""`medai receive`, and its row in the stack: what may come in beside the PACS, until a signal. `python -m` runs it, too.

A C-STORE or a file of the inbox is sealed in the spool first, and passed on to the PACS from there: the sensor finds it
like everything else. Killed at any moment, nothing is lost: what was acknowledged is in the spool or in the PACS.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from medai_pipeline import logs
from medai_pipeline.errors import MedaiError, SettingsError
from medai_pipeline.incoming.forward import Forwarder
from medai_pipeline.incoming.inbox import Inbox
from medai_pipeline.local.attached import attached_settings
from medai_pipeline.memory import no_core_files
from medai_pipeline.services import Services
from medai_pipeline.settings import Settings, read_settings

if TYPE_CHECKING:
    from medai_pipeline.incoming.spool import Spool
    from medai_pipeline.pacs.receiver import Receiver

LOOK_S = 0.2


def receive(settings: Settings, stop: threading.Event, echo: Callable[[str], None]) -> None:
    """Returns after `stop`. Raises SettingsError when nothing may come in, PacsError when the port is taken."""
    if not settings.receives:
        raise SettingsError("nothing may come in: set MEDAI_SCP_PORT for C-STORE, or MEDAI_INBOX to a folder")
    services = Services(settings)
    spool = services.spool
    forwarder = Forwarder(spool, services.pacs)
    loops: list[Callable[[threading.Event], None]] = [forwarder.run]
    with ExitStack() as opened:
        if settings.inbox:
            folder = Path(settings.inbox).expanduser().resolve()
            loops.append(Inbox(folder, spool, forwarder.wake).run)
            echo(f"inbox      {folder}")
        if settings.scp_port is not None:
            opened.enter_context(_listening(settings, spool, forwarder))
            echo(f"C-STORE    {settings.aet} at {settings.scp_address}:{settings.scp_port}")
        _run(loops, stop, forwarder.wake)


def _listening(settings: Settings, spool: Spool, forwarder: Forwarder) -> Receiver:
    from medai_pipeline.pacs.peers import parse_peers
    from medai_pipeline.pacs.receiver import Listening, Receiver

    def keep(data: bytes) -> None:
        spool.keep(data)
        forwarder.wake.set()

    return Receiver(
        Listening(
            settings.scp_port or 0,
            settings.scp_address,
            settings.aet,
            parse_peers(settings.scp_peers),
            settings.tls if settings.scp_tls else None,
            settings.scp_associations,
        ),
        keep,
    )


def _run(loops: list[Callable[[threading.Event], None]], stop: threading.Event, wake: threading.Event) -> None:
    """All of them until `stop`; when one fails unforeseen, all end and it is raised: the supervisor starts anew."""
    with ThreadPoolExecutor(len(loops)) as pool:
        running: list[Future[None]] = [pool.submit(loop, stop) for loop in loops]
        try:
            while not stop.is_set():
                done, _ = wait(running, timeout=LOOK_S, return_when=FIRST_EXCEPTION)
                if done:
                    break
        finally:
            stop.set()
            wake.set()
        for future in running:
            future.result()


def main() -> int:
    settings = attached_settings(read_settings())
    logs.configure(settings.log_level, settings.log_format)
    no_core_files()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        receive(settings, stop, lambda line: print(line, flush=True))
    except MedaiError as error:
        print(error.reason, file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
