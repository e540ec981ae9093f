"""The whole configuration: one frozen model for every step, published values as defaults, unknown keys refused.

A forgotten key therefore means the published LatentSync 1.5 recipe, never a toy. `config/config.yaml` sets every demo
value. No torch here: the Snakefile reads this module each time it is parsed.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

# Bumped by hand when a step would give other results from the same input: an edit that changes no result must not
# cost anybody a week of GPU time.
VERSIONS = {
    "make_talkers": 3,
    "probe": 2,
    "resample": 2,
    "detect_scenes": 1,
    "segment": 1,
    "align_faces": 3,
    "score_sync": 2,
    "score_quality": 2,
    "select_clips": 2,
    "describe_clips": 1,
    "export_clips": 1,
    "export_webdataset": 1,
    "train_vae": 1,
    "extract_features": 1,
    "train_syncnet": 1,
    "train_unet_stage1": 1,
    "train_unet_stage2": 1,
    "generate": 5,
    "enhance": 1,
    "evaluate": 2,
    "report": 3,
    "estimate": 1,
}

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A frozen section; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MakeTalkers(Section):
    """Synthetic talking heads with known truth; only used while input_dir is null."""

    seed: int = Field(1, description="everything about the talkers follows from it")
    identities: int = Field(10, ge=8, description="faces that differ in shape and colour")
    good: Positive = Field(44, description="good videos")
    faults_each: Positive = Field(3, description="videos for each planted fault")
    duration_s: float = Field(4.4, ge=2, le=60, description="length of an ordinary video, seconds")
    height_px: int = Field(320, ge=160, le=2160, description="height of the pictures, pixels")


class Probe(Section):
    """Find broken files, read what the container says. Nothing is ever deleted."""


class Resample(Section):
    """16 kHz mono sound and the table from 25 fps ticks to source frames."""


class DetectScenes(Section):
    """PySceneDetect's adaptive detector."""

    threshold: float = Field(2.0, gt=0, description="adaptive_threshold of AdaptiveDetector")
    min_scene_ticks: Positive = Field(15, description="shortest scene, in 25 fps ticks")


class Segment(Section):
    """Cut scenes into pieces; a piece never crosses a cut."""

    length_s: float = Field(
        5.0,
        gt=0,
        description="pieces of a scene, seconds; the rest joins the last piece",
    )


class AlignFaces(Section):
    """Track faces and write the aligned crop videos."""

    backend: Literal["mediapipe", "face_alignment", "insightface"] = Field(
        "face_alignment", description="detector and landmarks; insightface: optional, not for commercial use"
    )
    resolution: Literal[64, 128, 256, 512] = Field(256, description="side of the crop, pixels")
    crf: int = Field(13, ge=0, le=51, description="x264 quality of the crop video")
    max_faces: Positive = Field(2, description="faces followed per frame")
    max_gap_ticks: int = Field(5, ge=0, description="longest gap that is interpolated; a longer one ends the clip")


class ScoreSync(Section):
    """How far the sound is off, and how sure that is."""

    backend: Literal["syncnet_v2", "stable_syncnet", "envelope"] = Field(
        "syncnet_v2",
        description="syncnet_v2: published, confidence 3 and more is good; stable_syncnet: a net of train_syncnet, "
        "confidence 0 to 1; envelope: mouth opening against loudness, chance stays below about 4",
    )
    max_shift_frames: Positive = Field(15, description="shifts tried on each side")
    weights: str | None = Field(
        None,
        description="weights of syncnet_v2, or a syncnet.safetensors of train_syncnet; null: from the weights folder",
    )


class ScoreQuality(Section):
    """What each clip looks and sounds like: quality, sharpness, light, pose, speech, alignment, hashes."""

    backend: Literal["hyperiqa", "piqe"] = Field(
        "hyperiqa", description="metric of the picture's quality, 0 to 100, higher is better; piqe needs no weights"
    )
    frames: Positive = Field(3, description="frames looked at, spread over the clip; published: 3")


