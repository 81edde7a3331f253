"""Refusals of a delivery are counted apart from its tries: a destination that is merely away uses up none of them."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE medai.deliveries ADD COLUMN refusals integer NOT NULL DEFAULT 0")


def downgrade() -> None:
    op.execute("ALTER TABLE medai.deliveries DROP COLUMN refusals")
