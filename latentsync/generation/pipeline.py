"""Redraw the mouths of one video: every native frame is kept, its mouth drawn from the audio at its own time.

The video is read twice: the first pass tracks faces (speakers.py), the second one redraws and writes, in a few places
that work side by side and hand frames on in order:

    a thread decodes and crops -> the networks -> two threads paste (-> enhancement, enhancing.py) -> a thread encodes

Between two places as many frames may wait as one batch of windows draws at once, so the networks go on while those
are written; on a CPU fewer pasted ones do. Frames without a face, or with another face than the speaker's, pass through
unchanged and are counted by reason.
"""

import hashlib
import sys
import time
from collections import Counter
from collections.abc import Generator as PythonGenerator
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np

from latentsync.config import Generate
from latentsync.faces.crop import align_face
from latentsync.faces.tracking import Track
from latentsync.generation import gates, paste, silence
from latentsync.generation.audio import DrivingAudio
from latentsync.generation.drawing import Drawing, Generator, Item, batch_size, pasted_ahead, waiting
from latentsync.generation.enhancing import Enhancing
from latentsync.generation.marking import UNMARKED, Marking
from latentsync.generation.parts import Parts
from latentsync.generation.plan import Plan, Voice, VoicePlan, make_plan
from latentsync.generation.progress import Progress, Report, silent
from latentsync.generation.restore import Enhancer, find_places
from latentsync.generation.speakers import speaking
from latentsync.generation.stopwatch import Stopwatch
from latentsync.generation.video import encoder_threads, in_order, join_parts, matching_crf, open_writer, yuv
from latentsync.ledger.rows import Rejection
from latentsync.media.ahead import Behind, ahead, mapped
from latentsync.media.codecs import output_format
from latentsync.media.frames import DisplayedFrame
from latentsync.media.probe import timeline
from latentsync.media.read import frame_times, read_video_frames
from latentsync.media.write import VideoWriter

WHOLE_S = (0.0, float("inf"))


