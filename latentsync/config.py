"""The whole configuration: one frozen section per step; unknown keys are errors.

The defaults are the published LatentSync 1.5 recipe, so a key left out never means a toy-sized value;
`config/config.yaml` sets every value of the demo. This module does not import torch, because the Snakefile imports it
each time it is parsed.
"""

import json
from typing import Annotated, Any, Literal, TypeGuard, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

# Raised by hand when a step gives other results for the same input. An edit that changes no result leaves its version
# alone, so that it does not repeat a week of GPU time.
VERSIONS = {
    "make_talkers": 3,
    "probe": 2,
    "resample": 2,
    "detect_scenes": 1,
    "segment": 1,
    "align_faces": 4,
    "score_sync": 2,
    "score_quality": 2,
    "select_clips": 3,
    "describe_clips": 2,
    "export_clips": 1,
    "export_webdataset": 1,
    "train_vae": 1,
    "extract_features": 1,
    "train_syncnet": 1,
    "train_unet_stage1": 1,
    "train_unet_stage2": 1,
    "generate": 5,
    "enhance": 1,
    "evaluate": 3,
    "report": 4,
    "estimate": 1,
}

SyncScorer = Literal["syncnet_v2", "stable_syncnet", "envelope"]  # the keys of sync/scorers.py's table, see there
Restorer = Literal["gfpgan", "codeformer", "gpen"]
Length = Literal["audio", "video"]
FaceBackend = Literal["mediapipe", "face_alignment", "insightface"]  # the names of faces/backends.py
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Base of all sections: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MakeTalkers(Section):
    """Videos of synthetic talkers with known ground truth; only used while input_dir is null."""

    seed: int = Field(default=1, description="seed of everything random about the talkers")
    identities: int = Field(default=10, ge=8, description="number of faces that differ in shape and colours")
    good: Positive = Field(default=44, description="number of videos without a fault")
    faults_each: Positive = Field(default=3, description="number of videos for each planted fault")
    duration_s: float = Field(default=4.4, ge=2, le=60, description="length of an ordinary video, in seconds")
    height_px: int = Field(default=320, ge=160, le=2160, description="height of the frames, in pixels")


class Probe(Section):
    """Find unreadable files and read the stream information of the rest. Nothing is ever deleted."""


class Resample(Section):
    """Write 16 kHz mono audio and the table that maps 25 fps ticks to source frames."""


class DetectScenes(Section):
    """Find cuts with the adaptive detector of PySceneDetect."""

    threshold: float = Field(
        default=2.0, gt=0, description="adaptive_threshold of AdaptiveDetector; lower finds more cuts"
    )
    min_scene_ticks: Positive = Field(default=15, description="shortest scene, in ticks of 1/25 s")


class Segment(Section):
    """Divide scenes into segments; a segment never crosses a cut."""

    length_s: float = Field(
        default=5.0,
        gt=0,
        description="length of a segment, in seconds; the remainder of a scene joins its last segment",
    )


class AlignFaces(Section):
    """Track faces and write one video of aligned crops per face track."""

    backend: FaceBackend = Field(
        default="face_alignment",
        description="detector and landmarks; insightface: optional package, non-commercial weights",
    )
    resolution: Literal[64, 128, 256, 512] = Field(default=256, description="width and height of the crop, in pixels")
    crf: int = Field(default=13, ge=0, le=51, description="x264 CRF of the crop video")
    max_faces: Positive = Field(default=2, description="most faces tracked at once")
    max_gap_ticks: int = Field(
        default=5, ge=0, description="longest interpolated gap, in ticks of 1/25 s; a longer one ends the clip"
    )


class ScoreSync(Section):
    """Measure the offset between audio and video, and the confidence in it."""

    backend: SyncScorer = Field(
        default="syncnet_v2", description="sync scorer, see the table below; published: syncnet_v2"
    )
    max_shift_frames: Positive = Field(
        default=15, description="largest offset that is tried in each direction, in frames at 25 fps"
    )
    weights: str | None = Field(
        default=None,
        description="file of syncnet_v2 or syncnet.safetensors of train_syncnet; null: the weights folder's",
    )


class ScoreQuality(Section):
    """Measure each clip: image quality, sharpness, exposure, head pose, speech, alignment, hashes."""

    backend: Literal["hyperiqa", "piqe"] = Field(
        default="hyperiqa", description="metric of image quality, 0 to 100, higher is better; piqe needs no weights"
    )
    frames: Positive = Field(
        default=3, description="number of frames scored, evenly spaced over the clip; published: 3"
    )


