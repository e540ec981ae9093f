"""The command line for people: lip-sync one video, tidy up a run. The workflow calls `latentsync.steps` instead."""

import fcntl
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from latentsync import required
from latentsync.cli import weights as cli_weights
from latentsync.config import FaceBackend
from latentsync.faces.backends import BACKENDS
from latentsync.weights import registry

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(cli_weights.app, name="weights")

RUN_FILES = {"unet": "train_unet_stage2/unet.safetensors", "vae": "train_vae/vae.safetensors"}  # of a run's folder
PUBLISHED_FILES = {"unet": "latentsync_unet.pt", "vae": "sd-vae-ft-mse"}  # of a folder of published weights


@app.callback()
def about() -> None:
    """LatentSync Studio: make the person in a video say other words."""


@app.command()
def generate(
    video: Annotated[Path, typer.Option(help="the picture; it is never changed")],
    audio: Annotated[Path, typer.Option(help="the speech: a sound file or a video")],
    out: Annotated[Path, typer.Option(help="the mp4 to write")],
    weights: Annotated[
        Path,
        typer.Option(
            help="results/<run> of the workflow, latentsync-1.5 or -1.6, a folder of published weights, a U-Net"
        ),
    ],
    vae: Annotated[Path | None, typer.Option(help="VAE, where it does not lie with the U-Net")] = None,
    whisper: Annotated[
        Path | None, typer.Option(help="Whisper's weights, where they do not lie in the weights folder")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="DDIM steps; more is slower and a little better")] = 20,
    guidance: Annotated[float, typer.Option(min=1, help="how strictly the sound is followed; 1 is fastest")] = 1.5,
    seed: Annotated[int, typer.Option(help="same seed, same video")] = 1247,
    length: Annotated[
        str, typer.Option(help="audio: picture loops or is cut; video: sound is padded or cut")
    ] = "audio",
    overlap: Annotated[int, typer.Option(min=0, max=15, help="frames over which windows are faded")] = 4,
    resolution: Annotated[
        int | None, typer.Option(help="256 or 512, for published weights that do not say which")
    ] = None,
    faces: Annotated[FaceBackend, typer.Option(help="detector and landmarks, as in training")] = "mediapipe",
    enhance: Annotated[str | None, typer.Option(help="face enhancement: gfpgan, codeformer or gpen")] = None,
    enhance_strength: Annotated[float, typer.Option(min=0, max=1, help="0: untouched, 1: fully enhanced")] = 0.8,
    enhance_weights: Annotated[Path | None, typer.Option(help="file of the restorer")] = None,
    high_quality: Annotated[bool, typer.Option("--high-quality", help="larger file, hardly any loss")] = False,
    preview: Annotated[bool, typer.Option("--preview", help="rough pictures, quickly (TAESD decodes)")] = False,
    commercial: Annotated[
        bool, typer.Option("--commercial", help="refuse parts whose licence does not allow commercial use")
    ] = False,
) -> None:
    """Lip-sync one video to speech."""
    from latentsync.config import Config, validate

    values: dict[str, Any] = {
        "generate": {"steps": steps, "guidance": guidance, "seed": seed, "length": length, "overlap": overlap},
        "enhance": {"method": enhance, "strength": enhance_strength},
    }
    values["generate"]["max_s"] = None  # who asks for one video wants all of it
    values["generate"]["crf"] = values["enhance"]["crf"] = 8 if high_quality else 13
    if enhance_weights is not None:
        values["enhance"]["weights"] = str(enhance_weights)
    cfg: Config = validate(values)
    if resolution is not None and (resolution <= 0 or resolution % 64):
        raise ValueError(f"--resolution is {resolution}, no multiple of 64; published U-Nets draw 256 or 512 px.")
    for what, path in (("video", video), ("audio", audio)):
        if not path.is_file():
            raise ValueError(f"--{what} {path} is not a file.")
    if commercial:
        required.require_commercial(_parts(weights, vae, faces, enhance, preview))
    unet, vae = find_weights(weights, vae)
    restorer_file = _restorer_file(cfg)
    tiny = registry.find("taesd", key="--preview") if preview else None
    if out.resolve() in (video.resolve(), audio.resolve()):
        raise ValueError(f"--out {out} is one of the inputs, which are never changed; give another name.")
    if out.suffix.lower() != ".mp4":
        raise ValueError(f"--out {out} does not end in .mp4, the one format that is written.")
    report = _generate(video, audio, out, unet, vae, whisper, resolution, faces, cfg, restorer_file, tiny)
    passed = ", ".join(f"{n} {reason}" for reason, n in report["passed_through"].items())
    kept = f"; left as they were: {passed}" if passed else ""
    typer.echo(f"{out}: {report['n_generated']} of {report['n_frames']} frames redrawn{kept}")


def _generate(
    video: Path,
    audio: Path,
    out: Path,
    unet: Path,
    vae: Path | None,
    whisper: Path | None,
    resolution: int | None,
    faces: str,
    cfg: Any,
    restorer_file: Path | None,
    preview: Path | None,
) -> dict[str, Any]:
    # One command among others on somebody's machine: threads that spin while they wait took minutes instead of seconds.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported
    from latentsync.faces.backends import open_detector
    from latentsync.generation.audio import sound_of
    from latentsync.generation.loading import load_models
    from latentsync.generation.pipeline import lip_sync
    from latentsync.generation.restore import enhance_video
    from latentsync.generation.speakers import track_video
    from latentsync.models.restorers import open_restorer

    own = video.resolve() == audio.resolve() and cfg.generate.length == "video"
    with _named("--audio", audio):
        sound = sound_of(audio, own)
    restore = open_restorer(cfg.enhance.method, restorer_file) if restorer_file else None
    models = load_models(unet, vae, resolution=resolution, whisper=whisper, preview=preview)
    if models.resolution < 256:
        _say(f"demonstration weights of {models.resolution} px a face: real mouths come out blurred and miscoloured")
    with open_detector(faces, 2) as detector, tempfile.TemporaryDirectory() as folder:
        _say("finding faces")
        with _named("--video", video):
            tracks = track_video(video, detector)
        _say("redrawing mouths")
        if restore is None:
            return lip_sync(video, sound, out, models, cfg.generate, tracks)
        between = Path(folder, "lossless.mp4")  # the restored video is encoded once
        report = lip_sync(video, sound, between, models, cfg.generate.model_copy(update={"crf": 0}), tracks)
        enhance_video(between, out, report["matrices"], models.resolution, restore, cfg.enhance, detector)
        return report


