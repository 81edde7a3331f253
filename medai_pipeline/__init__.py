"""medai_pipeline: beside a PACS, from study to triage report. Research use only; no clinical claim."""

__version__ = "0.1.0"

DISCLAIMER = "Research use only. Not a medical device; not for diagnosis. A person must read every study."