class SelectClips(Section):
    """Apply the thresholds (no other step has any) and make the splits. null switches a threshold off."""

    min_s: float | None = Field(default=5.0, ge=0, description="shortest clip, in seconds")
    min_face_px: float | None = Field(
        default=256, ge=0, description="smallest face width, in pixels of the source video"
    )
    min_sync_confidence: float | None = Field(default=3.0, description="lowest sync confidence, on the scorer's scale")
    min_offset_confidence: float = Field(
        default=3.0, description="lowest confidence at which an offset is applied, same scale"
    )
    max_offset_frames: int | None = Field(default=6, ge=0, description="largest absolute offset, in frames at 25 fps")
    min_quality: float | None = Field(default=40.0, description="lowest image quality, 0 to 100")
    min_sharpness: float | None = Field(
        default=None, ge=0, description="lowest variance of the Laplacian of the face at 256 px"
    )
    min_exposure: Share | None = Field(default=None, description="lowest mean luma of the face, 0 to 1")
    max_exposure: Share | None = Field(default=None, description="highest mean luma of the face, 0 to 1")
    max_yaw_deg: float | None = Field(default=None, ge=0, description="largest median yaw to either side, in degrees")
    max_pitch_deg: float | None = Field(default=None, ge=0, description="largest median pitch up or down, in degrees")
    min_speech_share: Share | None = Field(
        default=None, description="smallest share of the audio that is speech, 0 to 1"
    )
    min_aligned_share: Share | None = Field(
        default=None,
        description="smallest share of checked frames where a second detector finds one face, at its expected "
        "place in the crop; published: remove_incorrect_affined, switched off",
    )
    max_duplicate_bits: int | None = Field(
        default=8,
        ge=0,
        le=16,
        description="clips whose two 64-bit hashes both differ in at most this many bits are near duplicates; "
        "the one of better quality is kept; published: no such step",
    )
    val_share: Share = Field(default=0.1, description="share of groups for validation, at least one group")
    test_share: Share = Field(default=0.1, description="share of groups for test, at least one group")
    max_pairs: Positive = Field(default=20, description="most test sources that generate uses")
    pair_shards: int = Field(
        default=8,
        ge=1,
        le=99_999,
        description="jobs of generate and of enhance; changing it generates all videos again",
    )
    speakers: str | None = Field(default=None, description="CSV with columns path, speaker; null: groups by source")


class DescribeClips(Section):
    """Write the curation page and the data-set card, right after selection."""

    licence: str | None = Field(default=None, description="terms under which the footage may be used; null: not stated")


class ExportClips(Section):
    """Write mp4 clips (crop and shifted audio) for use elsewhere; runs only on request."""

    audio_bitrate: Positive = Field(default=128_000, description="AAC bit rate, in bits per second")


class ExportWebdataset(Section):
    """Write WebDataset tars of the exported clips with scores, landmarks and matrices; runs only on request."""

    samples_per_tar: Positive = Field(
        default=1000, description="clips per tar; 1000 clips of 5 s at 256 px are about 1 GB"
    )


class Training(Section):
    """Keys that all training steps share."""

    seed: int = Field(default=1247, description="seed of all random numbers")
    steps: Positive = Field(default=1_000_000, description="number of optimiser steps")
    batch_size: Positive = Field(default=1, description="items per batch and process")
    learning_rate: float = Field(default=1e-5, gt=0, description="learning rate of AdamW, constant after warm-up")
    warmup_steps: int = Field(default=0, ge=0, description="optimiser steps of linear warm-up")
    weight_decay: float = Field(default=0.01, ge=0, description="weight decay of AdamW")
    max_grad_norm: float = Field(default=1.0, gt=0, description="gradients are clipped to this norm")
    ema_decay: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        default=None, description="decay of EMA weights; null: no EMA, as published"
    )
    mixed_precision: Literal["no", "fp16", "bf16"] = Field(
        default="fp16", description="precision of accelerate; no on a CPU"
    )
    gradient_checkpointing: bool = Field(default=True, description="less memory, more time: activations are recomputed")
    cooldown_steps: int = Field(
        default=0, ge=0, description="steps of linear decay to zero at the end; published: none"
    )
    accumulate: Positive = Field(default=1, description="batches accumulated for one optimiser step")
    log_every: Positive = Field(default=10, description="optimiser steps between two rows of the loss curve")
    save_every: Positive = Field(default=10_000, description="optimiser steps between two checkpoints")
    torch_threads: Positive = Field(
        default=2, description="CPU threads; part of the fingerprint, because it changes sums"
    )


