"""Selected clips in; VAE, SyncNet and the two-stage U-Net out. Resumable state lies in undeclared state/ folders."""

if CFG.extract_features.vae == "embedded":

    rule train_vae:
        input:
            train=rules.select_clips.output.train,
            val=rules.select_clips.output.val,
        output:
            weights=f"{RUN}/train_vae/vae.safetensors",
            curve=f"{RUN}/train_vae/curve.csv",
        log:
            f"{RUN}/logs/train_vae.log",
        benchmark:
            f"{RUN}/benchmarks/train_vae.tsv"
        conda:
            "../../envs/train.yaml"
        threads: CFG.train_vae.torch_threads
        resources:
            gpu=GPU,
        params:
            config=SECTIONS["train_vae"],
            version=VERSIONS["train_vae"],
        message:
            "train_vae: a small autoencoder, where none is given"
        shell:
            "python -m latentsync.steps train_vae --config {params.config:q} --version {params.version}"
            " --input train {input.train:q} --input val {input.val:q} --output weights {output.weights:q}"
            " --output curve {output.curve:q} > {log:q} 2>&1"


rule extract_features:
    input:
        sources=f"{RUN}/sources/{{shard}}.jsonl",
        train=rules.select_clips.output.train,
        val=rules.select_clips.output.val,
        test=rules.select_clips.output.test,
        vae=VAE,
    output:
        ledger=f"{RUN}/extract_features/{{shard}}.jsonl",
    log:
        f"{RUN}/logs/extract_features/{{shard}}.log",
    benchmark:
        f"{RUN}/benchmarks/extract_features/{{shard}}.tsv"
    conda:
        "../../envs/train.yaml"
    threads: CFG.extract_features.torch_threads
    resources:
        gpu=GPU,
    params:
        config=SECTIONS["extract_features"],
        version=VERSIONS["extract_features"],
    message:
        "extract_features {wildcards.shard}: sound features and VAE moments, once"
    shell:
        "python -m latentsync.steps extract_features --config {params.config:q} --version {params.version}"
        " --input sources {input.sources:q} --input train {input.train:q} --input val {input.val:q}"
        " --input test {input.test:q} --input vae {input.vae:q} --output ledger {output.ledger:q} > {log:q} 2>&1"


rule train_syncnet:
    input:
        train=rules.select_clips.output.train,
        val=rules.select_clips.output.val,
    output:
        weights=f"{RUN}/train_syncnet/syncnet.safetensors",
        curve=f"{RUN}/train_syncnet/curve.csv",
    log:
        f"{RUN}/logs/train_syncnet.log",
    benchmark:
        f"{RUN}/benchmarks/train_syncnet.tsv"
    conda:
        "../../envs/train.yaml"
    threads: CFG.train_syncnet.torch_threads
    resources:
        gpu=GPU,
    params:
        config=SECTIONS["train_syncnet"],
        version=VERSIONS["train_syncnet"],
    message:
        "train_syncnet: learn whether picture and sound belong together"
    shell:
        "python -m latentsync.steps train_syncnet --config {params.config:q} --version {params.version}"
        " --input train {input.train:q} --input val {input.val:q} --output weights {output.weights:q}"
        " --output curve {output.curve:q} > {log:q} 2>&1"


rule train_unet_stage1:
    input:
        features=expand(f"{RUN}/extract_features/{{shard}}.jsonl", shard=SHARDS),
        vae=VAE,
    output:
        weights=f"{RUN}/train_unet_stage1/unet.safetensors",
        curve=f"{RUN}/train_unet_stage1/curve.csv",
    log:
        f"{RUN}/logs/train_unet_stage1.log",
    benchmark:
        f"{RUN}/benchmarks/train_unet_stage1.tsv"
    conda:
        "../../envs/train.yaml"
    threads: CFG.train_unet_stage1.torch_threads
    resources:
        gpu=GPU,
    params:
        config=SECTIONS["train_unet_stage1"],
        version=VERSIONS["train_unet_stage1"],
    message:
        "train_unet_stage1: noise prediction, all weights"
    shell:
        "python -m latentsync.steps train_unet_stage1 --config {params.config:q} --version {params.version}"
        " --input features {input.features:q} --input vae {input.vae:q} --output weights {output.weights:q}"
        " --output curve {output.curve:q} > {log:q} 2>&1"


rule train_unet_stage2:
    input:
        features=expand(f"{RUN}/extract_features/{{shard}}.jsonl", shard=SHARDS),
        vae=VAE,
        syncnet=rules.train_syncnet.output.weights,
        stage1=rules.train_unet_stage1.output.weights,
    output:
        weights=f"{RUN}/train_unet_stage2/unet.safetensors",
        curve=f"{RUN}/train_unet_stage2/curve.csv",
    log:
        f"{RUN}/logs/train_unet_stage2.log",
    benchmark:
        f"{RUN}/benchmarks/train_unet_stage2.tsv"
    conda:
        "../../envs/train.yaml"
    threads: CFG.train_unet_stage2.torch_threads
    resources:
        gpu=GPU,
    params:
        config=SECTIONS["train_unet_stage2"],
        version=VERSIONS["train_unet_stage2"],
    message:
        "train_unet_stage2: four losses on decoded frames"
    shell:
        "python -m latentsync.steps train_unet_stage2 --config {params.config:q} --version {params.version}"
        " --input features {input.features:q} --input vae {input.vae:q} --input syncnet {input.syncnet:q}"
        " --input stage1 {input.stage1:q} --output weights {output.weights:q} --output curve {output.curve:q} > {log:q} 2>&1"
