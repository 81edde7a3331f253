"""The one job: all assets of a study, its checks included, in one process (docs/adr/0001)."""

import dagster as dg

STUDY_JOB = "study_job"


study_job = dg.define_asset_job(
    STUDY_JOB,
    selection=dg.AssetSelection.groups("study"),
    executor_def=dg.in_process_executor,
    description="From the PACS to the triage report, for one study or a range of studies.",
)