class TrainVae(Training):
    """Train a small AutoencoderKL; part of the graph only while extract_features.vae is `embedded`."""

    block_out_channels: tuple[Positive, ...] = Field(
        default=(16, 32, 48, 64), description="channels per level; every level but the last halves the image"
    )
    latent_channels: Positive = Field(default=4, description="channels of the latents")
    kl_weight: float = Field(default=1e-4, ge=0, description="weight of the KL loss")
    masked_share: Share = Field(default=0.25, description="share of images with a masked mouth, 0 to 1")
    flip_share: Share = Field(default=0.5, description="share of images mirrored left to right, 0 to 1")
    colour_jitter: float = Field(default=0.0, ge=0, description="largest random change of gain and level; 0: none")


class ExtractFeatures(Section):
    """Compute Whisper features and VAE moments once for all training steps."""

    audio_encoder: Literal["whisper", "embedded"] = Field(
        default="whisper", description="whisper: Whisper tiny; embedded: a seeded, untrained encoder"
    )
    whisper_weights: str | None = Field(
        default=None, description="tiny.pt or a Hugging Face folder; null: the weights folder's"
    )
    width: Positive = Field(default=384, description="channels of the embedded encoder; Whisper tiny has 384")
    layers: Positive = Field(default=4, description="blocks of the embedded encoder; Whisper tiny has 4")
    vae: Literal["published", "embedded"] = Field(
        default="published", description="published: sd-vae-ft-mse; embedded: the VAE of train_vae"
    )
    vae_weights: str | None = Field(default=None, description="folder of sd-vae-ft-mse; null: the weights folder's")
    batch_size: Positive = Field(default=16, description="frames per call of the VAE")
    torch_threads: Positive = Field(default=2, description="CPU threads")


class SyncNetEncoder(Section):
    """One encoder of StableSyncNet; the three lists are equally long."""

    in_channels: Positive = Field(description="3 per frame; 1 for a mel spectrogram")
    block_out_channels: tuple[Positive, ...] = Field(description="channels of each block")
    downsample_factors: tuple[int | tuple[int, int], ...] = Field(description="factor of each block, or [h, w]")
    attn_blocks: tuple[bool, ...] = Field(description="whether each block ends with attention")
    dropout: float = Field(default=0.0, description="dropout probability, 0 to 1")


class TrainSyncnet(Training):
    """Train StableSyncNet; the default is the published configuration 16_pixel_attn."""

    frames: Positive = Field(default=16, description="frames per window at 25 fps")
    resolution: Positive = Field(default=256, description="width and height of the face, in pixels")
    min_negative_frames: Positive = Field(default=1, description="smallest shift of a negative, in frames at 25 fps")
    max_negative_frames: Positive | None = Field(
        default=None, description="largest shift of a negative; null: any, as published"
    )
    batch_size: Positive = Field(
        default=256, description="windows per batch and process; a multiple of windows_per_clip"
    )
    windows_per_clip: int = Field(
        default=2, ge=2, description="windows of a clip that are compared; 2: pairs, as published"
    )
    colour_jitter: float = Field(
        default=0.0, ge=0, description="largest random change of gain and level; published: none"
    )
    shift_px: int = Field(default=0, ge=0, description="largest random shift of a window, in pixels; published: none")
    gain_db: float = Field(default=0.0, ge=0, description="largest random gain of the audio, in dB; published: none")
    visual: SyncNetEncoder = Field(
        default=SyncNetEncoder(
            in_channels=48,
            block_out_channels=(64, 128, 256, 256, 512, 1024, 2048, 2048),
            downsample_factors=((1, 2), 2, 2, 2, 2, 2, 2, 2),
            attn_blocks=(False, False, False, False, True, True, False, False),
        ),
        description="visual encoder: lower half of the face, frames stacked as channels",
    )
    audio: SyncNetEncoder = Field(
        default=SyncNetEncoder(
            in_channels=1,
            block_out_channels=(32, 64, 128, 256, 512, 1024, 2048),
            downsample_factors=((2, 1), 2, 2, 1, 2, 2, (2, 3)),
            attn_blocks=(False, False, False, True, True, False, False),
        ),
        description="audio encoder: mel spectrogram, 1 x 80 x 52",
    )

    @model_validator(mode="after")
    def _whole_groups(self) -> "TrainSyncnet":
        if self.batch_size % self.windows_per_clip:
            raise ValueError(
                f"train_syncnet.batch_size is {self.batch_size}, which is not a multiple of windows_per_clip "
                f"({self.windows_per_clip}); change one of them."
            )
        return self


