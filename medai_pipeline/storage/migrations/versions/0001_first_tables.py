"""The first tables of schema medai, and the triggers that keep the append-only ones as they are."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE medai.arrivals (
    study_key text PRIMARY KEY,
    fingerprint text NOT NULL,
    instance_count integer NOT NULL DEFAULT 0,
    first_seen_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    settled boolean NOT NULL DEFAULT false,
    vanished boolean NOT NULL DEFAULT false,
    digest text
);
CREATE INDEX arrivals_unsettled ON medai.arrivals (changed_at) WHERE NOT settled AND NOT vanished;

CREATE TABLE medai.studies (
    study_key text NOT NULL,
    revision integer NOT NULL CONSTRAINT studies_revision CHECK (revision >= 1),
    source_digest text NOT NULL,
    state text NOT NULL CONSTRAINT studies_state
        CHECK (state IN ('receiving', 'ready', 'queued', 'running', 'reported', 'failed', 'vanished')),
    stage text NOT NULL DEFAULT '',
    reason text NOT NULL DEFAULT '',
    attempts integer NOT NULL DEFAULT 0,
    instance_count integer NOT NULL DEFAULT 0,
    modality text NOT NULL DEFAULT '',
    run_id text,
    report_id uuid,
    run_requested_at timestamptz,
    next_attempt_at timestamptz,
    first_seen_at timestamptz NOT NULL,
    ready_at timestamptz NOT NULL,
    started_at timestamptz,
    finished_at timestamptz,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (study_key, revision)
);
CREATE INDEX studies_open ON medai.studies (state, ready_at) WHERE state IN ('ready', 'queued', 'running');
CREATE INDEX studies_run ON medai.studies (run_id) WHERE run_id IS NOT NULL;

CREATE TABLE medai.images (
    study_key text NOT NULL,
    revision integer NOT NULL,
    sop_instance_uid text NOT NULL,
    series_instance_uid text NOT NULL,
    study_instance_uid text NOT NULL,
    sop_class_uid text NOT NULL,
    transfer_syntax_uid text NOT NULL DEFAULT '',
    modality text NOT NULL DEFAULT '',
    body_part text NOT NULL DEFAULT '',
    view_position text NOT NULL DEFAULT '',
    laterality text NOT NULL DEFAULT '',
    photometric text NOT NULL DEFAULT '',
    rows integer NOT NULL DEFAULT 0,
    columns integer NOT NULL DEFAULT 0,
    frames integer NOT NULL DEFAULT 0,
    bits_stored integer NOT NULL DEFAULT 0,
    instance_number integer NOT NULL DEFAULT 0,
    row_spacing_mm double precision,
    column_spacing_mm double precision,
    slice_thickness_mm double precision,
    usable boolean NOT NULL,
    reason text NOT NULL DEFAULT '',
    source_sha256 text NOT NULL,
    sha256 text NOT NULL DEFAULT '',
    object_key text NOT NULL DEFAULT '',
    size_bytes bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (study_key, revision, sop_instance_uid),
    FOREIGN KEY (study_key, revision) REFERENCES medai.studies (study_key, revision)
);
CREATE INDEX images_sop_instance_uid ON medai.images (sop_instance_uid);
CREATE INDEX images_source_sha256 ON medai.images (source_sha256);

CREATE TABLE medai.models (
    name text NOT NULL,
    version text NOT NULL,
    architecture text NOT NULL,
    weights_sha256 text NOT NULL,
    state text NOT NULL CONSTRAINT models_state CHECK (state IN ('registered', 'shadow', 'active', 'retired')),
    card jsonb NOT NULL,
    registered_at timestamptz NOT NULL,
    PRIMARY KEY (name, version)
);

CREATE TABLE medai.inference_results (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    study_key text NOT NULL,
    revision integer NOT NULL,
    model_name text NOT NULL,
    model_version text NOT NULL,
    weights_sha256 text NOT NULL,
    role text NOT NULL,
    inputs_digest text NOT NULL,
    run_id text NOT NULL,
    result jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    FOREIGN KEY (study_key, revision) REFERENCES medai.studies (study_key, revision),
    CONSTRAINT inference_results_inputs UNIQUE (study_key, revision, weights_sha256, inputs_digest)
);
CREATE INDEX inference_results_model ON medai.inference_results (model_name, model_version);

CREATE TABLE medai.reports (
    id uuid PRIMARY KEY,
    study_key text NOT NULL,
    revision integer NOT NULL,
    inputs_digest text NOT NULL,
    run_id text NOT NULL,
    priority text NOT NULL,
    priority_rank smallint NOT NULL,
    review_required boolean NOT NULL,
    content jsonb NOT NULL,
    object_prefix text NOT NULL,
    created_at timestamptz NOT NULL,
    FOREIGN KEY (study_key, revision) REFERENCES medai.studies (study_key, revision),
    CONSTRAINT reports_inputs UNIQUE (study_key, revision, inputs_digest)
);

CREATE TABLE medai.reviews (
    id uuid PRIMARY KEY,
    report_id uuid NOT NULL REFERENCES medai.reports (id),
    reviewer text NOT NULL,
    decision text NOT NULL CONSTRAINT reviews_decision CHECK (decision IN ('accepted', 'edited', 'rejected')),
    note text NOT NULL DEFAULT '',
    content jsonb,
    created_at timestamptz NOT NULL
);
CREATE INDEX reviews_report ON medai.reviews (report_id);

CREATE TABLE medai.annotations (
    id uuid PRIMARY KEY,
    study_key text NOT NULL,
    revision integer NOT NULL,
    sop_instance_uid text NOT NULL,
    frame integer NOT NULL DEFAULT 1,
    author text NOT NULL,
    kind text NOT NULL,
    label text NOT NULL DEFAULT '',
    geometry jsonb NOT NULL,
    version integer NOT NULL DEFAULT 1,
    deleted boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    FOREIGN KEY (study_key, revision) REFERENCES medai.studies (study_key, revision)
);
CREATE INDEX annotations_study ON medai.annotations (study_key, revision);

CREATE TABLE medai.deliveries (
    id uuid PRIMARY KEY,
    report_id uuid NOT NULL REFERENCES medai.reports (id),
    destination text NOT NULL,
    sop_instance_uids text[] NOT NULL,
    state text NOT NULL CONSTRAINT deliveries_state CHECK (state IN ('pending', 'sent', 'committed', 'failed')),
    reason text NOT NULL DEFAULT '',
    attempts integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT deliveries_once UNIQUE (report_id, destination)
);

CREATE TABLE medai.audit_log (
    seq bigint PRIMARY KEY,
    at timestamptz NOT NULL,
    actor text NOT NULL,
    action text NOT NULL,
    subject text NOT NULL,
    detail jsonb NOT NULL,
    key_id text NOT NULL,
    previous_hash text NOT NULL,
    hash text NOT NULL
);
CREATE INDEX audit_log_subject ON medai.audit_log (subject);

CREATE TABLE medai.audit_head (
    sole boolean PRIMARY KEY DEFAULT true CONSTRAINT audit_head_sole CHECK (sole),
    seq bigint NOT NULL,
    hash text NOT NULL
);

CREATE TABLE medai.identities (
    study_key text PRIMARY KEY,
    sealed bytea NOT NULL,
    key_id text NOT NULL,
    updated_at timestamptz NOT NULL
);
"""

APPEND_ONLY = """
CREATE FUNCTION medai.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%.% is append-only: add a row that supersedes the old one', TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END
$$;
"""


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(APPEND_ONLY)
    for table in ("audit_log", "inference_results", "reports"):
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON medai.{table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION medai.refuse_change()"
        )


def downgrade() -> None:
    """Reports, decisions and the audit chain would be lost: restore a backup instead."""
    raise NotImplementedError("the first migration cannot be undone")
