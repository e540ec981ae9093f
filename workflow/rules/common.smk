"""The checked configuration CFG, the folder of the run, its shards, and what all rules share."""

import sys
import time
from shlex import quote

from snakemake.exceptions import WorkflowError

ROOT = str(workflow.current_basedir.join("..").join(".."))
sys.path.insert(0, ROOT)

from latentsync.command_line import requested
from latentsync.required import check
from latentsync.terminal import shorten, told
from latentsync.workflow import arguments, files, given, gpus, prepare, record_run

shorten()
STARTED_S = time.time()
try:
    CFG, CHANGED, STAGING = prepare(config, workflow.is_main_process)
except (ValueError, OSError) as error:
    raise WorkflowError(told(error)) from None

RUN = f"results/{CFG.run}"
CONFIG = f"{RUN}/config.json"
# What the table of consents says today; recorded like CONFIG.
CONSENT = {name: f"{RUN}/consent/{name}.json" if CFG.consent else [] for name in ("training", "generation", "grants")}
SHARDS = [f"{number:05d}" for number in range(CFG.shards)]
PAIR_SHARDS = [f"{number:05d}" for number in range(CFG.select_clips.pair_shards)]
DEMO = CFG.synthetic
VIDEOS = ["--sources", f"{RUN}/make_talkers/videos" if DEMO else CFG.input_dir]
STEPS = arguments(CFG)
GPUS = gpus(CFG)

# `step`: name, section and version of the step; `files`: inputs and outputs under the names that the rule gives them.
COMMAND = "python -m latentsync.steps {params.step:q} {params.files:q}"
STEP = COMMAND + " > {log:q} 2>&1"

# The environments hold what the steps import, but not this package: pip would bring all of its dependencies.
shell.prefix(f"export PYTHONPATH={quote(ROOT)}${{{{PYTHONPATH:+:$PYTHONPATH}}}}; ")


wildcard_constraints:
    shard=r"\d{5}",