class UNetShape(Section):
    """Size of the 3-D U-Net; the defaults are those of LatentSync."""

    block_out_channels: tuple[Positive, ...] = (320, 640, 1280, 1280)
    layers_per_block: Positive = 2
    attention_heads: Positive = 8
    norm_groups: Positive = 32
    motion_max_frames: Positive = 24
    audio_positions: bool = False  # fixed sinusoids on the audio tokens; untrained (embedded) audio features need them


class TrainUnet(Training):
    """Keys that both stages share."""

    frames: Positive = Field(default=16, description="frames per window at 25 fps")
    condition_dropout: Share = Field(
        default=0.0, description="share of items trained with null audio, 0 to 1; published: none"
    )


class TrainUnetStage1(TrainUnet):
    """Train every weight of the U-Net on noise prediction alone, without motion modules."""

    unet: UNetShape = UNetShape()
    init: str | None = Field(
        default="sd15",
        description="sd15: U-Net of Stable Diffusion 1.5; latentsync-1.0, -1.5 or -1.6: a release; a path: a file of "
        "such weights; null: from scratch",
    )


class LossWeights(Section):
    """Weights of the losses of stage 2; 0 switches a loss off."""

    recon: float = Field(default=1.0, ge=0)
    sync: float = Field(default=0.05, ge=0)
    lpips: float = Field(default=0.1, ge=0)
    trepa: float = Field(default=10.0, ge=0)


class TrainUnetStage2(TrainUnet):
    """Train attention and motion modules with four losses on the decoded one-step estimate of x0."""

    losses: LossWeights = LossWeights()
    motion: Literal["all", "decoder"] = Field(
        default="all", description="where motion modules are; decoder: as in stage2_efficient"
    )
    trainable: tuple[str, ...] = Field(
        default=("motion_modules.", "attentions."), description="parts of the names of parameters that are trained"
    )
    teachers: Literal["published", "embedded"] = Field(
        default="published", description="VGG16 and VideoMAEv2-g, or seeded, untrained networks"
    )
    video_teacher: Literal["giant", "base", "small"] = Field(
        default="giant", description="size of the published VideoMAEv2 that TREPA uses; published: giant"
    )
    video_normalise: Literal["none", "imagenet"] = Field(
        default="none", description="input of TREPA's teacher; imagenet: normalised as in its training; published: none"
    )
    max_timestep: int = Field(default=999, ge=0, le=999, description="largest timestep of the losses on decoded frames")


class Generate(Section):
    """Lip-sync the test videos."""

    steps: int = Field(default=20, ge=1, le=1000, description="number of DDIM steps")  # 1000: those of the training
    guidance: float = Field(default=1.5, ge=1, description="classifier-free guidance scale; 1 switches it off")
    seed: int = Field(default=1247, description="seed of the noise")
    length: Length = Field(
        default="audio", description="sets the length; audio: frames are looped or cut; video: audio is padded or cut"
    )
    max_s: float | None = Field(
        default=60.0, gt=0, description="longest result, in seconds; the rest of the video is left out; null: no limit"
    )
    overlap: int = Field(
        default=2, ge=0, le=15, description="frames that neighbouring windows share and cross-fade; published: 0"
    )
    batch_size: Positive = Field(default=1, description="windows per call of the U-Net")
    crf: int = Field(default=13, ge=0, le=51, description="x264 CRF of the result")
    controls: int = Field(
        default=0, ge=0, description="cross pairs that an untrained U-Net generates too, as a control of the evaluation"
    )
    torch_threads: Positive = Field(default=2, description="CPU threads")


class Enhance(Section):
    """Enhance faces in generated videos; off by default."""

    method: Restorer | None = Field(
        default=None, description="null: off; codeformer needs an extra package (make setup-codeformer)"
    )
    strength: Share = Field(default=0.8, description="0: not enhanced, 1: fully enhanced")
    region: Literal["mouth", "face"] = Field(
        default="mouth", description="mouth: enhance only the generated region; face: the whole face"
    )
    lip_protection: Share = Field(
        default=0.5, description="0: lips are enhanced like the rest, 1: lips stay as generated"
    )
    crf: int = Field(default=13, ge=0, le=51, description="x264 CRF of the result")
    weights: str | None = Field(default=None, description="weights of the restorer; null: the weights folder's")


