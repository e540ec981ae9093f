"""Raw videos in; one ledger per step and shard, and the selected clips, out. Parameters: the steps' sections."""

if DEMO:

    rule make_talkers:
        output:
            truth=f"{RUN}/make_talkers/truth.jsonl",
            speakers=f"{RUN}/make_talkers/speakers.csv",
            sources=expand(f"{RUN}/sources/{{shard}}.jsonl", shard=SHARDS),
        log:
            f"{RUN}/logs/make_talkers.log",
        benchmark:
            f"{RUN}/benchmarks/make_talkers.tsv"
        conda:
            "../../envs/curate.yaml"
        threads: 2
        params:
            config=SECTIONS["make_talkers"],
            version=VERSIONS["make_talkers"],
            shards=CFG.shards,
            folder=subpath(output.truth, parent=True),
            ledgers=subpath(output.truth, ancestor=2),
        message:
            "make_talkers: draw synthetic talking heads with known truth"
        shell:
            "(python -m latentsync.steps make_talkers --config {params.config:q} --version {params.version}"
            " --output truth {output.truth:q} --output speakers {output.speakers:q}"
            " && python -m latentsync.ledger.sources {params.folder:q}/videos {params.ledgers:q}/sources {params.shards}) > {log:q} 2>&1"


rule probe:
    input:
        sources=f"{RUN}/sources/{{shard}}.jsonl",
    output:
        ledger=f"{RUN}/probe/{{shard}}.jsonl",
    log:
        f"{RUN}/logs/probe/{{shard}}.log",
    benchmark:
        f"{RUN}/benchmarks/probe/{{shard}}.tsv"
    conda:
        "../../envs/curate.yaml"
    params:
        config=SECTIONS["probe"],
        version=VERSIONS["probe"],
        sources=SOURCES,
    message:
        "probe {wildcards.shard}: read what the container says, find broken files"
    shell:
        "python -m latentsync.steps probe --config {params.config:q} --version {params.version}"
        " --input sources {input.sources:q} --output ledger {output.ledger:q} --sources {params.sources:q} > {log:q} 2>&1"


rule resample:
    input:
        probe=f"{RUN}/probe/{{shard}}.jsonl",
    output:
        ledger=f"{RUN}/resample/{{shard}}.jsonl",
    log:
        f"{RUN}/logs/resample/{{shard}}.log",
    benchmark:
        f"{RUN}/benchmarks/resample/{{shard}}.tsv"
    conda:
        "../../envs/curate.yaml"
    params:
        config=SECTIONS["resample"],
        version=VERSIONS["resample"],
        sources=SOURCES,
    message:
        "resample {wildcards.shard}: 16 kHz mono sound and the table from ticks to source frames"
    shell:
        "python -m latentsync.steps resample --config {params.config:q} --version {params.version}"
        " --input probe {input.probe:q} --output ledger {output.ledger:q} --sources {params.sources:q} > {log:q} 2>&1"


rule detect_scenes:
    input:
        resample=f"{RUN}/resample/{{shard}}.jsonl",
    output:
        ledger=f"{RUN}/detect_scenes/{{shard}}.jsonl",
    log:
        f"{RUN}/logs/detect_scenes/{{shard}}.log",
    benchmark:
        f"{RUN}/benchmarks/detect_scenes/{{shard}}.tsv"
    conda:
        "../../envs/curate.yaml"
    params:
        config=SECTIONS["detect_scenes"],
        version=VERSIONS["detect_scenes"],
        sources=SOURCES,
    message:
        "detect_scenes {wildcards.shard}: find the cuts"
    shell:
        "python -m latentsync.steps detect_scenes --config {params.config:q} --version {params.version}"
        " --input resample {input.resample:q} --output ledger {output.ledger:q} --sources {params.sources:q} > {log:q} 2>&1"


rule segment:
    input:
        detect_scenes=f"{RUN}/detect_scenes/{{shard}}.jsonl",
    output:
        ledger=f"{RUN}/segment/{{shard}}.jsonl",
    log:
        f"{RUN}/logs/segment/{{shard}}.log",
    benchmark:
        f"{RUN}/benchmarks/segment/{{shard}}.tsv"
    conda:
        "../../envs/curate.yaml"
    params:
        config=SECTIONS["segment"],
        version=VERSIONS["segment"],
    message:
        "segment {wildcards.shard}: cut scenes into pieces"
    shell:
        "python -m latentsync.steps segment --config {params.config:q} --version {params.version}"
        " --input detect_scenes {input.detect_scenes:q} --output ledger {output.ledger:q} > {log:q} 2>&1"


