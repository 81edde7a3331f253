"""The job of a study: its assets up to the report, checks included, in one process (docs/adr/0001). What returns results
runs by itself (docs/adr/0009)."""

import dagster as dg

STUDY_JOB = "study_job"


study_job = dg.define_asset_job(
    STUDY_JOB,
    selection=dg.AssetSelection.groups("study") - dg.AssetSelection.assets("pacs_results"),
    executor_def=dg.in_process_executor,
    description="From the PACS to the triage report, for one study or a range of studies.",
)