def redraw(
    video: Path,
    audio: DrivingAudio,
    out: Path,
    models: Generator,
    cfg: Generate,
    tracks: Sequence[Track],
    voices: Sequence[tuple[np.ndarray, DrivingAudio]] | None = None,
    progress: Report = silent,
    part_s: tuple[float, float] = WHOLE_S,
    enhancer: Enhancer | None = None,
    mark: Marking = UNMARKED,
) -> dict[str, Any]:
    """Write `out`: the video with the mouth of the speaking face redrawn to the audio.

    Args:
        video: the source; never changed.
        audio: drives the mouth and is written into the result.
        out: an mp4 in the source's resolution, pixel format and frame times.
        models: the networks.
        cfg: the section.
        tracks: faces of the video, from `speakers.track_video`.
        voices: (labels int64 [n], audio) of each voice: which track moves its mouth to which audio in each source
            frame, from `speakers.choose` or `voices.voices`. None: the largest face says `audio`.
        progress: called with the number of written frames.
        part_s: start and end of what is redrawn, seconds of the source; the rest passes through.
        enhancer: restores the redrawn faces; None: they stay as generated.
        mark: how the result says that it is generated.

    Returns:
        n_frames, n_generated, passed_through {reason: frames}, cut_s (seconds left out because of cfg.max_s), the `crf`
        used, and per written frame: `order` int64 [m] (source frame), `times_s` float64 [m], `matrices` float64
        [m, 2, 3] from pixels of the file to crop pixels, NaN where the frame passed through; `end_s`, the end of the
        last frame; `deinterlaced`, as cfg says; `n_closed`, frames that show the lips of another frame (silence.py);
        `n_enhanced`, and `n_coarse`, redrawn frames whose face is not enhanced because it is as fine as the frame;
        `seconds` {stage: s} and `waited_s`, how long the networks had nothing to do.

    Raises:
        Rejection: not_redrawn; nothing was written.
    """
    quality = matching_crf(video) if cfg.crf is None else cfg.crf
    found = {"crf": quality, "batch_size": batch_size(models, cfg), "encoder_threads": encoder_threads(cfg)}
    cfg = cfg.model_copy(update=found)  # all that the bytes follow
    clock = frame_times(video)
    whole_s = audio.length_s if cfg.length == "audio" else clock[1]
    if cfg.loop == "cut":
        whole_s = min(whole_s, clock[1])
    wanted_s = whole_s if cfg.max_s is None else min(whole_s, cfg.max_s)
    first = next(in_order(video, np.zeros(1, np.int64), cfg.deinterlace))
    voices = voices or [(speaking(tracks, len(clock[0])), audio)]
    says = [Voice(gates.passed(tracks, labels, clock[0], cfg, *part_s), own.for_model) for labels, own in voices]
    to_displayed = paste.to_displayed(first, timeline(video).pixel_aspect)
    plan = make_plan(*clock, tracks, says, wanted_s, models.resolution, to_displayed, cfg)
    n_open = sum(voice.n_open for voice in plan.voices)
    if n_open:
        progress(Progress(silence.why_open(n_open)))
    labels = np.stack([voice.labels for voice in plan.voices])
    # Where no voice has a face to draw, the code that says most: a face turned away rather than none.
    generated, why = labels.max(0) >= 0, labels.min(0)
    if not generated.any():
        shown_first = np.unique(plan.order, return_index=True)[1]
        raise Rejection("not_redrawn", gates.why_nothing(why[shown_first]))
    watch, stages = Stopwatch(), list[Enhancing]()
    if enhancer is not None:
        for voice in plan.voices:
            places = find_places(plan, voice, tracks, to_displayed, models.resolution, enhancer)
            stages.append(Enhancing(places, enhancer, models.resolution, watch))
    parts = Parts(out, _key(video, plan, models, cfg, enhancer, mark.label), len(plan.order))
    start_s = time.perf_counter()
    _write_parts(video, first, plan, models, cfg, stages, parts, watch, progress, mark)
    passed_s = time.perf_counter() - start_s
    watch.settle()
    with watch("join"):
        join_parts(parts.files, parts.joined, video, plan.times_s, plan.end_s, audio, mark.tags)
        mark.finish(parts.joined, out)
    parts.remove()
    main = plan.voices[0]
    passed = Counter(gates.PASSED_THROUGH[label] for label in why[~generated].tolist())
    return {
        "n_frames": len(plan.order),
        "n_generated": int(generated.sum()),
        "passed_through": dict(sorted(passed.items())),
        "cut_s": round(whole_s - wanted_s, 3),
        "crf": cfg.crf,
        "order": plan.order,
        "times_s": plan.times_s,
        "end_s": np.float64(plan.end_s),
        "deinterlaced": np.bool_(cfg.deinterlace),
        "matrices": main.matrices,
        "n_closed": int(np.any([voice.closed.any(1) for voice in plan.voices], axis=0).sum()),
        "n_enhanced": int(np.any([stage.places.restored for stage in stages], axis=0).sum()),
        "n_coarse": max((stage.places.n_coarse for stage in stages), default=0),
        "seconds": watch.rounded(),
        "waited_s": round(passed_s - watch.seconds["networks"], 3),
    }


def _key(
    video: Path, plan: Plan, models: Generator, cfg: Generate, enhancer: Enhancer | None, label: str | None
) -> str:
    """16 hex digits over everything that decides the written frames."""
    stat = video.stat()
    described = f"{stat.st_size} {stat.st_mtime_ns} {cfg.model_dump_json()} {dict(models.weights)} {label}"
    if enhancer is not None:
        described += f" {enhancer.cfg.model_dump_json()} {enhancer.weights}"
    digest = hashlib.sha256(described.encode())
    for array in (plan.order, plan.times_s, *(part for voice in plan.voices for part in vars(voice).values())):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def _write_parts(
    video: Path,
    like: av.VideoFrame,
    plan: Plan,
    models: Generator,
    cfg: Generate,
    stages: list[Enhancing],
    parts: Parts,
    watch: Stopwatch,
    progress: Report,
    mark: Marking,
) -> None:
    """Write the parts that are not finished."""
    missing = parts.missing()
    if not missing:
        return
    first = missing[0][1]
    report = partial(Progress, "redrawing mouths", total=len(plan.order))
    progress(report(first))
    frames = _written(video, plan, models, cfg, stages, first, watch)
    writing, finishing, opened = Behind(waiting(plan, models, cfg)), Behind(), list[ExitStack]()

    def write(writer: VideoWriter, frame: av.VideoFrame) -> None:
        with watch("encode"):
            writer.write_frame(frame)

    try:
        for file, start, stop in missing:
            opened.append(ExitStack())
            end_s = float(plan.times_s[stop]) if stop < len(plan.times_s) else plan.end_s
            clock = plan.times_s[start:stop] - plan.times_s[start], end_s - float(plan.times_s[start])
            writing_as: dict[str, Any] = {"crf": cfg.crf, "threads": encoder_threads(cfg), "codec": cfg.codec}
            writing_as["overlay"] = mark.overlay
            writer = opened[-1].enter_context(open_writer(file, like, video, *clock, **writing_as))
            for number, frame in enumerate(islice(frames, stop - start), start + 1):
                writing.call(write, writer, frame)
                progress(report(number))
            # The part appears once its last frame is encoded, which another thread does while the next part begins.
            writing.call(finishing.call, opened[-1].close)
        writing.wait()
        finishing.wait()
    finally:
        writing.stop()
        finishing.stop()
        frames.close()
        for part in opened:
            part.__exit__(*sys.exc_info())  # of a part that is finished: nothing
        parts.remove_empty()