rule align_faces:
    input:
        segment=f"{RUN}/segment/{{shard}}.jsonl",
    output:
        ledger=f"{RUN}/align_faces/{{shard}}.jsonl",
    log:
        f"{RUN}/logs/align_faces/{{shard}}.log",
    benchmark:
        f"{RUN}/benchmarks/align_faces/{{shard}}.tsv"
    conda:
        "../../envs/curate.yaml"
    resources:
        gpu=GPU if gpu_lease.wanted("align_faces", CFG.align_faces) else 0,
    params:
        config=SECTIONS["align_faces"],
        version=VERSIONS["align_faces"],
        sources=SOURCES,
    message:
        "align_faces {wildcards.shard}: track faces, write aligned crops"
    shell:
        "python -m latentsync.steps align_faces --config {params.config:q} --version {params.version}"
        " --input segment {input.segment:q} --output ledger {output.ledger:q} --sources {params.sources:q} > {log:q} 2>&1"


rule score_sync:
    input:
        align_faces=f"{RUN}/align_faces/{{shard}}.jsonl",
    output:
        ledger=f"{RUN}/score_sync/{{shard}}.jsonl",
    log:
        f"{RUN}/logs/score_sync/{{shard}}.log",
    benchmark:
        f"{RUN}/benchmarks/score_sync/{{shard}}.tsv"
    conda:
        "../../envs/curate.yaml"
    resources:
        gpu=GPU if gpu_lease.wanted("score_sync", CFG.score_sync) else 0,
    params:
        config=SECTIONS["score_sync"],
        version=VERSIONS["score_sync"],
    message:
        "score_sync {wildcards.shard}: measure the offset between picture and sound"
    shell:
        "python -m latentsync.steps score_sync --config {params.config:q} --version {params.version}"
        " --input align_faces {input.align_faces:q} --output ledger {output.ledger:q} > {log:q} 2>&1"


rule score_quality:
    input:
        align_faces=f"{RUN}/align_faces/{{shard}}.jsonl",
    output:
        ledger=f"{RUN}/score_quality/{{shard}}.jsonl",
    log:
        f"{RUN}/logs/score_quality/{{shard}}.log",
    benchmark:
        f"{RUN}/benchmarks/score_quality/{{shard}}.tsv"
    conda:
        "../../envs/curate.yaml"
    params:
        config=SECTIONS["score_quality"],
        version=VERSIONS["score_quality"],
    message:
        "score_quality {wildcards.shard}: measure the quality of the picture"
    shell:
        "python -m latentsync.steps score_quality --config {params.config:q} --version {params.version}"
        " --input align_faces {input.align_faces:q} --output ledger {output.ledger:q} > {log:q} 2>&1"


rule select_clips:
    input:
        score_sync=expand(f"{RUN}/score_sync/{{shard}}.jsonl", shard=SHARDS),
        score_quality=expand(f"{RUN}/score_quality/{{shard}}.jsonl", shard=SHARDS),
        speakers=(
            [f"{RUN}/make_talkers/speakers.csv"]
            if DEMO
            else CFG.select_clips.speakers or []
        ),
    output:
        train=f"{RUN}/select_clips/train.jsonl",
        val=f"{RUN}/select_clips/val.jsonl",
        test=f"{RUN}/select_clips/test.jsonl",
        pairs=f"{RUN}/select_clips/pairs.jsonl",
        rejected=report(
            f"{RUN}/select_clips/rejected.csv",
            caption="../report/rejected.rst",
            category="Curation",
        ),
        summary=f"{RUN}/select_clips/summary.json",
    log:
        f"{RUN}/logs/select_clips.log",
    benchmark:
        f"{RUN}/benchmarks/select_clips.tsv"
    conda:
        "../../envs/curate.yaml"
    params:
        config=SECTIONS["select_clips"],
        version=VERSIONS["select_clips"],
    message:
        "select_clips: apply every threshold, split by speaker, pair pictures with sounds"
    shell:
        "python -m latentsync.steps select_clips --config {params.config:q} --version {params.version}"
        " --input score_sync {input.score_sync:q} --input score_quality {input.score_quality:q}"
        " --input speakers {input.speakers:q} --output train {output.train:q} --output val {output.val:q}"
        " --output test {output.test:q} --output pairs {output.pairs:q} --output rejected {output.rejected:q}"
        " --output summary {output.summary:q} > {log:q} 2>&1"


