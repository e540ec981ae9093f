"""generate: lip-sync the pairs of a shard, and some of them again with an untrained U-Net as a control.

Inputs: pairs, test (the clips of the videos: which face speaks), unet, vae (none: the published one),
whisper (none: that of the weights folder), consent (none: not checked).
A pair becomes one row of kind own or cross for each system:
  system          ours; untrained (the same network with random weights); unenhanced (ours without enhancement, where
                  that is on); ids and files of the last two end in their name
  status          ok, or rejected with its reason; consent is that of the person in the picture, for generation
  video_file      mp4: resolution, pixel format and frame times of the source; the name ends in the key of the row
  render_file     npz, one entry per written frame: order int64 [m] (source frame), times_s float64 [m], matrices
                  float64 [m, 2, 3] (pixels of the file -> unstretched crop pixels, NaN where the frame passed through);
                  end_s, the end of the last frame
  n_frames, n_generated, passed_through {reason: frames}
  cut_s           seconds left out at the end because of generate.max_s, usually 0
  resolution, crf, faces (the detector that made the crops), n_faces (most faces found in a frame of the clips)
  restorer (content hash), enhanced_region, n_enhanced, n_coarse, enhance_s: see docs/ledger.md
  marked          by whom the video is signed as generated, or that it is not marked
  unet, vae (content hashes of the weights), stand_ins (sentences)
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latentsync.config import VERSIONS, Enhance, GenerateInRun, refuse_in_run
from latentsync.curation.pairs import videos
from latentsync.ledger import consent
from latentsync.ledger.columns import Clip, Render, Video, columns
from latentsync.ledger.files import media_file, read_ledgers, replacing, run_dir, write_ledger
from latentsync.ledger.rows import Row, rejected
from latentsync.ledger.shard import run_shard
from latentsync.weights import registry

if TYPE_CHECKING:
    from latentsync.generation.session import LipSync

RENDER = tuple(columns(Render))


def run(cfg: GenerateInRun, inputs: dict[str, list[Path]], outputs: dict[str, Path], sources: Path) -> None:
    """Pairs of one shard -> videos in the folder media beside the ledger. Without pairs, torch is not imported."""
    ledger = outputs["ledger"]
    refuse_in_run(cfg)
    restorer = cfg.enhance.method
    if restorer:
        registry.find(restorer, cfg.enhance.weights, f"enhance.method: {restorer}")
    again = {"untrained": cfg.controls, "unenhanced": cfg.enhance.compared if restorer else 0}
    covered = consent.read_covered(inputs.get("consent", []))
    rows = videos(read_ledgers(inputs["pairs"]), again)
    for number, row in enumerate(rows):  # refused, not reworked: what consent rests on is no part of a row's key
        why = consent.refusal(covered, row["picture_path"], "generation")
        rows[number] = row if why is None else rejected(row, "no_consent", why)
    if not rows:
        write_ledger(ledger, [])
        return
    import torch

    from latentsync.generation.session import LipSync

    torch.set_num_threads(cfg.torch_threads)
    [unet] = inputs["unet"]
    vae, whisper = (next(iter(inputs.get(name, [])), None) for name in ("vae", "whisper"))
    clips = {row["id"]: row for row in read_ledgers(inputs["test"])}
    models = describe(unet, vae)
    settings: dict[str, Any] = {"generate": cfg, "enhance": cfg.enhance, "mark": cfg.mark, "tracking": cfg.tracking}
    with LipSync(unet, vae, whisper=whisper, **settings) as enhanced:
        plain = enhanced.with_settings(enhance=Enhance())

        def work(row: Video, key: str) -> list[Row]:
            session, of_video = plain if row["system"] == "unenhanced" else enhanced, row["picture_clips"]
            return [row | generate(session, row, key, [clips[ident] for ident in of_video], ledger, sources)]

        run_shard(ledger, [row | models for row in rows], cfg, VERSIONS["generate"], work)


def describe(unet: Path, vae: Path | None) -> dict[str, Any]:
    """Columns about the models: their content hashes, and a sentence for each part that is not the published one."""
    from latentsync.weights import files as weight_files

    sentences, metadata = [], {}
    if weight_files.is_ours(unet):  # only its header is read: every shard asks, and the network is loaded later
        metadata, millions = weight_files.metadata(unet), weight_files.n_parameters(unet) / 1e6
        sentences.append(f"the U-Net has {millions:.1f} M parameters, trained in this run; LatentSync's has 1267 M")
    if metadata.get("audio_encoder", {}).get("backend") == "embedded":
        sentences.append("audio was encoded by a small untrained encoder, not by Whisper tiny")
    if vae is not None and vae.suffix == ".safetensors":
        sentences.append("frames were encoded by a small VAE trained in this run, not by sd-vae-ft-mse")
    if metadata.get("teachers") == "embedded":
        sentences.append(
            "the LPIPS and TREPA losses compared features of small untrained nets, not of VGG16 and VideoMAEv2"
        )
    return {
        "unet": weight_files.content_hash(unet),
        "vae": weight_files.content_hash(vae) if vae is not None else "published",
        "stand_ins": sentences,
    }


def generate(
    session: "LipSync", row: Video, key: str, clips: list[Clip], ledger: Path, sources: Path
) -> dict[str, Any]:
    """Write the video and the render file of one row; returns its new columns. `clips`: those of its video.

    Raises:
        Rejection: the video or the audio cannot be read, or the video has no face that can be redrawn.
    """
    from latentsync.generation.audio import driving_audio
    from latentsync.media.audio import read_flac

    root, cfg = run_dir(ledger), session.generate
    video = sources / row["picture_path"]
    faces, max_faces, chosen = speaker(session, video, clips, root)
    audio = driving_audio(
        sources / row["sound_path"], read_flac(root / row["audio_file"]), cfg.max_s, row["audio_track"]
    )
    out = root / media_file("generate", row["id"], key, ".mp4")
    out.parent.mkdir(parents=True, exist_ok=True)
    trained = row["system"] != "untrained"
    written = session.redraw(video, audio, out, faces, max_faces, chosen=chosen, trained=trained)
    weights, seconds = written.pop("weights"), written.pop("seconds")
    enhance_s = round(seconds.get("enhance", 0.0) + seconds.get("restore", 0.0), 3)
    enhanced = bool(written["n_enhanced"])
    written |= {"restorer": weights.get("restorer"), "enhance_s": enhance_s if enhanced else None}
    written["enhanced_region"] = session.enhance.region if enhanced else None
    for name in ("waited_s", "audio_offset_ms", "choice", "n_closed"):
        del written[name]  # they differ from run to run, or the settings or the clips of the video decide them
    with replacing(out.with_suffix(".npz")) as temporary:
        np.savez(temporary, **{name: written.pop(name) for name in RENDER})
    files = {
        "video_file": out.relative_to(root).as_posix(),
        "render_file": out.with_suffix(".npz").relative_to(root).as_posix(),
    }
    resolution = session.models(trained).resolution
    return files | written | {"resolution": resolution, "faces": faces, "n_faces": max_faces}


def speaker(session: "LipSync", video: Path, clips: list[Clip], root: Path) -> tuple[str, int, list[int]]:
    """The face backend of the clips, the most faces found in a frame, and the tracks that follow the clips' faces."""
    from latentsync.generation import speakers
    from latentsync.media.read import frame_times

    faces, max_faces, chosen = clips[0]["faces"], max(row["n_faces"] for row in clips), []
    for row in clips:
        with np.load(root / row["geometry_file"]) as geometry:
            landmarks = geometry["landmarks"]
        tracks = session.tracks(video, faces, max_faces)
        chosen.append(speakers.same_face(tracks, frame_times(video)[0], landmarks, row["start_tick"]))
    return faces, max_faces, [index for index in chosen if index is not None]
