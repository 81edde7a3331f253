"""All rows in one object, for commands and pages that need more than one part of it."""

from __future__ import annotations

from medai_pipeline.storage.lifecycle import Lifecycle
from medai_pipeline.storage.results import Results
from medai_pipeline.storage.worklist import Worklist


class Repository(Lifecycle, Results, Worklist):
    """`Repository(engine)`: the lifecycle of studies, their results, and the views over both."""
