"""Reported studies in numbers, as rows alone: what a list costs does not depend on their images."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import uuid4

import numpy as np
import sqlalchemy as sa

from medai_pipeline.records import Priority
from medai_pipeline.services import Services
from medai_pipeline.storage.tables import arrivals, reports, studies


def new_key() -> str:
    return base64.b32encode(secrets.token_bytes(17)).decode()[:26]


def add_studies(
    services: Services,
    count: int,
    content: Mapping[str, Any],
    priority: str = "",
    spread_minutes: float = 0.0,
    reasons: tuple[str, ...] = (),
    label: str = "",
) -> list[str]:
    """`count` open studies with reports like `content`; priorities by a fixed random draw unless given.

    `reasons` and `label` (of the first finding) take the place of the report's.
    """
    random, now, made = np.random.default_rng(7), services.now(), []
    rows: dict[sa.Table, list] = {arrivals: [], studies: [], reports: []}
    for number in range(count):
        key, report_id = new_key(), uuid4()
        urgency = Priority(priority or random.choice(list(Priority), p=[0.03, 0.17, 0.3, 0.5]))
        seen = now - timedelta(minutes=float(random.uniform(0, spread_minutes)))
        told = json.loads(json.dumps(content)) | {"study_key": key, "priority": urgency.value}
        if reasons:
            told["reasons"] = list(reasons)
        if label:
            told["findings"][0]["label"] = label
        rows[arrivals].append(
            {"study_key": key, "fingerprint": "x", "instance_count": 2, "first_seen_at": seen, "changed_at": seen, "settled": True,
             "digest": f"d{number}"}
        )  # fmt: skip
        rows[studies].append(
            {"study_key": key, "revision": 1, "source_digest": f"d{number}", "state": "reported", "instance_count": 2,
             "modality": str(random.choice(["CT", "DX", "MR"])), "report_id": report_id, "first_seen_at": seen,
             "ready_at": seen, "updated_at": now, "read_body_part": "CHEST"}
        )  # fmt: skip
        rows[reports].append(
            {"id": report_id, "study_key": key, "revision": 1, "inputs_digest": key, "run_id": "r", "priority": urgency.value,
             "priority_rank": urgency.rank, "review_required": bool(random.random() < 0.2), "content": told,
             "object_prefix": f"reports/{key}/1/x", "created_at": now}
        )  # fmt: skip
        made.append(key)
    with services.engine.begin() as connection:
        for table, values in rows.items():
            connection.execute(sa.insert(table), values)
    return made