class SelectClips(Section):
    """The only place with thresholds. null switches a threshold off."""

    min_s: float | None = Field(5.0, ge=0, description="shortest clip, seconds")
    min_face_px: float | None = Field(256, ge=0, description="face width in source pixels")
    min_sync_confidence: float | None = Field(3.0, description="on the scale of the score_sync backend")
    min_offset_confidence: float = Field(3.0, description="below it no offset is applied, on the same scale")
    max_offset_frames: int | None = Field(6, ge=0, description="largest |offset|, frames at 25 fps")
    min_quality: float | None = Field(40.0, description="on the scale of the score_quality backend, higher is better")
    min_sharpness: float | None = Field(None, ge=0, description="variance of the Laplacian of the face at 256 px")
    min_exposure: Share | None = Field(None, description="mean luma of the face, 0 to 1")
    max_exposure: Share | None = Field(None, description="mean luma of the face, 0 to 1")
    max_yaw_deg: float | None = Field(None, ge=0, description="median turn of the head to a side, degrees")
    max_pitch_deg: float | None = Field(None, ge=0, description="median tilt of the head up or down, degrees")
    min_speech_share: Share | None = Field(None, description="share of the clip's sound that is speech")
    min_aligned_share: Share | None = Field(
        None,
        description="share of the looked-at frames in which a second detector finds one face where the crop has it; "
        "published: remove_incorrect_affined, switched off",
    )
    max_duplicate_bits: int | None = Field(
        8,
        ge=0,
        le=16,
        description="bits of 64 in which both hashes of two clips may differ for them to be near duplicates: of those "
        "the one of better quality stays; published: no such step",
    )
    val_share: Share = Field(0.1, description="share of groups for validation, at least one group")
    test_share: Share = Field(0.1, description="share of groups for test, at least one group")
    max_pairs: Positive = Field(20, description="test sources that are generated")
    speakers: str | None = Field(None, description="CSV with columns path, speaker; null: groups by source")


class DescribeClips(Section):
    """The page of curation and the data-set card, right after selection."""

    licence: str | None = Field(None, description="terms under which the footage may be used; null: not stated")


class ExportClips(Section):
    """Ordinary mp4 clips (crop and shifted sound) for use elsewhere; on request only."""

    audio_bitrate: Positive = Field(128_000, description="AAC bits per second")


class ExportWebdataset(Section):
    """WebDataset tars of the exported clips, with scores, landmarks and matrices; on request only."""

    samples_per_tar: Positive = Field(1000, description="clips in one tar, about a gigabyte at 256 px and 5 s")


class Training(Section):
    """What every training step shares."""

    seed: int = Field(1247, description="base of all randomness")
    steps: Positive = Field(1_000_000, description="optimiser steps")
    batch_size: Positive = Field(1, description="items per step and process")
    learning_rate: float = Field(1e-5, gt=0, description="AdamW, constant after warm-up")
    warmup_steps: int = Field(0, ge=0, description="linear warm-up")
    weight_decay: float = Field(0.01, ge=0, description="AdamW")
    max_grad_norm: float = Field(1.0, gt=0, description="gradient clipping")
    ema_decay: Annotated[float, Field(ge=0, lt=1)] | None = Field(None, description="null: no EMA, as published")
    mixed_precision: Literal["no", "fp16", "bf16"] = Field("fp16", description="as accelerate has it; no on CPU")
    gradient_checkpointing: bool = Field(True, description="trade compute for memory")
    cooldown_steps: int = Field(0, ge=0, description="linear decay to zero over the last steps; published: none")
    accumulate: Positive = Field(1, description="batches whose gradients are added up for one optimiser step")
    log_every: Positive = Field(10, description="steps between rows of the loss curve")
    save_every: Positive = Field(10_000, description="steps between resumable states")
    torch_threads: Positive = Field(2, description="CPU threads; part of the fingerprint since it changes sums")


