"""The worklist's pages and the REST API: one FastAPI application over the same database as everything else.

Reads and writes through `services` and `storage`; starts no run itself (a request is a row that orchestration takes up),
knows no Dagster, writes no SQL. Who may do what is one table in `access`; every route names its permission there.
"""
