"""Who logs in, and what they ask for and say; what people said of urgency and annotations stays as it was."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE medai.users (
    name text PRIMARY KEY,
    password_hash text NOT NULL,
    roles text[] NOT NULL,
    disabled boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);

CREATE TABLE medai.sessions (
    token_sha256 text PRIMARY KEY,
    name text NOT NULL,
    roles text[],
    created_at timestamptz NOT NULL,
    seen_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL
);
CREATE INDEX sessions_name ON medai.sessions (name);

CREATE TABLE medai.api_tokens (
    id uuid PRIMARY KEY,
    token_sha256 text NOT NULL UNIQUE,
    name text NOT NULL REFERENCES medai.users (name),
    label text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    revoked_at timestamptz
);

CREATE TABLE medai.login_failures (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subject text NOT NULL,
    at timestamptz NOT NULL
);
CREATE INDEX login_failures_subject ON medai.login_failures (subject, at);

CREATE TABLE medai.analysis_requests (
    id uuid PRIMARY KEY,
    kind text NOT NULL CONSTRAINT analysis_requests_kind CHECK (kind IN ('analysis', 'uncertainty')),
    study_key text NOT NULL,
    revision integer,
    report_id uuid REFERENCES medai.reports (id),
    sop_instance_uid text NOT NULL,
    asked jsonb NOT NULL,
    requested_by text NOT NULL,
    state text NOT NULL DEFAULT 'pending' CONSTRAINT analysis_requests_state
        CHECK (state IN ('pending', 'requested', 'running', 'done', 'failed')),
    reason text NOT NULL DEFAULT '',
    run_id text,
    result jsonb,
    object_prefix text NOT NULL DEFAULT '',
    attempts integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    started_at timestamptz,
    finished_at timestamptz
);
CREATE INDEX analysis_requests_open ON medai.analysis_requests (created_at) WHERE state NOT IN ('done', 'failed');
CREATE INDEX analysis_requests_image ON medai.analysis_requests (sop_instance_uid);

CREATE TABLE medai.uploads (
    sop_instance_uid text PRIMARY KEY,
    study_key text NOT NULL,
    actor text NOT NULL,
    at timestamptz NOT NULL
);
CREATE INDEX uploads_study ON medai.uploads (study_key);

CREATE TABLE medai.priority_overrides (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    study_key text NOT NULL,
    revision integer NOT NULL,
    priority text CONSTRAINT priority_overrides_priority
        CHECK (priority IN ('critical', 'urgent', 'routine', 'normal')),
    reason text NOT NULL,
    actor text NOT NULL,
    created_at timestamptz NOT NULL,
    FOREIGN KEY (study_key, revision) REFERENCES medai.studies (study_key, revision)
);
CREATE INDEX priority_overrides_study ON medai.priority_overrides (study_key, id);

CREATE TABLE medai.annotation_versions (
    annotation_id uuid NOT NULL REFERENCES medai.annotations (id),
    version integer NOT NULL,
    author text NOT NULL,
    kind text NOT NULL,
    label text NOT NULL DEFAULT '',
    geometry jsonb NOT NULL,
    deleted boolean NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (annotation_id, version)
);

CREATE TABLE medai.idempotency_keys (
    actor text NOT NULL,
    key text NOT NULL,
    request_sha256 text NOT NULL,
    status integer,
    headers jsonb,
    body text,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (actor, key)
);
CREATE INDEX idempotency_keys_created ON medai.idempotency_keys (created_at);

ALTER TABLE medai.identities ADD COLUMN IF NOT EXISTS patient_token text NOT NULL DEFAULT '';
CREATE INDEX IF NOT EXISTS identities_patient ON medai.identities (patient_token) WHERE patient_token <> '';
"""


NAMES = (
    "idempotency_keys", "annotation_versions", "priority_overrides", "uploads", "analysis_requests", "login_failures",
    "api_tokens", "sessions", "users",
)


def upgrade() -> None:
    op.execute(TABLES)
    for table in ("priority_overrides", "annotation_versions"):
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON medai.{table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION medai.refuse_change()"
        )


def downgrade() -> None:
    op.execute("ALTER TABLE medai.identities DROP COLUMN patient_token")
    op.execute("; ".join(f"DROP TABLE medai.{name}" for name in NAMES))