class TrainVae(Training):
    """A small AutoencoderKL; only in the graph while vae is `embedded`."""

    block_out_channels: tuple[Positive, ...] = Field(
        (16, 32, 48, 64), description="one per level; all but the last halve the picture"
    )
    latent_channels: Positive = Field(4, description="channels of the latent")
    kl_weight: float = Field(1e-4, ge=0, description="weight of the KL term")
    masked_share: Share = Field(0.25, description="share of pictures with the mouth region blanked")
    flip_share: Share = Field(0.5, description="share of pictures mirrored left to right")
    colour_jitter: float = Field(0.0, ge=0, description="largest change of gain and level; teaches unseen colours")


class ExtractFeatures(Section):
    """Whisper features and VAE moments, computed once."""

    audio_encoder: Literal["whisper", "embedded"] = Field(
        "whisper", description="Whisper tiny, or a seeded untrained one"
    )
    whisper_weights: str | None = Field(
        None, description="tiny.pt or a Hugging Face folder; null: from the weights folder"
    )
    width: Positive = Field(384, description="width of the embedded encoder; Whisper tiny has 384")
    layers: Positive = Field(4, description="blocks of the embedded encoder; Whisper tiny has 4")
    vae: Literal["published", "embedded"] = Field("published", description="sd-vae-ft-mse, or the one of train_vae")
    vae_weights: str | None = Field(None, description="folder of sd-vae-ft-mse; null: from the weights folder")
    batch_size: Positive = Field(16, description="frames per VAE call")
    torch_threads: Positive = Field(2, description="CPU threads")


class SyncNetEncoder(Section):
    """One encoder of StableSyncNet."""

    in_channels: Positive
    block_out_channels: tuple[Positive, ...]
    downsample_factors: tuple[int | tuple[int, int], ...]
    attn_blocks: tuple[bool, ...]
    dropout: float = 0.0


class TrainSyncnet(Training):
    """StableSyncNet, published configuration 16_pixel_attn."""

    frames: Positive = Field(16, description="frames per window at 25 fps")
    resolution: Positive = Field(256, description="side of the face fed to it, pixels")
    min_negative_frames: Positive = Field(1, description="negatives start at least this far away")
    max_negative_frames: Positive | None = Field(None, description="and at most this far; null: anywhere, as published")
    batch_size: Positive = Field(256, description="windows per step and process; a multiple of windows_per_clip")
    windows_per_clip: int = Field(2, ge=2, description="windows of a clip that are compared; 2: pairs, as published")
    colour_jitter: float = Field(0.0, ge=0, description="largest change of gain and level; published: none")
    shift_px: int = Field(0, ge=0, description="largest shift of a window's pictures, pixels; published: none")
    gain_db: float = Field(0.0, ge=0, description="largest change of loudness, dB; published: none")
    visual: SyncNetEncoder = Field(
        SyncNetEncoder(
            in_channels=48,
            block_out_channels=(64, 128, 256, 256, 512, 1024, 2048, 2048),
            downsample_factors=((1, 2), 2, 2, 2, 2, 2, 2, 2),
            attn_blocks=(False, False, False, False, True, True, False, False),
        ),
        description="picture encoder, lower half of the face, frames stacked on channels",
    )
    audio: SyncNetEncoder = Field(
        SyncNetEncoder(
            in_channels=1,
            block_out_channels=(32, 64, 128, 256, 512, 1024, 2048),
            downsample_factors=((2, 1), 2, 2, 1, 2, 2, (2, 3)),
            attn_blocks=(False, False, False, True, True, False, False),
        ),
        description="mel encoder, 1 x 80 x 52",
    )

    @model_validator(mode="after")
    def _whole_groups(self) -> "TrainSyncnet":
        if self.batch_size % self.windows_per_clip:
            raise ValueError(
                f"train_syncnet.batch_size is {self.batch_size}, not a multiple of windows_per_clip "
                f"({self.windows_per_clip}); change one of them."
            )
        return self