class Tracking(Section):
    """How faces are followed in the videos of generation: as curation of the same run follows them."""

    scenes: DetectScenes = DetectScenes()
    max_gap_ticks: int = Field(default=AlignFaces().max_gap_ticks, ge=0, description="longest gap that is interpolated")


class GenerateInRun(Generate):
    """What the step generate gets: its section, and what it takes from detect_scenes and align_faces."""

    tracking: Tracking = Tracking()


class EnhanceInRun(Enhance):
    """What the step enhance gets: its section, and what it takes from detect_scenes and align_faces."""

    tracking: Tracking = Tracking()


class Evaluate(Section):
    """Measure the generated videos and their controls."""

    faces: FaceBackend = Field(default="mediapipe", description="face backend that measures the mouth in the results")
    sync_backend: SyncScorer = Field(
        default="syncnet_v2",
        description="sync scorer of the results, see the table below; a SyncNet that also supervised the training "
        "favours what it trained",
    )
    sync_weights: str | None = Field(
        default=None,
        description="file of syncnet_v2 or syncnet.safetensors of train_syncnet; null: the weights folder's",
    )
    syncnet_pairs: Positive = Field(default=600, description="balanced pairs for the accuracy of SyncNet")
    bootstrap: Positive = Field(default=1000, description="bootstrap resamples per confidence interval")
    seed: int = Field(default=0, description="seed of the pairs and of the resamples")
    torch_threads: Positive = Field(default=2, description="CPU threads")


class Report(Section):
    """Write the report page."""

    players: int = Field(default=4, ge=0, description="number of rows of side-by-side players")


class Estimate(Section):
    """Estimate yield and cost of curation from a sample of the sources; runs only on request."""

    sources: int = Field(default=8, ge=2, description="sources in the sample; a single one gives no range")


class Config(Section):
    """The configuration of one run."""

    run: str = Field(
        default="demo",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
        description="name of the run: its folder below results/",
    )
    input_dir: str | None = Field(default=None, description="folder of raw videos; null: make synthetic talkers")
    shards: int = Field(default=2, ge=1, le=99_999, description="jobs per step; fixed for the life of a run")
    commercial: bool = Field(
        default=False, description="refuse pretrained weights whose licence does not allow commercial use"
    )
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
                f"({negatives.min_negative_frames}); raise the first or lower the second."
            )
        limits = {name: getattr(self.select_clips, name) for name in ("min_sync_confidence", "min_offset_confidence")}
        for name, limit in limits.items():
            if self.score_sync.backend == "stable_syncnet" and limit is not None and limit > 1:
                raise ValueError(
                    f"select_clips.{name} is {limit:g}, but score_sync.backend stable_syncnet gives confidences of 1 "
                    "at most; choose a limit between 0 and 1."
                )
        return self


def _is_section(annotation: object) -> TypeGuard[type[Section]]:
    return isinstance(annotation, type) and issubclass(annotation, Section)


SECTIONS = {name: field.annotation for name, field in Config.model_fields.items() if _is_section(field.annotation)}
STEP_SECTIONS = SECTIONS | {"generate": GenerateInRun, "enhance": EnhanceInRun}  # what each step is given


def validate(values: dict[str, Any]) -> Config:
    """Build the configuration from a plain mapping.

    Raises:
        ValueError: one sentence per error; each names the key, its value and what is allowed.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ValueError(" ".join(_sentence(problem) for problem in error.errors())) from None


def _sentence(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        section = SECTIONS.get(problem["loc"][0]) if len(problem["loc"]) > 1 else Config
        known = ", ".join(section.model_fields) if section else "see config/README.md"
        return f"Unknown configuration key {key}; known here: {known}."
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    return f"Configuration key {key} is {problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}."


def require_choice(option: str, value: str, literal: Any) -> None:
    """Refuse a value that is none of a Literal's, in the words that were typed.

    Raises:
        ValueError: one sentence with all values that are allowed.
    """
    known = get_args(literal)
    if value not in known:
        raise ValueError(f"{option} {value} is not known; choose {', '.join(known[:-1])} or {known[-1]}.")


def section_json(cfg: Config, step: str) -> str:
    """What a step is given, as canonical JSON: its section, and `tracking` for generate and enhance."""
    values = getattr(cfg, step).model_dump(mode="json")
    if "tracking" in STEP_SECTIONS[step].model_fields:
        tracking = Tracking(scenes=cfg.detect_scenes, max_gap_ticks=cfg.align_faces.max_gap_ticks)
        values["tracking"] = tracking.model_dump(mode="json")
    return json.dumps(values, sort_keys=True, separators=(",", ":"))
