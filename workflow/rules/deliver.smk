"""Trained models and pairs of picture and sound in; lip-synced videos, figures and the page out."""


rule generate:
    input:
        pairs=rules.select_clips.output.pairs,
        unet=rules.train_unet_stage2.output.weights,
        vae=VAE,
    output:
        ledger=f"{RUN}/generate/generated.jsonl",
    log:
        f"{RUN}/logs/generate.log",
    benchmark:
        f"{RUN}/benchmarks/generate.tsv"
    conda:
        "../../envs/deliver.yaml"
    threads: CFG.generate.torch_threads
    resources:
        gpu=GPU,
    params:
        config=SECTIONS["generate"],
        version=VERSIONS["generate"],
        sources=SOURCES,
    message:
        "generate: lip-sync every pair of the held-out people"
    shell:
        "python -m latentsync.steps generate --config {params.config:q} --version {params.version}"
        " --sources {params.sources:q} --input pairs {input.pairs:q} --input unet {input.unet:q}"
        " --input vae {input.vae:q} --output ledger {output.ledger:q} > {log:q} 2>&1"


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
        test=rules.select_clips.output.test,
        score_sync=rules.select_clips.input.score_sync,
        syncnet=rules.train_syncnet.output.weights,
        truth=[rules.make_talkers.output.truth] if DEMO else [],
    output:
        metrics=f"{RUN}/evaluate/metrics.json",
        per_item=f"{RUN}/evaluate/items.jsonl",
    log:
        f"{RUN}/logs/evaluate.log",
    benchmark:
        f"{RUN}/benchmarks/evaluate.tsv"
    conda:
        "../../envs/deliver.yaml"
    threads: CFG.evaluate.torch_threads
    params:
        config=SECTIONS["evaluate"],
        version=VERSIONS["evaluate"],
        sources=SOURCES,
    message:
        "evaluate: score the results beside their controls"
    shell:
        "python -m latentsync.steps evaluate --config {params.config:q} --version {params.version} > {log:q} 2>&1"


rule report:
    input:
        summary=rules.select_clips.output.summary,
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
        "python -m latentsync.steps report --config {params.config:q} --version {params.version} > {log:q} 2>&1"