class UNetShape(Section):
    """The 3-D U-Net; defaults are LatentSync's."""

    block_out_channels: tuple[Positive, ...] = (320, 640, 1280, 1280)
    layers_per_block: Positive = 2
    attention_heads: Positive = 8
    norm_groups: Positive = 32
    motion_max_frames: Positive = 24
    audio_positions: bool = False  # fixed sinusoids on the audio tokens; untrained (embedded) audio features need them


class TrainUnet(Training):
    """Common to both stages."""

    frames: Positive = Field(16, description="frames per window at 25 fps")
    condition_dropout: Share = Field(0.0, description="share of items trained with the null audio; published: none")


class TrainUnetStage1(TrainUnet):
    """Noise prediction alone, every weight, no motion modules."""

    unet: UNetShape = UNetShape()
    init: str | None = Field(
        "sd15",
        description="sd15: Stable Diffusion 1.5's U-Net; latentsync-1.0, -1.5 or -1.6: a release; a path: a file of "
        "such weights; null: from scratch",
    )


class LossWeights(Section):
    """Weights of the stage-2 losses; 0 switches a loss off."""

    recon: float = Field(1.0, ge=0)
    sync: float = Field(0.05, ge=0)
    lpips: float = Field(0.1, ge=0)
    trepa: float = Field(10.0, ge=0)


class TrainUnetStage2(TrainUnet):
    """All four losses on the decoded one-step x0; attention and motion layers train."""

    losses: LossWeights = LossWeights()
    motion: Literal["all", "decoder"] = Field("all", description="decoder: as stage2_efficient")
    trainable: tuple[str, ...] = Field(
        ("motion_modules.", "attentions."), description="parts of the names of weights that train"
    )
    teachers: Literal["published", "embedded"] = Field(
        "published", description="VGG16 and VideoMAEv2-g, or seeded untrained nets"
    )
    video_teacher: Literal["giant", "base", "small"] = Field(
        "giant", description="size of the published VideoMAEv2 that TREPA asks; published: giant"
    )
    video_normalise: Literal["none", "imagenet"] = Field(
        "none", description="imagenet: TREPA's teacher sees pixels as it was trained on; published: none"
    )
    max_timestep: int = Field(999, ge=0, le=999, description="decoded losses act on t up to this")


class Generate(Section):
    """Lip-sync a video."""

    steps: Positive = Field(20, description="DDIM steps")
    guidance: float = Field(1.5, ge=1, description="classifier-free guidance; 1 switches it off")
    seed: int = Field(1247, description="noise")
    length: Literal["audio", "video"] = Field(
        "audio", description="what decides: audio loops or cuts the picture, video pads or cuts the sound"
    )
    max_s: float | None = Field(
        60.0, gt=0, description="longest video, seconds: of a longer one the beginning is generated; null: no limit"
    )
    overlap: int = Field(
        0, ge=0, le=15, description="frames that neighbouring windows share and fade over; published: none"
    )
    batch_size: Positive = Field(1, description="windows denoised at once")
    workers: Positive = Field(1, description="processes that share the videos, each with torch_threads threads")
    crf: int = Field(13, ge=0, le=51, description="x264 quality of the result")
    controls: int = Field(
        0, ge=0, description="cross pairs generated once more with an untrained U-Net, as a control of the evaluation"
    )
    torch_threads: Positive = Field(2, description="CPU threads")


class Enhance(Section):
    """Face enhancement of generated videos, off by default."""

    method: Literal["gfpgan", "codeformer", "gpen"] | None = Field(
        None, description="null: off; codeformer needs a package of its own (make setup-codeformer)"
    )
    strength: Share = Field(0.8, description="0: untouched, 1: fully enhanced")
    region: Literal["mouth", "face"] = Field(
        "mouth", description="mouth: only what was generated is enhanced; face: all of the face"
    )
    lip_protection: Share = Field(0.5, description="0: lips are enhanced like the rest, 1: lips stay as generated")
    crf: int = Field(13, ge=0, le=51, description="x264 quality of the result")
    weights: str | None = Field(None, description="file of the restorer; null: from the weights folder")