def _written(
    video: Path, plan: Plan, models: Generator, cfg: Generate, stages: list[Enhancing], first: int, watch: Stopwatch
) -> PythonGenerator[av.VideoFrame, None, None]:
    """The frames of the result from `first` on, bit for bit those of a whole run."""
    closed = [_closed(video, voice, models.resolution, cfg) for voice in plan.voices]
    drawings = [Drawing(number, plan, models, cfg, watch, faces) for number, faces in enumerate(closed)]
    begins = [first]  # of each stage, and of the result
    for stage in reversed(stages):
        begins.insert(0, stage.needed_from(begins[0]))
    pasted_from = begins[0]
    begin = min(drawing.needed_from(pasted_from) for drawing in drawings)
    items: Iterator[Item] = ahead(_read(video, plan, models.resolution, cfg, begin, watch), waiting(plan, models, cfg))
    for drawing in drawings:
        items = drawing.drawn(items, begin, pasted_from)
    wanted = (item for item in items if item.index >= pasted_from)

    def pasted(item: Item) -> av.VideoFrame:
        with watch("paste"):
            if not item.pastes:
                return item.frame
            result = paste.copied(item.frame)  # the decoder still predicts later frames from it
            for layers, strength in item.pastes:
                paste.blend(result, layers(), strength)
            return result

    frames = mapped(pasted, wanted, depth=pasted_ahead(plan, models, cfg))
    for stage, own, following in zip(stages, begins, begins[1:], strict=False):
        frames = _from(following - own, stage.restored(frames, own))
    yield from frames


def _from(n: int, frames: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """The frames after the first `n`."""
    for _ in range(n):
        next(frames)
    yield from frames


def _closed(video: Path, voice: VoicePlan, resolution: int, cfg: Generate) -> np.ndarray:
    """The faces with the closed mouths of a voice, uint8 (c, S, S, 3), S = silence.side(resolution)."""
    side = silence.side(resolution)
    matrices = dict(zip(voice.closed_frames.tolist(), voice.closed_matrices, strict=True))
    faces = {}
    for index, frame in read_video_frames(video, np.sort(voice.closed_frames), cfg.deinterlace):
        pix_fmt = output_format(frame.width, frame.height, frame.format.name, cfg.codec)
        shown = yuv(frame, pix_fmt, cfg.codec)
        faces[index] = align_face(DisplayedFrame(shown, 0, False), matrices[index], side)
    return np.array([faces[index] for index in matrices], np.uint8).reshape(-1, side, side, 3)


def _read(video: Path, plan: Plan, resolution: int, cfg: Generate, begin: int, watch: Stopwatch) -> Iterator[Item]:
    """Decoded frames from `begin` on, and the crops that the voices need."""
    frames = watch.over("decode", in_order(video, plan.order[begin:], cfg.deinterlace))
    pix_fmt = None
    for index, frame in enumerate(frames, begin):
        with watch("crop"):
            pix_fmt = pix_fmt or output_format(frame.width, frame.height, frame.format.name, cfg.codec)
            frame = yuv(frame, pix_fmt, cfg.codec)
            shown = DisplayedFrame(frame, 0, False)
            crops = [
                align_face(shown, voice.matrices[index], resolution) if voice.labels[index] >= 0 else None
                for voice in plan.voices
            ]
        yield Item(index, frame, crops)
