"""Expects the configuration; gives its checked form CFG, the run's folder RUN, its SHARDS and where the videos lie."""

import sys
import time

from snakemake.exceptions import WorkflowError

sys.path.insert(0, str(workflow.current_basedir.join("..").join("..")))

from latentsync import config as settings
from latentsync import gpu_lease
from latentsync.workflow import prepare, record_run

STARTED_S = time.time()
try:
    CFG = prepare(config, workflow.is_main_process)
except (ValueError, OSError) as error:
    raise WorkflowError(str(error)) from None

RUN = f"results/{CFG.run}"
SHARDS = [f"{number:05d}" for number in range(CFG.shards)]
DEMO = CFG.input_dir is None
SOURCES = f"{RUN}/make_talkers/videos" if DEMO else CFG.input_dir
VERSIONS = settings.VERSIONS
# Jobs that use a GPU count one where there are any; without, they may run side by side. SLURM: see its profile.
GPU = min(1, gpu_lease.count())
VAE = (
    f"{RUN}/train_vae/vae.safetensors"
    if CFG.extract_features.vae == "embedded"
    else CFG.extract_features.vae_weights or []
)
SECTIONS = {step: settings.section_json(CFG, step) for step in VERSIONS}


wildcard_constraints:
    shard=r"\d{5}",
