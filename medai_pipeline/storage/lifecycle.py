"""A study's whole way in one object: arrivals, revisions and their runs, and the holds that show which runs live."""

from __future__ import annotations

from medai_pipeline.storage.arrivals import Arrivals
from medai_pipeline.storage.holds import Holds
from medai_pipeline.storage.studies import Studies


class Lifecycle(Arrivals, Studies, Holds):
    """What the sensor and the runs use; each method is one transaction."""
