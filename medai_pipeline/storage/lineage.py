"""From any result back to the bytes, code and weights that made it. Only reads, from the view `medai.lineage`."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine

from medai_pipeline.storage.tables import SCHEMA

SHORTEST = 8  # characters of a digest or report number that name it

# What a name may be: the column it is looked for in, and how. A delivered object is named by its SOP Instance UID.
_FOUND = f"""
WITH asked AS (SELECT CAST(:name AS text) AS name, length(CAST(:name AS text)) >= {SHORTEST} AS long)
SELECT DISTINCT l.report_id FROM {SCHEMA}.lineage AS l, asked AS a
WHERE l.study_key = upper(a.name)
   OR a.name IN (l.inference_id::text, l.run_id, l.inference_run_id, l.sop_instance_uid, l.series_instance_uid)
   OR a.long AND (starts_with(l.report_id::text, lower(a.name)) OR starts_with(l.source_sha256, lower(a.name))
       OR starts_with(l.anonymized_sha256, lower(a.name)) OR starts_with(l.weights_sha256, lower(a.name))
       OR starts_with(l.tensor_sha256, lower(a.name)))
   OR l.deliveries @> jsonb_build_array(jsonb_build_object('objects', jsonb_build_array(a.name)))
"""


class Lineage:
    """Reads over the view."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def of(self, name: str) -> list[dict[str, Any]]:
        """The rows of every report that `name` leads to, newest first; images by SOP Instance UID.

        `name`: a study key, a report's number (or its beginning), an inference's number, a run, an image or series (their
        new UIDs), a SHA-256 of source, de-identified file, tensor or weights (or its
        beginning), or an object that was delivered.
        """
        query = sa.text(
            f"SELECT * FROM {SCHEMA}.lineage WHERE report_id IN ({_FOUND}) "
            "ORDER BY reported_at DESC, report_id, sop_instance_uid, inference_id"
        )
        with self._engine.connect() as connection:
            return [dict(row) for row in connection.execute(query, {"name": name.strip()}).mappings()]