rule describe_clips:
    input:
        summary=rules.select_clips.output.summary,
        rejected=rules.select_clips.output.rejected,
        train=rules.select_clips.output.train,
        val=rules.select_clips.output.val,
        test=rules.select_clips.output.test,
        score_sync=rules.select_clips.input.score_sync,
        configuration=f"{RUN}/config.json",
    output:
        page=report(
            f"{RUN}/describe_clips/index.html",
            caption="../report/clips.rst",
            category="Curation",
        ),
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
        config=SECTIONS["describe_clips"],
        version=VERSIONS["describe_clips"],
        sources=SOURCES,
    message:
        "describe_clips: the page of curation and the data-set card"
    shell:
        "python -m latentsync.steps describe_clips --config {params.config:q} --version {params.version}"
        " --sources {params.sources:q} --input summary {input.summary:q} --input rejected {input.rejected:q}"
        " --input train {input.train:q} --input val {input.val:q} --input test {input.test:q}"
        " --input score_sync {input.score_sync:q} --input config {input.configuration:q}"
        " --output page {output.page:q} --output summary {output.summary:q} --output card_json {output.card_json:q}"
        " --output card_md {output.card_md:q} > {log:q} 2>&1"


rule export_clips:
    input:
        train=rules.select_clips.output.train,
        val=rules.select_clips.output.val,
        test=rules.select_clips.output.test,
    output:
        ledger=f"{RUN}/export_clips/clips.jsonl",
    log:
        f"{RUN}/logs/export_clips.log",
    benchmark:
        f"{RUN}/benchmarks/export_clips.tsv"
    conda:
        "../../envs/curate.yaml"
    params:
        config=SECTIONS["export_clips"],
        version=VERSIONS["export_clips"],
    message:
        "export_clips: ordinary mp4 files for use elsewhere"
    shell:
        "python -m latentsync.steps export_clips --config {params.config:q} --version {params.version}"
        " --input train {input.train:q} --input val {input.val:q} --input test {input.test:q}"
        " --output ledger {output.ledger:q} > {log:q} 2>&1"


# What curation of all sources will yield and cost: a measurement, so no rule reads it and only its own name asks for it.
rule estimate:
    input:
        sources=expand(f"{RUN}/sources/{{shard}}.jsonl", shard=SHARDS),
        configuration=f"{RUN}/config.json",
    output:
        estimate=f"{RUN}/estimate/estimate.json",
    log:
        f"{RUN}/logs/estimate.log",
    benchmark:
        f"{RUN}/benchmarks/estimate.tsv"
    conda:
        "../../envs/curate.yaml"
    resources:
        gpu=(
            GPU
            if gpu_lease.wanted("align_faces", CFG.align_faces)
            or gpu_lease.wanted("score_sync", CFG.score_sync)
            else 0
        ),
    params:
        config=SECTIONS["estimate"],
        version=VERSIONS["estimate"],
        sources=SOURCES,
    message:
        "estimate: curate a few videos aside and predict hours, cost and disk for all; the table follows"
    shell:
        "python -m latentsync.steps estimate --config {params.config:q} --version {params.version}"
        " --input sources {input.sources:q} --input config {input.configuration:q}"
        " --output estimate {output.estimate:q} --sources {params.sources:q} 2>&1 | tee {log:q}"


rule export_webdataset:
    input:
        clips=rules.export_clips.output.ledger,
        train=rules.select_clips.output.train,
        val=rules.select_clips.output.val,
        test=rules.select_clips.output.test,
    output:
        ledger=f"{RUN}/export_webdataset/tars.jsonl",
    log:
        f"{RUN}/logs/export_webdataset.log",
    benchmark:
        f"{RUN}/benchmarks/export_webdataset.tsv"
    conda:
        "../../envs/curate.yaml"
    params:
        config=SECTIONS["export_webdataset"],
        version=VERSIONS["export_webdataset"],
    message:
        "export_webdataset: tars of samples for training elsewhere"
    shell:
        "python -m latentsync.steps export_webdataset --config {params.config:q} --version {params.version}"
        " --input clips {input.clips:q} --input train {input.train:q} --input val {input.val:q}"
        " --input test {input.test:q} --output ledger {output.ledger:q} > {log:q} 2>&1"
