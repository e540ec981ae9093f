"""The whole configuration: one frozen section per step; unknown keys are errors.

The defaults are the published LatentSync 1.5 recipe, so a key left out never means a toy-sized value;
`config/config.yaml` sets every value of the demo. This module does not import torch, because the Snakefile imports it
each time it is parsed.
"""

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeGuard, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

# Raised by hand when a step gives other results for the same input. An edit that changes no result leaves its version
# alone, so that it does not repeat a week of GPU time.
VERSIONS = {
    "make_talkers": 4,
    "probe": 4,
    "resample": 3,
    "detect_scenes": 2,
    "segment": 1,
    "align_faces": 7,
    "score_sync": 2,
    "score_quality": 4,
    "select_clips": 5,
    "describe_clips": 4,
    "export_clips": 1,
    "export_webdataset": 1,
    "train_vae": 2,
    "extract_features": 2,
    "train_syncnet": 1,
    "train_unet_stage1": 1,
    "train_unet_stage2": 1,
    "generate": 10,
    "evaluate": 4,
    "report": 7,
    "estimate": 2,
}

TALKERS = "synthetic_talkers"  # the value of input_dir that stands for them
SyncScorer = Literal["syncnet_v2", "stable_syncnet", "envelope"]  # the keys of sync/scorers.py's table, see there
Restorer = Literal["gfpgan", "codeformer", "gpen"]
Region = Literal["mouth", "face"]
Length = Literal["audio", "video"]
Silence = Literal["close", "keep"]
Solver = Literal["ddim", "dpmpp", "unipc"]
Loop = Literal["bounce", "repeat", "hold", "cut"]
CodecName = Literal["h264", "hevc10", "prores", "lossless"]
Compile = Literal["none", "graph", "compile"]
Preset = Literal["exact", "balanced", "fast"]
FaceBackend = Literal["mediapipe", "face_alignment", "insightface"]  # the names of faces/backends.py
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]


def key(default: Any, meaning: str, **limits: Any) -> Any:
    """A key of a section: its default, its meaning in config/README.md, and pydantic's limits (ge, gt, le, ...)."""
    return Field(default=default, description=meaning, **limits)