def _say(text: str) -> None:
    typer.echo(f"latentsync: {text}", err=True)


@contextmanager
def _named(option: str, path: Path) -> Iterator[None]:
    """Say which of the user's files a Rejection is about."""
    from latentsync.ledger.rows import Rejection

    try:
        yield
    except Rejection as verdict:
        raise ValueError(f"{option} {path} cannot be used: {verdict}") from None


def _parts(weights: Path, vae: Path | None, faces: str, enhance: str | None, preview: bool) -> list[tuple[str, str]]:
    """The published parts that one call of generate uses, each with the option that asks for it."""
    parts = [(str(weights), f"--weights {weights}")] if str(weights) in registry.entries() else []
    parts += [("vae", "generate without --vae")] if parts and vae is None else []
    parts += [(name, f"--faces {faces}") for name in BACKENDS[faces].weights]
    parts += [(enhance, f"--enhance {enhance}")] if enhance else []
    return parts + ([("taesd", "--preview")] if preview else [])


def _restorer_file(cfg: Any) -> Path | None:
    if cfg.enhance.method is None:
        return None
    return registry.find(cfg.enhance.method, cfg.enhance.weights, f"--enhance {cfg.enhance.method}")


def find_weights(weights: Path, vae: Path | None) -> tuple[Path, Path | None]:
    """U-Net and VAE (None: the published one of the weights folder) of what --weights names.

    Raises:
        ValueError: there is no U-Net, or the VAE that is named does not exist.
    """
    unet = weights
    if str(weights) in registry.entries() and not weights.exists():
        unet = registry.find(str(weights), key="generate --weights")
        found = registry.entry("vae").path
    elif weights.is_dir():
        places = [(weights / files["unet"], weights / files["vae"]) for files in (RUN_FILES, PUBLISHED_FILES)]
        unet, found = next((place for place in places if place[0].is_file()), (None, None))
        if unet is None:
            raise ValueError(
                f"--weights {weights} holds neither {RUN_FILES['unet']} (a run that trained to its end) nor "
                f"{PUBLISHED_FILES['unet']} (published weights)."
            )
    elif weights.is_file():
        folder = weights.absolute().parent
        of_run = folder.name.startswith("train_unet_")
        found = folder.parent / RUN_FILES["vae"] if of_run else folder / PUBLISHED_FILES["vae"]
    else:
        raise ValueError(
            f"--weights {weights} does not exist; give results/<run> of a finished run, a U-Net file, or a release "
            "such as latentsync-1.5 (`latentsync weights list`)."
        )
    if vae is not None and not vae.exists():
        raise ValueError(f"--vae {vae} does not exist.")
    return unet, vae or (found if found.exists() else None)


@app.command()
def clean(
    run: Annotated[Path, typer.Argument(help="results/<run>")],
    yes: Annotated[bool, typer.Option("--yes", help="delete; without it nothing is deleted")] = False,
) -> None:
    """List media that no ledger of a run names any more, and with --yes delete them. Sources are never touched."""
    superseded = superseded_media(run)
    size_mb = sum(path.stat().st_size for path in superseded) / 1e6
    for path in superseded:
        typer.echo(path)
        if yes:
            path.unlink()
    what = "deleted" if yes else "would be deleted; add --yes to delete them"
    typer.echo(f"{len(superseded)} files, {size_mb:.1f} MB, {what}" if superseded else "nothing is superseded")


def superseded_media(run: Path) -> list[Path]:
    """Files in results/<run>/<step>/media that no ledger names; steps whose ledgers are not all there are left alone.

    Raises:
        ValueError: this is no run, or a job is at work in it.
    """
    from latentsync.ledger.files import read_ledger

    if not (run / "sources").is_dir():
        raise ValueError(f"{run} is not the folder of a run: it has no sources/; give results/<run>.")
    journals = sorted(run.glob("*/journal/*.jsonl"))
    _require_idle(journals)
    ledgers = sorted(run.glob("*/*.jsonl"))
    named = {
        (run / value).resolve()
        for ledger in ledgers
        for row in read_ledger(ledger)
        for name, value in row.items()
        if name.endswith("_file") and isinstance(value, str)
    }
    found = []
    for media in sorted(run.glob("*/media")):
        finished = any(ledger.parent == media.parent for ledger in ledgers) and all(
            (media.parent / journal.name) in ledgers for journal in journals if journal.parent.parent == media.parent
        )
        if finished:
            found += [path for path in sorted(media.rglob("*")) if path.is_file() and path.resolve() not in named]
    return found


def _require_idle(journals: list[Path]) -> None:
    for journal in journals:
        with open(journal, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"A job of {journal.parent.parent.name} is at work; clean when it has ended."
                ) from None


def main() -> None:
    """Run the command line; a user's error is one sentence and exit status 1."""
    try:
        app()
    except (ValueError, OSError) as error:  # OSError: a full disk, a drive that dropped out
        print(f"latentsync: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
