"""The view of lineage says which tensor a model was given, beside all that it said before."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

LINEAGE = """
CREATE VIEW medai.lineage AS
SELECT
    r.id AS report_id,
    r.study_key,
    r.revision,
    r.id = (
        SELECT z.report_id FROM medai.studies AS z
        WHERE z.study_key = r.study_key AND z.report_id IS NOT NULL ORDER BY z.revision DESC LIMIT 1
    ) AS counts,
    r.run_id,
    r.created_at AS reported_at,
    r.inputs_digest,
    i.sop_instance_uid,
    i.series_instance_uid,
    i.source_sha256,
    i.sha256 AS anonymized_sha256,
    i.usable,
    i.reason AS left_out,
    r.content -> 'lineage' ->> 'profile' AS profile,
    r.content -> 'lineage' ->> 'code_version' AS code_version,
    f.id AS inference_id,
    f.run_id AS inference_run_id,
    f.model_name,
    f.model_version,
    f.weights_sha256,
    f.role,
    jsonb_array_length(r.content -> 'quality' -> 'checks') AS checks,
    (SELECT count(*) FROM jsonb_array_elements(r.content -> 'quality' -> 'checks') AS c WHERE (c ->> 'passed')::boolean)
        AS checks_passed,
    r.content ->> 'rules_version' AS rules_version,
    r.priority,
    r.review_required,
    v.decision AS review,
    v.reviewer,
    v.created_at AS reviewed_at,
    d.deliveries%s
FROM medai.reports AS r
JOIN medai.images AS i USING (study_key, revision)
LEFT JOIN LATERAL (
    SELECT DISTINCT ON (n.weights_sha256) n.*
    FROM medai.inference_results AS n
    JOIN jsonb_array_elements(r.content -> 'models') AS m ON m ->> 'weights_sha256' = n.weights_sha256
    WHERE n.study_key = r.study_key AND n.revision = r.revision AND n.created_at <= r.created_at
    ORDER BY n.weights_sha256, n.created_at DESC
) AS f ON true
LEFT JOIN LATERAL (
    SELECT w.decision, w.reviewer, w.created_at
    FROM medai.reviews AS w WHERE w.report_id = r.id ORDER BY w.created_at DESC LIMIT 1
) AS v ON true
LEFT JOIN LATERAL (
    SELECT jsonb_agg(jsonb_build_object('destination', e.destination, 'state', e.state, 'objects', e.sop_instance_uids))
        AS deliveries
    FROM medai.deliveries AS e WHERE e.report_id = r.id
) AS d ON true
"""


TENSOR = """,
    r.content #>> '{lineage,tensor,sha256}' AS tensor_sha256"""


def upgrade() -> None:
    op.execute("DROP VIEW medai.lineage")
    op.execute(LINEAGE % TENSOR)


def downgrade() -> None:
    op.execute("DROP VIEW medai.lineage")
    op.execute(LINEAGE % "")
