"""Typed rows: the closed list of reasons, and every column that a step writes, with type, unit and meaning.

Rows are plain dicts at run time, so the types cost nothing. A kind lists the columns of a row that went through all
steps; earlier and rejected rows have those of the steps that they went through. A column that names a file ends in
`_file` and holds a POSIX path relative to `results/<run>`.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, TypedDict, get_args, get_origin, get_type_hints

# The closed list: reason -> its meaning, as the report shows it.
REASONS = {
    "unreadable": "the file is not a readable video, or it is cut off or damaged",
    "crashed": "a library crashed twice while reading it",
    "failed": "an error occurred while it was read, tracked or scored",
    "no_audio": "there is no audio, so sync cannot be measured",
    "no_face": "no face was found in the segment",
    "no_consent": "the table `consent` does not cover the video, or no longer",
    "too_short": "the clip is shorter than select_clips.min_s",
    "small_face": "the face is smaller than select_clips.min_face_px",
    "low_sync": "video and audio do not move together (select_clips.min_sync_confidence)",
    "large_offset": "the offset is larger than select_clips.max_offset_frames",
    "low_quality": "the image quality is below select_clips.min_quality",
    "blurred": "the face is blurred (select_clips.min_sharpness)",
    "badly_lit": "the face is too dark or too bright (select_clips.min_exposure, max_exposure)",
    "turned_away": "the head is turned away (select_clips.max_yaw_deg, max_pitch_deg)",
    "misaligned": "a second detector does not confirm the face in the crop (select_clips.min_aligned_share)",
    "not_upright": "the face is upside down or on its side in the crop (select_clips.min_upright_share)",
    "outside": "mouth or chin lie outside of the frame (select_clips.max_outside_share)",
    "still": "the face does not move, as in a photograph (select_clips.min_motion)",
    "silent": "the audio is silent (select_clips.min_audio_peak)",
    "little_speech": "too little of the audio is speech (select_clips.min_speech_share)",
    "not_speaking": "another face in the same segment is the speaker",
    "near_duplicate": "mostly the same footage as another clip (select_clips.max_duplicate_bits, shared_footage)",
    "duplicate": "the input folder contains the same file twice",
    "not_redrawn": "no frame of the video has a face that can be redrawn",
    "not_video": "the file holds no video",
}
ERRORS = {"unreadable", "crashed", "failed"}  # reasons that are faults of the file rather than a judgement


@dataclass(frozen=True)
class Column:
    """What a column says, where it comes from, and which tables show it; docs/ledger.md is generated from this."""

    meaning: str
    step: str = ""
    """The step that writes it."""
    unit: str = ""
    measure: bool = False
    """A number that measures the clip: the dataset card gives its quantiles."""
    rejected: bool = False
    """A column of rejected.csv."""
    card: bool = False
    """A property of sources that the dataset card counts."""
    internal: bool = False
    """Bookkeeping of the ledger, which exports leave out."""


Measure = partial(Column, measure=True, rejected=True)


class Common(TypedDict):
    """Columns of every source, segment and clip."""

    id: Annotated[
        str, Column("unique and sortable: source_id, then ticks and track where the row has them", rejected=True)
    ]
    kind: Annotated[
        Literal["source", "segment", "clip"], Column("what the row describes", rejected=True, internal=True)
    ]
    source_id: Annotated[str, Column("first 16 hex digits of the sha256 of `path`", rejected=True)]
    path: Annotated[str, Column("path of the source relative to the input folder, POSIX", rejected=True)]
    status: Annotated[
        Literal["ok", "rejected", "error"], Column("error: the file is broken; rejected: another reason", internal=True)
    ]
    reason: Annotated[
        str | None, Column("one of the reasons below; null while the status is ok", rejected=True, internal=True)
    ]
    detail: Annotated[str, Column("a sentence that adds to the reason", rejected=True, internal=True)]


class OfSource(TypedDict):
    """Facts of the source, which its segments and clips repeat."""

    size: Annotated[int, Column("file size", "sources", "bytes")]
    sha256: Annotated[str, Column("content hash; equal files are duplicates", "probe")]
    width: Annotated[int, Column("width as displayed, in square pixels, after rotation", "probe", "px", card=True)]
    height: Annotated[int, Column("height as displayed, in square pixels, after rotation", "probe", "px", card=True)]
    pixel_aspect: Annotated[float, Column("width of a stored pixel over its height", "probe")]
    rotation_deg: Annotated[
        int, Column("counter-clockwise rotation of the display matrix: 0, 90, 180, 270", "probe", "degrees")
    ]
    fps: Annotated[float, Column("nominal frame rate; the usual one of a VFR file", "probe", "frames/s", card=True)]
    n_frames: Annotated[int, Column("displayed frames of the source", "probe", "frames")]
    duration_s: Annotated[
        float, Column("from time zero to the end of the last frame", "probe", "s", rejected=True, card=True)
    ]
    video_codec: Annotated[str, Column("FFmpeg's name of the video codec", "probe", card=True)]
    pix_fmt: Annotated[str, Column("FFmpeg's name of the pixel format", "probe", card=True)]
    interlaced: Annotated[
        bool,
        Column("the first frame is flagged as two fields; align_faces.deinterlace says what becomes of them", "probe"),
    ]
    has_audio: Annotated[bool, Column("the source has an audio stream", "probe")]
    audio_rate_hz: Annotated[int | None, Column("sample rate of the audio stream", "probe", "Hz", card=True)]
    audio_track: Annotated[
        int | None, Column("number of the audio track that is heard, from 1; null without audio", "resample")
    ]
    n_audio_tracks: Annotated[int, Column("audio tracks of the source", "probe")]
    repairs: Annotated[
        dict[str, int], Column("what is repaired in the source, see media/repairs.py: kind -> number", "detect_scenes")
    ]
    n_ticks: Annotated[int, Column("ticks of the source, 25 per second", "resample", "ticks")]


class Resampled(TypedDict):
    """Files of the source that later steps read."""

    audio_file: Annotated[str | None, Column("16 kHz mono FLAC from time zero; null without audio", "resample")]
    ticks_file: Annotated[str, Column("npy: source frame of each tick, int32 [n_ticks]", "resample")]


class Source(Common, OfSource, Resampled):
    """A video of the input folder."""

    mtime_ns: Annotated[int, Column("modification time of the file", "sources", "ns", internal=True)]
    cuts: Annotated[list[int], Column("first tick of every scene but the first", "detect_scenes", "ticks")]


class Segment(Common, OfSource, Resampled):
    """A piece of a scene, ticks [start_tick, end_tick) of its source."""

    start_tick: Annotated[int, Column("first tick", "segment", "ticks", rejected=True)]
    end_tick: Annotated[int, Column("tick after the last", "segment", "ticks", rejected=True)]


class Clip(Segment):
    """One face of a segment; several where several faces were tracked."""

    segment_id: Annotated[str, Column("id of the segment", "align_faces")]
    track: Annotated[int, Column("number of the face track in its segment, the widest face first", "align_faces")]
    faces: Annotated[str, Column("face backend that found the face", "align_faces")]
    resolution: Annotated[int, Column("width and height of the crop", "align_faces", "px")]
    crop_file: Annotated[str, Column("mp4, 25 fps: the aligned face, one frame per tick", "align_faces")]
    geometry_file: Annotated[str, Column("npz: arrays with one entry per tick, see below", "align_faces")]
    stills_file: Annotated[
        str | None, Column("npz: some frames of the face in source pixels, for crops below 256 px", "align_faces")
    ]
    face_share: Annotated[float, Measure("share of the frames in which the face was found", "align_faces", "0..1")]
    n_faces: Annotated[int, Measure("most faces found in a frame of the segment", "align_faces", "faces")]
    face_px: Annotated[float, Measure("width of the face as filmed", "align_faces", "source px")]
    jitter_px: Annotated[
        float,
        Column(
            "jitter of the anchors after smoothing (rms), in pixels of a 256 px crop", "align_faces", "px", measure=True
        ),
    ]
    raw_jitter_px: Annotated[
        float, Column("jitter of the anchors before smoothing, in the same pixels", "align_faces", "px", measure=True)
    ]
    quality: Annotated[
        float, Measure("image quality as its metric judges it; higher is better", "score_quality", "0..100")
    ]
    quality_backend: Annotated[str, Column("metric of quality", "score_quality")]
    sharpness: Annotated[
        float, Measure("how fine the face is drawn: variance of its Laplacian at 256 px", "score_quality")
    ]
    exposure: Annotated[float, Measure("mean luma of the face: 0 is black, 1 is white", "score_quality", "0..1")]
    aligned_share: Annotated[
        float, Measure("share of frames in which a second detector confirms the face", "score_quality", "0..1")
    ]
    yaw_deg: Annotated[
        float, Measure("turn of the head to the side; above 0 to the viewer's right", "score_quality", "degrees")
    ]
    pitch_deg: Annotated[float, Measure("tilt of the head; above 0 upwards", "score_quality", "degrees")]
    speech_share: Annotated[
        float | None,
        Measure("share of the audio that is speech, not music or noise; null without audio", "score_quality", "0..1"),
    ]
    sync_confidence: Annotated[
        float,
        Measure("how well mouth and audio move together at the best offset, on the scale of the scorer", "score_sync"),
    ]
    sync_offset_frames: Annotated[
        int,
        Measure("offset at which they move together best; above 0 the video is late", "score_sync", "frames at 25 fps"),
    ]
    clipped_share: Annotated[
        float, Measure("share of the pixels of the face that are black or white", "score_quality", "0..1")
    ]
    motion: Annotated[
        float,
        Measure("median step of the landmarks between frames, head motion removed", "score_quality", "face widths"),
    ]
    outside_share: Annotated[
        float, Measure("share of mouth and chin beyond the border of the frame", "score_quality", "0..1")
    ]
    upright_share: Annotated[
        float, Measure("share of the checked frames in which the crop is upright", "score_quality", "0..1")
    ]
    audio_peak: Annotated[
        float | None, Measure("largest absolute sample of the audio, 0: digital silence", "score_quality", "0..1")
    ]
    roll_deg: Annotated[float, Measure("head pose; above 0 anticlockwise as seen", "score_quality", "degrees")]
    remaining_offset_frames: Annotated[
        int, Measure("offset that is left once the measured one is applied", "score_sync", "frames at 25 fps")
    ]
    remaining_confidence: Annotated[float, Column("confidence of the offset that is left", "score_sync", measure=True)]
    picture_hash: Annotated[str, Column("perceptual hash of the middle frame, hex", "score_quality", rejected=True)]
    motion_hash: Annotated[
        str | None,
        Column("hash of the movement of the mouth, hex; null for a still mouth", "score_quality", rejected=True),
    ]
    face_signature: Annotated[
        str | None,
        Column(
            "how the face moves, to find shared footage: rates at even ticks, int8 as base64; not after select_clips",
            "score_quality",
            internal=True,
        ),
    ]
    audio_signature: Annotated[
        str | None,
        Column("the same for the spectrum of the audio; null without audio", "score_quality", internal=True),
    ]
    sync_curve: Annotated[
        list[float], Column("score of each offset from -max_shift_frames to max_shift_frames", "score_sync")
    ]
    sync_backend: Annotated[str, Column("scorer of sync_confidence", "score_sync")]
    group: Annotated[str, Column("speaker or source that no two splits share", "select_clips")]
    split: Annotated[Literal["train", "val", "test"], Column("split of the group", "select_clips", internal=True)]
    offset_frames: Annotated[
        int,
        Column("offset that readers of the clip apply to its audio", "select_clips", "frames at 25 fps", measure=True),
    ]
    features_file: Annotated[str, Column("safetensors: audio features and VAE moments", "extract_features")]
    features_key: Annotated[str, Column("what the features depend on, hashed", "extract_features")]
    audio_encoder: Annotated[dict[str, Any], Column("backend and shape of the audio encoder", "extract_features")]
    vae: Annotated[str, Column("content hash of the VAE", "extract_features")]
    export_file: Annotated[str, Column("mp4 with the crop and its audio in sync", "export_clips")]


class Driven(TypedDict):
    """A source whose mouth is redrawn, and the audio that drives it: the columns of pairs and videos."""

    id: Annotated[str, Column("picture_id--sound_id")]
    kind: Annotated[Literal["own", "cross"], Column("whose audio drives the video")]
    picture_id: Annotated[str, Column("source whose video is redrawn", "select_clips")]
    picture_path: Annotated[str, Column("path of that source", "select_clips")]
    picture_group: Annotated[str, Column("group of that source", "select_clips")]
    picture_clips: Annotated[list[str], Column("selected clips of that source: which face speaks", "select_clips")]
    sound_id: Annotated[str, Column("source whose audio drives", "select_clips")]
    sound_path: Annotated[str, Column("path of that source", "select_clips")]
    sound_group: Annotated[str, Column("group of that source", "select_clips")]
    audio_file: Annotated[str, Column("16 kHz mono FLAC of that source", "select_clips")]
    audio_track: Annotated[int, Column("number of the audio track of that source", "select_clips")]


class Pair(Driven):
    """A video to generate: a held-out source, driven by its own audio (own) or by that of another source (cross)."""

    cross_rank: Annotated[int | None, Column("number of a cross pair over all shards, from 0", "select_clips")]


class Video(Driven):
    """A generated video, one row per pair and system, with the columns of its pair. Controls have ids in -<system>."""

    pair_id: Annotated[str, Column("id of the pair", "generate")]
    system: Annotated[
        Literal["ours", "unenhanced", "untrained"],
        Column(
            "controls: untrained, the same network with random weights; unenhanced, ours without enhancement",
            "generate",
        ),
    ]
    status: Annotated[Literal["ok", "rejected", "error"], Column("as for clips", "generate")]
    reason: Annotated[str | None, Column("as for clips", "generate")]
    detail: Annotated[str, Column("as for clips", "generate")]
    video_file: Annotated[str, Column("mp4", "generate")]
    render_file: Annotated[str, Column("npz: arrays with one entry per written frame, see below", "generate")]
    n_frames: Annotated[int, Column("written frames", "generate", "frames")]
    n_generated: Annotated[int, Column("frames with a redrawn mouth", "generate", "frames")]
    passed_through: Annotated[dict[str, int], Column("reason -> frames left as they were", "generate", "frames")]
    cut_s: Annotated[float, Column("seconds left out at the end because of generate.max_s", "generate", "s")]
    resolution: Annotated[int, Column("width and height of the generated face", "generate", "px")]
    crf: Annotated[int, Column("x264 CRF of the video", "generate")]
    faces: Annotated[str, Column("face backend that found the faces", "generate")]
    n_faces: Annotated[
        int, Column("limit of the detector: most faces found in a frame of the clips", "generate", "faces")
    ]
    marked: Annotated[str, Column("by whom it is signed as generated, or that it is not marked", "generate")]
    unet: Annotated[str, Column("content hash of the U-Net", "generate")]
    vae: Annotated[str, Column("content hash of the VAE", "generate")]
    stand_ins: Annotated[list[str], Column("a sentence for every part that is not the published one", "generate")]
    restorer: Annotated[str | None, Column("content hash of the restorer, if faces are enhanced", "generate")]
    enhanced_region: Annotated[
        Literal["mouth", "face"] | None, Column("where faces are enhanced, if any is", "generate")
    ]
    n_enhanced: Annotated[int, Column("frames with a restored face", "generate", "frames")]
    n_coarse: Annotated[
        int, Column("redrawn frames not enhanced, since their face is no finer than generated", "generate", "frames")
    ]
    enhance_s: Annotated[
        float | None, Column("seconds of enhancement, restorer included; differs from run to run", "generate", "s")
    ]


class Tar(TypedDict):
    """A tar of a WebDataset export; the link `export_webdataset/<id>.tar` leads to it."""

    id: Annotated[str, Column("split and number, e.g. train-000000", "export_webdataset")]
    kind: Annotated[Literal["tar"], Column("what the row describes", "export_webdataset")]
    split: Annotated[Literal["train", "val", "test"], Column("split of its clips", "export_webdataset")]
    status: Annotated[Literal["ok", "rejected", "error"], Column("as for clips", "export_webdataset")]
    reason: Annotated[str | None, Column("as for clips", "export_webdataset")]
    detail: Annotated[str, Column("as for clips", "export_webdataset")]
    tar_file: Annotated[str, Column("the tar: mp4, json, landmarks and matrices of each clip", "export_webdataset")]
    n_samples: Annotated[int, Column("clips in it", "export_webdataset", "clips")]


class Geometry(TypedDict):
    """Arrays of a clip's geometry_file, one entry for each of its n ticks; a face has p landmarks."""

    matrices: Annotated[
        Any,
        Column("similarity transform of each tick, source pixels -> unstretched crop pixels", unit="float32 [n, 2, 3]"),
    ]
    landmarks: Annotated[
        Any, Column("landmarks of the backend `faces`, source pixels (x, y)", unit="float32 [n, p, 2]")
    ]
    found: Annotated[Any, Column("the face was found; elsewhere its landmarks are interpolated", unit="bool [n]")]
    mouth_opening: Annotated[
        Any,
        Column(
            "gap of the inner lips over the distance of the eyes; NaN where the face was not found", unit="float32 [n]"
        ),
    ]


