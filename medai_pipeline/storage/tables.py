"""The tables of schema `medai` as SQLAlchemy Core: what statements are built from. The migrations make them.

A test holds both equal. Append-only tables (`audit_log`, `inference_results`, `reports`) refuse UPDATE, DELETE and
TRUNCATE by trigger: what was said about a patient stays; a later row supersedes an earlier one.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

from medai_pipeline.storage.database import SCHEMA

metadata = sa.MetaData(schema=SCHEMA)


def _text(name: str, **options: Any) -> sa.Column[str]:
    """A column that holds "" rather than NULL when nothing is known."""
    return sa.Column(name, sa.Text, nullable=False, server_default=sa.text("''"), **options)


def _time(name: str, nullable: bool = True, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable, **options)


def _whole(name: str, default: int = 0) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False, server_default=sa.text(str(default)))


def _study_revision() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["study_key", "revision"], [f"{SCHEMA}.studies.study_key", f"{SCHEMA}.studies.revision"]
    )


# what the PACS was last seen to hold, before it is a study revision
arrivals = sa.Table(
    "arrivals",
    metadata,
    sa.Column("study_key", sa.Text, primary_key=True),
    sa.Column("fingerprint", sa.Text, nullable=False),
    _whole("instance_count"),
    _time("first_seen_at", nullable=False),  # of the images that are not settled yet
    _time("changed_at", nullable=False),
    sa.Column("settled", sa.Boolean, nullable=False, server_default=sa.text("false")),
    sa.Column("vanished", sa.Boolean, nullable=False, server_default=sa.text("false")),
    sa.Column("digest", sa.Text),
    sa.Index("arrivals_unsettled", "changed_at", postgresql_where=sa.text("NOT settled AND NOT vanished")),
)

# one row a revision; the one with the highest revision is the study as it is now
studies = sa.Table(
    "studies",
    metadata,
    sa.Column("study_key", sa.Text, primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True),
    sa.Column("source_digest", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    _text("stage"),
    _text("reason"),
    _whole("attempts"),
    _whole("instance_count"),
    _text("modality"),
    sa.Column("run_id", sa.Text),
    sa.Column("report_id", UUID(as_uuid=True)),  # the report that counts, of those the revision has
    _time("run_requested_at"),
    _time("next_attempt_at"),
    _time("first_seen_at", nullable=False),
    _time("ready_at", nullable=False),
    _time("started_at"),
    _time("finished_at"),
    _time("updated_at", nullable=False),
    _text("read_modality"),  # as what its images were read: by this a model is chosen
    _text("read_body_part"),
    sa.Column(
        "read_kinds", JSONB, nullable=False, server_default=sa.text("'[]'")
    ),  # [modality, body part], most frequent first
    sa.CheckConstraint(
        "state IN ('receiving', 'ready', 'queued', 'running', 'reported', 'failed', 'vanished', 'forgotten')",
        name="studies_state",
    ),
    sa.CheckConstraint("revision >= 1", name="studies_revision"),
    sa.Index("studies_open", "state", "ready_at", postgresql_where=sa.text("state IN ('ready', 'queued', 'running')")),
    sa.Index("studies_run", "run_id", postgresql_where=sa.text("run_id IS NOT NULL")),
    sa.Index(
        "studies_not_well", "state", "stage", postgresql_where=sa.text("state IN ('failed', 'vanished', 'forgotten')")
    ),
    sa.Index("studies_finished", "finished_at", postgresql_where=sa.text("finished_at IS NOT NULL")),
)

images = sa.Table(
    "images",
    metadata,
    sa.Column("study_key", sa.Text, primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True),
    sa.Column("sop_instance_uid", sa.Text, primary_key=True),
    sa.Column("series_instance_uid", sa.Text, nullable=False),
    sa.Column("study_instance_uid", sa.Text, nullable=False),
    sa.Column("sop_class_uid", sa.Text, nullable=False),
    _text("transfer_syntax_uid"),
    _text("modality"),
    _text("body_part"),
    _text("view_position"),
    _text("laterality"),
    _text("photometric"),
    _whole("rows"),
    _whole("columns"),
    _whole("frames"),
    _whole("bits_stored"),
    _whole("instance_number"),
    sa.Column("row_spacing_mm", sa.Float),
    sa.Column("column_spacing_mm", sa.Float),
    sa.Column("slice_thickness_mm", sa.Float),
    sa.Column("usable", sa.Boolean, nullable=False),
    _text("reason"),
    sa.Column("source_sha256", sa.Text, nullable=False),
    _text("sha256"),
    _text("object_key"),
    sa.Column("size_bytes", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    _study_revision(),
    sa.Index("images_sop_instance_uid", "sop_instance_uid"),
    sa.Index("images_source_sha256", "source_sha256"),
)

models = sa.Table(
    "models",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, primary_key=True),
    sa.Column("architecture", sa.Text, nullable=False),
    sa.Column("weights_sha256", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("card", JSONB, nullable=False),
    _time("registered_at", nullable=False),
    sa.Column("measured", JSONB, nullable=False, server_default=sa.text("'{}'")),  # what registration found
    sa.Column(
        "prepared", JSONB, nullable=False, server_default=sa.text("'{}'")
    ),  # the best way to compute it, by machine
    _text("registered_by"),
    _text("promoted_by"),
    _time("promoted_at"),
    _time("backfill_since"),  # older studies are to be computed again by it, since then
    _text("replaced"),  # name@version of what it took the place of, with commas
    _text("behind"),  # the same of those before, whose studies it reads because a backfill had not ended
    sa.CheckConstraint("state IN ('registered', 'shadow', 'active', 'retired')", name="models_state"),
)

# what a version is made for; the index lets no two be active for the same
model_scopes = sa.Table(
    "model_scopes",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, primary_key=True),
    sa.Column("modality", sa.Text, primary_key=True),
    sa.Column("body_part", sa.Text, primary_key=True),
    sa.Column("active", sa.Boolean, nullable=False, server_default=sa.text("false")),
    sa.ForeignKeyConstraint(["name", "version"], [f"{SCHEMA}.models.name", f"{SCHEMA}.models.version"]),
    sa.Index("model_scopes_one_active", "modality", "body_part", unique=True, postgresql_where=sa.text("active")),
)

inference_results = sa.Table(
    "inference_results",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("study_key", sa.Text, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("model_name", sa.Text, nullable=False),
    sa.Column("model_version", sa.Text, nullable=False),
    sa.Column("weights_sha256", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("inputs_digest", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("result", JSONB, nullable=False),
    _time("created_at", nullable=False),
    sa.Column("seconds", sa.Float),  # what it took to compute, a study's share of its batch
    _study_revision(),
    sa.UniqueConstraint(
        "study_key",
        "revision",
        "weights_sha256",
        "inputs_digest",
        "model_name",
        "model_version",
        "role",
        name="inference_results_inputs",
    ),
    sa.Index("inference_results_model", "model_name", "model_version"),
)

_READ_BY = "coalesce((content #>> '{models,0,name}') || '@' || (content #>> '{models,0,version}'), '')"
_READ_WEIGHTS = "coalesce(content #>> '{models,0,weights_sha256}', '')"

reports = sa.Table(
    "reports",
    metadata,
    sa.Column("id", UUID(as_uuid=True), primary_key=True),
    sa.Column("study_key", sa.Text, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("inputs_digest", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("priority", sa.Text, nullable=False),
    sa.Column("priority_rank", sa.SmallInteger, nullable=False),
    sa.Column("review_required", sa.Boolean, nullable=False),
    sa.Column("content", JSONB, nullable=False),
    sa.Column("object_prefix", sa.Text, nullable=False),
    _time("created_at", nullable=False),
    sa.Column("seconds_to_report", sa.Float),  # since the first image was seen; only of a revision's first report
    # name@version and weights of the model whose answer it tells, "" where none was made for it
    sa.Column("read_by", sa.Text, sa.Computed(_READ_BY, persisted=True), nullable=False),
    sa.Column("read_weights", sa.Text, sa.Computed(_READ_WEIGHTS, persisted=True), nullable=False),
    sa.Index("reports_read_by", "read_by"),
    _study_revision(),
    sa.UniqueConstraint("study_key", "revision", "inputs_digest", name="reports_inputs"),
)

reviews = sa.Table(
    "reviews",
    metadata,
    sa.Column("id", UUID(as_uuid=True), primary_key=True),
    sa.Column("report_id", UUID(as_uuid=True), sa.ForeignKey(f"{SCHEMA}.reports.id"), nullable=False),
    sa.Column("reviewer", sa.Text, nullable=False),
    sa.Column("decision", sa.Text, nullable=False),
    _text("note"),
    sa.Column("content", JSONB),  # the report as edited
    _time("created_at", nullable=False),
    sa.CheckConstraint("decision IN ('accepted', 'edited', 'rejected')", name="reviews_decision"),
    sa.Index("reviews_report", "report_id"),
    sa.Index("reviews_created", "created_at"),
)

annotations = sa.Table(
    "annotations",
    metadata,
    sa.Column("id", UUID(as_uuid=True), primary_key=True),
    sa.Column("study_key", sa.Text, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("sop_instance_uid", sa.Text, nullable=False),
    _whole("frame", default=1),
    sa.Column("author", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    _text("label"),
    sa.Column("geometry", JSONB, nullable=False),
    _whole("version", default=1),
    sa.Column("deleted", sa.Boolean, nullable=False, server_default=sa.text("false")),
    _time("created_at", nullable=False),
    _time("updated_at", nullable=False),
    _study_revision(),
    sa.Index("annotations_study", "study_key", "revision"),
)

# one row an edition of a study's results and destination; who goes on with it stands in `storage.deliveries`
deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("id", UUID(as_uuid=True), primary_key=True),
    sa.Column("report_id", UUID(as_uuid=True), sa.ForeignKey(f"{SCHEMA}.reports.id"), nullable=False),
    sa.Column("destination", sa.Text, nullable=False),
    sa.Column("sop_instance_uids", ARRAY(sa.Text), nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    _text("reason"),
    _whole("attempts"),
    _time("created_at", nullable=False),
    _time("updated_at", nullable=False),
    sa.Index("deliveries_state", "state"),
    _whole("edition", default=1),  # of the study's results: counts up whenever something else counts
    sa.Column("review_id", UUID(as_uuid=True), sa.ForeignKey(f"{SCHEMA}.reviews.id")),  # whose words are sent
    sa.Column("withdrawal", sa.Boolean, nullable=False, server_default=sa.text("false")),  # takes back, says nothing
    sa.Column("objects", JSONB, nullable=False, server_default=sa.text("'[]'")),  # kind and UIDs of each object
    _time("next_attempt_at"),  # null: nothing is left to do by itself
    sa.Column("run_id", sa.Text),
    _whole("asked"),  # how often the node was asked to commit without an answer
    _whole("refusals"),  # of the attempts: those that were answered with a refusal
    sa.CheckConstraint("state IN ('pending', 'sent', 'committed', 'failed', 'dropped')", name="deliveries_state"),
    sa.UniqueConstraint("report_id", "edition", "destination", name="deliveries_once"),
    sa.Index("deliveries_due", "next_attempt_at", postgresql_where=sa.text("next_attempt_at IS NOT NULL")),
    sa.Index("deliveries_run", "run_id", postgresql_where=sa.text("run_id IS NOT NULL")),
)

audit_log = sa.Table(
    "audit_log",
    metadata,
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),  # 1, 2, 3, ... without gaps
    _time("at", nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("detail", JSONB, nullable=False),
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("previous_hash", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.Index("audit_log_subject", "subject"),
)

# where the chain ends, so that records cut off its end are missed
audit_head = sa.Table(
    "audit_head",
    metadata,
    sa.Column("sole", sa.Boolean, primary_key=True, server_default=sa.text("true")),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.CheckConstraint("sole", name="audit_head_sole"),
)

# the vault: nothing here can be read without the site's key
identities = sa.Table(
    "identities",
    metadata,
    sa.Column("study_key", sa.Text, primary_key=True),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
    sa.Column("key_id", sa.Text, nullable=False),
    _time("updated_at", nullable=False),
    _text("patient_token"),  # an HMAC of the Patient ID: by it the studies of a patient are found
    sa.Index("identities_patient", "patient_token", postgresql_where=sa.text("patient_token <> ''")),
)

# the secret of each study, sealed under one of the site's: what is destroyed when a patient is forgotten
study_secrets = sa.Table(
    "study_secrets",
    metadata,
    sa.Column("study_key", sa.Text, primary_key=True),
    sa.Column("wrapped", sa.LargeBinary, nullable=False),
    sa.Column("key_id", sa.Text, nullable=False),
    _time("created_at", nullable=False, server_default=sa.func.now()),
    sa.Index("study_secrets_key", "key_id"),
)

# which of the site's secrets seals now, by id; the secrets themselves are never in the database
site_keys = sa.Table(
    "site_keys",
    metadata,
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    _time("since", nullable=False, server_default=sa.func.now()),
    sa.CheckConstraint("state IN ('current', 'past', 'destroyed')", name="site_keys_state"),
    sa.Index("site_keys_one_current", "state", unique=True, postgresql_where=sa.text("state = 'current'")),
)

# studies whose secret was destroyed: the key alone is left, so that they are left alone
forgotten = sa.Table(
    "forgotten",
    metadata,
    sa.Column("study_key", sa.Text, primary_key=True),
    _time("at", nullable=False),
    _text("reason"),
)

# what was deleted of a study because of its age
expired = sa.Table(
    "expired",
    metadata,
    sa.Column("study_key", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),
    _time("at", nullable=False),
)

# counters that only grow, kept by triggers; bound is the upper end of a histogram's bucket, -1 without a duration
tallies = sa.Table(
    "tallies",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("label", sa.Text, primary_key=True),
    sa.Column("bound", sa.Float, primary_key=True),
    sa.Column("count", sa.BigInteger, nullable=False),
    sa.Column("sum", sa.Float, nullable=False),
)

# when something that repeats was last done, by name
marks = sa.Table(
    "marks",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    _time("at", nullable=False),
    sa.Column("detail", JSONB, nullable=False, server_default=sa.text("'{}'")),
)

# the same schema holds who logs in, and what they ask for and say
from medai_pipeline.storage import web_tables  # noqa: E402, F401