class Section(BaseModel):
    """Base of all sections: frozen, and an unknown key is an error; defaults are checked like values."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class MakeTalkers(Section):
    """Videos of synthetic talkers with known ground truth; only used while input_dir is synthetic_talkers."""

    seed: int = key(1, "seed of everything random about the talkers")
    identities: int = key(10, "number of faces that differ in shape and colours", ge=8)
    good: Positive = key(44, "number of videos without a fault")
    faults_each: Positive = key(3, "number of videos for each planted fault")
    duration_s: float = key(4.4, "length of an ordinary video, in seconds", ge=2, le=60)
    height_px: int = key(320, "height of the frames, in pixels", ge=160, le=2160)


class Probe(Section):
    """Find unreadable files and read the stream information of the rest. Nothing is ever deleted."""


class Resample(Section):
    """Write 16 kHz mono audio and the table that maps 25 fps ticks to source frames."""

    audio_track: Positive | None = key(
        None,
        "number of the audio track that is heard, from 1; null: the one flagged as default, or the first that can be "
        "decoded and is not silent",
    )
    max_damaged_share: Share = key(0.2, "largest share of the audio that may be damaged; it becomes silence")


class DetectScenes(Section):
    """Find cuts with the adaptive detector of PySceneDetect."""

    threshold: float = key(2.0, "adaptive_threshold of AdaptiveDetector; lower finds more cuts", gt=0)
    min_scene_ticks: Positive = key(15, "shortest scene, in ticks of 1/25 s")


class Segment(Section):
    """Divide scenes into segments; a segment never crosses a cut."""

    length_s: float = key(5.0, "length of a segment, in seconds; the remainder of a scene joins its last segment", gt=0)


class AlignFaces(Section):
    """Track faces and write one video of aligned crops per face track."""

    backend: FaceBackend = key(
        "face_alignment", "detector and landmarks; insightface: optional, non-commercial weights"
    )
    resolution: Literal[64, 128, 256, 512] = key(256, "width and height of the crop, in pixels")
    crf: int = key(13, "x264 CRF of the crop video", ge=0, le=51)
    max_faces: Positive = key(2, "most faces tracked at once")
    max_gap_ticks: int = key(5, "longest interpolated gap, in ticks of 1/25 s; a longer one ends the clip", ge=0)
    deinterlace: bool = key(
        True, "frames flagged as interlaced are deinterlaced; progressive video stays as it is; published: no such step"
    )


class ScoreSync(Section):
    """Measure the offset between audio and video, and the confidence in it."""

    backend: SyncScorer = key("syncnet_v2", "sync scorer, see the table below; published: syncnet_v2")
    max_shift_frames: Positive = key(15, "largest offset that is tried in each direction, in frames at 25 fps")
    weights: str | None = key(
        None, "file of syncnet_v2 or syncnet.safetensors of train_syncnet; null: the one in the weights folder"
    )


class ScoreQuality(Section):
    """Measure each clip: image quality, sharpness, exposure, head pose, speech, alignment, hashes."""

    backend: Literal["hyperiqa", "piqe"] = key(
        "hyperiqa", "metric of image quality, 0 to 100 (best); piqe needs no weights"
    )
    frames: Positive = key(3, "number of frames scored, evenly spaced over the clip; published: 3")


class SelectClips(Section):
    """Apply the thresholds (no other step has any) and make the splits. null switches a threshold off."""

    min_s: float | None = key(5.0, "shortest clip, in seconds", ge=0)
    min_face_px: float | None = key(256, "smallest face width, in pixels of the source video", ge=0)
    min_sync_confidence: float | None = key(3.0, "lowest sync confidence, on the scorer's scale")
    min_offset_confidence: float = key(3.0, "lowest confidence at which an offset is applied, same scale")
    max_offset_frames: int | None = key(6, "largest absolute offset, in frames at 25 fps", ge=0)
    min_quality: float | None = key(40.0, "lowest image quality, 0 to 100")
    min_sharpness: float | None = key(None, "lowest variance of the Laplacian of the face at 256 px", ge=0)
    min_exposure: Share | None = key(None, "lowest mean luma of the face, 0 to 1")
    max_exposure: Share | None = key(None, "highest mean luma of the face, 0 to 1")
    max_yaw_deg: float | None = key(None, "largest median yaw to either side, in degrees", ge=0)
    max_pitch_deg: float | None = key(None, "largest median pitch up or down, in degrees", ge=0)
    min_speech_share: Share | None = key(
        0.3,
        "smallest share of the audio that is speech, 0 to 1; music and noise: 0 to 0.1, people: 0.6 to 1; "
        "published: no such step",
    )
    min_aligned_share: Share | None = key(
        None,
        "smallest share of checked frames where a second detector finds one face, at its expected "
        "place in the crop; published: remove_incorrect_affined, switched off",
    )
    min_upright_share: Share | None = key(
        0.5, "smallest share of checked frames in which the face is upright in the crop; published: no such step"
    )
    max_outside_share: Share | None = key(
        0.2, "largest share of mouth and chin outside of the frame; published: no such step"
    )
    min_motion: float | None = key(
        0.001,
        "least motion of the face in itself, in face widths a frame; photographs: 0.0002; published: no such step",
        ge=0,
    )
    min_audio_peak: Share | None = key(
        0.001, "least peak of the audio, 1: full scale; 0.001 is -60 dB; published: no such step"
    )
    max_duplicate_bits: int | None = key(
        8,
        "clips whose two 64-bit hashes both differ in at most this many bits are near duplicates; "
        "the better one is kept, by quality, size of the face and length; published: no such step",
        ge=0,
        le=16,
    )
    shared_footage: bool = key(
        True,
        "find footage that two sources share, even if it is cut elsewhere, at another frame rate or size, or its audio "
        "is replaced: such sources are in one group, and clips that mostly show the same are near duplicates",
    )
    val_share: Share = key(0.1, "share of groups for validation, at least one group")
    test_share: Share = key(0.1, "share of groups for test, at least one group")
    max_pairs: Positive = key(
        20, "most test sources that are lip-synced; each gives a pair with its own audio and one with other audio"
    )
    pair_shards: int = key(8, "jobs of generate; a change generates all videos again", ge=1, le=99_999)
    speakers: str | None = key(None, "CSV with columns path, speaker; null: groups by source")


class DescribeClips(Section):
    """Write the curation page and the dataset card, right after selection."""

    licence: str | None = key(None, "terms under which the footage may be used; null: not stated")


class ExportClips(Section):
    """Write mp4 clips (crop and shifted audio) for use elsewhere; runs only on request."""

    audio_bitrate: Positive = key(128_000, "AAC bit rate, in bits per second")


class ExportWebdataset(Section):
    """Write WebDataset tars of the exported clips with scores, landmarks and matrices; runs only on request."""

    samples_per_tar: Positive = key(1000, "clips per tar; 1000 clips of 5 s at 256 px are about 1 GB")


class Training(Section):
    """Keys that all training steps share."""

    seed: int = key(1247, "seed of all random numbers")
    steps: Positive = key(1_000_000, "number of optimiser steps")
    batch_size: Positive = key(1, "items per batch and process")
    learning_rate: float = key(1e-5, "learning rate of AdamW, constant after warm-up", gt=0)
    warmup_steps: int = key(0, "optimiser steps of linear warm-up", ge=0)
    weight_decay: float = key(0.01, "weight decay of AdamW", ge=0)
    max_grad_norm: float = key(1.0, "gradients are clipped to this norm", gt=0)
    ema_decay: Annotated[float, Field(ge=0, lt=1)] | None = key(
        None, "decay of EMA weights; null: no EMA, as published"
    )
    mixed_precision: Literal["no", "fp16", "bf16"] = key("fp16", "mixed precision; fp16 needs a GPU")
    gradient_checkpointing: bool = key(True, "less memory, more time: activations are recomputed")
    cooldown_steps: int = key(0, "steps of linear decay to zero at the end; published: none", ge=0)
    accumulate: Positive = key(1, "batches accumulated for one optimiser step")
    log_every: Positive = key(10, "optimiser steps between two rows of the loss curve")
    save_every: Positive = key(10_000, "optimiser steps between two checkpoints")
    torch_threads: Positive = key(2, "CPU threads; part of the fingerprint, because it changes sums")


class TrainVae(Training):
    """Train a small AutoencoderKL; part of the graph only while extract_features.vae is `embedded`."""

    resolution: Positive | None = key(
        None, "side of the faces that are encoded, pixels; larger crops are shrunk; null: that of the crops"
    )
    block_out_channels: tuple[Positive, ...] = key(
        (16, 32, 48, 64), "channels per level; each but the last halves the image"
    )
    latent_channels: Positive = key(4, "channels of the latents")
    kl_weight: float = key(1e-4, "weight of the KL loss", ge=0)
    masked_share: Share = key(0.25, "share of images with a masked mouth, 0 to 1")
    flip_share: Share = key(0.5, "share of images mirrored left to right, 0 to 1")
    colour_jitter: float = key(0.0, "largest random change of gain and level; 0: none", ge=0)


class ExtractFeatures(Section):
    """Compute Whisper features and VAE moments once for all training steps."""

    resolution: Positive | None = key(
        None, "side of the faces that are encoded, pixels; larger crops are shrunk; null: that of the crops"
    )
    audio_encoder: Literal["whisper", "embedded"] = key("whisper", "whisper: Whisper tiny; embedded: seeded, untrained")
    whisper_weights: str | None = key(None, "tiny.pt or a Hugging Face folder; null: the one in the weights folder")
    width: Positive = key(384, "channels of the embedded encoder; Whisper tiny has 384")
    layers: Positive = key(4, "blocks of the embedded encoder; Whisper tiny has 4")
    vae: Literal["published", "embedded"] = key("published", "published: sd-vae-ft-mse; embedded: the VAE of train_vae")
    vae_weights: str | None = key(None, "folder of sd-vae-ft-mse; null: the one in the weights folder")
    batch_size: Positive = key(16, "frames per call of the VAE")
    torch_threads: Positive = key(2, "CPU threads")


class SyncNetEncoder(Section):
    """One encoder of StableSyncNet; the three lists are equally long."""

    in_channels: Positive = Field(description="3 per frame; 1 for a mel spectrogram")
    block_out_channels: tuple[Positive, ...] = Field(description="channels of each block")
    downsample_factors: tuple[int | tuple[int, int], ...] = Field(description="factor of each block, or [h, w]")
    attn_blocks: tuple[bool, ...] = Field(description="whether each block ends with attention")
    dropout: float = key(0.0, "dropout probability, 0 to 1")


class TrainSyncnet(Training):
    """Train StableSyncNet; the default is the published configuration 16_pixel_attn."""

    frames: Positive = key(16, "frames per window at 25 fps")
    resolution: Positive = key(256, "width and height of the face, in pixels")
    min_negative_frames: Positive = key(1, "smallest shift of a negative, in frames at 25 fps")
    max_negative_frames: Positive | None = key(None, "largest shift of a negative; null: any, as published")
    batch_size: Positive = key(256, "windows per batch and process; a multiple of windows_per_clip")
    windows_per_clip: int = key(2, "windows of a clip that are compared; 2: pairs, as published", ge=2)
    colour_jitter: float = key(0.0, "largest random change of gain and level; published: none", ge=0)
    shift_px: int = key(0, "largest random shift of a window, in pixels; published: none", ge=0)
    gain_db: float = key(0.0, "largest random gain of the audio, in dB; published: none", ge=0)
    visual: SyncNetEncoder = key(
        SyncNetEncoder(
            in_channels=48,
            block_out_channels=(64, 128, 256, 256, 512, 1024, 2048, 2048),
            downsample_factors=((1, 2), 2, 2, 2, 2, 2, 2, 2),
            attn_blocks=(False, False, False, False, True, True, False, False),
        ),
        "visual encoder: lower half of the face, frames stacked as channels",
    )
    audio: SyncNetEncoder = key(
        SyncNetEncoder(
            in_channels=1,
            block_out_channels=(32, 64, 128, 256, 512, 1024, 2048),
            downsample_factors=((2, 1), 2, 2, 1, 2, 2, (2, 3)),
            attn_blocks=(False, False, False, True, True, False, False),
        ),
        "audio encoder: mel spectrogram, 1 x 80 x 52",
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

    frames: Positive = key(16, "frames per window at 25 fps")
    condition_dropout: Share = key(0.0, "share of items trained with null audio, 0 to 1; published: none")


class TrainUnetStage1(TrainUnet):
    """Train every weight of the U-Net on noise prediction alone, without motion modules."""

    unet: UNetShape = UNetShape()
    init: str | None = key(
        "sd15",
        "sd15: U-Net of Stable Diffusion 1.5; latentsync-1.0, -1.5 or -1.6: a release; a path: a file of "
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
    motion: Literal["all", "decoder"] = key("all", "where motion modules are; decoder: as in stage2_efficient")
    trainable: tuple[str, ...] = key(
        ("motion_modules.", "attentions."), "parts of the names of parameters that are trained"
    )
    teachers: Literal["published", "embedded"] = key("published", "VGG16 and VideoMAEv2-g, or seeded, untrained nets")
    video_teacher: Literal["giant", "base", "small"] = key(
        "giant", "size of the published VideoMAEv2 that TREPA uses; published: giant"
    )
    video_normalise: Literal["none", "imagenet"] = key(
        "none", "input of TREPA's teacher; imagenet: normalised as in its training; published: none"
    )
    max_timestep: int = key(999, "largest timestep of the losses on decoded frames", ge=0, le=999)


_AS_PUBLISHED = frozenset(  # what the published pipeline, too, leaves to its users, and what changes no frame
    "as_published steps guidance seed max_s crf encoder_threads controls torch_threads tracking enhance mark".split()
)


class Generate(Section):
    """Lip-sync the test videos."""

    as_published: bool = key(
        False,
        "compute what the published pipeline computes (generation/published.py): 25 fps, windows that share no frames, "
        "whole boxes pasted back; keys that would have no effect are refused",
    )
    solver: Solver = key("ddim", "ddim: as published; dpmpp (DPM-Solver++), unipc: need fewer steps")
    steps: int = key(
        20, "number of denoising steps", ge=1, le=999
    )  # of the 1000 timesteps of training; 1000 would start past them
    guidance: float = key(1.5, "classifier-free guidance scale; 1 switches it off", ge=1)
    guided_from: Share = key(0.0, "share of the steps after which guidance begins to act")
    guided_to: Share = key(1.0, "share of the steps after which guidance no longer acts")
    reuse: Positive = key(1, "the deep levels of the U-Net are computed every so many steps (DeepCache); 1: in all")
    seed: int = key(1247, "seed of the noise")
    length: Length = key(
        "audio",
        "audio: as long as the audio, frames go on as `loop` says or are cut; video: the audio is padded or cut",
    )
    loop: Loop = key(
        "bounce",
        "how a video goes on when the audio is longer: back and forth, from the start again, last frame held, or cut: "
        "the result ends with the video",
    )
    max_s: float | None = key(60.0, "longest result, in seconds; the rest is left out; null: no limit", gt=0)
    overlap: int = key(2, "frames that neighbouring windows share, where they are joined; published: 0", ge=0, le=7)
    batch_size: Positive | None = key(
        None, "windows per call of the U-Net; null: as many as fit the free memory of the GPU, at most 2; 1 on a CPU"
    )
    compile: Compile = key(
        "graph",
        "graph: on a GPU the U-Net's calls are replayed as CUDA graphs; compile: it is compiled first (torch.compile), "
        "which takes two minutes; none: neither",
    )
    face: str = key(
        "largest",
        "face that is redrawn (in a run: where no clip says who speaks): largest, speaking, left, right, a number as "
        "`latentsync faces` lists them, or x,y: a point of the frame in pixels",
    )
    min_face_px: float = key(40.0, "narrowest face that is redrawn, pixels of the frame", ge=0)
    max_yaw_deg: float = key(60.0, "largest turn of the head to a side that is redrawn, degrees", ge=0, le=90)
    mouth_margin: float = key(0.0, "least distance of the lips from the frame's border, in face widths", ge=-1, le=1)
    max_occlusion: float = key(
        40.0, "largest difference of mouth and chin from their usual colours that is redrawn, grey levels", ge=0, le=255
    )
    min_sharpness: Share = key(0.25, "least sharpness that is redrawn, as a share of the face's usual sharpness")
    silence: Silence | None = key(
        None, "in pauses of the audio: close: the mouth closes; keep: frames stay as they were; null: as generated"
    )
    audio_offset_ms: float | None = key(
        None,
        "milliseconds by which the audio is delayed, below 0 advanced; null: 0, but measured by latentsync generate "
        "where the audio is the video's own, and corrected if the evidence is strong",
        ge=-10_000,
        le=10_000,
    )
    audio_track: Positive | None = key(
        None,
        "number of the audio track of the audio's file that drives, from 1, not in a run; null: the one flagged as "
        "default, or the first that can be decoded and is not silent",
    )
    deinterlace: bool = key(
        False,
        "interlaced video becomes progressive, one frame for each; false: the result keeps its fields and their order",
    )
    codec: CodecName = key(
        "h264",
        "h264: plays everywhere, as deep as the source; hevc10: HEVC with 10 bits; prores: ProRes 422 HQ or 4444 in a "
        ".mov, not in a run; lossless: H.264 without loss",
    )
    crf: int | None = key(
        None,
        "CRF of the result, 0: without loss; null: 13 to 28, so that it is about twice as large as its source",
        ge=0,
        le=51,
    )
    encoder_threads: Positive | None = key(
        None, "threads of the encoder; another number gives other bytes; null: 8 beside a GPU, 2 elsewhere"
    )
    controls: int = key(0, "cross pairs that an untrained U-Net generates too, as a control of the evaluation", ge=0)
    torch_threads: Positive = key(2, "CPU threads")

    @field_validator("face")
    @classmethod
    def _known_face(cls, face: str) -> str:
        if not re.fullmatch(r"largest|speaking|left|right|[1-9]\d*|\d+(\.\d+)?,\d+(\.\d+)?", face):
            raise ValueError(f"--face {face} is not known; choose largest, speaking, left, right, a number or x,y.")
        return face

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> "Generate":
        if self.crf and self.codec in ("lossless", "prores"):
            raise ValueError(
                f"--crf {self.crf} (generate.crf) has no effect with --codec {self.codec} (generate.codec); "
                "leave out one of the two."
            )
        for name, field in type(self).model_fields.items() if self.as_published else ():
            value, idle = getattr(self, name), name not in _AS_PUBLISHED
            if idle and value not in (field.default, {"overlap": 0}.get(name, field.default)):
                raise ValueError(
                    f"--{name.replace('_', '-')} {value} (generate.{name}) has no effect with --as-published "
                    "(generate.as_published); leave out one of the two."
                )
        return self


PRESETS: dict[Preset, dict[str, Any]] = {  # of `generate`, by what they cost; benchmarks/presets.py measures them
    "exact": {},
    "balanced": {"solver": "dpmpp", "steps": 10},
    "fast": {"solver": "dpmpp", "steps": 6, "reuse": 2},
}
HIGH_QUALITY_CRF = 8  # what command line and page call high quality: a larger file, hardly any loss


class Enhance(Section):
    """Restore generated faces before they are written; off by default."""

    method: Restorer | None = key(None, "null: off; codeformer needs an extra package (make setup-codeformer)")
    strength: Share = key(0.8, "0: not enhanced, 1: fully enhanced")
    region: Region = key("mouth", "mouth: enhance only the generated region; face: the whole face")
    lip_protection: Share = key(0.5, "0: lips are enhanced like the rest, 1: lips stay as generated")
    fidelity: Share = key(0.5, "of codeformer: 0: most freedom, 1: closest to the generated face")
    force: bool = key(False, "enhance faces, too, that the frame shows no finer than they are generated")
    weights: str | None = key(None, "weights of the restorer; null: the one in the weights folder")
    compared: int = key(
        8, "cross pairs that a run generates without enhancement, too, so that its report can compare them", ge=0
    )

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> "Enhance":
        if self.fidelity != type(self).model_fields["fidelity"].default and self.method != "codeformer":
            raise ValueError(
                f"--fidelity {self.fidelity:g} (enhance.fidelity) has no effect without --enhance codeformer; "
                "leave out one of the two."
            )
        return self


MARKING_SENTENCE = (
    "Every result says that its mouth was redrawn by AI: a signed C2PA manifest names its sources and networks, and "
    "metadata tags say it too."
)


class Mark(Section):
    """Mark results as generated: a signed C2PA manifest and metadata tags, and a visible label on request."""

    manifest: bool = key(True, "whether results get a manifest and metadata tags; `latentsync inspect` reads them back")
    label: str | None = key(
        None, 'text in a corner of every frame, e.g. "AI-generated"; null: none', min_length=1, max_length=60
    )
    certificate: str | None = key(
        None, "PEM file of the certificate that signs, and those above it; null: a test certificate, made at first use"
    )
    private_key: str | None = key(None, "PEM file of the certificate's private key")

    @model_validator(mode="after")
    def _both_or_neither(self) -> "Mark":
        given = {"--certificate": self.certificate, "--private-key": self.private_key}
        missing = [option for option, path in given.items() if path is None]
        if len(missing) == 1:
            raise ValueError(f"{missing[0]} is missing: a certificate signs with its private key; give both or none.")
        if not self.manifest and not missing:
            raise ValueError(
                "--certificate has no effect with --no-mark (mark.manifest: false); leave out one of them."
            )
        return self


class Tracking(Section):
    """How faces are followed in the videos of generation: as curation of the same run follows them."""

    scenes: DetectScenes = DetectScenes()
    max_gap_ticks: int = key(AlignFaces().max_gap_ticks, "longest gap that is interpolated", ge=0)


class GenerateInRun(Generate):
    """What the step generate gets: its section, enhance, mark, and what it takes from detect_scenes and align_faces."""

    enhance: Enhance = Enhance()
    tracking: Tracking = Tracking()
    mark: Mark = Mark()


class Evaluate(Section):
    """Measure the generated videos and their controls."""

    faces: FaceBackend = key("mediapipe", "face backend that measures the mouth in the results")
    sync_backend: SyncScorer = key(
        "syncnet_v2",
        "sync scorer of the results, see the table below; a SyncNet that also supervised the training "
        "favours what it trained",
    )
    sync_weights: str | None = key(
        None, "file of syncnet_v2 or syncnet.safetensors of train_syncnet; null: the one in the weights folder"
    )
    syncnet_pairs: Positive = key(600, "balanced pairs for the accuracy of SyncNet")
    bootstrap: Positive = key(1000, "bootstrap resamples per confidence interval")
    seed: int = key(0, "seed of the pairs and of the resamples")
    torch_threads: Positive = key(2, "CPU threads")


class Report(Section):
    """Write the report page."""

    players: int = key(4, "number of rows of side-by-side players", ge=0)


class Estimate(Section):
    """Estimate yield and cost of curation from a sample of the sources; runs only on request."""

    sources: int = key(8, "sources in the sample", ge=2)


class Config(Section):
    """The configuration of one run."""

    run: str = key("demo", "name of the run: its folder below results/", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    input_dir: str | None = key(
        None, "folder of raw videos, or synthetic_talkers to make some; null: a run is refused until one is given"
    )
    shards: int = key(2, "jobs per step; fixed for the life of a run", ge=1, le=99_999)
    consent: str | None = key(
        None, "CSV with columns path or speaker, scope, until, document; null: consent is not checked"
    )
    commercial: bool = key(False, "refuse pretrained weights whose licence does not allow commercial use")
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
    mark: Mark = Mark()
    evaluate: Evaluate = Evaluate()
    report: Report = Report()
    estimate: Estimate = Estimate()

    @property
    def synthetic(self) -> bool:
        """Whether the run makes synthetic talkers instead of reading videos."""
        return self.input_dir == TALKERS

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        negatives = self.train_syncnet
        if negatives.max_negative_frames is not None and negatives.max_negative_frames < negatives.min_negative_frames:
            raise ValueError(
                f"train_syncnet.max_negative_frames is {negatives.max_negative_frames}, below min_negative_frames "
                f"({negatives.min_negative_frames}); raise the first or lower the second."
            )
        crops, side = self.align_faces.resolution, self.extract_features.resolution
        if side is not None and side > crops:
            raise ValueError(
                f"extract_features.resolution is {side}, above align_faces.resolution ({crops}); raise the second."
            )
        if self.extract_features.vae == "embedded" and self.train_vae.resolution != side:
            raise ValueError(
                f"train_vae.resolution is {self.train_vae.resolution} and extract_features.resolution {side}; give "
                "both the same, since the VAE encodes what it was trained on."
            )
        if self.generate.as_published and self.enhance.method is not None:
            raise ValueError(
                f"enhance.method {self.enhance.method} is no part of generate.as_published; leave out one of the two."
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
STEP_SECTIONS = SECTIONS | {"generate": GenerateInRun}  # what each step is given


def validate(values: dict[str, Any]) -> Config:
    """Build the configuration from a plain mapping.

    Raises:
        ValueError: one sentence per error; each names the key, its value and what is allowed.
    """
    try:
        return Config.model_validate(_nulls(values))
    except ValidationError as error:
        raise ValueError(" ".join(_sentence(problem) for problem in error.errors())) from None


def _nulls(value: Any) -> Any:
    """The value with None for null: Snakemake reads every scalar of `--config 'section={key: null}'` as text."""
    if isinstance(value, Mapping):
        return {name: _nulls(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_nulls(inner) for inner in value]
    return None if value in ("null", "~") else value


def _sentence(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden" and len(problem["loc"]) == 1 and "." in key:
        section, inner = key.split(".", 1)
        return (
            f"Configuration key {key} has a dot; write {section}: {{{inner}: ...}}, and on the command line "
            f"--config '{section}={{{inner}: ...}}'."
        )
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


def refuse_in_run(generate: Generate) -> None:
    """Refuse what `latentsync generate` understands and a run cannot do.

    Raises:
        ValueError: one sentence with what to set instead.
    """
    if generate.audio_track is not None:
        raise ValueError(
            f"generate.audio_track is {generate.audio_track}, but a run hears the track that curation read; set "
            "resample.audio_track instead."
        )
    if generate.codec == "prores":
        raise ValueError(
            "generate.codec is prores, which browsers do not play in the report; set h264, hevc10 or lossless."
        )


def section_json(cfg: Config, step: str) -> str:
    """What a step is given, as canonical JSON: its section, and for generate what it takes from others."""
    values = getattr(cfg, step).model_dump(mode="json")
    if step == "generate":
        values["enhance"] = cfg.enhance.model_dump(mode="json")
        tracking = Tracking(scenes=cfg.detect_scenes, max_gap_ticks=cfg.align_faces.max_gap_ticks)
        values |= {"tracking": tracking.model_dump(mode="json"), "mark": cfg.mark.model_dump(mode="json")}
    return json.dumps(values, sort_keys=True, separators=(",", ":"))