class Render(TypedDict):
    """Arrays of a video's render_file, one entry for each of its m written frames."""

    order: Annotated[Any, Column("number of the source frame", unit="int64 [m]")]
    times_s: Annotated[Any, Column("presentation time", unit="float64 [m]")]
    end_s: Annotated[Any, Column("end of the last frame", unit="float64")]
    deinterlaced: Annotated[Any, Column("whether interlaced frames were deinterlaced", unit="bool")]
    matrices: Annotated[
        Any,
        Column("file pixels -> unstretched crop pixels; NaN where the frame was not redrawn", unit="float64 [m, 2, 3]"),
    ]


KINDS: dict[str, type] = {
    "source": Source,
    "segment": Segment,
    "clip": Clip,
    "pair": Pair,
    "video": Video,
    "tar": Tar,
}
ARRAYS: dict[str, type] = {"geometry_file": Geometry, "render_file": Render}


def columns(kind: type) -> dict[str, tuple[Any, Column]]:
    """Name -> (type, description) of every column of a kind of row, in the order of rejected.csv and docs/ledger.md."""
    return {name: get_args(hint) for name, hint in get_type_hints(kind, include_extras=True).items()}


def names_of(kind: type, flag: str) -> tuple[str, ...]:
    """Names of the columns of a kind of row whose description has this flag, in order."""
    return tuple(name for name, (_, column) in columns(kind).items() if getattr(column, flag))


def text_columns(kind: type) -> frozenset[str]:
    """Names of the columns that hold text: a table read back as text leaves them as they are."""
    texts = {name for name, (value, _) in columns(kind).items() if str in (value, *get_args(value))}
    return frozenset(texts | {name for name, (value, _) in columns(kind).items() if get_origin(value) is Literal})
