"""From raw videos to selected clips: one ledger per step and shard, then one selection for all."""

SOURCES = f"{RUN}/sources/{{shard}}.jsonl"  # written by record_inputs, or by make_talkers
PAIRS = f"{RUN}/select_clips/pairs-{{shard}}.jsonl"

# Parsing writes nothing into results/ (`snakemake -n` and `--dag` parse, too). What it finds there to be new or changed
# is staged elsewhere, and this job copies it. Cluster jobs do not look, so for them the rule does not exist.
if CHANGED:

    rule record_inputs:
        input:
            [f"{STAGING}/{name}" for name in CHANGED],
        output:
            [f"{RUN}/{name}" for name in CHANGED],
        log:
            f"{RUN}/logs/record_inputs.log",
        localrule: True
        conda:
            "../../envs/curate.yaml"
        params:
            staging=given([str(STAGING)]),
            run=given([RUN]),
        message:
            "record_inputs: write down the list of videos and the configuration"
        shell:
            "cp -R {params.staging:q}/. {params.run:q} > {log:q} 2>&1"


if DEMO:

    rule make_talkers:
        output:
            truth=f"{RUN}/make_talkers/truth.jsonl",
            speakers=f"{RUN}/make_talkers/speakers.csv",
            sources=expand(SOURCES, shard=SHARDS),
        log:
            f"{RUN}/logs/make_talkers.log",
        benchmark:
            f"{RUN}/benchmarks/make_talkers.tsv"
        conda:
            "../../envs/curate.yaml"
        threads: 2
        params:
            step=given(STEPS["make_talkers"]),
            files=files,
        message:
            "make_talkers: render synthetic talkers with known ground truth"
        shell:
            STEP


# All files on the way to the selection; see the targets in the Snakefile.
SELECTED = [*rules.make_talkers.output] if DEMO else expand(SOURCES, shard=SHARDS)

# Each of these steps reads the ledger of a shard and writes the next one, which has all its rows. A step that opens the
# raw videos is given VIDEOS, too.
for step, previous, videos, message in (
    ("probe", "sources", VIDEOS, "read container metadata and find broken files"),
    ("resample", "probe", VIDEOS, "extract 16 kHz mono audio and map 25 fps ticks to source frames"),
    ("detect_scenes", "resample", VIDEOS, "find cuts"),
    ("segment", "detect_scenes", [], "divide scenes into segments"),
    ("align_faces", "segment", VIDEOS, "track faces and write aligned crops"),
    ("score_sync", "align_faces", [], "measure the offset between video and audio"),
    ("score_quality", "align_faces", [], "measure image quality"),
):

    rule:
        name:
            step
        input:
            **{previous: f"{RUN}/{previous}/{{shard}}.jsonl"},
        output:
            ledger=f"{RUN}/{step}/{{shard}}.jsonl",
        log:
            f"{RUN}/logs/{step}/{{shard}}.log",
        benchmark:
            f"{RUN}/benchmarks/{step}/{{shard}}.tsv"
        conda:
            "../../envs/curate.yaml"
        resources:
            gpu=GPUS[step],
        params:
            step=given(STEPS[step] + videos),
            files=files,
        message:
            f"{step} {{wildcards.shard}}: {message}"
        shell:
            STEP

    SELECTED += expand(f"{RUN}/{step}/{{shard}}.jsonl", shard=SHARDS)


rule select_clips:
    input:
        score_sync=expand(rules.score_sync.output.ledger, shard=SHARDS),
        score_quality=expand(rules.score_quality.output.ledger, shard=SHARDS),
        speakers=rules.make_talkers.output.speakers if DEMO else CFG.select_clips.speakers or [],
        consent=CONSENT["training"],
    output:
        train=f"{RUN}/select_clips/train.jsonl",
        val=f"{RUN}/select_clips/val.jsonl",
        test=f"{RUN}/select_clips/test.jsonl",
        pairs=expand(PAIRS, shard=PAIR_SHARDS),
        rejected=report(f"{RUN}/select_clips/rejected.csv", caption="../report/rejected.rst", category="Curation"),
        summary=f"{RUN}/select_clips/summary.json",
    log:
        f"{RUN}/logs/select_clips.log",
    benchmark:
        f"{RUN}/benchmarks/select_clips.tsv"
    conda:
        "../../envs/curate.yaml"
    params:
        step=given(STEPS["select_clips"]),
        files=files,
    message:
        "select_clips: apply thresholds, split by speaker, pair videos with audio"
    shell:
        STEP


SELECTION = rules.select_clips.output
SELECTED += SELECTION
SPLITS = {name: SELECTION[name] for name in ("train", "val", "test")}


rule describe_clips:
    input:
        **SPLITS,
        summary=SELECTION.summary,
        rejected=SELECTION.rejected,
        score_sync=rules.select_clips.input.score_sync,
        config=CONFIG,
        consent=CONSENT["grants"],
    output:
        page=report(f"{RUN}/describe_clips/index.html", caption="../report/clips.rst", category="Curation"),
        summary=f"{RUN}/describe_clips/summary.json",
        card_json=f"{RUN}/describe_clips/card.json",
        card_md=f"{RUN}/describe_clips/card.md",
    log:
        f"{RUN}/logs/describe_clips.log",
    benchmark:
        f"{RUN}/benchmarks/describe_clips.tsv"
    conda:
        "../../envs/curate.yaml"
    params:
        step=given(STEPS["describe_clips"] + VIDEOS),
        files=files,
    message:
        "describe_clips: write the curation page and the dataset card"
    shell:
        STEP


rule export_clips:
    input:
        **SPLITS,
    output:
        ledger=f"{RUN}/export_clips/clips.jsonl",
    log:
        f"{RUN}/logs/export_clips.log",
    benchmark:
        f"{RUN}/benchmarks/export_clips.tsv"
    conda:
        "../../envs/curate.yaml"
    params:
        step=given(STEPS["export_clips"]),
        files=files,
    message:
        "export_clips: write selected clips as mp4 files"
    shell:
        STEP


rule export_webdataset:
    input:
        **SPLITS,
        clips=rules.export_clips.output.ledger,
    output:
        ledger=f"{RUN}/export_webdataset/tars.jsonl",
    log:
        f"{RUN}/logs/export_webdataset.log",
    benchmark:
        f"{RUN}/benchmarks/export_webdataset.tsv"
    conda:
        "../../envs/curate.yaml"
    params:
        step=given(STEPS["export_webdataset"]),
        files=files,
    message:
        "export_webdataset: pack exported clips into WebDataset tars"
    shell:
        STEP


# No rule reads the estimate: it runs only when it is requested by name, and prints its table.
rule estimate:
    input:
        sources=expand(SOURCES, shard=SHARDS),
        config=CONFIG,
    output:
        estimate=f"{RUN}/estimate/estimate.json",
    log:
        f"{RUN}/logs/estimate.log",
    benchmark:
        f"{RUN}/benchmarks/estimate.tsv"
    conda:
        "../../envs/curate.yaml"
    resources:
        gpu=GPUS["estimate"],
    params:
        step=given(STEPS["estimate"] + VIDEOS),
        files=files,
    message:
        "estimate: curate a sample of the videos and predict hours of footage, cost and disk space for all"
    shell:
        COMMAND + " 2>&1 | tee {log:q}"
