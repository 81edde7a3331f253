"""Deliveries by edition: a study's results go out again when something else counts, and each edition names its objects."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

UP = (
    "ALTER TABLE medai.deliveries DROP CONSTRAINT deliveries_once",
    "ALTER TABLE medai.deliveries DROP CONSTRAINT deliveries_state",
    """
    ALTER TABLE medai.deliveries
        ADD COLUMN edition integer NOT NULL DEFAULT 1,
        ADD COLUMN review_id uuid REFERENCES medai.reviews (id),
        ADD COLUMN withdrawal boolean NOT NULL DEFAULT false,
        ADD COLUMN objects jsonb NOT NULL DEFAULT '[]',
        ADD COLUMN next_attempt_at timestamptz,
        ADD COLUMN run_id text,
        ADD COLUMN asked integer NOT NULL DEFAULT 0,
        ADD CONSTRAINT deliveries_state CHECK (state IN ('pending', 'sent', 'committed', 'failed', 'dropped')),
        ADD CONSTRAINT deliveries_once UNIQUE (report_id, edition, destination)
    """,
    "CREATE INDEX deliveries_due ON medai.deliveries (next_attempt_at) WHERE next_attempt_at IS NOT NULL",
    "CREATE INDEX deliveries_run ON medai.deliveries (run_id) WHERE run_id IS NOT NULL",
    "CREATE INDEX reviews_created ON medai.reviews (created_at)",
)

DOWN = (
    "DROP INDEX medai.reviews_created",
    "DROP INDEX medai.deliveries_run",
    "DROP INDEX medai.deliveries_due",
    # of several editions of one report the last stays, as there was room for one
    """
    DELETE FROM medai.deliveries AS d WHERE d.state = 'dropped' OR EXISTS (
        SELECT FROM medai.deliveries AS e
        WHERE e.report_id = d.report_id AND e.destination = d.destination AND e.edition > d.edition
    )
    """,
    """
    ALTER TABLE medai.deliveries
        DROP CONSTRAINT deliveries_once, DROP CONSTRAINT deliveries_state,
        DROP COLUMN edition, DROP COLUMN review_id, DROP COLUMN withdrawal, DROP COLUMN objects,
        DROP COLUMN next_attempt_at, DROP COLUMN run_id, DROP COLUMN asked,
        ADD CONSTRAINT deliveries_state CHECK (state IN ('pending', 'sent', 'committed', 'failed')),
        ADD CONSTRAINT deliveries_once UNIQUE (report_id, destination)
    """,
)


def upgrade() -> None:
    for statement in UP:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWN:
        op.execute(statement)
