"""LatentSync Studio: raw talking-head videos in; curated clips, trained models, lip-synced videos and a report out.

The includes follow the data. Every rule calls one step of the package `latentsync`; clips never appear
here: a job is one shard of the sources, its output one ledger. `snakemake --cores all` runs the demo.
"""

import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

min_version("9.27")


report: "workflow/report/workflow.rst"


# Given --configfile, config.yaml is not read: Snakemake would merge the two, and demo values would leak into a recipe.
if not workflow.config_settings.configfiles:

    configfile: "config/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/curate.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/deliver.smk"


# A target names every file on the way to it. Snakemake makes a missing file only for a job that runs: after a job that
# failed or was stopped, and so lost its outputs, whatever was made of the old ones would count as up to date.
rule all:
    default_target: True
    input:
        TRAINED,
        rules.describe_clips.output,
        rules.evaluate.input.generate,
        rules.evaluate.output,
        rules.report.output,


rule curate:
    input:
        SELECTED,
        rules.describe_clips.output,


rule export:
    input:
        SELECTED,
        rules.export_clips.output,
        rules.export_webdataset.output,


rule train:
    input:
        TRAINED,


# Only the parts that the steps of this call read; cluster jobs need not look again.
if workflow.is_main_process:
    try:
        check(CFG, requested(workflow.rules, sys.argv))
    except ValueError as error:
        raise WorkflowError(str(error)) from None


onsuccess:
    record_run(Path(RUN), STARTED_S, "finished")


onerror:
    record_run(Path(RUN), STARTED_S, "failed")
