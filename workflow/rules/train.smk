"""From selected clips to trained models. The state that training resumes from lies in undeclared folders state/."""

EMBEDDED_VAE = CFG.extract_features.vae == "embedded"

if EMBEDDED_VAE:

    rule train_vae:
        input:
            train=SELECTION.train,
            val=SELECTION.val,
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
            gpu=GPUS["train_vae"],
        params:
            step=given(STEPS["train_vae"]),
            files=files,
        message:
            "train_vae: train a small autoencoder"
        shell:
            STEP


VAE = rules.train_vae.output.weights if EMBEDDED_VAE else CFG.extract_features.vae_weights or []


rule extract_features:
    input:
        **SPLITS,
        sources=SOURCES,
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
        gpu=GPUS["extract_features"],
    params:
        step=given(STEPS["extract_features"]),
        files=files,
    message:
        "extract_features {wildcards.shard}: compute audio features and VAE moments once"
    shell:
        STEP


rule train_syncnet:
    input:
        train=SELECTION.train,
        val=SELECTION.val,
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
        gpu=GPUS["train_syncnet"],
    params:
        step=given(STEPS["train_syncnet"]),
        files=files,
    message:
        "train_syncnet: train a network that judges whether video and audio are in sync"
    shell:
        STEP


rule train_unet_stage1:
    input:
        features=expand(rules.extract_features.output.ledger, shard=SHARDS),
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
        gpu=GPUS["train_unet_stage1"],
    params:
        step=given(STEPS["train_unet_stage1"]),
        files=files,
    message:
        "train_unet_stage1: train all U-Net weights to predict noise"
    shell:
        STEP


rule train_unet_stage2:
    input:
        features=rules.train_unet_stage1.input.features,
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
        gpu=GPUS["train_unet_stage2"],
    params:
        step=given(STEPS["train_unet_stage2"]),
        files=files,
    message:
        "train_unet_stage2: fine-tune the U-Net with four losses on decoded frames"
    shell:
        STEP


TRAINED = [
    *SELECTED,
    *(rules.train_vae.output if EMBEDDED_VAE else []),
    *rules.train_syncnet.output,
    *rules.train_unet_stage1.input.features,
    *rules.train_unet_stage1.output,
    *rules.train_unet_stage2.output,
]
