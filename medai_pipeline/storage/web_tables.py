"""Tables of those who log in, and of what they ask for and say. Part of the schema in `tables`, made by the same migrations.

Secrets are here as digests alone: passwords by argon2, sessions and tokens by SHA-256 (they are random), names and
addresses of failed logins by HMAC under the site's key.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

from medai_pipeline.storage.database import SCHEMA
from medai_pipeline.storage.tables import _study_revision, _text, _time, _whole, metadata

users = sa.Table(
    "users",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("password_hash", sa.Text, nullable=False),
    sa.Column("roles", ARRAY(sa.Text), nullable=False),
    sa.Column("disabled", sa.Boolean, nullable=False, server_default=sa.text("false")),
    _time("created_at", nullable=False),
    _time("updated_at", nullable=False),
)

# `roles` are those that an OpenID Connect provider gave; NULL for a local user, whose roles are in `users`
sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("token_sha256", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("roles", ARRAY(sa.Text)),
    _time("created_at", nullable=False),
    _time("seen_at", nullable=False),
    _time("ends_at", nullable=False),
    sa.Index("sessions_name", "name"),
)

api_tokens = sa.Table(
    "api_tokens",
    metadata,
    sa.Column("id", UUID(as_uuid=True), primary_key=True),
    sa.Column("token_sha256", sa.Text, nullable=False, unique=True),
    sa.Column("name", sa.Text, sa.ForeignKey(f"{SCHEMA}.users.name"), nullable=False),
    _text("label"),
    _time("created_at", nullable=False),
    _time("ends_at", nullable=False),
    _time("revoked_at"),
)

login_failures = sa.Table(
    "login_failures",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("subject", sa.Text, nullable=False),  # HMAC of the name that was typed, or of the address it came from
    _time("at", nullable=False),
    sa.Index("login_failures_subject", "subject", "at"),
)

# what a caller asked to be computed of an image; orchestration takes it up once its study is reported
analysis_requests = sa.Table(
    "analysis_requests",
    metadata,
    sa.Column("id", UUID(as_uuid=True), primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("study_key", sa.Text, nullable=False),
    sa.Column("revision", sa.Integer),  # NULL while the study is on its way
    sa.Column("report_id", UUID(as_uuid=True), sa.ForeignKey(f"{SCHEMA}.reports.id")),  # that the answer was taken from
    sa.Column("sop_instance_uid", sa.Text, nullable=False),
    sa.Column("asked", JSONB, nullable=False),  # model, method, samples, as they were asked for
    sa.Column("requested_by", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False, server_default=sa.text("'pending'")),
    _text("reason"),
    sa.Column("run_id", sa.Text),
    sa.Column("result", JSONB),
    _text("object_prefix"),
    _whole("attempts"),
    _time("created_at", nullable=False),
    _time("started_at"),
    _time("finished_at"),
    sa.CheckConstraint("kind IN ('analysis', 'uncertainty')", name="analysis_requests_kind"),
    sa.CheckConstraint(
        "state IN ('pending', 'requested', 'running', 'done', 'failed')", name="analysis_requests_state"
    ),
    sa.Index("analysis_requests_open", "created_at", postgresql_where=sa.text("state NOT IN ('done', 'failed')")),
    sa.Index("analysis_requests_image", "sop_instance_uid"),
)

# images that came by the API, by their new UID: known before the pipeline has seen them
uploads = sa.Table(
    "uploads",
    metadata,
    sa.Column("sop_instance_uid", sa.Text, primary_key=True),
    sa.Column("study_key", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    _time("at", nullable=False),
    sa.Index("uploads_study", "study_key"),
)

# a person's word on urgency; the last row counts, and the report stays as it was. Append-only.
priority_overrides = sa.Table(
    "priority_overrides",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("study_key", sa.Text, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("priority", sa.Text),  # NULL: the report's own counts again
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    _time("created_at", nullable=False),
    _study_revision(),
    sa.CheckConstraint("priority IN ('critical', 'urgent', 'routine', 'normal')", name="priority_overrides_priority"),
    sa.Index("priority_overrides_study", "study_key", "id"),
)

# each state that an annotation has had. Append-only; the newest is also in `annotations`.
annotation_versions = sa.Table(
    "annotation_versions",
    metadata,
    sa.Column("annotation_id", UUID(as_uuid=True), sa.ForeignKey(f"{SCHEMA}.annotations.id"), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("author", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    _text("label"),
    sa.Column("geometry", JSONB, nullable=False),
    sa.Column("deleted", sa.Boolean, nullable=False),
    _time("created_at", nullable=False),
)

# the answer that a write was given, so that asking again writes nothing twice
idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("actor", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("request_sha256", sa.Text, nullable=False),
    sa.Column("status", sa.Integer),  # NULL while it is at work
    sa.Column("headers", JSONB),
    sa.Column("body", sa.Text),
    _time("created_at", nullable=False),
    sa.Index("idempotency_keys_created", "created_at"),
)
