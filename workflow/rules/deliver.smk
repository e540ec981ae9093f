"""From trained models and pairs of video and audio to lip-synced videos, their evaluation and the report."""

WHISPER = CFG.extract_features.whisper_weights if CFG.extract_features.audio_encoder == "whisper" else None


rule generate:
    input:
        pairs=PAIRS,
        test=SELECTION.test,
        unet=rules.train_unet_stage2.output.weights,
        vae=VAE,
        whisper=WHISPER or [],
        consent=CONSENT["generation"],
    output:
        ledger=f"{RUN}/generate/{{shard}}.jsonl",
    log:
        f"{RUN}/logs/generate/{{shard}}.log",
    benchmark:
        f"{RUN}/benchmarks/generate/{{shard}}.tsv"
    conda:
        "../../envs/deliver.yaml"
    threads: CFG.generate.torch_threads
    resources:
        gpu=GPUS["generate"],
    params:
        step=given(STEPS["generate"] + VIDEOS),
        files=files,
    message:
        "generate {wildcards.shard}: lip-sync pairs of the test split"
    shell:
        STEP


rule evaluate:
    input:
        **SPLITS,
        generate=expand(rules.generate.output.ledger, shard=PAIR_SHARDS),
        rejected=SELECTION.rejected,
        summary=SELECTION.summary,
        score_sync=rules.select_clips.input.score_sync,
        syncnet=rules.train_syncnet.output.weights,
        truth=rules.make_talkers.output.truth if DEMO else [],
    output:
        metrics=report(f"{RUN}/evaluate/metrics.json", caption="../report/metrics.rst", category="Evaluation"),
        per_item=f"{RUN}/evaluate/items.jsonl",
    log:
        f"{RUN}/logs/evaluate.log",
    benchmark:
        f"{RUN}/benchmarks/evaluate.tsv"
    conda:
        "../../envs/deliver.yaml"
    threads: CFG.evaluate.torch_threads
    resources:
        gpu=GPUS["evaluate"],
    params:
        step=given(STEPS["evaluate"] + VIDEOS),
        files=files,
    message:
        "evaluate: score the generated videos and their controls"
    shell:
        STEP


rule report:
    input:
        **SPLITS,
        generate=rules.evaluate.input.generate,
        rejected=SELECTION.rejected,
        summary=SELECTION.summary,
        score_sync=rules.select_clips.input.score_sync,
        metrics=rules.evaluate.output.metrics,
        per_item=rules.evaluate.output.per_item,
        config=CONFIG,
        consent=CONSENT["grants"],
        train_vae=rules.train_vae.output.curve if EMBEDDED_VAE else [],
        train_syncnet=rules.train_syncnet.output.curve,
        train_unet_stage1=rules.train_unet_stage1.output.curve,
        train_unet_stage2=rules.train_unet_stage2.output.curve,
    output:
        page=report(f"{RUN}/report/index.html", caption="../report/page.rst", category="Report"),
        summary=f"{RUN}/report/summary.json",
    log:
        f"{RUN}/logs/report.log",
    benchmark:
        f"{RUN}/benchmarks/report.tsv"
    conda:
        "../../envs/deliver.yaml"
    params:
        step=given(STEPS["report"] + VIDEOS),
        files=files,
    message:
        "report: write the page with videos, metrics and curves"
    shell:
        STEP
