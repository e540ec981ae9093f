"""Trained models and pairs of picture and sound in; lip-synced videos, figures and the page out."""

WHISPER = (
    CFG.extract_features.whisper_weights or []
    if CFG.extract_features.audio_encoder == "whisper"
    else []
)


rule generate:
    input:
        pairs=rules.select_clips.output.pairs,
        test=rules.select_clips.output.test,
        unet=rules.train_unet_stage2.output.weights,
        vae=VAE,
        whisper=WHISPER,
    output:
        ledger=f"{RUN}/generate/generated.jsonl",
    log:
        f"{RUN}/logs/generate.log",
    benchmark:
        f"{RUN}/benchmarks/generate.tsv"
    conda:
        "../../envs/deliver.yaml"
    threads: CFG.generate.torch_threads * CFG.generate.workers
    resources:
        gpu=GPU,
    params:
        config=SECTIONS["generate"],
        version=VERSIONS["generate"],
        sources=SOURCES,
    message:
        "generate: lip-sync every pair of held-out people"
    shell:
        "python -m latentsync.steps generate --config {params.config:q} --version {params.version}"
        " --sources {params.sources:q} --input pairs {input.pairs:q} --input test {input.test:q}"
        " --input unet {input.unet:q} --input vae {input.vae:q} --input whisper {input.whisper:q}"
        " --output ledger {output.ledger:q} > {log:q} 2>&1"


rule enhance:
    input:
        generate=rules.generate.output.ledger,
    output:
        ledger=f"{RUN}/enhance/enhanced.jsonl",
    log:
        f"{RUN}/logs/enhance.log",
    benchmark:
        f"{RUN}/benchmarks/enhance.tsv"
    conda:
        "../../envs/deliver.yaml"
    resources:
        gpu=GPU,
    params:
        config=SECTIONS["enhance"],
        version=VERSIONS["enhance"],
        sources=SOURCES,
    message:
        "enhance: restore faces, where a method is chosen"
    shell:
        "python -m latentsync.steps enhance --config {params.config:q} --version {params.version}"
        " --sources {params.sources:q} --input generate {input.generate:q} --output ledger {output.ledger:q} > {log:q} 2>&1"


rule evaluate:
    input:
        generate=rules.enhance.output.ledger,
        train=rules.select_clips.output.train,
        val=rules.select_clips.output.val,
        test=rules.select_clips.output.test,
        rejected=rules.select_clips.output.rejected,
        summary=rules.select_clips.output.summary,
        score_sync=rules.select_clips.input.score_sync,
        syncnet=rules.train_syncnet.output.weights,
        truth=[rules.make_talkers.output.truth] if DEMO else [],
    output:
        metrics=report(
            f"{RUN}/evaluate/metrics.json",
            caption="../report/metrics.rst",
            category="Evaluation",
        ),
        per_item=f"{RUN}/evaluate/items.jsonl",
    log:
        f"{RUN}/logs/evaluate.log",
    benchmark:
        f"{RUN}/benchmarks/evaluate.tsv"
    conda:
        "../../envs/deliver.yaml"
    threads: CFG.evaluate.torch_threads
    resources:
        gpu=GPU if gpu_lease.wanted("evaluate", CFG.evaluate) else 0,
    params:
        config=SECTIONS["evaluate"],
        version=VERSIONS["evaluate"],
        sources=SOURCES,
    message:
        "evaluate: score the results beside their controls"
    shell:
        "python -m latentsync.steps evaluate --config {params.config:q} --version {params.version}"
        " --sources {params.sources:q} --input generate {input.generate:q} --input train {input.train:q}"
        " --input val {input.val:q} --input test {input.test:q} --input rejected {input.rejected:q}"
        " --input summary {input.summary:q} --input score_sync {input.score_sync:q}"
        " --input syncnet {input.syncnet:q} --input truth {input.truth:q} --output metrics {output.metrics:q}"
        " --output per_item {output.per_item:q} > {log:q} 2>&1"


rule report:
    input:
        generate=rules.enhance.output.ledger,
        train=rules.select_clips.output.train,
        val=rules.select_clips.output.val,
        test=rules.select_clips.output.test,
        rejected=rules.select_clips.output.rejected,
        summary=rules.select_clips.output.summary,
        score_sync=rules.select_clips.input.score_sync,
        metrics=rules.evaluate.output.metrics,
        per_item=rules.evaluate.output.per_item,
        configuration=f"{RUN}/config.json",
        train_vae=(
            [rules.train_vae.output.curve]
            if CFG.extract_features.vae == "embedded"
            else []
        ),
        train_syncnet=rules.train_syncnet.output.curve,
        train_unet_stage1=rules.train_unet_stage1.output.curve,
        train_unet_stage2=rules.train_unet_stage2.output.curve,
    output:
        page=report(
            f"{RUN}/report/index.html", caption="../report/page.rst", category="Report"
        ),
        summary=f"{RUN}/report/summary.json",
    log:
        f"{RUN}/logs/report.log",
    benchmark:
        f"{RUN}/benchmarks/report.tsv"
    conda:
        "../../envs/deliver.yaml"
    params:
        config=SECTIONS["report"],
        version=VERSIONS["report"],
        sources=SOURCES,
    message:
        "report: one page one likes to read"
    shell:
        "python -m latentsync.steps report --config {params.config:q} --version {params.version}"
        " --sources {params.sources:q} --input generate {input.generate:q} --input train {input.train:q}"
        " --input val {input.val:q} --input test {input.test:q} --input rejected {input.rejected:q}"
        " --input summary {input.summary:q} --input score_sync {input.score_sync:q}"
        " --input metrics {input.metrics:q} --input items {input.per_item:q}"
        " --input config {input.configuration:q} --input train_vae {input.train_vae:q}"
        " --input train_syncnet {input.train_syncnet:q} --input train_unet_stage1 {input.train_unet_stage1:q}"
        " --input train_unet_stage2 {input.train_unet_stage2:q} --output page {output.page:q}"
        " --output summary {output.summary:q} > {log:q} 2>&1"
