"""A secret a study, which of the site's secrets is in force, what was forgotten or deleted by age, and running tallies."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

KEYS = """
CREATE TABLE medai.site_keys (
    key_id text PRIMARY KEY,
    state text NOT NULL CONSTRAINT site_keys_state CHECK (state IN ('current', 'past', 'destroyed')),
    since timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX site_keys_one_current ON medai.site_keys (state) WHERE state = 'current';

CREATE TABLE medai.study_secrets (
    study_key text PRIMARY KEY,
    wrapped bytea NOT NULL,
    key_id text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX study_secrets_key ON medai.study_secrets (key_id);

CREATE TABLE medai.marks (
    name text PRIMARY KEY,
    at timestamptz NOT NULL,
    detail jsonb NOT NULL DEFAULT '{}'
);
INSERT INTO medai.marks (name, at)
    SELECT 'objects.by-study', now() WHERE NOT EXISTS (SELECT FROM medai.studies);
"""

FORGETTING = """
CREATE TABLE medai.forgotten (
    study_key text PRIMARY KEY,
    at timestamptz NOT NULL,
    reason text NOT NULL DEFAULT ''
);

CREATE TABLE medai.expired (
    study_key text NOT NULL,
    kind text NOT NULL,
    at timestamptz NOT NULL,
    PRIMARY KEY (study_key, kind)
);

ALTER TABLE medai.studies DROP CONSTRAINT studies_state;
ALTER TABLE medai.studies ADD CONSTRAINT studies_state CHECK (state IN
    ('receiving', 'ready', 'queued', 'running', 'reported', 'failed', 'vanished', 'forgotten'));
CREATE INDEX studies_not_well ON medai.studies (state, stage) WHERE state IN ('failed', 'vanished', 'forgotten');
CREATE INDEX studies_finished ON medai.studies (finished_at) WHERE finished_at IS NOT NULL;

-- what belongs to a forgotten study is refused: forgetting holds the lock alone, writers share it
CREATE FUNCTION medai.refuse_forgotten() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('medai forget ' || NEW.study_key, 0));
    IF EXISTS (SELECT FROM medai.forgotten WHERE study_key = NEW.study_key) THEN
        RAISE EXCEPTION 'study % was forgotten', NEW.study_key USING ERRCODE = 'MEDF0';
    END IF;
    RETURN NEW;
END
$$;

-- append-only but for forgetting, which says so in its own transaction
CREATE OR REPLACE FUNCTION medai.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND TG_TABLE_NAME <> 'audit_log' AND current_setting('medai.forgetting', true) = 'on' THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION '%.% is append-only: add a row that supersedes the old one', TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END
$$;
"""

TALLIES = """
ALTER TABLE medai.inference_results ADD COLUMN seconds double precision;
ALTER TABLE medai.reports ADD COLUMN seconds_to_report double precision;

-- counters that only grow, also when rows are forgotten; bound: the upper end of a histogram's bucket, in seconds
CREATE INDEX deliveries_state ON medai.deliveries (state);

CREATE TABLE medai.tallies (
    name text NOT NULL,
    label text NOT NULL,
    bound double precision NOT NULL,
    count bigint NOT NULL,
    sum double precision NOT NULL,
    PRIMARY KEY (name, label, bound)
);

CREATE FUNCTION medai.tally(what text, of text, seconds double precision, bounds double precision[])
RETURNS void LANGUAGE sql AS $$
    INSERT INTO medai.tallies AS t (name, label, bound, count, sum)
    VALUES (
        what, of,
        CASE WHEN seconds IS NULL THEN -1
            ELSE coalesce((SELECT min(b) FROM unnest(bounds) AS b WHERE seconds <= b), 'infinity') END,
        1, coalesce(seconds, 0)
    )
    ON CONFLICT (name, label, bound) DO UPDATE SET count = t.count + 1, sum = t.sum + excluded.sum
$$;

CREATE FUNCTION medai.tally_inference() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM medai.tally('inference', NEW.model_name || '@' || NEW.model_version, NEW.seconds,
        '{0.01,0.025,0.05,0.1,0.25,0.5,1,2.5,5,10,30,60}');
    RETURN NULL;
END
$$;
CREATE TRIGGER inference_results_tally AFTER INSERT ON medai.inference_results
    FOR EACH ROW EXECUTE FUNCTION medai.tally_inference();

CREATE FUNCTION medai.tally_report() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM medai.tally('report', NEW.priority, NEW.seconds_to_report,
        '{15,30,60,120,300,600,1800,3600,7200,21600,86400}');
    RETURN NULL;
END
$$;
CREATE TRIGGER reports_tally AFTER INSERT ON medai.reports
    FOR EACH ROW EXECUTE FUNCTION medai.tally_report();

CREATE FUNCTION medai.tally_failure() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM medai.tally('failure', coalesce(nullif(NEW.stage, ''), 'before the first'), NULL, '{}');
    RETURN NULL;
END
$$;
CREATE TRIGGER studies_tally AFTER UPDATE OF state ON medai.studies FOR EACH ROW
    WHEN (OLD.state = 'running' AND NEW.state IN ('failed', 'ready') AND NEW.reason <> '')
    EXECUTE FUNCTION medai.tally_failure();

-- what was there before counts, without its seconds
INSERT INTO medai.tallies (name, label, bound, count, sum)
    SELECT 'inference', model_name || '@' || model_version, -1, count(*), 0 FROM medai.inference_results GROUP BY 2
    UNION ALL SELECT 'report', priority, -1, count(*), 0 FROM medai.reports GROUP BY 2;
"""

# every table that names a study, but those that say that it was there
OF_A_STUDY = """
DO $$
DECLARE of_study text;
BEGIN
    FOR of_study IN
        SELECT c.table_name FROM information_schema.columns AS c JOIN information_schema.tables AS t
            USING (table_schema, table_name)
        WHERE table_schema = 'medai' AND c.column_name = 'study_key' AND t.table_type = 'BASE TABLE'
            AND table_name NOT IN ('arrivals', 'studies', 'forgotten')
    LOOP
        EXECUTE format('CREATE TRIGGER %I BEFORE INSERT OR UPDATE OF study_key ON medai.%I '
            'FOR EACH ROW EXECUTE FUNCTION medai.refuse_forgotten()', of_study || '_refuse_forgotten', of_study);
    END LOOP;
END
$$;
"""


def upgrade() -> None:
    for statements in (KEYS, FORGETTING, TALLIES, OF_A_STUDY):
        op.execute(statements)


def downgrade() -> None:
    """The secrets of the studies would be lost, and with them all that is sealed: restore a backup instead."""
    raise NotImplementedError("this migration cannot be undone")
