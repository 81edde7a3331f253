"""Alembic's folder: env.py is run by Alembic alone, versions/ holds one file a change of the schema."""
