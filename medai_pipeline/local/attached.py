"""How a command finds the stack that runs on its MEDAI_HOME: the effective settings, in one private file."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

from medai_pipeline.local.paths import Home, write_private
from medai_pipeline.settings import Settings, read_settings

if TYPE_CHECKING:
    from medai_pipeline.services import Services

FILE = "attached.settings"
DATABASE = ("database_url",)
PACS = ("orthanc_url", "orthanc_username", "orthanc_password", "pacs", "aet")


def write(home: Home, settings: Settings) -> None:
    """Tells where the database and the PACS are, mode 0600: it holds the passwords."""
    values = {name: getattr(settings, name) for name in DATABASE + PACS}
    write_private(home.run / FILE, json.dumps(values))


def remove(home: Home) -> None:
    (home.run / FILE).unlink(missing_ok=True)


def attached_settings(settings: Settings) -> Settings:
    """`settings` with the running stack's database and PACS where the environment names none.

    Without a running stack they come back as they are; who needs one of them says so.
    """
    path = Home(settings.home_path).run / FILE
    if not path.is_file():
        return settings
    told = json.loads(path.read_text())
    names = (() if settings.database_url else DATABASE) + (() if settings.orthanc_url or settings.pacs else PACS)
    return dataclasses.replace(settings, **{name: told[name] for name in names if name in told})


def attached_services() -> Services:
    """What a command works with: the running stack's database and PACS where the environment names none."""
    from medai_pipeline.services import Services  # seconds of imports, which `--help` does not wait for

    return Services(attached_settings(read_settings()))
