"""Where things lie under MEDAI_HOME. Makes the folders; writes nothing into them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Home:
    """MEDAI_HOME: everything the local stack writes. It and its folders are for their owner alone (0700).

    Whoever made MEDAI_HOME before us chose its mode, which stays. Under root the embedded Postgres runs as another
    account, which must pass through (0711).
    """

    root: Path

    @property
    def postgres(self) -> Path:
        return self.root / "postgres"

    @property
    def orthanc(self) -> Path:
        return self.root / "orthanc"

    @property
    def dagster(self) -> Path:
        return self.root / "dagster"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    def make(self) -> Home:
        """The folders, existing. `postgres` is left to initdb, which wants its own mode and owner."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.orthanc, self.dagster, self.logs, self.run, self.keys):
            folder.mkdir(mode=0o700, exist_ok=True)
            folder.chmod(0o700)
        return self


def write_private(path: Path, text: str) -> None:
    """The file with mode 0600, whole or not at all, also after a power cut."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    with draft.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
