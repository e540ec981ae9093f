"""`latentsync generate`: lip-sync one video."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentsync import required
from latentsync.cli import options
from latentsync.config import (
    HIGH_QUALITY_CRF,
    PRESETS,
    CodecName,
    Config,
    Enhance,
    FaceBackend,
    Generate,
    Length,
    Loop,
    Mark,
    Preset,
    Region,
    Restorer,
    Silence,
    Solver,
)
from latentsync.faces.backends import BACKENDS
from latentsync.weights import registry

if TYPE_CHECKING:
    from latentsync.generation.pairs import Outcome
    from latentsync.generation.progress import Printed

KEYS, ENHANCE, MARK = Generate(), Enhance(), Mark()


def generate(
    context: typer.Context,
    weights: Annotated[
        Path,
        typer.Option(
            help="results/<run> of the workflow, latentsync-1.5 or -1.6, a folder of published weights, or a U-Net file"
        ),
    ],
    video: Annotated[Path | None, typer.Option(help="the video; it is never changed")] = None,
    out: Annotated[Path | None, typer.Option(help="the mp4 to write; with --codec prores a mov")] = None,
    audio: Annotated[Path | None, typer.Option(help="the speech: an audio file, or a video with audio")] = None,
    voices: Annotated[
        Path | None, typer.Option(help="instead of --audio: the table of `latentsync faces` with audio for each face")
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            help="instead of --video, --audio and --out: a CSV with these columns; continued where it stopped"
        ),
    ] = None,
    vae: Annotated[Path | None, typer.Option(help="VAE, if it is not with the U-Net")] = None,
    whisper: Annotated[
        Path | None, typer.Option(help="Whisper's weights, if they are not in the weights folder")
    ] = None,
    preset: Annotated[
        Preset, options.choice("--preset", Preset, "how much is given up for speed; other options win over it")
    ] = "exact",
    steps: Annotated[int, options.key(Generate, "steps")] = KEYS.steps,
    solver: Annotated[Solver, options.key(Generate, "solver")] = KEYS.solver,
    guidance: Annotated[float, options.key(Generate, "guidance")] = KEYS.guidance,
    seed: Annotated[int, options.key(Generate, "seed")] = KEYS.seed,
    length: Annotated[Length, options.key(Generate, "length")] = KEYS.length,
    loop: Annotated[Loop, options.key(Generate, "loop")] = KEYS.loop,
    overlap: Annotated[int, options.key(Generate, "overlap")] = KEYS.overlap,
    face: Annotated[str, options.key(Generate, "face")] = KEYS.face,
    silence: Annotated[Silence | None, options.key(Generate, "silence")] = KEYS.silence,
    resolution: Annotated[
        int | None, typer.Option(help="256 or 512, for published weights whose release is unknown")
    ] = None,
    faces: Annotated[
        FaceBackend, options.choice("--faces", FaceBackend, "face detector; use the one of the training data")
    ] = "mediapipe",
    enhance: Annotated[
        Restorer | None,
        options.choice("--enhance", Restorer, "enhance faces; codeformer needs a package (make setup-codeformer)"),
    ] = ENHANCE.method,
    enhance_strength: Annotated[float, options.key(Enhance, "strength", "--enhance-strength")] = ENHANCE.strength,
    enhance_region: Annotated[Region, options.key(Enhance, "region", "--enhance-region")] = ENHANCE.region,
    lip_protection: Annotated[float, options.key(Enhance, "lip_protection", "--lip-protection")] = (
        ENHANCE.lip_protection
    ),
    fidelity: Annotated[float, options.key(Enhance, "fidelity")] = ENHANCE.fidelity,
    enhance_force: Annotated[bool, options.key(Enhance, "force", "--enhance-force")] = ENHANCE.force,
    enhance_weights: Annotated[
        Path | None, typer.Option(help="weights of --enhance, if they are not in the weights folder")
    ] = None,
    audio_track: Annotated[int | None, options.key(Generate, "audio_track", "--audio-track")] = KEYS.audio_track,
    audio_offset: Annotated[
        float | None, options.key(Generate, "audio_offset_ms", "--audio-offset")
    ] = KEYS.audio_offset_ms,
    crf: Annotated[int | None, options.key(Generate, "crf")] = KEYS.crf,
    codec: Annotated[CodecName, options.key(Generate, "codec")] = KEYS.codec,
    deinterlace: Annotated[bool, options.key(Generate, "deinterlace", "--deinterlace")] = KEYS.deinterlace,
    batch: Annotated[int | None, options.key(Generate, "batch_size", "--batch")] = KEYS.batch_size,
    start: Annotated[float, typer.Option(min=0, help="redraw from this second of the video on")] = 0.0,
    end: Annotated[float | None, typer.Option(help="redraw up to this second; the rest passes through")] = None,
    preview: Annotated[
        float | None,
        typer.Option("--preview", min=0.04, help="end so many seconds after --start, to see what comes out"),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="a JSON file to write: result, settings, hashes of weights")
    ] = None,
    consent: Annotated[Path | None, options.key(Config, "consent")] = None,
    high_quality: Annotated[
        bool, typer.Option("--high-quality", help=f"larger file, hardly any loss: CRF {HIGH_QUALITY_CRF}")
    ] = False,
    tiny_vae: Annotated[bool, typer.Option("--tiny-vae", help="rough frames, quickly (TAESD decodes)")] = False,
    as_published: Annotated[bool, options.key(Generate, "as_published", "--as-published")] = KEYS.as_published,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace --out if it exists")] = False,
    no_mark: Annotated[
        bool, typer.Option("--no-mark", help="write no manifest and no tags that say that the result is generated")
    ] = False,
    label: Annotated[str | None, options.key(Mark, "label")] = MARK.label,
    certificate: Annotated[str | None, options.key(Mark, "certificate")] = MARK.certificate,
    private_key: Annotated[str | None, options.key(Mark, "private_key", "--private-key")] = MARK.private_key,
    commercial: Annotated[
        bool, typer.Option("--commercial", help="refuse parts whose licence does not allow commercial use")
    ] = False,
) -> None:
    """Lip-sync one video to speech. Defaults are those of a run (config/README.md), but without its limit on length."""
    if commercial:
        required.require_commercial(_parts(weights, vae, faces, enhance, tiny_vae))
    from latentsync.generation.api import lip_sync, lip_sync_pairs
    from latentsync.generation.arguments import require_new
    from latentsync.generation.progress import Printed

    of_preset = {name for name in PRESETS[preset] if not options.given(context, name)}
    keys = {"solver": solver, "steps": steps, "guidance": guidance}
    shown_s = None if preview is None else start + preview
    progress = Printed()
    common: dict[str, Any] = {
        "preset": preset,
        "generate": {name: value for name, value in keys.items() if name not in of_preset}
        | {"seed": seed}
        | {"length": length, "loop": loop, "overlap": overlap, "face": face, "batch_size": batch, "max_s": shown_s}
        | {"crf": HIGH_QUALITY_CRF if high_quality else crf, "codec": codec}
        | {
            "audio_offset_ms": audio_offset,
            "audio_track": audio_track,
            "deinterlace": deinterlace,
            "silence": silence,
            "as_published": as_published,
        },
        "enhance": {
            "method": enhance,
            "strength": enhance_strength,
            "region": enhance_region,
            "lip_protection": lip_protection,
            "fidelity": fidelity,
            "force": enhance_force,
            "weights": None if enhance_weights is None else str(enhance_weights),
        },
        "mark": {"manifest": not no_mark, "label": label, "certificate": certificate, "private_key": private_key},
        "faces": faces,
        "vae": vae,
        "whisper": whisper,
        "resolution": resolution,
        "preview": tiny_vae,
        "consent": consent,
        "progress": progress,
    }
    one = {"--video": video, "--audio": audio, "--out": out, "--voices": voices, "--report": report, "--end": end}
    one |= {"--start": start or None, "--overwrite": overwrite or None}
    if pairs is not None:
        given = [name for name, value in one.items() if value is not None]
        if given:
            raise ValueError(f"{', '.join(given)} is for one video; leave it out with --pairs.")
        _redraw_pairs(pairs, lip_sync_pairs(pairs, weights, **common), progress)
        return
    if high_quality and (crf is not None or codec in ("lossless", "prores")):
        other = f"--codec {codec}" if crf is None else f"--crf {crf}"
        raise ValueError(
            f"--high-quality is CRF {HIGH_QUALITY_CRF}, so {other} contradicts it; leave out one of the two."
        )
    if video is None or out is None:
        raise ValueError("Give --video, --audio and --out, or a table as --pairs.")
    if not overwrite:
        require_new(out, (video, audio, voices))
    try:
        result = lip_sync(video, audio, out, weights, voices=voices, start_s=start, end_s=end, report=report, **common)
    except KeyboardInterrupt:
        progress.close()
        parts = Path(f"{out}.parts")  # none before the first is finished, and with --as-published
        rest = f"; the same command continues after the last finished part in {parts}" if parts.exists() else ""
        typer.echo(f"latentsync: stopped{rest}", err=True)
        raise
    progress.close()
    typer.echo(f"{out}: {result.sentence}")


def _redraw_pairs(table: Path, outcomes: "Iterator[Outcome]", progress: "Printed") -> None:
    """Print what becomes of each row; exit status 1 if one failed."""
    from latentsync.generation.pairs import results_of

    n, n_failed = 0, 0
    try:
        for outcome in outcomes:
            progress.close()
            typer.echo(f"{outcome.out}: {outcome.says}")
            n, n_failed = n + 1, n_failed + (outcome.state == "failed")
    except KeyboardInterrupt:
        progress.close()
        typer.echo(f"latentsync: stopped after {n} rows; the same command continues behind them", err=True)
        raise
    if n_failed:
        raise ValueError(
            f"{n_failed} of {n} rows failed; {results_of(table)} says why, and the same command tries again."
        )


def _parts(weights: Path, vae: Path | None, faces: str, enhance: str | None, tiny_vae: bool) -> list[tuple[str, str]]:
    """The published parts that one call uses, each with the option that asks for it."""
    parts = [(str(weights), f"--weights {weights}")] if str(weights) in registry.entries() else []
    parts += [("vae", "generate without --vae")] if parts and vae is None else []
    parts += [(name, f"--faces {faces}") for name in BACKENDS[faces].weights]
    parts += [(enhance, f"--enhance {enhance}")] if enhance else []
    return parts + ([("taesd", "--tiny-vae")] if tiny_vae else [])
