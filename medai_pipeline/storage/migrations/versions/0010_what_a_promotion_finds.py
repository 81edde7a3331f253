"""Every kind of image in a study, so that a model of the second kind finds it too; by which version a report is, without
reading it whole; and an answer of a version that was a shadow, then promoted, once in each role."""

import importlib

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_before = importlib.import_module("medai_pipeline.storage.migrations.versions.0008_versions_of_the_same_weights")
ONCE = f"{_before.ONCE}, model_name, model_version"


VERSION = "coalesce((content #>> '{models,0,name}') || '@' || (content #>> '{models,0,version}'), '')"
WEIGHTS = "coalesce(content #>> '{models,0,weights_sha256}', '')"


def upgrade() -> None:
    op.execute(f"""
        ALTER TABLE medai.reports
        ADD COLUMN read_by text NOT NULL GENERATED ALWAYS AS ({VERSION}) STORED,
        ADD COLUMN read_weights text NOT NULL GENERATED ALWAYS AS ({WEIGHTS}) STORED
    """)
    op.execute("CREATE INDEX reports_read_by ON medai.reports (read_by)")
    op.execute("ALTER TABLE medai.models ADD COLUMN behind text NOT NULL DEFAULT ''")
    op.execute("ALTER TABLE medai.studies ADD COLUMN read_kinds jsonb NOT NULL DEFAULT '[]'")
    # Of what was read before: as its images say, the most frequent first. What names no body part goes with its modality.
    op.execute("""
        WITH each_kind AS (
            SELECT study_key, revision, modality, body_part, count(*) AS images
            FROM medai.images WHERE usable GROUP BY 1, 2, 3, 4
        ), own AS (
            SELECT * FROM each_kind AS k WHERE body_part <> '' OR NOT EXISTS (
                SELECT FROM each_kind AS o WHERE o.study_key = k.study_key AND o.revision = k.revision
                    AND o.modality = k.modality AND o.body_part <> ''
            )
        )
        UPDATE medai.studies AS s SET read_kinds = k.kinds
        FROM (
            SELECT study_key, revision,
                jsonb_agg(jsonb_build_array(modality, body_part) ORDER BY images DESC, modality DESC, body_part DESC) AS kinds
            FROM own GROUP BY 1, 2 HAVING count(*) > 1
        ) AS k
        WHERE k.study_key = s.study_key AND k.revision = s.revision AND s.read_modality <> ''
    """)
    _once(f"{ONCE}, role")


def downgrade() -> None:
    # Of an answer in two roles the first was kept. The table refuses to lose rows.
    op.execute("ALTER TABLE medai.inference_results DISABLE TRIGGER USER")
    op.execute("""
        DELETE FROM medai.inference_results AS n USING medai.inference_results AS first
        WHERE n.id > first.id AND n.study_key = first.study_key AND n.revision = first.revision
            AND n.weights_sha256 = first.weights_sha256 AND n.inputs_digest = first.inputs_digest
            AND n.model_name = first.model_name AND n.model_version = first.model_version
    """)
    op.execute("ALTER TABLE medai.inference_results ENABLE TRIGGER USER")
    _once(ONCE)
    op.execute("ALTER TABLE medai.studies DROP COLUMN read_kinds")
    op.execute("ALTER TABLE medai.models DROP COLUMN behind")
    op.execute("ALTER TABLE medai.reports DROP COLUMN read_by, DROP COLUMN read_weights")


def _once(columns: str) -> None:
    op.execute("ALTER TABLE medai.inference_results DROP CONSTRAINT inference_results_inputs")
    op.execute(f"ALTER TABLE medai.inference_results ADD CONSTRAINT inference_results_inputs UNIQUE ({columns})")