class Evaluate(Section):
    """Scores of what was generated, with controls."""

    faces: Literal["mediapipe", "face_alignment", "insightface"] = Field(
        "mediapipe", description="landmarks that measure the mouth in written videos"
    )
    syncnet_pairs: Positive = Field(600, description="balanced pairs for the SyncNet accuracy")
    bootstrap: Positive = Field(1000, description="resamples behind an interval")
    seed: int = Field(0, description="pairs and resamples")
    torch_threads: Positive = Field(2, description="CPU threads")


class Report(Section):
    """The page."""

    players: int = Field(4, ge=0, description="rows of side-by-side players")


class Estimate(Section):
    """What curation of all sources will yield and cost, measured on a few; on request only."""

    sources: int = Field(8, ge=2, description="sources that are curated for it; one alone would give no range")


class Config(Section):
    """Everything one run is told."""

    run: str = Field("demo", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="folder below results/")
    input_dir: str | None = Field(None, description="folder of raw videos; null: synthetic talkers")
    shards: int = Field(2, ge=1, le=99_999, description="jobs per step; fixed for the life of a run")
    commercial: bool = Field(False, description="refuse pretrained parts whose licence does not allow commercial use")
    make_talkers: MakeTalkers = MakeTalkers()
    probe: Probe = Probe()
    resample: Resample = Resample()
    detect_scenes: DetectScenes = DetectScenes()
    segment: Segment = Segment()
    align_faces: AlignFaces = AlignFaces()
    score_sync: ScoreSync = ScoreSync()
    score_quality: ScoreQuality = ScoreQuality()
    select_clips: SelectClips = SelectClips()
    describe_clips: DescribeClips = DescribeClips()
    export_clips: ExportClips = ExportClips()
    export_webdataset: ExportWebdataset = ExportWebdataset()
    train_vae: TrainVae = TrainVae()
    extract_features: ExtractFeatures = ExtractFeatures()
    train_syncnet: TrainSyncnet = TrainSyncnet()
    train_unet_stage1: TrainUnetStage1 = TrainUnetStage1()
    train_unet_stage2: TrainUnetStage2 = TrainUnetStage2()
    generate: Generate = Generate()
    enhance: Enhance = Enhance()
    evaluate: Evaluate = Evaluate()
    report: Report = Report()
    estimate: Estimate = Estimate()

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        negatives = self.train_syncnet
        if negatives.max_negative_frames is not None and negatives.max_negative_frames < negatives.min_negative_frames:
            raise ValueError(
                f"train_syncnet.max_negative_frames is {negatives.max_negative_frames}, below min_negative_frames "
                f"({negatives.min_negative_frames}); raise the one or lower the other."
            )
        limits = {name: getattr(self.select_clips, name) for name in ("min_sync_confidence", "min_offset_confidence")}
        for name, limit in limits.items():
            if self.score_sync.backend == "stable_syncnet" and limit is not None and limit > 1:
                raise ValueError(
                    f"select_clips.{name} is {limit:g}, but score_sync.backend stable_syncnet gives confidences of 1 "
                    "at most; choose a limit on its scale."
                )
        return self


SECTIONS = {name: field.annotation for name, field in Config.model_fields.items() if name in VERSIONS}


def validate(values: dict[str, Any]) -> Config:
    """The configuration from a plain mapping.

    Raises:
        ValueError: one sentence per fault, each naming the key, the value and what is allowed.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ValueError(" ".join(_sentence(fault) for fault in error.errors())) from None


def _sentence(fault: Any) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        section = SECTIONS.get(fault["loc"][0]) if len(fault["loc"]) > 1 else Config
        known = ", ".join(section.model_fields) if section else "see config/README.md"
        return f"Unknown configuration key {key}; known here: {known}."
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    return f"Configuration key {key} is {fault['input']!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}."


def section_json(cfg: Config, step: str) -> str:
    """A step's section as canonical JSON, as it stands on the step's command line."""
    return json.dumps(getattr(cfg, step).model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
