"""Versions that share their weights, as one that was only calibrated anew: each has results and a lineage of its own."""

import importlib

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_before = importlib.import_module("medai_pipeline.storage.migrations.versions.0005_lineage_of_tensors")
BY_WEIGHTS = _before.LINEAGE % _before.TENSOR
BY_VERSION = BY_WEIGHTS.replace(
    """SELECT DISTINCT ON (n.weights_sha256) n.*
    FROM medai.inference_results AS n
    JOIN jsonb_array_elements(r.content -> 'models') AS m ON m ->> 'weights_sha256' = n.weights_sha256
""",
    """SELECT DISTINCT ON (n.model_name, n.model_version) n.*
    FROM medai.inference_results AS n
    JOIN jsonb_array_elements(r.content -> 'models') AS m
        ON m ->> 'weights_sha256' = n.weights_sha256
        AND m ->> 'name' = n.model_name AND m ->> 'version' = n.model_version
""",
).replace(
    "ORDER BY n.weights_sha256, n.created_at DESC", "ORDER BY n.model_name, n.model_version, n.created_at DESC, n.id DESC"
)
ONCE = "study_key, revision, weights_sha256, inputs_digest"


def upgrade() -> None:
    _once(f"{ONCE}, model_name, model_version")
    op.execute("DROP VIEW medai.lineage")
    op.execute(BY_VERSION)


def downgrade() -> None:
    op.execute("DROP VIEW medai.lineage")
    op.execute(BY_WEIGHTS)
    # Of two versions that said the same with the same weights the first was kept. The table refuses to lose rows.
    op.execute("ALTER TABLE medai.inference_results DISABLE TRIGGER USER")
    op.execute("""
        DELETE FROM medai.inference_results AS n USING medai.inference_results AS first
        WHERE n.id > first.id AND n.study_key = first.study_key AND n.revision = first.revision
            AND n.weights_sha256 = first.weights_sha256 AND n.inputs_digest = first.inputs_digest
    """)
    op.execute("ALTER TABLE medai.inference_results ENABLE TRIGGER USER")
    _once(ONCE)


def _once(columns: str) -> None:
    op.execute("ALTER TABLE medai.inference_results DROP CONSTRAINT inference_results_inputs")
    op.execute(f"ALTER TABLE medai.inference_results ADD CONSTRAINT inference_results_inputs UNIQUE ({columns})")
