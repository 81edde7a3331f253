"""Run by Alembic, never imported: migrates on the connection that `storage.database.migrate` hands over."""

from alembic import context

from medai_pipeline.storage.database import SCHEMA

context.configure(connection=context.config.attributes["connection"], version_table_schema=SCHEMA)
with context.begin_transaction():
    context.run_migrations()
