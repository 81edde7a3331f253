"""The model registry: who brought a version in, for what it is active, what was measured; and what a study was read as."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

REGISTRY = """
ALTER TABLE medai.models
    ADD COLUMN measured jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN prepared jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN registered_by text NOT NULL DEFAULT '',
    ADD COLUMN promoted_by text NOT NULL DEFAULT '',
    ADD COLUMN promoted_at timestamptz,
    ADD COLUMN backfill_since timestamptz,
    ADD COLUMN replaced text NOT NULL DEFAULT '';

CREATE TABLE medai.model_scopes (
    name text NOT NULL,
    version text NOT NULL,
    modality text NOT NULL,
    body_part text NOT NULL,
    active boolean NOT NULL DEFAULT false,
    PRIMARY KEY (name, version, modality, body_part),
    FOREIGN KEY (name, version) REFERENCES medai.models (name, version)
);
CREATE UNIQUE INDEX model_scopes_one_active ON medai.model_scopes (modality, body_part) WHERE active;

ALTER TABLE medai.studies
    ADD COLUMN read_modality text NOT NULL DEFAULT '',
    ADD COLUMN read_body_part text NOT NULL DEFAULT '';
"""


def upgrade() -> None:
    op.execute(REGISTRY)


def downgrade() -> None:
    """Which version answered for whom would be lost: restore a backup instead."""
    raise NotImplementedError("the registry cannot be taken back")
